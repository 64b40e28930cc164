//! Puts the rooms together: the only place that knows every crate.

use std::{net::IpAddr, path::PathBuf, sync::Arc};

use anyhow::Context as _;
use auth::{
    Authenticator, Backends, BackendsConfig, Hasher, HasherConfig, Penalties, PenaltyConfig, Reach, Sealed,
    VerifiedCache,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use blob::{
    BlobLayout, BlockCache, CacheConfig, ChecksumMode, DiskConfig, DiskStore, Guard, KeyWrap, Keyring,
    MasterKey, ObjectStore, OwnConfig, OwnStores, Packs, PacksConfig, S3Config, S3Store,
    weather::{BreakerConfig, HedgeConfig, ShelterConfig, Unwatched, Watch, shelter},
};
use frontend::{Sessions, Tenancy, TicketSecret};
use index::{PoolStats, Postgres, PostgresConfig, Sqlite, Store};
use maildrop::{
    Bulletins, Deliveries, FairGate, GarbageStats, GatherConfig, Maildrops, ManifestStats, NodeId, Pace,
    Pacer, Releaser, ScrubStats, TenantCache, Throttle, TrafficLog,
    port::{BlobError, BlobStore, Directory, ManifestStore, PackStore},
};
use prometheus::{IntGauge, Opts, Registry, process_collector::ProcessCollector};

use crate::{
    config::{Blob, BlobKind, Checksum, Config},
    files,
    observed::{
        self, ObservedBlobStore, ObservedBulletins, ObservedDirectory, ObservedFailures, ObservedIndex,
        ObservedObjects, ObservedOwn, ObservedRecords, ObservedWeather,
    },
    turns::in_turn,
};

/// The master key is not the one this index was started with.
#[derive(Debug, thiserror::Error)]
#[error(
    "keys.master_key_file: this is not the master key this index was first used with; nothing sealed with the other one could be read"
)]
pub(crate) struct WrongKey;

/// Where the index is.
pub(crate) enum IndexPlace {
    Postgres(PostgresConfig),
    SqliteFile(PathBuf),
    SqliteUrl(String),
}

/// Where the configuration says the index is.
pub(crate) fn index_place(config: &Config) -> anyhow::Result<IndexPlace> {
    Ok(match config.index_url()? {
        None => {
            files::private_dir(&config.node.data_dir)?;
            IndexPlace::SqliteFile(config.node.data_dir.join("index.sqlite"))
        }
        Some(url) if url.expose().starts_with("sqlite:") => IndexPlace::SqliteUrl(url.expose().to_owned()),
        Some(url) => IndexPlace::Postgres(PostgresConfig {
            connections_max: config.index.connections_max,
            acquire_timeout: config.index.acquire_timeout,
            statement_timeout: config.index.statement_timeout,
            ..PostgresConfig::new(url.expose())
        }),
    })
}

/// The adapters and services of a node.
pub(crate) struct Parts {
    pub(crate) node: NodeId,
    /// What `/metrics` shows.
    pub(crate) registry: Registry,
    pub(crate) store: Store,
    /// The same, for the admin API: in tenants' turns.
    pub(crate) managed: Store,
    pub(crate) blob: Arc<dyn BlobStore>,
    /// Where the blob store's objects are.
    pub(crate) objects: Arc<dyn ObjectStore>,
    /// What the keys of all of them begin with.
    pub(crate) objects_prefix: String,
    /// Stores of tenants' own.
    pub(crate) own: OwnStores,
    /// The objects of packs, for the collection of garbage.
    pub(crate) packs: Arc<dyn PackStore>,
    /// Manifests beside them.
    pub(crate) manifests: Arc<dyn ManifestStore>,
    /// What was done for manifests.
    pub(crate) manifest_stats: Arc<ManifestStats>,
    /// What the scrub found.
    pub(crate) scrub: Arc<ScrubStats>,
    /// For tenants' keys.
    pub(crate) tenants: TenantCache,
    /// What the collection of garbage did.
    pub(crate) garbage: Arc<GarbageStats>,
    /// To be closed at the end, so that what is in memory is found again.
    pub(crate) cache: Option<BlockCache>,
    pub(crate) hasher: Hasher,
    pub(crate) authenticator: Authenticator,
    pub(crate) backends: Backends,
    pub(crate) maildrops: Maildrops,
    pub(crate) deliveries: Deliveries,
    pub(crate) bulletins: Bulletins,
    pub(crate) tenancy: Tenancy,
    /// What session tickets are sealed by.
    pub(crate) ticket_secret: TicketSecret,
    /// Pace tenants for as long as they are kept.
    _pacers: [Pacer; 2],
}

