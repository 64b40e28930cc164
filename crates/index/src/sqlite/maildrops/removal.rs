//! Taking messages away otherwise than by their owner's DELE: at an administrator's word, and by age.

use std::time::Duration;

use maildrop::{Actor, MailboxId, Policy, TenantId, TenantLimits, Uid, port::IndexError};
use serde_json::json;
use sqlx::{SqliteConnection, types::Json};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{address_of, commit::delete_messages, micros};
use crate::{
    error::index_error,
    rows::rules,
    sqlite::{
        Sqlite,
        audit::{Audit, NOTHING},
    },
};

impl Sqlite {
    pub(super) async fn remove_messages(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        uids: &[Uid],
        kept: Duration,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<Vec<Uid>, IndexError> {
        let run = async {
            let mut tx = self.writer.begin().await?;
            let removal = Removal { tenant, mailbox, kept, actor, at, action: "message.delete" };
            let gone = removal.run(&mut tx, uids).await?;
            tx.commit().await?;
            Ok(gone)
        };
        run.await.map_err(index_error)
    }

    pub(super) async fn expire_messages(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        limit: u32,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<u64, IndexError> {
        let run = async {
            let mut tx = self.writer.begin().await?;
            let row: Option<(Json<TenantLimits>, Json<Policy>, Json<Policy>)> = sqlx::query_as(
                "SELECT t.limits, t.policy, b.policy
                   FROM mailboxes b JOIN tenants t ON t.tenant_id = b.tenant_id
                  WHERE b.tenant_id = ? AND b.mailbox_id = ?",
            )
            .bind(tenant.as_uuid())
            .bind(mailbox.as_uuid())
            .fetch_optional(&mut *tx)
            .await?;
            let Some((limits, of_tenant, own)) = row else { return Ok(0) };
            let rules = rules(limits, &of_tenant, &own);
            let Some(days) = rules.mailbox.expire_days else { return Ok(0) };
            let before = micros(at - time::Duration::days(days.into()));
            let oldest: Vec<(i64, i64)> = sqlx::query_as(
                "SELECT uid, received_at FROM messages WHERE tenant_id = ? AND mailbox_id = ?
                  ORDER BY uid LIMIT ?",
            )
            .bind(tenant.as_uuid())
            .bind(mailbox.as_uuid())
            .bind(i64::from(limit))
            .fetch_all(&mut *tx)
            .await?;
            let old = oldest.iter().take_while(|(_, received)| *received < before);
            let uids: Vec<Uid> = old.map(|(uid, _)| Uid(*uid as u64)).collect();
            let removal = Removal {
                tenant,
                mailbox,
                kept: rules.undelete_window(),
                actor,
                at,
                action: "message.expire",
            };
            let gone = removal.run(&mut tx, &uids).await?;
            tx.commit().await?;
            Ok(gone.len() as u64)
        };
        run.await.map_err(index_error)
    }

    pub(super) async fn all_tenants_expiring(
        &self,
        after: Option<(TenantId, MailboxId)>,
        limit: u32,
    ) -> Result<Vec<(TenantId, MailboxId)>, IndexError> {
        let (tenant, mailbox) = after
            .map_or((Uuid::nil(), Uuid::nil()), |(tenant, mailbox)| (tenant.as_uuid(), mailbox.as_uuid()));
        let rows: Vec<(Uuid, Uuid)> = sqlx::query_as(
            "SELECT b.tenant_id, b.mailbox_id
               FROM mailboxes b JOIN tenants t ON t.tenant_id = b.tenant_id AND t.state <> 'deleting'
              WHERE (b.tenant_id, b.mailbox_id) > (?1, ?2) AND b.message_count > 0
                AND coalesce(b.policy ->> 'expire_days', t.policy ->> 'expire_days') IS NOT NULL
              ORDER BY b.tenant_id, b.mailbox_id LIMIT ?3",
        )
        .bind(tenant)
        .bind(mailbox)
        .bind(i64::from(limit))
        .fetch_all(&self.reader)
        .await
        .map_err(index_error)?;
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
    async fn run(self, connection: &mut SqliteConnection, uids: &[Uid]) -> Result<Vec<Uid>, sqlx::Error> {
        let Self { tenant, mailbox, kept, actor, at, action } = self;
        let target = address_of(connection, tenant, mailbox).await?;
        let Some(target) = target.filter(|_| !uids.is_empty()) else { return Ok(Vec::new()) };
        let gone = delete_messages(connection, tenant, mailbox, uids, kept).await?;
        if !gone.is_empty() {
            Audit { tenant: Some(tenant), actor, at, action, target: &target }
                .write(connection, Some(&json!({ "uids": gone })), NOTHING)
                .await?;
        }
        Ok(gone)
    }
}
