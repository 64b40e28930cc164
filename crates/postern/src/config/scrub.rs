//! How packs are scrubbed.

use maildrop::ScrubConfig;
use serde::Deserialize;

/// The reading of all packs in the background, by nodes with the role `worker`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Scrub {
    /// Octets read in a second, on average; 0 for none. Default: 128 KiB.
    pub(crate) octets_per_second: u64,
}

impl Default for Scrub {
    fn default() -> Self {
        Self { octets_per_second: ScrubConfig::default().octets_per_second }
    }
}

impl Scrub {
    /// As the domain wants it.
    pub(crate) fn scrubbing(&self) -> ScrubConfig {
        ScrubConfig { octets_per_second: self.octets_per_second }
    }
}
