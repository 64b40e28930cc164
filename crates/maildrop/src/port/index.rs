//! The port to the mailbox index: maildrops, locks and messages.

use std::time::Duration;

use async_trait::async_trait;
use time::OffsetDateTime;

use crate::{
    Actor, Address, Credential, Digest, Listing, LockToken, MailboxId, MessageInfo, MessageRow, NodeId,
    StoredEntry, TenantId, Uid, UniqueId, View,
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

    /// Notes of the lock that `token` holds whether its session's client is `silent`: it said nothing for long, and
    /// nothing that is sent to it is answered. While that is noted, whoever comes with the same `credential` takes the
    /// lock over. `false` where `token` does not hold the lock any longer. Safe to repeat.
    async fn note_silence(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        token: LockToken,
        credential: Credential,
        silent: bool,
    ) -> Result<bool, IndexError>;

    /// The maildrop's messages with a uid under `before`, as this view has them.
    async fn listing(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        before: Uid,
        view: View,
    ) -> Result<Listing, IndexError>;

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
    /// while `token` still holds the lock (P2, P3). They can be restored for `kept` from now.
    async fn commit_update(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        token: LockToken,
        deleted: &[Uid],
        kept: Duration,
    ) -> Result<CommitOutcome, IndexError>;

    /// Puts the entries of a stored pack into the maildrops of their recipients: rows, uids and counters in one
    /// transaction (the second half of P1), all of the pack's entries at once. One outcome per message, in their
    /// order. Repeating the call with the same pack changes nothing and gives the same answer, so it may be retried.
    /// A pack older than [`PACK_AGE_MAX`](super::PACK_AGE_MAX) is refused as [`IndexError::Internal`].
    async fn deliver_pack(
        &self,
        tenant: TenantId,
        entries: &[PackedEntry],
    ) -> Result<Vec<RowOutcome>, IndexError>;

    /// [`deliver_pack`](Self::deliver_pack) of a pack with one entry.
    async fn deliver(
        &self,
        tenant: TenantId,
        entry: &StoredEntry,
        messages: &[NewMessage],
    ) -> Result<Vec<RowOutcome>, IndexError> {
        self.deliver_pack(tenant, &[PackedEntry { stored: *entry, messages: messages.to_vec() }]).await
    }

    /// Up to `limit` messages of the maildrop with a uid over `after`, in order of uid.
    async fn message_infos(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        after: Uid,
        limit: u32,
    ) -> Result<Vec<MessageInfo>, IndexError>;

    /// One message of the maildrop, with its row.
    async fn message(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        uid: Uid,
    ) -> Result<Option<(MessageInfo, MessageRow)>, IndexError>;

    /// Removes messages otherwise than by their owner's DELE, and writes that to the audit log (P2). They
    /// can be restored for `kept` from now. Gives those that were there.
    async fn remove_messages(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        uids: &[Uid],
        kept: Duration,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<Vec<Uid>, IndexError>;

    /// Up to `limit` deleted messages that can be restored, with a uid over `after`, in order of uid.
    async fn deleted_messages(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        after: Uid,
        limit: u32,
    ) -> Result<Vec<MessageInfo>, IndexError>;

    /// Puts a deleted message back, under a new uid: unique-ids never come back, and clients fetch it anew.
    async fn restore_message(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        uid: Uid,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<RowOutcome, IndexError>;

    /// Removes up to `limit` messages that are too old by the mailbox's rules as they are in this moment, oldest
    /// first, and writes that to the audit log. They can be restored for as long as the rules say. Gives how
    /// many there were.
    async fn expire_messages(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        limit: u32,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<u64, IndexError>;

    /// Up to `limit` mailboxes of active tenants that hold messages and have a policy that expires them, from
    /// after `after`, in order of tenant and mailbox.
    async fn all_tenants_expiring(
        &self,
        after: Option<(TenantId, MailboxId)>,
        limit: u32,
    ) -> Result<Vec<(TenantId, MailboxId)>, IndexError>;

    /// Forgets up to `limit` deleted messages whose time to be restored is over, and gives how many.
    async fn all_tenants_purge_deleted(&self, limit: u32) -> Result<u64, IndexError>;

    /// Looks at up to `limit` mailboxes of which more is kept, of deleted messages, than when they were last looked
    /// at, from after `after`, in order of tenant and mailbox: is it more than [`bound_kept`](Self::bound_kept)
    /// allows? Those of which it is will be looked at again, until it no longer is.
    async fn all_tenants_kept_more(
        &self,
        after: Option<(TenantId, MailboxId)>,
        limit: u32,
    ) -> Result<KeptMore, IndexError>;

    /// Forgets deleted messages of the mailbox, those that would be forgotten soonest first, until what is kept of it
    /// is no more, in octets and in messages, than its quota lets it hold. Then, while more is kept of the whole tenant
    /// than its own quota lets it hold, those of its mailbox that keeps most. Where there is no quota, there is no such
    /// bound. Up to `limit` messages, written to the audit log; gives how many.
    async fn bound_kept(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        limit: u32,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<u64, IndexError>;

    /// Who is logged in, up to `limit`, from after `after`, in order of tenant and mailbox: in one tenant, or
    /// in all.
    async fn sessions(
        &self,
        tenant: Option<TenantId>,
        after: Option<(TenantId, MailboxId)>,
        limit: u32,
    ) -> Result<Vec<SessionInfo>, IndexError>;

    /// Ends a session: its lock is free at once, so that it cannot delete any more, and its node learns of it
    /// with its next heartbeat. `false` where there is none.
    async fn end_session(
        &self,
        tenant: TenantId,
        session: &str,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<bool, IndexError>;

    /// What the tenant has and holds.
    async fn usage(&self, tenant: TenantId) -> Result<Usage, IndexError>;

    /// Says that `node` lives, for `ttl` from now by the store's clock. A node that does not say so for
    /// that long loses its locks to whoever asks.
    async fn heartbeat(&self, node: NodeId, name: &str, ttl: Duration) -> Result<Pulse, IndexError>;

    /// Takes, or keeps, the task `task` for `node` for `ttl` from now: `false` while another node has it, or has
    /// [`REBUILD_TASK`].
    async fn take_task(&self, task: &str, node: NodeId, ttl: Duration) -> Result<bool, IndexError>;

    /// Ends a node's life: its locks are free at once.
    async fn retire(&self, node: NodeId) -> Result<(), IndexError>;

    /// Whether the store answers, for `/readyz`.
    async fn ready(&self) -> Result<(), IndexError>;

    /// Remembers `check`, a value derived from the master key, the first time; later gives back what was
    /// remembered, so that a wrong master key is noticed before it does harm.
    async fn key_check(&self, check: &[u8]) -> Result<Vec<u8>, IndexError>;
}

/// The task of whoever rebuilds the index. While a node has it, nobody takes or keeps another one: what is being put back
/// is not collected as garbage, nor written to manifests, nor swept.
pub const REBUILD_TASK: &str = "rebuild";

/// Who opens which maildrop.
#[derive(Clone, Debug)]
pub struct OpenRequest {
    /// The tenant.
    pub tenant: TenantId,
    /// The mailbox.
    pub mailbox: MailboxId,
    /// The revision of the tenant that was read.
    pub tenant_revision: i64,
    /// The version of the credential that was verified.
    pub credential_version: i64,
    /// What the login was proved by.
    pub credential: Credential,
    /// The token the lock shall be held by.
    pub token: LockToken,
    /// The node the session runs on.
    pub node: NodeId,
    /// The session, as its greeting and the logs name it.
    pub session: String,
    /// The client's address, or `unix`.
    pub peer: String,
    /// The least time since the last login, or none.
    pub login_delay: Duration,
    /// The most sessions of the tenant, or no limit.
    pub sessions_max: Option<u32>,
}

/// What became of an [`OpenRequest`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpenOutcome {
    /// The lock is held.
    Opened(Opened),
    /// Another session holds the lock.
    InUse,
    /// The credential or a policy was changed, or the mailbox is gone: verify again.
    Stale,
    /// The last login was too short a time ago.
    TooSoon,
    /// The tenant has as many sessions as it may.
    TooManySessions,
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
    /// Whether the lock was taken over from a session whose client was silent
    /// ([`note_silence`](Index::note_silence)).
    pub taken_over: bool,
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
    /// Octets that RETR will send, `Delivered-To` included, in [`Form::Ascii`](crate::Form::Ascii).
    pub octets: u64,
    /// By how many of them that is more than in [`Form::Native`](crate::Form::Native), where the two differ.
    pub ascii_extra: Option<i64>,
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

/// An entry of a pack, and the messages that it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PackedEntry {
    /// Where it lies. All entries of a call lie in the same pack.
    pub stored: StoredEntry,
    /// One for each mailbox.
    pub messages: Vec<NewMessage>,
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

/// What there is to say of mailboxes of which more is kept than before.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct KeptMore {
    /// How many were looked at.
    pub looked_at: u64,
    /// The last of them.
    pub last: Option<(TenantId, MailboxId)>,
    /// Those of which too much is kept, or of whose tenant.
    pub over: Vec<(TenantId, MailboxId)>,
}

/// Somebody who is logged in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SessionInfo {
    /// The session, as its greeting and the logs name it.
    pub id: String,
    /// The tenant.
    pub tenant: TenantId,
    /// The tenant's name.
    pub tenant_name: String,
    /// The mailbox.
    pub mailbox: MailboxId,
    /// Its address.
    pub address: Address,
    /// The name of the node it is on.
    pub node: String,
    /// The client's address, or `unix`.
    pub peer: String,
    /// When it logged in.
    pub since: OffsetDateTime,
}

/// What a tenant has and holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// Its mailboxes.
    pub mailboxes: u64,
    /// Messages in them.
    pub messages: u64,
    /// Octets of these messages.
    pub octets: u64,
    /// Octets given to mailboxes as their quotas.
    pub allocated_octets: u64,
}

/// What a node learns when it says that it lives.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Pulse {
    /// How many nodes live, this one included.
    pub nodes: u32,
    /// Sessions of this node that shall end.
    pub ended: Vec<String>,
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
    /// The domain still has mailboxes, aliases or alias domains.
    DomainInUse,
    /// The domain that another one shall stand for is none, or stands for another itself.
    AliasDomain,
    /// There is no mailbox for the alias.
    AliasMailbox,
    /// The host is not within one of the tenant's domains.
    ForeignHost,
    /// The quota is more than the tenant may still give, or there is none where there must be one.
    OverAllocated,
    /// The mailbox has as many app passwords as it may.
    AppPasswords,
    /// The tenant has as many bulletins under way as it may.
    Bulletins,
    /// It has changed since it was read.
    Revision,
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
