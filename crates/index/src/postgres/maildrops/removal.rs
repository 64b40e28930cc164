//! Taking messages away otherwise than by their owner's DELE: at an administrator's word, and by age.

use std::time::Duration;

use maildrop::{Actor, MailboxId, Policy, TenantId, TenantLimits, Uid, port::IndexError};
use serde_json::json;
use sqlx::{Postgres as Db, Transaction, types::Json};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    postgres::{Postgres, scoped::Audit},
    rows::rules,
};

impl Postgres {
    pub(super) async fn remove_messages(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        uids: &[Uid],
        kept: Duration,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<Vec<Uid>, IndexError> {
        let uids: Vec<i64> = uids.iter().map(|uid| uid.0 as i64).collect();
        self.once(|| async {
            let mut tx = self.scoped(tenant).await?;
            let removal = Removal { tenant, mailbox, kept, actor, at, action: "message.delete" };
            let gone = removal.run(&mut tx, &uids).await?;
            tx.commit().await?;
            Ok(gone)
        })
        .await
    }

    pub(super) async fn expire_messages(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        limit: u32,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<u64, IndexError> {
        self.once(|| async {
            let mut tx = self.scoped(tenant).await?;
            // Under the mailbox's row: a rule that was withdrawn takes nothing any more.
            let row: Option<(Json<TenantLimits>, Json<Policy>, Json<Policy>)> = sqlx::query_as(
                "SELECT t.limits, t.policy, b.policy
                   FROM mailboxes b JOIN tenants t ON t.tenant_id = b.tenant_id
                  WHERE b.tenant_id = $1 AND b.mailbox_id = $2 FOR NO KEY UPDATE OF b",
            )
            .bind(tenant.as_uuid())
            .bind(mailbox.as_uuid())
            .fetch_optional(&mut *tx)
            .await?;
            let Some((limits, of_tenant, own)) = row else { return Ok(0) };
            let rules = rules(limits, &of_tenant, &own);
            let Some(days) = rules.mailbox.expire_days else { return Ok(0) };
            let before = at - time::Duration::days(days.into());
            // Uids grow with time: the oldest messages are the first, and what comes after the first young
            // one need not be looked at.
            let oldest: Vec<(i64, OffsetDateTime)> = sqlx::query_as(
                "SELECT uid, received_at FROM messages
                  WHERE tenant_id = $1 AND mailbox_id = $2 ORDER BY uid LIMIT $3",
            )
            .bind(tenant.as_uuid())
            .bind(mailbox.as_uuid())
            .bind(i64::from(limit))
            .fetch_all(&mut *tx)
            .await?;
            let old = oldest.iter().take_while(|(_, received)| *received < before);
            let uids: Vec<i64> = old.map(|(uid, _)| *uid).collect();
            if uids.is_empty() {
                return Ok(0);
            }
            let kept = rules.undelete_window();
            let removal = Removal { tenant, mailbox, kept, actor, at, action: "message.expire" };
            let gone = removal.run(&mut tx, &uids).await?;
            tx.commit().await?;
            Ok(gone.len() as u64)
        })
        .await
    }

    pub(super) async fn all_tenants_expiring(
        &self,
        after: Option<(TenantId, MailboxId)>,
        limit: u32,
    ) -> Result<Vec<(TenantId, MailboxId)>, IndexError> {
        let (tenant, mailbox) = after
            .map_or((Uuid::nil(), Uuid::nil()), |(tenant, mailbox)| (tenant.as_uuid(), mailbox.as_uuid()));
        let rows: Vec<(Uuid, Uuid)> = self
            .repeatable(|| {
                sqlx::query_as(
                    "SELECT b.tenant_id, b.mailbox_id
                       FROM mailboxes b JOIN tenants t ON t.tenant_id = b.tenant_id AND t.state <> 'deleting'
                      WHERE (b.tenant_id, b.mailbox_id) > ($1, $2) AND b.message_count > 0
                        AND (b.policy ? 'expire_days' OR t.policy ? 'expire_days')
                      ORDER BY b.tenant_id, b.mailbox_id LIMIT $3",
                )
                .bind(tenant)
                .bind(mailbox)
                .bind(i64::from(limit))
                .fetch_all(&self.pool)
            })
            .await?;
        let ids = |(tenant, mailbox)| (TenantId::from_uuid(tenant), MailboxId::from_uuid(mailbox));
        Ok(rows.into_iter().map(ids).collect())
    }
}

/// Takes messages away otherwise than by their owner's DELE.
struct Removal<'a> {
    tenant: TenantId,
    mailbox: MailboxId,
    kept: Duration,
    actor: &'a Actor,
    at: OffsetDateTime,
    action: &'static str,
}

impl Removal<'_> {
    /// Removes what is there of `uids`, and writes that to the audit log.
    async fn run(self, tx: &mut Transaction<'_, Db>, uids: &[i64]) -> Result<Vec<Uid>, sqlx::Error> {
        // The mailbox's row first, as a delivery does.
        let target: Option<String> = sqlx::query_scalar(
            "SELECT address FROM mailboxes WHERE tenant_id = $1 AND mailbox_id = $2 FOR NO KEY UPDATE",
        )
        .bind(self.tenant.as_uuid())
        .bind(self.mailbox.as_uuid())
        .fetch_optional(&mut **tx)
        .await?;
        let Some(target) = target else { return Ok(Vec::new()) };
        let gone: Vec<i64> =
            sqlx::query_scalar("SELECT remove_messages($1, $2, $3, make_interval(secs => $4))")
                .bind(self.tenant.as_uuid())
                .bind(self.mailbox.as_uuid())
                .bind(uids)
                .bind(self.kept.as_secs_f64())
                .fetch_one(&mut **tx)
                .await?;
        if !gone.is_empty() {
            Audit {
                tenant: Some(self.tenant),
                actor: self.actor,
                at: self.at,
                action: self.action,
                target: &target,
                before: Some(json!({ "uids": gone })),
                after: None,
            }
            .write(tx)
            .await?;
        }
        Ok(gone.into_iter().map(|uid| Uid(uid as u64)).collect())
    }
}
