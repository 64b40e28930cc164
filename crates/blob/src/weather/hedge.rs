//! Reads that are slow are asked for a second time, and the first answer is taken.

use std::{
    collections::VecDeque,
    fmt,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{
    StreamExt,
    future::{Either, select},
    stream,
};
use maildrop::port::BlobError;
use time::OffsetDateTime;
use tokio::time::Instant;

use super::Watch;
use crate::{BlobKey, ObjectBody, ObjectPage, ObjectStore, Upload};

/// Longest range that is asked for twice: past it the second answer costs more than the first one's delay.
const OCTETS_MAX: u64 = 1024 * 1024;
/// Reads that are remembered.
const RECENT: usize = 256;
/// Reads before which nothing is known.
const KNOWN: usize = 32;
/// Reads between two looks at what is remembered.
const LOOK_EACH: usize = 16;
/// Second requests that may have been saved up.
const SAVED_MAX: f64 = 10.0;

/// When reads are asked for twice.
#[derive(Clone, Copy, Debug)]
pub struct HedgeConfig {
    /// Never sooner than this, however fast the others are. Default: 20 ms.
    pub floor: Duration,
    /// Second requests for each first one, at most. Default: 0.05.
    pub share: f64,
}

impl Default for HedgeConfig {
    fn default() -> Self {
        Self { floor: Duration::from_millis(20), share: 0.05 }
    }
}

/// A store whose slow, short reads are hedged.
pub struct Hedged {
    store: Arc<dyn ObjectStore>,
    config: HedgeConfig,
    calm: Arc<dyn Fn() -> bool + Send + Sync>,
    watch: Arc<dyn Watch>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Times to the first octet.
    recent: VecDeque<Duration>,
    since_look: usize,
    p95: Option<Duration>,
    saved: f64,
}

/// An answer, and whether it is worth waiting for another one.
struct Answer {
    given: Result<ObjectBody, BlobError>,
    good: bool,
}

impl Hedged {
    /// Hedges reads of `store` while `calm` says that it has room for more.
    pub fn new(
        store: Arc<dyn ObjectStore>,
        config: HedgeConfig,
        calm: Arc<dyn Fn() -> bool + Send + Sync>,
        watch: Arc<dyn Watch>,
    ) -> Self {
        Self { store, config, calm, watch, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing is left half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer, up to its first octets. A body that breaks off before them is no answer, but still a body:
    /// whoever reads it knows how to resume.
    async fn answer(&self, key: &BlobKey, range: Range<u64>) -> Answer {
        let mut body = match self.store.get(key, range).await {
            Ok(body) => body,
            Err(error) => {
                let good = !matches!(error, BlobError::Unavailable(_));
                return Answer { given: Err(error), good };
            }
        };
        let first = body.next().await;
        let good = !matches!(first, Some(Err(_)));
        Answer { given: Ok(Box::pin(stream::iter(first).chain(body))), good }
    }

    /// Whether a second request may be sent now.
    fn may_hedge(&self) -> bool {
        if !(self.calm)() {
            return false;
        }
        let mut state = self.state();
        let may = state.saved >= 1.0;
        if may {
            state.saved -= 1.0;
        }
        may
    }

    fn took(&self, time: Duration) {
        let mut state = self.state();
        if state.recent.len() == RECENT {
            state.recent.pop_front();
        }
        state.recent.push_back(time);
        state.since_look += 1;
        if state.recent.len() >= KNOWN && state.since_look >= LOOK_EACH {
            state.since_look = 0;
            let mut sorted: Vec<_> = state.recent.iter().copied().collect();
            sorted.sort_unstable();
            state.p95 = sorted.get(sorted.len() * 95 / 100).copied();
        }
    }
}

impl fmt::Debug for Hedged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hedged")
            .field("store", &self.store)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl ObjectStore for Hedged {
    async fn get(&self, key: &BlobKey, range: Range<u64>) -> Result<ObjectBody, BlobError> {
        let octets = range.end.saturating_sub(range.start);
        if octets == 0 || octets > OCTETS_MAX {
            return self.store.get(key, range).await;
        }
        let patience = {
            let mut state = self.state();
            state.saved = (state.saved + self.config.share).min(SAVED_MAX);
            state.p95.map(|p95| p95.max(self.config.floor))
        };
        let began = Instant::now();
        let mut first = Box::pin(self.answer(key, range.clone()));
        let in_time = match patience {
            None => Some(first.as_mut().await),
            Some(patience) => tokio::time::timeout(patience, first.as_mut()).await.ok(),
        };
        let answer = match in_time {
            Some(answer) => answer,
            None if !self.may_hedge() => {
                self.watch.hedge("withheld");
                first.await
            }
            None => match select(first, Box::pin(self.answer(key, range))).await {
                Either::Left((answer, _)) if answer.good => {
                    self.watch.hedge("first");
                    answer
                }
                Either::Right((answer, _)) if answer.good => {
                    self.watch.hedge("second");
                    answer
                }
                Either::Left((_, second)) => {
                    self.watch.hedge("second");
                    second.await
                }
                Either::Right((_, first)) => {
                    self.watch.hedge("first");
                    first.await
                }
            },
        };
        if answer.good {
            self.took(began.elapsed());
        }
        answer.given
    }

    async fn put(&self, key: &BlobKey, body: Bytes) -> Result<(), BlobError> {
        self.store.put(key, body).await
    }

    async fn upload(&self, key: &BlobKey) -> Result<Box<dyn Upload>, BlobError> {
        self.store.upload(key).await
    }

    async fn size(&self, key: &BlobKey) -> Result<Option<u64>, BlobError> {
        self.store.size(key).await
    }

    async fn delete(&self, keys: &[BlobKey]) -> Result<(), BlobError> {
        self.store.delete(keys).await
    }

    async fn list(&self, prefix: &str, after: Option<&BlobKey>) -> Result<ObjectPage, BlobError> {
        self.store.list(prefix, after).await
    }

    async fn abort_leftovers(&self, prefix: &str, before: OffsetDateTime) -> Result<u64, BlobError> {
        self.store.abort_leftovers(prefix, before).await
    }

    async fn ready(&self) -> Result<(), BlobError> {
        self.store.ready().await
    }
}
