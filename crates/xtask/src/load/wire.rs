//! A connection that speaks in lines: POP3 and LMTP from the client's side.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

/// No step of a measurement takes this long unless something hangs.
const PATIENCE: Duration = Duration::from_mins(2);
const CHUNK: usize = 128 * 1024;

/// Plain TCP or TLS.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

/// A connection with what was read of it but not used yet.
pub(crate) struct Wire {
    stream: Box<dyn Duplex>,
    buffer: Vec<u8>,
    used: usize,
    /// Whether the last read filled the room there was, so that more is worth having.
    filled: bool,
}

/// What came of a multi-line answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Body {
    /// All octets, status line and termination octet included.
    pub(crate) octets: u64,
    /// From the command to the first octets of the answer's second line.
    pub(crate) first_octet: Duration,
}

impl Wire {
    /// Connects over TCP.
    pub(crate) async fn connect(address: SocketAddr) -> anyhow::Result<Self> {
        Ok(Self::new(tcp(address, None).await?))
    }

    /// Takes over a stream.
    pub(crate) fn new(stream: impl Duplex + 'static) -> Self {
        Self { stream: Box::new(stream), buffer: Vec::new(), used: 0, filled: false }
    }

    /// Sends octets.
    pub(crate) async fn send(&mut self, octets: &[u8]) -> anyhow::Result<()> {
        let sent = async {
            self.stream.write_all(octets).await?;
            self.stream.flush().await
        };
        timeout(PATIENCE, sent).await.context("send: timed out")?.context("send")
    }

    /// Reads a line, without its end.
    pub(crate) async fn line(&mut self) -> anyhow::Result<&[u8]> {
        let mut looked = self.used;
        loop {
            if let Some(at) = self.buffer[looked..].iter().position(|octet| *octet == b'\n') {
                let line = self.used..looked + at;
                self.used = looked + at + 1;
                return Ok(self.buffer[line].trim_ascii_end());
            }
            looked = self.buffer.len();
            if self.used > 0 && self.used == self.buffer.len() {
                self.buffer.clear();
                self.used = 0;
                looked = 0;
            }
            if self.fill().await? == 0 {
                bail!("the server closed the connection");
            }
        }
    }

    /// Reads a line that must begin like this, past the earlier lines of a multi-line SMTP reply.
    pub(crate) async fn expect(&mut self, start: &str) -> anyhow::Result<()> {
        loop {
            let line = self.line().await?;
            if !line.starts_with(start.as_bytes()) {
                bail!("expected {start}, got {:?}", String::from_utf8_lossy(line));
            }
            if line.get(3) != Some(&b'-') || start == "+OK" {
                return Ok(());
            }
        }
    }

    /// Sends a command and reads an answer of one line.
    pub(crate) async fn ask(&mut self, command: &str, start: &str) -> anyhow::Result<()> {
        self.send(command.as_bytes()).await?;
        self.expect(start).await.with_context(|| command.trim_end().to_owned())
    }

    /// Sends a POP3 command and reads its multi-line answer. Nothing may be pipelined behind it: then the
    /// termination octet can only be the last thing read, and looking at the end of what came is enough.
    pub(crate) async fn fetch(&mut self, command: &str) -> anyhow::Result<Body> {
        let start = Instant::now();
        self.send(command.as_bytes()).await?;
        let status = self.line().await?;
        if !status.starts_with(b"+OK") {
            bail!("{}: {}", command.trim_end(), String::from_utf8_lossy(status));
        }
        let mut octets = status.len() as u64 + 2;
        let mut first_octet = None;
        // The status line's own end counts as the line end before the termination octet.
        let mut tail = *b"\0\0\0\r\n";
        loop {
            let fresh = &self.buffer[self.used..];
            if !fresh.is_empty() {
                first_octet.get_or_insert_with(|| start.elapsed());
                octets += fresh.len() as u64;
                for octet in fresh.iter().skip(fresh.len().saturating_sub(5)) {
                    tail.rotate_left(1);
                    tail[4] = *octet;
                }
            }
            self.buffer.clear();
            self.used = 0;
            if &tail == b"\r\n.\r\n" {
                return Ok(Body { octets, first_octet: first_octet.unwrap_or_default() });
            }
            if self.fill().await? == 0 {
                bail!("the server closed the connection inside a message");
            }
        }
    }

    /// Reads exactly so many octets and forgets them.
    pub(crate) async fn skip(&mut self, octets: u64) -> anyhow::Result<()> {
        let mut left = octets;
        loop {
            let here = ((self.buffer.len() - self.used) as u64).min(left);
            self.used += here as usize;
            left -= here;
            if left == 0 {
                return Ok(());
            }
            self.buffer.clear();
            self.used = 0;
            if self.fill().await? == 0 {
                bail!("the server closed the connection inside a body");
            }
        }
    }

    /// Reads exactly so many octets.
    pub(crate) async fn take(&mut self, octets: usize) -> anyhow::Result<Vec<u8>> {
        while self.buffer.len() - self.used < octets {
            if self.fill().await? == 0 {
                bail!("the server closed the connection inside a body");
            }
        }
        let taken = self.buffer[self.used..self.used + octets].to_vec();
        self.used += octets;
        Ok(taken)
    }

    async fn fill(&mut self) -> anyhow::Result<usize> {
        // An idle connection holds little room: thousands of them are opened at once.
        if self.filled {
            self.buffer.reserve((2 * self.buffer.capacity()).min(CHUNK));
        } else if self.buffer.len() == self.buffer.capacity() {
            self.buffer.reserve(512);
        }
        let read = self.stream.read_buf(&mut self.buffer);
        let octets = timeout(PATIENCE, read).await.context("read: timed out")?.context("read")?;
        self.filled = self.buffer.len() == self.buffer.capacity();
        Ok(octets)
    }
}

/// A TCP connection, from a given local address if there is one.
pub(crate) async fn tcp(address: SocketAddr, source: Option<SocketAddr>) -> anyhow::Result<TcpStream> {
    let socket = TcpSocket::new_v4().context("make socket")?;
    if let Some(source) = source {
        socket.bind(source).context("bind source address")?;
    }
    let stream = timeout(PATIENCE, socket.connect(address)).await.context("connect: timed out")?;
    let stream = stream.with_context(|| format!("connect to {address}"))?;
    stream.set_nodelay(true).context("set TCP_NODELAY")?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn finds_the_end_of_a_message_wherever_it_is_cut() {
        let answer = b"+OK follows\r\nSubject: x\r\n\r\n..\r\nend\r\n.\r\n";
        for cut in 1..answer.len() {
            let (ours, mut theirs) = tokio::io::duplex(4096);
            let server = tokio::spawn(async move {
                let mut command = [0; 8];
                theirs.read_exact(&mut command).await.expect("command");
                theirs.write_all(&answer[..cut]).await.expect("first part");
                tokio::task::yield_now().await;
                theirs.write_all(&answer[cut..]).await.expect("second part");
                theirs
            });
            let mut wire = Wire::new(ours);
            let body = wire.fetch("RETR 1\r\n").await.expect("a whole message");
            assert_eq!(body.octets, answer.len() as u64, "cut at {cut}");
            server.await.expect("server");
        }
    }
}
