//! Series of single tenants: off unless asked for, and bounded.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use maildrop::TenantId;
use prometheus::{IntCounterVec, Opts, Registry};

use super::registered;

/// The label of all tenants past the bound.
const OTHER: &str = "other";

/// What is counted of single tenants. The label is the tenant's identity. A number of tenants have series of
/// their own, those that are seen first; the others share the label `other`, so that tenants who come and go
/// cannot make a node's metrics grow without end (P6).
#[derive(Debug, Clone)]
pub struct TenantSeries(Option<Arc<Families>>);

#[derive(Debug)]
struct Families {
    tenants_max: usize,
    labels: RwLock<HashMap<TenantId, Arc<str>>>,
    logins: IntCounterVec,
    retrieved_messages: IntCounterVec,
    retrieved_octets: IntCounterVec,
    deliveries: IntCounterVec,
    delivered_octets: IntCounterVec,
    refusals: IntCounterVec,
}

impl TenantSeries {
    /// Counts nothing.
    pub fn off() -> Self {
        Self(None)
    }

    /// Registers the series, for `tenants_max` tenants at most and `other`.
    pub fn new(registry: &Registry, tenants_max: usize) -> Result<Self, prometheus::Error> {
        let family = |name: &str, help: &str, labels: &[&str]| {
            registered(registry, IntCounterVec::new(Opts::new(name, help), labels)?)
        };
        Ok(Self(Some(Arc::new(Families {
            tenants_max,
            labels: RwLock::default(),
            logins: family(
                "postern_tenant_logins_total",
                "logins to a tenant's mailboxes by outcome",
                &["tenant", "outcome"],
            )?,
            retrieved_messages: family(
                "postern_tenant_retrieved_messages_total",
                "messages of a tenant sent in full",
                &["tenant"],
            )?,
            retrieved_octets: family(
                "postern_tenant_retrieved_octets_total",
                "octets of a tenant's messages sent in full, before byte-stuffing",
                &["tenant"],
            )?,
            deliveries: family(
                "postern_tenant_deliveries_total",
                "recipients of a tenant by outcome of their delivery",
                &["tenant", "outcome"],
            )?,
            delivered_octets: family(
                "postern_tenant_delivered_octets_total",
                "octets delivered to a tenant's mailboxes, a message for several counted for each",
                &["tenant"],
            )?,
            refusals: family(
                "postern_tenant_refusals_total",
                "what was refused to a tenant, by the limit that was reached",
                &["tenant", "limit"],
            )?,
        }))))
    }

    pub(crate) fn login(&self, tenant: TenantId, outcome: &str) {
        self.count(tenant, |families, label| {
            families.logins.with_label_values(&[label, outcome]).inc();
        });
    }

    pub(crate) fn retrieved(&self, tenant: TenantId, octets: u64) {
        self.count(tenant, |families, label| {
            families.retrieved_messages.with_label_values(&[label]).inc();
            families.retrieved_octets.with_label_values(&[label]).inc_by(octets);
        });
    }

    pub(crate) fn delivery(&self, tenant: TenantId, outcome: &str, octets: u64) {
        self.count(tenant, |families, label| {
            families.deliveries.with_label_values(&[label, outcome]).inc();
            families.delivered_octets.with_label_values(&[label]).inc_by(octets);
        });
    }

    pub(crate) fn refusal(&self, tenant: TenantId, limit: &str) {
        self.count(tenant, |families, label| {
            families.refusals.with_label_values(&[label, limit]).inc();
        });
    }

    fn count(&self, tenant: TenantId, count: impl FnOnce(&Families, &str)) {
        let Some(families) = &self.0 else { return };
        count(families, &families.label(tenant));
    }
}

impl Families {
    fn label(&self, tenant: TenantId) -> Arc<str> {
        let known = self.labels.read().unwrap_or_else(PoisonError::into_inner).get(&tenant).cloned();
        if let Some(label) = known {
            return label;
        }
        let mut labels = self.labels.write().unwrap_or_else(PoisonError::into_inner);
        if labels.len() >= self.tenants_max && !labels.contains_key(&tenant) {
            return OTHER.into();
        }
        Arc::clone(labels.entry(tenant).or_insert_with(|| tenant.to_string().into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Metrics;

    #[test]
    fn tenants_past_the_bound_are_counted_together() {
        let registry = Registry::new();
        let series = TenantSeries::new(&registry, 2).unwrap();
        let tenants: Vec<_> = (0..5).map(|_| TenantId::generate()).collect();
        for _ in 0..3 {
            for tenant in &tenants {
                series.login(*tenant, "ok");
            }
        }
        let family = &registry.gather()[0];
        let mut counted: Vec<_> = family
            .get_metric()
            .iter()
            .map(|m| {
                let label = m.get_label().iter().find(|label| label.name() == "tenant").unwrap();
                (label.value().to_owned(), m.get_counter().get_value() as u64)
            })
            .collect();
        counted.sort();
        let mut expected =
            vec![(tenants[0].to_string(), 3), (tenants[1].to_string(), 3), (OTHER.to_owned(), 9)];
        expected.sort();
        assert_eq!(counted, expected);
    }

    #[test]
    fn nothing_is_registered_when_off() {
        TenantSeries::off().login(TenantId::generate(), "ok");
        let registry = Registry::new();
        Metrics::new(&registry).unwrap();
        assert!(registry.gather().iter().all(|family| !family.name().contains("tenant")));
    }
}