impl Parts {
    /// Opens index and blob store, checks that schema and master key fit, and builds the services on them.
    pub(crate) async fn open(config: &Config) -> anyhow::Result<Self> {
        let (store, pool) = open_index(config).await?;
        let registry = registry()?;
        observed::limits(&registry, config, pool.as_ref())?;
        observed::index_pool(&registry, pool)?;
        let store = Store {
            index: Arc::new(ObservedIndex::new(store.index, &registry)?),
            directory: Arc::new(ObservedDirectory::new(store.directory, &registry)?),
            records: Arc::new(ObservedRecords::new(store.records, &registry)?),
            bulletins: Arc::new(ObservedBulletins::new(store.bulletins, &registry)?),
            failures: Arc::new(ObservedFailures::new(store.failures, &registry)?),
            garbage: store.garbage,
            manifests: store.manifests,
            checks: store.checks,
        };
        let master_key = master_key(config)?;
        let (check, decoy_key) = (master_key.check_value(), master_key.decoy_key());
        let ticket_secret = TicketSecret::new(master_key.ticket_secret());
        if store.index.key_check(&check).await? != check {
            return Err(WrongKey.into());
        }
        let (blob, packs, own, objects, cache) =
            blob_store(config, master_key, Arc::clone(&store.directory), &registry).await?;
        let manifest_stats = Arc::new(ManifestStats::default());
        observed::manifests(&registry, &manifest_stats)?;
        let scrub = Arc::new(ScrubStats::default());
        observed::scrub(&registry, &scrub)?;
        let garbage = Arc::new(GarbageStats::default());
        observed::garbage(&registry, &garbage)?;
        let tenants = TenantCache::new(Arc::clone(&store.directory));
        let of_scrub = tenants.clone();
        let node = NodeId::generate();
        let (releaser, _) = Releaser::start(Arc::clone(&store.index));
        // What CPUs, a database and an object store do at once without getting slower.
        let pace = Pace::new(cores());
        let defaults = HasherConfig::default();
        let hasher = Hasher::new(HasherConfig {
            concurrent_max: config.auth.hashes_max.unwrap_or(defaults.concurrent_max),
            memory_kib: config.auth.argon2_memory_kib.unwrap_or(defaults.memory_kib),
            ..defaults
        })?
        .paced_by(&pace);
        let work = config.node.work_max.unwrap_or_else(default_work);
        // More statements of one tenant at once than the database has use for would only be in the others' way.
        let turns = FairGate::sharing(work, cores(), WAITING_MAX).paced_by(&pace);
        // What waits for the object store must not stand in the way of what does not (P7), and what is looked up
        // is nobody's yet.
        let gate = || FairGate::new(work, WAITING_MAX).paced_by(&pace);
        let (reading, storing) = (gate(), gate());
        // Whoever asks for names that nobody has is a tenant more with each: by itself, so that it is no other work's.
        let of_names = Pace::new(cores());
        let asking = FairGate::new(work, WAITING_MAX).paced_by(&of_names);
        let pacers = [&pace, &of_names].map(|pace| Pacer::start(pace.clone()));
        queues(&registry, &releaser, &hasher, [&turns, &asking, &reading, &storing], &pace)?;
        let penalties =
            PenaltyConfig { first: config.auth.failure_delay, max: config.auth.failure_delay_max };
        let tenancy = Tenancy {
            throttle: Throttle::default(),
            traffic: TrafficLog::new(Arc::clone(&store.records)),
            sessions: Sessions::default(),
            penalties: Penalties::new(penalties, Arc::clone(&store.failures), decoy_key),
        };
        let managed = in_turn(&store, &turns);
        let login_backends = &config.login_backends;
        let backends = Backends::new(
            Arc::clone(&store.directory),
            Arc::clone(&blob),
            tenants.clone(),
            BackendsConfig {
                reach: Reach {
                    networks: login_backends.allowed_networks.iter().copied().collect(),
                    hosts: login_backends.allowed_hosts.clone().into(),
                    public: login_backends.allow_public,
                },
                secrets_dir: login_backends.secrets_dir.clone(),
                concurrent_max: login_backends.concurrent_max,
                waiting_max: login_backends.waiting_max,
            },
            auth::Metrics::new(&registry)?,
        );
        let verified = VerifiedCache::new(config.auth.verified_max, config.auth.verified_ttl);
        Ok(Self {
            node,
            registry,
            authenticator: Authenticator::new(
                Arc::clone(&store.directory),
                hasher.clone(),
                verified,
                Sealed::new(Arc::clone(&blob), tenants.clone(), decoy_key),
                asking.clone(),
            )
            .with_backends(backends.clone()),
            backends,
            maildrops: Maildrops::new(
                Arc::clone(&store.index),
                Arc::clone(&blob),
                tenants.clone(),
                node,
                releaser,
                turns,
                reading,
            ),
            bulletins: Bulletins::new(
                // Not in turn: it has its turn for storing, and nobody waits for one who holds one.
                Arc::clone(&store.bulletins),
                Arc::clone(&blob),
                tenants.clone(),
                storing.clone(),
            ),
            deliveries: Deliveries::new(
                Arc::clone(&store.directory),
                Arc::clone(&store.index),
                Arc::clone(&blob),
                tenants,
                tenancy.throttle.clone(),
                asking,
                storing,
            )
            .gathering(GatherConfig {
                linger: config.pack.linger,
                octets_max: config.pack.max_octets,
                messages_max: config.pack.max_messages,
                lanes: config.pack.lanes,
            }),
            tenancy,
            ticket_secret,
            _pacers: pacers,
            store,
            managed,
            blob,
            objects,
            objects_prefix: BlobLayout::new(&config.blob.prefix)?.all_tenants(),
            manifests: Arc::clone(&packs) as Arc<dyn ManifestStore>,
            manifest_stats,
            scrub,
            tenants: of_scrub,
            packs,
            own,
            garbage,
            cache,
            hasher,
        })
    }
}

