//! Who is logged in on this node, so that an administrator can end a session.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use maildrop::SessionId;
use tokio_util::sync::CancellationToken;

/// The logged-in sessions of a node. Cheap to clone: all share one list.
#[derive(Clone, Debug, Default)]
pub struct Sessions {
    logged_in: Arc<Mutex<HashMap<SessionId, CancellationToken>>>,
}

/// A session's place in the list, for as long as it is logged in.
#[derive(Debug)]
pub(crate) struct LoggedIn {
    sessions: Sessions,
    id: SessionId,
    /// Cancelled when the session shall end.
    pub(crate) ended: CancellationToken,
}

impl Sessions {
    /// Has these sessions end between two commands, with no UPDATE. Those that are not here are none of ours, or
    /// have ended.
    pub fn end(&self, ids: &[String]) {
        if ids.is_empty() {
            return;
        }
        let logged_in = self.lock();
        for ended in ids.iter().filter_map(|id| logged_in.get(&id.parse().ok()?)) {
            ended.cancel();
        }
    }

    pub(crate) fn log_in(&self, id: SessionId) -> LoggedIn {
        let ended = CancellationToken::new();
        self.lock().insert(id, ended.clone());
        LoggedIn { sessions: self.clone(), id, ended }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SessionId, CancellationToken>> {
        // No panic can happen while it is held, so a poisoned list is still a whole one.
        self.logged_in.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for LoggedIn {
    fn drop(&mut self) {
        self.sessions.lock().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_session_named_is_ended() {
        let sessions = Sessions::default();
        let (one, other) = (SessionId::generate(), SessionId::generate());
        let (first, second) = (sessions.log_in(one), sessions.log_in(other));
        sessions.end(&[one.to_string(), "no such session".into()]);
        assert!(first.ended.is_cancelled() && !second.ended.is_cancelled());
        drop((first, second));
        assert!(sessions.lock().is_empty());
        sessions.end(&[one.to_string()]);
    }
}
