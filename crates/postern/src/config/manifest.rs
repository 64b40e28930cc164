//! How manifests are written.

use std::time::Duration;

use maildrop::ManifestConfig;
use serde::Deserialize;

use super::types::duration;

/// The writing of manifests by nodes with the role `worker`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Manifest {
    /// Pause between two rounds; 0 for no manifests. Default: 15 min.
    #[serde(deserialize_with = "duration")]
    pub(crate) interval: Duration,
}

impl Default for Manifest {
    fn default() -> Self {
        Self { interval: ManifestConfig::default().interval.unwrap_or_default() }
    }
}

impl Manifest {
    /// As the domain wants it.
    pub(crate) fn writing(&self) -> ManifestConfig {
        ManifestConfig { interval: (!self.interval.is_zero()).then_some(self.interval) }
    }
}
