//! What is asked of the mailbox index.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use maildrop::{
    Actor, Credential, Listing, LockToken, MailboxId, MessageInfo, MessageRow, NodeId, TenantId, Uid, View,
    port::{
        CommitOutcome, Index, IndexError, KeptMore, OpenOutcome, OpenRequest, PackedEntry, Pulse, RowOutcome,
        SessionInfo, Usage,
    },
};
use prometheus::Registry;
use time::OffsetDateTime;

use super::Observer;

/// An index whose operations are counted.
#[derive(Debug)]
pub(crate) struct ObservedIndex {
    index: Arc<dyn Index>,
    observer: Observer,
}

impl ObservedIndex {
    pub(crate) fn new(index: Arc<dyn Index>, registry: &Registry) -> Result<Self, prometheus::Error> {
        let what = "operations of the index";
        Ok(Self { index, observer: Observer::new(registry, "postern_index_operation", "operation", what)? })
    }
}

#[async_trait]
impl Index for ObservedIndex {
    async fn open(&self, request: OpenRequest) -> Result<OpenOutcome, IndexError> {
        self.observer.observe("open", self.index.open(request)).await
    }

    async fn release(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        token: LockToken,
    ) -> Result<(), IndexError> {
        self.observer.observe("release", self.index.release(tenant, mailbox, token)).await
    }

    async fn note_silence(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        token: LockToken,
        credential: Credential,
        silent: bool,
    ) -> Result<bool, IndexError> {
        self.observer
            .observe("note_silence", self.index.note_silence(tenant, mailbox, token, credential, silent))
            .await
    }

    async fn listing(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        before: Uid,
        view: View,
    ) -> Result<Listing, IndexError> {
        self.observer.observe("listing", self.index.listing(tenant, mailbox, before, view)).await
    }

    async fn messages(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        from: Uid,
        before: Uid,
        limit: u32,
    ) -> Result<Vec<MessageRow>, IndexError> {
        self.observer.observe("messages", self.index.messages(tenant, mailbox, from, before, limit)).await
    }

    async fn any_left(&self, tenant: TenantId, mailbox: MailboxId, uids: &[Uid]) -> Result<bool, IndexError> {
        self.observer.observe("any_left", self.index.any_left(tenant, mailbox, uids)).await
    }

    async fn commit_update(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        token: LockToken,
        deleted: &[Uid],
        kept: Duration,
    ) -> Result<CommitOutcome, IndexError> {
        let work = self.index.commit_update(tenant, mailbox, token, deleted, kept);
        self.observer.observe("commit_update", work).await
    }

    async fn deliver_pack(
        &self,
        tenant: TenantId,
        entries: &[PackedEntry],
    ) -> Result<Vec<RowOutcome>, IndexError> {
        self.observer.observe("deliver_pack", self.index.deliver_pack(tenant, entries)).await
    }

    async fn message_infos(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        after: Uid,
        limit: u32,
    ) -> Result<Vec<MessageInfo>, IndexError> {
        self.observer.observe("message_infos", self.index.message_infos(tenant, mailbox, after, limit)).await
    }

    async fn message(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        uid: Uid,
    ) -> Result<Option<(MessageInfo, MessageRow)>, IndexError> {
        self.observer.observe("message", self.index.message(tenant, mailbox, uid)).await
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
        let work = self.index.remove_messages(tenant, mailbox, uids, kept, actor, at);
        self.observer.observe("remove_messages", work).await
    }

    async fn deleted_messages(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        after: Uid,
        limit: u32,
    ) -> Result<Vec<MessageInfo>, IndexError> {
        let work = self.index.deleted_messages(tenant, mailbox, after, limit);
        self.observer.observe("deleted_messages", work).await
    }

    async fn restore_message(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        uid: Uid,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<RowOutcome, IndexError> {
        let work = self.index.restore_message(tenant, mailbox, uid, actor, at);
        self.observer.observe("restore_message", work).await
    }

    async fn expire_messages(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        limit: u32,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<u64, IndexError> {
        let work = self.index.expire_messages(tenant, mailbox, limit, actor, at);
        self.observer.observe("expire_messages", work).await
    }

    async fn all_tenants_expiring(
        &self,
        after: Option<(TenantId, MailboxId)>,
        limit: u32,
    ) -> Result<Vec<(TenantId, MailboxId)>, IndexError> {
        self.observer.observe("expiring", self.index.all_tenants_expiring(after, limit)).await
    }

    async fn all_tenants_purge_deleted(&self, limit: u32) -> Result<u64, IndexError> {
        self.observer.observe("purge_deleted", self.index.all_tenants_purge_deleted(limit)).await
    }

    async fn all_tenants_kept_more(
        &self,
        after: Option<(TenantId, MailboxId)>,
        limit: u32,
    ) -> Result<KeptMore, IndexError> {
        self.observer.observe("kept_more", self.index.all_tenants_kept_more(after, limit)).await
    }

    async fn bound_kept(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        limit: u32,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<u64, IndexError> {
        self.observer.observe("bound_kept", self.index.bound_kept(tenant, mailbox, limit, actor, at)).await
    }

    async fn sessions(
        &self,
        tenant: Option<TenantId>,
        after: Option<(TenantId, MailboxId)>,
        limit: u32,
    ) -> Result<Vec<SessionInfo>, IndexError> {
        self.observer.observe("sessions", self.index.sessions(tenant, after, limit)).await
    }

    async fn end_session(
        &self,
        tenant: TenantId,
        session: &str,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<bool, IndexError> {
        self.observer.observe("end_session", self.index.end_session(tenant, session, actor, at)).await
    }

    async fn usage(&self, tenant: TenantId) -> Result<Usage, IndexError> {
        self.observer.observe("usage", self.index.usage(tenant)).await
    }

    async fn heartbeat(&self, node: NodeId, name: &str, ttl: Duration) -> Result<Pulse, IndexError> {
        self.observer.observe("heartbeat", self.index.heartbeat(node, name, ttl)).await
    }

    async fn take_task(&self, task: &str, node: NodeId, ttl: Duration) -> Result<bool, IndexError> {
        self.observer.observe("take_task", self.index.take_task(task, node, ttl)).await
    }

    async fn retire(&self, node: NodeId) -> Result<(), IndexError> {
        self.observer.observe("retire", self.index.retire(node)).await
    }

    async fn ready(&self) -> Result<(), IndexError> {
        self.observer.observe("ready", self.index.ready()).await
    }

    async fn key_check(&self, check: &[u8]) -> Result<Vec<u8>, IndexError> {
        self.observer.observe("key_check", self.index.key_check(check)).await
    }
}
