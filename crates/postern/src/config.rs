//! Configuration: read once, here, from a TOML file and the environment, and turned into parsed types.
//!
//! Each key can also be given as `POSTERN__SECTION__KEY`. Unknown keys are errors, and every error names the
//! key's path.

mod error;
mod source;
mod types;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use admin_api::{ApiLimits, Rate};
use frontend::{ListenAddr, PlaintextAuth};
use maildrop::HousekeepingConfig;
use serde::Deserialize;

pub(crate) use error::ConfigError;
pub(crate) use types::Secret;
use types::{duration, list, optional_duration, optional_text, parsed, plaintext_auth, text};

/// The whole configuration.
#[derive(Debug, Clone, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    pub(crate) pop3: Pop3,
    pub(crate) pop3s: Pop3s,
    pub(crate) lmtp: Lmtp,
    pub(crate) admin: Admin,
    pub(crate) tls: Tls,
    pub(crate) index: Index,
    pub(crate) blob: Blob,
    pub(crate) pack: Pack,
    pub(crate) keys: Keys,
    pub(crate) node: Node,
    pub(crate) cluster: Cluster,
    pub(crate) worker: Worker,
    pub(crate) auth: Auth,
    pub(crate) log: Log,
    pub(crate) metrics: Metrics,
    pub(crate) telemetry: Telemetry,
}

/// POP3 in the clear, with STLS where there is a certificate.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Pop3 {
    /// Addresses, `ip:port` or `unix:/path`. Default: none.
    #[serde(deserialize_with = "list")]
    pub(crate) listen: Vec<ListenAddr>,
    /// Whether USER and PASS are taken without TLS: `never`, `loopback`, `always`. Default: `loopback`.
    #[serde(deserialize_with = "plaintext_auth")]
    pub(crate) plaintext_auth: PlaintextAuth,
    /// Longest silence before login. Default: 1 min.
    #[serde(deserialize_with = "duration")]
    pub(crate) login_timeout: Duration,
    /// Longest silence after login; not under 10 min (RFC 1939 §3). Default: 10 min.
    #[serde(deserialize_with = "duration")]
    pub(crate) idle_timeout: Duration,
    /// Longest time a client may read nothing of what it asked for. Default: 5 min.
    #[serde(deserialize_with = "duration")]
    pub(crate) write_timeout: Duration,
    /// Connections at once, of this listener and of POP3S each. Default: 20,000.
    pub(crate) connections_max: usize,
    /// Connections at once from one address; 0 for no limit. Default: 0, for behind a proxy all are one.
    pub(crate) connections_per_source_max: usize,
}

impl Default for Pop3 {
    fn default() -> Self {
        let defaults = frontend::Pop3Config::new("");
        Self {
            listen: Vec::new(),
            plaintext_auth: defaults.plaintext_auth,
            login_timeout: defaults.login_timeout,
            idle_timeout: defaults.idle_timeout,
            write_timeout: defaults.write_timeout,
            connections_max: 20_000,
            connections_per_source_max: 0,
        }
    }
}

/// POP3 over implicit TLS. Its limits and timeouts are those of `pop3`.
#[derive(Debug, Clone, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Pop3s {
    /// Addresses, `ip:port`. Default: none.
    #[serde(deserialize_with = "list")]
    pub(crate) listen: Vec<SocketAddr>,
}

/// LMTP.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Lmtp {
    /// Addresses, `ip:port` or `unix:/path`. Default: none. LMTP knows no login: listen where only MTAs reach.
    #[serde(deserialize_with = "list")]
    pub(crate) listen: Vec<ListenAddr>,
    /// The largest message taken, in octets. Default: 256 MiB; 4,000,000,000 at most.
    pub(crate) max_message_octets: u64,
    /// The most recipients of one transaction. Default: 1,000.
    pub(crate) max_recipients: usize,
    /// Longest silence (RFC 5321 §4.5.3.2.7). Default: 5 min.
    #[serde(deserialize_with = "duration")]
    pub(crate) idle_timeout: Duration,
    /// Longest time a client may take to read a reply. Default: 5 min.
    #[serde(deserialize_with = "duration")]
    pub(crate) write_timeout: Duration,
    /// Connections at once. Default: 1,000; each may hold twice `pack.solo_octets` of a message, for each
    /// tenant it goes to.
    pub(crate) connections_max: usize,
}

impl Default for Lmtp {
    fn default() -> Self {
        let defaults = frontend::LmtpConfig::new("");
        Self {
            listen: Vec::new(),
            max_message_octets: defaults.max_message_octets,
            max_recipients: defaults.max_recipients,
            idle_timeout: defaults.idle_timeout,
            write_timeout: defaults.write_timeout,
            connections_max: 1000,
        }
    }
}

