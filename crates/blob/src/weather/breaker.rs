//! Requests to a store that does not answer fail at once, until it does.

use std::{
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use maildrop::port::BlobError;
use time::OffsetDateTime;

use super::jittered;
use crate::{BlobKey, ObjectBody, ObjectPage, ObjectStore, Upload};

/// When the circuit opens and closes.
#[derive(Clone, Copy, Debug)]
pub struct BreakerConfig {
    /// Requests in a row, each with all of its attempts, that must fail for it to open; 0 for never.
    /// Default: 5.
    pub failures: u32,
    /// The first pause before the store is asked whether it answers; doubled each time it does not.
    /// Default: 500 ms.
    pub pause_min: Duration,
    /// The longest such pause. Default: 5 s.
    pub pause_max: Duration,
    /// Longest wait for that answer. Default: 2 s.
    pub probe_timeout: Duration,
}

impl Default for BreakerConfig {
    fn default() -> Self {
        Self {
            failures: 5,
            pause_min: Duration::from_millis(500),
            pause_max: Duration::from_secs(5),
            probe_timeout: Duration::from_secs(2),
        }
    }
}

/// Whether requests are sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CircuitState {
    /// All of them.
    Closed,
    /// One at a time: the store answers again, and has yet to show that it does what it is asked.
    HalfOpen,
    /// None.
    Open,
}

/// The state of a [`Breaker`].
#[derive(Debug)]
pub struct Circuit {
    config: BreakerConfig,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    state: CircuitState,
    /// Counts changes of the state: what was begun before the last one says nothing of now.
    era: u64,
    failures: u32,
    /// While half open: whether a request is under way.
    probing: bool,
    pause: Duration,
}

impl Circuit {
    /// A closed one.
    pub fn new(config: BreakerConfig) -> Self {
        let state = CircuitState::Closed;
        let inner = Inner { state, era: 0, failures: 0, probing: false, pause: config.pause_min };
        Self { config, inner: Mutex::new(inner) }
    }

    /// What it is now.
    pub fn state(&self) -> CircuitState {
        self.inner().state
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Nothing is left half changed.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self) -> Result<Entry<'_>, BlobError> {
        let mut inner = self.inner();
        let refuse = || Err(BlobError::Unavailable("the store did not answer lately".into()));
        let probe = match inner.state {
            CircuitState::Closed => false,
            CircuitState::HalfOpen if !inner.probing => true,
            CircuitState::HalfOpen | CircuitState::Open => return refuse(),
        };
        inner.probing = probe;
        Ok(Entry { circuit: self, era: inner.era, probe })
    }

    fn half_open(&self) {
        let mut inner = self.inner();
        inner.state = CircuitState::HalfOpen;
        inner.era += 1;
        inner.probing = false;
    }
}

/// A request that was let through. Dropping it says nothing about the store.
struct Entry<'a> {
    circuit: &'a Circuit,
    era: u64,
    probe: bool,
}

impl Entry<'_> {
    /// The request's end. Gives the pause before the store is to be asked, where the circuit has just opened.
    fn ended(self, failed: bool) -> Option<Duration> {
        let config = &self.circuit.config;
        let mut inner = self.circuit.inner();
        if inner.era != self.era {
            return None;
        }
        if !failed {
            if self.probe {
                inner.state = CircuitState::Closed;
                inner.era += 1;
                inner.probing = false;
                inner.pause = config.pause_min;
                tracing::info!("the object store answers again");
            }
            inner.failures = 0;
            return None;
        }
        inner.failures = inner.failures.saturating_add(1);
        if !self.probe && (config.failures == 0 || inner.failures < config.failures) {
            return None;
        }
        tracing::warn!(failures = inner.failures, "the object store does not answer: requests fail at once");
        inner.state = CircuitState::Open;
        inner.era += 1;
        let pause = inner.pause;
        inner.pause = (pause * 2).min(config.pause_max);
        Some(pause)
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        let mut inner = self.circuit.inner();
        if self.probe && inner.era == self.era {
            inner.probing = false;
        }
    }
}

