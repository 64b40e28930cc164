//! What is asked of index, directory, records, blob store and object store, counted and timed: each decorator stands
//! before a port and changes nothing. Names and labels are explained in `docs/metrics.md`.
//!
//! A new method of a port takes one line here: its name, and the call.

mod blob_store;
mod bulletins;
mod directory;
mod failures;
mod garbage;
mod index;
mod manifests;
mod objects;
mod records;
mod scrub;
mod weather;

use std::{future::Future, time::Instant};

use ::blob::BlockCache;
use ::index::PoolStats;
use maildrop::port::{BlobError, IndexError};
use prometheus::{
    HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, PullingGauge, Registry,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use crate::config::Config;

pub(crate) use blob_store::ObservedBlobStore;
pub(crate) use bulletins::ObservedBulletins;
pub(crate) use directory::ObservedDirectory;
pub(crate) use failures::ObservedFailures;
pub(crate) use garbage::garbage;
pub(crate) use index::ObservedIndex;
pub(crate) use manifests::manifests;
pub(crate) use objects::ObservedObjects;
pub(crate) use records::ObservedRecords;
pub(crate) use scrub::scrub;
pub(crate) use weather::{ObservedOwn, ObservedWeather, own_stores, shelter};

/// From a row out of the database's memory to the end of every deadline there is.
const DURATION_BUCKETS: [f64; 15] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// Counts operations by kind and result, and times them by kind.
#[derive(Debug, Clone)]
struct Observer {
    operations: IntCounterVec,
    duration: HistogramVec,
}

impl Observer {
    /// Registers `{name}s_total{label, result}` and `{name}_duration_seconds{label}`.
    fn new(registry: &Registry, name: &str, label: &str, what: &str) -> Result<Self, prometheus::Error> {
        let total = Opts::new(format!("{name}s_total"), format!("{what} by {label} and result"));
        let operations = IntCounterVec::new(total, &[label, "result"])?;
        let help = format!("time {what} took, those that failed or were given up on included");
        let seconds = HistogramOpts::new(format!("{name}_duration_seconds"), help);
        let duration = HistogramVec::new(seconds.buckets(DURATION_BUCKETS.to_vec()), &[label])?;
        registry.register(Box::new(operations.clone()))?;
        registry.register(Box::new(duration.clone()))?;
        Ok(Self { operations, duration })
    }

    /// Does `work` and counts it as `kind`: by its result, or as `cancelled` where it is dropped before.
    async fn observe<T, E: Word>(
        &self,
        kind: &'static str,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let mut under_way = UnderWay { observer: self, kind, start: Instant::now(), result: "cancelled" };
        let result = work.await;
        under_way.result = result.as_ref().map_or_else(Word::word, |_| "ok");
        result
    }

    /// Counts something that took no time of its own.
    fn count(&self, kind: &str, result: &str) {
        self.operations.with_label_values(&[kind, result]).inc();
    }
}

/// An operation that is counted when it is dropped, done or not.
struct UnderWay<'a> {
    observer: &'a Observer,
    kind: &'static str,
    start: Instant,
    result: &'static str,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.observer.count(self.kind, self.result);
        let seconds = self.start.elapsed().as_secs_f64();
        self.observer.duration.with_label_values(&[self.kind]).observe(seconds);
    }
}

/// An error's word in the metrics.
trait Word {
    fn word(&self) -> &'static str;
}

impl Word for IndexError {
    fn word(&self) -> &'static str {
        match self {
            Self::Unreached(_) => "unreached",
            Self::Unavailable(_) => "unavailable",
            Self::Conflict(_) => "conflict",
            Self::Internal(_) => "internal",
        }
    }
}

impl Word for BlobError {
    fn word(&self) -> &'static str {
        match self {
            Self::NotFound(_) => "not_found",
            Self::Corrupt(_) => "corrupt",
            Self::Unavailable(_) => "unavailable",
            Self::Full(_) => "full",
            Self::Misconfigured(_) => "misconfigured",
            Self::WrongKey => "wrong_key",
        }
    }
}

/// Registers a gauge whose value is asked for when it is shown.
pub(crate) fn gauge(
    registry: &Registry,
    name: &str,
    help: &str,
    value: impl Fn() -> f64 + Send + Sync + 'static,
) -> Result<(), prometheus::Error> {
    registry.register(Box::new(PullingGauge::new(name, help, Box::new(value))?))
}

