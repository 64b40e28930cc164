//! What logins are verified by that is not kept here: a tenant's directory, its service, its issuer of tokens.
//!
//! ```text
//!   Authenticator ── tenant, version ──► Backends ──► Backend ─┬─► Ldap      bind as the mailbox's owner
//!                                                              ├─► Callback  HTTP, signed
//!                                                              └─► Oauth     JWT by cached keys, or introspection
//! ```
//!
//! Each tenant has connections, turns and caches of its own: what one tenant's back end does or does not do is no
//! other tenant's business (P5). All of them reach only what the operator lets tenants reach ([`Reach`]).

mod callback;
mod check;
mod http;
mod ldap;
mod oauth;
mod reach;
mod secret;
mod tls;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use maildrop::{
    Address, LoginSettings, PasswordBackend, TenantCache, TenantId,
    port::{BlobStore, Directory},
};
use tokio::sync::{OnceCell, Semaphore, SemaphorePermit};
use zeroize::Zeroizing;

pub use check::SettingsProblem;
pub use reach::{HostPattern, Reach};
pub use secret::SealedSecrets;

use crate::{AuthError, Password, metrics::Metrics};
use callback::Callback;
use ldap::Ldap;
use oauth::Oauth;

/// What tenants' back ends may cost, and reach.
#[derive(Clone, Debug)]
pub struct BackendsConfig {
    /// What they may reach.
    pub reach: Reach,
    /// Where the operator keeps files with tenants' secrets, in a directory for each tenant's name.
    pub secrets_dir: Option<PathBuf>,
    /// Questions of one tenant under way at once, and so connections to its back end.
    pub concurrent_max: usize,
    /// Logins of one tenant that may wait for their turn; past that they are refused for now.
    pub waiting_max: usize,
}

impl Default for BackendsConfig {
    /// Eight at once are 800 logins a second where an answer takes 10 ms.
    fn default() -> Self {
        Self { reach: Reach::default(), secrets_dir: None, concurrent_max: 8, waiting_max: 256 }
    }
}

/// Tenants whose back ends are remembered; with connections one takes some 100 KiB, without some 10.
const BACKENDS_MAX: u64 = 10_000;
/// A back end that nobody asked for so long is forgotten, and its connections are closed.
const BACKEND_IDLE: Duration = Duration::from_mins(10);
/// Longest wait for a turn.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// The back ends of all tenants. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Backends {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    directory: Arc<dyn Directory>,
    secrets: SealedSecrets,
    config: BackendsConfig,
    metrics: Metrics,
    backends: moka::sync::Cache<(TenantId, i64), Arc<OnceCell<Arc<Backend>>>>,
}

/// Nobody there answered, or not as it should: nothing is known of the login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Away;

impl From<Away> for AuthError {
    fn from(Away: Away) -> Self {
        Self::Unavailable(None)
    }
}

impl Backends {
    /// The back ends that `directory` knows of, their secrets opened by `blob`.
    pub fn new(
        directory: Arc<dyn Directory>,
        blob: Arc<dyn BlobStore>,
        tenants: TenantCache,
        config: BackendsConfig,
        metrics: Metrics,
    ) -> Self {
        let backends =
            moka::sync::Cache::builder().max_capacity(BACKENDS_MAX).time_to_idle(BACKEND_IDLE).build();
        let secrets = SealedSecrets::new(blob, tenants);
        Self { shared: Arc::new(Shared { directory, secrets, config, metrics, backends }) }
    }

    /// What is wrong with these settings, if anything.
    pub fn problem(&self, settings: &LoginSettings) -> Option<SettingsProblem> {
        check::problem(settings, &self.shared.config)
    }