/// The admin API, health and metrics.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Admin {
    /// Addresses, `ip:port`. Default: none.
    #[serde(deserialize_with = "list")]
    pub(crate) listen: Vec<SocketAddr>,
    /// The bootstrap token of the platform administrator; needed where `listen` is given.
    pub(crate) token: Option<Secret>,
    /// A file that holds it.
    pub(crate) token_file: Option<PathBuf>,
    /// Whether `/metrics` needs no key. Otherwise it needs one of the role `metrics`. Default: true.
    pub(crate) metrics_public: bool,
    /// Requests of one key, per second on the average. Default: 100.
    pub(crate) requests_per_second: u32,
    /// Requests of one key at once. Default: 200.
    pub(crate) requests_burst: u32,
}

impl Default for Admin {
    fn default() -> Self {
        let defaults = ApiLimits::default();
        Self {
            listen: Vec::new(),
            token: None,
            token_file: None,
            metrics_public: true,
            requests_per_second: defaults.requests.per_second as u32,
            requests_burst: defaults.requests.burst as u32,
        }
    }
}

/// The server's certificate; without one there is no STLS and no POP3S.
#[derive(Debug, Clone, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Tls {
    /// The chain, PEM, leaf first.
    pub(crate) certificate_file: Option<PathBuf>,
    /// The key, PEM.
    pub(crate) key_file: Option<PathBuf>,
}

/// The mailbox index.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Index {
    /// `postgres://user:password@host:port/database`, or `sqlite:FILE`. Default: SQLite under `node.data_dir`.
    pub(crate) url: Option<Secret>,
    /// A file that holds it.
    pub(crate) url_file: Option<PathBuf>,
    /// Connections to PostgreSQL at most. Default: 16.
    pub(crate) connections_max: u32,
    /// Longest wait for a connection. Default: 5 s.
    #[serde(deserialize_with = "duration")]
    pub(crate) acquire_timeout: Duration,
    /// Longest wait for a statement. Default: 15 s.
    #[serde(deserialize_with = "duration")]
    pub(crate) statement_timeout: Duration,
}

impl Default for Index {
    fn default() -> Self {
        let defaults = index::PostgresConfig::new("");
        Self {
            url: None,
            url_file: None,
            connections_max: defaults.connections_max,
            acquire_timeout: defaults.acquire_timeout,
            statement_timeout: defaults.statement_timeout,
        }
    }
}

/// What kind of object store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub(crate) enum BlobKind {
    /// A directory of this machine.
    #[default]
    Disk,
    /// An S3 bucket.
    S3,
}

/// When the S3 client adds checksums of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Checksum {
    /// Wherever the operation knows them: Amazon's default.
    WhenSupported,
    /// Only where the operation demands them: what other servers want.
    WhenRequired,
}

/// Where message bodies lie.
#[derive(Debug, Clone, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Blob {
    /// `disk` or `s3`. Default: `disk`.
    pub(crate) kind: BlobKind,
    /// For `disk`: the directory. Default: `packs` under `node.data_dir`.
    pub(crate) path: Option<PathBuf>,
    /// For `s3`: the bucket; it must exist.
    #[serde(deserialize_with = "optional_text")]
    pub(crate) bucket: Option<String>,
    /// For `s3`: put in front of every key. Default: nothing.
    #[serde(deserialize_with = "text")]
    pub(crate) prefix: String,
    /// For `s3`: default from the AWS chain.
    #[serde(deserialize_with = "optional_text")]
    pub(crate) region: Option<String>,
    /// For `s3`: the server's URL; default Amazon's.
    #[serde(deserialize_with = "optional_text")]
    pub(crate) endpoint: Option<String>,
    /// For `s3`: whether the bucket stands in the path. Default: yes with an endpoint.
    pub(crate) force_path_style: Option<bool>,
    /// For `s3`: `when_supported` or `when_required`. Default: the latter with an endpoint.
    pub(crate) checksum: Option<Checksum>,
    /// For `s3`: longest wait for a connection. Default: 3 s.
    #[serde(deserialize_with = "optional_duration")]
    pub(crate) connect_timeout: Option<Duration>,
    /// For `s3`: longest silence after a request. Default: 10 s.
    #[serde(deserialize_with = "optional_duration")]
    pub(crate) read_timeout: Option<Duration>,
    /// For `s3`: requests at once. Default: 128.
    pub(crate) requests_max: Option<usize>,
}

