//! Files that Postern makes for itself.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
};

use anyhow::Context as _;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

/// The text of a secret file, made by `make` if it does not exist. Only the owner may read it.
pub(crate) fn secret_file(
    path: &Path,
    make: impl FnOnce() -> anyhow::Result<String>,
) -> anyhow::Result<String> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let text = make()?;
            write_private(path, text.as_bytes())?;
            Ok(text)
        }
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    }
}

/// Writes a file only the owner may read: under another name first, so that it is there whole or not at all.
pub(crate) fn write_private(path: &Path, octets: &[u8]) -> anyhow::Result<()> {
    let write = || -> io::Result<()> {
        let temporary = path.with_extension("new");
        let _ = fs::remove_file(&temporary);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(octets)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        if let Some(parent) = path.parent() {
            fs::File::open(parent)?.sync_all()?;
        }
        Ok(())
    };
    write().with_context(|| format!("write {}", path.display()))
}

/// Makes a directory only the owner may enter.
pub(crate) fn private_dir(path: &Path) -> anyhow::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("create {}", path.display()))
}

/// A random secret of `octets` octets in URL-safe base64.
pub(crate) fn random_text(octets: usize) -> anyhow::Result<String> {
    let mut random = vec![0; octets];
    fill_random(&mut random)?;
    Ok(URL_SAFE_NO_PAD.encode(random))
}

/// Fills `octets` from the system's random source.
pub(crate) fn fill_random(octets: &mut [u8]) -> anyhow::Result<()> {
    rustls::crypto::aws_lc_rs::default_provider()
        .secure_random
        .fill(octets)
        .map_err(|_| anyhow::anyhow!("the system has no random numbers"))
}
