//! Reads that a replica of the bucket answers when the bucket itself does not.

use std::{ops::Range, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use maildrop::port::BlobError;
use time::OffsetDateTime;

use super::Watch;
use crate::{BlobKey, ObjectBody, ObjectPage, ObjectStore, Upload};

/// A store with a replica, which is only ever read: whoever replicates writes there. Objects never change, so one
/// that is there is the right one.
#[derive(Debug)]
pub struct Replicated {
    main: Arc<dyn ObjectStore>,
    replica: Arc<dyn ObjectStore>,
    watch: Arc<dyn Watch>,
}

impl Replicated {
    /// `main`, with what it cannot give read from `replica`.
    pub fn new(main: Arc<dyn ObjectStore>, replica: Arc<dyn ObjectStore>, watch: Arc<dyn Watch>) -> Self {
        Self { main, replica, watch }
    }
}

#[async_trait]
impl ObjectStore for Replicated {
    async fn put(&self, key: &BlobKey, body: Bytes) -> Result<(), BlobError> {
        self.main.put(key, body).await
    }

    async fn upload(&self, key: &BlobKey) -> Result<Box<dyn Upload>, BlobError> {
        self.main.upload(key).await
    }

    async fn get(&self, key: &BlobKey, range: Range<u64>) -> Result<ObjectBody, BlobError> {
        let error = match self.main.get(key, range.clone()).await {
            Err(error @ (BlobError::Unavailable(_) | BlobError::NotFound(_))) => error,
            given => return given,
        };
        match self.replica.get(key, range).await {
            Ok(body) => {
                self.watch.replica("ok");
                Ok(body)
            }
            // Not yet, or never, replicated: what the bucket said holds.
            Err(BlobError::NotFound(_)) => {
                self.watch.replica("not_found");
                Err(error)
            }
            // As long as it may be there, it is not gone for good.
            Err(unknown) => {
                self.watch.replica("unavailable");
                tracing::debug!(%key, %error, %unknown, "neither the bucket nor its replica");
                Err(if matches!(error, BlobError::NotFound(_)) {
                    BlobError::Unavailable(format!("{error}, and not known of the replica: {unknown}"))
                } else {
                    error
                })
            }
        }
    }

    async fn size(&self, key: &BlobKey) -> Result<Option<u64>, BlobError> {
        self.main.size(key).await
    }

    async fn delete(&self, keys: &[BlobKey]) -> Result<(), BlobError> {
        self.main.delete(keys).await
    }

    async fn list(&self, prefix: &str, after: Option<&BlobKey>) -> Result<ObjectPage, BlobError> {
        self.main.list(prefix, after).await
    }

    async fn abort_leftovers(&self, prefix: &str, before: OffsetDateTime) -> Result<u64, BlobError> {
        self.main.abort_leftovers(prefix, before).await
    }

    async fn ready(&self) -> Result<(), BlobError> {
        self.main.ready().await
    }
}
