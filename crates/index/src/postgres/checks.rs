//! What can be checked, and mended.

use async_trait::async_trait;
use maildrop::{
    Extent, MailboxId, PackId, TenantId,
    port::{Checks, IndexError, PackFacts, Pointers, WrongCounters},
};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Postgres, garbage::BY_INDEX_SQL, manifests};
use crate::{
    checks::{PackRow, PointersRow, extent, page},
    error::undecodable,
    reachability::{pointers, reachable},
};

/// Of a mailbox: messages, octets, next uid; noted, and as they are.
type CountersRow = (Uuid, String, i64, i64, i64, i64, i64, i64);
type UsageRow = (i64, i64, i64, i64, i64, i64, i64, i64);

const FACTS: &str = concat!(
    "SELECT p.pack_id, p.octets, ",
    reachable!("$1", "p.pack_id"),
    ", g.pack_id IS NOT NULL OR EXISTS (SELECT FROM pack_garbage n WHERE n.tenant_id = $1 AND n.pack_id = p.pack_id),
       coalesce(g.deleted_at IS NOT NULL, false)
       FROM (SELECT pack_id, octets FROM packs WHERE tenant_id = $1 AND pack_id > $2 ORDER BY pack_id LIMIT $3) p
       LEFT JOIN garbage_packs g ON g.tenant_id = $1 AND g.pack_id = p.pack_id
      ORDER BY p.pack_id"
);

const POINTED: &str = "SELECT DISTINCT pack_id FROM (
        SELECT pack_id FROM messages WHERE tenant_id = $1 AND pack_id > $2 AND pack_id <= $3
        UNION SELECT pack_id FROM deleted_messages WHERE tenant_id = $1 AND pack_id > $2 AND pack_id <= $3) x
      WHERE NOT EXISTS (SELECT FROM packs p WHERE p.tenant_id = $1 AND p.pack_id = x.pack_id)
      ORDER BY pack_id LIMIT $4";

const POINTERS: &str = concat!(
    "SELECT pack_offset, pack_length, digest, count(*), min(mailbox_id::text || '/' || uid) FROM (",
    pointers!("$1", "$2"),
    " UNION ALL SELECT pack_offset, pack_length, digest, '00000000-0000-0000-0000-000000000000', 0 FROM bulletins
       WHERE tenant_id = $1 AND pack_id = $2 AND state IN ('rolling_out', 'active', 'withdrawing')) x
      GROUP BY pack_offset, pack_length, digest ORDER BY pack_offset"
);

#[async_trait]
impl Checks for Postgres {
    async fn check_packs(
        &self,
        tenant: TenantId,
        after: Option<PackId>,
        limit: u32,
    ) -> Result<(Vec<PackFacts>, Option<PackId>), IndexError> {
        let after = after.map_or(Uuid::nil(), |pack| pack.as_uuid());
        self.repeatable(|| async {
            let mut tx = self.scoped(tenant).await?;
            sqlx::query(BY_INDEX_SQL).execute(&mut *tx).await?;
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
        })
        .await
    }

    async fn check_pointers(&self, tenant: TenantId, pack: PackId) -> Result<Vec<Pointers>, IndexError> {
        self.repeatable(|| async {
            let mut tx = self.scoped(tenant).await?;
            sqlx::query(BY_INDEX_SQL).execute(&mut *tx).await?;
            let rows: Vec<PointersRow> = sqlx::query_as(POINTERS)
                .bind(tenant.as_uuid())
                .bind(pack.as_uuid())
                .fetch_all(&mut *tx)
                .await?;
            rows.into_iter().map(|row| row.of(pack).map_err(undecodable)).collect()
        })
        .await
    }

    async fn check_counters(
        &self,
        tenant: TenantId,
        after: Option<MailboxId>,
        limit: u32,
    ) -> Result<(Vec<WrongCounters>, Option<MailboxId>), IndexError> {
        let rows: Vec<CountersRow> = self
            .repeatable(|| async {
                let mut tx = self.scoped(tenant).await?;
                sqlx::query_as(
                    "SELECT b.mailbox_id, b.address, b.message_count, c.messages, b.octets, c.octets, b.next_uid,
                            greatest(c.uid, d.uid, 0)
                       FROM (SELECT * FROM mailboxes WHERE tenant_id = $1 AND mailbox_id > $2
                              ORDER BY mailbox_id LIMIT $3) b
                      CROSS JOIN LATERAL (
                            SELECT count(*) AS messages, coalesce(sum(m.octets), 0)::bigint AS octets,
                                   max(m.uid) AS uid
                              FROM messages m WHERE m.tenant_id = $1 AND m.mailbox_id = b.mailbox_id) c
                      CROSS JOIN LATERAL (
                            SELECT max(m.uid) AS uid
                              FROM deleted_messages m WHERE m.tenant_id = $1 AND m.mailbox_id = b.mailbox_id) d
                      ORDER BY b.mailbox_id",
                )
                .bind(tenant.as_uuid())
                .bind(after.map_or(Uuid::nil(), |mailbox| mailbox.as_uuid()))
                .bind(i64::from(limit))
                .fetch_all(&mut *tx)
                .await
            })
            .await?;
        Ok(crate::checks::wrong_counters(rows, limit))
    }

