//! Packs that were written or read a moment ago: sealed octets, in memory, and past that on disk where there is a
//! place for them. Nothing rests on it: what is missing or damaged here is read from the object store.

use std::{
    collections::HashMap,
    ops::Range,
    path::PathBuf,
    sync::{
        Arc, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use bytes::{Bytes, BytesMut};
use foyer::{
    BlockEngineConfig, Code, DeviceBuilder as _, FsDeviceBuilder, HybridCache, HybridCacheBuilder,
    RecoverMode, S3FifoConfig, Source,
};
use maildrop::{PackId, port::BlobError};
use tokio::sync::Mutex;

use crate::{BlobKey, ObjectStore, collect};

/// Packs are kept in blocks of this size: what came in together is read by several sessions at the same time.
const BLOCK_OCTETS: u64 = 128 * 1024;
/// Octets of a checksum.
const CHECKSUM_OCTETS: usize = 16;
/// The disk is written in regions of this size.
const REGION_OCTETS: usize = 16 * 1024 * 1024;
/// Memory is kept in shards of this size at least, and in no more of them than there is use for.
const SHARD_OCTETS: usize = 4 * 1024 * 1024;
const SHARDS_MAX: usize = 16;
/// A body that breaks off is asked for again so often.
const ATTEMPTS: u32 = 3;

/// How much is kept, and where.
#[derive(Clone, Debug)]
pub struct CacheConfig {
    /// Octets in memory.
    pub memory_octets: usize,
    /// A directory of our own, and how many octets may lie there.
    pub disk: Option<(PathBuf, usize)>,
}

/// What came of looking something up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Found in memory.
    pub memory: u64,
    /// Found on disk.
    pub disk: u64,
    /// Not found.
    pub missed: u64,
    /// Found damaged on disk, which is as good as not found.
    pub damaged: u64,
    /// Octets in memory now.
    pub memory_octets: usize,
}

/// The cache of a node. Cheap to clone.
#[derive(Clone, Debug)]
pub struct BlockCache {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    cache: HybridCache<Place, Chunk>,
    memory: AtomicU64,
    disk: AtomicU64,
    missed: AtomicU64,
    damaged: AtomicU64,
    fetching: Fetching,
}

/// Packs that are being fetched: of a crowd that wants the same one fetches, and the others then find it here.
#[derive(Debug, Default)]
struct Fetching {
    locks: std::sync::Mutex<HashMap<PackId, Arc<Mutex<()>>>>,
}

/// A place in the crowd of a pack.
struct Turn<'a> {
    fetching: &'a Fetching,
    pack: PackId,
    lock: Arc<Mutex<()>>,
}

impl Fetching {
    fn turn(&self, pack: PackId) -> Turn<'_> {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        let lock = Arc::clone(locks.entry(pack).or_default());
        Turn { fetching: self, pack, lock }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut locks = self.fetching.locks.lock().unwrap_or_else(PoisonError::into_inner);
        // The map's own and this one: nobody else waits.
        if Arc::strong_count(&self.lock) == 2 {
            locks.remove(&self.pack);
        }
    }
}

/// A block of a pack: packs are never rewritten in place, so that this names the same octets for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Place {
    pack: u128,
    block: u64,
}

/// The places of a range.
fn places(pack: PackId, range: &Range<u64>) -> impl Iterator<Item = Place> + use<> {
    let pack = pack.as_uuid().as_u128();
    (range.start / BLOCK_OCTETS..range.end.div_ceil(BLOCK_OCTETS)).map(move |block| Place { pack, block })
}

/// The octets of a block: all of it, or up to the end of the pack.
#[derive(Clone, Debug)]
struct Chunk {
    octets: Bytes,
    checksum: [u8; CHECKSUM_OCTETS],
}

impl Chunk {
    fn new(place: Place, octets: Bytes) -> Self {
        let checksum = Self::checksum(place, &octets);
        Self { octets, checksum }
    }

    /// Of the place too: octets of another block are as wrong as damaged ones.
    fn checksum(place: Place, octets: &[u8]) -> [u8; CHECKSUM_OCTETS] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&place.pack.to_le_bytes()).update(&place.block.to_le_bytes()).update(octets);
        let mut checksum = [0; CHECKSUM_OCTETS];
        hasher.finalize_xof().fill(&mut checksum);
        checksum
    }
}

impl Code for Place {
    fn encode(&self, writer: &mut impl std::io::Write) -> foyer::Result<()> {
        self.pack.encode(writer)?;
        self.block.encode(writer)
    }

    fn decode(reader: &mut impl std::io::Read) -> foyer::Result<Self> {
        Ok(Self { pack: u128::decode(reader)?, block: u64::decode(reader)? })
    }

    fn estimated_size(&self) -> usize {
        size_of::<u128>() + size_of::<u64>()
    }
}

