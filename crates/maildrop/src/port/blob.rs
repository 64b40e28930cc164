//! The port to where message bodies lie.

use std::{fs::File, pin::Pin};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::Stream;
use tokio::sync::OwnedSemaphorePermit;

use crate::{Digest, EntryEnvelope, Extent, FairGate, Measured, SealedKey, StoredEntry, TenantId};

/// A message's octets, chunk by chunk, in bounded memory. It ends after an error.
pub type BodyStream = Pin<Box<dyn Stream<Item = Result<Bytes, BlobError>> + Send>>;

/// Stores messages in packs and reads them back.
#[async_trait]
pub trait BlobStore: Send + Sync + std::fmt::Debug {
    /// Makes a data key for a new tenant, sealed under the master key.
    fn new_tenant_key(&self, tenant: TenantId) -> Result<SealedKey, BlobError>;

    /// Seals a secret of the tenant under its data key. `purpose` is bound to it: what was sealed for one
    /// purpose does not open for another.
    async fn seal_secret(
        &self,
        tenant: TenantId,
        key: &SealedKey,
        purpose: &str,
        secret: &[u8],
    ) -> Result<Vec<u8>, BlobError>;

    /// Opens what [`seal_secret`](Self::seal_secret) sealed for the same tenant and purpose.
    async fn open_secret(
        &self,
        tenant: TenantId,
        key: &SealedKey,
        purpose: &str,
        sealed: &[u8],
    ) -> Result<Vec<u8>, BlobError>;

    /// Deletes up to a page of what is stored of a tenant and gives how many objects that were; 0 when
    /// nothing is left.
    async fn purge(&self, tenant: TenantId) -> Result<u64, BlobError>;

    /// The same for the stores of the tenant's own, as long as what they are asked with is known.
    async fn purge_own(&self, tenant: TenantId) -> Result<u64, BlobError> {
        let _ = tenant;
        Ok(0)
    }

    /// Whether what is stored of the tenant now goes to a store of its own. That is waited for without a turn: it may
    /// stand still while others' do not.
    async fn is_elsewhere(&self, tenant: TenantId) -> bool {
        let _ = tenant;
        false
    }

    /// Begins to store one message of `tenant`. Dropping the writer forgets it.
    async fn writer(
        &self,
        tenant: TenantId,
        key: &SealedKey,
        envelope: EntryEnvelope,
    ) -> Result<Box<dyn EntryWriter>, BlobError>;

    /// Brings messages that wait outside of memory back into it, each by itself where that fails. This waits for room
    /// in memory, so it is done before a turn is taken to store them.
    async fn recall(
        &self,
        entries: Vec<SealedEntry>,
    ) -> Result<Vec<Result<SealedEntry, BlobError>>, BlobError>;

    /// Stores messages of `tenant` together, in one pack, and says where each lies, in their order. When this
    /// returns, their octets are durable (the first half of P1).
    async fn store_pack(
        &self,
        tenant: TenantId,
        entries: Vec<SealedEntry>,
    ) -> Result<Vec<StoredEntry>, BlobError>;

    /// Reads the message at `extent`. What `tenant`'s key did not seal is [`BlobError::Corrupt`].
    ///
    /// The first chunk has been fetched and verified when this returns, so that a missing or damaged
    /// object is known before anything of it is served.
    async fn read(
        &self,
        tenant: TenantId,
        key: &SealedKey,
        extent: Extent,
        read: Read,
    ) -> Result<BodyStream, BlobError>;

    /// Reads messages of `tenant` for one session, which may read them in order. What is fetched takes turns of the
    /// tenant.
    fn reader(&self, tenant: TenantId, turns: FairGate) -> Box<dyn MessageReader>;

    /// Whether the store answers: one cheap request, for `/readyz`.
    async fn ready(&self) -> Result<(), BlobError>;
}

