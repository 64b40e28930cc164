//! TLS: a certificate for the measured servers, and a client that makes a full handshake each time,
//! or resumes sessions where it is told to.

use std::{fs, net::SocketAddr, path::Path, path::PathBuf, sync::Arc};

use anyhow::Context as _;
use rustls::{ClientConfig, RootCertStore, client::Resumption, pki_types::ServerName};
use tokio_rustls::TlsConnector;

use super::wire::{Wire, tcp};

/// A self-signed certificate and its key, as files, and who trusts it.
#[derive(Clone)]
pub(crate) struct Identity {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    connector: TlsConnector,
    /// The same, by tickets.
    resuming: TlsConnector,
}

impl Identity {
    /// Makes one (ECDSA P-256).
    pub(crate) fn make(dir: &Path) -> anyhow::Result<Self> {
        let made =
            rcgen::generate_simple_self_signed(["localhost".to_owned()]).context("make certificate")?;
        let (certificate, key) = (dir.join("cert.pem"), dir.join("key.pem"));
        fs::write(&certificate, made.cert.pem()).context("write certificate")?;
        fs::write(&key, made.signing_key.serialize_pem()).context("write key")?;
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).context("trust certificate")?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .context("choose TLS versions")?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let resuming = TlsConnector::from(Arc::new(config.clone()));
        config.resumption = Resumption::disabled();
        Ok(Self { certificate, key, connector: TlsConnector::from(Arc::new(config)), resuming })
    }

    /// As a client that resumes the session it had before.
    pub(crate) fn resuming(&self) -> Self {
        Self { connector: self.resuming.clone(), ..self.clone() }
    }

    /// Connects with TLS from the first octet on.
    pub(crate) async fn connect(
        &self,
        address: SocketAddr,
        source: Option<SocketAddr>,
    ) -> anyhow::Result<Wire> {
        let name = ServerName::try_from("localhost").context("name server")?;
        let stream = tcp(address, source).await?;
        Ok(Wire::new(self.connector.connect(name, stream).await.context("TLS handshake")?))
    }
}
