//! Rates: how much of something a tenant or a mailbox may have per second, on this node.
//!
//! A limit is of the whole cluster. Each node grants its part of it, the limit divided by the nodes that live,
//! which a load balancer that spreads clients evenly turns into the limit again.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{MailboxId, Rules, TenantId};

/// Buckets remembered: one that was forgotten is full again, which is what it would soon be anyway.
const BUCKETS_MAX: u64 = 200_000;
/// A bucket nobody draws from is full after at most this.
const BUCKET_TTL: Duration = Duration::from_mins(10);
/// How many seconds' worth of octets may be sent at once.
const OCTETS_BURST_SECS: f64 = 1.0;

/// Grants rates. Cheap to clone: all share one set of buckets.
#[derive(Clone, Debug)]
pub struct Throttle {
    nodes: Arc<AtomicU32>,
    buckets: moka::sync::Cache<Key, Arc<Mutex<Bucket>>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Key {
    TenantLogins(TenantId),
    TenantDeliveries(TenantId),
    TenantOctets(TenantId),
    MailboxLogins(TenantId, MailboxId),
    MailboxDeliveries(TenantId, MailboxId),
    MailboxOctets(TenantId, MailboxId),
}

/// A token bucket. It may be overdrawn, by octets that were sent already.
#[derive(Debug)]
struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl Default for Throttle {
    fn default() -> Self {
        let buckets = moka::sync::Cache::builder().max_capacity(BUCKETS_MAX).time_to_idle(BUCKET_TTL).build();
        Self { nodes: Arc::new(AtomicU32::new(1)), buckets }
    }
}

impl Throttle {
    /// Says how many nodes share the limits.
    pub fn set_nodes(&self, nodes: u32) {
        self.nodes.store(nodes.max(1), Ordering::Relaxed);
    }

    /// Whether one more attempt to log in is granted.
    pub fn login(&self, tenant: TenantId, mailbox: MailboxId, rules: &Rules) -> bool {
        let of_tenant = rules.tenant.logins_per_second.map(|n| (f64::from(n), f64::from(n)));
        let of_mailbox = rules.mailbox.logins_per_minute.map(|n| (f64::from(n) / 60.0, f64::from(n)));
        self.both((Key::MailboxLogins(tenant, mailbox), of_mailbox), (Key::TenantLogins(tenant), of_tenant))
    }

    /// Whether one more recipient is granted.
    pub fn delivery(&self, tenant: TenantId, mailbox: MailboxId, rules: &Rules) -> bool {
        let of_tenant = rules.tenant.deliveries_per_second.map(|n| (f64::from(n), f64::from(n)));
        let of_mailbox = rules.mailbox.deliveries_per_minute.map(|n| (f64::from(n) / 60.0, f64::from(n)));
        self.both(
            (Key::MailboxDeliveries(tenant, mailbox), of_mailbox),
            (Key::TenantDeliveries(tenant), of_tenant),
        )
    }

    /// Counts octets that were sent, and says how long to wait before more are.
    pub fn sent(&self, tenant: TenantId, mailbox: MailboxId, octets: u64, rules: &Rules) -> Duration {
        let limits = [
            (Key::TenantOctets(tenant), rules.tenant.octets_out_per_second),
            (Key::MailboxOctets(tenant, mailbox), rules.mailbox.octets_out_per_second),
        ];
        let waits = limits.into_iter().filter_map(|(key, limit)| {
            let rate = self.part(limit? as f64);
            let left = self.draw(key, rate, rate * OCTETS_BURST_SECS, octets as f64, true)?;
            // What is overdrawn has to flow in again.
            (left < 0.0).then(|| Duration::from_secs_f64((-left / rate).min(3600.0)))
        });
        waits.max().unwrap_or_default()
    }

