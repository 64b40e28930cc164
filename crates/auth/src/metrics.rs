//! What is counted of logins. Names and labels stand in `docs/metrics.md`.

use std::time::Instant;

use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry};

/// Logins by what verified them, and what back ends do. Labels are fixed words. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    verified: IntCounterVec,
    asked: HistogramVec,
}

/// What verifies logins.
const BY: [&str; 8] = ["remembered", "app_password", "internal", "none", "ldap", "http", "offline", "token"];
/// What is asked.
const ASKED: [&str; 4] = ["ldap", "http", "jwks", "introspection"];
/// From a directory beside us to one that answers when it is too late.
const BUCKETS: [f64; 11] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 20.0];

impl Metrics {
    /// Registers the metrics.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let verified = IntCounterVec::new(
            Opts::new("login_verifications_total", "logins by what verified them and how that ended"),
            &["by", "outcome"],
        )?;
        let asked = HistogramVec::new(
            HistogramOpts::new("login_backend_duration_seconds", "answers of tenants' back ends")
                .buckets(BUCKETS.to_vec()),
            &["backend", "outcome"],
        )?;
        registry.register(Box::new(verified.clone()))?;
        registry.register(Box::new(asked.clone()))?;
        for by in BY {
            for outcome in ["good", "refused", "unavailable"] {
                verified.with_label_values(&[by, outcome]);
            }
        }
        for backend in ASKED {
            for outcome in ["answered", "failed", "cancelled"] {
                asked.with_label_values(&[backend, outcome]);
            }
        }
        Ok(Self { verified, asked })
    }

    pub(crate) fn verified(&self, by: &'static str, outcome: &'static str) {
        self.verified.with_label_values(&[by, outcome]).inc();
    }

    /// Times a question, whichever way it ends.
    pub(crate) fn asking(&self, backend: &'static str) -> Asking<'_> {
        Asking { metrics: self, backend, start: Instant::now(), outcome: "cancelled" }
    }
}

/// A question under way.
pub(crate) struct Asking<'a> {
    metrics: &'a Metrics,
    backend: &'static str,
    start: Instant,
    outcome: &'static str,
}

impl Asking<'_> {
    /// Notes how it ended.
    pub(crate) fn answered<T, E>(mut self, answer: Result<T, E>) -> Result<T, E> {
        self.outcome = if answer.is_ok() { "answered" } else { "failed" };
        answer
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let seconds = self.start.elapsed().as_secs_f64();
        self.metrics.asked.with_label_values(&[self.backend, self.outcome]).observe(seconds);
    }
}
