//! What can be checked, and mended.

use async_trait::async_trait;
use maildrop::{
    Extent, MailboxId, PackId, TenantId,
    port::{Checks, IndexError, PackFacts, Pointers, WrongCounters},
};
use sqlx::AssertSqlSafe;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    Sqlite,
    maildrops::micros,
    manifests::{count, object},
};
use crate::{
    checks::{PackRow, PointersRow, extent, page, wrong_counters},
    error::index_error,
    reachability::{MOVING, held_by_bulletin, pointers, reachable},
    tables::MESSAGES,
};

const FACTS: &str = concat!(
    "SELECT p.pack_id, p.octets, ",
    reachable!("?1", "p.pack_id"),
    ", g.pack_id IS NOT NULL OR EXISTS (SELECT 1 FROM pack_garbage n WHERE n.tenant_id = ?1 AND n.pack_id = p.pack_id),
       coalesce(g.deleted_at IS NOT NULL, 0)
       FROM (SELECT pack_id, octets FROM packs WHERE tenant_id = ?1 AND pack_id > ?2 ORDER BY pack_id LIMIT ?3) p
       LEFT JOIN garbage_packs g ON g.tenant_id = ?1 AND g.pack_id = p.pack_id
      ORDER BY p.pack_id"
);

const POINTED: &str = "SELECT DISTINCT pack_id FROM (
        SELECT pack_id FROM messages WHERE tenant_id = ?1 AND pack_id > ?2 AND pack_id <= ?3
        UNION SELECT pack_id FROM deleted_messages WHERE tenant_id = ?1 AND pack_id > ?2 AND pack_id <= ?3) x
      WHERE NOT EXISTS (SELECT 1 FROM packs p WHERE p.tenant_id = ?1 AND p.pack_id = x.pack_id)
      ORDER BY pack_id LIMIT ?4";

const POINTERS: &str = concat!(
    "SELECT pack_offset, pack_length, digest, count(*), min(lower(hex(mailbox_id)) || '/' || uid) FROM (",
    pointers!("?1", "?2"),
    " UNION ALL SELECT pack_offset, pack_length, digest, zeroblob(16), 0 FROM bulletins
       WHERE tenant_id = ?1 AND pack_id = ?2 AND state IN ('rolling_out', 'active', 'withdrawing')) x
      GROUP BY pack_offset, pack_length, digest ORDER BY pack_offset"
);

#[async_trait]
impl Checks for Sqlite {
    async fn check_packs(
        &self,
        tenant: TenantId,
        after: Option<PackId>,
        limit: u32,
    ) -> Result<(Vec<PackFacts>, Option<PackId>), IndexError> {
        let after = after.map_or(Uuid::nil(), |pack| pack.as_uuid());
        let run = async {
            let mut tx = self.reader.begin().await?;
            let known: Vec<PackRow> = sqlx::query_as(FACTS)
                .bind(tenant.as_uuid())
                .bind(after)
                .bind(i64::from(limit))
                .fetch_all(&mut *tx)
                .await?;
            let full = known.len() >= limit as usize;
            let bound = known.last().filter(|_| full).map_or(Uuid::max(), |row| row.0);
            let pointed: Vec<Uuid> = sqlx::query_scalar(POINTED)
                .bind(tenant.as_uuid())
                .bind(after)
                .bind(bound)
                .bind(i64::from(limit))
                .fetch_all(&mut *tx)
                .await?;
            Ok(page(known, &pointed, limit))
        };
        run.await.map_err(index_error)
    }

    async fn check_pointers(&self, tenant: TenantId, pack: PackId) -> Result<Vec<Pointers>, IndexError> {
        let rows: Vec<PointersRow> = sqlx::query_as(POINTERS)
            .bind(tenant.as_uuid())
            .bind(pack.as_uuid())
            .fetch_all(&self.reader)
            .await
            .map_err(index_error)?;
        rows.into_iter().map(|row| row.of(pack)).collect()
    }

