//! What is asked of the mailbox index.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use maildrop::{
    Listing, LockToken, MailboxId, MessageRow, NodeId, StoredEntry, TenantId, Uid,
    port::{CommitOutcome, Index, IndexError, NewMessage, OpenOutcome, OpenRequest, RowOutcome},
};
use prometheus::Registry;

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

    async fn listing(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        before: Uid,
    ) -> Result<Listing, IndexError> {
        self.observer.observe("listing", self.index.listing(tenant, mailbox, before)).await
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
    ) -> Result<CommitOutcome, IndexError> {
        let committed = self.index.commit_update(tenant, mailbox, token, deleted);
        self.observer.observe("commit_update", committed).await
    }

    async fn deliver(
        &self,
        tenant: TenantId,
        entry: &StoredEntry,
        messages: &[NewMessage],
    ) -> Result<Vec<RowOutcome>, IndexError> {
        self.observer.observe("deliver", self.index.deliver(tenant, entry, messages)).await
    }

    async fn heartbeat(&self, node: NodeId, name: &str, ttl: Duration) -> Result<(), IndexError> {
        self.observer.observe("heartbeat", self.index.heartbeat(node, name, ttl)).await
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
