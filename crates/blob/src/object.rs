//! The low port: whole objects, ranges of them, and uploads in parts.

use std::{ops::Range, pin::Pin};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use maildrop::port::BlobError;
use time::OffsetDateTime;

use crate::BlobKey;

/// Most objects in one page of a listing (S3's own limit).
pub const LIST_PAGE: usize = 1000;

/// The octets of a range, as they come. Whatever bounds requests is held until it is dropped. An error ends
/// it; the reader may ask again from the last octet it got.
pub type ObjectBody = Pin<Box<dyn Stream<Item = Result<Bytes, BlobError>> + Send>>;

/// A place for objects. Keys are never written twice, so nothing here rests on conditional requests, which
/// object stores honour or ignore as they please.
///
/// Every call is bounded in time and in its own retries: a caller that sees [`BlobError::Unavailable`] need
/// not try again at once. One contract suite runs on every adapter.
#[async_trait]
pub trait ObjectStore: Send + Sync + std::fmt::Debug {
    /// Stores an object. When this returns, it is durable.
    async fn put(&self, key: &BlobKey, body: Bytes) -> Result<(), BlobError>;

    /// Begins an object whose size is not known yet. It does not exist before it is complete.
    async fn upload(&self, key: &BlobKey) -> Result<Box<dyn Upload>, BlobError>;

    /// Reads the octets of `range` that exist: fewer than asked for past the object's end, none where the
    /// range starts there. A missing object is [`BlobError::NotFound`] at once, not from the body.
    async fn get(&self, key: &BlobKey, range: Range<u64>) -> Result<ObjectBody, BlobError>;

    /// Octets of the object, or `None` where there is none.
    async fn size(&self, key: &BlobKey) -> Result<Option<u64>, BlobError>;

    /// Deletes objects. One that is not there is as good as deleted.
    async fn delete(&self, keys: &[BlobKey]) -> Result<(), BlobError>;

    /// Up to [`LIST_PAGE`] objects whose keys start with `prefix` and sort (octet by octet) after `after`.
    ///
    /// Servers built on directories sort segment by segment. The two orders agree where no segment is the
    /// beginning of its neighbour, as in the keys of [`BlobLayout`](crate::BlobLayout), and where `after` is
    /// a whole key rather than the beginning of some; the object itself may be gone.
    async fn list(&self, prefix: &str, after: Option<&BlobKey>) -> Result<ObjectPage, BlobError>;

    /// Forgets uploads under `prefix` that were begun before `before` and never ended, because their process
    /// died, and says how many. A store that forgets them by itself has nothing to do.
    async fn abort_leftovers(&self, prefix: &str, before: OffsetDateTime) -> Result<u64, BlobError> {
        let _ = (prefix, before);
        Ok(0)
    }

    /// Whether the store answers and the place exists: one cheap request.
    async fn ready(&self) -> Result<(), BlobError>;
}

/// An object being written in parts. Dropping it, or an error, forgets what was sent.
#[async_trait]
pub trait Upload: Send {
    /// Sends the next part. All but the last must be of 5 MiB at least (S3's rule).
    async fn part(&mut self, octets: Bytes) -> Result<(), BlobError>;

    /// Makes the object exist. When this returns, it is durable.
    async fn complete(self: Box<Self>) -> Result<(), BlobError>;

    /// Forgets it, and waits until it is forgotten.
    async fn abort(self: Box<Self>) -> Result<(), BlobError>;
}

/// One object of a listing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listed {
    /// Its key.
    pub key: BlobKey,
    /// Its octets.
    pub octets: u64,
}

/// A page of a listing, in order of key.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ObjectPage {
    /// The objects. What others put there under names that are no [`BlobKey`] is left out.
    pub objects: Vec<Listed>,
    /// Whether there may be more after the last of them.
    pub more: bool,
}

/// Gathers a whole body. Only for ranges whose size is bounded: the caller has named it.
pub async fn collect(mut body: ObjectBody) -> Result<Bytes, BlobError> {
    let Some(first) = body.next().await.transpose()? else { return Ok(Bytes::new()) };
    let Some(second) = body.next().await.transpose()? else { return Ok(first) };
    let mut all = BytesMut::from(first);
    all.extend_from_slice(&second);
    while let Some(octets) = body.next().await.transpose()? {
        all.extend_from_slice(&octets);
    }
    Ok(all.freeze())
}
