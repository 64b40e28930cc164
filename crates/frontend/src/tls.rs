//! Certificates and what is negotiated with them: TLS 1.2 and 1.3.
//!
//! ```text
//!   ClientHello ── no name, or one the node's certificate is for ──► the node's certificate
//!        └─ any other name ── HostCertificates ── a tenant's host ──► the tenant's, and its greeting
//!                                     └─ nobody's, or no answer ────► the node's certificate
//! ```

mod hosts;

use std::{path::Path, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use rustls::{
    ServerConfig,
    client::verify_server_name,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
    server::{Acceptor, NoServerSessionStorage, ParsedCertificate, ProducesTickets},
};
use tokio::net::TcpStream;
use tokio_rustls::LazyConfigAcceptor;

pub use hosts::HostCertificates;
pub(crate) use hosts::HostFace;

use crate::stream::Stream;

/// Longest time for a handshake: some round trips over a bad line.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);

/// The server's certificate and key, and those of tenants where there are any. Reloading swaps the server's
/// for new connections; open ones go on.
#[derive(Clone, Debug)]
pub struct TlsIdentity {
    own: Arc<ArcSwap<Own>>,
    hosts: Option<HostCertificates>,
}

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or holds no PEM of the kind.
    #[error("{file}: {problem}")]
    File {
        /// The file.
        file: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Certificate and key do not belong together, or are of a kind that is not supported.
    #[error("certificate and key cannot be used")]
    Pair(#[from] rustls::Error),
}

/// A connection to talk over.
#[derive(Debug)]
pub(crate) struct Accepted {
    /// What carries it.
    pub(crate) stream: Stream,
    /// What the tenant has to say whose host was asked for.
    pub(crate) face: Option<Arc<HostFace>>,
}

impl TlsIdentity {
    /// Reads a certificate chain and its key from PEM files.
    pub fn load(certificate_file: &Path, key_file: &Path) -> Result<Self, TlsError> {
        let own = Own::load(certificate_file, key_file)?;
        Ok(Self { own: Arc::new(ArcSwap::from_pointee(own)), hosts: None })
    }

    /// Presents tenants' certificates to clients that ask for their hosts (SNI, RFC 6066 §3).
    #[must_use]
    pub fn with_hosts(self, hosts: HostCertificates) -> Self {
        Self { hosts: Some(hosts), ..self }
    }

    /// Reads the server's certificate and key again. On an error the former ones stay in use.
    pub fn reload(&self, certificate_file: &Path, key_file: &Path) -> Result<(), TlsError> {
        self.own.store(Arc::new(Own::load(certificate_file, key_file)?));
        Ok(())
    }

    /// What the tenant has to say whose host this is, if it is one's.
    pub(crate) async fn face(&self, host: &str) -> Option<Arc<HostFace>> {
        self.choose(host_of(host).as_deref()).await.1
    }

    /// Shakes hands with a client.
    pub(crate) async fn accept(&self, stream: TcpStream) -> std::io::Result<Accepted> {
        match tokio::time::timeout(HANDSHAKE_TIMEOUT, self.shake_hands(stream)).await {
            Ok(accepted) => accepted,
            Err(_) => Err(std::io::ErrorKind::TimedOut.into()),
        }
    }

    async fn shake_hands(&self, stream: TcpStream) -> std::io::Result<Accepted> {
        let hello = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        let host = hello.client_hello().server_name().and_then(host_of);
        let (config, face) = self.choose(host.as_deref()).await;
        let stream = hello.into_stream(config).await?;
        Ok(Accepted { stream: Stream::Tls(Box::new(stream)), face })
    }

    /// What is negotiated with a client that asks for `host`, and what its tenant has to say.
    async fn choose(&self, host: Option<&str>) -> (Arc<ServerConfig>, Option<Arc<HostFace>>) {
        let own = self.own.load_full();
        // The node's own name is never a tenant's to answer for, even where it is within a tenant's domain.
        if let (Some(hosts), Some(host)) = (&self.hosts, host)
            && !own.covers(host)
            && let Some(host) = hosts.get(host).await
        {
            return (Arc::clone(&host.config), Some(Arc::clone(&host.face)));
        }
        (Arc::clone(&own.config), None)
    }
}

/// A name a client asks for as hosts are known by: in lower case, without the dot of the root.
fn host_of(name: &str) -> Option<String> {
    // The most a name can have (RFC 1035 §2.3.4, without its length octets). It becomes a key of the cache.
    const OCTETS_MAX: usize = 253;
    let name = name.strip_suffix('.').unwrap_or(name);
    (1..=OCTETS_MAX).contains(&name.len()).then(|| name.to_ascii_lowercase())
}

/// The server's own certificate.
#[derive(Debug)]
struct Own {
    config: Arc<ServerConfig>,
    leaf: CertificateDer<'static>,
}

impl Own {
    fn load(certificate_file: &Path, key_file: &Path) -> Result<Self, TlsError> {
        let problem = |file: &Path, problem: &dyn std::fmt::Display| TlsError::File {
            file: file.display().to_string(),
            problem: problem.to_string(),
        };
        let chain: Vec<_> = CertificateDer::pem_file_iter(certificate_file)
            .and_then(Iterator::collect)
            .map_err(|error| problem(certificate_file, &error))?;
        let Some(leaf) = chain.first().cloned() else {
            return Err(problem(certificate_file, &"holds no certificate"));
        };
        let key = PrivateKeyDer::from_pem_file(key_file).map_err(|error| problem(key_file, &error))?;
        Ok(Self { config: Arc::new(Terms::new()?.config(chain, key)?), leaf })
    }

    /// Whether this certificate is for `host`.
    fn covers(&self, host: &str) -> bool {
        // A certificate without names of its own (subjectAltName) is for no host a client can check.
        let Ok(leaf) = ParsedCertificate::try_from(&self.leaf) else { return false };
        ServerName::try_from(host).is_ok_and(|host| verify_server_name(&leaf, &host).is_ok())
    }
}

/// What is negotiated, whichever the certificate.
#[derive(Debug)]
struct Terms {
    provider: Arc<CryptoProvider>,
    ticketer: Arc<dyn ProducesTickets>,
}

impl Terms {
    fn new() -> Result<Self, rustls::Error> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        Ok(Self { provider, ticketer: aws_lc_rs::Ticketer::new()? })
    }

    /// These terms with a certificate.
    fn config(
        &self,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<ServerConfig, rustls::Error> {
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        config.alpn_protocols = vec![b"pop3".to_vec()];
        // Resumption by ticket: nothing to remember per client.
        config.ticketer = Arc::clone(&self.ticketer);
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_known_by_their_plain_name() {
        assert_eq!(host_of("Mail.One.TEST").as_deref(), Some("mail.one.test"));
        assert_eq!(host_of("mail.one.test.").as_deref(), Some("mail.one.test"));
        assert_eq!(host_of(&"a".repeat(253)).map(|host| host.len()), Some(253));
        for bad in ["", ".", &"a".repeat(254)] {
            assert_eq!(host_of(bad), None, "{bad}");
        }
    }
}
