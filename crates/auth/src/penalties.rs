//! Failed logins make the next answer wait: what guessing costs, and who pays for it.
//!
//! ```text
//!   refused ── known good source of this account? ── yes: by its own mistakes, the first few mildly
//!      └─ no: the longer of what the account and the source have ── delay before the answer
//!   share: what this node counted ──► index ◄── what others counted        (every few seconds)
//! ```
//!
//! A right password is never made to wait, wherever it comes from: a stranger who guesses at an account does not lock
//! its owner out.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use maildrop::port::{Clock as _, FailureChange, FailureKey, FailureScore, Failures, SystemClock};
use time::OffsetDateTime;
use tokio::sync::Semaphore;

use crate::sasl::canonical;

/// How answers wait.
#[derive(Clone, Copy, Debug)]
pub struct PenaltyConfig {
    /// The delay of the answer to a first failure; it doubles with each further one. Zero: no answer waits.
    pub first: Duration,
    /// The longest delay.
    pub max: Duration,
}

impl Default for PenaltyConfig {
    /// Half a second, which a person with a typing error does not mind, up to 15 seconds.
    fn default() -> Self {
        Self { first: Duration::from_millis(500), max: Duration::from_secs(15) }
    }
}

/// After so long without another, half of the failures are forgotten.
const HALF_LIFE: Duration = Duration::from_mins(10);
/// After so long all are.
const FORGOTTEN: Duration = Duration::from_hours(2);
/// What fails in a network of somebody (IPv6 /48) counts so much against all of it.
const NETWORK_SHARE: f64 = 0.25;
/// Mistakes that do not add to the wait of a source that the account is known to be logged in to from.
const MILD_MISTAKES: f64 = 2.0;
/// Questions at once whether a source is known: who guesses much must not be in the way of others' statements.
const ASKED_MAX: usize = 4;
/// How long a source is known to be good after its last good login.
const KNOWN_FOR: Duration = Duration::from_hours(24 * 60);
/// It is noted again after so long.
const NOTED_FOR: Duration = Duration::from_hours(24);
/// What is remembered here of sources, accounts and pairs of both (P6).
const REMEMBERED_MAX: u64 = 200_000;
/// Changes between two rounds of sharing; past that, what is new is shared by nobody.
const CHANGES_MAX: usize = 50_000;

/// Counts failed logins, and says how long the answer to one waits. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Penalties {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: PenaltyConfig,
    failures: Arc<dyn Failures>,
    /// Names what is counted: who reads the index's tables learns no names from them.
    key: Key,
    scores: moka::sync::Cache<FailureKey, Score>,
    /// Whether a source is known to be good, as of when it was last asked or noted.
    known: moka::sync::Cache<FailureKey, bool>,
    changes: Mutex<Changes>,
    asking: Semaphore,
}

struct Key([u8; 32]);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(…)")
    }
}

#[derive(Debug)]
struct Changes {
    failures: HashMap<FailureKey, FailureChange>,
    sources: Vec<FailureKey>,
    since: OffsetDateTime,
}

/// A score as of a moment.
#[derive(Clone, Copy, Debug)]
struct Score {
    score: f64,
    at: Instant,
}

impl Score {
    fn now(self) -> f64 {
        self.score * 0.5_f64.powf(self.at.elapsed().as_secs_f64() / HALF_LIFE.as_secs_f64())
    }
}

/// What made an answer wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Penalty {
    /// How long it waits.
    pub delay: Duration,
    /// For what: `account`, `source`, or `none`.
    pub by: &'static str,
}

impl Penalty {
    /// The answer does not wait.
    pub const NONE: Self = Self { delay: Duration::ZERO, by: "none" };
}

