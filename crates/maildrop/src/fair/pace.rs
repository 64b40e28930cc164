//! How much of a strained node's time each tenant may have.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::task::JoinHandle;

use super::ACTIVE;
use crate::TenantId;

/// A round: the pace is looked at again.
const ROUND: Duration = Duration::from_millis(100);
/// How often in a round those that were held back are let on: in one go, they would be a wave.
const STEPS: u32 = 10;
/// The node is strained when what tenants do takes so many times as long as it has taken when there was little to do.
const SLOWER: f64 = 2.0;
/// A gate says nothing about that in a round with fewer pieces of work.
const WORK_MIN: u32 = 5;
/// By how much what was best is believed less with each round: 2 % a second.
const FORGET: f64 = 1.002;
/// A tenant is never paced below so much of what tenants have on average that have a hundredth of what the busiest has:
/// the others want little, however many there are.
const OF_MEAN: f64 = 1.25;
const WORTH: f64 = 0.01;
/// Nor below one thing at a time, in seconds of permits a second.
const PACE_MIN: f64 = 1.0;
/// By how much the pace falls in a round of strain, and rises in one without.
const FALL: f64 = 0.7;
const RISE: f64 = 1.08;
/// For how long a tenant may save up what it does not use, and be in debt for what it used too much, in seconds of
/// its pace.
const SAVED_MAX: f64 = 0.05;
const OWED_MAX: f64 = 0.5;
/// What a single piece of work counts for at most: one that waited for a server that hangs did not use the node.
const CHARGE_MAX: Duration = Duration::from_millis(50);

/// The pace that gates keep together: while a node has more to do than it can, no tenant has much more of its time
/// than the others that want some. Cheap to clone.
///
/// Time is what permits were held for, in all gates together, each piece of work for 50 ms at most. The node, or
/// what it works with, is strained while the work behind some gate takes more than twice the time it takes at best,
/// on average over the tenants. Every 100 ms the pace falls if so, and rises if not, until it holds nobody back. It
/// never falls below one thing at a time, nor below what the others leave of what is no trouble, nor below 1.25 of what
/// tenants at work have on average; a tenant that is alone is not paced.
#[derive(Clone, Debug)]
pub struct Pace {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// Whether there is a pace now: what is asked most often needs no lock.
    on: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Seconds of permits a second and tenant.
    pace: Option<f64>,
    /// Seconds of permits a second that are no trouble.
    easy: f64,
    tenants: HashMap<TenantId, Account>,
    gates: Vec<Gate>,
}

/// How long the work behind a gate takes, in seconds on average over the tenants.
#[derive(Debug)]
struct Gate {
    shared: Weak<super::Shared>,
    /// Of late.
    now: f64,
    /// At best.
    best: f64,
}

#[derive(Debug)]
struct Account {
    /// By gate, in this round: how often, and for how many seconds.
    work: Vec<(u32, f64)>,
    /// Seconds used in this round.
    used: f64,
    /// Seconds used per second, smoothed.
    rate: f64,
    /// Permits it holds, by gate.
    held: Vec<u32>,
    /// Seconds it may still use.
    left: f64,
    /// When it last used any.
    last: Instant,
}

impl Pace {
    /// A pace that holds nobody back; nor will it while no more than `easy` things are done at once.
    pub fn new(easy: usize) -> Self {
        let state = Mutex::new(State { easy: easy as f64, ..State::default() });
        Self { shared: Arc::new(Shared { on: AtomicBool::new(false), state }) }
    }

    /// Whether the tenant may begin something.
    pub(super) fn lets(&self, gate: usize, tenant: TenantId) -> bool {
        !self.shared.on.load(Ordering::Relaxed) || self.lock().lets(gate, tenant)
    }

    /// The tenant begins something, and is charged what that takes as a rule, so that it does not begin too much at
    /// once. What it was charged is to be given to [`end`](Self::end).
    pub(super) fn begin(&self, gate: usize, tenant: TenantId) -> f64 {
        let mut state = self.lock();
        let charged = match state.pace {
            Some(_) => state.gates.get(gate).map_or(0.0, |gate| gate.now),
            None => 0.0,
        };
        let account = state.account(tenant);
        account.left -= charged;
        if let Some(held) = account.held.get_mut(gate) {
            *held += 1;
        }
        charged
    }

    /// The tenant did not begin after all.
    pub(super) fn cancel(&self, gate: usize, tenant: TenantId, charged: f64) {
        let mut state = self.lock();
        let account = state.account(tenant);
        if let Some(held) = account.held.get_mut(gate) {
            *held = held.saturating_sub(1);
        }
        account.left += charged;
    }

