//! What is counted of LMTP.

use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge, Registry};

use super::{WireOctets, counter, duration, gauge, words};

#[derive(Debug, Clone)]
pub(crate) struct LmtpMetrics {
    pub(crate) sessions_active: IntGauge,
    /// Recipients by the answer to RCPT.
    pub(crate) recipients: IntCounterVec,
    /// Recipients by the outcome of their delivery.
    pub(crate) deliveries: IntCounterVec,
    pub(crate) delivery_duration: Histogram,
    /// Refusals for want of quota, by when.
    pub(crate) quota_refusals: IntCounterVec,
    /// Octets of messages taken in.
    pub(crate) message_octets: IntCounter,
    pub(crate) octets: WireOctets,
}

impl LmtpMetrics {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        Ok(Self {
            sessions_active: gauge(registry, "lmtp_sessions_active", "LMTP connections now open")?,
            recipients: words(
                registry,
                "lmtp_recipients_total",
                "recipients by the answer to RCPT",
                "outcome",
                &[
                    "accepted",
                    "unknown",
                    "over_quota",
                    "too_large",
                    "disabled",
                    "suspended",
                    "too_many",
                    "temporary",
                ],
            )?,
            deliveries: words(
                registry,
                "lmtp_deliveries_total",
                "recipients of messages by outcome of their delivery",
                "outcome",
                &["delivered", "over_quota", "unknown", "storage_full", "temporary"],
            )?,
            delivery_duration: duration(
                registry,
                "lmtp_delivery_duration_seconds",
                "time from the end of a message to the outcomes of its delivery",
            )?,
            quota_refusals: words(
                registry,
                "lmtp_quota_refusals_total",
                "recipients refused because the quota does not hold the message, by when that was known",
                "stage",
                &["rcpt", "data"],
            )?,
            message_octets: counter(
                registry,
                "lmtp_message_octets_total",
                "octets of messages taken in, trace fields not included",
            )?,
            octets: WireOctets::new(registry, "lmtp")?,
        })
    }
}
