//! The port to buckets of tenants' own.

use async_trait::async_trait;
use uuid::Uuid;

use super::BlobError;
use crate::{BucketSettings, StoreNumber, TenantBuckets, TenantId};

/// Tries buckets out, and seals what opens them.
#[async_trait]
pub trait OwnBuckets: Send + Sync + std::fmt::Debug {
    /// What is wrong with these settings as they stand, if anything: the field, and why.
    fn problem(&self, settings: &BucketSettings) -> Option<(&'static str, String)>;

    /// Tries the bucket out: an object is written, read, read in part, listed and deleted.
    async fn probe(&self, tenant: TenantId, settings: &BucketSettings) -> Result<(), ProbeError>;

    /// Keeps the secret of the store with this number among the others; without one it is forgotten, as are those of
    /// stores that are no longer known.
    async fn keep_secret(
        &self,
        tenant: TenantId,
        stored: &mut TenantBuckets,
        number: StoreNumber,
        secret: Option<&str>,
    ) -> Result<(), BlobError>;

    /// Writes what is about to be set to the house's store, so that it is found without the index (P8), and gives that
    /// description's name.
    async fn describe(&self, tenant: TenantId, stored: &TenantBuckets) -> Result<Uuid, BlobError>;

    /// What was described was set, and replaces what was described before, or it was not. What this node remembers of
    /// the tenant's stores counts no longer.
    async fn described(&self, tenant: TenantId, version: i64, id: Uuid, set: bool) -> Result<(), BlobError>;
}

/// A bucket that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {error}")]
pub struct ProbeError {
    /// The step that failed: `write`, `read`, `read a range`, `list`, `delete`.
    pub step: &'static str,
    /// Why.
    pub error: BlobError,
}
