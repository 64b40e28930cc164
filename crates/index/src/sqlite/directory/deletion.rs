//! The deletion of tenants and of mailboxes, in steps.

use maildrop::{
    Actor, MailboxId, State, Tenant, TenantId,
    port::{IndexError, TenantDeletion},
};
use sqlx::{AssertSqlSafe, SqliteConnection};
use time::OffsetDateTime;
use uuid::Uuid;

use super::undecodable;
use crate::{
    error::index_error,
    rows::{DeletionRow, TenantRow, tenant_columns},
    sqlite::{
        Sqlite,
        audit::{Audit, NOTHING},
        maildrops::micros,
    },
};

/// What a tenant's rows are in, in the order in which they are deleted, with the columns that name one row.
const TENANT_ROWS: [(&str, &str); 12] = [
    ("mailboxes", "mailbox_id"),
    ("aliases", "address"),
    ("app_passwords", "mailbox_id, credential_id"),
    ("mailbox_deletions", "mailbox_id"),
    ("messages", "mailbox_id, uid"),
    ("deleted_messages", "mailbox_id, uid"),
    ("bulletins", "bulletin_id"),
    ("pack_garbage", "rowid"),
    ("pack_refusals", "pack_id, mailbox_id, pack_offset"),
    ("garbage_packs", "pack_id"),
    ("packs", "pack_id"),
    ("traffic", "day, mailbox_id"),
];

/// Deletes up to `?3` rows of a mailbox.
const MAILBOX_ROWS: [&str; 2] = [
    "DELETE FROM messages WHERE tenant_id = ?1 AND mailbox_id = ?2 AND uid IN
     (SELECT uid FROM messages WHERE tenant_id = ?1 AND mailbox_id = ?2 LIMIT ?3)
     RETURNING pack_id, pack_length",
    "DELETE FROM deleted_messages WHERE tenant_id = ?1 AND mailbox_id = ?2 AND uid IN
     (SELECT uid FROM deleted_messages WHERE tenant_id = ?1 AND mailbox_id = ?2 LIMIT ?3)
     RETURNING pack_id, pack_length",
];