/// A store whose requests fail at once as [`BlobError::Unavailable`] while its circuit is open.
#[derive(Debug)]
pub struct Breaker {
    gate: Gate,
}

#[derive(Debug, Clone)]
struct Gate {
    store: Arc<dyn ObjectStore>,
    circuit: Arc<Circuit>,
}

impl Breaker {
    /// A breaker before `store`.
    pub fn new(store: Arc<dyn ObjectStore>, circuit: Arc<Circuit>) -> Self {
        Self { gate: Gate { store, circuit } }
    }

    fn store(&self) -> &dyn ObjectStore {
        &*self.gate.store
    }
}

impl Gate {
    async fn pass<T>(
        &self,
        request: impl Future<Output = Result<T, BlobError>> + Send,
    ) -> Result<T, BlobError> {
        let entry = self.circuit.enter()?;
        let result = request.await;
        // A refusal is an answer.
        if let Some(pause) = entry.ended(matches!(result, Err(BlobError::Unavailable(_)))) {
            let (store, circuit) = (Arc::downgrade(&self.store), Arc::clone(&self.circuit));
            tokio::spawn(ask(store, circuit, pause));
        }
        result
    }
}

/// Asks the store whether it answers, with growing pauses, until it does or is gone.
async fn ask(store: Weak<dyn ObjectStore>, circuit: Arc<Circuit>, mut pause: Duration) {
    loop {
        tokio::time::sleep(jittered(pause)).await;
        let Some(store) = store.upgrade() else { return };
        let asked = tokio::time::timeout(circuit.config.probe_timeout, store.ready()).await;
        if !matches!(asked, Err(_) | Ok(Err(BlobError::Unavailable(_)))) {
            return circuit.half_open();
        }
        pause = (pause * 2).min(circuit.config.pause_max);
    }
}

#[async_trait]
impl ObjectStore for Breaker {
    async fn put(&self, key: &BlobKey, body: Bytes) -> Result<(), BlobError> {
        self.gate.pass(self.store().put(key, body)).await
    }

    async fn upload(&self, key: &BlobKey) -> Result<Box<dyn Upload>, BlobError> {
        let upload = self.gate.pass(self.store().upload(key)).await?;
        Ok(Box::new(GatedUpload { upload, gate: self.gate.clone() }))
    }

    async fn get(&self, key: &BlobKey, range: Range<u64>) -> Result<ObjectBody, BlobError> {
        self.gate.pass(self.store().get(key, range)).await
    }

    async fn size(&self, key: &BlobKey) -> Result<Option<u64>, BlobError> {
        self.gate.pass(self.store().size(key)).await
    }

    async fn delete(&self, keys: &[BlobKey]) -> Result<(), BlobError> {
        self.gate.pass(self.store().delete(keys)).await
    }

    async fn list(&self, prefix: &str, after: Option<&BlobKey>) -> Result<ObjectPage, BlobError> {
        self.gate.pass(self.store().list(prefix, after)).await
    }

    async fn abort_leftovers(&self, prefix: &str, before: OffsetDateTime) -> Result<u64, BlobError> {
        self.gate.pass(self.store().abort_leftovers(prefix, before)).await
    }

    async fn ready(&self) -> Result<(), BlobError> {
        self.gate.pass(self.store().ready()).await
    }
}

struct GatedUpload {
    upload: Box<dyn Upload>,
    gate: Gate,
}

#[async_trait]
impl Upload for GatedUpload {
    async fn part(&mut self, octets: Bytes) -> Result<(), BlobError> {
        self.gate.pass(self.upload.part(octets)).await
    }

    async fn complete(self: Box<Self>) -> Result<(), BlobError> {
        self.gate.pass(self.upload.complete()).await
    }

    // It gives back what costs money: tried whatever the weather, and says nothing about it.
    async fn abort(self: Box<Self>) -> Result<(), BlobError> {
        self.upload.abort().await
    }
}
