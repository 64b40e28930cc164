//! How much is kept of deleted messages.

use maildrop::{
    Actor, MailboxId, TenantId,
    port::{IndexError, KeptMore},
};
use serde_json::json;
use sqlx::{Postgres as Db, Transaction};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    postgres::{Postgres, scoped::Audit},
    rows::KeptRow,
};

/// What one is kept of, and how much of it is too much: octets, then messages.
type Excess = (Uuid, i64, i64);

impl Postgres {
    pub(super) async fn all_tenants_kept_more(
        &self,
        after: Option<(TenantId, MailboxId)>,
        limit: u32,
    ) -> Result<KeptMore, IndexError> {
        let (tenant, mailbox) = after
            .map_or((Uuid::nil(), Uuid::nil()), |(tenant, mailbox)| (tenant.as_uuid(), mailbox.as_uuid()));
        let rows: Vec<KeptRow> = self
            .once(|| {
                sqlx::query_as(
                    "WITH grown AS (
                         SELECT tenant_id, mailbox_id, octets, messages FROM kept_usage
                          WHERE grown AND (tenant_id, mailbox_id) > ($1, $2)
                          ORDER BY tenant_id, mailbox_id LIMIT $3 FOR UPDATE SKIP LOCKED
                     ), pool AS (
                         SELECT k.tenant_id, sum(k.octets) AS octets, sum(k.messages) AS messages
                           FROM kept_usage k
                          WHERE k.tenant_id IN (SELECT g.tenant_id FROM grown g) GROUP BY k.tenant_id
                     ), looked AS (
                         SELECT g.tenant_id, g.mailbox_id,
                                coalesce(g.octets > coalesce(b.quota_octets, t.mailbox_quota_octets), false)
                                OR coalesce(g.messages > coalesce(b.quota_messages, t.mailbox_quota_messages), false)
                                OR coalesce(p.octets > t.quota_octets, false)
                                OR coalesce(p.messages > t.quota_messages, false) AS over
                           FROM grown g
                           LEFT JOIN pool p ON p.tenant_id = g.tenant_id
                           LEFT JOIN mailboxes b ON b.tenant_id = g.tenant_id AND b.mailbox_id = g.mailbox_id
                           LEFT JOIN tenants t ON t.tenant_id = g.tenant_id AND b.mailbox_id IS NOT NULL
                     ), within AS (
                         UPDATE kept_usage k SET grown = false FROM looked l
                          WHERE NOT l.over AND k.tenant_id = l.tenant_id AND k.mailbox_id = l.mailbox_id
                     )
                     SELECT tenant_id, mailbox_id, over FROM looked ORDER BY tenant_id, mailbox_id",
                )
                .bind(tenant)
                .bind(mailbox)
                .bind(i64::from(limit))
                .fetch_all(&self.pool)
            })
            .await?;
        Ok(KeptRow::gather(&rows))
    }

    pub(super) async fn bound_kept(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        limit: u32,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<u64, IndexError> {
        self.once(|| async {
            let mut tx = self.scoped(tenant).await?;
            let excess = match of_mailbox(&mut tx, tenant, mailbox).await? {
                Some(excess) => Some(excess),
                None => of_tenant(&mut tx, tenant).await?,
            };
            let Some((mailbox, octets, messages)) = excess else { return Ok(0) };
            let gone: Vec<i64> = sqlx::query_scalar(
                "WITH oldest AS (
                     SELECT x.uid, sum(x.octets) OVER age - x.octets AS octets, row_number() OVER age - 1 AS messages
                       FROM (SELECT uid, octets, keep_until FROM deleted_messages
                              WHERE tenant_id = $1 AND mailbox_id = $2 ORDER BY keep_until, uid LIMIT $5) x
                     WINDOW age AS (ORDER BY x.keep_until, x.uid)
                 ), gone AS (
                     DELETE FROM deleted_messages d USING oldest o
                      WHERE d.tenant_id = $1 AND d.mailbox_id = $2 AND d.uid = o.uid
                        AND (o.octets < $3 OR o.messages < $4)
                  RETURNING d.uid, d.pack_id, d.pack_length
                 ), garbage AS (
                     INSERT INTO pack_garbage (tenant_id, pack_id, octets)
                     SELECT $1, pack_id, sum(pack_length) FROM gone GROUP BY pack_id
                 )
                 SELECT uid FROM gone ORDER BY uid",
            )
            .bind(tenant.as_uuid())
            .bind(mailbox)
            .bind(octets)
            .bind(messages)
            .bind(i64::from(limit))
            .fetch_all(&mut *tx)
            .await?;
            if !gone.is_empty() {
                // The mailbox may be one that was deleted, whose rows are on their way out.
                let address: Option<String> = sqlx::query_scalar(
                    "SELECT address FROM mailboxes WHERE tenant_id = $1 AND mailbox_id = $2",
                )
                .bind(tenant.as_uuid())
                .bind(mailbox)
                .fetch_optional(&mut *tx)
                .await?;
                let target = address.unwrap_or_else(|| mailbox.to_string());
                Audit {
                    tenant: Some(tenant),
                    actor,
                    at,
                    action: "message.forget",
                    target: &target,
                    before: Some(json!({ "uids": gone })),
                    after: None,
                }
                .write(&mut tx)
                .await?;
            }
            tx.commit().await?;
            Ok(gone.len() as u64)
        })
        .await
    }
}

/// What is kept of the mailbox beyond what it may hold.
async fn of_mailbox(
    tx: &mut Transaction<'_, Db>,
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
              WHERE k.tenant_id = $1 AND k.mailbox_id = $2) x
          WHERE octets > 0 OR messages > 0",
    )
    .bind(tenant.as_uuid())
    .bind(mailbox.as_uuid())
    .fetch_optional(&mut **tx)
    .await
}

/// What is kept of the tenant beyond what it may hold, and the mailbox that keeps most.
async fn of_tenant(tx: &mut Transaction<'_, Db>, tenant: TenantId) -> Result<Option<Excess>, sqlx::Error> {
    sqlx::query_as(
        "SELECT k.mailbox_id, x.octets, x.messages
           FROM (SELECT coalesce(sum(k.octets) - t.quota_octets, 0)::bigint AS octets,
                        coalesce(sum(k.messages) - t.quota_messages, 0)::bigint AS messages
                   FROM tenants t JOIN kept_usage k ON k.tenant_id = t.tenant_id
                  WHERE t.tenant_id = $1 GROUP BY t.tenant_id) x
           JOIN kept_usage k ON k.tenant_id = $1
          WHERE x.octets > 0 OR x.messages > 0
          ORDER BY CASE WHEN x.octets > 0 THEN k.octets ELSE k.messages END DESC, k.mailbox_id
          LIMIT 1",
    )
    .bind(tenant.as_uuid())
    .fetch_optional(&mut **tx)
    .await
}
