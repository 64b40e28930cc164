//! What the tests share: a store in memory that can misbehave, and packs over it.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use async_trait::async_trait;
use blob::{
    BlobKey, BlobLayout, Keyring, LIST_PAGE, Listed, MasterKey, ObjectBody, ObjectPage, ObjectStore, Packs,
    PacksConfig, TenantKey, Upload,
};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, TryStreamExt, stream};
use maildrop::{
    EntryEnvelope, Extent, MailboxId, Measure, Measured, SealedKey, StoredEntry, TenantId,
    port::{BlobError, BlobStore, BodyStream, Read},
};
use time::OffsetDateTime;

/// Objects in memory. Passes the same contract as the real ones, and counts and misbehaves on request.
#[derive(Clone, Debug, Default)]
pub(crate) struct MemoryStore {
    pub(crate) objects: Arc<Mutex<BTreeMap<String, Bytes>>>,
    pub(crate) uploads: Arc<AtomicU64>,
    /// Uploads begun.
    pub(crate) begun: Arc<AtomicU64>,
    pub(crate) gets: Arc<AtomicU64>,
    /// Octets handed out by bodies.
    pub(crate) fetched: Arc<AtomicU64>,
    /// Octets after which every body breaks off; 0 for never.
    pub(crate) cut_after: Arc<AtomicU64>,
    /// How long every read takes.
    pub(crate) delay: Duration,
    /// So many of the next bodies have a wrong octet.
    pub(crate) wrong: Arc<AtomicU64>,
    /// So many of the next reads fail.
    pub(crate) failing: Arc<AtomicU64>,
    /// What puts and parts fail with, if anything.
    pub(crate) write_error: Arc<Mutex<Option<fn(String) -> BlobError>>>,
}

impl MemoryStore {
    pub(crate) fn only_object(&self) -> (String, Bytes) {
        let objects = self.objects.lock().unwrap();
        assert_eq!(objects.len(), 1, "{:?}", objects.keys());
        objects.iter().next().map(|(key, octets)| (key.clone(), octets.clone())).unwrap()
    }

    pub(crate) fn replace(&self, key: &str, octets: impl Into<Bytes>) {
        self.objects.lock().unwrap().insert(key.to_owned(), octets.into());
    }

    fn may_write(&self) -> Result<(), BlobError> {
        match *self.write_error.lock().unwrap() {
            Some(error) => Err(error("injected".into())),
            None => Ok(()),
        }
    }
}

#[async_trait]
impl ObjectStore for MemoryStore {
    async fn put(&self, key: &BlobKey, body: Bytes) -> Result<(), BlobError> {
        self.may_write()?;
        self.replace(key.as_str(), body);
        Ok(())
    }

    async fn upload(&self, key: &BlobKey) -> Result<Box<dyn Upload>, BlobError> {
        self.uploads.fetch_add(1, Relaxed);
        self.begun.fetch_add(1, Relaxed);
        Ok(Box::new(MemoryUpload { store: self.clone(), key: key.clone(), octets: Vec::new() }))
    }

    async fn get(&self, key: &BlobKey, range: Range<u64>) -> Result<ObjectBody, BlobError> {
        self.gets.fetch_add(1, Relaxed);
        if !self.delay.is_zero() {
            tokio::time::sleep(self.delay).await;
        }
        let takes_one = |left: u64| left.checked_sub(1);
        if self.failing.fetch_update(Relaxed, Relaxed, takes_one).is_ok() {
            return Err(BlobError::Unavailable("injected".into()));
        }
        let object = self.objects.lock().unwrap().get(key.as_str()).cloned();
        let mut object = object.ok_or_else(|| BlobError::NotFound(key.to_string()))?;
        if self.wrong.fetch_update(Relaxed, Relaxed, takes_one).is_ok() {
            let mut changed = object.to_vec();
            let middle = usize::midpoint(range.start as usize, changed.len().min(range.end as usize));
            changed[middle] ^= 1;
            object = changed.into();
        }
        let end = range.end.min(object.len() as u64);
        let start = range.start.min(end);
        let mut octets = object.slice(start as usize..end as usize);
        let cut = self.cut_after.load(Relaxed) as usize;
        let broken = cut != 0 && octets.len() > cut;
        if broken {
            octets.truncate(cut);
        }
        let mut items = Vec::new();
        while !octets.is_empty() {
            items.push(Ok(octets.split_to(octets.len().min(16 * 1024))));
        }
        if broken {
            items.push(Err(BlobError::Unavailable("cut".into())));
        }
        let fetched = Arc::clone(&self.fetched);
        Ok(Box::pin(stream::iter(items).inspect_ok(move |octets| {
            fetched.fetch_add(octets.len() as u64, Relaxed);
        })))
    }

