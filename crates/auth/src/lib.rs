//! Who is it: password schemes and the verified-login cache.
//!
//! An unknown user and a wrong password are the same to an observer, in text and in time: both cost one
//! look-up and one password hash. A password that was verified a little while ago costs neither
//! (DESIGN §6). A password whose stored hash is of another scheme, or of another cost, is hashed anew behind
//! the first good login.

mod app_password;
mod hasher;
mod password;
mod scheme;
mod verified;

use std::sync::Arc;

use hasher::Verdict;
use maildrop::{
    Access, Address, CredentialId, FairGate, LoginScope, State, TenantId, party_of,
    port::{Account, Clock as _, Directory, IndexError, SystemClock},
};

use time::OffsetDateTime;

pub use app_password::NewAppPassword;
pub use hasher::{Hasher, HasherConfig};
pub use password::Password;
pub use scheme::{StoredPassword, StoredPasswordError};
pub use verified::VerifiedCache;

/// A login that was verified.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verified {
    /// What it opens: the index opens the maildrop only while tenant and credential are as they were.
    pub access: Access,
    /// Whether tenant and mailbox are in use. Whoever is told that they are not has the right password.
    pub state: State,
    /// Whether the verified-login cache said so, so that the caller asks again when it was stale.
    pub remembered: bool,
    /// When the app password that was given ceases to be good, if it was one and ever does.
    until: Option<OffsetDateTime>,
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
    asking: FairGate,
}

impl Authenticator {
    /// An authenticator over these accounts. `asking` bounds how many are looked up at once, fairly between
    /// domains; the hasher has turns of its own. No other turn is held while one waits for a hash, which takes
    /// longer than anything else.
    pub fn new(
        directory: Arc<dyn Directory>,
        hasher: Hasher,
        verified: VerifiedCache,
        asking: FairGate,
    ) -> Self {
        Self { directory, hasher, verified, asking }
    }

    /// Verifies a login name and password.
    pub async fn verify(&self, login: &str, password: &Password) -> Result<Verified, AuthError> {
        let address = Address::try_from(login).ok();
        if let Some(address) = &address
            && let Some(verified) = self.verified.get(address, password)
            && verified.until.is_none_or(|until| SystemClock.now() < until)
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

    /// Whether what is remembered of a login is still so. The index says so of a login that it lets in; one
    /// that is refused by what is remembered has to ask, and it costs no hash.
    pub async fn is_current(&self, login: &str, verified: &Verified) -> Result<bool, AuthError> {
        let Ok(address) = Address::try_from(login) else { return Ok(true) };
        let account = self.look_up(&address).await?;
        let Access { tenant_revision, credential_version, .. } = verified.access;
        Ok(account.is_some_and(|account| {
            (account.tenant_revision, account.credential_version) == (tenant_revision, credential_version)
        }))
    }

    async fn verify_anew(
        &self,
        address: Option<Address>,
        password: &Password,
    ) -> Result<Verified, AuthError> {
        // A login name that cannot be an address is looked up and hashed for all the same (an address
        // nobody can have), so that it takes as long as any other.
        let nobody = || Address::new("nobody", "invalid");
        let account = match address.clone().map_or_else(nobody, Ok) {
            Ok(address) => self.look_up(&address).await?,
            Err(_) => None,
        };
        // Compared first, and fast: an app password is too long to be guessed. One that matches is good; none
        // that does not saves or costs an observable hash.
        let app = account.as_ref().and_then(|account| {
            account.app_passwords.iter().find(|app| app_password::is(password, &app.hash))
        });
        if let (Some(account), Some(address), Some(app)) = (&account, &address, app) {
            let verified = self.remember(account, address, password, app.scope, app.expires_at);
            self.touch(account, app.id);
            return Ok(verified);
        }
        let tenant = account.as_ref().map(|account| account.tenant);
        let hash = account.as_ref().and_then(|account| account.password_hash.clone());
        let verdict = self.hasher.verify(tenant, password.clone(), hash).await;
        let verdict = verdict.ok_or(AuthError::Unavailable(None))?;
        match (account, address, verdict) {
            (Some(account), Some(address), Verdict::Good { outdated }) => {
                let verified = self.remember(&account, &address, password, LoginScope::Full, None);
                if outdated {
                    self.upgrade(account, password.clone());
                }
                Ok(verified)
            }
            (account, ..) => Err(AuthError::BadCredentials { tenant: account.map(|account| account.tenant) }),
        }
    }

    async fn look_up(&self, address: &Address) -> Result<Option<Account>, AuthError> {
        let turn = self.asking.turn(party_of(address.domain())).await;
        let _turn = turn.ok_or(AuthError::Unavailable(None))?;
        let looked_up = self.directory.all_tenants_account(address).await;
        looked_up.map_err(|error| AuthError::Unavailable(Some(error)))
    }

    fn remember(
        &self,
        account: &Account,
        address: &Address,
        password: &Password,
        scope: LoginScope,
        until: Option<OffsetDateTime>,
    ) -> Verified {
        let verified = Verified {
            access: Access {
                tenant: account.tenant,
                mailbox: account.mailbox,
                tenant_revision: account.tenant_revision,
                credential_version: account.credential_version,
                scope,
                rules: Arc::clone(&account.rules),
            },
            state: account.state,
            remembered: false,
            until,
        };
        self.verified.insert(address, password, verified.clone());
        verified
    }

    /// Notes that an app password was used, by and by. While it is remembered nothing is noted, which is
    /// often enough for a time that is kept to the hour.
    fn touch(&self, account: &Account, id: CredentialId) {
        let directory = Arc::clone(&self.directory);
        let (tenant, mailbox) = (account.tenant, account.mailbox);
        tokio::spawn(async move {
            let at = SystemClock.now();
            if let Err(error) = directory.touch_app_password(tenant, mailbox, id, at).await {
                tracing::debug!(%error, "use of an app password was not noted");
            }
        });
    }

    /// Hashes a password that was just verified anew, by and by: the login does not wait for it, and where
    /// too many passwords wait to be hashed the next login may see to it.
    fn upgrade(&self, account: Account, password: Password) {
        let Some(old) = account.password_hash else { return };
        let directory = Arc::clone(&self.directory);
        let hasher = self.hasher.clone();
        tokio::spawn(async move {
            match hasher.hash_for(account.tenant, password).await {
                Ok(new) => {
                    let rehashed = directory.rehash(account.tenant, account.mailbox, &old, &new).await;
                    if let Err(error) = rehashed {
                        tracing::debug!(%error, "an outdated password hash stays for now");
                    }
                }
                Err(error) => tracing::debug!(%error, "an outdated password hash stays for now"),
            }
        });
    }
}
