//! Who is it: password schemes, SASL mechanisms, tenants' back ends and the verified-login cache.
//!
//! An unknown user and a wrong password are the same to an observer, in text and in time: both cost one
//! look-up and one password hash. A password that was verified a little while ago costs neither
//! (DESIGN §6). A password whose stored hash is of another scheme, or of another cost, is hashed anew behind
//! the first good login.

mod app_password;
mod backend;
mod elsewhere;
#[doc(hidden)]
pub mod fuzzing;
mod hasher;
mod metrics;
mod networks;
mod password;
mod penalties;
mod sasl;
mod scheme;
mod sealed;
mod verified;

use std::sync::Arc;

use hasher::Verdict;
use maildrop::{
    Access, Address, Credential, CredentialId, FairGate, LoginScope, State, TenantId, party_of,
    port::{Account, Clock as _, Directory, IndexError, LoginLookup, SystemClock},
};

use time::OffsetDateTime;

pub use app_password::NewAppPassword;
pub use backend::{Backends, BackendsConfig, HostPattern, Reach, SealedSecrets, SettingsProblem};
pub use hasher::{Hasher, HasherConfig};
pub use metrics::Metrics;
pub use networks::{Network, NetworkError, Networks};
pub use password::Password;
pub use penalties::{Penalties, Penalty, PenaltyConfig};
pub use sasl::{ChannelBindings, Exchange, LoginName, SaslReply, Verifiers, Wanted, apop_timestamp};
pub use scheme::{StoredPassword, StoredPasswordError};
pub use sealed::Sealed;
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

impl Verified {
    /// A login to this account, by its own password.
    fn of(account: &Account) -> Self {
        Self {
            access: Access {
                tenant: account.tenant,
                mailbox: account.mailbox,
                tenant_revision: account.tenant_revision,
                credential_version: account.credential_version,
                credential: Credential::Password,
                scope: LoginScope::Full,
                rules: Arc::clone(&account.rules),
            },
            state: account.state,
            remembered: false,
            until: None,
        }
    }
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
    /// The tenant's back end does not answer, and somebody may be guessing at the password that is taken meanwhile: the
    /// client is told what [`Unavailable`](Self::Unavailable) tells it, as late as if the password was wrong.
    #[error("login cannot be verified now, and may be a guess")]
    Undecided {
        /// The tenant.
        tenant: TenantId,
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
    sealed: Sealed,
    asking: FairGate,
    /// What verifies logins of tenants that do not leave that to us.
    backends: Option<Backends>,
}

impl Authenticator {
    /// An authenticator over these accounts. `sealed` opens what is kept of passwords under tenants' keys. `asking` bounds how many are looked up at once, fairly between
    /// domains; the hasher has turns of its own. No other turn is held while one waits for a hash, which takes
    /// longer than anything else.
    pub fn new(
        directory: Arc<dyn Directory>,
        hasher: Hasher,
        verified: VerifiedCache,
        sealed: Sealed,
        asking: FairGate,
    ) -> Self {
        Self { directory, hasher, verified, sealed, asking, backends: None }
    }

    /// The same, with these back ends for tenants that have one. Without, their logins cannot be verified.
    #[must_use]
    pub fn with_backends(self, backends: Backends) -> Self {
        Self { backends: Some(backends), ..self }
    }

    /// Verifies a login name and password.
    pub async fn verify(&self, login: &str, password: &Password) -> Result<Verified, AuthError> {
        let address = address_of(login);
        if let Some(address) = &address
            && let Some(verified) = self.verified.get(address, password)
            && verified.until.is_none_or(|until| SystemClock.now() < until)
        {
            self.count("remembered", "good");
            return Ok(verified);
        }
        self.verify_anew(address, password).await
    }

    /// Forgets that `login` was verified with this password, and verifies it anew: the index found the
    /// credential changed.
    pub async fn verify_again(&self, login: &str, password: &Password) -> Result<Verified, AuthError> {
        let address = address_of(login);
        if let Some(address) = &address {
            self.verified.forget(address, password);
        }
        self.verify_anew(address, password).await
    }

