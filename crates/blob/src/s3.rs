//! Objects in an S3 bucket, through the official SDK.
//!
//! What is decided here: bounds. At most so many requests at once, fewer while the server says that they are too
//! many; a deadline for each attempt and for all of them together, by the size; three attempts (the SDK's standard
//! retries with jitter are the only ones) within a budget that all requests share; a stalled body is an error within
//! seconds. Bodies that break off are resumed by the reader above, which alone knows how far it got.

mod attempts;
mod config;
mod error;
mod upload;

pub use config::{ChecksumMode, S3Config, StaticCredentials};

use std::{ops::Range, sync::Arc, time::Duration};

use async_trait::async_trait;
use aws_sdk_s3::{
    Client,
    operation::get_object::GetObjectOutput,
    primitives::ByteStream,
    types::{Delete, ObjectIdentifier},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures_util::stream;
use maildrop::port::BlobError;
use md5::{Digest as _, Md5};
use time::OffsetDateTime;

use crate::{
    BlobKey, LIST_PAGE, Listed, ObjectBody, ObjectPage, ObjectStore, Upload,
    own::Guarded,
    weather::{Limit, Place, Unwatched, Watch},
};
use error::{is_past_end, s3_error};

/// Ranges up to this many octets count as requests; longer ones as downloads, whose pace is the client's.
const SHORT_RANGE_OCTETS: u64 = 256 * 1024;
/// Uploads up to this many octets have the same deadlines; longer ones get more time.
const SMALL_BODY_OCTETS: usize = 1024 * 1024;

/// Objects in a bucket. Cheap to clone.
#[derive(Clone, Debug)]
pub struct S3Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    client: Client,
    config: S3Config,
    /// Requests that end by themselves, soon.
    requests: Arc<Limit>,
    /// Long bodies, held as long as their reader takes: kept apart, so that slow readers of large messages
    /// leave everybody else's requests alone.
    downloads: Arc<Limit>,
}

impl S3Store {
    /// A store on a bucket. Makes no request: whether the bucket answers is for
    /// [`ready`](ObjectStore::ready) to say.
    pub async fn connect(config: S3Config) -> Self {
        Self::watched(config, Arc::new(Unwatched)).await
    }

    /// The same, each attempt told to `watch`.
    pub async fn watched(config: S3Config, watch: Arc<dyn Watch>) -> Self {
        Self::build(config, watch, None).await
    }

    /// The same, reaching only what may be reached.
    pub(crate) async fn guarded(config: S3Config, watch: Arc<dyn Watch>, guarded: Guarded) -> Self {
        Self::build(config, watch, Some(guarded)).await
    }

    async fn build(config: S3Config, watch: Arc<dyn Watch>, guarded: Option<Guarded>) -> Self {
        let (requests, downloads) = (Limit::new(config.requests_max), Limit::new(config.downloads_max));
        let limits = [Arc::clone(&requests), Arc::clone(&downloads)];
        let client = config.client(attempts::Attempts { watch, limits }, guarded).await;
        Self { inner: Arc::new(Inner { client, config, requests, downloads }) }
    }

    /// Short requests at once; that of long downloads goes up and down with it.
    pub fn limit(&self) -> Arc<Limit> {
        Arc::clone(&self.inner.requests)
    }

    fn client(&self) -> &Client {
        &self.inner.client
    }

    fn bucket(&self) -> &str {
        &self.inner.config.bucket
    }

    async fn permit(&self) -> Result<Place, BlobError> {
        self.permit_of(&self.inner.requests).await
    }

    async fn permit_of(&self, of: &Arc<Limit>) -> Result<Place, BlobError> {
        let place = of.place(self.inner.config.queue_timeout).await;
        place.ok_or_else(|| BlobError::Unavailable("too many requests in flight".into()))
    }

    /// Settings for a request that carries `octets`. The client's own are for those that carry none.
    fn timeouts(&self, octets: usize) -> aws_sdk_s3::config::Builder {
        // By powers of two, because the SDK keeps a pool of connections for each set of timeouts.
        let octets = octets.max(SMALL_BODY_OCTETS).next_power_of_two();
        aws_sdk_s3::Config::builder().timeout_config(self.inner.config.timeouts(octets as u64))
    }

    async fn object(&self, key: &BlobKey, range: &Range<u64>) -> Result<Option<GetObjectOutput>, BlobError> {
        let wanted = format!("bytes={}-{}", range.start, range.end - 1);
        let sent =
            self.client().get_object().bucket(self.bucket()).key(key.as_str()).range(wanted).send().await;
        let object = match sent {
            Ok(object) => object,
            Err(error) if is_past_end(&error) => return Ok(None),
            Err(error) => return Err(s3_error(key.as_str(), &error)),
        };
        // A server or proxy that ignores ranges would have its octets taken for others.
        let expected = format!("bytes {}-", range.start);
        let partial = object.content_range().is_some_and(|given| given.starts_with(&expected));
        let whole = range.start == 0
            && object.content_range().is_none()
            && object.content_length().is_some_and(|octets| octets.unsigned_abs() <= range.end);
        if partial || whole {
            Ok(Some(object))
        } else {
            Err(BlobError::Misconfigured(format!("the server ignores ranges, reading {key}")))
        }
    }
}

