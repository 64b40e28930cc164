//! The port to bulletins: which there are, and the steps in which they reach mailboxes and are withdrawn.

use async_trait::async_trait;
use time::OffsetDateTime;

use crate::{Actor, Bulletin, BulletinId, StoredEntry, TenantId, port::IndexError};

/// Bulletins a tenant has at most that are not over: each of them is looked at whenever a mailbox is created.
pub const BULLETINS_MAX: u32 = 100;

/// Bulletins of tenants.
///
/// A bulletin is stored once, and each mailbox that gets it has a row that points there. **Which mailboxes get it, and
/// how:** a tenant's bulletins are counted, and a mailbox knows how many there had been when it was created. Mailboxes
/// from before a bulletin get it by [`continue_bulletin`](Self::continue_bulletin), those from after it in the moment they
/// are created, or never. So none gets it twice, whatever clocks say and whoever is killed.
#[async_trait]
pub trait Bulletins: Send + Sync + std::fmt::Debug {
    /// Notes a bulletin whose entry was stored. From then on it is durable, and mailboxes will get it. Repeating the call
    /// changes nothing, so it may be retried. `false` where the tenant is gone.
    /// [`Conflict::Bulletins`](super::Conflict::Bulletins) past [`BULLETINS_MAX`].
    async fn create_bulletin(
        &self,
        tenant: TenantId,
        bulletin: &Bulletin,
        entry: &StoredEntry,
        actor: &Actor,
    ) -> Result<bool, IndexError>;

    /// A bulletin, and how many mailboxes hold it in this moment.
    async fn bulletin(&self, tenant: TenantId, id: BulletinId)
    -> Result<Option<(Bulletin, u64)>, IndexError>;

    /// Up to `limit` of the tenant's bulletins, newest first, from before the one of the number `before`.
    async fn bulletins(
        &self,
        tenant: TenantId,
        before: Option<u64>,
        limit: u32,
    ) -> Result<Vec<Bulletin>, IndexError>;

    /// Begins to take a bulletin back: no mailbox gets it any more, and those that hold it lose it by
    /// [`continue_bulletin`](Self::continue_bulletin). Written to the audit log (P2), the first time. `None` where there
    /// is no such bulletin.
    async fn withdraw_bulletin(
        &self,
        tenant: TenantId,
        id: BulletinId,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<Option<Bulletin>, IndexError>;

    /// One step of what there is to do for a bulletin, for up to `limit` mailboxes, in one transaction with the note of
    /// how far it has come. Any number of nodes may do it at once: they wait for each other.
    async fn continue_bulletin(
        &self,
        tenant: TenantId,
        id: BulletinId,
        limit: u32,
        at: OffsetDateTime,
    ) -> Result<BulletinStep, IndexError>;

    /// Up to `limit` bulletins of tenants that are not being deleted, from after `after`, in order of tenant and bulletin,
    /// for which there is something to do: they are on their way, or being withdrawn, or have expired before `at`.
    async fn all_tenants_bulletins_due(
        &self,
        after: Option<(TenantId, BulletinId)>,
        limit: u32,
        at: OffsetDateTime,
    ) -> Result<Vec<(TenantId, BulletinId)>, IndexError>;
}

/// What a step did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BulletinStep {
    /// Rows that were made, or taken away.
    pub rows: u64,
    /// Whether there is more to do.
    pub more: bool,
}
