//! The PROXY protocol, versions 1 and 2: before anything else, a proxy says for whom it connects.
//!
//! ```text
//!   accept ── not a trusted network ──► closed
//!      └─ trusted ── header, in time ──► Client ──► a seat, then as without a proxy
//!                        └─ none, broken, too long, too late ──► closed
//! ```
//!
//! Nothing is said to whom is closed: who speaks without a header where one is due does not speak our protocol,
//! or should not be here. What comes behind the header stays in the socket, so that nothing needs to carry it
//! from here to whoever reads on, TLS included.

pub(crate) mod header;

use std::{
    io,
    mem::MaybeUninit,
    net::IpAddr,
    task::{Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, ReadBuf},
    net::TcpStream,
};
use tracing::{debug, info};

use crate::{
    Networks,
    metrics::Metrics,
    stream::{Client, Peer},
};

pub(crate) use header::Said;
use header::{Fault, HEADER_OCTETS_MAX, Header, Source};

/// How a listener behind proxies finds out who its clients are. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ProxyProtocol {
    trusted: Networks,
    header_timeout: Duration,
    log_clients: bool,
    metrics: Metrics,
}

/// Why a connection is closed before anything was said.
#[derive(Debug)]
enum Refused {
    /// It is from no network that is trusted.
    Untrusted,
    /// It begins with no header.
    Malformed,
    /// Its header is longer than any header we take.
    TooLong,
    /// Its header was not there in time.
    Late,
    /// It ended before its header did.
    Gone(io::Error),
}

impl ProxyProtocol {
    /// Headers are taken from these networks, each within `header_timeout`; whoever is of no such network is
    /// closed. `log_clients`: whether the log shows addresses.
    pub fn new(trusted: Networks, header_timeout: Duration, log_clients: bool, metrics: &Metrics) -> Self {
        Self { trusted, header_timeout, log_clients, metrics: metrics.clone() }
    }

    /// Whether a header is to be expected from this address. If not, that is told of, and the connection is to
    /// be closed.
    pub(crate) fn admits(&self, listener: &'static str, hop: IpAddr) -> bool {
        let trusted = self.trusted.contains(hop);
        if !trusted {
            self.refuse(listener, hop, &Refused::Untrusted);
        }
        trusted
    }

    /// Reads the header and not an octet more. `None` if the connection is to be closed.
    pub(crate) async fn client(
        &self,
        listener: &'static str,
        hop: IpAddr,
        stream: &mut TcpStream,
    ) -> Option<Client> {
        let header = tokio::time::timeout(self.header_timeout, read(stream));
        let header = match header.await.unwrap_or(Err(Refused::Late)) {
            Ok(header) => header,
            Err(refused) => {
                self.refuse(listener, hop, &refused);
                return None;
            }
        };
        let hop = Peer::Ip(hop);
        let (client, outcome) = match header.source {
            Source::Own => (Client::direct(hop), "local"),
            Source::Unknown => (Client::proxied(None, hop, header.said), "unknown"),
            Source::Address(ip) => (Client::proxied(Some(ip), hop, header.said), "proxied"),
        };
        self.count(listener, outcome);
        Some(client)
    }

    fn refuse(&self, listener: &'static str, hop: IpAddr, refused: &Refused) {
        let peer = self.log_clients.then(|| tracing::field::display(Peer::Ip(hop)));
        let outcome = match refused {
            Refused::Untrusted => "untrusted",
            Refused::Malformed => "malformed",
            Refused::TooLong => "too_long",
            Refused::Late => "timeout",
            Refused::Gone(error) => {
                // Balancers that only look whether the port is open do this all day.
                debug!(listener, peer, %error, "connection ended before its PROXY header");
                return self.count(listener, "gone");
            }
        };
        info!(listener, peer, outcome, "connection without a PROXY header to be trusted was closed");
        self.count(listener, outcome);
    }

    fn count(&self, listener: &'static str, outcome: &'static str) {
        self.metrics.proxy.headers.with_label_values(&[listener, outcome]).inc();
    }
}

/// Takes the header from the stream. Octets are looked at first and taken once they are known to be of the
/// header, so that none behind it is.
async fn read(stream: &mut TcpStream) -> Result<Header, Refused> {
    let mut head = Vec::new();
    loop {
        let before = head.len();
        let found = look(stream, &mut head).await.map_err(Refused::Gone)?;
        let (end, header) = match found {
            Ok(Some((header, end))) => (end, Some(header)),
            Ok(None) if head.len() == before => {
                return Err(Refused::Gone(io::ErrorKind::UnexpectedEof.into()));
            }
            Ok(None) => (head.len(), None),
            Err(Fault::Malformed) => return Err(Refused::Malformed),
            Err(Fault::TooLong) => return Err(Refused::TooLong),
        };
        // They are there: this does not wait.
        stream.read_exact(&mut head[before..end]).await.map_err(Refused::Gone)?;
        if let Some(header) = header {
            return Ok(header);
        }
    }
}

