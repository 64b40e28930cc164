//! Work on a shared resource, bounded, and shared fairly between tenants (P5, P6).
//!
//! ```text
//!   acquire ── a permit is free ─────────────────────────────► FairPermit ── drop ──┐
//!      └─ none is: wait in the tenant's queue ◄── the tenant that holds the fewest ──┤
//!                             Pace ◄── how long it was held, of all gates together ──┘
//! ```

mod pace;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

pub use pace::{Pace, Pacer};

use tokio::sync::oneshot;

use crate::TenantId;

/// Bounds how much is done at once. While permits are free whoever asks gets one; when none is, those who
/// wait queue up by tenant, and a permit that comes free goes to the waiting tenant that holds the fewest:
/// a tenant that asks for fifty times its share waits fifty times longer, and the others do not.
///
/// With [`sharing`](Self::sharing), a tenant gets no more than its share of the permits even while some are
/// free, as long as others were at work a moment ago: what it does not begin cannot slow them down.
///
/// With [`paced_by`](Self::paced_by), a tenant that had more than its part of the node's time waits while the node
/// is strained, whatever is free.
///
/// A tenant that neither works nor waits, nor did a moment ago, costs nothing.
#[derive(Clone, Debug)]
pub struct FairGate {
    shared: Arc<Shared>,
}

/// A tenant counts as at work for so long after it was.
const ACTIVE: Duration = Duration::from_secs(1);

/// Longest wait for a [`FairGate::turn`].
const TURN_MAX: Duration = Duration::from_secs(10);

/// Leave to work, until dropped.
#[derive(Debug)]
pub struct FairPermit {
    /// `None` once the permit was passed on.
    shared: Option<Arc<Shared>>,
    tenant: TenantId,
    since: Instant,
    /// What the pace has charged for it already, in seconds.
    charged: f64,
}

/// The tenant has as many waiting as it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many wait for their turn")]
pub struct Overloaded;

/// How busy a gate is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FairStats {
    /// How many wait.
    pub waiting: usize,
    /// How many permits are held.
    pub in_use: usize,
}

#[derive(Debug)]
struct Shared {
    capacity: usize,
    /// Permits that anybody gets, whatever it holds.
    unshared: usize,
    queue_per_tenant: usize,
    /// And which of its gates this is. Its lock may be taken while `state`'s is held; never the other way round.
    pace: Option<(Pace, usize)>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    in_use: usize,
    waiting: usize,
    /// Those that hold permits or wait, or did a moment ago.
    tenants: HashMap<TenantId, Share>,
    /// Whether it matters who was at work a moment ago.
    sharing: bool,
    /// Those that did a moment ago, by when they ceased to.
    idle: BTreeSet<(Instant, TenantId)>,
    /// Those that wait, by who comes next: fewest permits first, and among these whoever was seen to the
    /// longest ago.
    next: BTreeMap<Turn, TenantId>,
    /// Those that wait and are not in `next`: the pace does not let them begin yet.
    ahead: BTreeSet<TenantId>,
    /// Counts up with each event; orders waiters and turns.
    clock: u64,
}

/// Permits held, and since when (by [`State::clock`]) the tenant has got or given back none. The latter is
/// no other's, so turns are unique.
type Turn = (usize, u64);

#[derive(Debug)]
struct Share {
    turn: Turn,
    /// Since when it neither holds nor waits.
    idle: Option<Instant>,
    /// By age.
    queue: BTreeMap<u64, oneshot::Sender<FairPermit>>,
}

/// In whose turn a domain's tenant is looked up: whose it is is not known before.
pub fn party_of(domain: &str) -> TenantId {
    let mut id = [0; 16];
    id.copy_from_slice(&blake3::hash(domain.as_bytes()).as_bytes()[..16]);
    TenantId::from_uuid(uuid::Uuid::from_bytes(id))
}

impl FairGate {
    /// A gate that lets `capacity` work at once (one at least) and `queue_per_tenant` of each tenant wait.
    pub fn new(capacity: usize, queue_per_tenant: usize) -> Self {
        Self::sharing(capacity, capacity, queue_per_tenant)
    }

    /// A gate that lets `capacity` work at once, of which the first `unshared` are anybody's; beyond these each
    /// tenant gets its share, by how many tenants are at work or were within a second.
    pub fn sharing(capacity: usize, unshared: usize, queue_per_tenant: usize) -> Self {
        let capacity = capacity.max(1);
        let unshared = unshared.clamp(1, capacity);
        let state = Mutex::new(State { sharing: unshared < capacity, ..State::default() });
        Self { shared: Arc::new(Shared { capacity, unshared, queue_per_tenant, pace: None, state }) }
    }