    async fn check_counters(
        &self,
        tenant: TenantId,
        after: Option<MailboxId>,
        limit: u32,
    ) -> Result<(Vec<WrongCounters>, Option<MailboxId>), IndexError> {
        let rows = sqlx::query_as(
            "SELECT b.mailbox_id, b.address, b.message_count,
                    (SELECT count(*) FROM messages m
                      WHERE m.tenant_id = ?1 AND m.mailbox_id = b.mailbox_id),
                    b.octets,
                    (SELECT coalesce(sum(m.octets), 0) FROM messages m
                      WHERE m.tenant_id = ?1 AND m.mailbox_id = b.mailbox_id),
                    b.next_uid,
                    max((SELECT coalesce(max(m.uid), 0) FROM messages m
                          WHERE m.tenant_id = ?1 AND m.mailbox_id = b.mailbox_id),
                        (SELECT coalesce(max(m.uid), 0) FROM deleted_messages m
                          WHERE m.tenant_id = ?1 AND m.mailbox_id = b.mailbox_id))
               FROM mailboxes b WHERE b.tenant_id = ?1 AND b.mailbox_id > ?2 ORDER BY b.mailbox_id LIMIT ?3",
        )
        .bind(tenant.as_uuid())
        .bind(after.map_or(Uuid::nil(), |mailbox| mailbox.as_uuid()))
        .bind(i64::from(limit))
        .fetch_all(&self.reader)
        .await
        .map_err(index_error)?;
        Ok(wrong_counters(rows, limit))
    }

    async fn check_usage(&self, tenant: TenantId) -> Result<[(i64, i64); 4], IndexError> {
        let row: (i64, i64, i64, i64, i64, i64, i64, i64) = sqlx::query_as(
            "SELECT u.mailboxes, b.mailboxes, u.messages, b.messages, u.octets, b.octets, u.allocated, b.allocated
               FROM (SELECT coalesce(sum(mailboxes), 0) AS mailboxes, coalesce(sum(messages), 0) AS messages,
                            coalesce(sum(octets), 0) AS octets, coalesce(sum(allocated_octets), 0) AS allocated
                       FROM tenant_usage WHERE tenant_id = ?1) u,
                    (SELECT count(*) AS mailboxes, coalesce(sum(message_count), 0) AS messages,
                            coalesce(sum(octets), 0) AS octets, coalesce(sum(quota_octets), 0) AS allocated
                       FROM mailboxes WHERE tenant_id = ?1) b",
        )
        .bind(tenant.as_uuid())
        .fetch_one(&self.reader)
        .await
        .map_err(index_error)?;
        Ok([(row.0, row.1), (row.2, row.3), (row.4, row.5), (row.6, row.7)])
    }

