//! Listening, and how many may be connected.

use std::{
    fs, io,
    net::{IpAddr, SocketAddr},
    os::unix::fs::FileTypeExt as _,
    path::PathBuf,
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener};
use tracing::{debug, warn};

use crate::{
    drain::DrainHandle,
    lmtp::LmtpService,
    pop3::Pop3Service,
    proxy::ProxyProtocol,
    seats::{Full, Limits, Place, Seats},
    stream::{Client, Peer, Stream},
};

/// Connections the kernel may hold for us while we are busy accepting others.
const BACKLOG: u32 = 4096;
/// Pause after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// A peer that vanished without a word is noticed after about two minutes of silence.
const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_mins(1))
    .with_interval(Duration::from_secs(20))
    .with_retries(3);

/// Where to listen: `host:port`, or `unix:/path`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddr {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

/// Why a text is no address to listen on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no address to listen on: write \"ip:port\" or \"unix:/path\"")]
pub struct ListenAddrError(String);

impl FromStr for ListenAddr {
    type Err = ListenAddrError;

    fn from_str(text: &str) -> Result<Self, ListenAddrError> {
        match text.strip_prefix("unix:") {
            Some(path) if path.starts_with('/') => Ok(Self::Unix(path.into())),
            Some(_) => Err(ListenAddrError(text.into())),
            None => text.parse().map(Self::Tcp).map_err(|_| ListenAddrError(text.into())),
        }
    }
}

/// A socket that listens. Binding is separate from serving, so that a port that is taken is known at once.
#[derive(Debug)]
pub enum Bound {
    /// On TCP.
    Tcp(TcpListener),
    /// On a Unix socket; the file is removed with it.
    Unix(UnixListener, PathBuf),
    /// On a Unix socket that was handed over; its file is whoever's who made it.
    HandedUnix(UnixListener, PathBuf),
}

impl Bound {
    /// A socket that somebody else opened, and listens already.
    ///
    /// # Errors
    ///
    /// Where it cannot be watched.
    pub fn from_tcp(listener: std::net::TcpListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self::Tcp(TcpListener::from_std(listener)?))
    }

    /// A Unix socket that somebody else opened at this path, and listens already. Its file stays when it is dropped.
    ///
    /// # Errors
    ///
    /// Where it cannot be watched.
    pub fn from_unix(listener: std::os::unix::net::UnixListener, path: PathBuf) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self::HandedUnix(UnixListener::from_std(listener)?, path))
    }

    /// Binds. A Unix socket left over by a dead process is replaced.
    pub fn bind(addr: &ListenAddr) -> io::Result<Self> {
        match addr {
            ListenAddr::Tcp(addr) => {
                let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
                socket.set_reuseaddr(true)?;
                socket.bind(*addr)?;
                Ok(Self::Tcp(socket.listen(BACKLOG)?))
            }
            ListenAddr::Unix(path) => {
                let left_over = fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket());
                if left_over && std::os::unix::net::UnixStream::connect(path).is_err() {
                    fs::remove_file(path)?;
                }
                Ok(Self::Unix(UnixListener::bind(path)?, path.clone()))
            }
        }
    }

    /// The address it is bound to, as text that [`ListenAddr`] reads: with the port the system chose.
    pub fn local_addr(&self) -> io::Result<String> {
        match self {
            Self::Tcp(listener) => Ok(listener.local_addr()?.to_string()),
            Self::Unix(_, path) | Self::HandedUnix(_, path) => Ok(format!("unix:{}", path.display())),
        }
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self {
            let _ = fs::remove_file(path);
        }
    }
}

/// What a listener serves.
#[derive(Debug, Clone)]
pub enum Server {
    /// POP3, with STLS where there is a certificate (RFC 1939, RFC 2595).
    Pop3(Arc<Pop3Service>),
    /// POP3 over implicit TLS (RFC 8314 §3.2).
    Pop3s(Arc<Pop3Service>),
    /// LMTP (RFC 2033).
    Lmtp(Arc<LmtpService>),
}

impl Server {
    /// Serves `bound` until the drain begins.
    pub fn start(self, bound: Bound, limits: &Limits, drain: &DrainHandle) {
        self.start_behind(None, bound, limits, drain);
    }

    /// Serves `bound` until the drain begins. Where there are proxies in front, each connection over TCP begins
    /// with their header; over a Unix socket none does, for a process of this machine is who it is.
    pub fn start_behind(
        self,
        proxies: Option<ProxyProtocol>,
        bound: Bound,
        limits: &Limits,
        drain: &DrainHandle,
    ) {
        let door = Door { server: self, seats: Seats::new(limits), proxies, drain: drain.clone() };
        drain.spawn(Arc::new(door).accept(bound));
    }

    /// Counts a client that there is no seat for.
    fn refused(&self, full: Full) {
        match self {
            Self::Pop3(service) | Self::Pop3s(service) => service.refused(self.section(), full),
            // Its sessions are counted by how they end.
            Self::Lmtp(_) => {}
        }
    }

