//! The deletion of tenants and of mailboxes, in steps.

use maildrop::{
    Actor, MailboxId, State, Tenant, TenantId,
    port::{IndexError, TenantDeletion},
};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{end_sessions, undecodable};
use crate::{
    postgres::{
        DELETION_TIMEOUT, Postgres,
        scoped::{Audit, json},
    },
    rows::{DeletionRow, TenantRow, tenant_columns},
};

/// What a tenant's rows are in, in the order in which they are deleted, with the columns that name one row.
const TENANT_ROWS: [(&str, &str); 12] = [
    ("mailboxes", "mailbox_id"),
    ("mailbox_deletions", "mailbox_id"),
    ("messages", "mailbox_id, uid"),
    ("deleted_messages", "mailbox_id, uid"),
    ("bulletins", "bulletin_id"),
    ("pack_garbage", "ctid"),
    ("pack_refusals", "pack_id, mailbox_id, pack_offset"),
    ("garbage_packs", "pack_id"),
    ("packs", "pack_id"),
    ("traffic", "day, mailbox_id"),
    ("login_times", "mailbox_id"),
    ("maildrop_locks", "mailbox_id"),
];

/// Deletes up to `$3` rows of a mailbox. What they point at is garbage.
const MAILBOX_ROWS: [&str; 2] = [
    "WITH gone AS (DELETE FROM messages
                    WHERE tenant_id = $1 AND mailbox_id = $2 AND uid IN
                          (SELECT uid FROM messages WHERE tenant_id = $1 AND mailbox_id = $2 LIMIT $3)
                RETURNING pack_id, pack_length),
          garbage AS (INSERT INTO pack_garbage (tenant_id, pack_id, octets)
                      SELECT $1, pack_id, sum(pack_length) FROM gone GROUP BY pack_id)
     SELECT count(*) FROM gone",
    "WITH gone AS (DELETE FROM deleted_messages
                    WHERE tenant_id = $1 AND mailbox_id = $2 AND uid IN
                          (SELECT uid FROM deleted_messages WHERE tenant_id = $1 AND mailbox_id = $2 LIMIT $3)
                RETURNING pack_id, pack_length),
          garbage AS (INSERT INTO pack_garbage (tenant_id, pack_id, octets)
                      SELECT $1, pack_id, sum(pack_length) FROM gone GROUP BY pack_id)
     SELECT count(*) FROM gone",
];

