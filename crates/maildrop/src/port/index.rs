//! The port to the mailbox index: maildrops, locks and messages.

use std::time::Duration;

use async_trait::async_trait;
use time::OffsetDateTime;

use crate::{
    Digest, Listing, LockToken, MailboxId, MessageRow, NodeId, StoredEntry, TenantId, Uid, UniqueId,
};

/// The mailbox index.
#[async_trait]
pub trait Index: Send + Sync + std::fmt::Debug {
    /// Takes the maildrop's exclusive-access lock and reads its counters, as of after the lock was taken.
    ///
    /// When this fails with [`IndexError::Unavailable`], the lock may have been taken all the same, or may
    /// still be: the caller must [`release`](Self::release) the token until that succeeds, and once more when
    /// no statement can be under way any longer.
    async fn open(&self, request: OpenRequest) -> Result<OpenOutcome, IndexError>;

    /// Gives the lock back, if `token` still holds it. Safe to repeat.
    async fn release(&self, tenant: TenantId, mailbox: MailboxId, token: LockToken)
    -> Result<(), IndexError>;

    /// The maildrop's messages with a uid under `before`, in order of uid.
    async fn listing(&self, tenant: TenantId, mailbox: MailboxId, before: Uid)
    -> Result<Listing, IndexError>;

    /// Up to `limit` rows of the maildrop in order of uid, from `from` to under `before`.
    async fn messages(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        from: Uid,
        before: Uid,
        limit: u32,
    ) -> Result<Vec<MessageRow>, IndexError>;

    /// Whether any of these messages is in the maildrop.
    async fn any_left(&self, tenant: TenantId, mailbox: MailboxId, uids: &[Uid]) -> Result<bool, IndexError>;

    /// UPDATE (RFC 1939 §6): deletes these messages and gives the lock back, all or nothing, and only
    /// while `token` still holds the lock (P2, P3).
    async fn commit_update(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        token: LockToken,
        deleted: &[Uid],
    ) -> Result<CommitOutcome, IndexError>;

    /// Puts a stored entry into the maildrops of its recipients: rows, uids and counters in one
    /// transaction (the second half of P1). One outcome per message, in their order. Repeating the call
    /// with the same extent changes nothing and gives the same answer, so it may be retried.
    async fn deliver(
        &self,
        tenant: TenantId,
        entry: &StoredEntry,
        messages: &[NewMessage],
    ) -> Result<Vec<RowOutcome>, IndexError>;

    /// Says that `node` lives, for `ttl` from now by the store's clock. A node that does not say so for
    /// that long loses its locks to whoever asks.
    async fn heartbeat(&self, node: NodeId, name: &str, ttl: Duration) -> Result<(), IndexError>;

    /// Ends a node's life: its locks are free at once.
    async fn retire(&self, node: NodeId) -> Result<(), IndexError>;

    /// Whether the store answers, for `/readyz`.
    async fn ready(&self) -> Result<(), IndexError>;

    /// Remembers `check`, a value derived from the master key, the first time; later gives back what was
    /// remembered, so that a wrong master key is noticed before it does harm.
    async fn key_check(&self, check: &[u8]) -> Result<Vec<u8>, IndexError>;
}

/// Who opens which maildrop.
#[derive(Clone, Copy, Debug)]
pub struct OpenRequest {
    /// The tenant.
    pub tenant: TenantId,
    /// The mailbox.
    pub mailbox: MailboxId,
    /// The version of the credential that was verified.
    pub credential_version: i64,
    /// The token the lock shall be held by.
    pub token: LockToken,
    /// The node the session runs on.
    pub node: NodeId,
}

/// What became of an [`OpenRequest`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpenOutcome {
    /// The lock is held.
    Opened(Opened),
    /// Another session holds the lock.
    InUse,
    /// The credential was changed, or the mailbox is gone: verify again.
    Stale,
}

/// The counters of an open maildrop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Opened {
    /// Messages in it.
    pub message_count: u64,
    /// Octets in it.
    pub octets: u64,
    /// The uid the next message will get: what has one at or above it came later and is not seen.
    pub next_uid: Uid,
}

/// What became of UPDATE.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CommitOutcome {
    /// Done: so many messages went (fewer than asked for where some had vanished before).
    Committed {
        /// Messages deleted.
        deleted: u64,
    },
    /// The session no longer holds the lock: nothing was deleted.
    LockLost,
}

/// One row to be made by [`Index::deliver`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewMessage {
    /// The mailbox.
    pub mailbox: MailboxId,
    /// Octets that RETR will send, `Delivered-To` included.
    pub octets: u64,
    /// Octets of the stored header.
    pub header_octets: u64,
    /// Hash of the stored octets.
    pub digest: Digest,
    /// The address for `Delivered-To`.
    pub delivered_to: String,
    /// A unique-id brought along by a migration.
    pub unique_id: Option<UniqueId>,
    /// When it came in.
    pub received_at: OffsetDateTime,
}

/// What became of a [`NewMessage`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RowOutcome {
    /// It is in the maildrop.
    Delivered(Uid),
    /// The delivery is a repeated one: the message was in the maildrop, and was deleted meanwhile.
    DeliveredBefore,
    /// It does not fit the quota.
    OverQuota,
    /// The mailbox is gone.
    Unknown,
}

/// What is taken already, or still in use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Conflict {
    /// A tenant's name.
    TenantName,
    /// A domain's name.
    DomainName,
    /// A mailbox's address.
    Address,
    /// The address's domain is not one of the tenant's.
    ForeignDomain,
    /// The domain still has mailboxes.
    DomainInUse,
}

/// Why the index could not do it.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// The database could not be asked: no connection in time, or too many wait. Nothing was changed.
    #[error("index cannot be reached")]
    Unreached(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The database did not answer, not in time, or lost the connection. Whether the change was made is
    /// not known.
    #[error("index is unavailable")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Something is taken, or in use.
    #[error("conflict: {0:?}")]
    Conflict(Conflict),
    /// The database answered what it never should: a row that cannot be, a statement it refuses.
    #[error("index failed")]
    Internal(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl IndexError {
    /// Whether trying again may help. Exhaustive: a new variant must choose.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unreached(_) | Self::Unavailable(_) => true,
            Self::Conflict(_) | Self::Internal(_) => false,
        }
    }
}