/// How packs are written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Pack {
    /// A message over so many sealed octets is streamed by itself. Default: 1 MiB.
    pub(crate) solo_octets: usize,
    /// Octets of a part of a streamed message; at least 5 MiB. Default: 8 MiB.
    pub(crate) part_octets: usize,
    /// Streamed messages at once; further ones wait. Default: 8.
    pub(crate) large_uploads_max: usize,
    /// zstd's level. Default: 3.
    pub(crate) compression_level: i32,
}

impl Default for Pack {
    fn default() -> Self {
        let defaults = blob::PacksConfig::default();
        Self {
            solo_octets: defaults.solo_octets,
            part_octets: defaults.part_octets,
            large_uploads_max: defaults.large_uploads_max,
            compression_level: defaults.compression_level,
        }
    }
}

/// The master key, 32 octets in base64. Default, where index and blobs are under `node.data_dir`:
/// `master-key` there, made at the first start.
#[derive(Debug, Clone, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Keys {
    /// The key.
    pub(crate) master_key: Option<Secret>,
    /// A file that holds it.
    pub(crate) master_key_file: Option<PathBuf>,
}

/// What a node does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Serves POP3 and POP3S.
    Pop3,
    /// Takes mail in.
    Lmtp,
    /// Serves the admin API. Health and metrics are served by every node that has `admin.listen`.
    Admin,
    /// Does the housekeeping.
    Worker,
}

impl std::str::FromStr for Role {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "pop3" => Ok(Self::Pop3),
            "lmtp" => Ok(Self::Lmtp),
            "admin" => Ok(Self::Admin),
            "worker" => Ok(Self::Worker),
            _ => Err("is none of \"pop3\", \"lmtp\", \"admin\" and \"worker\""),
        }
    }
}

/// This node.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Node {
    /// Its name, as greetings, `Received` and logs show it. Default: the host's name.
    #[serde(deserialize_with = "optional_text")]
    pub(crate) name: Option<String>,
    /// What it does. Default: everything.
    #[serde(deserialize_with = "list")]
    pub(crate) roles: Vec<Role>,
    /// How long sessions may go on after SIGTERM. Default: 30 s.
    #[serde(deserialize_with = "duration")]
    pub(crate) drain_timeout: Duration,
    /// Where the embedded index, blobs and keys lie. Default: `postern-data`.
    pub(crate) data_dir: PathBuf,
    /// Work under way at once for tenants: what comes beyond waits for its tenant's turn. Default: 16 a core.
    pub(crate) work_max: Option<usize>,
}

impl Default for Node {
    fn default() -> Self {
        Self {
            name: None,
            roles: vec![Role::Pop3, Role::Lmtp, Role::Admin, Role::Worker],
            drain_timeout: Duration::from_secs(30),
            data_dir: "postern-data".into(),
            work_max: None,
        }
    }
}

/// The nodes together.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Cluster {
    /// A node that is silent for so long loses its locks. Default: 15 s; at least 1 s.
    #[serde(deserialize_with = "duration")]
    pub(crate) node_ttl: Duration,
}

impl Default for Cluster {
    fn default() -> Self {
        Self { node_ttl: Duration::from_secs(15) }
    }
}

/// The housekeeping of nodes with the role `worker`; one does it at a time.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Worker {
    /// Pause between two rounds. Default: 1 min.
    #[serde(deserialize_with = "duration")]
    pub(crate) interval: Duration,
    /// Time between two searches for messages that expire. Default: 1 h.
    #[serde(deserialize_with = "duration")]
    pub(crate) expiry_interval: Duration,
    /// The deletion of a tenant is not finished sooner than this after it began. Default: 2 min.
    #[serde(deserialize_with = "duration")]
    pub(crate) deletion_grace: Duration,
}

impl Default for Worker {
    fn default() -> Self {
        let defaults = HousekeepingConfig::default();
        Self {
            interval: defaults.interval,
            expiry_interval: defaults.expiry_interval,
            deletion_grace: defaults.deletion_grace,
        }
    }
}

impl Worker {
    /// As the domain wants it.
    pub(crate) fn housekeeping(&self) -> HousekeepingConfig {
        HousekeepingConfig {
            interval: self.interval,
            expiry_interval: self.expiry_interval,
            deletion_grace: self.deletion_grace,
        }
    }
}

/// Logins.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Auth {
    /// How long a verified login is remembered. Default: 5 min. A changed password counts at once all the same.
    #[serde(deserialize_with = "duration")]
    pub(crate) verified_ttl: Duration,
    /// Logins remembered at most. Default: 100,000 (some 20 MB).
    pub(crate) verified_max: u64,
    /// Passwords hashed at once. Default: one a core.
    pub(crate) hashes_max: Option<usize>,
    /// argon2id memory in KiB. Default: 19,456.
    pub(crate) argon2_memory_kib: Option<u32>,
}

