//! Requests to the object store: on S3, what the bill is made of.

use std::{ops::Range, sync::Arc};

use async_trait::async_trait;
use blob::{BlobKey, ObjectBody, ObjectPage, ObjectStore, Upload};
use bytes::Bytes;
use futures_util::StreamExt as _;
use maildrop::port::BlobError;
use prometheus::{IntCounter, Registry};
use time::OffsetDateTime;

use super::{Observer, Word as _};

/// An object store whose requests are counted. Repeats within the S3 client are not told apart from the
/// request they belong to.
#[derive(Debug)]
pub(crate) struct ObservedObjects {
    store: Arc<dyn ObjectStore>,
    counts: Counts,
}

#[derive(Debug, Clone)]
struct Counts {
    requests: Observer,
    received_octets: IntCounter,
    sent_octets: IntCounter,
}

impl ObservedObjects {
    pub(crate) fn new(store: Arc<dyn ObjectStore>, registry: &Registry) -> Result<Self, prometheus::Error> {
        let octets = |name, help| {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let counts = Counts {
            requests: Observer::new(
                registry,
                "postern_object_request",
                "kind",
                "requests to the object store",
            )?,
            received_octets: octets(
                "postern_object_received_octets_total",
                "octets of objects read from the object store",
            )?,
            sent_octets: octets(
                "postern_object_sent_octets_total",
                "octets of objects the object store has taken",
            )?,
        };
        Ok(Self { store, counts })
    }
}

#[async_trait]
impl ObjectStore for ObservedObjects {
    async fn put(&self, key: &BlobKey, body: Bytes) -> Result<(), BlobError> {
        let octets = body.len() as u64;
        self.counts.requests.observe("put", self.store.put(key, body)).await?;
        self.counts.sent_octets.inc_by(octets);
        Ok(())
    }

    async fn upload(&self, key: &BlobKey) -> Result<Box<dyn Upload>, BlobError> {
        let upload = self.counts.requests.observe("upload_begin", self.store.upload(key)).await?;
        Ok(Box::new(ObservedUpload { upload, counts: self.counts.clone() }))
    }

    async fn get(&self, key: &BlobKey, range: Range<u64>) -> Result<ObjectBody, BlobError> {
        let body = self.counts.requests.observe("get", self.store.get(key, range)).await?;
        let counts = self.counts.clone();
        Ok(Box::pin(body.inspect(move |part| match part {
            Ok(octets) => counts.received_octets.inc_by(octets.len() as u64),
            // The request was good; what broke off is its body.
            Err(error) => counts.requests.count("get_body", error.word()),
        })))
    }

    async fn size(&self, key: &BlobKey) -> Result<Option<u64>, BlobError> {
        self.counts.requests.observe("size", self.store.size(key)).await
    }

    async fn delete(&self, keys: &[BlobKey]) -> Result<(), BlobError> {
        self.counts.requests.observe("delete", self.store.delete(keys)).await
    }

    async fn list(&self, prefix: &str, after: Option<&BlobKey>) -> Result<ObjectPage, BlobError> {
        self.counts.requests.observe("list", self.store.list(prefix, after)).await
    }

    async fn abort_leftovers(&self, prefix: &str, before: OffsetDateTime) -> Result<u64, BlobError> {
        self.counts.requests.observe("abort_leftovers", self.store.abort_leftovers(prefix, before)).await
    }

    async fn ready(&self) -> Result<(), BlobError> {
        self.counts.requests.observe("ready", self.store.ready()).await
    }
}

struct ObservedUpload {
    upload: Box<dyn Upload>,
    counts: Counts,
}

#[async_trait]
impl Upload for ObservedUpload {
    async fn part(&mut self, octets: Bytes) -> Result<(), BlobError> {
        let sent = octets.len() as u64;
        self.counts.requests.observe("upload_part", self.upload.part(octets)).await?;
        self.counts.sent_octets.inc_by(sent);
        Ok(())
    }

    async fn complete(self: Box<Self>) -> Result<(), BlobError> {
        self.counts.requests.observe("upload_complete", self.upload.complete()).await
    }

    async fn abort(self: Box<Self>) -> Result<(), BlobError> {
        self.counts.requests.observe("upload_abort", self.upload.abort()).await
    }
}
