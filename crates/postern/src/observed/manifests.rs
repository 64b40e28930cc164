//! What was done for manifests.

use std::sync::Arc;

use maildrop::ManifestStats;
use prometheus::{IntCounter, Registry};

use super::garbage::Followed;

/// Registers what the writing of manifests counts.
pub(crate) fn manifests(registry: &Registry, stats: &Arc<ManifestStats>) -> Result<(), prometheus::Error> {
    type Count = fn(&ManifestStats) -> u64;
    let counts: [(&str, &str, Count); 3] = [
        ("rounds", "rounds of tenants' manifests that were written", ManifestStats::rounds),
        ("written_octets", "octets of manifests that were written", ManifestStats::octets),
        ("failures", "rounds of tenants' manifests that failed", ManifestStats::failures),
    ];
    for (name, help, count) in counts {
        let counter = IntCounter::new(format!("postern_manifest_{name}_total"), help)?;
        registry.register(Box::new(Followed { stats: Arc::clone(stats), count, counter }))?;
    }
    let of = Arc::clone(stats);
    let help = "tenants for whom no manifest is written, since the bucket knows more than the index";
    super::gauge(registry, "postern_manifest_set_back_tenants", help, move || of.set_back() as f64)?;
    let of = Arc::clone(stats);
    let help = "seconds since this node had written all there was to write to manifests; 0 for never";
    super::gauge(registry, "postern_manifest_age_seconds", help, move || of.age_seconds())
}