    /// The same, unused as yet, with a pace that it keeps together with others. [`Pacer`] sets it.
    #[must_use]
    pub fn paced_by(self, pace: &Pace) -> Self {
        let Shared { capacity, unshared, queue_per_tenant, .. } = *self.shared;
        let shared = Arc::new_cyclic(|shared| Shared {
            capacity,
            unshared,
            queue_per_tenant,
            pace: Some((pace.clone(), pace.add(shared.clone()))),
            state: Mutex::new(State { sharing: unshared < capacity, ..State::default() }),
        });
        Self { shared }
    }

    /// Waits for a permit. Dropping the future gives the place in the queue up, or the permit back.
    pub async fn acquire(&self, tenant: TenantId) -> Result<FairPermit, Overloaded> {
        let (mut place, turn) = {
            let mut state = self.shared.lock();
            state.forget_idle();
            if self.shared.paces(tenant) && state.grants(tenant, &self.shared) {
                state.in_use += 1;
                state.change(tenant, |(held, _), now| (held + 1, now));
                return Ok(FairPermit::new(&self.shared, tenant));
            }
            let (tell, turn) = oneshot::channel();
            let id = state.enqueue(tenant, self.shared.queue_per_tenant, tell)?;
            (Place { shared: &self.shared, tenant, id: Some(id) }, turn)
        };
        // The sender is dropped by `Place` alone, which lives as long as this.
        let permit = turn.await.map_err(|_| Overloaded);
        place.id = None;
        permit
    }

    /// As [`acquire`](Self::acquire), for so long as a client can be kept waiting: `None` where too many wait,
    /// or the turn does not come within ten seconds.
    pub async fn turn(&self, tenant: TenantId) -> Option<FairPermit> {
        self.turn_within(TURN_MAX, tenant).await
    }

    /// As [`turn`](Self::turn), with another bound.
    pub async fn turn_within(&self, max: Duration, tenant: TenantId) -> Option<FairPermit> {
        tokio::time::timeout(max, self.acquire(tenant)).await.ok()?.ok()
    }

    /// How busy it is now.
    pub fn stats(&self) -> FairStats {
        let state = self.shared.lock();
        FairStats { waiting: state.waiting, in_use: state.in_use }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held, and if it did, the counters would still be whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the tenant is not ahead of the pace.
    fn paces(&self, tenant: TenantId) -> bool {
        self.pace.as_ref().is_none_or(|(pace, gate)| pace.lets(*gate, tenant))
    }

    /// Takes `tenant`'s permit back, and gives what is free to those who come next.
    fn give_back(self: &Arc<Self>, tenant: TenantId) {
        let waiters = self.lock().release(tenant, self);
        self.give(waiters);
    }

    /// Lets those begin whom the pace held back and does no longer.
    fn resume(self: &Arc<Self>) {
        let waiters = {
            let mut state = self.lock();
            state.forget_idle();
            state.resume();
            state.admit(self)
        };
        self.give(waiters);
    }

    /// Gives permits, counted already, to those who wait for them; those of waiters that went away to the next.
    fn give(self: &Arc<Self>, mut waiters: Vec<(TenantId, oneshot::Sender<FairPermit>)>) {
        while let Some((tenant, waiter)) = waiters.pop() {
            if let Err(mut permit) = waiter.send(FairPermit::new(self, tenant)) {
                // It has just gone away: the permit is still to be given back.
                permit.shared = None;
                if let Some((pace, gate)) = &self.pace {
                    pace.cancel(*gate, tenant, permit.charged);
                }
                waiters.extend(self.lock().release(tenant, self));
            }
        }
    }
}

impl FairPermit {
    fn new(shared: &Arc<Shared>, tenant: TenantId) -> Self {
        let charged = shared.pace.as_ref().map_or(0.0, |(pace, gate)| pace.begin(*gate, tenant));
        Self { shared: Some(Arc::clone(shared)), tenant, since: Instant::now(), charged }
    }
}

impl State {
    fn enqueue(
        &mut self,
        tenant: TenantId,
        limit: usize,
        tell: oneshot::Sender<FairPermit>,
    ) -> Result<u64, Overloaded> {
        self.clock += 1;
        let id = self.clock;
        let waiting = self.tenants.get(&tenant).map_or(0, |share| share.queue.len());
        if waiting >= limit {
            return Err(Overloaded);
        }
        // One that was not here queues up behind those that are, whatever it had before.
        let new = || Share { turn: (0, id), idle: None, queue: BTreeMap::new() };
        let share = self.tenants.entry(tenant).or_insert_with(new);
        if let Some(since) = share.idle.take() {
            self.idle.remove(&(since, tenant));
        }
        share.queue.insert(id, tell);
        if !self.ahead.contains(&tenant) {
            self.next.insert(share.turn, tenant);
        }
        self.waiting += 1;
        Ok(id)
    }