    /// The listener's word in metrics and log: its section of the configuration.
    fn section(&self) -> &'static str {
        match self {
            Self::Pop3(_) => "pop3",
            Self::Pop3s(_) => "pop3s",
            Self::Lmtp(_) => "lmtp",
        }
    }
}

/// What stands between a socket that listens and the sessions.
#[derive(Debug)]
struct Door {
    server: Server,
    seats: Seats,
    proxies: Option<ProxyProtocol>,
    drain: DrainHandle,
}

impl Door {
    async fn accept(self: Arc<Self>, bound: Bound) {
        loop {
            let accepted = tokio::select! {
                accepted = accept(&bound) => accepted,
                () = self.drain.draining() => return,
            };
            match accepted {
                Ok((stream, peer)) => self.admit(stream, peer),
                Err(error) if is_of_one_connection(&error) => debug!(%error, "connection was lost"),
                Err(error) => {
                    warn!(%error, "no connection can be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn admit(self: &Arc<Self>, stream: Stream, peer: Peer) {
        let proxied = match (&self.proxies, peer) {
            (Some(proxies), Peer::Ip(hop)) if !proxies.admits(self.server.section(), hop) => return,
            (proxies, _) => proxies.is_some(),
        };
        match (self.seats.place(), stream, peer) {
            (Some(place), Stream::Tcp(stream), Peer::Ip(hop)) if proxied => {
                let door = Arc::clone(self);
                self.drain.spawn(async move { door.introduce(stream, hop, place).await });
            }
            (place, stream, peer) => self.seat(stream, Client::direct(peer), place),
        }
    }

    /// Waits for a proxy's header. Meanwhile the connection has its place among all, so that those that wait
    /// are bounded as those that are served are; a seat among its source's it has once its source is known.
    async fn introduce(&self, mut stream: TcpStream, hop: IpAddr, place: Place) {
        let Some(proxies) = &self.proxies else { return };
        let client = tokio::select! {
            client = Box::pin(proxies.client(self.server.section(), hop, &mut stream)) => client,
            () = self.drain.closing() => None,
        };
        if let Some(client) = client {
            self.seat(Stream::Tcp(stream), client, Some(place));
        }
    }

    /// Serves a client, or refuses to where there is no place or no seat.
    fn seat(&self, stream: Stream, client: Client, place: Option<Place>) {
        let seat = match self.seats.take(place, client.peer) {
            Ok(seat) => Ok(seat),
            Err(full) => {
                self.server.refused(full);
                match Arc::clone(&self.seats.refusals).try_acquire_owned() {
                    Ok(refusal) => Err(refusal),
                    Err(_) => return,
                }
            }
        };
        let (drain, drain_of_task) = (&self.drain, self.drain.clone());
        match &self.server {
            Server::Pop3(service) => {
                let service = Arc::clone(service);
                drain.spawn(async move { service.serve(stream, client, seat, drain_of_task).await });
            }
            Server::Pop3s(service) => {
                // A refusal cannot be told before the handshake, and is not worth one.
                let (Ok(seat), Stream::Tcp(stream)) = (seat, stream) else { return };
                let service = Arc::clone(service);
                drain.spawn(async move { service.serve_tls(stream, client, seat, drain_of_task).await });
            }
            Server::Lmtp(service) => {
                let service = Arc::clone(service);
                drain.spawn(async move { service.serve(stream, client, seat, drain_of_task).await });
            }
        }
    }
}

async fn accept(bound: &Bound) -> io::Result<(Stream, Peer)> {
    match bound {
        Bound::Tcp(listener) => {
            let (stream, addr) = listener.accept().await?;
            set_options(&stream);
            Ok((Stream::Tcp(stream), Peer::Ip(addr.ip())))
        }
        Bound::Unix(listener, _) | Bound::HandedUnix(listener, _) => {
            let (stream, _) = listener.accept().await?;
            Ok((Stream::Unix(stream), Peer::Unix))
        }
    }
}

fn set_options(stream: &TcpStream) {
    // Replies are gathered before they are written, so delaying small segments would only add latency.
    // A socket that refuses an option serves all the same.
    let _ = stream.set_nodelay(true);
    let _ = SockRef::from(stream).set_tcp_keepalive(&KEEPALIVE);
}

/// Errors of accept(2) that speak of the connection, not of us.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        let parse = |s: &str| s.parse::<ListenAddr>();
        assert_eq!(parse("127.0.0.1:1110"), Ok(ListenAddr::Tcp("127.0.0.1:1110".parse().unwrap())));
        assert_eq!(parse("[::]:110"), Ok(ListenAddr::Tcp("[::]:110".parse().unwrap())));
        assert_eq!(parse("unix:/run/x.sock"), Ok(ListenAddr::Unix("/run/x.sock".into())));
        for bad in ["unix:x", "localhost:1", "127.0.0.1", ":110", ""] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