    async fn check_usage(&self, tenant: TenantId) -> Result<[(i64, i64); 4], IndexError> {
        let row: UsageRow = self
            .repeatable(|| async {
                let mut tx = self.scoped(tenant).await?;
                sqlx::query_as(
                    "SELECT u.mailboxes, b.mailboxes, u.messages, b.messages, u.octets, b.octets, u.allocated, b.allocated
                       FROM (SELECT coalesce(sum(mailboxes), 0)::bigint AS mailboxes,
                                    coalesce(sum(messages), 0)::bigint AS messages,
                                    coalesce(sum(octets), 0)::bigint AS octets,
                                    coalesce(sum(allocated_octets), 0)::bigint AS allocated
                               FROM tenant_usage WHERE tenant_id = $1) u,
                            (SELECT count(*) AS mailboxes, coalesce(sum(message_count), 0)::bigint AS messages,
                                    coalesce(sum(octets), 0)::bigint AS octets,
                                    coalesce(sum(quota_octets), 0)::bigint AS allocated
                               FROM mailboxes WHERE tenant_id = $1) b",
                )
                .bind(tenant.as_uuid())
                .fetch_one(&mut *tx)
                .await
            })
            .await?;
        Ok([(row.0, row.1), (row.2, row.3), (row.4, row.5), (row.6, row.7)])
    }

    async fn mend_counters(&self, tenant: TenantId, mailbox: MailboxId) -> Result<(), IndexError> {
        self.repeatable(|| async {
            let mut tx = self.scoped(tenant).await?;
            if !manifests::lock(&mut tx, tenant, mailbox).await? {
                return Ok(());
            }
            manifests::count(&mut tx, tenant, mailbox).await?;
            sqlx::query(
                "UPDATE mailboxes b SET next_uid = x.uid + 1
                   FROM (SELECT greatest((SELECT max(uid) FROM messages
                                           WHERE tenant_id = $1 AND mailbox_id = $2),
                                         (SELECT max(uid) FROM deleted_messages
                                           WHERE tenant_id = $1 AND mailbox_id = $2), 0) AS uid) x
                  WHERE b.tenant_id = $1 AND b.mailbox_id = $2 AND b.next_uid <= x.uid",
            )
            .bind(tenant.as_uuid())
            .bind(mailbox.as_uuid())
            .execute(&mut *tx)
            .await?;
            tx.commit().await
        })
        .await
    }

    async fn mend_usage(&self, tenant: TenantId) -> Result<(), IndexError> {
        self.repeatable(|| async {
            let mut tx = self.scoped(tenant).await?;
            // Whoever changes a mailbox changes its slot after it: with all slots held, what is not counted here yet will be
            // added by them.
            for sql in [
                "INSERT INTO tenant_usage (tenant_id, slot, mailboxes, messages, octets, allocated_octets)
                 SELECT $1, slot, 0, 0, 0, 0 FROM generate_series(0, 15) slot ORDER BY slot
                     ON CONFLICT DO NOTHING",
                "SELECT FROM tenant_usage WHERE tenant_id = $1 ORDER BY slot FOR UPDATE",
                "UPDATE tenant_usage u
                    SET mailboxes = x.mailboxes, messages = x.messages, octets = x.octets,
                        allocated_octets = x.allocated
                   FROM (SELECT s.slot, count(b.mailbox_id) AS mailboxes,
                                coalesce(sum(b.message_count), 0)::bigint AS messages,
                                coalesce(sum(b.octets), 0)::bigint AS octets,
                                coalesce(sum(b.quota_octets), 0)::bigint AS allocated
                           FROM generate_series(0, 15) s (slot)
                           LEFT JOIN mailboxes b
                             ON b.tenant_id = $1 AND uuid_hash(b.mailbox_id) & 15 = s.slot
                          GROUP BY s.slot) x
                  WHERE u.tenant_id = $1 AND u.slot = x.slot",
            ] {
                sqlx::query(sql).bind(tenant.as_uuid()).execute(&mut *tx).await?;
            }
            tx.commit().await
        })
        .await
    }