    /// Whether what is remembered of a login is still so. The index says so of a login that it lets in; one
    /// that is refused by what is remembered has to ask, and it costs no hash.
    pub async fn is_current(&self, login: &str, verified: &Verified) -> Result<bool, AuthError> {
        let Some(address) = address_of(login) else { return Ok(true) };
        let LoginLookup { account, .. } = self.look_up(&address).await?;
        Ok(account.is_some_and(|account| {
            let Access { tenant, mailbox, tenant_revision, credential_version, .. } = verified.access;
            (account.tenant, account.mailbox) == (tenant, mailbox)
                && (account.tenant_revision, account.credential_version)
                    == (tenant_revision, credential_version)
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
        let LoginLookup { domain, account } = match address.clone().map_or_else(nobody, Ok) {
            Ok(address) => self.look_up(&address).await?,
            Err(_) => LoginLookup::default(),
        };
        // Compared first, and fast: an app password is too long to be guessed. One that matches is good; none
        // that does not saves or costs an observable hash.
        let app = account.as_ref().and_then(|account| {
            account.app_passwords.iter().find(|app| app_password::is(password, &app.hash))
        });
        if let (Some(account), Some(address), Some(app)) = (&account, &address, app) {
            let by = (Credential::App(app.id), app.scope, app.expires_at);
            let verified = self.remember(account, address, password, by);
            self.touch(account, app.id);
            self.count("app_password", "good");
            return Ok(verified);
        }
        if let (Some(domain), Some(address)) = (&domain, &address)
            && let Some(backend) = self.backend(domain).await?
            && !backend.is_internal()
        {
            return self.verify_elsewhere(&backend, domain, account, address, password).await;
        }
        let tenant = account.as_ref().map(|account| account.tenant);
        let hash = account.as_ref().and_then(|account| account.password_hash.clone());
        let verdict = self.hasher.verify(tenant, password.clone(), hash).await;
        let Some(verdict) = verdict else {
            self.count("internal", "unavailable");
            return Err(AuthError::Unavailable(None));
        };
        self.count("internal", if verdict == Verdict::Wrong { "refused" } else { "good" });
        match (account, address, verdict) {
            (Some(account), Some(address), Verdict::Good { outdated }) => {
                let by = (Credential::Password, LoginScope::Full, None);
                let verified = self.remember(&account, &address, password, by);
                if outdated {
                    self.upgrade(account.clone(), password.clone());
                }
                self.keep_verifiers(account, password.clone());
                Ok(verified)
            }
            (account, ..) => Err(AuthError::BadCredentials { tenant: account.map(|account| account.tenant) }),
        }
    }

    /// Counts a login that was verified, or not.
    fn count(&self, by: &'static str, outcome: &'static str) {
        if let Some(backends) = &self.backends {
            backends.metrics().verified(by, outcome);
        }
    }

    async fn look_up(&self, address: &Address) -> Result<LoginLookup, AuthError> {
        let turn = self.asking.turn(party_of(address.domain())).await;
        let _turn = turn.ok_or(AuthError::Unavailable(None))?;
        let looked_up = self.directory.all_tenants_login(address).await;
        looked_up.map_err(|error| AuthError::Unavailable(Some(error)))
    }

    fn remember(
        &self,
        account: &Account,
        address: &Address,
        password: &Password,
        (credential, scope, until): (Credential, LoginScope, Option<OffsetDateTime>),
    ) -> Verified {
        let mut verified = Verified::of(account);
        (verified.access.credential, verified.access.scope) = (credential, scope);
        verified.until = until;
        self.verified.insert(address, password, verified.clone());
        verified
    }

    /// Whose name this is, and what its password is verified by in SCRAM: for nobody, and for an account without a
    /// verifier, one that nothing fits.
    pub(crate) async fn scram_verifier(
        &self,
        login: &str,
        hash: sasl::Hash,
    ) -> Result<(Option<Account>, sasl::ScramVerifier), AuthError> {
        let (tenant, account) = self.account(login).await?;
        let verifiers = self.sealed.answer(tenant, account.as_ref()).await?;
        match verifiers.and_then(|verifiers| verifiers.scram(hash)) {
            Some(verifier) => Ok((account, verifier)),
            None => Ok((None, self.sealed.decoy(hash, login))),
        }
    }

    /// Verifies a login by the password itself, where it is kept.
    pub(crate) async fn verify_by_secret(
        &self,
        login: &str,
        is_good: impl Fn(&[u8]) -> bool,
    ) -> Result<Verified, AuthError> {
        let (tenant, account) = self.account(login).await?;
        let verifiers = self.sealed.answer(tenant, account.as_ref()).await?;
        let secret = verifiers.and_then(|verifiers| verifiers.secret());
        // Computed for nobody too, so that it takes as long.
        let good = is_good(secret.as_ref().map_or(b"", |secret| secret.as_slice()));
        match account {
            Some(account) if good && secret.is_some() => Ok(Verified::of(&account)),
            account => Err(AuthError::BadCredentials { tenant: account.map(|account| account.tenant) }),
        }
    }

    /// Verifies an APOP digest (RFC 1939 §7) over the timestamp of the greeting.
    pub async fn verify_apop(
        &self,
        login: &str,
        timestamp: &str,
        digest: [u8; 16],
    ) -> Result<Verified, AuthError> {
        self.verify_by_secret(login, |secret| sasl::apop_is_good(timestamp, digest, secret)).await
    }

    /// The tenant of the name's domain, and the account of this name, if its passwords are kept here.
    async fn account(&self, login: &str) -> Result<(Option<TenantId>, Option<Account>), AuthError> {
        let LoginLookup { domain, account } = match address_of(login) {
            Some(address) => self.look_up(&address).await?,
            // Looked up all the same, as an address nobody can have.
            None => match Address::new("nobody", "invalid") {
                Ok(nobody) => self.look_up(&nobody).await?,
                Err(_) => LoginLookup::default(),
            },
        };
        // What was kept of a password when that was verified here is worth nothing where it no longer is.
        if let Some(domain) = &domain
            && let Some(backend) = self.backend(domain).await?
            && !backend.is_internal()
        {
            return Ok((Some(domain.tenant), None));
        }
        Ok((domain.map(|domain| domain.tenant), account))
    }

    /// Keeps what the mailbox's policy wants of a password that was just verified, by and by.
    fn keep_verifiers(&self, account: Account, password: Password) {
        let wanted = Wanted::by(&account.rules.mailbox);
        if wanted.is_empty() && account.verifiers.is_none() {
            return;
        }
        let this = self.clone();
        tokio::spawn(async move {
            match this.sealed.open(&account).await {
                Ok(Some(kept)) if kept.are(wanted) => {}
                Ok(_) => this.keep(&account, wanted, password).await,
                Err(error) => tracing::debug!(%error, "verifiers of a password stay as they are for now"),
            }
        });
    }

    async fn keep(&self, account: &Account, wanted: Wanted, password: Password) {
        let (tenant, mailbox) = (account.tenant, account.mailbox);
        let Some(verifiers) = self.hasher.verifiers_for(tenant, wanted, password).await else {
            return tracing::debug!(%tenant, %mailbox, "too many passwords wait to be hashed");
        };
        let kept = async {
            let sealed = self.sealed.seal(tenant, mailbox, &verifiers).await?;
            let kept = self.directory.keep_verifiers(tenant, mailbox, account.credential_version, &sealed);
            kept.await.map_err(|error| AuthError::Unavailable(Some(error)))
        };
        if let Err(error) = kept.await {
            tracing::warn!(%tenant, %mailbox, %error, "verifiers of a password could not be kept");
        }
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

/// The address a login name is, however it is written.
fn address_of(login: &str) -> Option<Address> {
    Address::try_from(&*sasl::prepared(login)).ok()
}