/// Reads the messages of a session. Dropping it ends what it fetches ahead.
#[async_trait]
pub trait MessageReader: Send + Sync {
    /// As [`BlobStore::read`]. `next` are the messages that will likely be read after it, in the same manner and in
    /// this order: some may be fetched meanwhile, within bounds. The turn of the tenant is waited for in here.
    async fn read(
        &mut self,
        key: &SealedKey,
        extent: Extent,
        read: Read,
        next: &[Extent],
    ) -> Result<BodyStream, BlobError>;
}

/// How much of a message will be wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    /// All of it. Its end is checked against the row: a stream that does not match ends with
    /// [`BlobError::Corrupt`] instead of its last chunk.
    Whole {
        /// Octets the message has.
        octets: u64,
        /// Its hash.
        digest: Digest,
    },
    /// Its beginning (TOP): about so many octets are fetched at first, more only when they are asked for.
    Head {
        /// Octets that are certainly wanted.
        octets: u64,
    },
}

/// Takes one message in.
#[async_trait]
pub trait EntryWriter: Send {
    /// Waits until there is room for `octets` more (back-pressure), or says that there will be none soon.
    /// [`write`](Self::write) does that by itself; who holds what others wait for, a turn, asks before.
    async fn room(&mut self, octets: usize) -> Result<(), BlobError>;

    /// Whether the message goes to a store of its tenant's own ([`BlobStore::is_elsewhere`]).
    fn is_elsewhere(&self) -> bool {
        false
    }

    /// Takes the next octets.
    async fn write(&mut self, chunk: &[u8]) -> Result<(), BlobError>;

    /// Ends the message. A large one is durable when this returns; the others are to be stored together.
    async fn seal(self: Box<Self>, measured: Measured) -> Result<Sealed, BlobError>;

    /// Ends the message, and stores it by itself. When this returns, its octets are durable.
    async fn finish(self: Box<Self>, measured: Measured) -> Result<StoredEntry, BlobError>;
}

/// A message that was taken in whole.
#[derive(Debug)]
pub enum Sealed {
    /// It is still to be stored ([`BlobStore::store_pack`]).
    Entry(SealedEntry),
    /// It is durable, in a pack of its own.
    Stored(StoredEntry),
}

/// A message that waits to be stored. Dropping it forgets it.
#[derive(Debug)]
pub struct SealedEntry {
    /// Its octets, sealed under its tenant's key.
    pub octets: SealedOctets,
    /// What it takes up of a bounded room.
    pub room: Vec<OwnedSemaphorePermit>,
}

/// Where they are.
#[derive(Debug)]
pub enum SealedOctets {
    /// In memory.
    Memory(Vec<u8>),
    /// In a file without a name.
    File {
        /// The file.
        file: File,
        /// How many there are.
        octets: u64,
    },
}

impl SealedOctets {
    /// How many there are.
    pub fn len(&self) -> u64 {
        match self {
            Self::Memory(octets) => octets.len() as u64,
            Self::File { octets, .. } => *octets,
        }
    }

    /// Whether there are none, which no entry has.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Why the blob store could not do it.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// The object is not there.
    #[error("object {0} does not exist")]
    NotFound(String),
    /// The bytes are not what was written, or not this tenant's.
    #[error("{0}")]
    Corrupt(String),
    /// The store did not answer in time, or answered that it cannot now.
    #[error("blob store is unavailable: {0}")]
    Unavailable(String),
    /// There is no room (disk full, bucket quota).
    #[error("blob store is full: {0}")]
    Full(String),
    /// Configuration is wrong: no such bucket, access denied.
    #[error("blob store is misconfigured: {0}")]
    Misconfigured(String),
    /// The tenant's data key cannot be opened: wrong master key.
    #[error("data key cannot be opened with this master key")]
    WrongKey,
}

impl BlobError {
    /// Whether trying again may help. Exhaustive: a new variant must choose.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unavailable(_) => true,
            Self::NotFound(_)
            | Self::Corrupt(_)
            | Self::Full(_)
            | Self::Misconfigured(_)
            | Self::WrongKey => false,
        }
    }
}