impl Postgres {
    pub(super) async fn begin_tenant_deletion(
        &self,
        tenant: TenantId,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<bool, IndexError> {
        self.once(|| async {
            let mut tx = self.scoped(tenant).await?;
            let row: Option<TenantRow> = sqlx::query_as(concat!(
                "SELECT ",
                tenant_columns!(),
                " FROM tenants WHERE tenant_id = $1 FOR UPDATE"
            ))
            .bind(tenant.as_uuid())
            .fetch_optional(&mut *tx)
            .await?;
            let Some(row) = row else { return Ok(false) };
            let before = Tenant::try_from(row).map_err(undecodable)?;
            if before.state == State::Deleting {
                return Ok(true);
            }
            // The key first: what is left of the tenant's mail, here or in a backup of the bucket, is noise.
            sqlx::query(
                "UPDATE tenants SET state = 'deleting', revision = revision + 1, data_key = '' WHERE tenant_id = $1",
            )
            .bind(tenant.as_uuid())
            .execute(&mut *tx)
            .await?;
            for statement in [
                "DELETE FROM certificates WHERE tenant_id = $1",
                "DELETE FROM api_keys WHERE tenant_id = $1",
                // Alias domains before those they stand for.
                "DELETE FROM domains WHERE tenant_id = $1 AND alias_of IS NOT NULL",
                "DELETE FROM domains WHERE tenant_id = $1",
            ] {
                sqlx::query(statement).bind(tenant.as_uuid()).execute(&mut *tx).await?;
            }
            end_sessions(&mut tx, tenant, None).await?;
            sqlx::query(
                "INSERT INTO tenant_deletions (tenant_id, name, begun_at) VALUES ($1, $2, $3)
                 ON CONFLICT DO NOTHING",
            )
            .bind(tenant.as_uuid())
            .bind(before.name.as_str())
            .bind(at)
            .execute(&mut *tx)
            .await?;
            Audit {
                tenant: Some(tenant),
                actor,
                at,
                action: "tenant.delete",
                target: before.name.as_str(),
                before: json(&before)?,
                after: None,
            }
            .write(&mut tx)
            .await?;
            tx.commit().await?;
            Ok(true)
        })
        .await
    }

    pub(super) async fn continue_tenant_deletion(
        &self,
        tenant: TenantId,
        limit: u32,
        objects: u64,
    ) -> Result<Option<TenantDeletion>, IndexError> {
        let row: Option<DeletionRow> = self
            .once(|| async {
                let mut tx = self.scoped(tenant).await?;
                let under_way: Option<i32> = sqlx::query_scalar(
                    "SELECT 1 FROM tenant_deletions
                      WHERE tenant_id = $1 AND finished_at IS NULL FOR UPDATE",
                )
                .bind(tenant.as_uuid())
                .fetch_optional(&mut *tx)
                .await?;
                if under_way.is_none() {
                    return Ok(None);
                }
                let (mut left, mut deleted) = (i64::from(limit), 0_i64);
                // Mailboxes first: a delivery under way holds their rows, so this waits for it, and a later one
                // finds none.
                for (table, key) in TENANT_ROWS {
                    if left == 0 {
                        break;
                    }
                    let sql = format!(
                        "DELETE FROM {table} WHERE tenant_id = $1 AND ({key}) IN
                         (SELECT {key} FROM {table} WHERE tenant_id = $1 LIMIT $2)"
                    );
                    let gone = sqlx::query(sqlx::AssertSqlSafe(sql))
                        .bind(tenant.as_uuid())
                        .bind(left)
                        .execute(&mut *tx)
                        .await?
                        .rows_affected() as i64;
                    deleted += gone;
                    left -= gone.min(left);
                }
                let row = sqlx::query_as(
                    "UPDATE tenant_deletions
                        SET rows_deleted = rows_deleted + $2, rows_left = $3,
                            objects_deleted = objects_deleted + $4
                      WHERE tenant_id = $1
                  RETURNING tenant_id, name, rows_deleted, rows_left, objects_deleted, begun_at, finished_at",
                )
                .bind(tenant.as_uuid())
                .bind(deleted)
                .bind(left == 0)
                .bind(objects as i64)
                .fetch_one(&mut *tx)
                .await?;
                tx.commit().await?;
                Ok(Some(row))
            })
            .await?;
        row.map(TryInto::try_into).transpose()
    }

    pub(super) async fn finish_tenant_deletion(
        &self,
        tenant: TenantId,
        at: OffsetDateTime,
    ) -> Result<(), IndexError> {
        self.once_within(DELETION_TIMEOUT, || async {
            let mut tx = self.scoped(tenant).await?;
            // What a delivery that raced the deletion may have left, and what counts the rest.
            for statement in [
                "DELETE FROM packs WHERE tenant_id = $1",
                "DELETE FROM pack_refusals WHERE tenant_id = $1",
                "DELETE FROM pack_garbage WHERE tenant_id = $1",
                "DELETE FROM garbage_packs WHERE tenant_id = $1",
                "DELETE FROM pack_sweeps WHERE tenant_id = $1",
                "DELETE FROM maildrop_locks WHERE tenant_id = $1",
                "DELETE FROM tenant_usage WHERE tenant_id = $1",
                "DELETE FROM kept_usage WHERE tenant_id = $1",
                // What was made in the moment the deletion began.
                "DELETE FROM certificates WHERE tenant_id = $1",
                "DELETE FROM api_keys WHERE tenant_id = $1",
                "DELETE FROM domains WHERE tenant_id = $1 AND alias_of IS NOT NULL",
                "DELETE FROM domains WHERE tenant_id = $1",
                "DELETE FROM manifest_rounds WHERE tenant_id = $1",
                "DELETE FROM tenant_key_changes WHERE tenant_id = $1",
                "DELETE FROM message_quarantine WHERE tenant_id = $1",
                "DELETE FROM manifest_notes WHERE tenant_id = $1",
                "DELETE FROM rewritings WHERE tenant_id = $1",
                "DELETE FROM tenants WHERE tenant_id = $1 AND state = 'deleting'",
            ] {
                sqlx::query(statement).bind(tenant.as_uuid()).execute(&mut *tx).await?;
            }
            sqlx::query(
                "UPDATE tenant_deletions SET finished_at = $2, rows_left = false
                  WHERE tenant_id = $1 AND finished_at IS NULL",
            )
            .bind(tenant.as_uuid())
            .bind(at)
            .execute(&mut *tx)
            .await?;
            tx.commit().await
        })
        .await
    }

    pub(super) async fn all_tenants_deletions(&self, limit: u32) -> Result<Vec<TenantDeletion>, IndexError> {
        let rows: Vec<DeletionRow> = self
            .repeatable(|| {
                sqlx::query_as(
                    "SELECT tenant_id, name, rows_deleted, rows_left, objects_deleted, begun_at, finished_at
                       FROM tenant_deletions WHERE finished_at IS NULL ORDER BY begun_at LIMIT $1",
                )
                .bind(i64::from(limit))
                .fetch_all(&self.pool)
            })
            .await?;
        rows.into_iter().map(TryInto::try_into).collect()
    }

    pub(super) async fn all_tenants_list_deletions(
        &self,
        after: Option<TenantId>,
        limit: u32,
    ) -> Result<Vec<TenantDeletion>, IndexError> {
        let rows: Vec<DeletionRow> = self
            .repeatable(|| {
                sqlx::query_as(
                    "SELECT tenant_id, name, rows_deleted, rows_left, objects_deleted, begun_at, finished_at
                       FROM tenant_deletions
                      WHERE (finished_at IS NULL OR finished_at > now() - interval '30 days')
                        AND ($2::uuid IS NULL OR (begun_at, tenant_id)
                             < (SELECT d.begun_at, d.tenant_id FROM tenant_deletions d WHERE d.tenant_id = $2))
                      ORDER BY begun_at DESC, tenant_id DESC LIMIT $1",
                )
                .bind(i64::from(limit))
                .bind(after.map(|tenant| tenant.as_uuid()))
                .fetch_all(&self.pool)
            })
            .await?;
        rows.into_iter().map(TryInto::try_into).collect()
    }

    pub(super) async fn all_tenants_forget_deletions(
        &self,
        before: OffsetDateTime,
        limit: u32,
    ) -> Result<u64, IndexError> {
        let gone = self
            .repeatable(|| {
                sqlx::query(
                    "DELETE FROM tenant_deletions WHERE tenant_id IN
                     (SELECT tenant_id FROM tenant_deletions WHERE finished_at < $1 LIMIT $2)",
                )
                .bind(before)
                .bind(i64::from(limit))
                .execute(&self.pool)
            })
            .await?;
        Ok(gone.rows_affected())
    }

    pub(super) async fn all_tenants_mailbox_deletions(
        &self,
        limit: u32,
    ) -> Result<Vec<(TenantId, MailboxId)>, IndexError> {
        let rows: Vec<(Uuid, Uuid)> = self
            .repeatable(|| {
                sqlx::query_as(
                    "SELECT tenant_id, mailbox_id FROM mailbox_deletions ORDER BY begun_at LIMIT $1",
                )
                .bind(i64::from(limit))
                .fetch_all(&self.pool)
            })
            .await?;
        let ids = |(tenant, mailbox)| (TenantId::from_uuid(tenant), MailboxId::from_uuid(mailbox));
        Ok(rows.into_iter().map(ids).collect())
    }

    pub(super) async fn continue_mailbox_deletion(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        limit: u32,
    ) -> Result<bool, IndexError> {
        self.once(|| async {
            let mut tx = self.scoped(tenant).await?;
            // Of a mailbox that was deleted, and of none that is there.
            let under_way: Option<i32> = sqlx::query_scalar(
                "SELECT 1 FROM mailbox_deletions WHERE tenant_id = $1 AND mailbox_id = $2 FOR UPDATE",
            )
            .bind(tenant.as_uuid())
            .bind(mailbox.as_uuid())
            .fetch_optional(&mut *tx)
            .await?;
            if under_way.is_none() {
                return Ok(false);
            }
            let mut left = i64::from(limit);
            for statement in MAILBOX_ROWS {
                let gone: i64 = sqlx::query_scalar(statement)
                    .bind(tenant.as_uuid())
                    .bind(mailbox.as_uuid())
                    .bind(left)
                    .fetch_one(&mut *tx)
                    .await?;
                left -= gone;
            }
            if left > 0 {
                sqlx::query("DELETE FROM mailbox_deletions WHERE tenant_id = $1 AND mailbox_id = $2")
                    .bind(tenant.as_uuid())
                    .bind(mailbox.as_uuid())
                    .execute(&mut *tx)
                    .await?;
            }
            tx.commit().await?;
            Ok(left <= 0)
        })
        .await
    }
}
