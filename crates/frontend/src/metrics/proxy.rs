//! What is counted of proxies in front of us.

use prometheus::{IntCounterVec, Registry};

use super::pairs;

#[derive(Debug, Clone)]
pub(crate) struct ProxyMetrics {
    /// Connections to listeners that want a PROXY header, by what became of it.
    pub(crate) headers: IntCounterVec,
}

impl ProxyMetrics {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let outcomes =
            ["proxied", "local", "unknown", "untrusted", "malformed", "too_long", "timeout", "gone"];
        Ok(Self {
            headers: pairs(
                registry,
                "postern_proxy_headers_total",
                "connections to listeners that want a PROXY header, by what became of it",
                ["listener", "outcome"],
                [&["pop3", "pop3s", "lmtp"], &outcomes],
            )?,
        })
    }
}
