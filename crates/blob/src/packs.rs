//! Messages in packs: the domain's blob store.

mod builder;
mod fetch;
mod read;
mod write;

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use maildrop::{
    EntryEnvelope, Extent, PackId, SealedKey, TenantId,
    port::{BlobError, BlobStore, BodyStream, EntryWriter, Read},
};
use time::OffsetDateTime;
use tokio::sync::Semaphore;

use crate::{BlobLayout, EntryScanner, Keyring, ObjectStore, ScanItem};
#[cfg(test)]
pub(crate) use builder::PackBuilder;
use fetch::Fetch;

/// How packs are written. The defaults fit mail on S3.
#[derive(Clone, Debug)]
pub struct PacksConfig {
    /// Past so many sealed octets a message is streamed alone, by multipart upload. It is also what a
    /// smaller message may hold in memory. Default: 1 MiB.
    pub solo_octets: usize,
    /// Octets of a part; at least S3's 5 MiB. A large upload holds up to two of them. Default: 8 MiB.
    pub part_octets: usize,
    /// Most large uploads at once; further ones wait, and their senders with them. Default: 8 (128 MiB).
    pub large_uploads_max: usize,
    /// zstd's level, 1 to 19. Default: 3, the knee of its curve on mail.
    pub compression_level: i32,
}

impl Default for PacksConfig {
    fn default() -> Self {
        Self {
            solo_octets: 1024 * 1024,
            part_octets: PART_OCTETS_MIN + 3 * 1024 * 1024,
            large_uploads_max: 8,
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
        Self { inner: Arc::new(Inner { store, keyring, layout, config, large_uploads }) }
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
        let name = inner.layout.pack(tenant, pack);
        let Some(octets) = inner.store.size(&name).await? else {
            return Err(BlobError::NotFound(name.to_string()));
        };
        let mut fetch = Fetch::new(Arc::clone(&inner.store), name, 0..octets, None);
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

    async fn writer(
        &self,
        tenant: TenantId,
        key: &SealedKey,
        envelope: EntryEnvelope,
    ) -> Result<Box<dyn EntryWriter>, BlobError> {
        let key = self.inner.keyring.open(tenant, key).await?;
        Ok(Box::new(write::Writer::new(Arc::clone(&self.inner), tenant, &key, &envelope)?))
    }

    async fn read(
        &self,
        tenant: TenantId,
        key: &SealedKey,
        extent: Extent,
        read: Read,
    ) -> Result<BodyStream, BlobError> {
        let key = self.inner.keyring.open(tenant, key).await?;
        let name = self.inner.layout.pack(tenant, extent.pack);
        read::open(Arc::clone(&self.inner.store), name, tenant, key, extent, read).await
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
