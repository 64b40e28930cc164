//! A self-signed certificate for this machine.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rcgen::{CertificateParams, DnType, KeyPair};

use crate::files;

/// The certificate and key in `dir`, made if they are not there.
pub(crate) fn ensure(dir: &Path) -> anyhow::Result<(PathBuf, PathBuf)> {
    files::private_dir(dir)?;
    let (certificate_file, key_file) = (dir.join("cert.pem"), dir.join("key.pem"));
    // The key is written first: a certificate without its key would never be replaced.
    if !certificate_file.exists() || !key_file.exists() {
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
        let mut params = CertificateParams::new(names).context("certificate names")?;
        params.distinguished_name.push(DnType::CommonName, "postern dev");
        let key = KeyPair::generate().context("generate a key")?;
        let certificate = params.self_signed(&key).context("sign the certificate")?;
        files::write_private(&key_file, key.serialize_pem().as_bytes())?;
        files::write_private(&certificate_file, certificate.pem().as_bytes())?;
    }
    Ok((certificate_file, key_file))
}
