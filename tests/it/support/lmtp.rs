//! An LMTP client that waits for each reply.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

pub(crate) struct Lmtp {
    stream: BufReader<TcpStream>,
    pub(crate) greeting: String,
}

impl Lmtp {
    /// Connects and says LHLO.
    pub(crate) fn connect(addr: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect(addr)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let mut lmtp = Self { stream: BufReader::new(stream), greeting: String::new() };
        lmtp.greeting = lmtp.reply()?;
        lmtp.command("LHLO client.example")?;
        Ok(lmtp)
    }

    /// Sends a line and reads the reply's last line.
    pub(crate) fn command(&mut self, line: &str) -> std::io::Result<String> {
        self.send(format!("{line}\r\n").as_bytes())?;
        self.reply()
    }

    pub(crate) fn send(&mut self, octets: &[u8]) -> std::io::Result<()> {
        self.stream.get_mut().write_all(octets)
    }

    pub(crate) fn reply(&mut self) -> std::io::Result<String> {
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line)? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            if line.as_bytes().get(3) != Some(&b'-') {
                return Ok(line.trim_end().to_owned());
            }
        }
    }

    /// One transaction: the replies of the recipients, those to RCPT where they were refused.
    pub(crate) fn deliver(&mut self, to: &[&str], message: &[u8]) -> std::io::Result<Vec<String>> {
        self.command("MAIL FROM:<sender@example.org>")?;
        let mut replies = Vec::new();
        let mut accepted = Vec::new();
        for (i, to) in to.iter().enumerate() {
            let reply = self.command(&format!("RCPT TO:<{to}>"))?;
            if reply.starts_with("250") {
                accepted.push(i);
            }
            replies.push(reply);
        }
        if accepted.is_empty() {
            self.command("RSET")?;
            return Ok(replies);
        }
        let go = self.command("DATA")?;
        if !go.starts_with("354") {
            return Ok(vec![go; to.len()]);
        }
        self.send(&stuffed(message))?;
        for i in accepted {
            replies[i] = self.reply()?;
        }
        Ok(replies)
    }
}

/// A message as it goes over the wire after DATA.
fn stuffed(message: &[u8]) -> Vec<u8> {
    let mut wire = Vec::with_capacity(message.len() + 100);
    for line in message.split_inclusive(|b| *b == b'\n') {
        if line.starts_with(b".") {
            wire.push(b'.');
        }
        wire.extend_from_slice(line);
    }
    if !wire.ends_with(b"\r\n") {
        wire.extend_from_slice(b"\r\n");
    }
    wire.extend_from_slice(b".\r\n");
    wire
}

/// Delivers a message that must be taken.
#[track_caller]
pub(crate) fn deliver(addr: SocketAddr, to: &str, message: &[u8]) {
    let replies = Lmtp::connect(addr).unwrap().deliver(&[to], message).unwrap();
    assert!(replies[0].starts_with("250"), "{replies:?}");
}

/// Delivers a message; `true` only if it was acknowledged.
pub(crate) fn try_deliver(addr: SocketAddr, to: &str, message: &[u8]) -> bool {
    let deliver = || Lmtp::connect(addr)?.deliver(&[to], message);
    deliver().is_ok_and(|replies| replies[0].starts_with("250"))
}
