//! Octets of a range of an object, in windows, resumed where they break off.

use std::{collections::VecDeque, ops::Range, sync::Arc};

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use maildrop::port::BlobError;

use crate::{BlobKey, ObjectBody, ObjectStore};

/// A range up to this size is read by one request.
const SINGLE_OCTETS: u64 = 512 * 1024;
/// The first window of a longer range: small, so that the first octets of a large message come as soon as
/// those of a small one.
const FIRST_WINDOW_OCTETS: u64 = 128 * 1024;
/// Later windows. Each window is held whole before any of it is passed on, so that the connection, and the
/// place it takes among the store's requests, are free again whatever the pace of the client: slow readers of
/// large messages cost memory of their own, and nobody else's turn.
const WINDOW_OCTETS: u64 = 1024 * 1024;
/// Times a body may break off, plus once for every [`OCTETS_PER_RESUME`] received: a server that cuts every
/// body must not keep us asking for ever, one that cuts idle connections must not end a long download.
const RESUMES_MAX: u64 = 3;
/// See [`RESUMES_MAX`].
const OCTETS_PER_RESUME: u64 = 1024 * 1024;

/// Octets of the first request for a range of `length`.
pub(super) fn first_window(length: u64) -> u64 {
    if length <= SINGLE_OCTETS { length } else { FIRST_WINDOW_OCTETS }
}

/// Reads a range front to back.
pub(super) struct Fetch {
    store: Arc<dyn ObjectStore>,
    key: BlobKey,
    /// What has not been received yet.
    left: Range<u64>,
    /// End of the window being read.
    window_end: u64,
    body: Option<ObjectBody>,
    /// Received and not passed on yet.
    held: VecDeque<Bytes>,
    held_octets: u64,
    received: u64,
    resumes: u64,
}

impl Fetch {
    /// Will read `range`. The first request is for `wanted` octets, if it is known how many will be, and for
    /// no more than a window.
    pub(super) fn new(
        store: Arc<dyn ObjectStore>,
        key: BlobKey,
        range: Range<u64>,
        wanted: Option<u64>,
    ) -> Self {
        let length = range.end.saturating_sub(range.start);
        let first_window = wanted.unwrap_or_else(|| first_window(length)).clamp(1, WINDOW_OCTETS);
        let window_end = range.start.saturating_add(first_window).min(range.end);
        Self {
            store,
            key,
            left: range,
            window_end,
            body: None,
            held: VecDeque::new(),
            held_octets: 0,
            received: 0,
            resumes: 0,
        }
    }

    /// Will give `held` first, and then read what follows it in `range`.
    pub(super) fn after(
        store: Arc<dyn ObjectStore>,
        key: BlobKey,
        range: Range<u64>,
        mut held: Bytes,
    ) -> Self {
        let length = range.end.saturating_sub(range.start);
        held.truncate(usize::try_from(length).unwrap_or(usize::MAX));
        let octets = held.len() as u64;
        let left = range.start.saturating_add(octets)..range.end;
        Self {
            store,
            key,
            window_end: left.start,
            left,
            body: None,
            held: VecDeque::from([held]),
            held_octets: octets,
            received: 0,
            resumes: 0,
        }
    }

    pub(super) fn key(&self) -> &BlobKey {
        &self.key
    }

    /// All of the range, which is to be short.
    pub(super) async fn all(&mut self) -> Result<Bytes, BlobError> {
        let Some(first) = self.next().await? else { return Ok(Bytes::new()) };
        if self.remaining() == 0 {
            return Ok(first);
        }
        let mut all = BytesMut::with_capacity(first.len() + usize::try_from(self.remaining()).unwrap_or(0));
        all.extend_from_slice(&first);
        while let Some(octets) = self.next().await? {
            all.extend_from_slice(&octets);
        }
        Ok(all.freeze())
    }

    /// Reads again from the octet at `at`, of what was read and of what was held already.
    fn again(&mut self, at: u64) {
        self.held.clear();
        self.held_octets = 0;
        self.body = None;
        self.left.start = at;
        self.window_end = at;
    }

