//! How much is kept of deleted messages.

use maildrop::{
    Actor, MailboxId, TenantId,
    port::{IndexError, KeptMore},
};
use serde_json::json;
use sqlx::SqliteConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{address_of, micros};
use crate::{
    error::index_error,
    rows::KeptRow,
    sqlite::{
        Sqlite,
        audit::{Audit, NOTHING},
    },
};

/// What one is kept of, and how much of it is too much: octets, then messages.
type Excess = (Uuid, i64, i64);

impl Sqlite {
    pub(super) async fn all_tenants_kept_more(
        &self,
        after: Option<(TenantId, MailboxId)>,
        limit: u32,
    ) -> Result<KeptMore, IndexError> {
        let (tenant, mailbox) = after
            .map_or((Uuid::nil(), Uuid::nil()), |(tenant, mailbox)| (tenant.as_uuid(), mailbox.as_uuid()));
        let run = async {
            let mut tx = self.writer.begin().await?;
            let rows: Vec<KeptRow> = sqlx::query_as(
                "SELECT k.tenant_id, k.mailbox_id,
                        coalesce(k.octets > coalesce(b.quota_octets, t.mailbox_quota_octets), 0)
                        OR coalesce(k.messages > coalesce(b.quota_messages, t.mailbox_quota_messages), 0)
                        OR coalesce((SELECT sum(p.octets) FROM kept_usage p WHERE p.tenant_id = k.tenant_id)
                                    > t.quota_octets, 0)
                        OR coalesce((SELECT sum(p.messages) FROM kept_usage p WHERE p.tenant_id = k.tenant_id)
                                    > t.quota_messages, 0) AS over
                   FROM kept_usage k
                   LEFT JOIN mailboxes b ON b.tenant_id = k.tenant_id AND b.mailbox_id = k.mailbox_id
                   LEFT JOIN tenants t ON t.tenant_id = k.tenant_id AND b.mailbox_id IS NOT NULL
                  WHERE k.grown AND (k.tenant_id, k.mailbox_id) > (?, ?)
                  ORDER BY k.tenant_id, k.mailbox_id LIMIT ?",
            )
            .bind(tenant)
            .bind(mailbox)
            .bind(i64::from(limit))
            .fetch_all(&mut *tx)
            .await?;
            for row in rows.iter().filter(|row| !row.over) {
                sqlx::query("UPDATE kept_usage SET grown = 0 WHERE tenant_id = ? AND mailbox_id = ?")
                    .bind(row.tenant_id)
                    .bind(row.mailbox_id)
                    .execute(&mut *tx)
                    .await?;
            }
            tx.commit().await?;
            Ok(KeptRow::gather(&rows))
        };
        run.await.map_err(index_error)
    }

    pub(super) async fn bound_kept(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        limit: u32,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<u64, IndexError> {
        let run = async {
            let mut tx = self.writer.begin().await?;
            let excess = match of_mailbox(&mut tx, tenant, mailbox).await? {
                Some(excess) => Some(excess),
                None => of_tenant(&mut tx, tenant).await?,
            };
            let Some((mailbox, mut octets, mut messages)) = excess else { return Ok(0) };
            let oldest: Vec<(i64, i64, Uuid, i64)> = sqlx::query_as(
                "SELECT uid, octets, pack_id, pack_length FROM deleted_messages
                  WHERE tenant_id = ? AND mailbox_id = ? ORDER BY keep_until, uid LIMIT ?",
            )
            .bind(tenant.as_uuid())
            .bind(mailbox)
            .bind(i64::from(limit))
            .fetch_all(&mut *tx)
            .await?;
            let now = micros(OffsetDateTime::now_utc());
            let mut gone = Vec::new();
            for (uid, of_message, pack, length) in oldest {
                if octets <= 0 && messages <= 0 {
                    break;
                }
                sqlx::query(
                    "DELETE FROM deleted_messages WHERE tenant_id = ? AND mailbox_id = ? AND uid = ?",
                )
                .bind(tenant.as_uuid())
                .bind(mailbox)
                .bind(uid)
                .execute(&mut *tx)
                .await?;
                sqlx::query("INSERT INTO pack_garbage (tenant_id, pack_id, octets, at) VALUES (?, ?, ?, ?)")
                    .bind(tenant.as_uuid())
                    .bind(pack)
                    .bind(length)
                    .bind(now)
                    .execute(&mut *tx)
                    .await?;
                octets -= of_message;
                messages -= 1;
                gone.push(uid);
            }
            if !gone.is_empty() {
                // The mailbox may be one that was deleted, whose rows are on their way out.
                let address = address_of(&mut tx, tenant, MailboxId::from_uuid(mailbox)).await?;
                let target = address.unwrap_or_else(|| mailbox.to_string());
                gone.sort_unstable();
                Audit { tenant: Some(tenant), actor, at, action: "message.forget", target: &target }
                    .write(&mut tx, Some(&json!({ "uids": gone })), NOTHING)
                    .await?;
            }
            tx.commit().await?;
            Ok(gone.len() as u64)
        };
        run.await.map_err(index_error)
    }
}

/// What is kept of the mailbox beyond what it may hold.
async fn of_mailbox(
    connection: &mut SqliteConnection,
    tenant: TenantId,
    mailbox: MailboxId,
) -> Result<Option<Excess>, sqlx::Error> {
    sqlx::query_as(
        "SELECT * FROM (
             SELECT k.mailbox_id, coalesce(k.octets - coalesce(b.quota_octets, t.mailbox_quota_octets), 0) AS octets,
                    coalesce(k.messages - coalesce(b.quota_messages, t.mailbox_quota_messages), 0) AS messages
               FROM kept_usage k
               JOIN mailboxes b ON b.tenant_id = k.tenant_id AND b.mailbox_id = k.mailbox_id
               JOIN tenants t ON t.tenant_id = k.tenant_id
              WHERE k.tenant_id = ? AND k.mailbox_id = ?)
          WHERE octets > 0 OR messages > 0",
    )
    .bind(tenant.as_uuid())
    .bind(mailbox.as_uuid())
    .fetch_optional(connection)
    .await
}

/// What is kept of the tenant beyond what it may hold, and the mailbox that keeps most.
async fn of_tenant(
    connection: &mut SqliteConnection,
    tenant: TenantId,
) -> Result<Option<Excess>, sqlx::Error> {
    sqlx::query_as(
        "SELECT k.mailbox_id, x.octets, x.messages
           FROM (SELECT coalesce(sum(k.octets) - t.quota_octets, 0) AS octets,
                        coalesce(sum(k.messages) - t.quota_messages, 0) AS messages
                   FROM tenants t JOIN kept_usage k ON k.tenant_id = t.tenant_id
                  WHERE t.tenant_id = ?1 GROUP BY t.tenant_id) x
           JOIN kept_usage k ON k.tenant_id = ?1
          WHERE x.octets > 0 OR x.messages > 0
          ORDER BY CASE WHEN x.octets > 0 THEN k.octets ELSE k.messages END DESC, k.mailbox_id
          LIMIT 1",
    )
    .bind(tenant.as_uuid())
    .fetch_optional(connection)
    .await
}
