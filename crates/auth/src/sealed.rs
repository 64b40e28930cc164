//! Verifiers of passwords, sealed under their tenants' keys.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use maildrop::{
    MailboxId, TenantCache, TenantId,
    port::{Account, BlobError, BlobStore, IndexError},
};
use tokio::time::Instant;

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
    keys_away: Arc<Mutex<Option<Instant>>>,
}

/// After a key could not be used, nobody is told for so long that a name has no verifier: whether it has one is found
/// out by its key alone, and only names that exist have keys.
const KEYS_AWAY: Duration = Duration::from_secs(30);

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
        Self { blob, tenants, decoy_key: DecoyKey(decoy_key), keys_away: Arc::default() }
    }

    /// What is kept of the account's password, to answer a client by. While keys cannot be used, names without
    /// verifiers are answered as those with.
    pub(crate) async fn answer(&self, account: Option<&Account>) -> Result<Option<Verifiers>, AuthError> {
        let opened = match account {
            Some(account) => self.open(account).await,
            None => Ok(None),
        };
        let mut away = self.keys_away.lock().unwrap_or_else(PoisonError::into_inner);
        match opened {
            Ok(None) if away.is_some_and(|since| since.elapsed() < KEYS_AWAY) => {
                Err(AuthError::Unavailable(None))
            }
            Err(error) => {
                *away = Some(Instant::now());
                Err(error)
            }
            opened => opened,
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
