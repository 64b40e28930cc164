//! An object written in parts: a temporary file that grows.

use async_trait::async_trait;
use bytes::Bytes;
use maildrop::port::BlobError;

use super::{DiskStore, disk_error, temp::TempFile};
use crate::{BlobKey, Upload};

pub(super) struct DiskUpload {
    store: DiskStore,
    key: BlobKey,
    /// Gone after a failed part: what follows it fails too, and the file is removed already.
    file: Option<TempFile>,
}

impl DiskUpload {
    pub(super) fn new(store: DiskStore, key: BlobKey, file: TempFile) -> Self {
        Self { store, key, file: Some(file) }
    }

    fn take(&mut self) -> Result<TempFile, BlobError> {
        self.file.take().ok_or_else(|| BlobError::Unavailable("a part of this upload failed before".into()))
    }
}

#[async_trait]
impl Upload for DiskUpload {
    async fn part(&mut self, octets: Bytes) -> Result<(), BlobError> {
        let mut file = self.take()?;
        let file = self
            .store
            .run(move |inner| {
                file.append(&octets).map_err(|e| disk_error(&inner.root, &e))?;
                Ok(file)
            })
            .await?;
        self.file = Some(file);
        Ok(())
    }

    async fn complete(mut self: Box<Self>) -> Result<(), BlobError> {
        let file = self.take()?;
        let key = self.key.clone();
        self.store
            .run(move |inner| {
                file.sync()
                    .and_then(|()| inner.publish(file.path(), &key))
                    .map_err(|e| disk_error(&inner.root, &e))?;
                file.published();
                Ok(())
            })
            .await
    }

    async fn abort(self: Box<Self>) -> Result<(), BlobError> {
        drop(self.file);
        Ok(())
    }
}