    async fn size(&self, key: &BlobKey) -> Result<Option<u64>, BlobError> {
        Ok(self.objects.lock().unwrap().get(key.as_str()).map(|octets| octets.len() as u64))
    }

    async fn delete(&self, keys: &[BlobKey]) -> Result<(), BlobError> {
        let mut objects = self.objects.lock().unwrap();
        for key in keys {
            objects.remove(key.as_str());
        }
        Ok(())
    }

    async fn list(&self, prefix: &str, after: Option<&BlobKey>) -> Result<ObjectPage, BlobError> {
        let after = after.map_or("", BlobKey::as_str);
        let listed: Vec<Listed> = self
            .objects
            .lock()
            .unwrap()
            .iter()
            .filter(|(key, _)| key.starts_with(prefix) && key.as_str() > after)
            .take(LIST_PAGE + 1)
            .map(|(key, octets)| Listed {
                key: BlobKey::try_from(key.as_str()).unwrap(),
                octets: octets.len() as u64,
            })
            .collect();
        let more = listed.len() > LIST_PAGE;
        Ok(ObjectPage { objects: listed.into_iter().take(LIST_PAGE).collect(), more })
    }

    async fn ready(&self) -> Result<(), BlobError> {
        Ok(())
    }
}

struct MemoryUpload {
    store: MemoryStore,
    key: BlobKey,
    octets: Vec<u8>,
}

#[async_trait]
impl Upload for MemoryUpload {
    async fn part(&mut self, octets: Bytes) -> Result<(), BlobError> {
        self.store.may_write()?;
        self.octets.extend_from_slice(&octets);
        Ok(())
    }

    async fn complete(mut self: Box<Self>) -> Result<(), BlobError> {
        let octets = std::mem::take(&mut self.octets);
        self.store.replace(self.key.as_str(), octets);
        Ok(())
    }

    async fn abort(self: Box<Self>) -> Result<(), BlobError> {
        Ok(())
    }
}

impl Drop for MemoryUpload {
    fn drop(&mut self) {
        self.store.uploads.fetch_sub(1, Relaxed);
    }
}

pub(crate) const MASTER_KEY: &str = "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=";

/// A tenant with packs on a store.
pub(crate) struct House {
    pub(crate) packs: Packs,
    pub(crate) layout: BlobLayout,
    pub(crate) tenant: TenantId,
    pub(crate) key: SealedKey,
}

impl House {
    pub(crate) fn new(store: impl ObjectStore + 'static) -> Self {
        Self::with(store, PacksConfig::default())
    }

    pub(crate) fn with(store: impl ObjectStore + 'static, config: PacksConfig) -> Self {
        let (packs, layout) = (Self::packs_on(store, config), BlobLayout::new("test/").unwrap());
        let tenant = TenantId::generate();
        let key = packs.new_tenant_key(tenant).now_or_never().unwrap().unwrap();
        Self { packs, layout, tenant, key }
    }