/// Index and bucket by themselves, for commands that serve nobody.
pub(crate) struct Vault {
    pub(crate) store: Store,
    pub(crate) packs: Arc<Packs>,
}

impl Vault {
    /// Opens both. `fits` is asked before the index remembers the master key, where it does not know any: a wrong one must
    /// not be remembered.
    pub(crate) async fn open<F>(config: &Config, fits: impl FnOnce(Arc<Packs>) -> F) -> anyhow::Result<Self>
    where
        F: Future<Output = anyhow::Result<()>>,
    {
        let (store, _) = open_index(config).await?;
        let registry = Registry::new();
        let master_key = master_key(config)?;
        let check = master_key.check_value();
        let objects = Box::pin(object_store(config, &registry)).await.context("open the blob store")?;
        let layout = BlobLayout::new(&config.blob.prefix)?;
        let master_key: Arc<dyn KeyWrap> = Arc::new(master_key);
        let watch = Arc::new(Unwatched);
        let own = own_stores(config, &store.directory, &master_key, (&objects, &layout), watch);
        let keyring = Keyring::new(master_key);
        let packs = Arc::new(Packs::new(objects, keyring, layout, PacksConfig::default()).with_own(own));
        packs.ready().await.context("open the blob store")?;
        fits(Arc::clone(&packs)).await?;
        if store.index.key_check(&check).await? != check {
            return Err(WrongKey.into());
        }
        Ok(Self { store, packs })
    }
}