    async fn mend_counters(&self, tenant: TenantId, mailbox: MailboxId) -> Result<(), IndexError> {
        let run = async {
            let mut tx = self.writer.begin().await?;
            count(&mut tx, tenant, mailbox).await?;
            sqlx::query(
                "UPDATE mailboxes SET next_uid = max(next_uid,
                        (SELECT coalesce(max(uid), 0) + 1 FROM messages WHERE tenant_id = ?1 AND mailbox_id = ?2),
                        (SELECT coalesce(max(uid), 0) + 1 FROM deleted_messages
                          WHERE tenant_id = ?1 AND mailbox_id = ?2))
                  WHERE tenant_id = ?1 AND mailbox_id = ?2",
            )
            .bind(tenant.as_uuid())
            .bind(mailbox.as_uuid())
            .execute(&mut *tx)
            .await?;
            tx.commit().await
        };
        run.await.map_err(index_error)
    }

    async fn mend_usage(&self, tenant: TenantId) -> Result<(), IndexError> {
        sqlx::query(
            "INSERT INTO tenant_usage (tenant_id, mailboxes, messages, octets, allocated_octets)
             SELECT ?1, count(*), coalesce(sum(message_count), 0), coalesce(sum(octets), 0),
                    coalesce(sum(quota_octets), 0)
               FROM mailboxes WHERE tenant_id = ?1
                 ON CONFLICT (tenant_id) DO UPDATE
                SET mailboxes = excluded.mailboxes, messages = excluded.messages, octets = excluded.octets,
                    allocated_octets = excluded.allocated_octets",
        )
        .bind(tenant.as_uuid())
        .execute(&self.writer)
        .await
        .map_err(index_error)?;
        Ok(())
    }

    async fn quarantine(
        &self,
        tenant: TenantId,
        extent: Extent,
        why: &str,
        at: OffsetDateTime,
    ) -> Result<u64, IndexError> {
        let run = async {
            let mut tx = self.writer.begin().await?;
            let held: bool = sqlx::query_scalar(concat!("SELECT ", held_by_bulletin!("?1", "?2")))
                .bind(tenant.as_uuid())
                .bind(extent.pack.as_uuid())
                .fetch_one(&mut *tx)
                .await?;
            if held {
                return Ok(0);
            }
            let mailboxes: Vec<Uuid> = sqlx::query_scalar(
                "SELECT mailbox_id FROM messages WHERE tenant_id = ? AND pack_id = ? AND pack_offset = ?",
            )
            .bind(tenant.as_uuid())
            .bind(extent.pack.as_uuid())
            .bind(extent.offset as i64)
            .fetch_all(&mut *tx)
            .await?;
            let mut moved = 0;
            for table in MOVING {
                let row = object(&MESSAGES);
                let sql = format!(
                    "INSERT INTO message_quarantine (tenant_id, mailbox_id, uid, row_was, why, at)
                     SELECT tenant_id, mailbox_id, uid, {row}, ?4, ?5 FROM {table}
                      WHERE tenant_id = ?1 AND pack_id = ?2 AND pack_offset = ?3"
                );
                moved += sqlx::query(AssertSqlSafe(sql))
                    .bind(tenant.as_uuid())
                    .bind(extent.pack.as_uuid())
                    .bind(extent.offset as i64)
                    .bind(why)
                    .bind(micros(at))
                    .execute(&mut *tx)
                    .await?
                    .rows_affected();
                let sql =
                    format!("DELETE FROM {table} WHERE tenant_id = ?1 AND pack_id = ?2 AND pack_offset = ?3");
                sqlx::query(AssertSqlSafe(sql))
                    .bind(tenant.as_uuid())
                    .bind(extent.pack.as_uuid())
                    .bind(extent.offset as i64)
                    .execute(&mut *tx)
                    .await?;
            }
            if moved == 0 {
                return Ok(0);
            }
            for mailbox in mailboxes {
                count(&mut tx, tenant, MailboxId::from_uuid(mailbox)).await?;
            }
            tx.commit().await?;
            Ok(moved)
        };
        run.await.map_err(index_error)
    }

    async fn quarantined(&self, tenant: TenantId, pack: PackId) -> Result<Vec<Extent>, IndexError> {
        let rows: Vec<(i64, i64)> = sqlx::query_as(
            "SELECT DISTINCT CAST(row_was->>'pack_offset' AS integer) AS first,
                    CAST(row_was->>'pack_length' AS integer)
               FROM message_quarantine WHERE tenant_id = ?1 AND pack_id = ?2 ORDER BY first",
        )
        .bind(tenant.as_uuid())
        .bind(pack.as_uuid())
        .fetch_all(&self.reader)
        .await
        .map_err(index_error)?;
        Ok(rows.into_iter().map(|row| extent(pack, row)).collect())
    }

    async fn all_tenants_packs(
        &self,
        after: (TenantId, PackId),
        limit: u32,
    ) -> Result<Vec<(TenantId, PackId)>, IndexError> {
        let rows: Vec<(Uuid, Uuid)> = sqlx::query_as(
            "SELECT p.tenant_id, p.pack_id FROM packs p
               JOIN tenants t ON t.tenant_id = p.tenant_id AND t.state <> 'deleting'
              WHERE (p.tenant_id, p.pack_id) > (?, ?)
                AND NOT EXISTS (SELECT 1 FROM garbage_packs g
                                 WHERE g.tenant_id = p.tenant_id AND g.pack_id = p.pack_id
                                   AND g.dead_at IS NOT NULL)
              ORDER BY p.tenant_id, p.pack_id LIMIT ?",
        )
        .bind(after.0.as_uuid())
        .bind(after.1.as_uuid())
        .bind(i64::from(limit))
        .fetch_all(&self.reader)
        .await
        .map_err(index_error)?;
        Ok(rows.into_iter().map(|(t, p)| (TenantId::from_uuid(t), PackId::from_uuid(p))).collect())
    }
}