impl Default for Auth {
    fn default() -> Self {
        Self {
            verified_ttl: Duration::from_mins(5),
            verified_max: 100_000,
            hashes_max: None,
            argon2_memory_kib: None,
        }
    }
}

/// What `/metrics` shows.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Metrics {
    /// Whether there are series of single tenants. Default: no: each tenant has some ten.
    pub(crate) tenant_series: bool,
    /// How many tenants have series of their own; the others share one label. Default: 1,000.
    pub(crate) tenant_series_max: usize,
}

impl Default for Metrics {
    fn default() -> Self {
        Self { tenant_series: false, tenant_series_max: 1000 }
    }
}

/// How the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// A JSON object a line.
    #[default]
    Json,
}

/// The log, on standard error.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Log {
    /// `json` or `text`. Default: `json`.
    pub(crate) format: LogFormat,
    /// A filter such as `info` or `info,index=debug`. Default: `info`.
    #[serde(deserialize_with = "parsed")]
    pub(crate) filter: LogFilter,
    /// Whether clients' addresses are logged. Default: yes.
    pub(crate) client_addresses: bool,
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::default(), filter: LogFilter::default(), client_addresses: true }
    }
}

/// A filter directive that was read once to see that it can be.
#[derive(Debug, Clone)]
pub(crate) struct LogFilter(pub(crate) String);

impl Default for LogFilter {
    fn default() -> Self {
        Self("info".to_owned())
    }
}

impl std::str::FromStr for LogFilter {
    type Err = tracing_subscriber::filter::ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        tracing_subscriber::EnvFilter::try_new(text).map(|_| Self(text.to_owned()))
    }
}

/// Traces for a collector.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Telemetry {
    /// The collector: `http://host:4318`, OTLP over HTTP. Default: none, and nothing is sent.
    #[serde(deserialize_with = "optional_text")]
    pub(crate) otlp_endpoint: Option<String>,
    /// Headers for it, `name=value` with commas between: it may want a token.
    pub(crate) otlp_headers: Option<Secret>,
    /// A file that holds them.
    pub(crate) otlp_headers_file: Option<PathBuf>,
    /// What the spans say they come from. Default: `postern`.
    #[serde(deserialize_with = "text")]
    pub(crate) service_name: String,
    /// The share of sessions that are sent, 0 to 1. Default: 1.
    pub(crate) sampling_ratio: f64,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self {
            otlp_endpoint: None,
            otlp_headers: None,
            otlp_headers_file: None,
            service_name: "postern".to_owned(),
            sampling_ratio: 1.0,
        }
    }
}

impl Telemetry {
    /// The headers, from wherever they are given.
    pub(crate) fn headers(&self) -> Result<Vec<(String, String)>, ConfigError> {
        let path = "telemetry.otlp_headers";
        let text = Secret::from_either(self.otlp_headers.as_ref(), self.otlp_headers_file.as_deref(), path)?;
        let Some(text) = text else { return Ok(Vec::new()) };
        let pairs = text.expose().split(',').map(|pair| {
            let (name, value) = pair.split_once('=')?;
            let (name, value) = (name.trim(), value.trim());
            let good = name.parse::<http::HeaderName>().is_ok() && http::HeaderValue::from_str(value).is_ok();
            good.then(|| (name.to_owned(), value.to_owned()))
        });
        let pairs: Option<_> = pairs.collect();
        pairs.ok_or_else(|| ConfigError::new(path, "must be name=value, with commas between"))
    }
}

/// What an index's URL may be.
const INDEX_SCHEMES: &str = "must begin with postgres:// or sqlite:";

impl Config {
    /// Reads the file and the environment.
    pub(crate) fn load(file: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(file)
            .map_err(|error| ConfigError::new(file.display().to_string(), error))?;
        Self::read(&text, std::env::vars())
    }

    /// Reads a file's text and these variables.
    pub(crate) fn read(
        text: &str,
        variables: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let mut table: toml::Table = toml::from_str(text).map_err(|e| source::syntax_error(text, &e))?;
        source::overlay(&mut table, variables)?;
        let config: Self = source::deserialize(table)?;
        config.check()?;
        Ok(config)
    }

