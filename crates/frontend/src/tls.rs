//! Certificates and what is negotiated with them: TLS 1.2 and 1.3.

use std::{path::Path, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use crate::stream::Stream;

/// Longest time for a handshake: some round trips over a bad line.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);

/// The server's certificate and key. Reloading swaps them for new connections; open ones go on.
#[derive(Clone, Debug)]
pub struct TlsIdentity {
    config: Arc<ArcSwap<ServerConfig>>,
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

impl TlsIdentity {
    /// Reads a certificate chain and its key from PEM files.
    pub fn load(certificate_file: &Path, key_file: &Path) -> Result<Self, TlsError> {
        Ok(Self { config: Arc::new(ArcSwap::from_pointee(server_config(certificate_file, key_file)?)) })
    }

    /// Reads them again. On an error the former ones stay in use.
    pub fn reload(&self, certificate_file: &Path, key_file: &Path) -> Result<(), TlsError> {
        self.config.store(Arc::new(server_config(certificate_file, key_file)?));
        Ok(())
    }

    /// Shakes hands with a client.
    pub(crate) async fn accept(&self, stream: TcpStream) -> std::io::Result<Stream> {
        let accept = TlsAcceptor::from(self.config.load_full()).accept(stream);
        match tokio::time::timeout(HANDSHAKE_TIMEOUT, accept).await {
            Ok(Ok(stream)) => Ok(Stream::Tls(Box::new(stream))),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(std::io::ErrorKind::TimedOut.into()),
        }
    }
}

fn server_config(certificate_file: &Path, key_file: &Path) -> Result<ServerConfig, TlsError> {
    let problem = |file: &Path, problem: &dyn std::fmt::Display| TlsError::File {
        file: file.display().to_string(),
        problem: problem.to_string(),
    };
    let chain: Vec<_> = CertificateDer::pem_file_iter(certificate_file)
        .and_then(Iterator::collect)
        .map_err(|error| problem(certificate_file, &error))?;
    if chain.is_empty() {
        return Err(problem(certificate_file, &"holds no certificate"));
    }
    let key = PrivateKeyDer::from_pem_file(key_file).map_err(|error| problem(key_file, &error))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"pop3".to_vec()];
    // Resumption by ticket: nothing to remember per client.
    config.ticketer = aws_lc_rs::Ticketer::new()?;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    Ok(config)
}
