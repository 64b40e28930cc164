//! Certificates and what is negotiated with them: TLS 1.2 and 1.3.
//!
//! ```text
//!   ClientHello ── no name, or one the node's certificate is for ──► the node's certificate
//!        └─ any other name ── HostCertificates ── a tenant's host ──► the tenant's, and its greeting
//!                                     └─ nobody's, or no answer ────► the node's certificate
//! ```

mod client;
mod end_point;
mod files;
mod hosts;
mod staple;
mod terms;
mod tickets;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use rustls::server::Acceptor;
use tokio::net::TcpStream;
use tokio_rustls::LazyConfigAcceptor;
use tracing::{error, info, warn};

pub(crate) use client::addresses;
pub use files::CertificateFiles;
pub use hosts::HostCertificates;
pub(crate) use hosts::HostFace;
pub use terms::ClientAuth;
pub(crate) use terms::Served;
pub use tickets::TicketSecret;

use crate::{Metrics, stream::Stream};
use files::FromFiles;
use terms::Terms;

/// Longest time for a handshake: some round trips over a bad line.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);

/// What a listener presents, and asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsConfig {
    /// The certificate for whoever asks for no other.
    pub certificate: CertificateFiles,
    /// Further ones, for those who ask for their names (SNI).
    pub further: Vec<CertificateFiles>,
    /// Whether clients show certificates.
    pub clients: ClientAuth,
}

impl TlsConfig {
    /// One certificate, and nothing asked of clients.
    pub fn new(certificate: CertificateFiles) -> Self {
        Self { certificate, further: Vec::new(), clients: ClientAuth::Off }
    }

    fn files(&self) -> impl Iterator<Item = &CertificateFiles> {
        std::iter::once(&self.certificate).chain(&self.further)
    }
}

/// The server's certificates and keys, and those of tenants where there are any. Reloading swaps the server's
/// for new connections; open ones go on. Cheap to clone: all share them.
#[derive(Clone, Debug)]
pub struct TlsIdentity {
    config: Arc<TlsConfig>,
    tickets: Option<TicketSecret>,
    now: Arc<ArcSwap<Now>>,
    /// What was found in files that could not be used, so that each is told of once. Held while they are read.
    bad: Arc<Mutex<Bad>>,
    hosts: Option<HostCertificates>,
}

/// What is presented now.
#[derive(Debug)]
struct Now {
    terms: Arc<Terms>,
    /// In the order of the configuration, with what tells their content from another.
    own: Vec<([u8; 32], FromFiles)>,
}

/// For each certificate, and at last for the authorities of clients, what was told of it.
type Bad = Vec<Option<String>>;

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

/// What came of looking at files again.
#[derive(Debug, Default)]
pub struct Reloaded {
    /// The chains of certificates that are presented from now on.
    pub changed: Vec<PathBuf>,
    /// What cannot be used, with what was there before still in use.
    pub failures: Vec<TlsError>,
    /// What is used all the same.
    pub complaints: Vec<String>,
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
    /// Reads the certificates. Where there is no secret for tickets no session is resumed.
    pub fn load(config: TlsConfig, tickets: Option<TicketSecret>) -> Result<Self, TlsError> {
        let terms = Arc::new(Terms::new(&config.clients, tickets.clone())?);
        let mut own = Vec::new();
        for files in config.files() {
            let content = files.read()?;
            own.push((content.fingerprint(), FromFiles::load(files, &content, &terms)?));
        }
        let bad = vec![None; own.len() + 1];
        Ok(Self {
            config: Arc::new(config),
            tickets,
            now: Arc::new(ArcSwap::from_pointee(Now { terms, own })),
            bad: Arc::new(Mutex::new(bad)),
            hosts: None,
        })
    }

    /// Presents tenants' certificates to clients that ask for their hosts (SNI, RFC 6066 §3). They are this
    /// identity's alone, for the same is asked of clients whomever they ask for.
    #[must_use]
    pub fn with_hosts(self, hosts: HostCertificates) -> Self {
        hosts.present_under(&self.now.load().terms);
        Self { hosts: Some(hosts), ..self }
    }

