//! Locks in memory: the lock table of a cluster of one process, with the leases of its nodes.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use maildrop::{
    Credential, LockToken, MailboxId, NodeId, TenantId,
    port::{OpenRequest, REBUILD_TASK},
};
use time::OffsetDateTime;

/// Who holds which maildrop, and which node lives until when.
#[derive(Debug, Default)]
pub(super) struct Locks {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    held: BTreeMap<(TenantId, MailboxId), Held>,
    leases: HashMap<NodeId, (String, Instant, Duration)>,
    /// Sessions that shall end.
    ended: Vec<(NodeId, String, Instant)>,
    /// When a mailbox with a login delay was last opened.
    opened: HashMap<(TenantId, MailboxId), Instant>,
    /// Who does which housekeeping, until when.
    tasks: HashMap<String, (NodeId, Instant)>,
}

/// A lock and whose it is.
#[derive(Clone, Debug)]
pub(super) struct Held {
    token: LockToken,
    node: NodeId,
    pub(super) session: String,
    pub(super) peer: String,
    pub(super) since: OffsetDateTime,
    /// Who may take it over, while the session's client is silent.
    silent: Option<Credential>,
    /// From whom it is being taken over, until that is done or undone. Whoever gives the lock up meanwhile is here no
    /// longer, and does not get it back.
    former: Option<Box<Held>>,
}

/// What became of asking for a lock.
#[derive(Clone, Copy, Debug)]
pub(super) enum Taken {
    /// It is held; whether it is taken over from one whose client is silent, by [`Locks::keep`] or [`Locks::untake`].
    Yes {
        over: bool,
    },
    InUse,
    TooSoon,
    TooManySessions,
}

/// Nodes are told for so long of sessions that shall end.
const ENDED_FOR: Duration = Duration::from_mins(1);
/// Times of logins are forgotten when there are more than this, the oldest first.
const OPENED_MAX: usize = 100_000;

impl Locks {
    /// Says that `node` lives for `ttl` from now: how many nodes do, and which of its sessions shall end.
    pub(super) fn heartbeat(&self, node: NodeId, name: &str, ttl: Duration) -> (u32, Vec<String>) {
        let mut state = self.state();
        let now = Instant::now();
        state.leases.insert(node, (name.to_owned(), now + ttl, ttl));
        state.ended.retain(|(_, _, at)| *at + ENDED_FOR > now);
        let nodes = state.leases.values().filter(|(_, until, _)| *until > now).count();
        let ended = state.ended.iter().filter(|(of, ..)| *of == node).map(|(_, session, _)| session.clone());
        (nodes as u32, ended.collect())
    }

    /// Takes the lock, unless a live node's session holds it, or a limit stands in the way.
    pub(super) fn take(&self, request: &OpenRequest) -> Taken {
        let mut state = self.state();
        let now = Instant::now();
        let key = (request.tenant, request.mailbox);
        // Whoever asks lives: a machine that slept must not lose its sessions' locks to itself.
        if let Some((_, until, ttl)) = state.leases.get_mut(&request.node) {
            *until = now + *ttl;
        }
        if let Some(held) = state.held.get(&key) {
            if held.token == request.token {
                return Taken::Yes { over: false };
            }
            let lives = state.leases.get(&held.node).is_some_and(|(_, until, _)| *until > now);
            if lives && held.silent != Some(request.credential) {
                return Taken::InUse;
            }
        }
        let last = state.opened.get(&key);
        if last.is_some_and(|last| now.duration_since(*last) < request.login_delay) {
            return Taken::TooSoon;
        }
        if let Some(most) = request.sessions_max {
            let range = (request.tenant, MailboxId::from_uuid(uuid::Uuid::nil()))..;
            let of_tenant = state.held.range(range).take_while(|((tenant, _), _)| *tenant == request.tenant);
            // A lock that is taken over is one more to none.
            if of_tenant.filter(|(of, _)| **of != key).count() >= most as usize {
                return Taken::TooManySessions;
            }
        }
        if !request.login_delay.is_zero() {
            if state.opened.len() >= OPENED_MAX {
                let oldest = state.opened.iter().min_by_key(|(_, at)| **at).map(|(key, _)| *key);
                oldest.and_then(|key| state.opened.remove(&key));
            }
            state.opened.insert(key, now);
        }
        let former = state.held.remove(&key).filter(|former| former.silent.is_some());
        let over = former.is_some();
        state.held.insert(
            key,
            Held {
                token: request.token,
                node: request.node,
                session: request.session.clone(),
                peer: request.peer.clone(),
                since: OffsetDateTime::now_utc(),
                silent: None,
                former: former.map(Box::new),
            },
        );
        Taken::Yes { over }
    }

    /// A taking stays: whoever it was taken over from is forgotten.
    pub(super) fn keep(&self, tenant: TenantId, mailbox: MailboxId, token: LockToken) {
        let mut state = self.state();
        if let Some(held) = state.held.get_mut(&(tenant, mailbox)).filter(|held| held.token == token) {
            held.former = None;
        }
    }

    /// Undoes a taking: whoever it was taken over from has it again, unless it gave up meanwhile.
    pub(super) fn untake(&self, tenant: TenantId, mailbox: MailboxId, token: LockToken) {
        let mut state = self.state();
        if state.held.get(&(tenant, mailbox)).is_some_and(|held| held.token == token)
            && let Some(held) = state.held.remove(&(tenant, mailbox))
            && let Some(former) = held.former
        {
            state.held.insert((tenant, mailbox), *former);
        }
    }