    /// Takes secrets out of settings and seals them, as the directory keeps them.
    pub fn secrets(&self) -> &SealedSecrets {
        &self.shared.secrets
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// The tenant's back end as of this version of its settings.
    pub(crate) async fn of(&self, tenant: TenantId, version: i64) -> Result<Arc<Backend>, AuthError> {
        let shared = &self.shared;
        let slot = shared.backends.get_with((tenant, version), Arc::default);
        let make = async || {
            let made = shared.make(tenant).await?;
            // What was before is asked no more, and its connections need not wait until they are forgotten.
            shared.backends.invalidate(&(tenant, version - 1));
            Ok::<_, AuthError>(made)
        };
        slot.get_or_try_init(make).await.map(Arc::clone)
    }
}

impl Shared {
    async fn make(&self, tenant: TenantId) -> Result<Arc<Backend>, AuthError> {
        let login = self.directory.tenant_login(tenant).await;
        let login = login.map_err(|error| AuthError::Unavailable(Some(error)))?;
        // It was deleted meanwhile: there is nobody to let in.
        let login = login.ok_or(AuthError::BadCredentials { tenant: Some(tenant) })?;
        let (name, sealed) = self.secrets.open(tenant, login.secrets.as_deref()).await?;
        let secrets = Secrets { sealed, dir: self.config.secrets_dir.as_ref().map(|dir| dir.join(name)) };
        let settings = login.settings;
        let made = Backend::new(tenant, settings, &secrets, &self.config, self.metrics.clone());
        made.map(Arc::new).map_err(|error| {
            tracing::error!(%tenant, error = &*error, "a tenant's logins cannot be verified as it is set");
            AuthError::Unavailable(None)
        })
    }
}

/// The secrets of a tenant: those that were sealed, and where its files are.
struct Secrets {
    sealed: BTreeMap<String, Zeroizing<String>>,
    dir: Option<PathBuf>,
}

/// A tenant's back end.
#[derive(Debug)]
pub(crate) struct Backend {
    tenant: TenantId,
    passwords: Passwords,
    oauth: Option<Oauth>,
    /// How long what it verified counts.
    pub(crate) remember: Option<Duration>,
    /// How long it counts while there is no answer.
    pub(crate) offline: Duration,
    /// The domain of names that have none, in claims, too.
    pub(crate) default_domain: Option<String>,
    turns: Turns,
    metrics: Metrics,
}

#[derive(Debug)]
enum Passwords {
    Internal,
    None,
    Ldap(Ldap),
    Http(Callback),
}

/// Why a back end cannot be made of its settings; they were checked when they were set, but files come and go.
type Unfit = Box<dyn std::error::Error + Send + Sync>;

impl Backend {
    fn new(
        tenant: TenantId,
        settings: LoginSettings,
        secrets: &Secrets,
        config: &BackendsConfig,
        metrics: Metrics,
    ) -> Result<Self, Unfit> {
        let missing = || Unfit::from("the settings name a back end that is not described");
        let passwords = match settings.passwords {
            PasswordBackend::Internal => Passwords::Internal,
            PasswordBackend::None => Passwords::None,
            PasswordBackend::Ldap => {
                Passwords::Ldap(Ldap::new(settings.ldap.ok_or_else(missing)?, secrets, config)?)
            }
            PasswordBackend::Http => {
                Passwords::Http(Callback::new(settings.http.as_ref().ok_or_else(missing)?, secrets, config)?)
            }
        };
        let oauth = settings.oauth.map(|oauth| Oauth::new(oauth, secrets, config)).transpose()?;
        Ok(Self {
            tenant,
            passwords,
            oauth,
            remember: settings.remember_secs.map(|secs| Duration::from_secs(secs.into())),
            default_domain: settings.default_domain,
            offline: Duration::from_secs(settings.offline_secs.unwrap_or(0).into()),
            turns: Turns::new(config),
            metrics,
        })
    }

    /// Whether passwords are verified by what is kept here.
    pub(crate) fn is_internal(&self) -> bool {
        matches!(self.passwords, Passwords::Internal)
    }

    /// Its word in the metrics.
    pub(crate) fn kind(&self) -> &'static str {
        match self.passwords {
            Passwords::Internal => "internal",
            Passwords::None => "none",
            Passwords::Ldap(_) => "ldap",
            Passwords::Http(_) => "http",
        }
    }