impl Penalties {
    /// Penalties that are shared through `failures`. `key` is the same on all nodes and in no table.
    pub fn new(config: PenaltyConfig, failures: Arc<dyn Failures>, key: [u8; 32]) -> Self {
        let scores =
            moka::sync::Cache::builder().max_capacity(REMEMBERED_MAX).time_to_idle(FORGOTTEN).build();
        let known = moka::sync::Cache::builder().max_capacity(REMEMBERED_MAX).time_to_live(NOTED_FOR).build();
        let changes =
            Changes { failures: HashMap::new(), sources: Vec::new(), since: OffsetDateTime::UNIX_EPOCH };
        let changes = Mutex::new(changes);
        let asking = Semaphore::new(ASKED_MAX);
        Self { inner: Arc::new(Inner { config, failures, key: Key(key), scores, known, changes, asking }) }
    }

    /// Counts a login that was refused, and says how long its answer is to wait. `source` is none where the client is
    /// on this machine's Unix socket.
    pub async fn refused(&self, login: &str, source: Option<IpAddr>) -> Penalty {
        let inner = &self.inner;
        if inner.config.first.is_zero() {
            return Penalty::NONE;
        }
        let account = inner.account(login);
        let Some(source) = source else {
            let delay = inner.delay(inner.count(account, 1.0));
            return Penalty { delay, by: "account" };
        };
        let pair = inner.pair(login, source);
        if inner.is_known(pair).await {
            // Never less than for a stranger's first: it must not tell who shares an address with whom.
            let delay = inner.delay((inner.count(pair, 1.0) - MILD_MISTAKES).max(1.0));
            return Penalty { delay, by: "account" };
        }
        // Who gives no name guesses at nobody: that is not to make others wait who give none.
        let of_account = if login.is_empty() { 0.0 } else { inner.count(account, 1.0) };
        let of_narrow = inner.count(inner.source(network(source)), 1.0);
        let of_wide = wide_network(source).map_or(0.0, |wide| inner.count(inner.source(wide), NETWORK_SHARE));
        let of_source = of_narrow.max(of_wide);
        // Time passes between two counts of the same failures.
        let by = if of_source > of_account + 0.1 { "source" } else { "account" };
        Penalty { delay: inner.delay(of_account.max(of_source)), by }
    }

    /// Notes a login that was let in: what failed before at this account was forgiven, to this source above all.
    pub fn accepted(&self, login: &str, source: Option<IpAddr>) {
        let inner = &self.inner;
        if inner.config.first.is_zero() {
            return;
        }
        inner.forgive(inner.account(login));
        let Some(source) = source else { return };
        let pair = inner.pair(login, source);
        inner.forgive(pair);
        if inner.known.get(&pair) != Some(true) {
            inner.known.insert(pair, true);
            let mut changes = inner.changes();
            if changes.sources.len() < CHANGES_MAX {
                changes.sources.push(pair);
            }
        }
    }

    /// Shares with the other nodes what was counted here, and learns what they counted. What could not be shared is
    /// shared the next time.
    pub async fn share(&self) {
        let inner = &self.inner;
        if inner.config.first.is_zero() {
            return;
        }
        let (failures, sources, since) = {
            let mut changes = inner.changes();
            (std::mem::take(&mut changes.failures), std::mem::take(&mut changes.sources), changes.since)
        };
        let told: Vec<_> = failures.values().copied().collect();
        match inner.failures.share_failures(&told, HALF_LIFE, since).await {
            Ok(shared) => {
                let mut changes = inner.changes();
                changes.since = shared.until;
                let at = Instant::now();
                for FailureScore { key, score } in shared.scores {
                    // What was counted here since is not in it yet.
                    let here = changes.failures.get(&key).copied().unwrap_or_default();
                    let before = if here.forgiven { 0.0 } else { score };
                    inner.scores.insert(key, Score { score: before + here.added, at });
                }
            }
            Err(error) => {
                tracing::debug!(%error, "failed logins are not shared now");
                let mut changes = inner.changes();
                for (key, before) in failures {
                    let new = FailureChange { key, ..FailureChange::default() };
                    let change = changes.failures.entry(key).or_insert(new);
                    if !change.forgiven {
                        change.forgiven = before.forgiven;
                        change.added += before.added;
                    }
                }
            }
        }
        if !sources.is_empty()
            && let Err(error) = inner.failures.note_sources(&sources, SystemClock.now()).await
        {
            tracing::debug!(%error, "good sources are not noted now");
            let mut changes = inner.changes();
            changes.sources.extend(sources);
            changes.sources.truncate(CHANGES_MAX);
        }
    }

