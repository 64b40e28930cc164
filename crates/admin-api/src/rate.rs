//! Rates of requests: a token bucket for each key, one for all keys of a tenant, and a stricter one for each address
//! that fails to say who it is.

use std::{
    hash::Hash,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use maildrop::{ApiKeyId, TenantId};
use moka::sync::Cache;

/// Buckets remembered of each kind: one that was forgotten is full again.
const BUCKETS_MAX: u64 = 100_000;
/// A bucket nobody draws from is full long before this.
const BUCKET_TTL: Duration = Duration::from_mins(10);

/// The keys of a tenant together may send as much as so many of them: more keys are no way to more requests.
const TENANT_SHARE: f64 = 2.0;

/// How many requests may come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// So many a second, on the average.
    pub per_second: f64,
    /// So many at once.
    pub burst: f64,
}

/// Grants requests.
#[derive(Debug)]
pub(crate) struct Rates {
    keys: Buckets<ApiKeyId>,
    tenants: Buckets<TenantId>,
    failures: Buckets<IpAddr>,
    /// Keys that were good a little while ago: they are looked up even where others behind the same address
    /// (a proxy's) guess.
    good: Cache<ApiKeyId, ()>,
}

impl Rates {
    pub(crate) fn new(requests: Rate, failures: Rate) -> Self {
        let of_tenant =
            Rate { per_second: requests.per_second * TENANT_SHARE, burst: requests.burst * TENANT_SHARE };
        Self {
            keys: Buckets::new(requests),
            tenants: Buckets::new(of_tenant),
            failures: Buckets::new(failures),
            good: Cache::builder().max_capacity(BUCKETS_MAX).time_to_idle(BUCKET_TTL).build(),
        }
    }

    /// Whether the key, which may be a tenant's, may send another request; if not, how long to wait.
    pub(crate) fn request(&self, key: ApiKeyId, tenant: Option<TenantId>) -> Result<(), Duration> {
        self.good.insert(key, ());
        // The key's own first: what is refused to one key costs the others nothing.
        self.keys.draw(key, 1.0)?;
        tenant.map_or(Ok(()), |tenant| self.tenants.draw(tenant, 1.0))
    }

    /// Whether a key that comes from this address is worth looking up.
    pub(crate) fn may_try(&self, peer: IpAddr, key: ApiKeyId) -> Result<(), Duration> {
        if self.good.contains_key(&key) { Ok(()) } else { self.failures.draw(peer, 0.0) }
    }

    /// Counts a failure of this address; an error where there were too many.
    pub(crate) fn failed(&self, peer: IpAddr) -> Result<(), Duration> {
        self.failures.draw(peer, 1.0)
    }
}

#[derive(Debug)]
struct Buckets<K: Hash + Eq + Send + Sync + 'static> {
    rate: Rate,
    buckets: Cache<K, Arc<Mutex<(f64, Instant)>>>,
}

impl<K: Hash + Eq + Send + Sync + 'static> Buckets<K> {
    fn new(rate: Rate) -> Self {
        let buckets = Cache::builder().max_capacity(BUCKETS_MAX).time_to_idle(BUCKET_TTL).build();
        Self { rate, buckets }
    }

    /// Draws `amount`, if at least one is there.
    fn draw(&self, key: K, amount: f64) -> Result<(), Duration> {
        let full = || Arc::new(Mutex::new((self.rate.burst, Instant::now())));
        let bucket = self.buckets.get_with(key, full);
        let mut bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let (tokens, filled) = *bucket;
        let now = Instant::now();
        let since = now.duration_since(filled).as_secs_f64();
        let tokens = (tokens + since * self.rate.per_second).min(self.rate.burst);
        let granted = tokens >= 1.0;
        *bucket = (if granted { tokens - amount } else { tokens }, now);
        let wait = (1.0 - tokens) / self.rate.per_second.max(1e-6);
        if granted { Ok(()) } else { Err(Duration::from_secs_f64(wait.clamp(0.0, 3600.0))) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_grants_its_burst_and_says_when_there_is_more() {
        let rates = Rates::new(Rate { per_second: 0.5, burst: 3.0 }, Rate { per_second: 0.01, burst: 1.0 });
        let (key, other) = (ApiKeyId::generate(), ApiKeyId::generate());
        let granted = (0..10).filter(|_| rates.request(key, None).is_ok()).count();
        assert_eq!(granted, 3);
        let wait = rates.request(key, None).unwrap_err();
        assert!(wait > Duration::from_secs(1) && wait <= Duration::from_secs(2), "{wait:?}");
        assert!(rates.request(other, None).is_ok(), "another key has a bucket of its own");
    }

    #[test]
    fn many_keys_of_a_tenant_share_a_bucket() {
        let rate = Rate { per_second: 0.01, burst: 3.0 };
        let rates = Rates::new(rate, rate);
        let (tenant, other) = (Some(TenantId::generate()), Some(TenantId::generate()));
        let greedy = ApiKeyId::generate();
        assert_eq!((0..10).filter(|_| rates.request(greedy, tenant).is_ok()).count(), 3);
        let granted = (0..10).filter(|_| rates.request(ApiKeyId::generate(), tenant).is_ok()).count();
        assert_eq!(granted, 3, "twice a key's burst together, and what was refused is not counted");
        assert!(rates.request(ApiKeyId::generate(), other).is_ok());
        assert!(rates.request(ApiKeyId::generate(), None).is_ok());
    }

    #[test]
    fn guessing_is_slowed_down_and_good_keys_are_not() {
        let rate = Rate { per_second: 0.01, burst: 2.0 };
        let rates = Rates::new(Rate { per_second: 10.0, burst: 10.0 }, rate);
        let peer = IpAddr::from([192, 0, 2, 1]);
        let (good, guessed) = (ApiKeyId::generate(), ApiKeyId::generate());
        rates.request(good, None).unwrap();
        assert!(rates.failed(peer).is_ok() && rates.failed(peer).is_ok());
        assert!(rates.failed(peer).is_err() && rates.may_try(peer, guessed).is_err());
        assert!(rates.may_try(peer, good).is_ok());
        assert!(rates.may_try(IpAddr::from([192, 0, 2, 2]), guessed).is_ok());
    }
}