    /// Counts what the tenant used, beyond what it was charged already.
    pub(super) fn end(&self, gate: usize, tenant: TenantId, charged: f64, held: Duration) {
        let mut state = self.lock();
        let seconds = held.min(CHARGE_MAX).as_secs_f64();
        let account = state.account(tenant);
        if let Some((count, sum)) = account.work.get_mut(gate) {
            *count += 1;
            *sum += seconds;
        }
        account.used += seconds;
        if let Some(held) = account.held.get_mut(gate) {
            *held = held.saturating_sub(1);
        }
        account.left -= seconds - charged;
        account.last = Instant::now();
    }

    /// Takes a gate in; its number.
    pub(super) fn add(&self, shared: Weak<super::Shared>) -> usize {
        let mut state = self.lock();
        state.gates.push(Gate { shared, now: 0.0, best: 0.0 });
        state.gates.len() - 1
    }

    /// What a tenant may have now, in seconds of permits a second, if there is a bound.
    pub fn current(&self) -> Option<f64> {
        self.lock().pace
    }

    /// Ends a round of `time`.
    fn round(&self, time: Duration) {
        let mut state = self.lock();
        let state = &mut *state;
        let strained = state.is_strained();
        state.tenants.retain(|_, account| {
            account.held.iter().any(|held| *held > 0) || account.last.elapsed() < ACTIVE
        });
        let seconds = time.as_secs_f64().max(0.001);
        for account in state.tenants.values_mut() {
            account.rate = account.rate.mul_add(0.7, 0.3 * account.used / seconds);
            account.used = 0.0;
            account.work.fill((0, 0.0));
        }
        let rates = || state.tenants.values().map(|account| account.rate);
        let most = rates().fold(0.0, f64::max);
        let (count, sum) = rates()
            .filter(|rate| *rate >= WORTH * most)
            .fold((0.0_f64, 0.0), |(count, sum), rate| (count + 1.0, sum + rate));
        let floor = PACE_MIN.max(OF_MEAN * sum / count.max(1.0)).max(level(rates(), state.easy));
        // What takes long although little is done is slow by itself, and nobody's doing.
        let strained = strained && rates().sum::<f64>() > state.easy;
        let before = state.pace.take();
        let pace = if strained { before.unwrap_or(most) * FALL } else { before.unwrap_or(f64::MAX) * RISE };
        // Twice what anybody has holds nobody back.
        if state.tenants.len() > 1 && (strained || pace < 2.0 * most) {
            state.pace = Some(pace.max(floor));
            if before.is_none() {
                for account in state.tenants.values_mut() {
                    account.left = 0.0;
                }
            }
        }
        self.shared.on.store(state.pace.is_some(), Ordering::Relaxed);
        if before.is_some() != state.pace.is_some() {
            tracing::debug!(
                pace = state.pace,
                tenants = state.tenants.len(),
                "pace of tenants begins or ends"
            );
        }
    }

    /// Gives every tenant what the pace is for this time. Whether there is one.
    fn step(&self, time: Duration) -> bool {
        let mut state = self.lock();
        let Some(pace) = state.pace else { return false };
        let more = pace * time.as_secs_f64();
        for account in state.tenants.values_mut() {
            account.left = (account.left + more).clamp(-pace * OWED_MAX, pace * SAVED_MAX);
        }
        true
    }

