//! Who is it: password schemes and the verified-login cache.
//!
//! An unknown user and a wrong password are the same to an observer, in text and in time: both cost one
//! look-up and one password hash. A password that was verified a little while ago costs neither
//! (DESIGN §6).

mod hasher;
mod password;
mod rehash;
mod scheme;
mod verified;

use std::sync::Arc;

use hasher::Verdict;
use maildrop::{
    Address, MailboxId, TenantId,
    port::{Account, Directory, IndexError},
};

pub use hasher::{Hasher, HasherConfig};
pub use password::Password;
pub use rehash::Rehash;
pub use scheme::{StoredPassword, StoredPasswordError};
pub use verified::VerifiedCache;

/// A login that was verified.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Verified {
    /// The account's tenant.
    pub tenant: TenantId,
    /// The account's mailbox.
    pub mailbox: MailboxId,
    /// The version of the credential that was verified: the index opens the maildrop only while it is
    /// still the account's.
    pub credential_version: i64,
    /// Whether the verified-login cache said so, so that the caller asks again when it was stale.
    pub remembered: bool,
}

/// Why a login was not verified.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// Unknown user or wrong password: never which.
    #[error("login name or password is wrong")]
    BadCredentials {
        /// The tenant of the account, if there is one: to be counted, and never told to the client.
        tenant: Option<TenantId>,
    },
    /// Not now: the database does not answer, or too many passwords wait to be verified.
    #[error("login cannot be verified now")]
    Unavailable(#[source] Option<IndexError>),
}

/// Verifies logins.
#[derive(Clone, Debug)]
pub struct Authenticator {
    directory: Arc<dyn Directory>,
    hasher: Hasher,
    verified: VerifiedCache,
    rehash: Option<Arc<dyn Rehash>>,
}

impl Authenticator {
    /// An authenticator over these accounts.
    pub fn new(directory: Arc<dyn Directory>, hasher: Hasher, verified: VerifiedCache) -> Self {
        Self { directory, hasher, verified, rehash: None }
    }

    /// The same, with a place for the new hashes of passwords whose stored ones are outdated. Without one
    /// they stay as they are.
    #[must_use]
    pub fn with_rehash(self, rehash: Arc<dyn Rehash>) -> Self {
        Self { rehash: Some(rehash), ..self }
    }

    /// Verifies a login name and password.
    pub async fn verify(&self, login: &str, password: &Password) -> Result<Verified, AuthError> {
        let address = Address::try_from(login).ok();
        if let Some(address) = &address
            && let Some(verified) = self.verified.get(address, password)
        {
            return Ok(verified);
        }
        self.verify_anew(address, password).await
    }

    /// Forgets that `login` was verified with this password, and verifies it anew: the index found the
    /// credential changed.
    pub async fn verify_again(&self, login: &str, password: &Password) -> Result<Verified, AuthError> {
        let address = Address::try_from(login).ok();
        if let Some(address) = &address {
            self.verified.forget(address, password);
        }
        self.verify_anew(address, password).await
    }

    async fn verify_anew(
        &self,
        address: Option<Address>,
        password: &Password,
    ) -> Result<Verified, AuthError> {
        // A login name that cannot be an address is looked up and hashed for all the same (an address
        // nobody can have), so that it takes as long as any other.
        let nobody = || Address::new("nobody", "invalid");
        let looked_up = match address.clone().map_or_else(nobody, Ok) {
            Ok(address) => self.directory.all_tenants_account(&address).await,
            Err(_) => Ok(None),
        };
        let account = looked_up.map_err(|error| AuthError::Unavailable(Some(error)))?;
        let hash = account.as_ref().map(|account| (account.tenant, account.password_hash.clone()));
        let verdict = self.hasher.verify(password.clone(), hash).await.ok_or(AuthError::Unavailable(None))?;
        match (account, address, verdict) {
            (Some(account), Some(address), Verdict::Good { outdated }) => {
                let verified = Verified {
                    tenant: account.tenant,
                    mailbox: account.mailbox,
                    credential_version: account.credential_version,
                    remembered: false,
                };
                self.verified.insert(&address, password, verified);
                if outdated {
                    self.upgrade(account, password.clone());
                }
                Ok(verified)
            }
            (account, ..) => Err(AuthError::BadCredentials { tenant: account.map(|account| account.tenant) }),
        }
    }

    /// Hashes a password that was just verified anew, by and by: the login does not wait for it, and where
    /// too many passwords wait to be hashed the next login may see to it.
    fn upgrade(&self, account: Account, password: Password) {
        let Some(rehash) = self.rehash.clone() else { return };
        let hasher = self.hasher.clone();
        tokio::spawn(async move {
            match hasher.hash_for(account.tenant, password).await {
                Ok(new) => {
                    rehash.rehash(account.tenant, account.mailbox, &account.password_hash, &new).await;
                }
                Err(error) => tracing::debug!(%error, "an outdated password hash stays for now"),
            }
        });
    }
}
