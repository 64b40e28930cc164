//! Whether a client that says nothing is still there.
//!
//! A client that has lost its network cannot say so, and neither can it be asked: POP3 lets a server say nothing of its
//! own. The kernel can. It asks an idle peer by keepalive, a busy one by sending again what was not acknowledged, and
//! knows when it last had an answer (tcp(7), `TCP_INFO`). A client that thinks, or reads slowly, or stands still
//! answers; only one whose machine or way to us is gone does not.
//!
//! ```text
//!   heard ── nothing said, nothing answered for `after` ──► silent ── noted in the lock's row
//!     ▲                                                        │        whoever comes with the same credential
//!     └──────────── it answers, or says something ─────────────┘        takes over: this session ends
//! ```

use std::time::Duration;

use maildrop::Silence;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout},
};
use tracing::{debug, info, warn};

use crate::tcp_info::Answers;

/// Shortest time between two looks.
const LOOK_PAUSE_MIN: Duration = Duration::from_millis(250);
/// A peer that vanished is noticed after about so long, whoever waits for it or not.
const GIVEN_UP_AFTER: Duration = Duration::from_mins(2);
/// Longest time between two questions to a peer.
const QUESTION_PAUSE_MAX: Duration = Duration::from_secs(20);
/// What was noted and never answered for may still come to be for so long: a statement that takes longer undoes itself.
const DOUBT: Duration = Duration::from_secs(30);
/// Longest time that the client's next command waits for the note to be taken back.
const NOTE_TIMEOUT: Duration = Duration::from_secs(20);

/// Watches whether the client of a session is silent, and notes it of the session's lock.
#[derive(Debug)]
pub(crate) struct Watch {
    after: Duration,
    lock: Silence,
    /// Whether the lock's row may say that it is silent.
    noted: bool,
    /// Until then a note may come to be whose answer was lost.
    doubt: Option<Instant>,
    /// The lock is another session's.
    lost: bool,
    next: Instant,
}

/// The lock was taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lost;

impl Watch {
    /// Watches the client behind `stream`, which is silent after `after`.
    pub(crate) fn new(after: Duration, lock: Silence, stream: &TcpStream) -> Self {
        // A socket that refuses the option is asked as all are, and found out later.
        let _ = SockRef::from(stream).set_tcp_keepalive(&questions(after));
        Self { after, lock, noted: false, doubt: None, lost: false, next: Instant::now() + after }
    }

    /// When to look next.
    pub(crate) fn next(&self) -> Instant {
        self.next
    }

    /// Looks whether the client answers, and notes what is new.
    pub(crate) async fn look(&mut self, stream: &TcpStream) {
        let heard = Answers::of(stream);
        let silent = heard.as_ref().is_some_and(|heard| heard.is_silent(self.after));
        // It cannot have been silent for long enough before then.
        let left = heard.map_or(self.after, |heard| self.after.saturating_sub(heard.last));
        let pause = left.max(self.after / 8).max(LOOK_PAUSE_MIN);
        self.next = Instant::now() + pause;
        // What was noted without an answer is noted again.
        let is_known = silent == self.noted && !(silent && self.doubt.is_some());
        if self.lost || is_known {
            return;
        }
        if silent {
            debug!("client is silent: its maildrop can be taken over");
            self.note_silent().await;
        } else {
            let _ = self.heard().await;
        }
    }

    /// The client said something: takes back what was noted, before it is answered.
    pub(crate) async fn heard(&mut self) -> Result<(), Lost> {
        if self.lost {
            return Err(Lost);
        }
        if !self.noted {
            return Ok(());
        }
        match timeout(NOTE_TIMEOUT, self.lock.note(false)).await {
            Ok(Ok(true)) => {
                self.doubt = self.doubt.filter(|doubt| Instant::now() < *doubt);
                self.noted = self.doubt.is_some();
                Ok(())
            }
            Ok(Ok(false)) => {
                info!("maildrop was taken over while the client was silent");
                self.lost = true;
                Err(Lost)
            }
            // What can be read is read on (P7); nothing is committed without the lock.
            Ok(Err(error)) => {
                warn!(error = &error as &dyn std::error::Error, "silence of a client is still noted");
                Ok(())
            }
            Err(_) => {
                warn!("silence of a client is still noted: the index does not answer");
                Ok(())
            }
        }
    }

    async fn note_silent(&mut self) {
        // Before it is: this may be given up on in the middle.
        self.noted = true;
        self.doubt = Some(Instant::now() + DOUBT);
        match timeout(NOTE_TIMEOUT, self.lock.note(true)).await {
            Ok(Ok(held)) => {
                self.doubt = None;
                // The client is told when it says something.
                self.lost = !held;
            }
            Ok(Err(error)) => {
                debug!(error = &error as &dyn std::error::Error, "silence of a client could not be noted");
            }
            Err(_) => debug!("silence of a client could not be noted: the index does not answer"),
        }
    }
}

/// How the kernel asks a peer that is idle: so that there are some questions until it counts as silent.
fn questions(after: Duration) -> TcpKeepalive {
    let secs = |duration: Duration| Duration::from_secs(duration.as_secs().max(1));
    let first = secs((after / 3).min(Duration::from_mins(1)));
    let pause = secs((after / 3).min(QUESTION_PAUSE_MAX));
    let retries = GIVEN_UP_AFTER.saturating_sub(first).as_secs().div_ceil(pause.as_secs());
    TcpKeepalive::new().with_time(first).with_interval(pause).with_retries(retries as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_asked_often_enough_and_given_up_in_time() {
        for secs in [5, 6, 30, 60, 120, 3600] {
            let text = format!("{:?}", questions(Duration::from_secs(secs)));
            let number = |name: &str| -> u64 {
                let (_, rest) = text.split_once(name).unwrap();
                let digits: String = rest
                    .chars()
                    .skip_while(|c| !c.is_ascii_digit())
                    .take_while(char::is_ascii_digit)
                    .collect();
                digits.parse().unwrap()
            };
            let (first, pause, retries) = (number("time"), number("interval"), number("retries"));
            let given_up = first + pause * retries;
            assert!((120..140).contains(&given_up), "{secs}: {text}");
            assert!(secs > 60 || first + 2 * pause <= secs, "{secs}: {text}");
        }
    }
}