    /// Lets those begin, at every gate, whom the pace does not hold back any longer.
    fn resume(&self) {
        // A gate's lock is never asked for while this one is held.
        let gates: Vec<_> = self.lock().gates.iter().filter_map(|gate| gate.shared.upgrade()).collect();
        for gate in gates {
            gate.resume();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held, and if it did, the figures would still be figures.
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The most that each may have so that all together have `all`: those that want less leave the rest to the others.
fn level(rates: impl Iterator<Item = f64>, all: f64) -> f64 {
    let mut rates: Vec<f64> = rates.collect();
    rates.sort_by(f64::total_cmp);
    let mut left = all;
    for (i, rate) in rates.iter().enumerate() {
        let share = left / (rates.len() - i) as f64;
        if *rate > share {
            return share;
        }
        left -= rate;
    }
    f64::MAX
}

impl State {
    /// Under a pace a tenant may hold as many permits of a gate as fit into it. Of each gate by itself: what waits for
    /// a store that is slow does not stand in the way of logging in (P7).
    fn lets(&self, gate: usize, tenant: TenantId) -> bool {
        let (Some(pace), Some(account)) = (self.pace, self.tenants.get(&tenant)) else { return true };
        let held = account.held.get(gate).copied().unwrap_or(0);
        account.left > 0.0 && f64::from(held) < pace.ceil()
    }

    fn account(&mut self, tenant: TenantId) -> &mut Account {
        let saved = self.pace.map_or(0.0, |pace| pace * SAVED_MAX);
        let gates = self.gates.len();
        let work = || vec![(0, 0.0); gates];
        let new = || Account {
            work: work(),
            used: 0.0,
            rate: 0.0,
            held: vec![0; gates],
            left: saved,
            last: Instant::now(),
        };
        self.tenants.entry(tenant).or_insert_with(new)
    }

    /// Looks at the work of this round.
    fn is_strained(&mut self) -> bool {
        let mut strained = false;
        for (i, gate) in self.gates.iter_mut().enumerate() {
            let works = || self.tenants.values().filter_map(|account| account.work.get(i));
            if works().map(|(count, _)| count).sum::<u32>() < WORK_MIN {
                continue;
            }
            let (mut tenants, mut sum) = (0.0, 0.0);
            for (count, seconds) in works().filter(|(count, _)| *count > 0) {
                tenants += 1.0;
                sum += seconds / f64::from(*count);
            }
            let now = sum / tenants;
            gate.now = if gate.now > 0.0 { gate.now.mul_add(0.7, 0.3 * now) } else { now };
            gate.best = if gate.best > 0.0 { (gate.best * FORGET).min(gate.now) } else { gate.now };
            strained |= gate.now > SLOWER * gate.best;
        }
        strained
    }
}

/// Sets a [`Pace`], until dropped.
#[derive(Debug)]
pub struct Pacer {
    task: JoinHandle<()>,
}

impl Pacer {
    /// Begins.
    pub fn start(pace: Pace) -> Self {
        let task = tokio::spawn(async move {
            let mut round = Instant::now();
            let mut paced = false;
            loop {
                let step = Instant::now();
                tokio::time::sleep(if paced { ROUND / STEPS } else { ROUND }).await;
                if round.elapsed() >= ROUND {
                    pace.round(round.elapsed());
                    round = Instant::now();
                }
                let was_paced = std::mem::replace(&mut paced, pace.step(step.elapsed()));
                if paced || was_paced {
                    pace.resume();
                }
            }
        });
        Self { task }
    }
}

impl Drop for Pacer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FairGate;

    const FAST: Duration = Duration::from_millis(2);
    const SLOW: Duration = Duration::from_millis(6);

    fn tenants<const N: usize>() -> [TenantId; N] {
        std::array::from_fn(|_| TenantId::generate())
    }

    /// A round in which each of these did so much, each time for so long.
    fn round(pace: &Pace, work: &[(TenantId, u32)], took: Duration) {
        for (tenant, times) in work {
            for _ in 0..*times {
                let charged = pace.begin(0, *tenant);
                pace.end(0, *tenant, charged, took);
            }
        }
        pace.round(ROUND);
        pace.step(ROUND);
    }

    fn paced() -> (Pace, FairGate) {
        let pace = Pace::new(2);
        let gate = FairGate::new(100, 100).paced_by(&pace);
        (pace, gate)
    }

    #[test]
    fn a_crowd_is_held_back_while_work_takes_long_and_nobody_else_is() {
        let (pace, _gate) = paced();
        let [crowd, one, other] = tenants();
        round(&pace, &[(crowd, 10), (one, 10), (other, 10)], FAST);
        assert_eq!(pace.current(), None, "nothing is slow");
        for _ in 0..20 {
            round(&pace, &[(crowd, 200), (one, 5), (other, 5)], SLOW);
        }
        let bound = pace.current().expect("the work takes three times what it did");
        assert!(!pace.lets(0, crowd), "it had twelve seconds a second and may have {bound}");
        assert!(pace.lets(0, one) && pace.lets(0, other));
        let stranger = TenantId::generate();
        assert!(pace.lets(0, stranger), "nobody knows ill of it");
        // What does less is not held back for ever.
        for _ in 0..20 {
            round(&pace, &[(crowd, 5), (one, 5), (other, 5)], FAST);
        }
        assert!(pace.lets(0, crowd), "{pace:?}");
        for _ in 0..80 {
            round(&pace, &[(crowd, 5), (one, 5), (other, 5)], FAST);
        }
        assert_eq!(pace.current(), None, "the bound rose until it was none");
    }

    #[test]
    fn what_the_others_leave_is_for_whoever_wants_it() {
        let level = |rates: &[f64]| level(rates.iter().copied(), 6.0);
        for (rates, expected) in [
            (&[0.5, 20.0][..], 5.5),
            (&[20.0, 20.0], 3.0),
            (&[1.0, 20.0, 1.2, 20.0], 1.9),
            (&[1.0, 2.0], f64::MAX),
        ] {
            assert!((level(rates) - expected).abs() < 0.001, "{rates:?}");
        }
        // A tenant beside one that wants little does not stand still for it.
        let pace = Pace::new(6);
        let _gate = FairGate::new(100, 100).paced_by(&pace);
        let [crowd, one] = tenants();
        round(&pace, &[(crowd, 10), (one, 10)], FAST);
        for _ in 0..50 {
            round(&pace, &[(crowd, 200), (one, 5)], SLOW);
        }
        let bound = pace.current().unwrap();
        assert!(bound > 5.0, "{bound}");
    }

    #[test]
    fn a_tenant_alone_is_not_paced() {
        let (pace, _gate) = paced();
        let [alone] = tenants();
        round(&pace, &[(alone, 10)], FAST);
        for _ in 0..20 {
            round(&pace, &[(alone, 200)], SLOW);
        }
        assert_eq!(pace.current(), None);
        assert!(pace.lets(0, alone));
    }

    #[test]
    fn the_bound_is_never_under_what_tenants_have_on_average() {
        let (pace, _gate) = paced();
        let [a, b] = tenants();
        round(&pace, &[(a, 10), (b, 10)], FAST);
        for _ in 0..100 {
            // Three seconds of work a second each: the machine is what it is.
            round(&pace, &[(a, 50), (b, 50)], SLOW);
        }
        let bound = pace.current().unwrap();
        assert!((3.0..4.0).contains(&bound), "{bound}");
        assert!(pace.lets(0, a) && pace.lets(0, b));
    }

    #[test]
    fn one_that_waited_for_a_server_that_hangs_is_not_paid_for_long() {
        let (pace, _gate) = paced();
        let [a, b] = tenants();
        round(&pace, &[(a, 10), (b, 10)], FAST);
        round(&pace, &[(a, 50), (b, 50)], SLOW);
        round(&pace, &[(a, 50), (b, 50)], SLOW);
        round(&pace, &[(a, 50), (b, 50)], SLOW);
        assert!(pace.current().is_some());
        let charged = pace.begin(0, a);
        pace.end(0, a, charged, Duration::from_secs(30));
        pace.step(ROUND);
        assert!(pace.lets(0, a));
    }

    #[tokio::test(start_paused = true)]
    async fn whom_the_pace_held_back_begins_when_it_does_no_longer() {
        let (pace, gate) = paced();
        let [crowd, other] = tenants();
        round(&pace, &[(crowd, 10), (other, 10)], FAST);
        for _ in 0..20 {
            round(&pace, &[(crowd, 200), (other, 5)], SLOW);
        }
        assert!(!pace.lets(0, crowd));
        let waiting = {
            let gate = gate.clone();
            tokio::spawn(async move { gate.acquire(crowd).await.map(drop) })
        };
        tokio::task::yield_now().await;
        assert_eq!(gate.stats().waiting, 1);
        drop(gate.acquire(other).await.unwrap());
        assert_eq!(gate.stats().waiting, 1, "a permit that comes free is not for it yet");
        for _ in 0..10 {
            pace.step(ROUND);
        }
        pace.resume();
        waiting.await.unwrap().unwrap();
        assert_eq!(gate.stats(), crate::FairStats::default());
    }

    /// Permits under a pace that comes and goes, with waiters that give up: none is lost, none is made.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn a_pace_that_comes_and_goes_loses_no_permit() {
        let pace = Pace::new(1);
        let gates = [(); 2].map(|()| FairGate::sharing(6, 2, 1000).paced_by(&pace));
        let tenants = Arc::new(tenants::<3>());
        let tasks: Vec<_> = (0..300_u64)
            .map(|i| {
                let (gate, tenants) = (gates[(i % 2) as usize].clone(), Arc::clone(&tenants));
                tokio::spawn(async move {
                    for turn in 0..20 {
                        let patience = Duration::from_micros((i * 37 + turn * 101) % 3000);
                        let asked = gate.acquire(tenants[(i * i % 3) as usize]);
                        let Ok(Ok(_permit)) = tokio::time::timeout(patience, asked).await else { continue };
                        tokio::time::sleep(Duration::from_micros(i % 500)).await;
                    }
                })
            })
            .collect();
        let rounds = tokio::spawn({
            let pace = pace.clone();
            async move {
                for i in 0.. {
                    for gate in &mut pace.lock().gates {
                        gate.best = 1e-6;
                    }
                    pace.round(ROUND / 10);
                    if i % 5 == 0 {
                        let mut state = pace.lock();
                        state.pace = None;
                        pace.shared.on.store(false, Ordering::Relaxed);
                    }
                    pace.step(ROUND / 10);
                    pace.resume();
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
        });
        for task in tasks {
            task.await.unwrap();
        }
        rounds.abort();
        for gate in &gates {
            assert_eq!(gate.stats(), crate::FairStats::default());
        }
        assert!(pace.lock().tenants.values().all(|account| account.held.iter().all(|held| *held == 0)));
    }
}
