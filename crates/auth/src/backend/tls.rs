//! Whom back ends are believed to be.

use std::sync::{Arc, OnceLock};

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};

/// Authorities of one tenant at most.
const AUTHORITIES_MAX: usize = 100;

/// TLS towards servers whose certificates these authorities signed, or, where none are given, those that the system
/// believes.
pub(super) fn client(ca_pem: Option<&str>) -> Result<Arc<ClientConfig>, String> {
    static SYSTEM: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    match ca_pem {
        Some(pem) => config(authorities(pem)?),
        // Read once: it takes milliseconds, and a hundred KiB that all share.
        None => match SYSTEM.get() {
            Some(config) => Ok(Arc::clone(config)),
            None => {
                let config = config(system())?;
                Ok(Arc::clone(SYSTEM.get_or_init(|| config)))
            }
        },
    }
}

/// The authorities in this PEM.
pub(super) fn authorities(pem: &str) -> Result<RootCertStore, String> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let certificates = certificates.map_err(|_| "is no PEM")?;
    if !(1..=AUTHORITIES_MAX).contains(&certificates.len()) {
        return Err("is 1 to 100 certificates".into());
    }
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate).map_err(|_| "holds what is no certificate of an authority")?;
    }
    Ok(roots)
}

fn system() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(%error, "some of the system's certificate authorities cannot be read");
    }
    roots.add_parsable_certificates(found.certs);
    roots
}

fn config(roots: RootCertStore) -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| error.to_string())?;
    Ok(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
}
