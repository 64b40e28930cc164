//! The octets of one session: what goes out is gathered and written under back-pressure, waits have ends.

use std::{io, time::Duration};

use maildrop::Silence;
use tokio::{io::AsyncWriteExt as _, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    drain::DrainHandle,
    metrics::WireOctets,
    silence::{Lost, Watch},
    stream::Stream,
    tcp_info,
};

/// Replies are gathered up to this before they are written: enough to fill a few segments. A client that does
/// not read costs this, one chunk of a message (64 KiB), and what the blob store holds of it (P6).
pub(crate) const GATHER_OCTETS: usize = 16 * 1024;
/// A closing peer that does not read its last line is not waited for longer than this.
const GOODBYE: Duration = Duration::from_secs(5);
/// How often it is looked whether a client that waits is still there.
const THERE_PAUSE: Duration = Duration::from_millis(250);
/// Octets of a closing peer that are read and thrown away at most.
const LINGER_OCTETS: usize = 1024 * 1024;

/// Why a session ends without the client having asked for it.
#[derive(Debug)]
pub(crate) enum End {
    /// The client closed the connection, or it broke.
    Gone(io::Error),
    /// The client was silent for too long.
    Idle,
    /// The client did not read for too long.
    Stalled,
    /// This node goes down.
    Closing,
    /// An administrator ended the session.
    Ended,
    /// The client was silent for so long that the same client, come back, took the maildrop over.
    TakenOver,
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        Self::Gone(error)
    }
}

/// A stream and what is to be written to it.
#[derive(Debug)]
pub(crate) struct Wire {
    /// `None` once a handshake over it has failed.
    stream: Option<Stream>,
    /// Replies not yet written.
    pub(crate) out: Vec<u8>,
    drain: DrainHandle,
    /// Longest time without progress while writing.
    write_timeout: Duration,
    octets: WireOctets,
    /// Cancelled when an administrator ends the session; there from the login on.
    ended: Option<CancellationToken>,
    /// Watches whether the client is still there; from the login on, where that is asked for.
    watch: Option<Box<Watch>>,
    /// Where in `out` the reply to the command under way begins, or its first octet, once that was written.
    reply: Reply,
}

/// Of the reply to the command under way, the octet that tells good from bad (RFC 1939 §3).
#[derive(Debug, Clone, Copy)]
enum Reply {
    At(usize),
    Began(u8),
}

impl Wire {
    pub(crate) fn new(
        stream: Stream,
        drain: DrainHandle,
        write_timeout: Duration,
        octets: WireOctets,
    ) -> Self {
        let reply = Reply::At(0);
        Self {
            stream: Some(stream),
            out: Vec::new(),
            drain,
            write_timeout,
            octets,
            ended: None,
            watch: None,
            reply,
        }
    }

