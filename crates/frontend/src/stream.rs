//! One connection, whatever carries it.

use std::{
    io,
    mem::MaybeUninit,
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use auth::ChannelBindings;
use maildrop::SessionId;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::server::TlsStream;
use tracing::field::Empty;

use crate::{
    Networks,
    proxy::Said,
    tls::{self, Served},
};

/// Octets read at once. The buffer lies on the stack of the poll, so that an idle connection holds none.
const READ_OCTETS: usize = 8 * 1024;

/// A connected socket, encrypted or not.
#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(TcpStream),
    /// Encrypted, and with what certificate.
    Tls(Box<TlsStream<TcpStream>>, Arc<Served>),
    Unix(UnixStream),
}

/// Who is at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    Ip(IpAddr),
    /// A process of this machine, over a Unix socket.
    Unix,
}

impl Peer {
    /// Its address, if it has one.
    pub(crate) fn ip(self) -> Option<IpAddr> {
        match self {
            Self::Ip(ip) => Some(ip),
            Self::Unix => None,
        }
    }

    /// Whether the peer is on this machine.
    pub(crate) fn is_local(self) -> bool {
        match self {
            Self::Ip(ip) => ip.to_canonical().is_loopback(),
            Self::Unix => true,
        }
    }
}

/// Who is at the other end, and through whom.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    /// The client. Where nobody can say who it is, the proxy.
    pub(crate) peer: Peer,
    /// What we know of it by a proxy: little for each connection, so that none costs those without.
    proxied: Option<Box<Proxied>>,
}

/// What we know of a client by its proxy.
#[derive(Debug, Clone)]
struct Proxied {
    /// Who connected to us.
    hop: Peer,
    /// Whether the client's own address is known.
    known: bool,
    said: Said,
}

impl Client {
    /// A client that connected itself.
    pub(crate) fn direct(peer: Peer) -> Self {
        Self { peer, proxied: None }
    }

    /// The client of a proxy, which could tell its address or not.
    pub(crate) fn proxied(address: Option<IpAddr>, hop: Peer, said: Said) -> Self {
        let proxied = Proxied { hop, known: address.is_some(), said };
        Self { peer: address.map_or(hop, Peer::Ip), proxied: Some(Box::new(proxied)) }
    }

    /// A proxy says later for whom it speaks; or that it cannot tell.
    pub(crate) fn set_address(&mut self, address: Option<IpAddr>) {
        let hop = self.hop();
        self.by_proxy().known = address.is_some();
        self.peer = address.map_or(hop, Peer::Ip);
    }

    /// A proxy says later what it calls the session.
    pub(crate) fn set_id(&mut self, id: Box<str>) {
        self.by_proxy().said.id = Some(id);
    }

    fn by_proxy(&mut self) -> &mut Proxied {
        let hop = self.hop();
        self.proxied.get_or_insert_with(|| Box::new(Proxied { hop, known: true, said: Said::default() }))
    }

    /// Whether whoever speaks with us is of these networks, and whatever stands between: who comes by a balancer
    /// that is trusted is not therefore trusted.
    pub(crate) fn is_of(&self, networks: &Networks) -> bool {
        let is_of = |peer| matches!(peer, Peer::Ip(ip) if networks.contains(ip));
        let known = self.proxied.as_ref().is_none_or(|proxied| proxied.known);
        known && is_of(self.peer) && is_of(self.hop())
    }

    /// Who connected to us: the client, or its proxy.
    fn hop(&self) -> Peer {
        self.proxied.as_ref().map_or(self.peer, |proxied| proxied.hop)
    }

    /// Whether nothing it says leaves this machine: it is on it, and so is its proxy.
    pub(crate) fn is_all_local(&self) -> bool {
        self.hop().is_local() && self.is_local()
    }

    /// Whether it is on this machine, or on its proxy's. That its proxy is says nothing.
    fn is_local(&self) -> bool {
        self.proxied.as_ref().is_none_or(|proxied| proxied.known) && self.peer.is_local()
    }

    /// Whether it speaks TLS with its proxy.
    pub(crate) fn has_tls_to_proxy(&self) -> bool {
        self.proxied.as_ref().is_some_and(|proxied| proxied.said.tls.is_some())
    }

    /// Records on the session's span what became known since that was made.
    pub(crate) fn record(&self, span: &tracing::Span, show_peer: bool) {
        if show_peer {
            span.record("peer", tracing::field::display(self.peer));
        }
        if let Some(proxied) = &self.proxied {
            proxied.record(span, show_peer);
        }
    }

