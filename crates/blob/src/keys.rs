//! Keys: the master key wraps a data key per tenant; the data key derives a key per entry.

mod kms;
mod master;
mod ring;
mod tenant;

pub use kms::{KmsConfig, KmsKey, KmsKeyArn, KmsKeyArnError};
pub use master::{MasterKey, MasterKeyError};
pub use ring::MasterKeys;
pub(crate) use tenant::EntryCipher;
pub use tenant::TenantKey;

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::{Arc, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use maildrop::{
    MASTER_TENANT, MasterKeyId, SealedKey, TenantId,
    port::{BlobError, ClusterSecret, MasterKeyring},
};
use moka::sync::Cache;
use tokio::{sync::Mutex, time::Instant};
use tracing::{error, warn};

use crate::weather::jittered;

/// Most data keys held open at once. At some 200 octets each this is 2 MB.
const OPEN_KEYS_MAX: u64 = 10_000;
/// How long a data key stays open that a local master key sealed. Short, so that a tenant's keys leave memory soon after
/// its traffic does.
const OPEN_KEY_TTL: Duration = Duration::from_mins(1);
/// How long one stays open after its last use that a key service sealed: most clients come back within that, and find it
/// open while the service is away (P7).
const OPEN_KEY_IDLE: Duration = Duration::from_mins(15);
/// How long it stays open at most without the service saying so again.
const OPEN_KEY_MAX: Duration = Duration::from_hours(12);
/// How often the service is asked again for one that is in use: whoever disables the master key there locks all mail
/// within that.
const REFRESH: Duration = Duration::from_mins(5);
/// How much earlier that may be, by chance.
const REFRESH_SPREAD: Duration = Duration::from_mins(1);
/// When it is asked again after it did not answer.
const REFRESH_RETRY: Duration = Duration::from_secs(30);
/// Keys that are being opened by a service at once; who wants the same one waits for it. 5,500 requests a second are the
/// least that AWS KMS allows.
const OPENING_MAX: usize = 64;
/// Longest wait for a place among them.
const OPENING_WAIT: Duration = Duration::from_secs(5);

/// What wraps tenants' data keys: a [`MasterKey`] in this process, or a key service.
///
/// A [`SealedKey`] starts with a version and names its kind and key, so that several can be in use at once
/// while a key is rotated.
#[async_trait]
pub trait KeyWrap: Send + Sync + std::fmt::Debug {
    /// Names it, in what it seals, too.
    fn id(&self) -> MasterKeyId;

    /// A value that tells this key from others and says nothing of the key: the index remembers it, so that
    /// a node started with another key notices before it seals anything.
    fn check_value(&self) -> [u8; 32];

    /// Whether it is asked over a network, which may fail or be slow.
    fn is_remote(&self) -> bool {
        false
    }

    /// The secret of a cluster that begins with this master key, where that is derived from it; any other is as good.
    fn cluster_secret(&self, _: ClusterSecret) -> Option<TenantKey> {
        None
    }

    /// Seals the data key of `tenant`.
    async fn seal(&self, tenant: TenantId, key: &TenantKey) -> Result<SealedKey, BlobError>;

    /// Opens what [`seal`](Self::seal) made for the same tenant. What another master key sealed is
    /// [`BlobError::NoMasterKey`], anything else [`BlobError::WrongKey`], or [`BlobError::Corrupt`] where it is not a
    /// sealed key at all.
    async fn open(&self, tenant: TenantId, sealed: &SealedKey) -> Result<TenantKey, BlobError>;
}

/// Opens sealed data keys and remembers them for a while. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Keyring {
    wrap: Arc<MasterKeys>,
    open: Cache<(TenantId, SealedKey), Arc<Opened>>,
    opening: Arc<[Mutex<()>]>,
}

/// A data key that is open.
#[derive(Debug)]
struct Opened {
    key: Arc<TenantKey>,
    /// When the service is to be asked again, if it is one.
    refresh_at: std::sync::Mutex<Option<Instant>>,
}

impl Opened {
    /// Whether the service is to be asked again, which whoever is told so does.
    fn is_due(&self) -> bool {
        let mut at = self.refresh_at.lock().unwrap_or_else(PoisonError::into_inner);
        let due = at.is_some_and(|at| at <= Instant::now());
        if due {
            *at = Some(Instant::now() + REFRESH_RETRY);
        }
        due
    }
}

impl Keyring {
    /// A keyring of one master key.
    pub fn new(wrap: Arc<dyn KeyWrap>) -> Self {
        Self::of(MasterKeys::new(wrap, Vec::new()))
    }

    /// A keyring of master keys.
    pub fn of(wrap: MasterKeys) -> Self {
        let open = Cache::builder().max_capacity(OPEN_KEYS_MAX);
        let open = if wrap.all().any(|key| key.is_remote()) {
            open.time_to_idle(OPEN_KEY_IDLE).time_to_live(OPEN_KEY_MAX)
        } else {
            open.time_to_live(OPEN_KEY_TTL)
        };
        let opening = (0..OPENING_MAX).map(|_| Mutex::new(())).collect();
        Self { wrap: Arc::new(wrap), open: open.build(), opening }
    }

    /// The master keys that seal and open here. Those of services are tried: that one is configured does not say that this
    /// node may use it, and a rotation goes by what living nodes can open.
    pub async fn usable(&self) -> Vec<MasterKeyId> {
        let mut usable = Vec::new();
        for key in self.wrap.all() {
            match self.try_out(key.as_ref()).await {
                Ok(()) => usable.push(key.id()),
                Err(error) => error!(
                    key = %key.id(), %error,
                    "a master key is configured and cannot be used: no rotation goes by this node before it is, and the node \
                     started again"
                ),
            }
        }
        usable
    }