    /// What no single key can tell.
    fn check(&self) -> Result<(), ConfigError> {
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
        if !(1..=19).contains(&self.pack.compression_level) {
            return wrong("pack.compression_level", "must be between 1 and 19");
        }
        match (&self.tls.certificate_file, &self.tls.key_file) {
            (Some(_), None) => return wrong("tls.key_file", "is missing, but tls.certificate_file is given"),
            (None, Some(_)) => return wrong("tls.certificate_file", "is missing, but tls.key_file is given"),
            (None, None) if !self.pop3s.listen.is_empty() => {
                return wrong("tls.certificate_file", "is missing, but pop3s.listen is given");
            }
            _ => {}
        }
        if !self.admin.listen.is_empty() && self.admin.token.is_none() && self.admin.token_file.is_none() {
            return wrong("admin.token_file", "is missing, but admin.listen is given");
        }
        if self.blob.kind == BlobKind::S3 && self.blob.bucket.as_deref().unwrap_or("").is_empty() {
            return wrong("blob.bucket", "is missing, but blob.kind is \"s3\"");
        }
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
        if self.auth.hashes_max == Some(0) {
            return wrong("auth.hashes_max", "must be at least 1");
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

    /// Whether index and blobs both are on this machine, so that the master key may be made beside them.
    fn is_embedded(&self) -> bool {
        let sqlite = match (&self.index.url, &self.index.url_file) {
            (Some(url), _) => url.expose().starts_with("sqlite:"),
            (None, url_file) => url_file.is_none(),
        };
        sqlite && self.blob.kind == BlobKind::Disk
    }

    /// The index's URL, from wherever it is given.
    pub(crate) fn index_url(&self) -> Result<Option<Secret>, ConfigError> {
        let url =
            Secret::from_either(self.index.url.as_ref(), self.index.url_file.as_deref(), "index.url_file")?;
        let known = |url: &Secret| {
            ["postgres://", "postgresql://", "sqlite:"].iter().any(|scheme| url.expose().starts_with(scheme))
        };
        if url.as_ref().is_some_and(|url| !known(url)) {
            return Err(ConfigError::new("index.url", INDEX_SCHEMES));
        }
        Ok(url)
    }

    /// The admin token, from wherever it is given.
    pub(crate) fn admin_token(&self) -> Result<Option<admin_api::AdminToken>, ConfigError> {
        let path = "admin.token_file";
        let text = Secret::from_either(self.admin.token.as_ref(), self.admin.token_file.as_deref(), path)?;
        text.map(|text| admin_api::AdminToken::new(text.expose()).map_err(|e| ConfigError::new(path, e)))
            .transpose()
    }

    /// How much may be sent to the admin API.
    pub(crate) fn api_limits(&self) -> ApiLimits {
        let requests = Rate {
            per_second: f64::from(self.admin.requests_per_second),
            burst: f64::from(self.admin.requests_burst),
        };
        let message_octets_max = self.lmtp.max_message_octets;
        ApiLimits { requests, message_octets_max, ..ApiLimits::default() }
    }

    /// The master key, from wherever it is given.
    pub(crate) fn master_key(&self) -> Result<Option<blob::MasterKey>, ConfigError> {
        let path = "keys.master_key_file";
        let file = self.keys.master_key_file.as_deref();
        let text = Secret::from_either(self.keys.master_key.as_ref(), file, path)?;
        text.map(|text| blob::MasterKey::parse(text.expose()).map_err(|e| ConfigError::new(path, e)))
            .transpose()
    }

    /// The certificate, if there is one.
    pub(crate) fn tls_identity(&self) -> Result<Option<frontend::TlsIdentity>, ConfigError> {
        let (Some(certificate), Some(key)) = (&self.tls.certificate_file, &self.tls.key_file) else {
            return Ok(None);
        };
        let identity = frontend::TlsIdentity::load(certificate, key);
        Ok(Some(identity.map_err(|error| ConfigError::new("tls.certificate_file", Chain(&error)))?))
    }

    /// Reads every file the configuration names, so that `check-config` finds what `serve` would.
    pub(crate) fn check_files(&self) -> Result<(), ConfigError> {
        self.index_url()?;
        self.admin_token()?;
        self.master_key()?;
        self.tls_identity()?;
        self.telemetry.headers()?;
        blob::BlobLayout::new(&self.blob.prefix).map_err(|e| ConfigError::new("blob.prefix", e))?;
        Ok(())
    }

    /// Whether this node has a role.
    pub(crate) fn has_role(&self, role: Role) -> bool {
        self.node.roles.contains(&role)
    }
}

/// An error with its causes, on one line.
pub(crate) struct Chain<'a>(pub(crate) &'a (dyn std::error::Error + 'a));

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
