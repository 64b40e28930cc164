//! What the object store's client does below the port: attempts, second requests, the replica, breaker and limit.

use std::sync::Arc;

use blob::OwnStores;
use blob::weather::{Circuit, CircuitState, Limit, Shelter, Watch};
use prometheus::{IntCounterVec, Opts, Registry};

use super::gauge;

const ATTEMPT_KINDS: [&str; 11] = [
    "put",
    "get",
    "size",
    "ready",
    "delete",
    "list",
    "upload_begin",
    "upload_part",
    "upload_complete",
    "upload_abort",
    "list_uploads",
];

/// Counts what is told of.
#[derive(Debug)]
pub(crate) struct ObservedWeather {
    attempts: IntCounterVec,
    hedges: IntCounterVec,
    replica: IntCounterVec,
}

impl ObservedWeather {
    /// Registers `postern_s3_attempts_total`, `postern_s3_hedges_total` and `postern_s3_replica_reads_total`, each
    /// word at nought, so that a rise from nothing is seen.
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name, help, labels: &[&str]| {
            let counter = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let attempts = counter(
            "postern_s3_attempts_total",
            "attempts at requests to S3 by kind and result, repeated and second ones included",
            &["kind", "result"],
        )?;
        let hedges = counter("postern_s3_hedges_total", "slow reads by what became of them", &["outcome"])?;
        let help = "reads that the bucket did not answer by the replica's answer";
        let replica = counter("postern_s3_replica_reads_total", help, &["outcome"])?;
        for kind in ATTEMPT_KINDS {
            attempts.with_label_values(&[kind, "ok"]);
        }
        for outcome in ["first", "second", "withheld"] {
            hedges.with_label_values(&[outcome]);
        }
        for outcome in ["ok", "not_found", "unavailable"] {
            replica.with_label_values(&[outcome]);
        }
        Ok(Self { attempts, hedges, replica })
    }
}

impl Watch for ObservedWeather {
    fn attempt(&self, kind: &'static str, result: &'static str) {
        self.attempts.with_label_values(&[kind, result]).inc();
    }

    fn hedge(&self, outcome: &'static str) {
        self.hedges.with_label_values(&[outcome]).inc();
    }

    fn replica(&self, outcome: &'static str) {
        self.replica.with_label_values(&[outcome]).inc();
    }
}

/// Counts what becomes of requests to tenants' own buckets, all of them together: how many tenants there are is not
/// bounded, and logs say whose it is.
#[derive(Debug)]
pub(crate) struct ObservedOwn {
    attempts: IntCounterVec,
}

impl ObservedOwn {
    /// Registers `postern_tenant_bucket_attempts_total`, each kind at nought.
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let help = "attempts at requests to tenants' own buckets by kind and result";
        let opts = Opts::new("postern_tenant_bucket_attempts_total", help);
        let attempts = IntCounterVec::new(opts, &["kind", "result"])?;
        registry.register(Box::new(attempts.clone()))?;
        for kind in ATTEMPT_KINDS {
            attempts.with_label_values(&[kind, "ok"]);
        }
        Ok(Self { attempts })
    }
}

impl Watch for ObservedOwn {
    fn attempt(&self, kind: &'static str, result: &'static str) {
        self.attempts.with_label_values(&[kind, result]).inc();
    }

    // Too few, of too many buckets, to say anything.
    fn hedge(&self, _: &'static str) {}
    fn replica(&self, _: &'static str) {}
}

/// Registers the gauge of clients of tenants' own buckets.
pub(crate) fn own_stores(registry: &Registry, own: &OwnStores) -> Result<(), prometheus::Error> {
    let own = own.clone();
    let help = "clients held for tenants' own buckets";
    gauge(registry, "postern_tenant_bucket_clients", help, move || own.held() as f64)
}

/// Registers the gauges of breaker and limit. A store that has none shows a closed circuit and no limit.
pub(crate) fn shelter(registry: &Registry, shelter: Option<&Shelter>) -> Result<(), prometheus::Error> {
    let circuit = shelter.map(|shelter| Arc::clone(&shelter.circuit));
    let replica = shelter.and_then(|shelter| shelter.replica_circuit.clone());
    let limit = shelter.map(|shelter| Arc::clone(&shelter.limit));
    let help = "whether requests to the object store are sent: 0 yes, 1 one at a time, 2 no";
    gauge(registry, "postern_s3_circuit", help, move || number(circuit.as_deref()))?;
    let help = "whether reads of the replica are sent: 0 yes, 1 one at a time, 2 no";
    gauge(registry, "postern_s3_replica_circuit", help, move || number(replica.as_deref()))?;
    let help = "short requests to S3 at once, now; fewer than blob.requests_max after it said that they were too many";
    let current = move || limit.as_deref().map_or(0, Limit::current) as f64;
    gauge(registry, "postern_s3_requests_limit", help, current)
}

fn number(circuit: Option<&Circuit>) -> f64 {
    match circuit.map(Circuit::state) {
        None | Some(CircuitState::Closed) => 0.0,
        Some(CircuitState::HalfOpen) => 1.0,
        Some(CircuitState::Open) => 2.0,
    }
}