    /// Forgets in the index what counts no longer.
    pub async fn forget(&self) {
        let now = SystemClock.now();
        let failures = &self.inner.failures;
        for forgotten in
            [failures.forget_failures(now - FORGOTTEN).await, failures.forget_sources(now - KNOWN_FOR).await]
        {
            if let Err(error) = forgotten {
                tracing::debug!(%error, "old failed logins are kept for now");
            }
        }
    }
}

impl Inner {
    /// What a score is worth: `first`, doubled with each failure after it.
    fn delay(&self, score: f64) -> Duration {
        // What is left of a failure after ten minutes is no failure.
        if score < 0.75 {
            return Duration::ZERO;
        }
        let doubled = (score - 1.0).clamp(0.0, 30.0).exp2();
        self.config.first.mul_f64(doubled).min(self.config.max)
    }

    /// Adds to a score; what it is then.
    fn count(&self, key: FailureKey, by: f64) -> f64 {
        let score = self.scores.get(&key).map_or(0.0, Score::now) + by;
        self.scores.insert(key, Score { score, at: Instant::now() });
        let mut changes = self.changes();
        if changes.failures.len() < CHANGES_MAX || changes.failures.contains_key(&key) {
            let new = FailureChange { key, ..FailureChange::default() };
            changes.failures.entry(key).or_insert(new).added += by;
        }
        score
    }

    fn forgive(&self, key: FailureKey) {
        if self.scores.remove(&key).is_some() {
            let mut changes = self.changes();
            if changes.failures.len() < CHANGES_MAX || changes.failures.contains_key(&key) {
                changes.failures.insert(key, FailureChange { key, forgiven: true, added: 0.0 });
            }
        }
    }

    async fn is_known(&self, pair: FailureKey) -> bool {
        if let Some(known) = self.known.get(&pair) {
            return known;
        }
        // Asked too much, it is nobody's: the answer waits longer, and that is all.
        let Ok(_asking) = self.asking.try_acquire() else { return false };
        match self.failures.is_known_source(pair, SystemClock.now() - KNOWN_FOR).await {
            Ok(known) => {
                self.known.insert(pair, known);
                known
            }
            // A failure that cannot be looked into is one like others.
            Err(_) => false,
        }
    }

    fn account(&self, login: &str) -> FailureKey {
        self.name(b'a', canonical(login).as_bytes(), &[])
    }

    fn source(&self, network: Network) -> FailureKey {
        self.name(b's', &network, &[])
    }

    fn pair(&self, login: &str, source: IpAddr) -> FailureKey {
        self.name(b'p', &self.account(login), &network(source))
    }

    fn name(&self, kind: u8, first: &[u8], second: &[u8]) -> FailureKey {
        let mut hasher = blake3::Hasher::new_keyed(&self.key.0);
        hasher.update(&[kind]).update(&(first.len() as u64).to_le_bytes()).update(first).update(second);
        let mut key = FailureKey::default();
        hasher.finalize_xof().fill(&mut key);
        key
    }