impl Code for Chunk {
    fn encode(&self, writer: &mut impl std::io::Write) -> foyer::Result<()> {
        writer.write_all(&self.checksum).map_err(foyer::Error::io_error)?;
        (self.octets.len() as u64).encode(writer)?;
        writer.write_all(&self.octets).map_err(foyer::Error::io_error)
    }

    fn decode(reader: &mut impl std::io::Read) -> foyer::Result<Self> {
        let mut checksum = [0; CHECKSUM_OCTETS];
        reader.read_exact(&mut checksum).map_err(foyer::Error::io_error)?;
        let length = u64::decode(reader)?;
        if length > BLOCK_OCTETS {
            return Err(foyer::Error::io_error(std::io::ErrorKind::InvalidData.into()));
        }
        let mut octets = vec![0; usize::try_from(length).unwrap_or(0)];
        reader.read_exact(&mut octets).map_err(foyer::Error::io_error)?;
        Ok(Self { octets: octets.into(), checksum })
    }

    fn estimated_size(&self) -> usize {
        CHECKSUM_OCTETS + size_of::<u64>() + self.octets.len()
    }
}

impl BlockCache {
    /// Opens the cache. What an earlier process left on disk is used again.
    pub async fn open(config: &CacheConfig) -> Result<Self, BlobError> {
        let failed = |error: foyer::Error| BlobError::Misconfigured(format!("read cache: {error}"));
        let builder = HybridCacheBuilder::new()
            .with_name("postern")
            .memory(config.memory_octets)
            // A shard keeps at least one block, whatever its share is.
            .with_shards((config.memory_octets / SHARD_OCTETS).clamp(1, SHARDS_MAX))
            .with_weighter(|_, chunk: &Chunk| size_of::<(Place, Chunk)>() + chunk.octets.len())
            // A first download of everything must not drive out what is read again and again.
            .with_eviction_config(S3FifoConfig::default())
            .storage();
        let builder = match &config.disk {
            Some((dir, octets)) => {
                let device = FsDeviceBuilder::new(dir).with_capacity(*octets).build().map_err(failed)?;
                let region = REGION_OCTETS.min(device.capacity() / 4);
                let engine = BlockEngineConfig::new(device).with_block_size(region);
                // What was left damaged is dropped.
                builder.with_engine_config(engine).with_recover_mode(RecoverMode::Quiet)
            }
            None => builder,
        };
        let cache = builder.build().await.map_err(failed)?;
        Ok(Self {
            shared: Arc::new(Shared {
                cache,
                memory: AtomicU64::new(0),
                disk: AtomicU64::new(0),
                missed: AtomicU64::new(0),
                damaged: AtomicU64::new(0),
                fetching: Fetching::default(),
            }),
        })
    }

    /// How it does.
    pub fn stats(&self) -> CacheStats {
        let shared = &self.shared;
        CacheStats {
            memory: shared.memory.load(Relaxed),
            disk: shared.disk.load(Relaxed),
            missed: shared.missed.load(Relaxed),
            damaged: shared.damaged.load(Relaxed),
            memory_octets: shared.cache.memory().usage(),
        }
    }

    /// Writes what is in memory to disk, for the next process.
    pub async fn close(&self) {
        if let Err(error) = self.shared.cache.close().await {
            tracing::warn!(%error, "read cache could not be closed");
        }
    }

    /// Whether all of the range is in memory.
    pub(crate) fn has(&self, pack: PackId, range: &Range<u64>) -> bool {
        places(pack, range).all(|place| self.shared.cache.memory().contains(&place))
    }

    /// The range, if all of it is in memory.
    pub(crate) fn held(&self, pack: PackId, range: &Range<u64>) -> Option<Bytes> {
        let memory = self.shared.cache.memory();
        let blocks: Option<Vec<Bytes>> =
            places(pack, range).map(|place| Some(memory.get(&place)?.value().octets.clone())).collect();
        let blocks = blocks?;
        let octets = cut(&blocks, range)?;
        self.shared.memory.fetch_add(blocks.len() as u64, Relaxed);
        Some(octets)
    }

    /// The range of the pack, from here or else from the object store.
    pub(crate) async fn read(
        &self,
        store: &dyn ObjectStore,
        name: &BlobKey,
        pack: PackId,
        range: &Range<u64>,
    ) -> Result<Bytes, BlobError> {
        if let Some(octets) = self.held(pack, range) {
            return Ok(octets);
        }
        let turn = self.shared.fetching.turn(pack);
        let _turn = turn.lock.lock().await;
        if let Some(octets) = self.read_through(store, name, pack, range).await? {
            return Ok(octets);
        }
        // A body that was cut short looks like the end of the pack: what is here may be of such a one.
        self.forget(pack, range);
        let again = self.read_through(store, name, pack, range).await?;
        again.ok_or_else(|| BlobError::Corrupt(format!("{name} ends before octet {}", range.end)))
    }

