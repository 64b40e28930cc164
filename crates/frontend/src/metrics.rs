//! What the frontend counts. Every name, its labels and what to make of it stand in `docs/metrics.md`, and a
//! test holds the two together.

mod lmtp;
mod pop3;
mod proxy;
mod tenant;
mod tls;

use std::time::Instant;

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    core::Collector,
};

pub(crate) use lmtp::LmtpMetrics;
pub(crate) use pop3::{Listener, Pop3Metrics};
use proxy::ProxyMetrics;
pub use tenant::TenantSeries;
use tls::TlsMetrics;

/// The frontend's metrics. Labels are fixed words, so the set of series is finite; those of single tenants
/// are off unless asked for, and bounded. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    pub(crate) pop3: Pop3Metrics,
    pub(crate) lmtp: LmtpMetrics,
    pub(crate) proxy: ProxyMetrics,
    pub(crate) tls: TlsMetrics,
    pub(crate) tenants: TenantSeries,
}

impl Metrics {
    /// Registers the metrics, without series of single tenants.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        Self::with_tenants(registry, TenantSeries::off())
    }

    /// Registers the metrics, and counts for single tenants in `tenants`.
    pub fn with_tenants(registry: &Registry, tenants: TenantSeries) -> Result<Self, prometheus::Error> {
        Ok(Self {
            pop3: Pop3Metrics::new(registry)?,
            lmtp: LmtpMetrics::new(registry)?,
            proxy: ProxyMetrics::new(registry)?,
            tls: TlsMetrics::new(registry)?,
            tenants,
        })
    }
}

/// From a poll answered out of memory (under a millisecond) to a large message sent to a slow client.
const DURATION_BUCKETS: [f64; 15] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// Octets that crossed the wire, TLS taken off.
#[derive(Debug, Clone)]
pub(crate) struct WireOctets {
    pub(crate) received: IntCounter,
    pub(crate) sent: IntCounter,
}

impl WireOctets {
    fn new(registry: &Registry, protocol: &str) -> Result<Self, prometheus::Error> {
        let new =
            |what: &str, help: &str| counter(registry, &format!("{protocol}_{what}_octets_total"), help);
        Ok(Self {
            received: new("received", "octets read from clients, without TLS")?,
            sent: new("sent", "octets written to clients, without TLS")?,
        })
    }
}

fn counter(registry: &Registry, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
    registered(registry, IntCounter::new(name, help)?)
}

fn gauge(registry: &Registry, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
    registered(registry, IntGauge::new(name, help)?)
}

fn gauges(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntGaugeVec, prometheus::Error> {
    registered(registry, IntGaugeVec::new(Opts::new(name, help), labels)?)
}

/// A family of counters with one label. Each of its `words` is shown from the start, as 0: a rate needs a
/// first value to rise from.
fn words(
    registry: &Registry,
    name: &str,
    help: &str,
    label: &str,
    words: &[&str],
) -> Result<IntCounterVec, prometheus::Error> {
    let family = registered(registry, IntCounterVec::new(Opts::new(name, help), &[label])?)?;
    for word in words {
        family.with_label_values(&[word]);
    }
    Ok(family)
}

/// The same with two labels, and every pair of their words.
fn pairs(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: [&str; 2],
    words: [&[&str]; 2],
) -> Result<IntCounterVec, prometheus::Error> {
    let family = registered(registry, IntCounterVec::new(Opts::new(name, help), &labels)?)?;
    for first in words[0] {
        for second in words[1] {
            family.with_label_values(&[first, second]);
        }
    }
    Ok(family)
}

fn duration(registry: &Registry, name: &str, help: &str) -> Result<Histogram, prometheus::Error> {
    let options = HistogramOpts::new(name, help).buckets(DURATION_BUCKETS.to_vec());
    registered(registry, Histogram::with_opts(options)?)
}

fn durations(
    registry: &Registry,
    name: &str,
    help: &str,
    label: &str,
    words: &[&str],
) -> Result<HistogramVec, prometheus::Error> {
    let options = HistogramOpts::new(name, help).buckets(DURATION_BUCKETS.to_vec());
    let family = registered(registry, HistogramVec::new(options, &[label])?)?;
    for word in words {
        family.with_label_values(&[word]);
    }
    Ok(family)
}

fn registered<C: Collector + Clone + 'static>(
    registry: &Registry,
    metric: C,
) -> Result<C, prometheus::Error> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

/// Seconds since `start`.
pub(crate) fn seconds_since(start: Instant) -> f64 {
    start.elapsed().as_secs_f64()
}

/// Counts a gauge up for as long as it lives, however it ends.
#[derive(Debug)]
pub(crate) struct Active(IntGauge);

impl Active {
    pub(crate) fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.dec();
    }
}