    /// The host it asked its proxy for.
    pub(crate) fn host(&self) -> Option<&str> {
        self.proxied.as_ref()?.said.host.as_deref()
    }
}

/// The span of a connection: what is recorded on it stands in every line of the log about it.
pub(crate) fn session_span(
    protocol: &'static str,
    session: SessionId,
    client: &Client,
    show_peer: bool,
) -> tracing::Span {
    let peer = show_peer.then(|| tracing::field::display(client.peer));
    let span = tracing::info_span!(
        "session",
        protocol,
        %session,
        peer,
        proxy = Empty,
        proxy.id = Empty,
        proxy.host = Empty,
        proxy.tls = Empty,
        proxy.cipher = Empty,
        proxy.name = Empty,
        proxy.verify = Empty,
        tenant.id = Empty,
        mailbox.id = Empty
    );
    if let Some(proxied) = &client.proxied {
        proxied.record(&span, show_peer);
    }
    span
}

impl Proxied {
    fn record(&self, span: &tracing::Span, show_peer: bool) {
        if show_peer {
            span.record("proxy", tracing::field::display(self.hop));
        }
        let tls = self.said.tls.as_ref();
        for (field, text) in [
            ("proxy.id", &self.said.id),
            ("proxy.host", &self.said.host),
            ("proxy.tls", tls.map_or(&None, |tls| &tls.version)),
            ("proxy.cipher", tls.map_or(&None, |tls| &tls.cipher)),
            ("proxy.name", tls.map_or(&None, |tls| &tls.name)),
        ] {
            if let Some(text) = text {
                span.record(field, &**text);
            }
        }
        if let Some(verify) = tls.and_then(|tls| tls.verify) {
            span.record("proxy.verify", verify);
        }
    }
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ip(ip) => ip.to_canonical().fmt(f),
            Self::Unix => f.write_str("unix"),
        }
    }
}

impl Stream {
    /// The version of TLS agreed on, or `none`.
    pub(crate) fn tls_version(&self) -> &'static str {
        match self {
            Self::Tls(stream, _) => match stream.get_ref().1.protocol_version() {
                Some(rustls::ProtocolVersion::TLSv1_2) => "1.2",
                // Nothing older or newer is configured.
                _ => "1.3",
            },
            Self::Tcp(_) | Self::Unix(_) => "none",
        }
    }

    /// What only the two ends of an encrypted stream know (RFC 9266), and what only they agree on (RFC 5929 §4). Nothing
    /// is exported by TLS 1.2: whether it had an extended master secret, without which that would be worth nothing,
    /// cannot be asked for.
    pub(crate) fn channel_bindings(&self) -> ChannelBindings {
        let Self::Tls(stream, served) = self else { return ChannelBindings::default() };
        let connection = stream.get_ref().1;
        let server_end_point = served.end_point.clone();
        if connection.protocol_version() != Some(rustls::ProtocolVersion::TLSv1_3) {
            return ChannelBindings { exporter: None, server_end_point };
        }
        let exported = connection.export_keying_material(vec![0; 32], b"EXPORTER-Channel-Binding", Some(&[]));
        ChannelBindings { exporter: exported.ok(), server_end_point }
    }

    /// The mail addresses in the certificate that the client showed, if it showed one. It was verified then.
    pub(crate) fn client_addresses(&self) -> Vec<String> {
        let Self::Tls(stream, _) = self else { return Vec::new() };
        let shown = stream.get_ref().1.peer_certificates();
        shown.and_then(<[_]>::first).map(tls::addresses).unwrap_or_default()
    }

    /// The socket, where it is one of TCP.
    pub(crate) fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(stream) => Some(stream),
            Self::Tls(stream, _) => Some(stream.get_ref().0),
            Self::Unix(_) => None,
        }
    }

    /// Reads what is there, once something is, and hands it to `take`. Returns how many octets that were;
    /// 0 at the end of the stream.
    pub(crate) async fn read_with(&mut self, mut take: impl FnMut(&[u8])) -> io::Result<usize> {
        std::future::poll_fn(|cx| {
            let mut space = [const { MaybeUninit::uninit() }; READ_OCTETS];
            let mut buffer = ReadBuf::uninit(&mut space);
            match Pin::new(&mut *self).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) => {
                    take(buffer.filled());
                    Poll::Ready(Ok(buffer.filled().len()))
                }
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream, _) => Pin::new(stream).poll_read(cx, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, octets),
            Self::Tls(stream, _) => Pin::new(stream).poll_write(cx, octets),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, octets),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream, _) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream, _) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