async fn open_index(config: &Config) -> anyhow::Result<(Store, Option<PoolStats>)> {
    Ok(match index_place(config)? {
        IndexPlace::Postgres(config) => {
            let postgres = Arc::new(Postgres::connect(config).await.context("open the index")?);
            let pool = postgres.pool();
            (postgres.into(), Some(pool))
        }
        IndexPlace::SqliteFile(path) => {
            (Arc::new(Sqlite::open(&path).await.context("open the index")?).into(), None)
        }
        IndexPlace::SqliteUrl(url) => {
            (Arc::new(Sqlite::open_url(&url).await.context("open the index")?).into(), None)
        }
    })
}

/// Work of one tenant that may wait; past that it is refused for now.
const WAITING_MAX: usize = 10_000;

/// Work under way at once: enough for the waits of databases and object stores, few enough that a tenant's turn
/// comes soon.
fn default_work() -> usize {
    16 * cores()
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from)
}

fn master_key(config: &Config) -> anyhow::Result<MasterKey> {
    if let Some(key) = config.master_key()? {
        return Ok(key);
    }
    // `Config::check` lets this be only where everything is on this machine.
    files::private_dir(&config.node.data_dir)?;
    let path = config.node.data_dir.join("master-key");
    let text = files::secret_file(&path, || {
        let mut key = [0; 32];
        files::fill_random(&mut key)?;
        Ok(format!("{}\n", STANDARD.encode(key)))
    })?;
    MasterKey::parse(&text).with_context(|| path.display().to_string())
}

/// A registry with what there is to say of every process.
fn registry() -> anyhow::Result<Registry> {
    let registry = Registry::new();
    registry.register(Box::new(ProcessCollector::for_self()))?;
    let build = Opts::new("postern_build_info", "always 1; the version that runs");
    let build = IntGauge::with_opts(build.const_label("version", env!("CARGO_PKG_VERSION")))?;
    build.set(1);
    registry.register(Box::new(build))?;
    Ok(registry)
}

/// What waits inside this node.
fn queues(
    registry: &Registry,
    releaser: &Releaser,
    hasher: &Hasher,
    gates: [&FairGate; 4],
    pace: &Pace,
) -> Result<(), prometheus::Error> {
    let gates = gates.map(FairGate::clone);
    let (of_waiting, of_running) = (gates.clone(), gates);
    observed::gauge(registry, "postern_work_waiting", "work that waits for its tenant's turn", move || {
        of_waiting.iter().map(|gate| gate.stats().waiting as f64).sum()
    })?;
    observed::gauge(registry, "postern_work_running", "work under way for tenants", move || {
        of_running.iter().map(|gate| gate.stats().in_use as f64).sum()
    })?;
    let pace = pace.clone();
    let help =
        "seconds of work a second that a tenant may have while the work of all is slow; 0 for no bound";
    observed::gauge(registry, "postern_work_pace", help, move || pace.current().unwrap_or(0.0))?;
    let pending = releaser.pending();
    observed::gauge(
        registry,
        "postern_releaser_pending",
        "locks of ended sessions still to be given back",
        move || pending() as f64,
    )?;
    let of_waiting = hasher.clone();
    observed::gauge(
        registry,
        "postern_hasher_waiting",
        "passwords that wait to be hashed or verified",
        move || of_waiting.stats().waiting as f64,
    )?;
    let of_running = hasher.clone();
    observed::gauge(registry, "postern_hasher_running", "passwords being hashed or verified", move || {
        of_running.stats().in_use as f64
    })
}

