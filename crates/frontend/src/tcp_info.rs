//! What the kernel knows of a TCP connection (tcp(7), `TCP_INFO`).

use std::{os::fd::AsRawFd as _, time::Duration};

use tokio::net::TcpStream;

/// Questions of a row without an answer: a single one may be lost on the way.
const UNANSWERED_MIN: u8 = 2;
/// As far as `tcpi_last_ack_recv`, which every kernel has.
const TCP_INFO_OCTETS: usize = 8 + 13 * 4;

/// What the kernel knows of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Answers {
    /// Since it last sent anything: octets, or only that it has some of ours.
    pub(crate) last: Duration,
    /// Questions since then (keepalive, or whether it has room again).
    pub(crate) unanswered: u8,
    /// Segments sent that it has not acknowledged.
    pub(crate) unacknowledged: u32,
    /// How often the first of them was sent again.
    pub(crate) sent_again: u8,
}

impl Answers {
    /// What it knows now; nothing where it does not say.
    pub(crate) fn of(stream: &TcpStream) -> Option<Self> {
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

    /// Whether the peer has said nothing for so long, though it was asked.
    pub(crate) fn is_silent(self, after: Duration) -> bool {
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

#[cfg(test)]
mod tests {
    use socket2::{SockRef, TcpKeepalive};

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
}