impl Sqlite {
    pub(super) async fn begin_tenant_deletion(
        &self,
        tenant: TenantId,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<bool, IndexError> {
        let run = async {
            let mut tx = self.writer.begin().await?;
            let row: Option<TenantRow> =
                sqlx::query_as(concat!("SELECT ", tenant_columns!(), " FROM tenants WHERE tenant_id = ?"))
                    .bind(tenant.as_uuid())
                    .fetch_optional(&mut *tx)
                    .await?;
            let Some(row) = row else { return Ok(false) };
            let before = Tenant::try_from(row).map_err(undecodable)?;
            if before.state == State::Deleting {
                return Ok(true);
            }
            for statement in [
                // The key first: what is left of the tenant's mail is noise.
                "UPDATE tenants SET state = 'deleting', revision = revision + 1, data_key = x'' WHERE tenant_id = ?",
                "DELETE FROM certificates WHERE tenant_id = ?",
                "DELETE FROM api_keys WHERE tenant_id = ?",
                "DELETE FROM domains WHERE tenant_id = ?",
            ] {
                sqlx::query(statement).bind(tenant.as_uuid()).execute(&mut *tx).await?;
            }
            sqlx::query(
                "INSERT INTO tenant_deletions (tenant_id, name, begun_at) VALUES (?, ?, ?)
                 ON CONFLICT DO NOTHING",
            )
            .bind(tenant.as_uuid())
            .bind(before.name.as_str())
            .bind(micros(at))
            .execute(&mut *tx)
            .await?;
            Audit { tenant: Some(tenant), actor, at, action: "tenant.delete", target: before.name.as_str() }
                .write(&mut tx, Some(&before), NOTHING)
                .await?;
            tx.commit().await?;
            Ok::<_, sqlx::Error>(true)
        };
        let begun = run.await.map_err(index_error)?;
        if begun {
            self.locks.end(tenant, None);
        }
        Ok(begun)
    }

    pub(super) async fn continue_tenant_deletion(
        &self,
        tenant: TenantId,
        limit: u32,
        objects: u64,
    ) -> Result<Option<TenantDeletion>, IndexError> {
        let run = async {
            let mut tx = self.writer.begin().await?;
            let (mut left, mut deleted) = (i64::from(limit), 0_i64);
            for (table, key) in TENANT_ROWS {
                if left == 0 {
                    break;
                }
                let sql = format!(
                    "DELETE FROM {table} WHERE tenant_id = ?1 AND ({key}) IN
                     (SELECT {key} FROM {table} WHERE tenant_id = ?1 LIMIT ?2)
                     AND EXISTS (SELECT 1 FROM tenant_deletions d
                                  WHERE d.tenant_id = ?1 AND d.finished_at IS NULL)"
                );
                let gone = sqlx::query(AssertSqlSafe(sql))
                    .bind(tenant.as_uuid())
                    .bind(left)
                    .execute(&mut *tx)
                    .await?
                    .rows_affected() as i64;
                deleted += gone;
                left -= gone.min(left);
            }
            let row: Option<DeletionRow> = sqlx::query_as(
                "UPDATE tenant_deletions
                    SET rows_deleted = rows_deleted + ?2, rows_left = ?3, objects_deleted = objects_deleted + ?4
                  WHERE tenant_id = ?1 AND finished_at IS NULL
              RETURNING tenant_id, name, rows_deleted, rows_left, objects_deleted, begun_at, finished_at",
            )
            .bind(tenant.as_uuid())
            .bind(deleted)
            .bind(left == 0)
            .bind(objects as i64)
            .fetch_optional(&mut *tx)
            .await?;
            tx.commit().await?;
            Ok::<_, sqlx::Error>(row)
        };
        run.await.map_err(index_error)?.map(TryInto::try_into).transpose()
    }

    pub(super) async fn finish_tenant_deletion(
        &self,
        tenant: TenantId,
        at: OffsetDateTime,
    ) -> Result<(), IndexError> {
        let run = async {
            let mut tx = self.writer.begin().await?;
            for statement in [
                "DELETE FROM packs WHERE tenant_id = ?",
                "DELETE FROM pack_refusals WHERE tenant_id = ?",
                "DELETE FROM pack_garbage WHERE tenant_id = ?",
                "DELETE FROM garbage_packs WHERE tenant_id = ?",
                "DELETE FROM pack_sweeps WHERE tenant_id = ?",
                "DELETE FROM tenant_usage WHERE tenant_id = ?",
                "DELETE FROM kept_usage WHERE tenant_id = ?",
                // What was made in the moment the deletion began.
                "DELETE FROM certificates WHERE tenant_id = ?",
                "DELETE FROM api_keys WHERE tenant_id = ?",
                "DELETE FROM domains WHERE tenant_id = ?",
                "DELETE FROM manifest_rounds WHERE tenant_id = ?",
                "DELETE FROM tenant_key_changes WHERE tenant_id = ?",
                "DELETE FROM message_quarantine WHERE tenant_id = ?",
                "DELETE FROM manifest_notes WHERE tenant_id = ?",
                "DELETE FROM rewritings WHERE tenant_id = ?",
                "DELETE FROM tenants WHERE tenant_id = ? AND state = 'deleting'",
            ] {
                sqlx::query(statement).bind(tenant.as_uuid()).execute(&mut *tx).await?;
            }
            sqlx::query(
                "UPDATE tenant_deletions SET finished_at = ?2, rows_left = 0
                  WHERE tenant_id = ?1 AND finished_at IS NULL",
            )
            .bind(tenant.as_uuid())
            .bind(micros(at))
            .execute(&mut *tx)
            .await?;
            tx.commit().await
        };
        run.await.map_err(index_error)
    }

    pub(super) async fn all_tenants_deletions(&self, limit: u32) -> Result<Vec<TenantDeletion>, IndexError> {
        let rows: Vec<DeletionRow> = sqlx::query_as(
            "SELECT tenant_id, name, rows_deleted, rows_left, objects_deleted, begun_at, finished_at
               FROM tenant_deletions WHERE finished_at IS NULL ORDER BY begun_at LIMIT ?",
        )
        .bind(i64::from(limit))
        .fetch_all(&self.reader)
        .await
        .map_err(index_error)?;
        rows.into_iter().map(TryInto::try_into).collect()
    }

    pub(super) async fn all_tenants_list_deletions(
        &self,
        after: Option<TenantId>,
        limit: u32,
    ) -> Result<Vec<TenantDeletion>, IndexError> {
        let rows: Vec<DeletionRow> = sqlx::query_as(
            "SELECT tenant_id, name, rows_deleted, rows_left, objects_deleted, begun_at, finished_at
               FROM tenant_deletions
              WHERE (finished_at IS NULL OR finished_at > ?1)
                AND (?3 IS NULL OR (begun_at, tenant_id)
                     < (SELECT d.begun_at, d.tenant_id FROM tenant_deletions d WHERE d.tenant_id = ?3))
              ORDER BY begun_at DESC, tenant_id DESC LIMIT ?2",
        )
        .bind(micros(OffsetDateTime::now_utc() - time::Duration::days(30)))
        .bind(i64::from(limit))
        .bind(after.map(|tenant| tenant.as_uuid()))
        .fetch_all(&self.reader)
        .await
        .map_err(index_error)?;
        rows.into_iter().map(TryInto::try_into).collect()
    }

    pub(super) async fn all_tenants_forget_deletions(
        &self,
        before: OffsetDateTime,
        limit: u32,
    ) -> Result<u64, IndexError> {
        let gone = sqlx::query(
            "DELETE FROM tenant_deletions WHERE tenant_id IN
             (SELECT tenant_id FROM tenant_deletions WHERE finished_at < ?1 LIMIT ?2)",
        )
        .bind(micros(before))
        .bind(i64::from(limit))
        .execute(&self.writer)
        .await
        .map_err(index_error)?;
        Ok(gone.rows_affected())
    }

    pub(super) async fn all_tenants_mailbox_deletions(
        &self,
        limit: u32,
    ) -> Result<Vec<(TenantId, MailboxId)>, IndexError> {
        let rows: Vec<(Uuid, Uuid)> =
            sqlx::query_as("SELECT tenant_id, mailbox_id FROM mailbox_deletions ORDER BY begun_at LIMIT ?")
                .bind(i64::from(limit))
                .fetch_all(&self.reader)
                .await
                .map_err(index_error)?;
        let ids = |(tenant, mailbox)| (TenantId::from_uuid(tenant), MailboxId::from_uuid(mailbox));
        Ok(rows.into_iter().map(ids).collect())
    }

    pub(super) async fn continue_mailbox_deletion(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        limit: u32,
    ) -> Result<bool, IndexError> {
        let run = async {
            let mut tx = self.writer.begin().await?;
            // Of a mailbox that was deleted, and of none that is there.
            let under_way: Option<i64> =
                sqlx::query_scalar("SELECT 1 FROM mailbox_deletions WHERE tenant_id = ? AND mailbox_id = ?")
                    .bind(tenant.as_uuid())
                    .bind(mailbox.as_uuid())
                    .fetch_optional(&mut *tx)
                    .await?;
            if under_way.is_none() {
                return Ok(false);
            }
            let mut left = i64::from(limit);
            for statement in MAILBOX_ROWS {
                let gone: Vec<(Uuid, i64)> = sqlx::query_as(statement)
                    .bind(tenant.as_uuid())
                    .bind(mailbox.as_uuid())
                    .bind(left)
                    .fetch_all(&mut *tx)
                    .await?;
                left -= gone.len() as i64;
                to_garbage(&mut tx, tenant, &gone).await?;
            }
            if left > 0 {
                sqlx::query("DELETE FROM mailbox_deletions WHERE tenant_id = ? AND mailbox_id = ?")
                    .bind(tenant.as_uuid())
                    .bind(mailbox.as_uuid())
                    .execute(&mut *tx)
                    .await?;
            }
            tx.commit().await?;
            Ok(left <= 0)
        };
        run.await.map_err(index_error)
    }
}

/// Notes octets of packs that nothing points at any more.
async fn to_garbage(
    connection: &mut SqliteConnection,
    tenant: TenantId,
    gone: &[(Uuid, i64)],
) -> Result<(), sqlx::Error> {
    let now = micros(OffsetDateTime::now_utc());
    for (pack, length) in gone {
        sqlx::query("INSERT INTO pack_garbage (tenant_id, pack_id, octets, at) VALUES (?, ?, ?, ?)")
            .bind(tenant.as_uuid())
            .bind(pack)
            .bind(length)
            .bind(now)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}