    /// Notes who may take the lock that `token` holds over, if anybody; whether it does hold it.
    pub(super) fn note_silence(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        token: LockToken,
        silent: Option<Credential>,
    ) -> bool {
        let mut state = self.state();
        let held = state.held.get_mut(&(tenant, mailbox)).filter(|held| held.token == token);
        held.map(|held| held.silent = silent).is_some()
    }

    /// Gives the lock back, if `token` holds it.
    pub(super) fn release(&self, tenant: TenantId, mailbox: MailboxId, token: LockToken) {
        let mut state = self.state();
        let Some(held) = state.held.get_mut(&(tenant, mailbox)) else { return };
        if held.token == token {
            state.held.remove(&(tenant, mailbox));
        } else if held.former.as_ref().is_some_and(|former| former.token == token) {
            held.former = None;
        }
    }

    /// Takes the locks of a mailbox, or of a whole tenant, away, and has those sessions ended.
    pub(super) fn end(&self, tenant: TenantId, mailbox: Option<MailboxId>) {
        let state = &mut *self.state();
        let ended = &mut state.ended;
        state.held.retain(|(t, m), held| {
            let stays = *t != tenant || mailbox.is_some_and(|mailbox| mailbox != *m);
            if !stays {
                ended.push((held.node, held.session.clone(), Instant::now()));
            }
            stays
        });
    }

    /// Takes the lock away from the session that held it, if it still does, and has it ended; whether it did.
    pub(super) fn end_held(&self, tenant: TenantId, mailbox: MailboxId, held: &Held) -> bool {
        let mut state = self.state();
        let still = state.held.get(&(tenant, mailbox)).is_some_and(|now| now.token == held.token);
        if still {
            state.held.remove(&(tenant, mailbox));
            state.ended.push((held.node, held.session.clone(), Instant::now()));
        }
        still
    }

    /// The mailbox a session has open.
    pub(super) fn session(&self, tenant: TenantId, session: &str) -> Option<(MailboxId, Held)> {
        let state = self.state();
        let mut held = state.held.iter();
        held.find(|((t, _), held)| *t == tenant && held.session == session)
            .map(|((_, mailbox), held)| (*mailbox, held.clone()))
    }

    /// Sessions in order of tenant and mailbox, with the names of their nodes.
    pub(super) fn sessions(
        &self,
        tenant: Option<TenantId>,
        after: Option<(TenantId, MailboxId)>,
        limit: usize,
    ) -> Vec<((TenantId, MailboxId), Held, String)> {
        let state = self.state();
        let named = |(key, held): (&(TenantId, MailboxId), &Held)| {
            let name = state.leases.get(&held.node).map(|(name, ..)| name.clone()).unwrap_or_default();
            (*key, held.clone(), name)
        };
        let wanted = state.held.iter().filter(|((t, m), _)| {
            tenant.is_none_or(|tenant| tenant == *t) && after.is_none_or(|after| (*t, *m) > after)
        });
        wanted.take(limit).map(named).collect()
    }

    /// Takes, or keeps, a task.
    pub(super) fn take_task(&self, task: &str, node: NodeId, ttl: Duration) -> bool {
        let mut state = self.state();
        let now = Instant::now();
        let free_of = |task| {
            state
                .tasks
                .get(task)
                .is_none_or(|(holder, until): &(NodeId, Instant)| *holder == node || *until <= now)
        };
        let free = free_of(task) && free_of(REBUILD_TASK);
        if free {
            state.tasks.insert(task.to_owned(), (node, now + ttl));
        }
        free
    }

    /// Ends a node's life and frees its locks.
    pub(super) fn retire(&self, node: NodeId) {
        let mut state = self.state();
        state.leases.remove(&node);
        state.held.retain(|_, held| held.node != node);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No panic can happen while it is held, so a poisoned state is still a whole one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(tenant: TenantId, mailbox: MailboxId, node: NodeId) -> OpenRequest {
        OpenRequest {
            tenant,
            mailbox,
            tenant_revision: 1,
            credential_version: 1,
            credential: Credential::Password,
            token: LockToken::generate(),
            node,
            session: "s".into(),
            peer: "p".into(),
            login_delay: Duration::ZERO,
            sessions_max: None,
        }
    }

    #[test]
    fn a_taking_that_is_undone_gives_back_what_was_not_given_up() {
        let (tenant, mailbox, node) = (TenantId::generate(), MailboxId::generate(), NodeId::generate());
        for gives_up in [false, true] {
            let locks = Locks::default();
            locks.heartbeat(node, "n", Duration::from_mins(1));
            let [silent, comer, other] = [(); 3].map(|()| request(tenant, mailbox, node));
            assert!(matches!(locks.take(&silent), Taken::Yes { over: false }));
            assert!(locks.note_silence(tenant, mailbox, silent.token, Some(Credential::Password)));
            assert!(matches!(locks.take(&comer), Taken::Yes { over: true }));
            // What the former holder is told meanwhile has it go.
            assert!(!locks.note_silence(tenant, mailbox, silent.token, None));
            if gives_up {
                locks.release(tenant, mailbox, silent.token);
            }
            locks.untake(tenant, mailbox, comer.token);
            assert_eq!(locks.note_silence(tenant, mailbox, silent.token, None), !gives_up);
            let other = OpenRequest { credential: Credential::Certificate, ..other };
            assert_eq!(
                matches!(locks.take(&other), Taken::Yes { .. }),
                gives_up,
                "it is free or held, not lost"
            );
        }
    }
}
