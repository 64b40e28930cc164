//! What must hold of the keys together.

use std::time::Duration;

use maildrop::port::AUDIT_KEPT_DAYS_MIN;

use super::{BlobKind, Config, ConfigError, ProxyMode};

impl Config {
    /// What no single key can tell.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let wrong = |path: &str, problem: &str| Err(ConfigError::new(path, problem));
        if self.pop3.idle_timeout < Duration::from_mins(10) {
            return wrong("pop3.idle_timeout", "must be at least 10 minutes (RFC 1939 §3)");
        }
        if !(1..=4_000_000_000).contains(&self.lmtp.max_message_octets) {
            // Trace fields come on top, and a listing's octets have 32 bits.
            return wrong("lmtp.max_message_octets", "must be between 1 and 4000000000");
        }
        if self.cluster.node_ttl < Duration::from_secs(1) {
            return wrong("cluster.node_ttl", "must be at least 1 second");
        }
        if self.pack.part_octets < 5 * 1024 * 1024 {
            return wrong("pack.part_octets", "must be at least 5242880 (S3's smallest part)");
        }
        if self.pack.max_octets == 0 || self.pack.max_messages == 0 || self.pack.lanes == 0 {
            return wrong("pack", "max_octets, max_messages and lanes must be at least 1");
        }
        if !(1..=65_536).contains(&self.pack.max_messages) {
            return wrong("pack.max_messages", "must be between 1 and 65536");
        }
        if self.cache.dir.is_some() && (self.cache.memory_octets == 0 || self.cache.disk_octets < 64 << 20) {
            return wrong(
                "cache.dir",
                "is given: cache.memory_octets must be more than 0, and cache.disk_octets at least 67108864",
            );
        }
        if self.pack.spool_dir.as_ref().is_some_and(|dir| !dir.is_dir()) {
            return wrong("pack.spool_dir", "is no directory");
        }
        if !(1..=19).contains(&self.pack.compression_level) {
            return wrong("pack.compression_level", "must be between 1 and 19");
        }
        self.check_tls()?;
        if !self.admin.listen.is_empty() && self.admin.token.is_none() && self.admin.token_file.is_none() {
            return wrong("admin.token_file", "is missing, but admin.listen is given");
        }
        if self.blob.kind == BlobKind::S3 && self.blob.bucket.as_deref().unwrap_or("").is_empty() {
            return wrong("blob.bucket", "is missing, but blob.kind is \"s3\"");
        }
        if let Some(fault) = self.blob.replica_fault() {
            return wrong("blob.replica_bucket", fault);
        }
        if self.blob.retries_max.is_some_and(|retries| retries > 1_000_000) {
            return wrong("blob.retries_max", "is at most 1000000");
        }
        self.check_proxy()?;
        if self.node.roles.is_empty() {
            return wrong("node.roles", "must name at least one role");
        }
        if self.node.work_max == Some(0) {
            return wrong("node.work_max", "must be at least 1");
        }
        if self.admin.requests_per_second == 0 || self.admin.requests_burst == 0 {
            return wrong("admin.requests_per_second", "and admin.requests_burst must be at least 1");
        }
        if self.worker.interval.is_zero() {
            return wrong("worker.interval", "must be longer than nothing");
        }
        if let Some((path, what)) = self.gc.fault() {
            return wrong(path, what);
        }
        if (1..AUDIT_KEPT_DAYS_MIN).contains(&self.audit.kept_days) {
            return wrong("audit.kept_days", "must be 0 (for ever), or at least 30");
        }
        if self.auth.hashes_max == Some(0) {
            return wrong("auth.hashes_max", "must be at least 1");
        }
        if !(1..=10_000).contains(&self.tenant_buckets.requests_max) {
            return wrong("tenant_buckets.requests_max", "must be between 1 and 10000");
        }
        if !(1..=100_000).contains(&self.tenant_buckets.clients_max) {
            return wrong("tenant_buckets.clients_max", "must be between 1 and 100000");
        }
        if !(1..=1000).contains(&self.login_backends.concurrent_max) {
            return wrong("login_backends.concurrent_max", "must be between 1 and 1000");
        }
        if let Some(endpoint) = &self.telemetry.otlp_endpoint {
            let uri = endpoint.parse::<http::Uri>().ok();
            let known = uri.is_some_and(|uri| {
                uri.host().is_some() && matches!(uri.scheme_str(), Some("http" | "https"))
            });
            if !known {
                return wrong("telemetry.otlp_endpoint", "must be a URL, http:// or https://");
            }
        }
        if !(0.0..=1.0).contains(&self.telemetry.sampling_ratio) {
            return wrong("telemetry.sampling_ratio", "must be between 0 and 1");
        }
        let connections = [
            ("pop3.connections_max", self.pop3.connections_max),
            ("lmtp.connections_max", self.lmtp.connections_max),
            ("index.connections_max", self.index.connections_max as usize),
        ];
        if let Some((path, _)) = connections.into_iter().find(|(_, most)| !(1..=1_000_000).contains(most)) {
            return wrong(path, "must be between 1 and 1000000");
        }
        if self.index.url_file.is_none() {
            self.index_url()?;
        }
        let exclusive = [
            ("index.url", self.index.url.is_some() && self.index.url_file.is_some()),
            ("admin.token", self.admin.token.is_some() && self.admin.token_file.is_some()),
            ("keys.master_key", self.keys.master_key.is_some() && self.keys.master_key_file.is_some()),
            (
                "telemetry.otlp_headers",
                self.telemetry.otlp_headers.is_some() && self.telemetry.otlp_headers_file.is_some(),
            ),
        ];
        if let Some((path, _)) = exclusive.into_iter().find(|(_, both)| *both) {
            return wrong(path, "is given twice: here and as a file");
        }
        if !self.is_embedded() && self.keys.master_key.is_none() && self.keys.master_key_file.is_none() {
            return wrong("keys.master_key_file", "is missing: it is made by itself only for embedded data");
        }
        Ok(())
    }

    fn check_proxy(&self) -> Result<(), ConfigError> {
        let believing = [
            ("pop3.proxy_protocol", self.pop3.proxy_protocol == ProxyMode::Require),
            ("pop3s.proxy_protocol", self.pop3s.proxy_protocol == ProxyMode::Require),
            ("pop3.xclient", self.pop3.xclient),
            ("lmtp.proxy_protocol", self.lmtp.proxy_protocol == ProxyMode::Require),
        ];
        if let Some((path, _)) = believing.into_iter().find(|(_, believes)| *believes)
            && self.proxy.trusted_networks.is_empty()
        {
            return Err(ConfigError::new(
                "proxy.trusted_networks",
                format!("is missing, but {path} is given"),
            ));
        }
        if self.proxy.header_timeout.is_zero() {
            return Err(ConfigError::new("proxy.header_timeout", "must be longer than nothing"));
        }
        Ok(())
    }

    /// Whether index and blobs both are on this machine, so that the master key may be made beside them.
    pub(super) fn is_embedded(&self) -> bool {
        let sqlite = match (&self.index.url, &self.index.url_file) {
            (Some(url), _) => url.expose().starts_with("sqlite:"),
            (None, url_file) => url_file.is_none(),
        };
        sqlite && self.blob.kind == BlobKind::Disk
    }
}
