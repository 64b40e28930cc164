//! Maildrops and messages on SQLite.

mod checks;
mod commit;
mod deleted;
mod deliver;
mod kept;
mod listing;
mod open;
mod removal;
mod sessions;
mod usage;

use std::time::Duration;

use async_trait::async_trait;
use maildrop::{
    Actor, Credential, Listing, LockToken, MailboxId, MessageInfo, MessageRow, NodeId, TenantId, Uid, View,
    port::{
        CommitOutcome, Index, IndexError, KeptMore, OpenOutcome, OpenRequest, PackedEntry, Pulse, RowOutcome,
        SessionInfo, Usage,
    },
};
use sqlx::SqliteConnection;
use time::OffsetDateTime;

use super::Sqlite;
use crate::error::corrupt;

pub(super) use deliver::count_in;

// A trait has one `impl`: each method here calls the inherent one of the same name in its subject's room.
// Inherent methods are found first; a method that has none there would call itself for ever.
// What is of locks and nodes is in memory (`locks.rs`), and needs no room here.
#[async_trait]
impl Index for Sqlite {
    async fn open(&self, request: OpenRequest) -> Result<OpenOutcome, IndexError> {
        self.open_maildrop(request).await
    }

    async fn release(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        token: LockToken,
    ) -> Result<(), IndexError> {
        self.locks.release(tenant, mailbox, token);
        Ok(())
    }

    async fn note_silence(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        token: LockToken,
        credential: Credential,
        silent: bool,
    ) -> Result<bool, IndexError> {
        Ok(self.locks.note_silence(tenant, mailbox, token, silent.then_some(credential)))
    }

    async fn listing(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        before: Uid,
        view: View,
    ) -> Result<Listing, IndexError> {
        self.listing(tenant, mailbox, before, view).await
    }

    async fn messages(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        from: Uid,
        before: Uid,
        limit: u32,
    ) -> Result<Vec<MessageRow>, IndexError> {
        self.messages(tenant, mailbox, from, before, limit).await
    }

    async fn any_left(&self, tenant: TenantId, mailbox: MailboxId, uids: &[Uid]) -> Result<bool, IndexError> {
        self.any_left(tenant, mailbox, uids).await
    }

    async fn commit_update(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        token: LockToken,
        deleted: &[Uid],
        kept: Duration,
    ) -> Result<CommitOutcome, IndexError> {
        self.commit_update(tenant, mailbox, token, deleted, kept).await
    }

    async fn deliver_pack(
        &self,
        tenant: TenantId,
        entries: &[PackedEntry],
    ) -> Result<Vec<RowOutcome>, IndexError> {
        self.deliver_pack(tenant, entries).await
    }

    async fn heartbeat(&self, node: NodeId, name: &str, ttl: Duration) -> Result<Pulse, IndexError> {
        let (nodes, ended) = self.locks.heartbeat(node, name, ttl);
        Ok(Pulse { nodes, ended })
    }

    async fn take_task(&self, task: &str, node: NodeId, ttl: Duration) -> Result<bool, IndexError> {
        Ok(self.locks.take_task(task, node, ttl))
    }

    async fn message_infos(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        after: Uid,
        limit: u32,
    ) -> Result<Vec<MessageInfo>, IndexError> {
        self.message_infos(tenant, mailbox, after, limit).await
    }

    async fn message(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        uid: Uid,
    ) -> Result<Option<(MessageInfo, MessageRow)>, IndexError> {
        self.message(tenant, mailbox, uid).await
    }

    async fn remove_messages(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        uids: &[Uid],
        kept: Duration,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<Vec<Uid>, IndexError> {
        self.remove_messages(tenant, mailbox, uids, kept, actor, at).await
    }

    async fn deleted_messages(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        after: Uid,
        limit: u32,
    ) -> Result<Vec<MessageInfo>, IndexError> {
        self.deleted_messages(tenant, mailbox, after, limit).await
    }

    async fn restore_message(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        uid: Uid,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<RowOutcome, IndexError> {
        self.restore_message(tenant, mailbox, uid, actor, at).await
    }

    async fn expire_messages(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        limit: u32,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<u64, IndexError> {
        self.expire_messages(tenant, mailbox, limit, actor, at).await
    }

    async fn all_tenants_expiring(
        &self,
        after: Option<(TenantId, MailboxId)>,
        limit: u32,
    ) -> Result<Vec<(TenantId, MailboxId)>, IndexError> {
        self.all_tenants_expiring(after, limit).await
    }

    async fn all_tenants_purge_deleted(&self, limit: u32) -> Result<u64, IndexError> {
        self.all_tenants_purge_deleted(limit).await
    }

    async fn all_tenants_kept_more(
        &self,
        after: Option<(TenantId, MailboxId)>,
        limit: u32,
    ) -> Result<KeptMore, IndexError> {
        self.all_tenants_kept_more(after, limit).await
    }

    async fn bound_kept(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        limit: u32,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<u64, IndexError> {
        self.bound_kept(tenant, mailbox, limit, actor, at).await
    }

    async fn sessions(
        &self,
        tenant: Option<TenantId>,
        after: Option<(TenantId, MailboxId)>,
        limit: u32,
    ) -> Result<Vec<SessionInfo>, IndexError> {
        self.sessions(tenant, after, limit).await
    }

    async fn end_session(
        &self,
        tenant: TenantId,
        session: &str,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<bool, IndexError> {
        self.end_session(tenant, session, actor, at).await
    }

    async fn usage(&self, tenant: TenantId) -> Result<Usage, IndexError> {
        self.usage(tenant).await
    }

    async fn retire(&self, node: NodeId) -> Result<(), IndexError> {
        self.locks.retire(node);
        Ok(())
    }

    async fn ready(&self) -> Result<(), IndexError> {
        self.ready().await
    }

    async fn key_check(&self, check: &[u8]) -> Result<Vec<u8>, IndexError> {
        self.key_check(check).await
    }
}

async fn address_of(
    connection: &mut SqliteConnection,
    tenant: TenantId,
    mailbox: MailboxId,
) -> Result<Option<String>, sqlx::Error> {
    sqlx::query_scalar("SELECT address FROM mailboxes WHERE tenant_id = ? AND mailbox_id = ?")
        .bind(tenant.as_uuid())
        .bind(mailbox.as_uuid())
        .fetch_optional(connection)
        .await
}

/// Microseconds since 1970, as times are stored.
pub(super) fn micros(at: OffsetDateTime) -> i64 {
    (at.unix_timestamp_nanos() / 1000) as i64
}

/// The time stored as `micros`.
pub(super) fn from_micros(micros: i64) -> Result<OffsetDateTime, IndexError> {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1000).map_err(|_| corrupt("time"))
}
