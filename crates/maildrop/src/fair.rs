//! Work on a shared resource, bounded, and shared fairly between tenants (P5, P6).
//!
//! ```text
//!   acquire ── a permit is free ─────────────────────────────► FairPermit ── drop ──┐
//!      └─ none is: wait in the tenant's queue ◄── the tenant that holds the fewest ──┘
//! ```

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

use crate::TenantId;

/// Bounds how much is done at once. While permits are free whoever asks gets one; when none is, those who
/// wait queue up by tenant, and a permit that comes free goes to the waiting tenant that holds the fewest:
/// a tenant that asks for fifty times its share waits fifty times longer, and the others do not.
///
/// A tenant that neither works nor waits costs nothing.
#[derive(Clone, Debug)]
pub struct FairGate {
    shared: Arc<Shared>,
}

/// Leave to work, until dropped.
#[derive(Debug)]
pub struct FairPermit {
    /// `None` once the permit was passed on.
    shared: Option<Arc<Shared>>,
    tenant: TenantId,
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
    queue_per_tenant: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    in_use: usize,
    waiting: usize,
    /// Those that hold permits or wait.
    tenants: HashMap<TenantId, Share>,
    /// Those that wait, by who comes next: fewest permits first, and among these whoever was seen to the
    /// longest ago.
    next: BTreeMap<Turn, TenantId>,
    /// Counts up with each event; orders waiters and turns.
    clock: u64,
}

/// Permits held, and since when (by [`State::clock`]) the tenant has got or given back none. The latter is
/// no other's, so turns are unique.
type Turn = (usize, u64);

#[derive(Debug)]
struct Share {
    turn: Turn,
    /// By age.
    queue: BTreeMap<u64, oneshot::Sender<FairPermit>>,
}

impl FairGate {
    /// A gate that lets `capacity` work at once (one at least) and `queue_per_tenant` of each tenant wait.
    pub fn new(capacity: usize, queue_per_tenant: usize) -> Self {
        let state = Mutex::default();
        Self { shared: Arc::new(Shared { capacity: capacity.max(1), queue_per_tenant, state }) }
    }

    /// Waits for a permit. Dropping the future gives the place in the queue up, or the permit back.
    pub async fn acquire(&self, tenant: TenantId) -> Result<FairPermit, Overloaded> {
        let (mut place, turn) = {
            let mut state = self.shared.lock();
            if state.in_use < self.shared.capacity {
                // Nobody waits while permits are free.
                state.in_use += 1;
                state.change(tenant, |(held, _), now| (held + 1, now));
                return Ok(FairPermit { shared: Some(Arc::clone(&self.shared)), tenant });
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

    /// Gives `tenant`'s permit to whoever comes next.
    fn pass_on(self: Arc<Self>, mut tenant: TenantId) {
        loop {
            let Some((next, waiter)) = self.lock().release(tenant) else { return };
            match waiter.send(FairPermit { shared: Some(Arc::clone(&self)), tenant: next }) {
                Ok(()) => return,
                // It has just gone away: the permit is still to be passed on.
                Err(mut permit) => {
                    permit.shared = None;
                    tenant = next;
                }
            }
        }
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
        let new = || Share { turn: (0, id), queue: BTreeMap::new() };
        let share = self.tenants.entry(tenant).or_insert_with(new);
        share.queue.insert(id, tell);
        self.next.insert(share.turn, tenant);
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

    /// Takes `tenant`'s permit back, and gives it to who comes next, if anybody waits.
    fn release(&mut self, tenant: TenantId) -> Option<(TenantId, oneshot::Sender<FairPermit>)> {
        self.change(tenant, |(held, _), now| (held.saturating_sub(1), now));
        let next = self.next.first_key_value().map(|(_, tenant)| *tenant);
        let waiter = next.and_then(|next| {
            let (_, waiter) = self.tenants.get_mut(&next)?.queue.pop_first()?;
            self.change(next, |(held, _), now| (held + 1, now));
            Some((next, waiter))
        });
        match waiter {
            Some(_) => self.waiting -= 1,
            None => self.in_use -= 1,
        }
        waiter
    }

    /// Changes a tenant's turn, and keeps all that depends on it.
    fn change(&mut self, tenant: TenantId, turn: impl FnOnce(Turn, u64) -> Turn) {
        self.clock += 1;
        let now = self.clock;
        let share =
            self.tenants.entry(tenant).or_insert_with(|| Share { turn: (0, now), queue: BTreeMap::new() });
        self.next.remove(&share.turn);
        share.turn = turn(share.turn, now);
        if !share.queue.is_empty() {
            self.next.insert(share.turn, tenant);
        } else if share.turn.0 == 0 {
            self.tenants.remove(&tenant);
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
            shared.pass_on(self.tenant);
        }
    }
}

#[cfg(test)]
mod tests;
