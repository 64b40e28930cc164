//! Messages in packs: the domain's blob store.

mod ahead;
mod builder;
mod fetch;
mod look;
mod manifest;
mod read;
mod rewrite;
mod room;
mod write;

use std::{fmt, path::PathBuf, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use maildrop::{
    EntryEnvelope, Extent, FairGate, PackId, SealedKey, StoreNumber, StoredEntry, TenantId,
    port::{BlobError, BlobStore, BodyStream, EntryWriter, MessageReader, Read, SealedEntry},
};
use time::OffsetDateTime;
use tokio::sync::Semaphore;

use crate::{
    BlobKey, BlobLayout, BlockCache, EntryScanner, Keyring, ObjectStore, OwnStores, ScanItem, own::OwnStore,
};
use ahead::Ahead;
#[cfg(test)]
pub(crate) use builder::PackBuilder;
use fetch::Fetch;
use room::Rooms;
pub(crate) use room::Share;

/// How packs are written. The defaults fit mail on S3.
#[derive(Clone, Debug)]
pub struct PacksConfig {
    /// A message of so many sealed octets is stored alone, and past a part's octets by multipart upload. It is
    /// also what a smaller message may hold in memory. Default: 1 MiB.
    pub solo_octets: usize,
    /// Octets of a part; at least S3's 5 MiB. A large upload holds up to two of them. Default: 8 MiB.
    pub part_octets: usize,
    /// Octets of sealed messages in memory that wait to be stored, or are being stored. Default: 64 MiB.
    pub memory_octets: usize,
    /// Where sealed messages go past that, and how many octets of them; past these, or where there is none, no
    /// more of a message is read. Default: none.
    pub spool: Option<(PathBuf, u64)>,
    /// Most large uploads at once; further ones wait, and their senders with them. Default: 8 (128 MiB).
    pub large_uploads_max: usize,
    /// Octets that a session's messages are fetched ahead of being asked for, at most. Default: 4 MiB.
    pub ahead_octets: u64,
    /// Requests of one session for them at once. Default: 32.
    pub ahead_requests: usize,
    /// Octets that are fetched ahead for all sessions. Default: 128 MiB.
    pub ahead_memory_octets: usize,
    /// zstd's level, 1 to 19. Default: 3, the knee of its curve on mail.
    pub compression_level: i32,
}

impl Default for PacksConfig {
    fn default() -> Self {
        Self {
            solo_octets: 1024 * 1024,
            memory_octets: 64 * 1024 * 1024,
            spool: None,
            part_octets: PART_OCTETS_MIN + 3 * 1024 * 1024,
            large_uploads_max: 8,
            ahead_octets: 4 * 1024 * 1024,
            ahead_requests: 32,
            ahead_memory_octets: 128 * 1024 * 1024,
            compression_level: 3,
        }
    }
}

/// The least octets of a part that is not the last (S3).
const PART_OCTETS_MIN: usize = 5 * 1024 * 1024;

/// Stores messages in packs on an object store, sealed under their tenants' keys. Cheap to clone.
#[derive(Clone)]
pub struct Packs {
    inner: Arc<Inner>,
}

struct Inner {
    store: Arc<dyn ObjectStore>,
    keyring: Keyring,
    layout: BlobLayout,
    config: PacksConfig,
    large_uploads: Arc<Semaphore>,
    rooms: Rooms,
    /// Room, in KiB, for what is fetched ahead.
    ahead: Arc<Semaphore>,
    cache: Option<BlockCache>,
    /// Those of tenants' own.
    own: Option<OwnStores>,
}

impl Inner {
    /// The tenant's own store of this number; none where it is the house's.
    async fn own(&self, tenant: TenantId, number: StoreNumber) -> Result<Option<Arc<OwnStore>>, BlobError> {
        match &self.own {
            _ if number.is_house() => Ok(None),
            Some(own) => own.open(tenant, number).await.map(Some),
            None => Err(BlobError::Misconfigured("stores of tenants' own are not known here".into())),
        }
    }

    /// Where the tenant's new packs go.
    async fn current(&self, tenant: TenantId) -> Result<StoreNumber, BlobError> {
        match &self.own {
            Some(own) => own.current(tenant).await,
            None => Ok(StoreNumber::HOUSE),
        }
    }

    /// The store that a pack lies in, and its name there.
    async fn place(
        &self,
        tenant: TenantId,
        pack: PackId,
    ) -> Result<(Arc<dyn ObjectStore>, BlobKey), BlobError> {
        Ok(match self.own(tenant, pack.store()).await? {
            None => (Arc::clone(&self.store), self.layout.pack(tenant, pack)),
            Some(own) => (Arc::clone(&own.store), own.layout.pack(tenant, pack)),
        })
    }
}

impl Packs {
    /// Packs on `store`, named by `layout`, under the keys of `keyring`. Sizes out of bounds are raised or
    /// lowered to the nearest that works.
    pub fn new(
        store: Arc<dyn ObjectStore>,
        keyring: Keyring,
        layout: BlobLayout,
        mut config: PacksConfig,
    ) -> Self {
        config.part_octets = config.part_octets.max(PART_OCTETS_MIN);
        config.solo_octets = config.solo_octets.min(config.part_octets);
        config.compression_level = config.compression_level.clamp(1, 19);
        let large_uploads = Arc::new(Semaphore::new(config.large_uploads_max.max(1)));
        // One message must always find room.
        config.memory_octets = config.memory_octets.max(2 * config.solo_octets);
        let rooms = Rooms::new(config.memory_octets, config.spool.clone());
        let ahead = (config.ahead_memory_octets / 1024).min(Semaphore::MAX_PERMITS);
        let ahead = Arc::new(Semaphore::new(ahead));
        let (cache, own) = (None, None);
        let inner = Inner { store, keyring, layout, config, large_uploads, rooms, ahead, cache, own };
        Self { inner: Arc::new(inner) }
    }

    /// The same, unused as yet, with a cache of entries.
    #[must_use]
    pub fn cached_in(self, cache: BlockCache) -> Self {
        match Arc::try_unwrap(self.inner) {
            Ok(inner) => Self { inner: Arc::new(Inner { cache: Some(cache), ..inner }) },
            // In use: it stays without.
            Err(inner) => Self { inner },
        }
    }

    /// The same, unused as yet, with stores of tenants' own.
    #[must_use]
    pub fn with_own(self, own: OwnStores) -> Self {
        match Arc::try_unwrap(self.inner) {
            Ok(inner) => Self { inner: Arc::new(Inner { own: Some(own), ..inner }) },
            // In use: it stays without.
            Err(inner) => Self { inner },
        }
    }

    /// Octets of memory that messages may still take up before they are spooled, or wait.
    pub fn memory_free(&self) -> usize {
        self.inner.rooms.memory_free()
    }

    /// Reads a whole pack front to back and gives `each` what is in it, damage included. Needs no index and
    /// no footer; memory stays bounded.
    pub async fn scan(
        &self,
        tenant: TenantId,
        key: &SealedKey,
        pack: PackId,
        mut each: impl FnMut(ScanItem) + Send,
    ) -> Result<(), BlobError> {
        let inner = &self.inner;
        let opened = inner.keyring.open(tenant, key).await?;
        let (store, name) = inner.place(tenant, pack).await?;
        let Some(octets) = store.size(&name).await? else {
            return Err(BlobError::NotFound(name.to_string()));
        };
        let mut fetch = Fetch::new(store, name, 0..octets, None);
        let mut scanner = EntryScanner::new(tenant, opened, pack);
        while let Some(octets) = fetch.next().await? {
            scanner.push(&octets).into_iter().for_each(&mut each);
        }
        scanner.finish().into_iter().for_each(each);
        Ok(())
    }
}

#[async_trait]
impl BlobStore for Packs {
    fn new_tenant_key(&self, tenant: TenantId) -> Result<SealedKey, BlobError> {
        self.inner.keyring.generate(tenant)
    }

    async fn seal_secret(
        &self,
        tenant: TenantId,
        key: &SealedKey,
        purpose: &str,
        secret: &[u8],
    ) -> Result<Vec<u8>, BlobError> {
        self.inner.keyring.seal_secret(tenant, key, purpose, secret).await
    }

    async fn open_secret(
        &self,
        tenant: TenantId,
        key: &SealedKey,
        purpose: &str,
        sealed: &[u8],
    ) -> Result<Vec<u8>, BlobError> {
        self.inner.keyring.open_secret(tenant, key, purpose, sealed).await
    }

    async fn purge(&self, tenant: TenantId) -> Result<u64, BlobError> {
        let inner = &self.inner;
        let prefix = inner.layout.everything(tenant);
        // From the beginning each time: what was there is gone.
        let page = inner.store.list(&prefix, None).await?;
        let keys: Vec<_> = page.objects.into_iter().map(|listed| listed.key).collect();
        if keys.is_empty() {
            // What was being uploaded when the tenant went can no longer end.
            inner.store.abort_leftovers(&prefix, OffsetDateTime::now_utc()).await?;
            return Ok(0);
        }
        inner.store.delete(&keys).await?;
        Ok(keys.len() as u64)
    }

    async fn purge_own(&self, tenant: TenantId) -> Result<u64, BlobError> {
        let Some(own) = &self.inner.own else { return Ok(0) };
        let mut deleted = 0;
        for number in own.numbers(tenant).await? {
            let own = own.open(tenant, number).await?;
            let prefix = own.layout.everything(tenant);
            let page = match own.store.list(&prefix, None).await {
                // What is gone as a whole has nothing of the tenant's in it.
                Err(BlobError::NotFound(_)) => continue,
                page => page?,
            };
            let keys: Vec<_> = page.objects.into_iter().map(|listed| listed.key).collect();
            if keys.is_empty() {
                own.store.abort_leftovers(&prefix, OffsetDateTime::now_utc()).await?;
            } else {
                own.store.delete(&keys).await?;
                deleted += keys.len() as u64;
            }
        }
        Ok(deleted)
    }

    async fn is_elsewhere(&self, tenant: TenantId) -> bool {
        self.inner.current(tenant).await.is_ok_and(|current| !current.is_house())
    }

    async fn writer(
        &self,
        tenant: TenantId,
        key: &SealedKey,
        envelope: EntryEnvelope,
    ) -> Result<Box<dyn EntryWriter>, BlobError> {
        let key = self.inner.keyring.open(tenant, key).await?;
        let own = self.inner.own(tenant, self.inner.current(tenant).await?).await?;
        Ok(Box::new(write::Writer::new(Arc::clone(&self.inner), own, tenant, &key, &envelope)?))
    }

    async fn recall(
        &self,
        entries: Vec<SealedEntry>,
    ) -> Result<Vec<Result<SealedEntry, BlobError>>, BlobError> {
        self.inner.recall(entries).await
    }

    async fn store_pack(
        &self,
        tenant: TenantId,
        entries: Vec<SealedEntry>,
    ) -> Result<Vec<StoredEntry>, BlobError> {
        self.inner.store_pack(tenant, entries).await
    }

    async fn read(
        &self,
        tenant: TenantId,
        key: &SealedKey,
        extent: Extent,
        read: Read,
    ) -> Result<BodyStream, BlobError> {
        let key = self.inner.keyring.open(tenant, key).await?;
        let (store, name) = self.inner.place(tenant, extent.pack).await?;
        let cache = self.inner.cache.clone();
        let entry = read::Entry { store, cache, name, tenant, tenant_key: key, extent };
        read::open(entry, read, Bytes::new()).await
    }

    fn reader(&self, tenant: TenantId, turns: FairGate) -> Box<dyn MessageReader> {
        Box::new(Ahead::new(Arc::clone(&self.inner), tenant, turns))
    }

    async fn ready(&self) -> Result<(), BlobError> {
        self.inner.store.ready().await
    }
}

impl fmt::Debug for Packs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Packs")
            .field("store", &self.inner.store)
            .field("layout", &self.inner.layout)
            .field("config", &self.inner.config)
            .finish_non_exhaustive()
    }
}
