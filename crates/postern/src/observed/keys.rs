//! What is under which master key.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use maildrop::{
    MasterKeyId,
    port::{IndexError, KeyRows},
};
use prometheus::Registry;

/// What a worker last counted.
#[derive(Debug, Default)]
pub(crate) struct KeyGauges {
    tenants: AtomicU64,
    manifests: AtomicU64,
}

impl KeyGauges {
    /// Registers them.
    pub(crate) fn register(registry: &Registry) -> Result<Arc<Self>, prometheus::Error> {
        let gauges = Arc::new(Self::default());
        let of = Arc::clone(&gauges);
        let help = "tenants whose data keys are sealed under another master key than this node seals with";
        super::gauge(registry, "postern_keys_outdated_tenants", help, move || {
            of.tenants.load(Ordering::Relaxed) as f64
        })?;
        let of = Arc::clone(&gauges);
        let help = "tenants whose manifests in the bucket hold a sealed key from before it was exchanged";
        super::gauge(registry, "postern_keys_outdated_manifests", help, move || {
            of.manifests.load(Ordering::Relaxed) as f64
        })?;
        Ok(gauges)
    }

    /// Counts again: two statements that read tenants and rounds of manifests, and no data.
    pub(crate) async fn count(&self, rows: &dyn KeyRows, newest: MasterKeyId) -> Result<(), IndexError> {
        let counts = rows.all_tenants_key_counts().await?;
        let others = counts.iter().filter(|count| count.key != newest);
        self.tenants.store(others.map(|count| count.tenants).sum(), Ordering::Relaxed);
        self.manifests.store(rows.all_tenants_outdated_manifests().await?, Ordering::Relaxed);
        Ok(())
    }
}
