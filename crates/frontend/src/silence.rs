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

use std::{os::fd::AsRawFd as _, time::Duration};

use maildrop::Silence;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout},
};
use tracing::{debug, info, warn};

/// Questions of a row without an answer: a single one may be lost on the way.
const UNANSWERED_MIN: u8 = 2;
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

/// What the kernel knows of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Answers {
    /// Since it last sent anything: octets, or only that it has some of ours.
    last: Duration,
    /// Questions since then (keepalive, or whether it has room again).
    unanswered: u8,
    /// Segments sent that it has not acknowledged.
    unacknowledged: u32,
    /// How often the first of them was sent again.
    sent_again: u8,
}

impl Answers {
    fn of(stream: &TcpStream) -> Option<Self> {
        let info = tcp_info(stream)?;
        let octet = |at: usize| info.get(at).copied();
        let word = |at: usize| {
            let octets = info.get(at..at + 4)?;
            octets.try_into().ok().map(u32::from_ne_bytes)
        };
        // The layout of `struct tcp_info`: eight octets, then words. It is only ever added to.
        let (data, ack) = (word(8 + 11 * 4)?, word(8 + 12 * 4)?);
        Some(Self {
            last: Duration::from_millis(data.min(ack).into()),
            unanswered: octet(3)?,
            unacknowledged: word(8 + 4 * 4)?,
            sent_again: octet(2)?,
        })
    }

    fn is_silent(self, after: Duration) -> bool {
        let asked =
            self.unanswered >= UNANSWERED_MIN || self.unacknowledged > 0 && self.sent_again >= UNANSWERED_MIN;
        asked && self.last >= after
    }
}

/// Whether the peer has closed its end, or the connection broke. It is asked of the kernel, for behind octets that nobody
/// has read yet no read would tell.
pub(crate) fn is_over(stream: &TcpStream) -> bool {
    // TCP_ESTABLISHED of <netinet/tcp.h>: all that comes later says that the peer has said its last.
    const ESTABLISHED: u8 = 1;
    tcp_info(stream).is_some_and(|info| info[0] != ESTABLISHED)
}

/// What `TCP_INFO` gives, as much as the kernel has.
fn tcp_info(stream: &TcpStream) -> Option<[u8; TCP_INFO_OCTETS]> {
    let mut info = [0_u8; TCP_INFO_OCTETS];
    let mut len = TCP_INFO_OCTETS as libc::socklen_t;
    #[expect(unsafe_code, reason = "neither the standard library nor socket2 reads TCP_INFO")]
    // SAFETY: the descriptor is open for as long as `stream` is borrowed, and the kernel writes `len` octets at most,
    // as many as the buffer has.
    let done = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    (done == 0 && len as usize == TCP_INFO_OCTETS).then_some(info)
}

/// As far as `tcpi_last_ack_recv`, which every kernel has.
const TCP_INFO_OCTETS: usize = 8 + 13 * 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_peer_that_is_there_answers() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        let keepalive =
            TcpKeepalive::new().with_time(Duration::from_secs(1)).with_interval(Duration::from_secs(1));
        SockRef::from(&server).set_tcp_keepalive(&keepalive).unwrap();
        tokio::time::sleep(Duration::from_millis(1600)).await;
        let answers = Answers::of(&server).unwrap();
        // Its kernel answered a question after one second, though the program behind it reads nothing.
        assert!((400..900).contains(&answers.last.as_millis()), "{answers:?}");
        assert_eq!((answers.unanswered, answers.unacknowledged), (0, 0));
        assert!(!answers.is_silent(Duration::from_millis(500)));
        assert!(!is_over(&server));
        drop(client);
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(is_over(&server));
    }

    #[test]
    fn only_questions_without_an_answer_make_silence() {
        let after = Duration::from_secs(30);
        let idle = Answers { last: after * 3, unanswered: 0, unacknowledged: 0, sent_again: 0 };
        assert!(!idle.is_silent(after), "nobody asked");
        let asked = Answers { unanswered: 2, ..idle };
        assert!(asked.is_silent(after) && !asked.is_silent(after * 4));
        assert!(!Answers { unanswered: 1, ..idle }.is_silent(after));
        let sending = Answers { unacknowledged: 3, ..idle };
        assert!(!sending.is_silent(after), "it may be on its way");
        assert!(Answers { sent_again: 2, ..sending }.is_silent(after));
        // A slow reader acknowledges what it reads, and that it has no room.
        assert!(!Answers { last: Duration::from_secs(3), sent_again: 2, ..sending }.is_silent(after));
    }

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