    /// Packs on a store, under the key of all of them.
    pub(crate) fn packs_on(store: impl ObjectStore + 'static, config: PacksConfig) -> Packs {
        let keyring = Keyring::new(Arc::new(MasterKey::parse(MASTER_KEY).unwrap()));
        Packs::new(Arc::new(store), keyring, BlobLayout::new("test/").unwrap(), config)
    }

    /// A second tenant on the same packs.
    pub(crate) fn neighbour(&self) -> Self {
        let tenant = TenantId::generate();
        let key = self.packs.new_tenant_key(tenant).now_or_never().unwrap().unwrap();
        Self { packs: self.packs.clone(), layout: self.layout.clone(), tenant, key }
    }

    /// The same tenant on another road to the same objects.
    pub(crate) fn also_on(&self, store: impl ObjectStore + 'static) -> Self {
        let mut other = Self::new(store);
        (other.tenant, other.key) = (self.tenant, self.key.clone());
        other
    }

    pub(crate) async fn opened_key(&self) -> Arc<TenantKey> {
        let keyring = Keyring::new(Arc::new(MasterKey::parse(MASTER_KEY).unwrap()));
        keyring.open(self.tenant, &self.key).await.unwrap()
    }

    pub(crate) async fn store(&self, message: &[u8]) -> Result<StoredEntry, BlobError> {
        let mut writer = self.packs.writer(self.tenant, &self.key, envelope()).await?;
        writer.write(message).await?;
        writer.finish(measure(message)).await
    }

    pub(crate) async fn open(&self, extent: Extent, read: Read) -> Result<BodyStream, BlobError> {
        self.packs.read(self.tenant, &self.key, extent, read).await
    }

    /// Reads a message whole, as a session would serve it: what came before an error is given too.
    pub(crate) async fn served(
        &self,
        extent: Extent,
        measured: Measured,
    ) -> (Vec<u8>, Result<(), BlobError>) {
        let mut out = Vec::new();
        let read = Read::Whole { octets: measured.octets, digest: measured.digest };
        let mut body = match self.open(extent, read).await {
            Ok(body) => body,
            Err(error) => return (out, Err(error)),
        };
        while let Some(chunk) = body.next().await {
            match chunk {
                Ok(chunk) => {
                    assert!(!chunk.is_empty() && chunk.len() <= 64 * 1024);
                    out.extend_from_slice(&chunk);
                }
                Err(error) => {
                    assert!(body.next().await.is_none(), "a stream ends after an error");
                    return (out, Err(error));
                }
            }
        }
        (out, Ok(()))
    }

    pub(crate) async fn check_served(&self, extent: Extent, message: &[u8]) {
        let (out, result) = self.served(extent, measure(message)).await;
        result.unwrap();
        assert!(out == message, "{} octets served of {}", out.len(), message.len());
    }
}

pub(crate) fn envelope() -> EntryEnvelope {
    EntryEnvelope {
        received_at: OffsetDateTime::from_unix_timestamp(1_700_000_000).unwrap(),
        sender: "sender@a.test".into(),
        recipients: vec![(MailboxId::generate(), "alice@b.test".into())],
        bulletin: None,
    }
}

pub(crate) fn measure(message: &[u8]) -> Measured {
    let mut measure = Measure::default();
    measure.update(message);
    measure.finish()
}

/// Octets that do not compress, the same for the same seed.
pub(crate) fn noise(octets: usize, seed: u64) -> Vec<u8> {
    let mut out = vec![0; octets];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.finalize_xof().fill(&mut out);
    out
}

/// Octets that compress about as mail does.
pub(crate) fn prose(octets: usize, seed: u64) -> Vec<u8> {
    let words = noise(octets / 4 + 16, seed);
    let mut out = b"Subject: words\r\nFrom: someone@a.test\r\n\r\n".to_vec();
    for (i, word) in words.iter().enumerate() {
        out.extend_from_slice(format!("word{word}{}", if i % 10 == 9 { "\r\n" } else { " " }).as_bytes());
    }
    out.truncate(octets);
    out
}
