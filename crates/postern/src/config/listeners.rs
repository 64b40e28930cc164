//! What listens, for whom, and how clients log in.

use std::{net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use admin_api::ApiLimits;
use auth::HostPattern;
use frontend::{ListenAddr, Network, PlaintextAuth};
use maildrop::LoginMechanism;
use serde::Deserialize;

use super::{
    tls::AskClients,
    types::{Secret, duration, list, mechanisms, optional, optional_domain, parsed, plaintext_auth},
};

/// Loopback, RFC 1918, RFC 4193, and link-local addresses.
const PRIVATE: [&str; 8] = [
    "127.0.0.0/8",
    "::1",
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "169.254.0.0/16",
    "fc00::/7",
    "fe80::/10",
];

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
    /// The ways to log in that are offered besides USER and PASS, POP3S included. Default: `PLAIN`, `LOGIN`.
    #[serde(deserialize_with = "mechanisms")]
    pub(crate) mechanisms: Vec<LoginMechanism>,
    /// Whether connections over TCP begin with a PROXY header: `off`, `require`. Default: `off`.
    #[serde(deserialize_with = "parsed")]
    pub(crate) proxy_protocol: ProxyMode,
    /// The chain presented here (by STLS), PEM. Default: that of `[tls]`.
    pub(crate) certificate_file: Option<PathBuf>,
    /// Its key, PEM.
    pub(crate) key_file: Option<PathBuf>,
    /// Whether clients are asked for certificates here: `off`, `optional`, `required`. Default: as `[tls]` says.
    #[serde(deserialize_with = "optional")]
    pub(crate) client_auth: Option<AskClients>,
    /// The authorities that sign clients' certificates, PEM. Default: those of `[tls]`.
    pub(crate) client_ca_file: Option<PathBuf>,
    /// Whether trusted proxies may say for whom they log in, by XCLIENT or XOIP. Holds for POP3S, too.
    /// Default: false.
    pub(crate) xclient: bool,
    /// Longest silence before login. Default: 1 min.
    #[serde(deserialize_with = "duration")]
    pub(crate) login_timeout: Duration,
    /// Longest silence after login; not under 10 min (RFC 1939 §3). Default: 10 min.
    #[serde(deserialize_with = "duration")]
    pub(crate) idle_timeout: Duration,
    /// Longest time a client may read nothing of what it asked for. Default: 5 min.
    #[serde(deserialize_with = "duration")]
    pub(crate) write_timeout: Duration,
    /// The domain of login names that have none. Default: none.
    #[serde(deserialize_with = "optional_domain")]
    pub(crate) default_domain: Option<String>,
    /// Connections at once, of this listener and of POP3S each. Default: 20,000.
    pub(crate) connections_max: usize,
    /// Connections at once from one source (an IPv4 address, an IPv6 /64; four times as many from a /48), of this
    /// listener and of POP3S each; 0 for no limit. Default: 500.
    pub(crate) connections_per_source_max: usize,
    /// Those of them that have not logged in; 0 for no limit. Default: 50. There is none for a day after somebody logged
    /// in from there.
    pub(crate) strangers_per_source_max: usize,
    /// Sources without such limits: those behind which there are many. Default: this machine and private networks, where
    /// balancers are that do not say for whom they connect. Trusted proxies have none either.
    #[serde(deserialize_with = "list")]
    pub(crate) uncapped_networks: Vec<Network>,
}

