//! The port of checking: what the index says that can be compared with packs, or with itself.

use async_trait::async_trait;
use serde::Serialize;
use time::OffsetDateTime;

use super::IndexError;
use crate::{Digest, Extent, MailboxId, PackId, TenantId, Uid};

/// What can be checked, and mended.
#[async_trait]
pub trait Checks: Send + Sync + std::fmt::Debug {
    /// Some packs after `after`, in their order, that the index knows or that something points at; and the last of them,
    /// or none where there are no more. Twice `limit` at most.
    async fn check_packs(
        &self,
        tenant: TenantId,
        after: Option<PackId>,
        limit: u32,
    ) -> Result<(Vec<PackFacts>, Option<PackId>), IndexError>;

    /// What points into a pack, by entry, in order of offset.
    async fn check_pointers(&self, tenant: TenantId, pack: PackId) -> Result<Vec<Pointers>, IndexError>;

    /// Looks at up to `limit` mailboxes after `after`, in their order: those whose counters are wrong, and the last that
    /// was looked at, or none where there are no more. What is compared is of one moment.
    async fn check_counters(
        &self,
        tenant: TenantId,
        after: Option<MailboxId>,
        limit: u32,
    ) -> Result<(Vec<WrongCounters>, Option<MailboxId>), IndexError>;

    /// What is counted of the tenant as a whole: mailboxes, messages, octets and octets given away, as it is noted and as
    /// it is.
    async fn check_usage(&self, tenant: TenantId) -> Result<[(i64, i64); 4], IndexError>;

    /// Counts a mailbox anew, while nobody changes it, and sees that its next uid is new.
    async fn mend_counters(&self, tenant: TenantId, mailbox: MailboxId) -> Result<(), IndexError>;

    /// Counts a tenant anew, while nobody changes it.
    async fn mend_usage(&self, tenant: TenantId) -> Result<(), IndexError>;

    /// Takes all messages that point at an entry out of their mailboxes, and what is kept of deleted ones, and keeps
    /// their rows in `message_quarantine`, saying `why`. The pack stays while they do. Gives how many. Where a bulletin that is not over points at it,
    /// nothing is done.
    async fn quarantine(
        &self,
        tenant: TenantId,
        extent: Extent,
        why: &str,
        at: OffsetDateTime,
    ) -> Result<u64, IndexError>;

    /// The entries of a pack that rows in quarantine point at, in order of offset.
    async fn quarantined(&self, tenant: TenantId, pack: PackId) -> Result<Vec<Extent>, IndexError>;

    /// Up to `limit` packs that are not deleted, of tenants that are not being deleted, from after `after`, in order of
    /// tenant and pack.
    async fn all_tenants_packs(
        &self,
        after: (TenantId, PackId),
        limit: u32,
    ) -> Result<Vec<(TenantId, PackId)>, IndexError>;
}

/// What the index says of a pack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PackFacts {
    /// The pack.
    pub pack: PackId,
    /// Octets of its object; none where the index does not know the pack, and something points at it all the same.
    pub octets: Option<u64>,
    /// Whether anything points at it.
    pub alive: bool,
    /// Whether it is noted as dead, or as deleted, or as having garbage.
    pub collected: bool,
    /// Whether its object is deleted.
    pub deleted: bool,
}

/// Rows that point at one entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pointers {
    /// Where it lies.
    pub extent: Extent,
    /// What the message hashes to.
    pub digest: Digest,
    /// How many rows.
    pub rows: u64,
    /// A mailbox of them,
    pub mailbox: MailboxId,
    /// and the number there.
    pub uid: Uid,
}

/// A mailbox whose counters are wrong: as they are noted, and as they are.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct WrongCounters {
    /// The mailbox.
    pub mailbox: MailboxId,
    /// Its address.
    pub address: String,
    /// Messages.
    pub messages: (i64, i64),
    /// Octets.
    pub octets: (i64, i64),
    /// The uid of its next message, and the greatest of those it has, or that are kept.
    pub next_uid: (i64, i64),
}
