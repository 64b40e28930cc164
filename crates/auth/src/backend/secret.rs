//! Secrets of back ends: sealed under the tenant's key, or in files of the operator's.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use maildrop::{LoginSettings, SecretSource, Tenant, TenantCache, TenantId, port::BlobStore};
use zeroize::Zeroizing;

use super::{Fault, Secrets, Unfit};
use crate::AuthError;

/// What they are sealed for: what was sealed for anything else is none of them.
const PURPOSE: &str = "login";
/// The largest file that is read for a secret.
const FILE_OCTETS_MAX: u64 = 4096;

/// Seals and opens the secrets of tenants' back ends.
#[derive(Clone, Debug)]
pub struct SealedSecrets {
    blob: Arc<dyn BlobStore>,
    tenants: TenantCache,
}

impl SealedSecrets {
    pub(super) fn new(blob: Arc<dyn BlobStore>, tenants: TenantCache) -> Self {
        Self { blob, tenants }
    }

    /// The secrets that stand in these settings, sealed under the tenant's key; `None` where there are none.
    pub async fn seal(
        &self,
        tenant: &Tenant,
        settings: &LoginSettings,
    ) -> Result<Option<Vec<u8>>, maildrop::port::BlobError> {
        let values = settings.secrets().into_iter();
        let values: BTreeMap<&str, &str> =
            values.filter_map(|(path, secret)| Some((path, secret.value.as_ref()?.expose()))).collect();
        if values.is_empty() {
            return Ok(None);
        }
        // A map of texts can always be written.
        let octets = Zeroizing::new(serde_json::to_vec(&values).unwrap_or_default());
        self.blob.seal_secret(tenant.id, &tenant.key, PURPOSE, &octets).await.map(Some)
    }

    /// The tenant's name, and the secrets that were sealed.
    pub(super) async fn open(
        &self,
        tenant: TenantId,
        sealed: Option<&[u8]>,
    ) -> Result<(String, BTreeMap<String, Zeroizing<String>>), AuthError> {
        let found = self.tenants.get(tenant).await.map_err(|error| AuthError::Unavailable(Some(error)))?;
        let found = found.ok_or(AuthError::BadCredentials { tenant: Some(tenant) })?;
        let name = found.name.to_string();
        let Some(sealed) = sealed else { return Ok((name, BTreeMap::new())) };
        let opened = self.blob.open_secret(tenant, &found.key, PURPOSE, sealed).await.map(Zeroizing::new);
        let opened = opened.map_err(|error| {
            tracing::error!(%tenant, %error, "the secrets of a tenant's back end cannot be opened");
            AuthError::Unavailable(None)
        })?;
        let read: BTreeMap<String, String> = serde_json::from_slice(&opened).unwrap_or_default();
        Ok((name, read.into_iter().map(|(path, text)| (path, Zeroizing::new(text))).collect()))
    }
}

/// A secret that is ready to be used.
pub(super) enum Secret {
    Text(Zeroizing<String>),
    /// Read each time, so that it can be replaced.
    File(PathBuf),
}

impl Secret {
    /// The secret that settings have at this path.
    pub(super) fn find(path: &str, source: &SecretSource, secrets: &Secrets) -> Result<Self, Unfit> {
        match (&source.file, &secrets.dir, secrets.sealed.get(path)) {
            (Some(file), Some(dir), _) => Ok(Self::File(dir.join(file))),
            (Some(_), None, _) => Err(format!("{path}: this node keeps no files with secrets").into()),
            (None, _, Some(text)) => Ok(Self::Text(text.clone())),
            (None, _, None) => Err(format!("{path}: the secret is gone").into()),
        }
    }

    /// The secret's text, without a line end at its end where it is from a file.
    pub(super) async fn get(&self) -> Result<Zeroizing<String>, Fault> {
        use tokio::io::AsyncReadExt as _;
        match self {
            Self::Text(text) => Ok(text.clone()),
            Self::File(path) => {
                let named = |error: std::io::Error| format!("{}: {error}", path.display());
                let file = tokio::fs::File::open(path).await.map_err(named)?;
                let mut text = Zeroizing::new(String::new());
                file.take(FILE_OCTETS_MAX).read_to_string(&mut text).await.map_err(named)?;
                if text.trim_end_matches(['\r', '\n']).is_empty() {
                    return Err(format!("{}: is empty", path.display()).into());
                }
                Ok(Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned()))
            }
        }
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}
