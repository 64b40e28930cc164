//! Entries that were written or read a moment ago: sealed octets, in memory, and past that on disk where there is a
//! place for them. Nothing rests on it: what is missing or damaged here is read from the object store.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use foyer::{
    BlockEngineConfig, Code, DeviceBuilder as _, FsDeviceBuilder, HybridCache, HybridCacheBuilder,
    RecoverMode, S3FifoConfig, Source,
};
use maildrop::{Extent, port::BlobError};

/// Longest run of octets that is kept as one: an entry, or the beginning of a long one.
pub(crate) const CHUNK_OCTETS_MAX: u64 = 512 * 1024;
/// Octets of a checksum.
const CHECKSUM_OCTETS: usize = 16;
/// The disk is written in blocks of this size.
const BLOCK_OCTETS: usize = 16 * 1024 * 1024;

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
pub struct EntryCache {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    cache: HybridCache<Place, Chunk>,
    memory: AtomicU64,
    disk: AtomicU64,
    missed: AtomicU64,
    damaged: AtomicU64,
}

/// Where an entry begins: packs are never rewritten in place, so that this names the same octets for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Place {
    pack: u128,
    offset: u64,
}

impl Place {
    fn of(extent: Extent) -> Self {
        Self { pack: extent.pack.as_uuid().as_u128(), offset: extent.offset }
    }
}

/// Octets of an entry, from its beginning.
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

    /// Of the place too: octets of another entry are as wrong as damaged ones.
    fn checksum(place: Place, octets: &[u8]) -> [u8; CHECKSUM_OCTETS] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&place.pack.to_le_bytes()).update(&place.offset.to_le_bytes()).update(octets);
        let mut checksum = [0; CHECKSUM_OCTETS];
        hasher.finalize_xof().fill(&mut checksum);
        checksum
    }
}

impl Code for Place {
    fn encode(&self, writer: &mut impl std::io::Write) -> foyer::Result<()> {
        self.pack.encode(writer)?;
        self.offset.encode(writer)
    }

    fn decode(reader: &mut impl std::io::Read) -> foyer::Result<Self> {
        Ok(Self { pack: u128::decode(reader)?, offset: u64::decode(reader)? })
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
        if length > CHUNK_OCTETS_MAX {
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

impl EntryCache {
    /// Opens the cache. What an earlier process left on disk is used again.
    pub async fn open(config: &CacheConfig) -> Result<Self, BlobError> {
        let failed = |error: foyer::Error| BlobError::Misconfigured(format!("read cache: {error}"));
        let builder = HybridCacheBuilder::new()
            .with_name("postern")
            .memory(config.memory_octets)
            .with_weighter(|_, chunk: &Chunk| size_of::<(Place, Chunk)>() + chunk.octets.len())
            // A first download of everything must not drive out what is read again and again.
            .with_eviction_config(S3FifoConfig::default())
            .storage();
        let builder = match &config.disk {
            Some((dir, octets)) => {
                let device = FsDeviceBuilder::new(dir).with_capacity(*octets).build().map_err(failed)?;
                let block = BLOCK_OCTETS.min(device.capacity() / 4);
                let engine = BlockEngineConfig::new(device).with_block_size(block);
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

    /// Whether the entry is in memory.
    pub(crate) fn has(&self, extent: Extent) -> bool {
        self.shared.cache.memory().contains(&Place::of(extent))
    }

    /// The first octets of an entry, `wanted` at least, or `None`.
    pub(crate) async fn get(&self, extent: Extent, wanted: u64) -> Option<Bytes> {
        let (shared, place) = (&self.shared, Place::of(extent));
        let found = if let Some(entry) = shared.cache.memory().get(&place) {
            Some((entry.value().clone(), Source::Memory))
        } else if shared.cache.is_hybrid() {
            match shared.cache.get(&place).await {
                Ok(found) => found.map(|entry| (entry.value().clone(), entry.source())),
                Err(error) => {
                    shared.damaged.fetch_add(1, Relaxed);
                    tracing::debug!(%error, "read cache");
                    None
                }
            }
        } else {
            None
        };
        let Some((chunk, source)) = found.filter(|(chunk, _)| chunk.octets.len() as u64 >= wanted) else {
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

    /// Keeps the first octets of an entry, unless they are too many.
    pub(crate) fn put(&self, extent: Extent, octets: &[u8]) {
        if octets.len() as u64 <= CHUNK_OCTETS_MAX {
            let place = Place::of(extent);
            // A copy: a slice would keep all of its pack in memory.
            drop(self.shared.cache.insert(place, Chunk::new(place, Bytes::copy_from_slice(octets))));
        }
    }

    /// Forgets an entry, which turned out to be damaged.
    pub(crate) fn forget(&self, extent: Extent) {
        self.shared.cache.remove(&Place::of(extent));
    }
}
