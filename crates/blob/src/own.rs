//! Stores of tenants' own: a bucket that a tenant brought along, asked with its own credentials.
//!
//! A pack's identity names the store that it lies in ([`PackId::store`]), so nothing is ever looked for. Each store
//! has a client, deadlines, places, a budget of retries and a breaker to itself: what one does or does not do is one
//! tenant's business (P5). Clients that nobody asks for are dropped.

mod describe;
mod guard;
mod probe;

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use maildrop::{
    BucketPlace, BucketSettings, StoreNumber, TenantBuckets, TenantId,
    port::{BlobError, Directory, OwnBuckets, ProbeError},
};
use tokio::sync::{OnceCell, Semaphore};
use uuid::Uuid;
use zeroize::Zeroizing;

pub use guard::Guard;
pub(crate) use guard::Guarded;

use crate::{
    BlobLayout, Keyring, ObjectStore, S3Config, S3Store, StaticCredentials,
    packs::Share,
    weather::{ShelterConfig, Watch, shelter},
};
use guard::Server;

/// How long what the directory says of a tenant's stores is relied on.
const KNOWN_FOR: Duration = Duration::from_secs(10);
/// Tenants of which that is remembered; one without stores takes some 100 octets.
const KNOWN_MAX: u64 = 100_000;
/// A store that nobody asked for so long is let go, and its connections are closed.
const IDLE: Duration = Duration::from_mins(10);
/// What the secrets are sealed for.
const PURPOSE: &str = "buckets";

/// What tenants' stores may cost, and reach.
#[derive(Clone, Debug)]
pub struct OwnConfig {
    /// How each is asked; bucket, server and credentials are the tenant's.
    pub s3: S3Config,
    /// How each is sheltered.
    pub shelter: ShelterConfig,
    /// What they may reach.
    pub guard: Arc<dyn Guard>,
    /// Told of what becomes of requests.
    pub watch: Arc<dyn Watch>,
    /// Large uploads of one tenant at once. Default of the node: 2.
    pub large_uploads_max: usize,
    /// Octets on their way to all such stores at once, and half of that to one.
    pub memory_octets: usize,
    /// Octets fetched ahead from one.
    pub ahead_octets: usize,
    /// Clients at once; past that, those that were asked longest ago go.
    pub stores_max: u64,
}

/// All stores of tenants' own. Cheap to clone.
#[derive(Clone)]
pub struct OwnStores {
    inner: Arc<Inner>,
}

struct Inner {
    directory: Arc<dyn Directory>,
    keyring: Keyring,
    /// The house's store, for descriptions.
    house: Arc<dyn ObjectStore>,
    layout: BlobLayout,
    config: OwnConfig,
    known: moka::sync::Cache<TenantId, Arc<Known>>,
    /// By what they are made of: a new version of a tenant's settings makes a new client.
    open: moka::sync::Cache<(TenantId, StoreNumber, i64), Arc<OnceCell<Arc<OwnStore>>>>,
    /// What messages for all such stores may take up.
    share: Share,
    /// What was found without the directory, which may have lost it.
    learnt: Mutex<HashMap<TenantId, Arc<TenantBuckets>>>,
}

struct Known {
    stored: Arc<TenantBuckets>,
    read_at: Instant,
}

/// A store of a tenant's own, ready to be asked.
#[derive(Debug)]
pub(crate) struct OwnStore {
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) layout: BlobLayout,
    /// Large messages on their way to it at once.
    pub(crate) large_uploads: Arc<Semaphore>,
    /// What other messages for it may take up.
    pub(crate) share: Share,
    /// Room, in KiB, for what is fetched ahead from it.
    pub(crate) ahead: Arc<Semaphore>,
}

impl OwnStores {
    /// Stores that `directory` knows of, their secrets opened by `keyring`, described in the `house`'s store.
    pub fn new(
        directory: Arc<dyn Directory>,
        keyring: Keyring,
        house: Arc<dyn ObjectStore>,
        layout: BlobLayout,
        config: OwnConfig,
    ) -> Self {
        let known = moka::sync::Cache::builder().max_capacity(KNOWN_MAX).time_to_idle(IDLE).build();
        let open =
            moka::sync::Cache::builder().max_capacity(config.stores_max.max(1)).time_to_idle(IDLE).build();
        let (share, learnt) = (Share::new(config.memory_octets), Mutex::default());
        Self {
            inner: Arc::new(Inner { directory, keyring, house, layout, config, known, open, share, learnt }),
        }
    }