    fn changes(&self) -> MutexGuard<'_, Changes> {
        // Nothing panics while it is held.
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A network: its prefix length in bits, and its address.
type Network = [u8; 17];

/// What one client has: an IPv4 address, or an IPv6 network of 64 bits.
fn network(source: IpAddr) -> Network {
    match source.to_canonical() {
        IpAddr::V4(v4) => prefix(32, u128::from(v4.to_bits()) << 96),
        IpAddr::V6(v6) => prefix(64, v6.to_bits()),
    }
}

/// What one customer has, of IPv6: a network of 48 bits.
fn wide_network(source: IpAddr) -> Option<Network> {
    match source.to_canonical() {
        IpAddr::V4(_) => None,
        IpAddr::V6(v6) => Some(prefix(48, v6.to_bits())),
    }
}

fn prefix(bits: u8, address: u128) -> Network {
    let mut network = [0; 17];
    network[0] = bits;
    let kept = u128::MAX << (128 - u32::from(bits));
    network[1..].copy_from_slice(&(address & kept).to_be_bytes());
    network
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use maildrop::port::{IndexError, SharedFailures};

    use super::*;

    /// What two nodes share, without an index.
    #[derive(Debug, Default)]
    struct Table {
        scores: Mutex<HashMap<FailureKey, f64>>,
        sources: Mutex<Vec<FailureKey>>,
        away: std::sync::atomic::AtomicBool,
    }

    #[async_trait]
    impl Failures for Table {
        async fn share_failures(
            &self,
            changes: &[FailureChange],
            _half_life: Duration,
            since: OffsetDateTime,
        ) -> Result<SharedFailures, IndexError> {
            if self.away.load(std::sync::atomic::Ordering::Relaxed) {
                return Err(IndexError::Unreached("away".into()));
            }
            let mut scores = self.scores.lock().unwrap();
            for change in changes {
                let score = scores.entry(change.key).or_default();
                *score = change.added + if change.forgiven { 0.0 } else { *score };
            }
            let scores =
                scores.iter().map(|(key, score)| FailureScore { key: *key, score: *score }).collect();
            Ok(SharedFailures { scores, until: since })
        }

        async fn forget_failures(&self, _before: OffsetDateTime) -> Result<(), IndexError> {
            Ok(())
        }

        async fn note_sources(&self, keys: &[FailureKey], _at: OffsetDateTime) -> Result<(), IndexError> {
            self.sources.lock().unwrap().extend(keys);
            Ok(())
        }

        async fn is_known_source(&self, key: FailureKey, _since: OffsetDateTime) -> Result<bool, IndexError> {
            Ok(self.sources.lock().unwrap().contains(&key))
        }

        async fn forget_sources(&self, _before: OffsetDateTime) -> Result<(), IndexError> {
            Ok(())
        }
    }

    const SECOND: Duration = Duration::from_secs(1);

    fn node(table: &Arc<Table>) -> Penalties {
        let config = PenaltyConfig { first: SECOND, max: SECOND * 10 };
        Penalties::new(config, Arc::clone(table) as Arc<dyn Failures>, [7; 32])
    }

    #[allow(clippy::unnecessary_wraps, reason = "every caller wants one")]
    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[track_caller]
    fn about(penalty: Penalty, seconds: f64, by: &str) {
        let delay = penalty.delay.as_secs_f64();
        assert!((delay - seconds).abs() < 0.1 && penalty.by == by, "{penalty:?}");
    }

    #[tokio::test]
    async fn a_guesser_waits_longer_with_each_guess_and_the_owner_does_not() {
        let node = node(&Arc::default());
        let guesser = ip("192.0.2.1");
        for seconds in [1.0, 2.0, 4.0, 8.0, 10.0, 10.0] {
            about(node.refused("a@one.test", guesser).await, seconds, "account");
        }
        // The source has failed as often: at another account it waits for that.
        about(node.refused("b@one.test", guesser).await, 10.0, "source");
        // And the account, for anybody it does not know.
        about(node.refused("A@One.test", ip("198.51.100.1")).await, 10.0, "account");
        about(node.refused("a\u{ad}@one.test", ip("198.51.100.2")).await, 10.0, "account");
        // Its owner comes in, and was never asked to wait for that; guessing begins anew for others.
        node.accepted("a@one.test", ip("203.0.113.1"));
        about(node.refused("a@one.test", ip("198.51.100.7")).await, 1.0, "account");
        about(node.refused("a@one.test", guesser).await, 10.0, "source");
    }

    #[tokio::test]
    async fn a_known_source_waits_for_its_own_mistakes() {
        let node = node(&Arc::default());
        let home = ip("203.0.113.1");
        for _ in 0..8 {
            node.refused("a@one.test", ip("192.0.2.1")).await;
        }
        node.accepted("a@one.test", home);
        for seconds in [1.0, 1.0, 1.0, 2.0, 4.0] {
            about(node.refused("a@one.test", home).await, seconds, "account");
        }
        node.accepted("a@one.test", home);
        about(node.refused("a@one.test", home).await, 1.0, "account");
        // It is known for that account alone.
        about(node.refused("b@one.test", home).await, 1.0, "account");
    }

    #[tokio::test]
    async fn networks_of_ipv6_are_one_source() {
        let node = node(&Arc::default());
        about(node.refused("a@one.test", ip("2001:db8:1:1::1")).await, 1.0, "account");
        about(node.refused("b@one.test", ip("2001:db8:1:1:ffff::2")).await, 2.0, "source");
        about(node.refused("c@one.test", ip("2001:db8:1:2::1")).await, 1.0, "account");
        for i in 3..20 {
            node.refused(&format!("{i}@one.test"), ip(&format!("2001:db8:1:{i}::1"))).await;
        }
        let wide = node.refused("z@one.test", ip("2001:db8:1:ffff::1")).await;
        assert_eq!(wide.by, "source", "{wide:?}");
        about(node.refused("y@one.test", ip("2001:db8:2::1")).await, 1.0, "account");
        // IPv4 in the clothes of IPv6 is IPv4.
        about(node.refused("x@one.test", ip("192.0.2.9")).await, 1.0, "account");
        about(node.refused("w@one.test", ip("::ffff:192.0.2.9")).await, 2.0, "source");
    }

    #[tokio::test]
    async fn nodes_know_together() {
        let table = Arc::new(Table::default());
        let (one, two) = (node(&table), node(&table));
        let guesser = ip("192.0.2.1");
        for _ in 0..3 {
            one.refused("a@one.test", guesser).await;
        }
        one.share().await;
        two.share().await;
        about(two.refused("a@one.test", guesser).await, 8.0, "account");
        // A source that one lets in is known to the other.
        let home = ip("203.0.113.1");
        one.accepted("a@one.test", home);
        one.share().await;
        two.share().await;
        for _ in 0..3 {
            about(two.refused("a@one.test", home).await, 1.0, "account");
        }
        // What was forgiven is what failed before; what failed at the other one meanwhile still counts.
        about(two.refused("a@one.test", ip("198.51.100.1")).await, 2.0, "account");
        // What could not be shared is shared later.
        table.away.store(true, std::sync::atomic::Ordering::Relaxed);
        one.refused("c@one.test", None).await;
        one.share().await;
        table.away.store(false, std::sync::atomic::Ordering::Relaxed);
        one.share().await;
        two.share().await;
        about(two.refused("c@one.test", None).await, 2.0, "account");
    }

    #[tokio::test]
    async fn without_a_delay_nothing_is_counted() {
        let table = Arc::new(Table::default());
        let config = PenaltyConfig { first: Duration::ZERO, ..PenaltyConfig::default() };
        let node = Penalties::new(config, Arc::clone(&table) as Arc<dyn Failures>, [7; 32]);
        for _ in 0..5 {
            assert_eq!(node.refused("a", ip("192.0.2.1")).await.delay, Duration::ZERO);
        }
        node.accepted("a", ip("192.0.2.1"));
        node.share().await;
        assert!(table.scores.lock().unwrap().is_empty() && table.sources.lock().unwrap().is_empty());
    }
}
