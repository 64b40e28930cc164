//! What the frontend counts.

use prometheus::{
    IntCounter, IntCounterVec, IntGauge, Opts, Registry,
    core::{Collector, GenericCounter},
};

/// The frontend's metrics. Labels are fixed words, so the set of series is finite.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// POP3 connections now open.
    pub(crate) pop3_sessions_active: IntGauge,
    /// POP3 commands by verb.
    pub(crate) pop3_commands: IntCounterVec,
    /// POP3 logins by outcome.
    pub(crate) pop3_logins: IntCounterVec,
    /// Messages sent by RETR.
    pub(crate) pop3_messages_retrieved: IntCounter,
    /// Octets sent by RETR, before byte-stuffing.
    pub(crate) pop3_octets_retrieved: IntCounter,
    /// Sessions by how they ended.
    pub(crate) pop3_sessions_ended: IntCounterVec,
    /// LMTP connections now open.
    pub(crate) lmtp_sessions_active: IntGauge,
    /// Recipients by outcome of their delivery.
    pub(crate) lmtp_deliveries: IntCounterVec,
    /// Octets of messages taken in.
    pub(crate) lmtp_octets_received: IntCounter,
}

impl Metrics {
    /// Registers the metrics.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        Ok(Self {
            pop3_sessions_active: gauge(registry, "pop3_sessions_active", "POP3 connections now open")?,
            pop3_commands: family(registry, "pop3_commands_total", "POP3 commands by verb", "command")?,
            pop3_logins: family(registry, "pop3_logins_total", "POP3 logins by outcome", "outcome")?,
            pop3_messages_retrieved: counter(
                registry,
                "pop3_messages_retrieved_total",
                "messages sent in full by RETR",
            )?,
            pop3_octets_retrieved: counter(
                registry,
                "pop3_octets_retrieved_total",
                "octets of messages sent in full by RETR, before byte-stuffing",
            )?,
            pop3_sessions_ended: family(
                registry,
                "pop3_sessions_ended_total",
                "POP3 sessions by how they ended",
                "reason",
            )?,
            lmtp_sessions_active: gauge(registry, "lmtp_sessions_active", "LMTP connections now open")?,
            lmtp_deliveries: family(
                registry,
                "lmtp_deliveries_total",
                "recipients of messages by outcome of their delivery",
                "outcome",
            )?,
            lmtp_octets_received: counter(
                registry,
                "lmtp_octets_received_total",
                "octets of messages taken in, trace fields not included",
            )?,
        })
    }
}

fn gauge(registry: &Registry, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
    registered(registry, IntGauge::new(name, help)?)
}

fn counter(registry: &Registry, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
    registered(registry, GenericCounter::new(name, help)?)
}

fn family(
    registry: &Registry,
    name: &str,
    help: &str,
    label: &str,
) -> Result<IntCounterVec, prometheus::Error> {
    registered(registry, IntCounterVec::new(Opts::new(name, help), &[label])?)
}

fn registered<C: Collector + Clone + 'static>(
    registry: &Registry,
    metric: C,
) -> Result<C, prometheus::Error> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

/// Counts a gauge up for as long as it lives, however it ends.
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
