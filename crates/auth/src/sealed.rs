//! Verifiers of passwords, sealed under their tenants' keys.

use std::{sync::Arc, time::Duration};

use maildrop::{
    MailboxId, TenantCache, TenantId,
    port::{Account, BlobError, BlobStore, IndexError},
};

use crate::{
    AuthError,
    sasl::{Hash, ScramVerifier, Verifiers},
};

/// Opens and seals what is kept of passwords beside their hashes.
#[derive(Clone, Debug)]
pub struct Sealed {
    blob: Arc<dyn BlobStore>,
    tenants: TenantCache,
    decoy_key: DecoyKey,
    /// Tenants whose keys could not be used lately.
    keys_away: moka::sync::Cache<TenantId, ()>,
}

/// After a tenant's key could not be used, nobody is told for so long that a name of the tenant has no verifier: only
/// those that have one need the key.
const KEYS_AWAY: Duration = Duration::from_secs(30);
/// Tenants of which that is remembered (P6).
const KEYS_AWAY_MAX: u64 = 10_000;

#[derive(Clone)]
struct DecoyKey([u8; 32]);

impl std::fmt::Debug for DecoyKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DecoyKey(…)")
    }
}

impl Sealed {
    /// Sealing by these keys. What names without a verifier are answered with is made by `decoy_key`, which all nodes
    /// have and nobody else.
    pub fn new(blob: Arc<dyn BlobStore>, tenants: TenantCache, decoy_key: [u8; 32]) -> Self {
        let keys_away =
            moka::sync::Cache::builder().max_capacity(KEYS_AWAY_MAX).time_to_live(KEYS_AWAY).build();
        Self { blob, tenants, decoy_key: DecoyKey(decoy_key), keys_away }
    }

    /// What is kept of the account's password, to answer a client by; `tenant` is that of its domain. While the tenant's
    /// key cannot be used, names without verifiers are answered as those with.
    pub(crate) async fn answer(
        &self,
        tenant: Option<TenantId>,
        account: Option<&Account>,
    ) -> Result<Option<Verifiers>, AuthError> {
        let opened = match account {
            Some(account) => self.open(account).await,
            None => Ok(None),
        };
        match (opened, tenant) {
            (Ok(None), Some(tenant)) if self.keys_away.contains_key(&tenant) => {
                Err(AuthError::Unavailable(None))
            }
            (Err(error), Some(tenant)) => {
                self.keys_away.insert(tenant, ());
                Err(error)
            }
            (opened, _) => opened,
        }
    }

    /// What is kept of the account's password. What is damaged counts as nothing, and is loud in the log.
    pub(crate) async fn open(&self, account: &Account) -> Result<Option<Verifiers>, AuthError> {
        let Some(sealed) = &account.verifiers else { return Ok(None) };
        let tenant = account.tenant;
        let Some(found) = self.tenants.get(tenant).await.map_err(unavailable)? else { return Ok(None) };
        let opened =
            self.blob.open_secret(tenant, &found.key, &Verifiers::purpose(account.mailbox), sealed).await;
        match opened.map(zeroize::Zeroizing::new) {
            Ok(octets) => Ok(Verifiers::from_octets(&octets)),
            Err(error @ BlobError::Corrupt(_)) => {
                tracing::error!(%tenant, mailbox = %account.mailbox, %error, "verifiers of a password cannot be opened");
                Ok(None)
            }
            Err(error) => Err(in_vain(&error)),
        }
    }

    pub(crate) async fn seal(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        verifiers: &Verifiers,
    ) -> Result<Vec<u8>, AuthError> {
        let found = self.tenants.get(tenant).await.map_err(unavailable)?;
        let found = found.ok_or(AuthError::BadCredentials { tenant: Some(tenant) })?;
        let octets = verifiers.to_octets();
        let sealed = self.blob.seal_secret(tenant, &found.key, &Verifiers::purpose(mailbox), &octets).await;
        sealed.map_err(|error| in_vain(&error))
    }

    pub(crate) fn decoy(&self, hash: Hash, login: &str) -> ScramVerifier {
        ScramVerifier::decoy(hash, &self.decoy_key.0, login)
    }
}

fn unavailable(error: IndexError) -> AuthError {
    AuthError::Unavailable(Some(error))
}

fn in_vain(error: &BlobError) -> AuthError {
    tracing::warn!(%error, "a tenant's key cannot be used now");
    AuthError::Unavailable(None)
}