    /// The range, of which only what is not here is fetched; none where there are fewer octets, and then none is kept.
    async fn read_through(
        &self,
        store: &dyn ObjectStore,
        name: &BlobKey,
        pack: PackId,
        range: &Range<u64>,
    ) -> Result<Option<Bytes>, BlobError> {
        let places: Vec<Place> = places(pack, range).collect();
        let mut blocks = Vec::with_capacity(places.len());
        for place in &places {
            blocks.push(self.get(*place).await);
        }
        let missing = |block: &Option<Bytes>| block.is_none();
        let span = blocks.iter().position(missing).zip(blocks.iter().rposition(missing));
        if let Some((first, last)) = span {
            let octets = places[first].block * BLOCK_OCTETS..(places[last].block + 1) * BLOCK_OCTETS;
            let fetched = fetch(store, name, octets).await?;
            for (at, block) in blocks[first..=last].iter_mut().enumerate() {
                let from = (at * BLOCK_OCTETS as usize).min(fetched.len());
                let octets = fetched.slice(from..(from + BLOCK_OCTETS as usize).min(fetched.len()));
                *block = Some(octets);
            }
        }
        let blocks: Vec<Bytes> = blocks.into_iter().flatten().collect();
        let Some(octets) = cut(&blocks, range) else { return Ok(None) };
        if let Some((first, last)) = span {
            for (place, block) in places[first..=last].iter().zip(&blocks[first..=last]) {
                self.put(*place, block);
            }
        }
        Ok(Some(octets))
    }

    /// Keeps a pack that was just written.
    pub(crate) fn keep(&self, pack: PackId, octets: &[u8]) {
        let range = 0..octets.len() as u64;
        for (place, octets) in places(pack, &range).zip(octets.chunks(BLOCK_OCTETS as usize)) {
            self.put(place, octets);
        }
    }

    /// Forgets a range, which turned out to be damaged.
    pub(crate) fn forget(&self, pack: PackId, range: &Range<u64>) {
        for place in places(pack, range) {
            self.shared.cache.remove(&place);
        }
    }

    /// A block, from memory or disk.
    async fn get(&self, place: Place) -> Option<Bytes> {
        let shared = &self.shared;
        let found = if let Some(entry) = shared.cache.memory().get(&place) {
            Some((entry.value().clone(), Source::Memory))
        } else if shared.cache.is_hybrid() {
            match shared.cache.get(&place).await {
                Ok(found) => found.map(|entry| (entry.value().clone(), entry.source())),
                Err(error) => {
                    shared.damaged.fetch_add(1, Relaxed);
                    tracing::debug!(%error, "read cache");
                    return None;
                }
            }
        } else {
            None
        };
        let Some((chunk, source)) = found else {
            shared.missed.fetch_add(1, Relaxed);
            return None;
        };
        if source == Source::Memory {
            shared.memory.fetch_add(1, Relaxed);
        } else if chunk.checksum == Chunk::checksum(place, &chunk.octets) {
            shared.disk.fetch_add(1, Relaxed);
        } else {
            shared.damaged.fetch_add(1, Relaxed);
            shared.cache.remove(&place);
            return None;
        }
        Some(chunk.octets)
    }

    fn put(&self, place: Place, octets: &[u8]) {
        // A copy: a slice would keep all of what it was cut from in memory.
        let octets = Bytes::copy_from_slice(octets);
        drop(self.shared.cache.insert(place, Chunk::new(place, octets)));
    }
}

/// A range of whole blocks; fewer octets where the object ends.
async fn fetch(store: &dyn ObjectStore, name: &BlobKey, range: Range<u64>) -> Result<Bytes, BlobError> {
    let mut attempt = 1;
    loop {
        let fetched = match store.get(name, range.clone()).await {
            Ok(body) => collect(body).await,
            Err(error) => return Err(error),
        };
        match fetched {
            Err(error) if error.is_retryable() && attempt < ATTEMPTS => attempt += 1,
            Ok(octets) if octets.len() as u64 > range.end - range.start => {
                return Err(BlobError::Corrupt(format!("{name}: more octets than asked for")));
            }
            fetched => return fetched,
        }
    }
}

/// The range out of its blocks, if they have it.
fn cut(blocks: &[Bytes], range: &Range<u64>) -> Option<Bytes> {
    let first = range.start / BLOCK_OCTETS * BLOCK_OCTETS;
    let (from, to) = (usize::try_from(range.start - first).ok()?, usize::try_from(range.end - first).ok()?);
    if let [block] = blocks {
        return (to <= block.len()).then(|| block.slice(from..to));
    }
    let mut all = BytesMut::with_capacity(to - from);
    for (at, block) in blocks.iter().enumerate() {
        let begin = at * BLOCK_OCTETS as usize;
        let (from, to) = (from.max(begin) - begin, to.clamp(begin, begin + block.len()) - begin);
        all.extend_from_slice(&block[from.min(to)..to]);
    }
    (all.len() == to - from).then(|| all.freeze())
}
