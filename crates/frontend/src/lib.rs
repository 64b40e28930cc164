//! Listeners, TLS, limits and drain: what stands between sockets and the protocol cores.
//!
//! ```text
//!   Server ── accept ── PROXY header, where one is due ──► Stream (TCP, TLS, Unix) ──► Wire (lines in, octets out)
//!                                                                                        │
//!                            pop3::serve drives pop3-proto, lmtp::serve drives lmtp-proto
//! ```

mod drain;
#[doc(hidden)]
pub mod fuzzing;
mod listen;
mod lmtp;
mod metrics;
mod pop3;
mod proxy;
mod seats;
mod sessions;
mod silence;
mod stream;
mod tcp_info;
mod tls;
mod wire;

pub use auth::{Network, NetworkError, Networks};
pub use drain::{Drain, DrainHandle};
pub use listen::{Bound, ListenAddr, ListenAddrError, Server};
pub use lmtp::{LmtpConfig, LmtpService};
pub use metrics::{Metrics, TenantSeries};
pub use pop3::{PlaintextAuth, Pop3Config, Pop3Service, Tenancy};
pub use proxy::ProxyProtocol;
pub use seats::Limits;
pub use sessions::Sessions;
pub use tls::{
    CertificateFiles, ClientAuth, HostCertificates, Reloaded, TicketSecret, TlsConfig, TlsError, TlsIdentity,
};
