//! What the garbage collection of this node did.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use time::OffsetDateTime;

use crate::port::GARBAGE_SHARDS;

/// Counts since the node started.
#[derive(Debug, Default)]
pub struct GarbageStats {
    packs_deleted: AtomicU64,
    octets_reclaimed: AtomicU64,
    packs_rewritten: AtomicU64,
    octets_copied: AtomicU64,
    damaged: AtomicU64,
    orphans_deleted: AtomicU64,
    orphans_left: AtomicU64,
    /// By shard: since when the oldest garbage waits, in seconds since 1970; 0 for none.
    oldest: [AtomicI64; GARBAGE_SHARDS as usize],
}

impl GarbageStats {
    /// Dead packs whose objects were deleted.
    pub fn packs_deleted(&self) -> u64 {
        self.packs_deleted.load(Relaxed)
    }

    /// Octets of them.
    pub fn octets_reclaimed(&self) -> u64 {
        self.octets_reclaimed.load(Relaxed)
    }

    /// Packs whose entries were copied into new ones.
    pub fn packs_rewritten(&self) -> u64 {
        self.packs_rewritten.load(Relaxed)
    }

    /// Octets of the new ones.
    pub fn octets_copied(&self) -> u64 {
        self.octets_copied.load(Relaxed)
    }

    /// Entries that were found damaged.
    pub fn damaged(&self) -> u64 {
        self.damaged.load(Relaxed)
    }

    /// Objects that no row knew, and that were deleted.
    pub fn orphans_deleted(&self) -> u64 {
        self.orphans_deleted.load(Relaxed)
    }

    /// Objects that no row knew, and that were left since they were suspiciously many.
    pub fn orphans_left(&self) -> u64 {
        self.orphans_left.load(Relaxed)
    }

    /// Seconds that the oldest garbage this node sees to has been waiting; 0 where there is none.
    pub fn lag_seconds(&self) -> f64 {
        let oldest = self.oldest.iter().map(|at| at.load(Relaxed)).filter(|at| *at != 0).min();
        oldest.map_or(0.0, |at| (OffsetDateTime::now_utc().unix_timestamp() - at).max(0) as f64)
    }

    pub(super) fn add_deleted(&self, packs: u64, octets: u64) {
        self.packs_deleted.fetch_add(packs, Relaxed);
        self.octets_reclaimed.fetch_add(octets, Relaxed);
    }

    pub(super) fn add_rewritten(&self, packs: u64) {
        self.packs_rewritten.fetch_add(packs, Relaxed);
    }

    pub(super) fn add_copied(&self, octets: u64) {
        self.octets_copied.fetch_add(octets, Relaxed);
    }

    pub(super) fn add_damaged(&self, entries: u64) {
        self.damaged.fetch_add(entries, Relaxed);
    }

    pub(super) fn add_orphans(&self, objects: u64) {
        self.orphans_deleted.fetch_add(objects, Relaxed);
    }

    pub(super) fn add_orphans_left(&self, objects: u64) {
        self.orphans_left.fetch_add(objects, Relaxed);
    }

    pub(super) fn set_oldest(&self, shard: u8, at: Option<OffsetDateTime>) {
        let at = at.map_or(0, OffsetDateTime::unix_timestamp);
        self.oldest[usize::from(shard)].store(at, Relaxed);
    }
}
