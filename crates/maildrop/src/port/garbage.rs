//! The ports of the garbage collection: what the index knows of packs with garbage, and what is done to their objects.

use std::time::Duration;

use async_trait::async_trait;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{BlobError, IndexError};
use crate::{Digest, Extent, MailboxId, PackId, SealedKey, TenantId, Uid};

/// Parts the work is divided into, by tenant: each is one node's at a time.
pub const GARBAGE_SHARDS: u8 = 16;

/// Rows are made for a pack only while its id is not older than this by the index's clock: what is swept as an orphan,
/// being twice as old, can then get none any more, whatever stood still meanwhile and whatever a node's clock says.
pub const PACK_AGE_MAX: Duration = Duration::from_hours(12);

/// What a time that is held is longer by than what lies between the last beacon and now: a beacon's own age, and clocks.
pub const HELD_MARGIN: Duration = Duration::from_hours(1);

/// Rows that one rewriting moves, at most: a transaction of some hundred milliseconds.
pub const MOVED_ROWS_MAX: u64 = 10_000;

/// What is garbage, and which packs are done with. A shard is a number under [`GARBAGE_SHARDS`].
///
/// What counts octets only says where to look. Whether anything of a pack is alive is answered by the rows that point
/// at it, each time anew.
#[async_trait]
pub trait Garbage: Send + Sync + std::fmt::Debug {
    /// Adds up to `limit` notes of garbage up, by pack, oldest first, and forgets them: all or nothing. Packs of which
    /// less than `live_ratio` (0 to 1) seems to be left are due. Gives how many notes there were.
    async fn all_tenants_fold(&self, shard: u8, live_ratio: f64, limit: u32) -> Result<u64, IndexError>;

    /// Up to `limit` packs that are due to be looked at, from after `after`, in order of tenant and pack.
    async fn all_tenants_due(
        &self,
        shard: u8,
        after: Option<(TenantId, PackId)>,
        limit: u32,
    ) -> Result<Vec<(TenantId, PackId)>, IndexError>;

    /// Looks at a pack that is due: where nothing points at it, it is dead from now on.
    async fn inspect(&self, tenant: TenantId, pack: PackId) -> Result<Inspected, IndexError>;

    /// A pack that was looked at, and of which `live_octets` are left, is no longer due before it has more garbage.
    async fn settle(&self, tenant: TenantId, pack: PackId, live_octets: u64) -> Result<(), IndexError>;

    /// Notes that live entries, which were read before, are about to be copied into a new pack: where nothing comes of it,
    /// manifests tell that what lies there is known.
    async fn begin_rewriting(&self, tenant: TenantId, pack: PackId) -> Result<(), IndexError>;

    /// All that points at entries that were copied into the pack `to` points at their copies from now on: one
    /// transaction, which waits for nobody. Copies that nothing points at are garbage of the new pack; old packs that
    /// nothing points at any longer are dead, the others stay due. Where the tenant is gone, nothing is done; a new pack
    /// older than [`PACK_AGE_MAX`] is [`IndexError::Internal`]. Safe to repeat. Gives how many rows were moved.
    async fn retarget(
        &self,
        tenant: TenantId,
        to: &RewrittenPack,
        moved: &[MovedEntry],
    ) -> Result<u64, IndexError>;

    /// Up to `limit` packs that have been dead for `grace`, those longest dead first, with the octets of each. One that
    /// something points at again, since that was under way when it died, is left out, alive, and due.
    async fn all_tenants_condemned(
        &self,
        shard: u8,
        grace: Duration,
        limit: u32,
    ) -> Result<Vec<(TenantId, PackId, u64)>, IndexError>;

    /// The objects of these packs, which were condemned, are deleted.
    async fn note_deleted(&self, tenant: TenantId, packs: &[PackId]) -> Result<(), IndexError>;

    /// Forgets up to `limit` packs whose objects were deleted `age` ago at least, by the index's clock. Until then a
    /// repeated delivery finds what became of the first. Gives how many.
    async fn all_tenants_forget_packs(&self, shard: u8, age: Duration, limit: u32)
    -> Result<u64, IndexError>;

    /// Those of these packs that the index knows, and whose objects are not deleted.
    async fn known_packs(&self, tenant: TenantId, packs: &[PackId]) -> Result<Vec<PackId>, IndexError>;

    /// Those of these packs that something points at, whether or not the index knows them.
    async fn reachable_packs(&self, tenant: TenantId, packs: &[PackId]) -> Result<Vec<PackId>, IndexError>;

    /// Up to `limit` sweeps for orphans that are under way or, where the last one is `pause` ago, due. They are of
    /// packs that are `age` old at least by the index's clock, which is nobody's who names packs.
    async fn all_tenants_sweeps(
        &self,
        shard: u8,
        age: Duration,
        pause: Duration,
        limit: u32,
    ) -> Result<Vec<Sweep>, IndexError>;

    /// Notes how far a sweep is: that it is over where [`Sweep::at`] is none.
    async fn note_sweep(&self, sweep: &Sweep) -> Result<(), IndexError>;

