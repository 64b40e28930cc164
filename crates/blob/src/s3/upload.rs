//! Multipart uploads.

use async_trait::async_trait;
use aws_sdk_s3::{
    primitives::ByteStream,
    types::{CompletedMultipartUpload, CompletedPart},
};
use bytes::Bytes;
use maildrop::port::BlobError;
use time::OffsetDateTime;

use super::{S3Store, content_md5, s3_error};
use crate::{BlobKey, Upload};

/// Octets whose deadline completing an upload gets: the server may have to gather the parts first.
const COMPLETE_AS_OCTETS: usize = 4 * 1024 * 1024;

/// An upload in progress. Its parts are kept, and paid for, until it is completed or aborted.
pub(super) struct S3Upload {
    store: S3Store,
    key: BlobKey,
    /// Gone once the upload is completed or aborted.
    id: Option<String>,
    parts: Vec<CompletedPart>,
}

impl S3Upload {
    pub(super) async fn begin(store: S3Store, key: BlobKey) -> Result<Self, BlobError> {
        let permit = store.permit().await?;
        let begun = store
            .client()
            .create_multipart_upload()
            .bucket(store.bucket())
            .key(key.as_str())
            .send()
            .await
            .map_err(|e| s3_error(key.as_str(), &e))?;
        let id = begun.upload_id.ok_or_else(|| {
            BlobError::Misconfigured("the server begins a multipart upload without an id".into())
        })?;
        drop(permit);
        Ok(Self { store, key, id: Some(id), parts: Vec::new() })
    }

    fn id(&self) -> Result<&str, BlobError> {
        self.id.as_deref().ok_or_else(|| BlobError::Unavailable("this upload was aborted".into()))
    }
}

#[async_trait]
impl Upload for S3Upload {
    async fn part(&mut self, octets: Bytes) -> Result<(), BlobError> {
        let number = self.parts.len() as i32 + 1;
        let permit = self.store.permit().await?;
        let timeouts = self.store.timeouts(octets.len());
        let request = self
            .store
            .client()
            .upload_part()
            .bucket(self.store.bucket())
            .key(self.key.as_str())
            .upload_id(self.id()?)
            .part_number(number)
            .content_md5(content_md5(&octets))
            .body(ByteStream::from(octets));
        let sent = request.customize().config_override(timeouts).send().await;
        drop(permit);
        let part = sent.map_err(|e| s3_error(self.key.as_str(), &e))?;
        self.parts.push(
            CompletedPart::builder()
                .part_number(number)
                .set_e_tag(part.e_tag)
                .set_checksum_crc32(part.checksum_crc32)
                .set_checksum_crc32_c(part.checksum_crc32_c)
                .set_checksum_crc64_nvme(part.checksum_crc64_nvme)
                .build(),
        );
        Ok(())
    }

    async fn complete(mut self: Box<Self>) -> Result<(), BlobError> {
        let permit = self.store.permit().await?;
        let parts = CompletedMultipartUpload::builder().set_parts(Some(std::mem::take(&mut self.parts)));
        let request = self
            .store
            .client()
            .complete_multipart_upload()
            .bucket(self.store.bucket())
            .key(self.key.as_str())
            .upload_id(self.id()?)
            .multipart_upload(parts.build());
        let timeouts = self.store.timeouts(COMPLETE_AS_OCTETS);
        let sent = request.customize().config_override(timeouts).send().await;
        drop(permit);
        // On an error the drop below aborts. Had the server completed it all the same, the abort changes
        // nothing and the object is one that no row points at: swept like any other.
        sent.map_err(|e| s3_error(self.key.as_str(), &e))?;
        self.id = None;
        Ok(())
    }

    async fn abort(mut self: Box<Self>) -> Result<(), BlobError> {
        match self.id.take() {
            Some(id) => abort(&self.store, &self.key, &id).await,
            None => Ok(()),
        }
    }
}

impl Drop for S3Upload {
    fn drop(&mut self) {
        let Some(id) = self.id.take() else { return };
        // Outside a runtime (the process is ending) the leftover is for `abort_leftovers`.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (store, key) = (self.store.clone(), self.key.clone());
        runtime.spawn(async move {
            if let Err(error) = abort(&store, &key, &id).await {
                tracing::warn!(%key, %error, "multipart upload not aborted; a later sweep will");
            }
        });
    }
}

async fn abort(store: &S3Store, key: &BlobKey, id: &str) -> Result<(), BlobError> {
    abort_named(store, key.as_str(), id).await
}

async fn abort_named(store: &S3Store, key: &str, id: &str) -> Result<(), BlobError> {
    let _permit = store.permit().await?;
    let sent =
        store.client().abort_multipart_upload().bucket(store.bucket()).key(key).upload_id(id).send().await;
    match sent {
        Ok(_) => Ok(()),
        Err(error) if is_gone(&error) => Ok(()),
        Err(error) => Err(s3_error(key, &error)),
    }
}

fn is_gone<E: aws_sdk_s3::error::ProvideErrorMetadata>(
    error: &aws_sdk_s3::error::SdkError<E, aws_sdk_s3::config::http::HttpResponse>,
) -> bool {
    error.as_service_error().is_some_and(|e| e.code() == Some("NoSuchUpload"))
}

/// Aborts uploads under `prefix` that began before `before`, and says how many.
pub(super) async fn abort_leftovers(
    store: &S3Store,
    prefix: &str,
    before: OffsetDateTime,
) -> Result<u64, BlobError> {
    let (mut key_marker, mut id_marker, mut aborted) = (None, None, 0);
    loop {
        let permit = store.permit().await?;
        let page = store
            .client()
            .list_multipart_uploads()
            .bucket(store.bucket())
            .prefix(prefix)
            .set_key_marker(key_marker.take())
            .set_upload_id_marker(id_marker.take())
            .send()
            .await
            .map_err(|e| s3_error("list uploads", &e))?;
        drop(permit);
        for upload in page.uploads() {
            let old = upload.initiated().is_some_and(|at| at.secs() < before.unix_timestamp());
            if let (true, Some(key), Some(id)) = (old, upload.key(), upload.upload_id()) {
                abort_named(store, key, id).await?;
                aborted += 1;
            }
        }
        if page.is_truncated() != Some(true) || page.next_key_marker().is_none() {
            return Ok(aborted);
        }
        key_marker = page.next_key_marker().map(str::to_owned);
        id_marker = page.next_upload_id_marker().map(str::to_owned);
    }
}
