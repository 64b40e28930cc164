//! Locks in memory: the lock table of a cluster of one process, with the leases of its nodes.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use maildrop::{LockToken, MailboxId, NodeId, TenantId};

/// Who holds which maildrop, and which node lives until when.
#[derive(Debug, Default)]
pub(super) struct Locks {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    held: HashMap<(TenantId, MailboxId), (LockToken, NodeId)>,
    leases: HashMap<NodeId, (Instant, Duration)>,
}

impl Locks {
    /// Says that `node` lives for `ttl` from now.
    pub(super) fn heartbeat(&self, node: NodeId, ttl: Duration) {
        self.state().leases.insert(node, (Instant::now() + ttl, ttl));
    }

    /// Takes the lock; `false` when a live node's session holds it.
    pub(super) fn take(&self, tenant: TenantId, mailbox: MailboxId, token: LockToken, node: NodeId) -> bool {
        let mut state = self.state();
        let now = Instant::now();
        // Whoever asks lives: a machine that slept must not lose its sessions' locks to itself.
        if let Some((until, ttl)) = state.leases.get_mut(&node) {
            *until = now + *ttl;
        }
        let holder = state.held.get(&(tenant, mailbox)).copied();
        let free = holder.is_none_or(|(holder, holder_node)| {
            holder == token || state.leases.get(&holder_node).is_none_or(|(until, _)| *until <= now)
        });
        if free {
            state.held.insert((tenant, mailbox), (token, node));
        }
        free
    }

    /// Whether `token` holds the lock.
    pub(super) fn holds(&self, tenant: TenantId, mailbox: MailboxId, token: LockToken) -> bool {
        self.state().held.get(&(tenant, mailbox)).is_some_and(|(holder, _)| *holder == token)
    }

    /// Gives the lock back, if `token` holds it.
    pub(super) fn release(&self, tenant: TenantId, mailbox: MailboxId, token: LockToken) {
        let mut state = self.state();
        if state.held.get(&(tenant, mailbox)).is_some_and(|(holder, _)| *holder == token) {
            state.held.remove(&(tenant, mailbox));
        }
    }

    /// Takes the locks of a mailbox, or of a whole tenant, away from whoever holds them.
    pub(super) fn revoke(&self, tenant: TenantId, mailbox: Option<MailboxId>) {
        self.state().held.retain(|(t, m), _| *t != tenant || mailbox.is_some_and(|mailbox| mailbox != *m));
    }

    /// Ends a node's life and frees its locks.
    pub(super) fn retire(&self, node: NodeId) {
        let mut state = self.state();
        state.leases.remove(&node);
        state.held.retain(|_, (_, holder)| *holder != node);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No panic can happen while it is held, so a poisoned state is still a whole one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
