//! What the scrub found.

use std::sync::Arc;

use maildrop::ScrubStats;
use prometheus::{IntCounter, Registry};

use super::garbage::Followed;

/// Registers what the scrub counts.
pub(crate) fn scrub(registry: &Registry, stats: &Arc<ScrubStats>) -> Result<(), prometheus::Error> {
    type Count = fn(&ScrubStats) -> u64;
    let counts: [(&str, &str, Count); 6] = [
        ("packs", "packs that were read to be checked", ScrubStats::packs),
        ("octets", "octets of them", ScrubStats::octets),
        ("entries", "stored messages in them that were opened", ScrubStats::entries),
        ("damaged", "places in packs that were found damaged", ScrubStats::damaged),
        ("missing", "packs that are not there although messages are in them", ScrubStats::missing),
        ("rounds", "times that all packs were gone through", ScrubStats::rounds),
    ];
    for (name, help, count) in counts {
        let counter = IntCounter::new(format!("postern_scrub_{name}_total"), help)?;
        registry.register(Box::new(Followed { stats: Arc::clone(stats), count, counter }))?;
    }
    Ok(())
}