    /// Compares the beacons that were found in the object store with those the index knows of, notes that `next` will
    /// be among them, and forgets those that were not found. Where a beacon is unknown, or where it tells by itself
    /// that it goes on from a past state (PostgreSQL: a new timeline), the index may have been set back, and not know
    /// what came since the last beacon: packs of that time, an hour more at either end, are held from now on.
    async fn note_beacon(&self, shard: u8, found: &[Uuid], next: Uuid) -> Result<Option<Held>, IndexError>;

    /// Times from which packs that no row knows are left, since the index may have known them once.
    async fn held_times(&self, shard: u8) -> Result<Vec<Held>, IndexError>;

    /// Since when the oldest garbage has been waiting to be added up, or a dead pack to be deleted; none where there is
    /// nothing to do.
    async fn all_tenants_oldest_garbage(&self, shard: u8) -> Result<Option<OffsetDateTime>, IndexError>;
}

/// What was found of a pack that is due.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Inspected {
    /// It is not known, or not due any longer.
    Gone,
    /// Nothing points at it.
    Dead,
    /// Something does.
    Live {
        /// Octets of the object.
        octets: u64,
        /// Octets of entries that something points at.
        live_octets: u64,
        /// Those entries; empty where the pack cannot be rewritten, or there would be no use in it: it has one entry
        /// only, or a bulletin is among them, or one of them is more messages than are moved at once.
        entries: Vec<LiveEntry>,
    },
}

/// An entry that something points at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LiveEntry {
    /// Where it lies.
    pub extent: Extent,
    /// What its message hashes to.
    pub digest: Digest,
    /// A mailbox that it is in, by which it is put beside others.
    pub mailbox: MailboxId,
    /// Its number there.
    pub uid: Uid,
    /// Rows that point at it.
    pub rows: u64,
}

/// A pack that entries were copied into.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RewrittenPack {
    /// The pack.
    pub pack: PackId,
    /// Octets of the object.
    pub octets: u64,
    /// Entries in it.
    pub entries: u32,
}

/// From where to where an entry was copied. It is as long as it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MovedEntry {
    /// Where it lies.
    pub from: Extent,
    /// First octet of its copy within the new pack.
    pub to: u64,
}

/// A search through a tenant's objects for those that no row knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sweep {
    /// The tenant.
    pub tenant: TenantId,
    /// Packs from before this were looked at by the last sweep.
    pub from: OffsetDateTime,
    /// Packs from this on are left to the next one.
    pub until: OffsetDateTime,
    /// The last object that was looked at, in the order of their names. None where it has not begun, or is over.
    pub at: Option<PackId>,
}

/// A time from which the index may have lost rows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Held {
    /// Its begin.
    pub from: OffsetDateTime,
    /// Its end, which is not of it.
    pub until: OffsetDateTime,
}

/// Objects of packs: rewritten, deleted, listed.
#[async_trait]
pub trait PackStore: Send + Sync + std::fmt::Debug {
    /// Copies entries of `tenant` as they are into one new pack, `into`, in the order of mailboxes and uids, each after it was
    /// opened and its message found to be the one of its digest. Of a pack with a damaged entry none is copied. When
    /// this returns, the copies are durable. All of the entries are in memory meanwhile, twice.
    async fn rewrite(
        &self,
        tenant: TenantId,
        key: &SealedKey,
        entries: Vec<LiveEntry>,
        into: PackId,
    ) -> Result<Rewritten, BlobError>;

    /// Deletes packs. One that is not there is as good as deleted.
    async fn delete_packs(&self, tenant: TenantId, packs: &[PackId]) -> Result<(), BlobError>;

    /// A page of the tenant's packs in the order of their objects' names, which is that of [`PackId::shard`] and, within
    /// one, of time; from after `after`, which need not be there.
    async fn list_packs(&self, tenant: TenantId, after: Option<PackId>) -> Result<PackPage, BlobError>;

    /// The beacons of a shard of the work: one, or some where a node died between two steps.
    async fn beacons(&self, shard: u8) -> Result<Vec<Uuid>, BlobError>;

    /// Sets a beacon, and then puts out those in `old`.
    async fn set_beacon(&self, shard: u8, beacon: Uuid, old: &[Uuid]) -> Result<(), BlobError>;
}

/// What became of entries that were to be copied.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Rewritten {
    /// The pack they are in; none where all were left where they are.
    pub pack: Option<RewrittenPack>,
    /// Those that were copied.
    pub moved: Vec<MovedEntry>,
    /// Those that are not what was written, and why.
    pub damaged: Vec<(Extent, String)>,
    /// Octets that were read.
    pub read_octets: u64,
    /// Requests that were made.
    pub requests: u64,
}

/// A page of a tenant's packs.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PackPage {
    /// The packs, and the octets of each.
    pub packs: Vec<(PackId, u64)>,
    /// Whether there may be more after the last of them.
    pub more: bool,
}