    /// What messages for all stores of tenants' own may take up.
    pub(crate) fn share(&self) -> &Share {
        &self.inner.share
    }

    /// The store, where it is open.
    pub(crate) fn opened(&self, tenant: TenantId, number: StoreNumber) -> Option<Arc<OwnStore>> {
        let known = self.inner.known.get(&tenant)?;
        self.inner.open.get(&(tenant, number, known.stored.version))?.get().cloned()
    }

    /// Clients that are held now.
    pub fn held(&self) -> u64 {
        self.inner.open.run_pending_tasks();
        self.inner.open.entry_count()
    }

    /// Where the tenant's new packs go.
    pub(crate) async fn current(&self, tenant: TenantId) -> Result<StoreNumber, BlobError> {
        Ok(self.stored(tenant, false).await?.buckets.current)
    }

    /// The numbers of the tenant's own stores.
    pub(crate) async fn numbers(&self, tenant: TenantId) -> Result<Vec<StoreNumber>, BlobError> {
        let stored = self.stored(tenant, true).await?;
        Ok(stored.buckets.known.keys().map(|number| StoreNumber(*number)).collect())
    }

    /// The tenant's store of this number.
    pub(crate) async fn open(
        &self,
        tenant: TenantId,
        number: StoreNumber,
    ) -> Result<Arc<OwnStore>, BlobError> {
        let mut stored = self.stored(tenant, false).await?;
        if stored.buckets.get(number).is_none() {
            // It may have been set by another node a moment ago.
            stored = self.stored(tenant, true).await?;
        }
        let inner = &self.inner;
        let slot = inner.open.get_with((tenant, number, stored.version), Arc::default);
        let opened = slot.get_or_try_init(async || {
            let Some(known) = stored.buckets.get(number) else {
                return Err(BlobError::Misconfigured(format!(
                    "nothing is known of the tenant's store {number}"
                )));
            };
            let secret = inner.secrets(tenant, &stored).await?.remove(&number.0).ok_or_else(|| {
                BlobError::Misconfigured(format!("the secret of the tenant's store {number} is gone"))
            })?;
            tracing::debug!(%tenant, %number, bucket = known.place.bucket, "a tenant's own store is opened");
            inner.config.open(&known.place, &secret).await.map(Arc::new)
        });
        opened.await.map(Arc::clone)
    }

    async fn stored(&self, tenant: TenantId, anew: bool) -> Result<Arc<TenantBuckets>, BlobError> {
        let inner = &self.inner;
        let known = inner.known.get(&tenant);
        if let Some(known) = &known
            && !anew
            && known.read_at.elapsed() < KNOWN_FOR
        {
            return Ok(Arc::clone(&known.stored));
        }
        let read = inner.directory.tenant_buckets(tenant).await;
        let learnt = inner.learnt().get(&tenant).cloned();
        let stored = match (read, known) {
            (Ok(stored), _) => {
                let stored = Arc::new(stored.unwrap_or_default());
                learnt.filter(|learnt| learnt.version > stored.version).unwrap_or(stored)
            }
            // What was so a while ago is so still, as far as anybody can tell: messages are read on without an index.
            (Err(_), Some(known)) => return Ok(Arc::clone(&known.stored)),
            (Err(error), None) => {
                return Err(BlobError::Unavailable(format!(
                    "which stores the tenant has is not known: {error}"
                )));
            }
        };
        let known = Known { stored: Arc::clone(&stored), read_at: Instant::now() };
        inner.known.insert(tenant, Arc::new(known));
        Ok(stored)
    }

    /// Relies on this for the tenant's stores as long as the directory does not know better.
    pub(crate) fn learn(&self, tenant: TenantId, stored: TenantBuckets) {
        self.inner.learnt().insert(tenant, Arc::new(stored));
        self.inner.known.invalidate(&tenant);
    }
}

impl Inner {
    fn learnt(&self) -> MutexGuard<'_, HashMap<TenantId, Arc<TenantBuckets>>> {
        // Nothing panics while it is held.
        self.learnt.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn secrets(
        &self,
        tenant: TenantId,
        stored: &TenantBuckets,
    ) -> Result<BTreeMap<u16, Zeroizing<String>>, BlobError> {
        let (Some(key), Some(sealed)) = (&stored.key, &stored.secrets) else { return Ok(BTreeMap::new()) };
        let opened = self.keyring.open_secret(tenant, key, PURPOSE, sealed).await.map(Zeroizing::new)?;
        let read = serde_json::from_slice::<BTreeMap<u16, String>>(&opened);
        let read = read.map_err(|_| BlobError::Corrupt("secrets of the tenant's stores".into()))?;
        Ok(read.into_iter().map(|(number, secret)| (number, Zeroizing::new(secret))).collect())
    }
}