    /// Whether this is the password of whoever has this address; not asked of an internal one.
    pub(crate) async fn is_password(&self, address: &Address, password: &Password) -> Result<bool, Away> {
        // A bind with an empty password is an anonymous one, and good (RFC 4513 §5.1.2).
        if password.expose().is_empty() {
            return Ok(false);
        }
        let answer = match &self.passwords {
            Passwords::Internal | Passwords::None => return Ok(false),
            Passwords::Ldap(ldap) => {
                let Some(_turn) = self.turns.take().await else { return Err(self.crowded()) };
                let asked = self.metrics.asking("ldap");
                asked.answered(ldap.is_password(address, password).await)
            }
            Passwords::Http(callback) => {
                let Some(_turn) = self.turns.take().await else { return Err(self.crowded()) };
                let asked = self.metrics.asking("http");
                asked.answered(callback.is_password(address, password).await)
            }
        };
        answer.map_err(|error| self.away(&*error))
    }

    /// Whose token this is: what the claim says that names the mailbox; `None` where the token is no good.
    pub(crate) async fn holder(&self, token: &str) -> Result<Option<String>, Away> {
        let Some(oauth) = &self.oauth else { return Ok(None) };
        match oauth.holder(token, &self.turns, &self.metrics).await {
            Ok(holder) => Ok(holder.filter(|holder| Address::is_plain(holder))),
            Err(error) => Err(self.away(&*error)),
        }
    }

    fn crowded(&self) -> Away {
        tracing::warn!(tenant = %self.tenant, "too many logins wait for the tenant's back end");
        Away
    }

    fn away(&self, error: &(dyn std::error::Error + 'static)) -> Away {
        tracing::warn!(tenant = %self.tenant, error, backend = self.kind(), "a tenant's back end does not answer");
        Away
    }
}

/// Why there is no answer.
type Fault = Box<dyn std::error::Error + Send + Sync>;

/// Questions of a tenant under way at once, and those that wait.
#[derive(Debug)]
struct Turns {
    running: Semaphore,
    waiting: AtomicUsize,
    waiting_max: usize,
}

impl Turns {
    fn new(config: &BackendsConfig) -> Self {
        Self {
            running: Semaphore::new(config.concurrent_max),
            waiting: AtomicUsize::new(0),
            waiting_max: config.waiting_max,
        }
    }

    /// A turn; `None` where too many wait, or none came in time.
    async fn take(&self) -> Option<SemaphorePermit<'_>> {
        if let Ok(permit) = self.running.try_acquire() {
            return Some(permit);
        }
        let waiting = Waiting(&self.waiting);
        if waiting.0.fetch_add(1, Ordering::Relaxed) >= self.waiting_max {
            return None;
        }
        tokio::time::timeout(WAIT_MAX, self.running.acquire()).await.ok()?.ok()
    }
}

/// Counts one down when it goes, however that comes.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Until when something counts.
fn after(duration: Duration) -> Instant {
    Instant::now() + duration
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn turns_are_bounded_and_waiting_is_too() {
        let config = BackendsConfig { concurrent_max: 1, waiting_max: 1, ..BackendsConfig::default() };
        let turns = Arc::new(Turns::new(&config));
        let held = turns.take().await.unwrap();
        let waiter = Arc::clone(&turns);
        let waits = tokio::spawn(async move { waiter.take().await.is_some() });
        tokio::task::yield_now().await;
        assert!(turns.take().await.is_none(), "one waits already");
        // Who gives up waits no more.
        waits.abort();
        assert!(waits.await.is_err());
        assert_eq!(turns.waiting.load(Ordering::Relaxed), 0);
        let start = tokio::time::Instant::now();
        assert!(turns.take().await.is_none());
        assert_eq!(start.elapsed(), WAIT_MAX);
        drop(held);
        assert!(turns.take().await.is_some());
    }
}
