//! Certificates in files, which change while we serve: renewed by a tool, or swapped by Kubernetes.
//!
//! Each is looked at for itself. One that cannot be used, be it for a moment because a tool writes it in two steps,
//! leaves what was there before in use.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use aws_lc_rs::digest::{Context, SHA256};
use rustls::{
    client::verify_server_name,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
    server::ParsedCertificate,
    sign::CertifiedKey,
};
use x509_parser::prelude::{FromDer as _, X509Certificate};
use zeroize::Zeroizing;

use super::{
    TlsError,
    staple::Staple,
    terms::{Presents, Served, Terms},
};

/// No certificate, key or response has more.
const FILE_OCTETS_MAX: u64 = 1024 * 1024;

/// Whose certificates these are: the node's, for which tickets are good on all nodes.
const SCOPE: &[u8] = b"own";

/// The files of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The chain, PEM, leaf first.
    pub chain: PathBuf,
    /// The key, PEM.
    pub key: PathBuf,
    /// The OCSP response, DER, if there is one.
    pub ocsp: PathBuf,
}

impl CertificateFiles {
    /// A chain and a key. An OCSP response may lie beside the chain, as `<chain>.ocsp`.
    pub fn new(chain: &Path, key: &Path) -> Self {
        let mut ocsp = chain.as_os_str().to_owned();
        ocsp.push(".ocsp");
        Self { chain: chain.into(), key: key.into(), ocsp: ocsp.into() }
    }

    /// A directory as Kubernetes mounts a TLS secret: `tls.crt`, `tls.key`, and `tls.ocsp` where there is one.
    pub fn in_directory(directory: &Path) -> Self {
        let [chain, key, ocsp] = ["tls.crt", "tls.key", "tls.ocsp"].map(|name| directory.join(name));
        Self { chain, key, ocsp }
    }

    /// All of it, as it is now.
    pub(super) fn read(&self) -> Result<Content, TlsError> {
        let [chain, key] =
            [&self.chain, &self.key].map(|file| read(file).map_err(|error| problem(file, &error)));
        // One that cannot be read is worth no outage.
        Ok(Content { chain: chain?, key: Zeroizing::new(key?), ocsp: read(&self.ocsp).ok() })
    }
}

fn read(file: &Path) -> io::Result<Vec<u8>> {
    if fs::metadata(file)?.len() > FILE_OCTETS_MAX {
        return Err(io::Error::other("is too large"));
    }
    fs::read(file)
}

pub(super) fn problem(file: &Path, problem: &dyn std::fmt::Display) -> TlsError {
    TlsError::File { file: file.display().to_string(), problem: problem.to_string() }
}

/// What is in the files of a certificate.
pub(super) struct Content {
    chain: Vec<u8>,
    key: Zeroizing<Vec<u8>>,
    ocsp: Option<Vec<u8>>,
}

impl Content {
    /// Tells it from any other.
    pub(super) fn fingerprint(&self) -> [u8; 32] {
        let ocsp = self.ocsp.as_deref().unwrap_or_default();
        fingerprint(&[&self.chain, &self.key, ocsp])
    }
}

/// A hash of these octets, each as long as it is.
pub(super) fn fingerprint(parts: &[&[u8]]) -> [u8; 32] {
    // Nothing is copied: some of it is secret.
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    let mut hash = [0; 32];
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

/// A certificate from files.
#[derive(Debug, Clone)]
pub(super) struct FromFiles {
    pub(super) served: Arc<Served>,
    presents: Presents,
    /// What of it is no reason not to use it: the OCSP response cannot be, or it has expired.
    pub(super) complaint: Option<String>,
    /// When it ceases to be valid: seconds since 1970.
    pub(super) not_after: i64,
}

impl FromFiles {
    /// The certificate with this content, presented under these terms.
    pub(super) fn load(files: &CertificateFiles, content: &Content, terms: &Terms) -> Result<Self, TlsError> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&content.chain).collect();
        // What the reader says of a PEM that it cannot read may quote it; of a chain that is no secret.
        let chain = chain.map_err(|error| problem(&files.chain, &error))?;
        let Some(leaf) = chain.first().cloned() else {
            return Err(problem(&files.chain, &"holds no certificate"));
        };
        let key = PrivateKeyDer::from_pem_slice(&content.key)
            .map_err(|_| problem(&files.key, &"holds no private key in PEM"))?;
        let (_, parsed) = X509Certificate::from_der(&leaf)
            .map_err(|_| problem(&files.chain, &"holds what is no certificate"))?;
        let not_after = parsed.validity().not_after.timestamp();
        let staple = content.ocsp.clone().map(|der| Staple::read(der, parsed.raw_serial()));
        let mut complaint = None;
        let staple = match staple {
            Some(Ok(staple)) => {
                if !staple.is_fresh() {
                    complaint = Some(format!("{}: is not fresh, and is not sent", files.ocsp.display()));
                }
                Some(staple)
            }
            Some(Err(wrong)) => {
                complaint = Some(format!("{}: {wrong}, and is not sent", files.ocsp.display()));
                None
            }
            None => None,
        };
        if !parsed.validity().is_valid() {
            complaint = Some(format!("{}: is not valid now", files.chain.display()));
        }
        let presents = Presents::new(chain, key, staple, &terms.provider)?;
        let served = Arc::new(terms.serve(leaf, presents.clone(), SCOPE)?);
        Ok(Self { served, presents, complaint, not_after })
    }

    /// The same certificate under other terms.
    pub(super) fn under(&self, terms: &Terms) -> Result<Self, TlsError> {
        let served = terms.serve(self.served.leaf.clone(), self.presents.clone(), SCOPE)?;
        Ok(Self { served: Arc::new(served), ..self.clone() })
    }

    /// Whether this certificate is for `host`.
    pub(super) fn covers(&self, host: &str) -> bool {
        // A certificate without names of its own (subjectAltName) is for no host a client can check.
        let Ok(leaf) = ParsedCertificate::try_from(&self.served.leaf) else { return false };
        ServerName::try_from(host).is_ok_and(|host| verify_server_name(&leaf, &host).is_ok())
    }
}

/// A chain with its key, checked to belong together.
pub(super) fn certified(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, TlsError> {
    Ok(CertifiedKey::from_der(chain, key, provider)?)
}
