//! The port to where message bodies lie.

use std::pin::Pin;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::Stream;

use crate::{Digest, EntryEnvelope, Extent, Measured, SealedKey, StoredEntry, TenantId};

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

    /// Begins to store one message of `tenant`. Dropping the writer forgets it.
    async fn writer(
        &self,
        tenant: TenantId,
        key: &SealedKey,
        envelope: EntryEnvelope,
    ) -> Result<Box<dyn EntryWriter>, BlobError>;

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

    /// Whether the store answers: one cheap request, for `/readyz`.
    async fn ready(&self) -> Result<(), BlobError>;
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
    /// Takes the next octets. Waits while the store is behind (back-pressure).
    async fn write(&mut self, chunk: &[u8]) -> Result<(), BlobError>;

    /// Ends the message. When this returns, its octets are durable (the first half of P1).
    async fn finish(self: Box<Self>, measured: Measured) -> Result<StoredEntry, BlobError>;
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
