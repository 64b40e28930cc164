//! What is negotiated, whichever the certificate: TLS 1.2 and 1.3, ALPN, tickets, and who has to show one, too.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    RootCertStore, ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{
        ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier,
        danger::ClientCertVerifier,
    },
    sign::CertifiedKey,
};

use super::{
    TlsError, end_point,
    files::{certified, fingerprint, problem},
    staple::Staple,
    tickets::{TicketSecret, Tickets},
};

/// Whether clients show certificates.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ClientAuth {
    /// They are not asked.
    #[default]
    Off,
    /// They are asked, and one that shows none is served all the same. What they show is signed by an authority in
    /// this file (PEM).
    Optional(PathBuf),
    /// One that shows none is refused.
    Required(PathBuf),
}

impl ClientAuth {
    pub(super) fn file(&self) -> Option<&Path> {
        match self {
            Self::Off => None,
            Self::Optional(file) | Self::Required(file) => Some(file),
        }
    }
}

/// What is negotiated, whichever the certificate.
#[derive(Debug)]
pub(super) struct Terms {
    pub(super) provider: Arc<CryptoProvider>,
    tickets: Option<TicketSecret>,
    clients: Option<Arc<dyn ClientCertVerifier>>,
    /// Tells the rules for clients from others: a ticket does not lead from some to others.
    clients_are: [u8; 32],
}

/// A certificate as it is presented.
#[derive(Debug)]
pub(crate) struct Served {
    /// What is negotiated.
    pub(crate) config: Arc<ServerConfig>,
    /// The certificate itself.
    pub(crate) leaf: CertificateDer<'static>,
    /// What binds a login to it (`tls-server-end-point`), where anything does.
    pub(crate) end_point: Option<Vec<u8>>,
}

impl Terms {
    /// Terms for these clients. Without a secret there are no tickets.
    pub(super) fn new(clients: &ClientAuth, tickets: Option<TicketSecret>) -> Result<Self, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let Some(file) = clients.file() else {
            return Ok(Self { provider, tickets, clients: None, clients_are: [0; 32] });
        };
        let octets = fs::read(file).map_err(|error| problem(file, &error))?;
        let authorities: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&octets).collect();
        let mut roots = RootCertStore::empty();
        for authority in authorities.map_err(|error| problem(file, &error))? {
            roots.add(authority).map_err(|error| problem(file, &error))?;
        }
        if roots.is_empty() {
            return Err(problem(file, &"holds no certificate"));
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        let (verifier, word): (_, &[u8]) = match clients {
            ClientAuth::Required(_) => (verifier, b"required"),
            ClientAuth::Off | ClientAuth::Optional(_) => (verifier.allow_unauthenticated(), b"optional"),
        };
        let verifier = verifier.build().map_err(|error| problem(file, &error))?;
        let clients_are = fingerprint(&[word, &octets]);
        Ok(Self { provider, tickets, clients: Some(verifier), clients_are })
    }

    /// Whether these are terms for the same clients.
    pub(super) fn are_for_clients_of(&self, other: &Self) -> bool {
        self.clients_are == other.clients_are
    }

    /// Presents a certificate. Its tickets are good for it alone, as `scope` says whose it is.
    pub(super) fn serve(
        &self,
        leaf: CertificateDer<'static>,
        presents: Presents,
        scope: &[u8],
    ) -> Result<Served, TlsError> {
        let builder = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()?;
        let builder = match &self.clients {
            Some(verifier) => builder.with_client_cert_verifier(Arc::clone(verifier)),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(Arc::new(presents));
        config.alpn_protocols = vec![b"pop3".to_vec()];
        // Resumption by ticket: nothing to remember per client.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        match &self.tickets {
            Some(secret) => {
                let scope = fingerprint(&[scope, &leaf, &self.clients_are]);
                config.ticketer = Arc::new(Tickets::new(secret.clone(), scope));
            }
            None => config.send_tls13_tickets = 0,
        }
        let end_point = end_point::hash(&leaf);
        Ok(Served { config: Arc::new(config), leaf, end_point })
    }
}

/// Presents one certificate, with its OCSP response while that is fresh.
#[derive(Debug, Clone)]
pub(super) struct Presents {
    bare: Arc<CertifiedKey>,
    stapled: Option<(Arc<CertifiedKey>, Staple)>,
}

impl Presents {
    pub(super) fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        staple: Option<Staple>,
        provider: &CryptoProvider,
    ) -> Result<Self, TlsError> {
        let bare = certified(chain, key, provider)?;
        let stapled = staple.map(|staple| {
            let with = CertifiedKey { ocsp: Some(staple.der.clone()), ..bare.clone() };
            (Arc::new(with), staple)
        });
        Ok(Self { bare: Arc::new(bare), stapled })
    }
}

impl ResolvesServerCert for Presents {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let stapled = self.stapled.as_ref().filter(|(_, staple)| staple.is_fresh());
        Some(Arc::clone(stapled.map_or(&self.bare, |(stapled, _)| stapled)))
    }
}
