//! What the collection of garbage did.

use std::sync::Arc;

use maildrop::GarbageStats;
use prometheus::{
    IntCounter, Registry,
    core::{Collector, Desc},
    proto::MetricFamily,
};

/// Registers what the collection of garbage counts.
pub(crate) fn garbage(registry: &Registry, stats: &Arc<GarbageStats>) -> Result<(), prometheus::Error> {
    type Count = fn(&GarbageStats) -> u64;
    let counts: [(&str, &str, Count); 7] = [
        (
            "packs_deleted",
            "packs that nothing pointed at any more and that were deleted",
            GarbageStats::packs_deleted,
        ),
        ("reclaimed_octets", "octets of deleted packs", GarbageStats::octets_reclaimed),
        (
            "packs_rewritten",
            "packs of which little was left and that was put into new ones",
            GarbageStats::packs_rewritten,
        ),
        ("copied_octets", "octets of these new packs", GarbageStats::octets_copied),
        (
            "damaged_entries",
            "stored messages found damaged when they were to be copied",
            GarbageStats::damaged,
        ),
        ("orphans_deleted", "objects that no row knew and that were deleted", GarbageStats::orphans_deleted),
        (
            "orphans_left",
            "objects that no row knew, and that an index that was set back may have known",
            GarbageStats::orphans_left,
        ),
    ];
    for (name, help, count) in counts {
        let counter = IntCounter::new(format!("postern_gc_{name}_total"), help)?;
        registry.register(Box::new(Followed { stats: Arc::clone(stats), count, counter }))?;
    }
    let stats = Arc::clone(stats);
    let help = "seconds that the oldest garbage this node sees to has been waiting";
    super::gauge(registry, "postern_gc_lag_seconds", help, move || stats.lag_seconds())
}

/// A counter that is kept elsewhere, and read when it is shown.
pub(super) struct Followed<S> {
    pub(super) stats: Arc<S>,
    pub(super) count: fn(&S) -> u64,
    pub(super) counter: IntCounter,
}

impl<S: Send + Sync> Collector for Followed<S> {
    fn desc(&self) -> Vec<&Desc> {
        self.counter.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.counter.inc_by((self.count)(&self.stats).saturating_sub(self.counter.get()));
        self.counter.collect()
    }
}