/// Adds what is in the socket to `head`, once something is, and reads the header from it. Nothing is taken
/// out of the socket. At the end of the stream nothing is added.
async fn look(stream: &TcpStream, head: &mut Vec<u8>) -> io::Result<Result<Option<(Header, usize)>, Fault>> {
    std::future::poll_fn(|cx| {
        // On the stack of the poll: a connection that waits for its header holds what has come of it.
        let mut space = [const { MaybeUninit::uninit() }; HEADER_OCTETS_MAX];
        let mut buffer = ReadBuf::uninit(&mut space);
        ready!(stream.poll_peek(cx, &mut buffer))?;
        head.extend_from_slice(buffer.filled());
        Poll::Ready(Ok(header::read(head)))
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use prometheus::Registry;
    use tokio::{io::AsyncWriteExt as _, net::TcpListener};

    use super::*;

    const HEADER: &[u8] = b"PROXY TCP4 192.0.2.7 10.0.0.1 1234 110\r\n";
    const TIMEOUT: Duration = Duration::from_secs(1);

    fn protocol(registry: &Registry) -> ProxyProtocol {
        let trusted = ["127.0.0.0/8".parse().unwrap()].into_iter().collect();
        ProxyProtocol::new(trusted, TIMEOUT, true, &Metrics::new(registry).unwrap())
    }

    /// Both ends of a connection.
    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        client.set_nodelay(true).unwrap();
        (client, listener.accept().await.unwrap().0)
    }

    /// What becomes of a connection that sends these pieces, and what is left in it.
    async fn client(pieces: &[&[u8]]) -> (Option<Client>, TcpStream, TcpStream) {
        let (mut near, mut far) = pair().await;
        let protocol = protocol(&Registry::new());
        let send = async {
            for piece in pieces {
                near.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let hop = Ipv4Addr::LOCALHOST.into();
        let ((), client) = tokio::join!(send, protocol.client("pop3", hop, &mut far));
        (client, near, far)
    }

    async fn rest(near: TcpStream, mut far: TcpStream) -> Vec<u8> {
        drop(near);
        let mut rest = Vec::new();
        far.read_to_end(&mut rest).await.unwrap();
        rest
    }

    #[tokio::test]
    async fn the_header_may_be_cut_anywhere() {
        let second = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\x0a\0\0\x01\0\x01\0\x02";
        for header in [HEADER, second] {
            for at in 0..=header.len() {
                let (before, after) = header.split_at(at);
                let (client, near, far) = client(&[before, &[after, b"CAPA\r\n"].concat()]).await;
                assert_eq!(client.unwrap().peer, Peer::Ip([192, 0, 2, 7].into()), "cut at {at}");
                assert_eq!(rest(near, far).await, b"CAPA\r\n", "cut at {at}");
            }
        }
    }

    #[tokio::test]
    async fn what_comes_with_the_header_is_left_for_others() {
        let much = vec![b'x'; 100_000];
        let octets = [HEADER, &much].concat();
        let (mut near, mut far) = pair().await;
        let send = tokio::spawn(async move {
            near.write_all(&octets).await.unwrap();
            near
        });
        let registry = Registry::new();
        let client = protocol(&registry).client("lmtp", Ipv4Addr::LOCALHOST.into(), &mut far).await;
        assert!(client.is_some());
        let mut got = vec![0; much.len()];
        far.read_exact(&mut got).await.unwrap();
        assert!(got == much);
        drop(send.await.unwrap());
        assert_eq!(far.read(&mut got).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_header_that_does_not_come_in_time_ends_the_connection() {
        for pieces in [&[][..], &[&HEADER[..10]], &[b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x0f\x00abc"]] {
            let start = tokio::time::Instant::now();
            assert!(client(pieces).await.0.is_none());
            assert!(start.elapsed() >= TIMEOUT);
        }
        // However steadily it comes.
        let endless = [b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x0f\x00".as_slice(), &[0; 300]].concat();
        let dripping: Vec<&[u8]> = endless.chunks(1).collect();
        assert!(client(&dripping).await.0.is_none());
    }

    #[tokio::test]
    async fn what_is_no_header_ends_the_connection_at_once() {
        let endless = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 200]].concat();
        for octets in
            [b"USER a\r\n".as_slice(), b"\x16\x03\x01", &endless, b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff"]
        {
            let start = tokio::time::Instant::now();
            assert!(client(&[octets]).await.0.is_none());
            assert!(start.elapsed() < TIMEOUT, "{octets:?}");
        }
        let (near, mut far) = pair().await;
        drop(near);
        let registry = Registry::new();
        let client = protocol(&registry).client("pop3", Ipv4Addr::LOCALHOST.into(), &mut far).await;
        assert!(client.is_none());
    }

    #[tokio::test]
    async fn only_networks_that_are_trusted_are_listened_to() {
        let registry = Registry::new();
        let protocol = protocol(&registry);
        assert!(protocol.admits("pop3", [127, 0, 0, 1].into()));
        assert!(!protocol.admits("pop3", [192, 0, 2, 1].into()));
        let refused = protocol.metrics.proxy.headers.with_label_values(&["pop3", "untrusted"]).get();
        assert_eq!(refused, 1);
    }
}