    /// The encrypted stream's version of TLS, or `none`.
    pub(crate) fn tls_version(&self) -> &'static str {
        self.stream.as_ref().map_or("none", Stream::tls_version)
    }

    /// What binds a login to the encrypted stream.
    pub(crate) fn channel_bindings(&self) -> auth::ChannelBindings {
        self.stream.as_ref().map(Stream::channel_bindings).unwrap_or_default()
    }

    /// The mail addresses in the certificate that the client showed, if it showed one.
    pub(crate) fn client_addresses(&self) -> Vec<String> {
        self.stream.as_ref().map(Stream::client_addresses).unwrap_or_default()
    }

    /// Lets the session be ended by `ended` from now on.
    pub(crate) fn end_with(&mut self, ended: CancellationToken) {
        self.ended = Some(ended);
    }

    /// Watches from now on whether the client is still there, and notes it of the session's `lock`. A client on this
    /// machine is, and one behind a proxy is as far as its proxy is.
    pub(crate) fn watch(&mut self, after: Duration, lock: Silence) {
        let tcp = self.stream.as_ref().and_then(Stream::tcp);
        self.watch = tcp.map(|stream| Box::new(Watch::new(after, lock, stream)));
    }

    /// Waits, because the client may have no more for now; for no longer than it takes to be told to end.
    pub(crate) async fn pause(&self, pause: Duration) -> Result<(), End> {
        let over = tokio::time::sleep(pause);
        tokio::select! {
            () = over => Ok(()),
            end = self.told_to_end() => Err(end),
        }
    }

    /// Waits as [`pause`](Self::pause) does, and no longer than the client is there. Gives what was left of the pause when
    /// it went.
    pub(crate) async fn pause_while_there(&self, pause: Duration) -> Result<Option<Duration>, End> {
        let over = Instant::now() + pause;
        loop {
            let left = over.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.pause(left.min(THERE_PAUSE)).await?;
            if self.stream.as_ref().and_then(Stream::tcp).is_some_and(tcp_info::is_over) {
                return Ok(Some(over.saturating_duration_since(Instant::now())));
            }
        }
    }

    async fn told_to_end(&self) -> End {
        let drain = self.drain.clone();
        match self.ended.clone() {
            Some(ended) => tokio::select! {
                () = ended.cancelled() => End::Ended,
                () = drain.closing() => End::Closing,
            },
            None => {
                drain.closing().await;
                End::Closing
            }
        }
    }

    /// What is gathered from here on is the reply to a command.
    pub(crate) fn begin_reply(&mut self) {
        self.reply = Reply::At(self.out.len());
    }

    /// Whether the reply to the command began with `+`. It may have been written already.
    pub(crate) fn reply_is_good(&self) -> bool {
        let first = match self.reply {
            Reply::At(at) => self.out.get(at).copied(),
            Reply::Began(first) => Some(first),
        };
        first == Some(b'+')
    }

    /// Puts another stream in the place of this one: made from it, or none when that failed.
    pub(crate) async fn replace_stream(
        &mut self,
        make: impl AsyncFnOnce(Stream) -> io::Result<Stream>,
    ) -> io::Result<()> {
        let stream = self.stream.take().ok_or_else(not_connected)?;
        self.stream = Some(make(stream).await?);
        Ok(())
    }

    /// Waits for octets from the client and hands them to `take`; for no longer than `idle`.
    pub(crate) async fn read(&mut self, idle: Duration, take: impl FnMut(&[u8])) -> Result<(), End> {
        let drain = self.drain.clone();
        let Some(ended) = self.ended.clone() else {
            return tokio::select! {
                // Octets that are there already are worth more than a drain that has just begun.
                biased;
                read = self.read_on(idle, take) => read,
                () = drain.closing() => Err(End::Closing),
            };
        };
        tokio::select! {
            biased;
            () = ended.cancelled() => Err(End::Ended),
            read = self.read_on(idle, take) => read,
            () = drain.closing() => Err(End::Closing),
        }
    }

    /// Waits for octets as [`read`](Self::read) does, in the middle of something that a drain lets finish.
    pub(crate) async fn read_on(&mut self, idle: Duration, mut take: impl FnMut(&[u8])) -> Result<(), End> {
        let stream = self.stream.as_mut().ok_or_else(not_connected)?;
        let over = Instant::now() + idle;
        loop {
            let until = self.watch.as_ref().map_or(over, |watch| watch.next().min(over));
            match tokio::time::timeout_at(until, stream.read_with(&mut take)).await {
                Ok(Ok(0)) => return Err(End::Gone(io::ErrorKind::UnexpectedEof.into())),
                Ok(Ok(octets)) => {
                    self.octets.received.inc_by(octets as u64);
                    // Before anything it said is answered.
                    return match &mut self.watch {
                        Some(watch) => watch.heard().await.map_err(|Lost| End::TakenOver),
                        None => Ok(()),
                    };
                }
                Ok(Err(error)) => return Err(End::Gone(error)),
                Err(_) if until == over => return Err(End::Idle),
                Err(_) => look(&mut self.watch, stream).await,
            }
        }
    }

    /// Why the session shall end at the next command, if it shall.
    pub(crate) fn end(&self) -> Option<End> {
        if self.ended.as_ref().is_some_and(CancellationToken::is_cancelled) {
            return Some(End::Ended);
        }
        self.drain.is_closing().then_some(End::Closing)
    }

    /// Writes what was gathered if it has become much.
    pub(crate) async fn flush_if_full(&mut self) -> Result<(), End> {
        if self.out.len() >= GATHER_OCTETS { self.write_out().await } else { Ok(()) }
    }

    /// Writes what was gathered and frees the memory: the client's turn may last long.
    pub(crate) async fn flush(&mut self) -> Result<(), End> {
        if !self.out.is_empty() {
            self.write_out().await?;
        }
        // Freed even where it was flushed before: an idle session keeps nothing.
        self.out = Vec::new();
        Ok(())
    }

    /// Says the last words and closes, without waiting long for a peer that does not listen. A peer that may
    /// still be sending is let finish (`linger`): closing over unread octets would reset the connection, and
    /// the last words might never be read.
    pub(crate) async fn close(mut self, linger: bool) {
        let Some(mut stream) = self.stream.take() else { return };
        let out = std::mem::take(&mut self.out);
        let goodbye = async {
            if !out.is_empty() {
                stream.write_all(&out).await?;
                self.octets.sent.inc_by(out.len() as u64);
            }
            stream.shutdown().await?;
            let mut left = LINGER_OCTETS;
            while linger && left > 0 {
                match stream.read_with(|_| ()).await? {
                    0 => break,
                    octets => left = left.saturating_sub(octets),
                }
            }
            io::Result::Ok(())
        };
        // The peer may be gone, and that is all right.
        let _ = tokio::time::timeout(GOODBYE, goodbye).await;
    }

    async fn write_out(&mut self) -> Result<(), End> {
        let stream = self.stream.as_mut().ok_or_else(not_connected)?;
        let mut rest = self.out.as_slice();
        let mut over = Instant::now() + self.write_timeout;
        while !rest.is_empty() {
            let until = self.watch.as_ref().map_or(over, |watch| watch.next().min(over));
            match tokio::time::timeout_at(until, stream.write(rest)).await {
                Ok(written) => match written? {
                    0 => return Err(End::Gone(io::ErrorKind::WriteZero.into())),
                    octets => {
                        self.octets.sent.inc_by(octets as u64);
                        rest = &rest[octets..];
                        over = Instant::now() + self.write_timeout;
                    }
                },
                Err(_) if until == over => return Err(End::Stalled),
                Err(_) => look(&mut self.watch, stream).await,
            }
        }
        tokio::time::timeout(self.write_timeout, stream.flush()).await.map_err(|_| End::Stalled)??;
        if let Reply::At(at) = self.reply {
            self.reply = self.out.get(at).map_or(Reply::At(0), |first| Reply::Began(*first));
        }
        self.out.clear();
        Ok(())
    }
}

/// Looks whether the client behind `stream` is still there.
async fn look(watch: &mut Option<Box<Watch>>, stream: &Stream) {
    if let (Some(watch), Some(stream)) = (watch, stream.tcp()) {
        // Boxed: it is seldom, and an idle session keeps room for the largest of what it may wait for.
        Box::pin(watch.look(stream)).await;
    }
}

fn not_connected() -> io::Error {
    io::ErrorKind::NotConnected.into()
}
