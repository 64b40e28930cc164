//! What is asked of the blob store.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::StreamExt as _;
use maildrop::{
    EntryEnvelope, Extent, FairGate, Measured, SealedKey, StoredEntry, TenantId,
    port::{BlobError, BlobStore, BodyStream, EntryWriter, MessageReader, Read, Sealed, SealedEntry},
};
use prometheus::{Histogram, HistogramOpts, Registry, exponential_buckets};

use super::{Observer, Word};

/// A blob store whose operations are counted.
#[derive(Debug)]
pub(crate) struct ObservedBlobStore {
    blob: Arc<dyn BlobStore>,
    observer: Observer,
    entries: Histogram,
}

impl ObservedBlobStore {
    pub(crate) fn new(blob: Arc<dyn BlobStore>, registry: &Registry) -> Result<Self, prometheus::Error> {
        let what = "operations of the blob store";
        let help = "messages of a pack that is stored";
        let options = HistogramOpts::new("postern_pack_messages", help);
        let entries = Histogram::with_opts(options.buckets(exponential_buckets(1.0, 2.0, 10)?))?;
        registry.register(Box::new(entries.clone()))?;
        let observer = Observer::new(registry, "postern_blob_operation", "operation", what)?;
        Ok(Self { blob, observer, entries })
    }
}

#[async_trait]
impl BlobStore for ObservedBlobStore {
    fn new_tenant_key(&self, tenant: TenantId) -> Result<SealedKey, BlobError> {
        let key = self.blob.new_tenant_key(tenant);
        self.observer.count("new_tenant_key", key.as_ref().map_or_else(Word::word, |_| "ok"));
        key
    }

    async fn seal_secret(
        &self,
        tenant: TenantId,
        key: &SealedKey,
        purpose: &str,
        secret: &[u8],
    ) -> Result<Vec<u8>, BlobError> {
        self.observer.observe("seal_secret", self.blob.seal_secret(tenant, key, purpose, secret)).await
    }

    async fn open_secret(
        &self,
        tenant: TenantId,
        key: &SealedKey,
        purpose: &str,
        sealed: &[u8],
    ) -> Result<Vec<u8>, BlobError> {
        self.observer.observe("open_secret", self.blob.open_secret(tenant, key, purpose, sealed)).await
    }

    async fn purge(&self, tenant: TenantId) -> Result<u64, BlobError> {
        self.observer.observe("purge", self.blob.purge(tenant)).await
    }

    async fn purge_own(&self, tenant: TenantId) -> Result<u64, BlobError> {
        self.observer.observe("purge_own", self.blob.purge_own(tenant)).await
    }

    async fn is_elsewhere(&self, tenant: TenantId) -> bool {
        self.blob.is_elsewhere(tenant).await
    }

    async fn writer(
        &self,
        tenant: TenantId,
        key: &SealedKey,
        envelope: EntryEnvelope,
    ) -> Result<Box<dyn EntryWriter>, BlobError> {
        let writer = self.observer.observe("writer", self.blob.writer(tenant, key, envelope)).await?;
        Ok(Box::new(ObservedWriter { writer, observer: self.observer.clone() }))
    }

    async fn recall(
        &self,
        entries: Vec<SealedEntry>,
    ) -> Result<Vec<Result<SealedEntry, BlobError>>, BlobError> {
        // Of this machine alone.
        self.blob.recall(entries).await
    }

    async fn store_pack(
        &self,
        tenant: TenantId,
        entries: Vec<SealedEntry>,
    ) -> Result<Vec<StoredEntry>, BlobError> {
        self.entries.observe(entries.len() as f64);
        self.observer.observe("store_pack", self.blob.store_pack(tenant, entries)).await
    }

    async fn read(
        &self,
        tenant: TenantId,
        key: &SealedKey,
        extent: Extent,
        read: Read,
    ) -> Result<BodyStream, BlobError> {
        let body = self.observer.observe("read", self.blob.read(tenant, key, extent, read)).await?;
        Ok(watched(body, &self.observer))
    }

    fn reader(&self, tenant: TenantId, turns: FairGate) -> Box<dyn MessageReader> {
        let reader = self.blob.reader(tenant, turns);
        Box::new(ObservedReader { reader, observer: self.observer.clone() })
    }

    async fn ready(&self) -> Result<(), BlobError> {
        self.observer.observe("ready", self.blob.ready()).await
    }
}

/// It began well; how it goes on is counted only where it does not.
fn watched(body: BodyStream, observer: &Observer) -> BodyStream {
    let observer = observer.clone();
    Box::pin(body.inspect(move |chunk| {
        if let Err(error) = chunk {
            observer.count("read_body", error.word());
        }
    }))
}

struct ObservedReader {
    reader: Box<dyn MessageReader>,
    observer: Observer,
}

#[async_trait]
impl MessageReader for ObservedReader {
    async fn read(
        &mut self,
        key: &SealedKey,
        extent: Extent,
        read: Read,
        next: &[Extent],
    ) -> Result<BodyStream, BlobError> {
        let body = self.observer.observe("read", self.reader.read(key, extent, read, next)).await?;
        Ok(watched(body, &self.observer))
    }
}

struct ObservedWriter {
    writer: Box<dyn EntryWriter>,
    observer: Observer,
}

#[async_trait]
impl EntryWriter for ObservedWriter {
    fn is_elsewhere(&self) -> bool {
        self.writer.is_elsewhere()
    }

    async fn room(&mut self, octets: usize) -> Result<(), BlobError> {
        let room = self.writer.room(octets).await;
        room.inspect_err(|error| self.observer.count("room", error.word()))
    }

    async fn write(&mut self, chunk: &[u8]) -> Result<(), BlobError> {
        // As many as there are chunks, and mostly done in memory: only those that fail are worth counting.
        let written = self.writer.write(chunk).await;
        written.inspect_err(|error| self.observer.count("write", error.word()))
    }

    async fn seal(self: Box<Self>, measured: Measured) -> Result<Sealed, BlobError> {
        self.observer.observe("seal", self.writer.seal(measured)).await
    }

    async fn finish(self: Box<Self>, measured: Measured) -> Result<StoredEntry, BlobError> {
        self.observer.observe("finish", self.writer.finish(measured)).await
    }
}