/// Registers what the read cache does. Where there is none, it does nothing.
pub(crate) fn cache(registry: &Registry, cache: Option<BlockCache>) -> Result<(), prometheus::Error> {
    let of_memory = cache.clone();
    let help = "octets that the read cache holds in memory";
    gauge(registry, "postern_cache_memory_octets", help, move || {
        of_memory.as_ref().map_or(0.0, |cache| cache.stats().memory_octets as f64)
    })?;
    let opts = Opts::new("postern_cache_blocks_total", "blocks of packs looked up in the read cache");
    registry.register(Box::new(CacheBlocks { cache, blocks: IntCounterVec::new(opts, &["result"])? }))
}

/// What came of looking blocks up, asked for when it is shown.
struct CacheBlocks {
    cache: Option<BlockCache>,
    blocks: IntCounterVec,
}

impl Collector for CacheBlocks {
    fn desc(&self) -> Vec<&Desc> {
        self.blocks.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let stats = self.cache.as_ref().map(BlockCache::stats).unwrap_or_default();
        let results = [
            ("memory", stats.memory),
            ("disk", stats.disk),
            ("missed", stats.missed),
            ("damaged", stats.damaged),
        ];
        for (result, count) in results {
            let counter = self.blocks.with_label_values(&[result]);
            counter.inc_by(count.saturating_sub(counter.get()));
        }
        self.blocks.collect()
    }
}

/// Registers what the configuration bounds, so that what is in use can be seen against it.
pub(crate) fn limits(
    registry: &Registry,
    config: &Config,
    pool: Option<&PoolStats>,
) -> Result<(), prometheus::Error> {
    let opts = Opts::new("postern_configured_limit", "what the configuration bounds");
    let limits = IntGaugeVec::new(opts, &["limit"])?;
    let connections = pool.map_or(0, |_| u64::from(config.index.connections_max));
    let bounds = [
        ("pop3_connections", config.pop3.connections_max as u64),
        ("lmtp_connections", config.lmtp.connections_max as u64),
        ("index_connections", connections),
    ];
    for (limit, bound) in bounds {
        limits.with_label_values(&[limit]).set(i64::try_from(bound).unwrap_or(i64::MAX));
    }
    registry.register(Box::new(limits))
}

/// Registers the connections to the index by state. An index that has no pool has none.
pub(crate) fn index_pool(registry: &Registry, pool: Option<PoolStats>) -> Result<(), prometheus::Error> {
    let opts = Opts::new("postern_index_pool_connections", "connections to the index by state");
    let connections = IntGaugeVec::new(opts, &["state"])?;
    registry.register(Box::new(PoolConnections { pool, connections }))
}

/// The connections of a pool, asked for when they are shown.
struct PoolConnections {
    pool: Option<PoolStats>,
    connections: IntGaugeVec,
}

impl Collector for PoolConnections {
    fn desc(&self) -> Vec<&Desc> {
        self.connections.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let (size, idle) = self.pool.as_ref().map_or((0, 0), |pool| (pool.size(), pool.idle()));
        self.connections.with_label_values(&["idle"]).set(idle.into());
        // The two are read one after the other: between them a connection may have become idle.
        self.connections.with_label_values(&["in_use"]).set(size.saturating_sub(idle).into());
        self.connections.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn results_and_what_is_given_up_on_are_counted() {
        let registry = Registry::new();
        let observer = Observer::new(&registry, "x_operation", "operation", "operations").unwrap();
        let good = observer.observe("read", async { Ok::<_, BlobError>(1) }).await;
        assert_eq!(good.unwrap(), 1);
        let bad = observer.observe("read", async { Err::<(), _>(BlobError::WrongKey) }).await;
        assert!(bad.is_err());
        let never = observer.observe("read", std::future::pending::<Result<(), BlobError>>());
        tokio::time::timeout(std::time::Duration::ZERO, never).await.unwrap_err();
        for result in ["ok", "wrong_key", "cancelled"] {
            assert_eq!(observer.operations.with_label_values(&["read", result]).get(), 1, "{result}");
        }
        assert_eq!(observer.duration.with_label_values(&["read"]).get_sample_count(), 3);
    }

    #[test]
    fn an_index_without_a_pool_shows_no_connections() {
        let registry = Registry::new();
        index_pool(&registry, None).unwrap();
        let shown = registry.gather();
        assert_eq!(shown.len(), 1);
        let states: Vec<_> =
            shown[0].get_metric().iter().map(|m| m.get_label()[0].value().to_owned()).collect();
        assert_eq!(states, ["idle", "in_use"]);
        assert!(shown[0].get_metric().iter().all(|m| m.get_gauge().get_value() < 0.5));
    }
}