async fn blob_store(
    config: &Config,
    master_key: MasterKey,
    directory: Arc<dyn Directory>,
    registry: &Registry,
) -> anyhow::Result<(Arc<dyn BlobStore>, Arc<Packs>, OwnStores, Arc<dyn ObjectStore>, Option<BlockCache>)> {
    let objects = Box::pin(object_store(config, registry)).await.context("open the blob store")?;
    let objects: Arc<dyn ObjectStore> = Arc::new(ObservedObjects::new(objects, registry)?);
    let layout = BlobLayout::new(&config.blob.prefix)?;
    let master_key: Arc<dyn KeyWrap> = Arc::new(master_key);
    let watch = Arc::new(ObservedOwn::new(registry)?);
    let own = own_stores(config, &directory, &master_key, (&objects, &layout), watch);
    observed::own_stores(registry, &own)?;
    let packs = Packs::new(
        Arc::clone(&objects),
        Keyring::new(master_key),
        layout,
        PacksConfig {
            solo_octets: config.pack.solo_octets,
            memory_octets: config.pack.memory_octets,
            spool: spool(config),
            ahead_octets: config.read.ahead_octets,
            ahead_requests: config.read.ahead_requests,
            ahead_memory_octets: config.read.memory_octets,
            part_octets: config.pack.part_octets,
            large_uploads_max: config.pack.large_uploads_max,
            compression_level: config.pack.compression_level,
        },
    );
    let packs = packs.with_own(own.clone());
    let cache = block_cache(config).await?;
    observed::cache(registry, cache.clone())?;
    let packs = match &cache {
        Some(cache) => packs.cached_in(cache.clone()),
        None => packs,
    };
    let free = packs.clone();
    let help = "octets of memory that messages on their way to the blob store may still take up";
    observed::gauge(registry, "postern_pack_memory_free_octets", help, move || free.memory_free() as f64)?;
    // A bucket that is not there is an error of configuration, and told at once. A store that does not
    // answer now may answer later: the node starts, and says so when asked (P7).
    match packs.ready().await {
        Ok(()) => {}
        Err(error @ BlobError::Unavailable(_)) => tracing::warn!(%error, "blob store does not answer yet"),
        Err(error) => return Err(error).context("open the blob store"),
    }
    let packs = Arc::new(packs);
    let blob = ObservedBlobStore::new(Arc::clone(&packs) as Arc<dyn BlobStore>, registry)?;
    Ok((Arc::new(blob), packs, own, objects, cache))
}

/// The operator's word on what tenants' stores may reach.
#[derive(Debug)]
struct Reachable(Reach);

impl Guard for Reachable {
    fn allows(&self, host: &str, address: IpAddr, encrypted: bool) -> bool {
        self.0.lets(host, address, encrypted)
    }
}

/// Large uploads of one tenant to its own store at once: few, for they wait for it with up to two parts in memory.
const OWN_LARGE_UPLOADS_MAX: usize = 2;

fn own_stores(
    config: &Config,
    directory: &Arc<dyn Directory>,
    master_key: &Arc<dyn KeyWrap>,
    (house, layout): (&Arc<dyn ObjectStore>, &BlobLayout),
    watch: Arc<dyn Watch>,
) -> OwnStores {
    let own = &config.tenant_buckets;
    let reach = Reach {
        networks: own.allowed_networks.iter().copied().collect(),
        hosts: own.allowed_hosts.clone().into(),
        public: own.allow_public,
    };
    let s3 = S3Config {
        requests_max: own.requests_max,
        downloads_max: own.requests_max,
        ..bounds(&config.blob, String::new())
    };
    let config = OwnConfig {
        s3,
        shelter: sheltered(&config.blob),
        guard: Arc::new(Reachable(reach)),
        watch,
        large_uploads_max: OWN_LARGE_UPLOADS_MAX.min(config.pack.large_uploads_max.max(1)),
        // Whatever all of them do, half is left to who is in the house.
        memory_octets: (config.pack.memory_octets / 2).max(2 * config.pack.solo_octets),
        ahead_octets: config.read.memory_octets / 8,
        stores_max: own.clients_max,
    };
    let keyring = Keyring::new(Arc::clone(master_key));
    OwnStores::new(Arc::clone(directory), keyring, Arc::clone(house), layout.clone(), config)
}

