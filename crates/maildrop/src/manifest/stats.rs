//! What was done for manifests by this node.

use std::{
    collections::HashSet,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
};

use time::OffsetDateTime;

use crate::TenantId;

/// Counts since the node started.
#[derive(Debug, Default)]
pub struct ManifestStats {
    rounds: AtomicU64,
    octets: AtomicU64,
    failures: AtomicU64,
    set_back: Mutex<HashSet<TenantId>>,
    /// When the manifests of all tenants were written last, in seconds since 1970; 0 for never.
    written_at: AtomicI64,
}

impl ManifestStats {
    /// Rounds that were written.
    pub fn rounds(&self) -> u64 {
        self.rounds.load(Relaxed)
    }

    /// Octets of them.
    pub fn octets(&self) -> u64 {
        self.octets.load(Relaxed)
    }

    /// Tenants' rounds that failed.
    pub fn failures(&self) -> u64 {
        self.failures.load(Relaxed)
    }

    /// Tenants for whom none is written, since the bucket knows more than the index.
    pub fn set_back(&self) -> u64 {
        self.tenants_set_back().len() as u64
    }

    /// Seconds since this node had written what was to be written for all tenants; 0 where it never had.
    pub fn age_seconds(&self) -> f64 {
        match self.written_at.load(Relaxed) {
            0 => 0.0,
            at => (OffsetDateTime::now_utc().unix_timestamp() - at).max(0) as f64,
        }
    }

    pub(super) fn add_round(&self, octets: u64) {
        self.rounds.fetch_add(1, Relaxed);
        self.octets.fetch_add(octets, Relaxed);
    }

    pub(super) fn add_failure(&self) {
        self.failures.fetch_add(1, Relaxed);
    }

    pub(super) fn add_set_back(&self, tenant: TenantId) {
        self.tenants_set_back().insert(tenant);
    }

    pub(super) fn no_longer_set_back(&self, tenant: TenantId) {
        self.tenants_set_back().remove(&tenant);
    }

    pub(super) fn all_written(&self) {
        self.written_at.store(OffsetDateTime::now_utc().unix_timestamp(), Relaxed);
    }

    fn tenants_set_back(&self) -> std::sync::MutexGuard<'_, HashSet<TenantId>> {
        self.set_back.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