    async fn quarantine(
        &self,
        tenant: TenantId,
        extent: Extent,
        why: &str,
        at: OffsetDateTime,
    ) -> Result<u64, IndexError> {
        self.once(|| async {
            let mut tx = self.scoped(tenant).await?;
            let held: bool =
                sqlx::query_scalar(concat!("SELECT ", crate::reachability::held_by_bulletin!("$1", "$2")))
                    .bind(tenant.as_uuid())
                    .bind(extent.pack.as_uuid())
                    .fetch_one(&mut *tx)
                    .await?;
            if held {
                return Ok(0);
            }
            // As deliveries do: mailboxes first, in their order.
            let mailboxes: Vec<Uuid> = sqlx::query_scalar(
                "SELECT mailbox_id FROM mailboxes WHERE tenant_id = $1 AND mailbox_id IN (
                        SELECT mailbox_id FROM messages
                         WHERE tenant_id = $1 AND pack_id = $2 AND pack_offset = $3)
                  ORDER BY mailbox_id FOR NO KEY UPDATE",
            )
            .bind(tenant.as_uuid())
            .bind(extent.pack.as_uuid())
            .bind(extent.offset as i64)
            .fetch_all(&mut *tx)
            .await?;
            let mut moved = 0;
            for sql in [
                "WITH gone AS (DELETE FROM messages
                                WHERE tenant_id = $1 AND pack_id = $2 AND pack_offset = $3 RETURNING *)
                 INSERT INTO message_quarantine (tenant_id, mailbox_id, uid, row_was, why, at)
                 SELECT tenant_id, mailbox_id, uid, to_jsonb(gone), $4, $5 FROM gone",
                "WITH gone AS (DELETE FROM deleted_messages
                                WHERE tenant_id = $1 AND pack_id = $2 AND pack_offset = $3 RETURNING *)
                 INSERT INTO message_quarantine (tenant_id, mailbox_id, uid, row_was, why, at)
                 SELECT tenant_id, mailbox_id, uid, to_jsonb(gone), $4, $5 FROM gone",
            ] {
                moved += sqlx::query(sql)
                    .bind(tenant.as_uuid())
                    .bind(extent.pack.as_uuid())
                    .bind(extent.offset as i64)
                    .bind(why)
                    .bind(at)
                    .execute(&mut *tx)
                    .await?
                    .rows_affected();
            }
            if moved == 0 {
                return Ok(0);
            }
            for mailbox in mailboxes {
                manifests::count(&mut tx, tenant, MailboxId::from_uuid(mailbox)).await?;
            }
            tx.commit().await?;
            Ok(moved)
        })
        .await
    }

    async fn quarantined(&self, tenant: TenantId, pack: PackId) -> Result<Vec<Extent>, IndexError> {
        let rows: Vec<(i64, i64)> = self
            .repeatable(|| async {
                let mut tx = self.scoped(tenant).await?;
                sqlx::query_as(
                    "SELECT DISTINCT (row_was->>'pack_offset')::bigint AS first, (row_was->>'pack_length')::bigint
                       FROM message_quarantine WHERE tenant_id = $1 AND pack_id = $2 ORDER BY first",
                )
                .bind(tenant.as_uuid())
                .bind(pack.as_uuid())
                .fetch_all(&mut *tx)
                .await
            })
            .await?;
        Ok(rows.into_iter().map(|row| extent(pack, row)).collect())
    }

    async fn all_tenants_packs(
        &self,
        after: (TenantId, PackId),
        limit: u32,
    ) -> Result<Vec<(TenantId, PackId)>, IndexError> {
        let rows: Vec<(Uuid, Uuid)> = self
            .repeatable(|| {
                sqlx::query_as(
                    "SELECT p.tenant_id, p.pack_id FROM packs p
                       JOIN tenants t ON t.tenant_id = p.tenant_id AND t.state <> 'deleting'
                      WHERE (p.tenant_id, p.pack_id) > ($1, $2)
                        AND NOT EXISTS (SELECT FROM garbage_packs g
                                         WHERE g.tenant_id = p.tenant_id AND g.pack_id = p.pack_id
                                           AND g.dead_at IS NOT NULL)
                      ORDER BY p.tenant_id, p.pack_id LIMIT $3",
                )
                .bind(after.0.as_uuid())
                .bind(after.1.as_uuid())
                .bind(i64::from(limit))
                .fetch_all(&self.pool)
            })
            .await?;
        Ok(rows.into_iter().map(|(t, p)| (TenantId::from_uuid(t), PackId::from_uuid(p))).collect())
    }
}