    /// Draws one from both buckets, or from neither.
    fn both(&self, first: (Key, Option<(f64, f64)>), second: (Key, Option<(f64, f64)>)) -> bool {
        let draw = |(key, limit): (Key, Option<(f64, f64)>), amount| {
            let Some((rate, burst)) = limit else { return true };
            self.draw(key, self.part(rate), self.part(burst).max(1.0), amount, false).is_some()
        };
        if !draw(first, 1.0) {
            return false;
        }
        if !draw(second, 1.0) {
            draw(first, -1.0);
            return false;
        }
        true
    }

    /// This node's part of a limit.
    fn part(&self, limit: f64) -> f64 {
        // A limit of nothing grants next to nothing, rather than dividing by it.
        (limit / f64::from(self.nodes.load(Ordering::Relaxed))).max(1e-6)
    }

    /// Draws from a bucket; what is left in it, or `None` where there was not enough.
    fn draw(&self, key: Key, rate: f64, burst: f64, amount: f64, overdraw: bool) -> Option<f64> {
        let full = || Arc::new(Mutex::new(Bucket { tokens: burst, filled: Instant::now() }));
        let bucket = self.buckets.get_with(key, full);
        let mut bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let since = now.duration_since(bucket.filled).as_secs_f64();
        bucket.tokens = (bucket.tokens + since * rate).min(burst);
        bucket.filled = now;
        if bucket.tokens < amount && !overdraw {
            return None;
        }
        bucket.tokens -= amount;
        Some(bucket.tokens)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Policy, TenantLimits};

    fn rules(tenant: TenantLimits, mailbox: Policy) -> Rules {
        Rules { tenant, mailbox }
    }

    #[test]
    fn a_tenant_gets_its_rate_and_no_more() {
        let throttle = Throttle::default();
        let (tenant, other) = (TenantId::generate(), TenantId::generate());
        let mailbox = MailboxId::generate();
        let limited =
            rules(TenantLimits { logins_per_second: Some(5), ..TenantLimits::default() }, Policy::default());
        let granted = (0..50).filter(|_| throttle.login(tenant, mailbox, &limited)).count();
        assert!((5..=6).contains(&granted), "{granted}");
        assert!(throttle.login(other, mailbox, &limited), "another tenant has a bucket of its own");
        assert!(throttle.login(tenant, mailbox, &Rules::default()), "no limit, no bucket");
    }

    #[test]
    fn nodes_share_a_limit() {
        let throttle = Throttle::default();
        throttle.set_nodes(5);
        let limits = TenantLimits { deliveries_per_second: Some(50), ..TenantLimits::default() };
        let limited = rules(limits, Policy::default());
        let tenant = TenantId::generate();
        let granted = (0..100).filter(|_| throttle.delivery(tenant, MailboxId::generate(), &limited)).count();
        assert!((10..=11).contains(&granted), "{granted}");
    }

    #[test]
    fn a_refused_mailbox_costs_its_tenant_nothing() {
        let throttle = Throttle::default();
        let (tenant, one, two) = (TenantId::generate(), MailboxId::generate(), MailboxId::generate());
        let limited = rules(
            TenantLimits { logins_per_second: Some(3), ..TenantLimits::default() },
            Policy { logins_per_minute: Some(1), ..Policy::default() },
        );
        assert!(throttle.login(tenant, one, &limited));
        assert!((0..10).all(|_| !throttle.login(tenant, one, &limited)));
        assert!(throttle.login(tenant, two, &limited), "the tenant's own rate was not used up");
    }

    #[test]
    fn octets_are_paid_for_by_waiting() {
        let throttle = Throttle::default();
        let (tenant, mailbox) = (TenantId::generate(), MailboxId::generate());
        let limited = rules(
            TenantLimits { octets_out_per_second: Some(1000), ..TenantLimits::default() },
            Policy { octets_out_per_second: Some(100), ..Policy::default() },
        );
        assert_eq!(throttle.sent(tenant, mailbox, 100, &limited), Duration::ZERO);
        let wait = throttle.sent(tenant, mailbox, 300, &limited);
        assert!((2.9..3.1).contains(&wait.as_secs_f64()), "{wait:?}");
        assert_eq!(throttle.sent(tenant, mailbox, 300, &Rules::default()), Duration::ZERO);
    }
}
