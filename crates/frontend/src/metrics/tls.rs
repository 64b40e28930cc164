//! What there is to say of certificates.

use prometheus::{IntCounterVec, IntGaugeVec, Registry};

use super::{gauges, words};

#[derive(Debug, Clone)]
pub(crate) struct TlsMetrics {
    /// Until when certificates are valid, by file.
    pub(crate) expires: IntGaugeVec,
    /// Certificates whose files changed, by whether they could be used.
    pub(crate) reloads: IntCounterVec,
}

impl TlsMetrics {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        Ok(Self {
            expires: gauges(
                registry,
                "postern_tls_certificate_expires_seconds",
                "until when a certificate from a file is valid, in seconds since 1970",
                &["certificate"],
            )?,
            reloads: words(
                registry,
                "postern_tls_certificate_reloads_total",
                "certificates whose files changed, by whether they could be used",
                "outcome",
                &["ok", "failed"],
            )?,
        })
    }
}