    async fn try_out(&self, key: &dyn KeyWrap) -> Result<(), BlobError> {
        if key.is_remote() {
            let sealed = key.seal(MASTER_TENANT, &TenantKey::generate()?).await?;
            key.open(MASTER_TENANT, &sealed).await?;
        }
        Ok(())
    }

    /// A new data key for `tenant`, sealed.
    pub async fn generate(&self, tenant: TenantId) -> Result<SealedKey, BlobError> {
        self.wrap.seal(tenant, &TenantKey::generate()?).await
    }

    /// Seals a secret of `tenant` under its data key.
    pub async fn seal_secret(
        &self,
        tenant: TenantId,
        key: &SealedKey,
        purpose: &str,
        secret: &[u8],
    ) -> Result<Vec<u8>, BlobError> {
        let key = self.open(tenant, key).await?;
        key.seal_secret(tenant, purpose, secret)
            .ok_or_else(|| BlobError::Unavailable("the secret could not be sealed".into()))
    }

    /// Opens what [`seal_secret`](Self::seal_secret) sealed for the same tenant and purpose; anything else
    /// is [`BlobError::Corrupt`].
    pub async fn open_secret(
        &self,
        tenant: TenantId,
        key: &SealedKey,
        purpose: &str,
        sealed: &[u8],
    ) -> Result<Vec<u8>, BlobError> {
        let key = self.open(tenant, key).await?;
        key.open_secret(tenant, purpose, sealed)
            .ok_or_else(|| BlobError::Corrupt(format!("sealed secret ({purpose}) does not open")))
    }

    /// The data key of `tenant`.
    pub async fn open(&self, tenant: TenantId, sealed: &SealedKey) -> Result<Arc<TenantKey>, BlobError> {
        // The whole sealed key is part of the cache's key: another tenant's, or a damaged one, is never
        // answered from memory.
        let id = (tenant, sealed.clone());
        if let Some(opened) = self.open.get(&id) {
            if opened.is_due() {
                let (keyring, id) = (self.clone(), id);
                tokio::spawn(async move { keyring.refresh(id).await });
            }
            return Ok(Arc::clone(&opened.key));
        }
        if !self.wrap.of(sealed).is_remote() {
            return self.open_anew(id).await;
        }
        // A crowd that wants the same key asks once, and all of them together do not ask for too many.
        let Ok(_place) = tokio::time::timeout(OPENING_WAIT, self.place(&id).lock()).await else {
            return Err(BlobError::Unavailable("the key service is busy, or does not answer".into()));
        };
        match self.open.get(&id) {
            Some(opened) => Ok(Arc::clone(&opened.key)),
            None => self.open_anew(id).await,
        }
    }

    /// Where a key is opened by a service, one at a time.
    fn place(&self, id: &(TenantId, SealedKey)) -> &Mutex<()> {
        let mut hasher = DefaultHasher::new();
        id.hash(&mut hasher);
        &self.opening[hasher.finish() as usize % self.opening.len()]
    }

    async fn open_anew(&self, id: (TenantId, SealedKey)) -> Result<Arc<TenantKey>, BlobError> {
        let key = Arc::new(self.wrap.open(id.0, &id.1).await?);
        // Spread: what was opened in one go after a start is not asked for in one go for ever.
        let refresh = || Instant::now() + REFRESH - jittered(REFRESH_SPREAD);
        let refresh_at = self.wrap.of(&id.1).is_remote().then(refresh).into();
        self.open.insert(id, Arc::new(Opened { key: Arc::clone(&key), refresh_at }));
        Ok(key)
    }

    /// Asks the service again for a key that is in use. While it does not answer the key stays open; when it refuses, it
    /// does not. Whoever waits for a key goes first: where its place is taken, it is asked for after the next use in
    /// [`REFRESH_RETRY`].
    async fn refresh(&self, id: (TenantId, SealedKey)) {
        let Ok(_place) = self.place(&id).try_lock() else { return };
        match self.open_anew(id.clone()).await {
            Ok(_) => {}
            Err(error) if error.is_retryable() => {
                warn!(tenant = %id.0, %error, "a data key stays open, for its master key cannot be asked");
            }
            Err(error) => {
                error!(tenant = %id.0, %error, "a data key is closed: its master key refuses to open it");
                self.open.invalidate(&id);
            }
        }
    }
}

#[async_trait]
impl MasterKeyring for Keyring {
    fn newest(&self) -> MasterKeyId {
        self.wrap.newest().id()
    }

    fn opens(&self) -> Vec<MasterKeyId> {
        self.wrap.all().map(|key| key.id()).collect()
    }

    fn check_value(&self) -> [u8; 32] {
        self.wrap.newest().check_value()
    }

    async fn generate(&self, tenant: TenantId) -> Result<SealedKey, BlobError> {
        Self::generate(self, tenant).await
    }

    async fn reseal(&self, tenant: TenantId, sealed: &SealedKey) -> Result<SealedKey, BlobError> {
        // Past the cache: a rotation goes through all tenants, and leaves it to those that are in use.
        let key = self.wrap.open(tenant, sealed).await?;
        let resealed = self.wrap.seal(tenant, &key).await?;
        // What does not open again must not take the place of what did.
        if self.wrap.open(tenant, &resealed).await?.octets() != key.octets() {
            return Err(BlobError::Corrupt("a data key that was sealed anew is another one".into()));
        }
        Ok(resealed)
    }
}

#[cfg(test)]
mod tests;