    /// Takes a waiter that went away out of its queue, if it is still there.
    fn forget(&mut self, tenant: TenantId, id: u64) {
        let Some(share) = self.tenants.get_mut(&tenant) else { return };
        if share.queue.remove(&id).is_some() {
            self.waiting -= 1;
            self.change(tenant, |turn, _| turn);
        }
    }

    /// Takes `tenant`'s permit back; those who come next, each of whom has a permit now.
    fn release(&mut self, tenant: TenantId, gate: &Shared) -> Vec<(TenantId, oneshot::Sender<FairPermit>)> {
        self.forget_idle();
        self.in_use = self.in_use.saturating_sub(1);
        // What it gave back may be what it waited for.
        self.ahead.remove(&tenant);
        self.change(tenant, |(held, _), now| (held.saturating_sub(1), now));
        self.admit(gate)
    }

    /// Those who come next, each of whom has a permit now.
    fn admit(&mut self, gate: &Shared) -> Vec<(TenantId, oneshot::Sender<FairPermit>)> {
        let mut waiters = Vec::new();
        while let Some((turn, next)) = self.next.first_key_value().map(|(turn, tenant)| (*turn, *tenant))
            && self.grants(next, gate)
        {
            if !gate.paces(next) {
                // Until the next round, and with no look at it before: there may be many.
                self.next.remove(&turn);
                self.ahead.insert(next);
                continue;
            }
            let waiter = self.tenants.get_mut(&next).and_then(|share| share.queue.pop_first());
            let Some((_, waiter)) = waiter else { break };
            self.waiting -= 1;
            self.in_use += 1;
            self.change(next, |(held, _), now| (held + 1, now));
            waiters.push((next, waiter));
        }
        waiters
    }

    /// Whether `tenant` may have one more permit. Whoever holds the fewest of those that wait is the first to
    /// be asked for, so that where it may not, none of them may.
    fn grants(&self, tenant: TenantId, gate: &Shared) -> bool {
        if self.in_use < gate.unshared {
            return true;
        }
        let share = self.tenants.get(&tenant);
        let held = share.map_or(0, |share| share.turn.0);
        let active = self.tenants.len() + usize::from(share.is_none());
        self.in_use < gate.capacity && held < (gate.capacity / active.max(1)).max(1)
    }

    /// Lets those that were ahead of the pace queue up again.
    fn resume(&mut self) {
        for tenant in std::mem::take(&mut self.ahead) {
            if let Some(share) = self.tenants.get(&tenant)
                && !share.queue.is_empty()
            {
                self.next.insert(share.turn, tenant);
            }
        }
    }

    /// Forgets those that have done nothing for a while.
    fn forget_idle(&mut self) {
        while let Some((since, tenant)) = self.idle.first().copied()
            && since.elapsed() >= ACTIVE
        {
            self.idle.remove(&(since, tenant));
            self.tenants.remove(&tenant);
        }
    }

    /// Changes a tenant's turn, and keeps all that depends on it.
    fn change(&mut self, tenant: TenantId, turn: impl FnOnce(Turn, u64) -> Turn) {
        self.clock += 1;
        let now = self.clock;
        let new = || Share { turn: (0, now), idle: None, queue: BTreeMap::new() };
        let share = self.tenants.entry(tenant).or_insert_with(new);
        self.next.remove(&share.turn);
        if let Some(since) = share.idle.take() {
            self.idle.remove(&(since, tenant));
        }
        share.turn = turn(share.turn, now);
        if share.queue.is_empty() {
            self.ahead.remove(&tenant);
        }
        if !share.queue.is_empty() {
            if !self.ahead.contains(&tenant) {
                self.next.insert(share.turn, tenant);
            }
        } else if share.turn.0 == 0 && !self.sharing {
            self.tenants.remove(&tenant);
        } else if share.turn.0 == 0 {
            let since = Instant::now();
            share.idle = Some(since);
            self.idle.insert((since, tenant));
        }
    }
}

/// A place in a queue, given up when dropped.
struct Place<'a> {
    shared: &'a Shared,
    tenant: TenantId,
    /// `None` once it led to a permit.
    id: Option<u64>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.shared.lock().forget(self.tenant, id);
        }
    }
}

impl Drop for FairPermit {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.take() {
            if let Some((pace, gate)) = &shared.pace {
                pace.end(*gate, self.tenant, self.charged, self.since.elapsed());
            }
            shared.give_back(self.tenant);
        }
    }
}

#[cfg(test)]
mod tests;
