//! How garbage is collected.

use std::time::Duration;

use maildrop::GarbageConfig;
use serde::Deserialize;

use super::types::duration;

/// The collection of garbage by nodes with the role `worker`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Gc {
    /// Pause between two rounds. Default: 1 min.
    #[serde(deserialize_with = "duration")]
    pub(crate) interval: Duration,
    /// How long a dead pack is left. Default: 1 h.
    #[serde(deserialize_with = "duration")]
    pub(crate) grace: Duration,
    /// Packs of which less than this is left are rewritten. Default: 0.5.
    pub(crate) live_ratio: f64,
    /// Octets copied into one pack, at most. Default: 16 MiB.
    pub(crate) pack_octets: u64,
    /// Octets read and written in a second, at most. Default: 16 MiB.
    pub(crate) octets_per_second: u64,
    /// Requests made in a second, at most. Default: 50.
    pub(crate) requests_per_second: u32,
    /// Whether objects that no row knows are deleted. Default: true.
    pub(crate) orphans: bool,
}

impl Default for Gc {
    fn default() -> Self {
        let GarbageConfig {
            interval,
            grace,
            live_ratio,
            pack_octets,
            octets_per_second,
            requests_per_second,
            orphans,
        } = GarbageConfig::default();
        Self { interval, grace, live_ratio, pack_octets, octets_per_second, requests_per_second, orphans }
    }
}

impl Gc {
    /// As the domain wants it.
    pub(crate) fn collection(&self) -> GarbageConfig {
        let Self {
            interval,
            grace,
            live_ratio,
            pack_octets,
            octets_per_second,
            requests_per_second,
            orphans,
        } = *self;
        GarbageConfig {
            interval,
            grace,
            live_ratio,
            pack_octets,
            octets_per_second,
            requests_per_second,
            orphans,
        }
    }

    /// What is wrong with it: the key, and why.
    pub(super) fn fault(&self) -> Option<(&'static str, &'static str)> {
        if self.interval.is_zero() {
            return Some(("gc.interval", "must be longer than nothing"));
        }
        // A pack that a session is just about to read must not go at once.
        if self.grace < Duration::from_secs(1) {
            return Some(("gc.grace", "must be at least 1s"));
        }
        if !(0.0..=1.0).contains(&self.live_ratio) {
            return Some(("gc.live_ratio", "must be between 0 and 1"));
        }
        if !(1 << 20..=256 << 20).contains(&self.pack_octets) {
            return Some(("gc.pack_octets", "must be between 1 MiB and 256 MiB"));
        }
        if self.octets_per_second < 1024 {
            return Some(("gc.octets_per_second", "must be at least 1024"));
        }
        if self.requests_per_second == 0 {
            return Some(("gc.requests_per_second", "must be at least 1"));
        }
        None
    }
}