/// How an S3 bucket is asked, whosever it is.
fn bounds(blob: &Blob, bucket: String) -> S3Config {
    let defaults = S3Config::new(bucket);
    S3Config {
        connect_timeout: blob.connect_timeout.unwrap_or(defaults.connect_timeout),
        read_timeout: blob.read_timeout.unwrap_or(defaults.read_timeout),
        attempts_max: blob.attempts_max.unwrap_or(defaults.attempts_max),
        retries_max: blob.retries_max.unwrap_or(defaults.retries_max),
        ..defaults
    }
}

fn sheltered(blob: &Blob) -> ShelterConfig {
    let breaker = BreakerConfig::default();
    let failures = blob.breaker_failures.unwrap_or(breaker.failures);
    ShelterConfig {
        breaker: BreakerConfig { failures, ..breaker },
        hedge: blob.hedge.unwrap_or(true).then(HedgeConfig::default),
    }
}

async fn block_cache(config: &Config) -> anyhow::Result<Option<BlockCache>> {
    let cache = &config.cache;
    if cache.memory_octets == 0 {
        return Ok(None);
    }
    let disk = cache.dir.clone().map(|dir| (dir, cache.disk_octets));
    let opened = BlockCache::open(&CacheConfig { memory_octets: cache.memory_octets, disk }).await;
    Ok(Some(opened.context("open the read cache (cache.dir)")?))
}

/// Where messages go that memory has no room for.
fn spool(config: &Config) -> Option<(PathBuf, u64)> {
    let pack = &config.pack;
    let dir = || pack.spool_dir.clone().unwrap_or_else(std::env::temp_dir);
    (pack.spool_octets > 0).then(|| (dir(), pack.spool_octets))
}

async fn object_store(config: &Config, registry: &Registry) -> anyhow::Result<Arc<dyn ObjectStore>> {
    let blob = &config.blob;
    let watch: Arc<dyn Watch> = Arc::new(ObservedWeather::new(registry)?);
    match blob.kind {
        BlobKind::Disk => {
            let path = blob.path.clone().unwrap_or_else(|| config.node.data_dir.join("packs"));
            observed::shelter(registry, None)?;
            Ok(Arc::new(DiskStore::open(DiskConfig::new(path)).await?))
        }
        BlobKind::S3 => {
            let defaults = bounds(blob, blob.bucket.clone().unwrap_or_default());
            let config = S3Config {
                region: blob.region.clone(),
                endpoint: blob.endpoint.clone(),
                force_path_style: blob.force_path_style,
                checksum: blob.checksum.map(|checksum| match checksum {
                    Checksum::WhenSupported => ChecksumMode::WhenSupported,
                    Checksum::WhenRequired => ChecksumMode::WhenRequired,
                }),
                requests_max: blob.requests_max.unwrap_or(defaults.requests_max),
                ..defaults
            };
            let sheltered = sheltered(blob);
            let replica = blob.replica_bucket.as_ref().map(|bucket| S3Config {
                bucket: bucket.clone(),
                region: blob.replica_region.clone().or_else(|| config.region.clone()),
                endpoint: blob.replica_endpoint.clone().or_else(|| config.endpoint.clone()),
                ..config.clone()
            });
            let main = S3Store::watched(config, Arc::clone(&watch)).await;
            let replica = match replica {
                Some(replica) => Some(S3Store::watched(replica, Arc::clone(&watch)).await),
                None => None,
            };
            let sheltered = shelter(main, replica, &sheltered, &watch);
            observed::shelter(registry, Some(&sheltered))?;
            Ok(sheltered.store)
        }
    }
}