    /// Looks at the files again. What cannot be used leaves what was there before in use, and is told of when it is
    /// news, or if `again`.
    pub fn reload(&self, again: bool) -> Reloaded {
        let mut bad = self.bad.lock().unwrap_or_else(PoisonError::into_inner);
        let mut reloaded = Reloaded::default();
        let now = self.now.load_full();
        let mut good = Vec::with_capacity(now.own.len() + 1);
        let mut tell = |place: usize, error: TlsError| {
            let Some(told) = bad.get_mut(place) else { return };
            let text = error.to_string();
            if again || told.as_ref() != Some(&text) {
                reloaded.failures.push(error);
            }
            *told = Some(text);
        };
        let terms = match Terms::new(&self.config.clients, self.tickets.clone()) {
            Ok(terms) => {
                good.push(now.own.len());
                if terms.are_for_clients_of(&now.terms) { Arc::clone(&now.terms) } else { Arc::new(terms) }
            }
            Err(error) => {
                tell(now.own.len(), error);
                Arc::clone(&now.terms)
            }
        };
        let other_terms = !Arc::ptr_eq(&terms, &now.terms);
        let mut own = Vec::with_capacity(now.own.len());
        let mut changed = other_terms;
        for (place, (files, former)) in self.config.files().zip(&now.own).enumerate() {
            let found = files.read().and_then(|content| {
                let fingerprint = content.fingerprint();
                if fingerprint == former.0 && !other_terms {
                    return Ok(None);
                }
                Ok(Some((fingerprint, FromFiles::load(files, &content, &terms)?)))
            });
            match found {
                Ok(Some(found)) => {
                    reloaded.changed.push(files.chain.clone());
                    reloaded.complaints.extend(found.1.complaint.clone());
                    good.push(place);
                    changed = true;
                    own.push(found);
                }
                Ok(None) => {
                    good.push(place);
                    own.push(former.clone());
                }
                Err(error) => {
                    tell(place, error);
                    // The former certificate, but not for the former clients.
                    let under_terms = other_terms.then(|| former.1.under(&terms).ok()).flatten();
                    own.push((former.0, under_terms.unwrap_or_else(|| former.1.clone())));
                }
            }
        }
        for place in good {
            bad[place] = None;
        }
        if changed {
            self.now.store(Arc::new(Now { terms: Arc::clone(&terms), own }));
        }
        if let Some(hosts) = self.hosts.as_ref().filter(|_| other_terms) {
            hosts.present_under(&terms);
        }
        reloaded
    }

    /// [Reloads](Self::reload), and tells the log and the metrics what came of it.
    pub async fn refresh(&self, metrics: &Metrics, again: bool) {
        let this = self.clone();
        // Files may lie on a disk that stands still.
        let Ok(reloaded) = tokio::task::spawn_blocking(move || this.reload(again)).await else {
            return error!("certificates could not be looked at");
        };
        for file in &reloaded.changed {
            info!(file = %file.display(), "certificate was reloaded");
        }
        for complaint in &reloaded.complaints {
            warn!(complaint, "certificate is used all the same");
        }
        for failure in &reloaded.failures {
            error!(error = failure as &dyn std::error::Error, "certificate stays as it was");
        }
        let counted = &metrics.tls.reloads;
        counted.with_label_values(&["ok"]).inc_by(reloaded.changed.len() as u64);
        counted.with_label_values(&["failed"]).inc_by(reloaded.failures.len() as u64);
        self.show(metrics);
    }

    /// Shows in the metrics until when certificates are valid, and tells the log what is wrong with them.
    pub fn introduce(&self, metrics: &Metrics) {
        for (_, own) in &self.now.load().own {
            if let Some(complaint) = &own.complaint {
                warn!(complaint, "certificate is used all the same");
            }
        }
        self.show(metrics);
    }

    fn show(&self, metrics: &Metrics) {
        for (files, (_, own)) in self.config.files().zip(&self.now.load().own) {
            let file = files.chain.display().to_string();
            metrics.tls.expires.with_label_values(&[file.as_str()]).set(own.not_after);
        }
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
        let (served, face) = self.choose(host.as_deref()).await;
        let stream = hello.into_stream(Arc::clone(&served.config)).await?;
        Ok(Accepted { stream: Stream::Tls(Box::new(stream), served), face })
    }

    /// What is presented to a client that asks for `host`, and what its tenant has to say.
    async fn choose(&self, host: Option<&str>) -> (Arc<Served>, Option<Arc<HostFace>>) {
        let now = self.now.load_full();
        if let Some(host) = host {
            // The node's own names are never a tenant's to answer for, even where they are within a tenant's domain.
            if let Some((_, own)) = now.own.iter().find(|(_, own)| own.covers(host)) {
                return (Arc::clone(&own.served), None);
            }
            if let Some(hosts) = &self.hosts
                && let Some(host) = hosts.get(host).await
            {
                return (Arc::clone(&host.served), Some(Arc::clone(&host.face)));
            }
        }
        // There is always a first: `load` reads one, and `reload` keeps as many as there are.
        (Arc::clone(&now.own[0].1.served), None)
    }
}

/// A name a client asks for as hosts are known by: in lower case, without the dot of the root.
fn host_of(name: &str) -> Option<String> {
    // The most a name can have (RFC 1035 §2.3.4, without its length octets). It becomes a key of the cache.
    const OCTETS_MAX: usize = 253;
    let name = name.strip_suffix('.').unwrap_or(name);
    (1..=OCTETS_MAX).contains(&name.len()).then(|| name.to_ascii_lowercase())
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