impl Default for Pop3 {
    fn default() -> Self {
        let defaults = frontend::Pop3Config::new("");
        Self {
            listen: Vec::new(),
            plaintext_auth: defaults.plaintext_auth,
            mechanisms: defaults.mechanisms,
            proxy_protocol: ProxyMode::default(),
            certificate_file: None,
            key_file: None,
            client_auth: None,
            client_ca_file: None,
            xclient: false,
            login_timeout: defaults.login_timeout,
            idle_timeout: defaults.idle_timeout,
            write_timeout: defaults.write_timeout,
            default_domain: None,
            connections_max: 20_000,
            connections_per_source_max: 500,
            strangers_per_source_max: 50,
            uncapped_networks: PRIVATE.iter().filter_map(|network| network.parse().ok()).collect(),
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
    /// Whether connections begin with a PROXY header: `off`, `require`. Default: `off`.
    #[serde(deserialize_with = "parsed")]
    pub(crate) proxy_protocol: ProxyMode,
    /// The domain of login names that have none. Default: that of `pop3`.
    #[serde(deserialize_with = "optional_domain")]
    pub(crate) default_domain: Option<String>,
    /// The chain presented here, PEM. Default: that of `[tls]`.
    pub(crate) certificate_file: Option<PathBuf>,
    /// Its key, PEM.
    pub(crate) key_file: Option<PathBuf>,
    /// Whether clients are asked for certificates here: `off`, `optional`, `required`. Default: as `[tls]` says.
    #[serde(deserialize_with = "optional")]
    pub(crate) client_auth: Option<AskClients>,
    /// The authorities that sign clients' certificates, PEM. Default: those of `[tls]`.
    pub(crate) client_ca_file: Option<PathBuf>,
}

/// LMTP.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Lmtp {
    /// Addresses, `ip:port` or `unix:/path`. Default: none. LMTP knows no login: listen where only MTAs reach.
    #[serde(deserialize_with = "list")]
    pub(crate) listen: Vec<ListenAddr>,
    /// Whether connections over TCP begin with a PROXY header: `off`, `require`. Default: `off`.
    #[serde(deserialize_with = "parsed")]
    pub(crate) proxy_protocol: ProxyMode,
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
            proxy_protocol: ProxyMode::default(),
            max_message_octets: defaults.max_message_octets,
            max_recipients: defaults.max_recipients,
            idle_timeout: defaults.idle_timeout,
            write_timeout: defaults.write_timeout,
            connections_max: 1000,
        }
    }
}

/// Whether a listener is behind proxies that say for whom they connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum ProxyMode {
    /// It is not: connections begin as the protocol has it.
    #[default]
    Off,
    /// It is, and whoever connects otherwise is closed.
    Require,
}

impl FromStr for ProxyMode {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "off" => Ok(Self::Off),
            "require" => Ok(Self::Require),
            _ => Err("is none of \"off\" and \"require\""),
        }
    }
}

/// Proxies in front of the listeners.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Proxy {
    /// Who is believed when it says for whom it speaks. Default: nobody.
    #[serde(deserialize_with = "list")]
    pub(crate) trusted_networks: Vec<Network>,
    /// Longest time for a PROXY header to come. Default: 5 s: it is the first thing a proxy sends.
    #[serde(deserialize_with = "duration")]
    pub(crate) header_timeout: Duration,
}

impl Default for Proxy {
    fn default() -> Self {
        Self { trusted_networks: Vec::new(), header_timeout: Duration::from_secs(5) }
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
    /// How long the answer to a first refused login waits; it doubles. Default: 500 ms; zero: none waits.
    #[serde(deserialize_with = "duration")]
    pub(crate) failure_delay: Duration,
    /// The longest wait of such an answer. Default: 15 s.
    #[serde(deserialize_with = "duration")]
    pub(crate) failure_delay_max: Duration,
}

impl Default for Auth {
    fn default() -> Self {
        let defaults = auth::PenaltyConfig::default();
        Self {
            verified_ttl: Duration::from_mins(5),
            verified_max: 100_000,
            hashes_max: None,
            argon2_memory_kib: None,
            failure_delay: defaults.first,
            failure_delay_max: defaults.max,
        }
    }
}

/// What tenants may have their logins verified by: servers whose addresses they give.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct LoginBackends {
    /// Networks they may reach though these are not public: loopback, private, link-local. What is listed here may be
    /// reached in the clear, too. Default: none.
    #[serde(deserialize_with = "list")]
    pub(crate) allowed_networks: Vec<Network>,
    /// Hosts they may reach wherever the names lead, also in the clear; `*.` in front for all below. Default: none.
    #[serde(deserialize_with = "list")]
    pub(crate) allowed_hosts: Vec<HostPattern>,
    /// Whether public addresses may be reached, encrypted. Default: true.
    pub(crate) allow_public: bool,
    /// Where the operator keeps files with tenants' secrets, in a directory for each tenant's name. Default: none.
    pub(crate) secrets_dir: Option<PathBuf>,
    /// Questions of one tenant under way at once. Default: 8.
    pub(crate) concurrent_max: usize,
    /// Logins of one tenant that may wait for their turn. Default: 256.
    pub(crate) waiting_max: usize,
}

impl Default for LoginBackends {
    fn default() -> Self {
        let defaults = auth::BackendsConfig::default();
        Self {
            allowed_networks: Vec::new(),
            allowed_hosts: Vec::new(),
            allow_public: true,
            secrets_dir: None,
            concurrent_max: defaults.concurrent_max,
            waiting_max: defaults.waiting_max,
        }
    }
}
