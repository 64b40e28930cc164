//! How much of everything is done.

use std::{sync::Arc, time::Duration};

use super::storage::CROWD;
use crate::load::mail::Mail;

/// Sessions or connections at once, where nothing else is said.
pub(super) const WORKERS: usize = 16;
/// Sessions that fetch realistic mail at once.
pub(super) const READERS: usize = 8;

/// The amounts.
#[derive(Debug)]
pub(super) struct Plan {
    /// How long a scenario goes on that is bounded by time.
    pub(super) time: Duration,
    /// Messages that each maildrop is given before it is fetched.
    pub(super) messages: u64,
    quick: bool,
    pub(super) realistic: Arc<Vec<Mail>>,
    pub(super) small: Arc<Vec<Mail>>,
    pub(super) middle: Arc<Vec<Mail>>,
}

impl Plan {
    pub(super) fn new(quick: bool) -> Self {
        let (seconds, messages) = if quick { (1.2, 12) } else { (10.0, 60) };
        Self {
            time: Duration::from_secs_f64(seconds),
            messages,
            quick,
            realistic: Arc::new(Mail::realistic(400, 2026)),
            small: Arc::new(Mail::sized(100, 2_000, 2)),
            middle: Arc::new(Mail::sized(100, 20_000, 20)),
        }
    }
}

impl Plan {
    /// Idle sessions at once.
    pub(super) fn idle(&self) -> usize {
        if self.quick { 50 } else { 1000 }
    }

    /// Whether only to see that everything runs.
    pub(super) fn is_quick(&self) -> bool {
        self.quick
    }
}

/// A mailbox of a kind.
pub(super) fn mailbox(kind: &str, number: usize) -> String {
    format!("{kind}{number:02}")
}

/// Every mailbox that is used: those that are polled stay empty, those of `in` are delivered to, the others are
/// filled and then fetched from.
pub(super) fn mailboxes() -> Vec<String> {
    let kinds = [
        ("poll", WORKERS),
        ("in", WORKERS),
        ("small", WORKERS),
        ("middle", WORKERS),
        ("real", READERS),
        ("crowd", CROWD),
        ("wide", CROWD),
        ("alone", 1),
        ("mixed", 1),
    ];
    kinds.iter().flat_map(|(kind, count)| (0..*count).map(move |number| mailbox(kind, number))).collect()
}