#[async_trait]
impl ObjectStore for S3Store {
    async fn put(&self, key: &BlobKey, body: Bytes) -> Result<(), BlobError> {
        let _permit = self.permit().await?;
        let timeouts = self.timeouts(body.len());
        let request = self.client().put_object().bucket(self.bucket()).key(key.as_str());
        let request = request.content_md5(content_md5(&body)).body(ByteStream::from(body));
        let sent = request.customize().config_override(timeouts).send().await;
        sent.map(|_| ()).map_err(|e| s3_error(key.as_str(), &e))
    }

    async fn upload(&self, key: &BlobKey) -> Result<Box<dyn Upload>, BlobError> {
        Ok(Box::new(upload::S3Upload::begin(self.clone(), key.clone()).await?))
    }

    async fn get(&self, key: &BlobKey, range: Range<u64>) -> Result<ObjectBody, BlobError> {
        let octets = range.end.saturating_sub(range.start);
        if octets == 0 {
            return match self.size(key).await? {
                Some(_) => Ok(Box::pin(stream::empty())),
                None => Err(BlobError::NotFound(key.to_string())),
            };
        }
        let long = octets > SHORT_RANGE_OCTETS;
        let permit = self.permit_of(if long { &self.inner.downloads } else { &self.inner.requests }).await?;
        let Some(object) = self.object(key, &range).await? else {
            return Ok(Box::pin(stream::empty()));
        };
        Ok(Box::pin(stream::try_unfold((object.body, permit), |(mut body, permit)| async move {
            match body.next().await.transpose() {
                Ok(octets) => Ok(octets.map(|octets| (octets, (body, permit)))),
                Err(error) => Err(BlobError::Unavailable(format!("body broke off: {error}"))),
            }
        })))
    }

    async fn size(&self, key: &BlobKey) -> Result<Option<u64>, BlobError> {
        let _permit = self.permit().await?;
        match self.client().head_object().bucket(self.bucket()).key(key.as_str()).send().await {
            Ok(object) => Ok(Some(object.content_length().unwrap_or_default().unsigned_abs())),
            Err(error) => match s3_error(key.as_str(), &error) {
                BlobError::NotFound(_) => Ok(None),
                other => Err(other),
            },
        }
    }

    async fn delete(&self, keys: &[BlobKey]) -> Result<(), BlobError> {
        for batch in keys.chunks(LIST_PAGE) {
            let _permit = self.permit().await?;
            let name = |key: &BlobKey| ObjectIdentifier::builder().key(key.as_str()).build();
            let objects = batch.iter().map(name).collect::<Result<Vec<_>, _>>();
            let delete = objects
                .and_then(|objects| Delete::builder().set_objects(Some(objects)).quiet(true).build())
                .map_err(|e| BlobError::Misconfigured(e.to_string()))?;
            let done = self
                .client()
                .delete_objects()
                .bucket(self.bucket())
                .delete(delete)
                .send()
                .await
                .map_err(|e| s3_error("delete", &e))?;
            let failed = done.errors().iter().find(|e| e.code() != Some("NoSuchKey"));
            if let Some(failed) = failed {
                let (code, key) = (failed.code().unwrap_or("unknown"), failed.key().unwrap_or_default());
                return Err(error::by_code(code, None, format!("delete {key}: {code}")));
            }
        }
        Ok(())
    }

    async fn list(&self, prefix: &str, after: Option<&BlobKey>) -> Result<ObjectPage, BlobError> {
        let _permit = self.permit().await?;
        let mut after = after.map(|key| key.as_str().to_owned());
        loop {
            let page = self
                .client()
                .list_objects_v2()
                .bucket(self.bucket())
                .prefix(prefix)
                .set_start_after(after.take())
                .max_keys(LIST_PAGE as i32)
                .send()
                .await
                .map_err(|e| s3_error("list", &e))?;
            let objects: Vec<Listed> = page.contents().iter().filter_map(listed).collect();
            let more = page.is_truncated() == Some(true);
            after = page.contents().last().and_then(|object| object.key()).map(str::to_owned);
            // A page of nothing but foreign names says nothing to the caller, who could not go on from it.
            if !objects.is_empty() || !more || after.is_none() {
                return Ok(ObjectPage { objects, more });
            }
        }
    }

    async fn abort_leftovers(&self, prefix: &str, before: OffsetDateTime) -> Result<u64, BlobError> {
        upload::abort_leftovers(self, prefix, before).await
    }

    async fn ready(&self) -> Result<(), BlobError> {
        // Without a place: it is to tell of the store, and all places may be taken by what waits for it.
        match self.client().head_bucket().bucket(self.bucket()).send().await {
            Ok(_) => Ok(()),
            Err(error) => Err(match s3_error(self.bucket(), &error) {
                // HEAD has no body to tell a missing bucket from a missing key.
                BlobError::NotFound(bucket) => {
                    BlobError::Misconfigured(format!("bucket {bucket} does not exist"))
                }
                other => other,
            }),
        }
    }
}

fn listed(object: &aws_sdk_s3::types::Object) -> Option<Listed> {
    let key = BlobKey::try_from(object.key()?).ok()?;
    Some(Listed { key, octets: object.size().unwrap_or_default().unsigned_abs() })
}

/// What every server compares an upload with, whatever it makes of newer checksums.
fn content_md5(octets: &[u8]) -> String {
    STANDARD.encode(Md5::digest(octets))
}

/// The time `octets` may take at `rate` octets a second.
fn transfer_time(octets: u64, rate: u64) -> Duration {
    Duration::from_millis(octets.saturating_mul(1000) / rate.max(1))
}