    /// Octets still to come from [`next`](Self::next).
    pub(super) fn remaining(&self) -> u64 {
        self.held_octets + (self.left.end - self.left.start)
    }

    /// The next octets, or `None` at the end of the range. An object that ends before it is corrupt.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, BlobError> {
        if self.held.is_empty() && self.left.start < self.left.end {
            if self.left.start >= self.window_end {
                self.window_end = self.left.start.saturating_add(WINDOW_OCTETS).min(self.left.end);
            }
            while self.left.start < self.window_end {
                self.receive().await?;
            }
        }
        let next = self.held.pop_front();
        self.held_octets -= next.as_ref().map_or(0, |octets| octets.len() as u64);
        Ok(next)
    }

    /// Gets at least one octet more.
    async fn receive(&mut self) -> Result<(), BlobError> {
        loop {
            let body = match &mut self.body {
                Some(body) => body,
                None => {
                    let range = self.left.start..self.window_end;
                    self.body.insert(self.store.get(&self.key, range).await?)
                }
            };
            match body.next().await {
                Some(Ok(octets)) if octets.is_empty() => {}
                Some(Ok(octets)) => return self.take(octets),
                Some(Err(error)) => {
                    self.body = None;
                    self.may_resume(error)?;
                }
                None => {
                    self.body = None;
                    return Err(BlobError::Corrupt(format!(
                        "{} ends at octet {} of {}",
                        self.key, self.left.start, self.left.end
                    )));
                }
            }
        }
    }

    fn take(&mut self, octets: Bytes) -> Result<(), BlobError> {
        let count = octets.len() as u64;
        if count > self.window_end - self.left.start {
            return Err(BlobError::Corrupt(format!("{}: more octets than asked for", self.key)));
        }
        self.left.start += count;
        self.received += count;
        self.held_octets += count;
        self.held.push_back(octets);
        if self.left.start == self.window_end {
            // Done with it, and with the place it held among the requests.
            self.body = None;
        }
        Ok(())
    }

    fn may_resume(&mut self, error: BlobError) -> Result<(), BlobError> {
        let allowed = RESUMES_MAX + self.received / OCTETS_PER_RESUME;
        if !error.is_retryable() || self.resumes >= allowed {
            return Err(error);
        }
        self.resumes += 1;
        tracing::debug!(key = %self.key, at = self.left.start, %error, "resuming a body that broke off");
        Ok(())
    }
}

/// Cuts what a [`Fetch`] gives into pieces of known size.
pub(super) struct Cutter {
    fetch: Fetch,
    current: Bytes,
}

impl Cutter {
    pub(super) fn new(fetch: Fetch) -> Self {
        Self { fetch, current: Bytes::new() }
    }

    pub(super) fn key(&self) -> &BlobKey {
        self.fetch.key()
    }

    /// Where the next octet to be cut lies in the object.
    pub(super) fn position(&self) -> u64 {
        self.fetch.left.end - self.remaining()
    }

    /// Reads again, from the store, what was cut since the position was `at`.
    pub(super) fn again(&mut self, at: u64) {
        self.current = Bytes::new();
        self.fetch.again(at);
    }

    /// Octets not cut yet.
    pub(super) fn remaining(&self) -> u64 {
        self.current.len() as u64 + self.fetch.remaining()
    }

    /// The next `octets` octets, or `None` where the range has fewer: nothing is allocated or asked for then.
    pub(super) async fn cut(&mut self, octets: usize) -> Result<Option<Bytes>, BlobError> {
        if (octets as u64) > self.remaining() {
            return Ok(None);
        }
        if self.current.is_empty() {
            self.current = self.fetch.next().await?.unwrap_or_default();
        }
        if self.current.len() >= octets {
            return Ok(Some(self.current.split_to(octets)));
        }
        let mut gathered = BytesMut::with_capacity(octets);
        while gathered.len() < octets {
            if self.current.is_empty() {
                match self.fetch.next().await? {
                    Some(next) => self.current = next,
                    None => return Ok(None),
                }
            }
            let missing = octets - gathered.len();
            let piece = self.current.split_to(missing.min(self.current.len()));
            gathered.extend_from_slice(&piece);
        }
        Ok(Some(gathered.freeze()))
    }
}
