//! The mailbox index, asked in tenants' turns.

use std::time::Duration;

use async_trait::async_trait;
use maildrop::{
    Actor, Credential, Listing, LockToken, MailboxId, MessageInfo, MessageRow, NodeId, TenantId, Uid, View,
    port::{
        CommitOutcome, Index, IndexError, KeptMore, OpenOutcome, OpenRequest, PackedEntry, Pulse, RowOutcome,
        SessionInfo, Usage,
    },
};
use time::OffsetDateTime;

use super::InTurn;

#[async_trait]
impl Index for InTurn<dyn Index> {
    async fn open(&self, request: OpenRequest) -> Result<OpenOutcome, IndexError> {
        self.inner.open(request).await
    }

    async fn release(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        token: LockToken,
    ) -> Result<(), IndexError> {
        let _turn = self.turns.take(Some(tenant)).await?;
        self.inner.release(tenant, mailbox, token).await
    }

    async fn note_silence(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        token: LockToken,
        credential: Credential,
        silent: bool,
    ) -> Result<bool, IndexError> {
        let _turn = self.turns.take(Some(tenant)).await?;
        self.inner.note_silence(tenant, mailbox, token, credential, silent).await
    }

    async fn listing(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        before: Uid,
        view: View,
    ) -> Result<Listing, IndexError> {
        let _turn = self.turns.take(Some(tenant)).await?;
        self.inner.listing(tenant, mailbox, before, view).await
    }

    async fn messages(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        from: Uid,
        before: Uid,
        limit: u32,
    ) -> Result<Vec<MessageRow>, IndexError> {
        let _turn = self.turns.take(Some(tenant)).await?;
        self.inner.messages(tenant, mailbox, from, before, limit).await
    }

    async fn any_left(&self, tenant: TenantId, mailbox: MailboxId, uids: &[Uid]) -> Result<bool, IndexError> {
        let _turn = self.turns.take(Some(tenant)).await?;
        self.inner.any_left(tenant, mailbox, uids).await
    }

    async fn commit_update(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        token: LockToken,
        deleted: &[Uid],
        kept: Duration,
    ) -> Result<CommitOutcome, IndexError> {
        let _turn = self.turns.take(Some(tenant)).await?;
        self.inner.commit_update(tenant, mailbox, token, deleted, kept).await
    }

    async fn deliver_pack(
        &self,
        tenant: TenantId,
        entries: &[PackedEntry],
    ) -> Result<Vec<RowOutcome>, IndexError> {
        let _turn = self.turns.take(Some(tenant)).await?;
        self.inner.deliver_pack(tenant, entries).await
    }

    async fn message_infos(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        after: Uid,
        limit: u32,
    ) -> Result<Vec<MessageInfo>, IndexError> {
        let _turn = self.turns.take(Some(tenant)).await?;
        self.inner.message_infos(tenant, mailbox, after, limit).await
    }

    async fn message(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        uid: Uid,
    ) -> Result<Option<(MessageInfo, MessageRow)>, IndexError> {
        let _turn = self.turns.take(Some(tenant)).await?;
        self.inner.message(tenant, mailbox, uid).await
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
        let _turn = self.turns.take(Some(tenant)).await?;
        self.inner.remove_messages(tenant, mailbox, uids, kept, actor, at).await
    }

    async fn deleted_messages(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        after: Uid,
        limit: u32,
    ) -> Result<Vec<MessageInfo>, IndexError> {
        let _turn = self.turns.take(Some(tenant)).await?;
        self.inner.deleted_messages(tenant, mailbox, after, limit).await
    }

    async fn restore_message(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        uid: Uid,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<RowOutcome, IndexError> {
        let _turn = self.turns.take(Some(tenant)).await?;
        self.inner.restore_message(tenant, mailbox, uid, actor, at).await
    }

    async fn expire_messages(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        limit: u32,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<u64, IndexError> {
        let _turn = self.turns.take(Some(tenant)).await?;
        self.inner.expire_messages(tenant, mailbox, limit, actor, at).await
    }

    async fn all_tenants_expiring(
        &self,
        after: Option<(TenantId, MailboxId)>,
        limit: u32,
    ) -> Result<Vec<(TenantId, MailboxId)>, IndexError> {
        self.inner.all_tenants_expiring(after, limit).await
    }

    async fn all_tenants_purge_deleted(&self, limit: u32) -> Result<u64, IndexError> {
        self.inner.all_tenants_purge_deleted(limit).await
    }

    async fn all_tenants_kept_more(
        &self,
        after: Option<(TenantId, MailboxId)>,
        limit: u32,
    ) -> Result<KeptMore, IndexError> {
        self.inner.all_tenants_kept_more(after, limit).await
    }

    async fn bound_kept(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        limit: u32,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<u64, IndexError> {
        let _turn = self.turns.take(Some(tenant)).await?;
        self.inner.bound_kept(tenant, mailbox, limit, actor, at).await
    }

    async fn sessions(
        &self,
        tenant: Option<TenantId>,
        after: Option<(TenantId, MailboxId)>,
        limit: u32,
    ) -> Result<Vec<SessionInfo>, IndexError> {
        let _turn = self.turns.take(tenant).await?;
        self.inner.sessions(tenant, after, limit).await
    }

    async fn end_session(
        &self,
        tenant: TenantId,
        session: &str,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<bool, IndexError> {
        let _turn = self.turns.take(Some(tenant)).await?;
        self.inner.end_session(tenant, session, actor, at).await
    }

    async fn usage(&self, tenant: TenantId) -> Result<Usage, IndexError> {
        let _turn = self.turns.take(Some(tenant)).await?;
        self.inner.usage(tenant).await
    }

    async fn heartbeat(&self, node: NodeId, name: &str, ttl: Duration) -> Result<Pulse, IndexError> {
        self.inner.heartbeat(node, name, ttl).await
    }

    async fn take_task(&self, task: &str, node: NodeId, ttl: Duration) -> Result<bool, IndexError> {
        self.inner.take_task(task, node, ttl).await
    }

    async fn retire(&self, node: NodeId) -> Result<(), IndexError> {
        self.inner.retire(node).await
    }

    async fn ready(&self) -> Result<(), IndexError> {
        self.inner.ready().await
    }

    async fn key_check(&self, check: &[u8]) -> Result<Vec<u8>, IndexError> {
        self.inner.key_check(check).await
    }
}
