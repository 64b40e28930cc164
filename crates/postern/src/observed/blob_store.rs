//! What is asked of the blob store.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::StreamExt as _;
use maildrop::{
    EntryEnvelope, Extent, Measured, SealedKey, StoredEntry, TenantId,
    port::{BlobError, BlobStore, BodyStream, EntryWriter, Read},
};
use prometheus::Registry;

use super::{Observer, Word};

/// A blob store whose operations are counted.
#[derive(Debug)]
pub(crate) struct ObservedBlobStore {
    blob: Arc<dyn BlobStore>,
    observer: Observer,
}

impl ObservedBlobStore {
    pub(crate) fn new(blob: Arc<dyn BlobStore>, registry: &Registry) -> Result<Self, prometheus::Error> {
        let what = "operations of the blob store";
        Ok(Self { blob, observer: Observer::new(registry, "postern_blob_operation", "operation", what)? })
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

    async fn writer(
        &self,
        tenant: TenantId,
        key: &SealedKey,
        envelope: EntryEnvelope,
    ) -> Result<Box<dyn EntryWriter>, BlobError> {
        let writer = self.observer.observe("writer", self.blob.writer(tenant, key, envelope)).await?;
        Ok(Box::new(ObservedWriter { writer, observer: self.observer.clone() }))
    }

    async fn read(
        &self,
        tenant: TenantId,
        key: &SealedKey,
        extent: Extent,
        read: Read,
    ) -> Result<BodyStream, BlobError> {
        let body = self.observer.observe("read", self.blob.read(tenant, key, extent, read)).await?;
        let observer = self.observer.clone();
        // It began well; how it goes on is counted only where it does not.
        Ok(Box::pin(body.inspect(move |chunk| {
            if let Err(error) = chunk {
                observer.count("read_body", error.word());
            }
        })))
    }

    async fn ready(&self) -> Result<(), BlobError> {
        self.observer.observe("ready", self.blob.ready()).await
    }
}

struct ObservedWriter {
    writer: Box<dyn EntryWriter>,
    observer: Observer,
}

#[async_trait]
impl EntryWriter for ObservedWriter {
    async fn write(&mut self, chunk: &[u8]) -> Result<(), BlobError> {
        // As many as there are chunks, and mostly done in memory: only those that fail are worth counting.
        let written = self.writer.write(chunk).await;
        written.inspect_err(|error| self.observer.count("write", error.word()))
    }

    async fn finish(self: Box<Self>, measured: Measured) -> Result<StoredEntry, BlobError> {
        self.observer.observe("finish", self.writer.finish(measured)).await
    }
}