impl OwnConfig {
    /// How this bucket is asked.
    fn s3(&self, place: &BucketPlace, secret: &str) -> S3Config {
        S3Config {
            bucket: place.bucket.clone(),
            region: place.region.clone().or_else(|| Some("us-east-1".into())),
            endpoint: place.endpoint.clone(),
            force_path_style: place.force_path_style,
            credentials: Some(StaticCredentials {
                access_key: place.access_key_id.clone(),
                secret_key: secret.to_owned(),
            }),
            ..self.s3.clone()
        }
    }

    fn guarded(&self, place: &BucketPlace) -> Result<Guarded, BlobError> {
        let server = Server::parse(place.endpoint.as_deref()).map_err(|problem| {
            BlobError::Misconfigured(format!("the endpoint of the tenant's store {problem}"))
        })?;
        let guarded = Guarded::new(Arc::clone(&self.guard), server.encrypted);
        // An address is connected to without being looked up: it is judged here, each time.
        if server.address().is_some_and(|address| !guarded.allows(&server.host, address)) {
            return Err(BlobError::Misconfigured(
                "the tenant's store is where nothing may be reached".into(),
            ));
        }
        Ok(guarded)
    }

    async fn open(&self, place: &BucketPlace, secret: &str) -> Result<OwnStore, BlobError> {
        let layout = BlobLayout::new(&place.prefix).map_err(|e| BlobError::Misconfigured(e.to_string()))?;
        let guarded = self.guarded(place)?;
        let store = S3Store::guarded(self.s3(place, secret), Arc::clone(&self.watch), guarded).await;
        let sheltered = shelter(store, None, &self.shelter, &self.watch);
        let large_uploads = Arc::new(Semaphore::new(self.large_uploads_max.max(1)));
        let share = Share::new(self.memory_octets / 2);
        let ahead = Arc::new(Semaphore::new(self.ahead_octets / 1024));
        Ok(OwnStore { store: sheltered.store, layout, large_uploads, share, ahead })
    }
}

#[async_trait]
impl OwnBuckets for OwnStores {
    fn problem(&self, settings: &BucketSettings) -> Option<(&'static str, String)> {
        probe::problem(settings, &self.inner.config)
    }

    async fn probe(&self, tenant: TenantId, settings: &BucketSettings) -> Result<(), ProbeError> {
        probe::probe(&self.inner.config, tenant, settings).await
    }

    async fn keep_secret(
        &self,
        tenant: TenantId,
        stored: &mut TenantBuckets,
        number: StoreNumber,
        secret: Option<&str>,
    ) -> Result<(), BlobError> {
        let inner = &self.inner;
        let mut secrets = inner.secrets(tenant, stored).await?;
        match secret {
            Some(secret) => drop(secrets.insert(number.0, Zeroizing::new(secret.to_owned()))),
            None => drop(secrets.remove(&number.0)),
        }
        secrets.retain(|number, _| stored.buckets.known.contains_key(number));
        // A new one each time, so that what wraps keys now wraps it.
        let key = inner.keyring.generate(tenant)?;
        let texts: BTreeMap<u16, &str> =
            secrets.iter().map(|(number, text)| (*number, text.as_str())).collect();
        // A map of texts can always be written.
        let octets = Zeroizing::new(serde_json::to_vec(&texts).unwrap_or_default());
        stored.secrets = Some(inner.keyring.seal_secret(tenant, &key, PURPOSE, &octets).await?);
        stored.key = Some(key);
        Ok(())
    }

    async fn describe(&self, tenant: TenantId, stored: &TenantBuckets) -> Result<Uuid, BlobError> {
        self.inner.describe(tenant, stored).await
    }

    async fn described(&self, tenant: TenantId, version: i64, id: Uuid, set: bool) -> Result<(), BlobError> {
        self.inner.known.invalidate(&tenant);
        self.inner.described(tenant, version, id, set).await
    }
}

impl fmt::Debug for OwnStores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnStores").field("config", &self.inner.config).finish_non_exhaustive()
    }
}
