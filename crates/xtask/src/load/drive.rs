//! Drives workers at once and keeps the time of what they do.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tokio::task::JoinSet;

use crate::interrupt;

/// How long a scenario goes on: until its time is over or its operations are used up.
#[derive(Debug)]
pub(crate) struct Budget {
    deadline: Instant,
    left: AtomicU64,
}

impl Budget {
    /// So long, and at most so many operations.
    pub(crate) fn new(time: Duration, operations: u64) -> Arc<Self> {
        Arc::new(Self { deadline: Instant::now() + time, left: AtomicU64::new(operations) })
    }

    /// Takes leave to do one more operation; its number, counted down.
    pub(crate) fn next(&self) -> Option<u64> {
        if Instant::now() >= self.deadline || interrupt::caught().is_some() {
            return None;
        }
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).ok()
    }
}

/// What was done.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    latencies: Vec<Duration>,
    pub(crate) octets: u64,
    pub(crate) elapsed: Duration,
}

impl Tally {
    /// Counts an operation.
    pub(crate) fn add(&mut self, start: Instant, octets: u64) {
        self.latencies.push(start.elapsed());
        self.octets += octets;
    }

    /// Counts an operation that took so long.
    pub(crate) fn took(&mut self, time: Duration) {
        self.latencies.push(time);
    }

    /// How many.
    pub(crate) fn operations(&self) -> u64 {
        self.latencies.len() as u64
    }

    /// The time that this share of the operations, from 0 to 1, did not exceed.
    pub(crate) fn quantile(&mut self, share: f64) -> Duration {
        self.latencies.sort_unstable();
        let last = self.latencies.len().saturating_sub(1);
        let index = (last as f64 * share).round() as usize;
        self.latencies.get(index).copied().unwrap_or_default()
    }
}

/// Runs so many workers to their end. The first error ends them all.
pub(crate) async fn drive<F, W>(workers: usize, mut work: F) -> anyhow::Result<Tally>
where
    F: FnMut(usize) -> W,
    W: Future<Output = anyhow::Result<Tally>> + Send + 'static,
{
    let start = Instant::now();
    let mut set = JoinSet::new();
    for worker in 0..workers {
        set.spawn(work(worker));
    }
    let mut sum = Tally::default();
    while let Some(done) = set.join_next().await {
        let tally = done.context("a worker panicked")??;
        sum.latencies.extend(tally.latencies);
        sum.octets += tally.octets;
    }
    interrupt::check()?;
    sum.elapsed = start.elapsed();
    Ok(sum)
}
