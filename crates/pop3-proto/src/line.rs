//! Splitting the stream into lines, before anything is parsed and in bounded memory.

use std::fmt;

use memchr::memchr;

use crate::foreign;
use crate::wipe::wipe;

/// The longest command line taken, its line end included.
///
/// RFC 2449 §4 lets a client send 255 octets. Twice that, because PASS carries passwords of any length, a
/// character of a UTF-8 password takes up to four octets, and a login name may be a whole mail address.
pub const MAX_LINE_OCTETS: usize = 512;

/// A line of the client's, without its line end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Line<'a> {
    /// A whole line.
    Complete(&'a [u8]),
    /// A line over the bound. It was skipped up to its end and is reported once, here.
    TooLong,
}

/// Gathers what the peer sent and hands it out line by line.
///
/// A line ends in CRLF, or in LF alone from a session typed by hand. An overlong line is dropped as it
/// arrives, up to its LF, so a payload is never read as a command. When every line was taken before the next
/// `push`, no more is held than the bound plus that one push; when nothing is buffered, nothing is allocated,
/// so that an idle session costs no heap.
pub struct LineBuffer {
    bytes: Vec<u8>,
    /// Where the first line not yet handed out begins.
    start: usize,
    /// Up to where there is known to be no line end.
    scanned: usize,
    max_octets: usize,
    /// The bound for a line that begins with AUTH, where it is the higher one.
    max_auth_octets: usize,
    /// The rest of an overlong line is being dropped.
    skipping: bool,
    /// The first octet of the connection.
    first: Option<u8>,
}

impl LineBuffer {
    /// An empty buffer for lines of up to `max_octets`, line end included.
    pub fn new(max_octets: usize) -> Self {
        Self {
            bytes: Vec::new(),
            start: 0,
            scanned: 0,
            max_octets,
            max_auth_octets: 0,
            skipping: false,
            first: None,
        }
    }

    /// Takes in what was read from the peer.
    pub fn push(&mut self, chunk: &[u8]) {
        self.first = self.first.or(chunk.first().copied());
        // Only a driver that pushes again before it took every line gets here with lines handed out.
        if self.start > 0 && self.start >= self.bytes.len() / 2 {
            self.forget_taken();
        }
        let wanted = self.bytes.len() + chunk.len();
        if wanted > self.bytes.capacity() {
            // Doubling up to the bound keeps octet-by-octet input linear without going past the promise.
            let capacity = wanted.max((2 * self.bytes.len()).min(self.limit(self.start)));
            self.bytes.reserve_exact(capacity - self.bytes.len());
        }
        self.bytes.extend_from_slice(chunk);
    }

    /// The next line, if a whole one has arrived. Takes time in the length of that line only.
    pub fn next_line(&mut self) -> Option<Line<'_>> {
        let Some(offset) = memchr(b'\n', &self.bytes[self.scanned..]) else {
            self.park();
            return None;
        };
        let end = self.scanned + offset;
        let line = self.start..end;
        self.start = end + 1;
        self.scanned = end + 1;
        if std::mem::take(&mut self.skipping) || line.len() >= self.limit(line.start) {
            return Some(Line::TooLong);
        }
        let line = &self.bytes[line];
        Some(Line::Complete(line.strip_suffix(b"\r").unwrap_or(line)))
    }

    /// Whether nothing is buffered behind the lines already handed out. After STLS anything else is an
    /// injection (RFC 2595 §4).
    pub fn is_empty(&self) -> bool {
        self.buffered() == 0
    }

    /// How many octets are buffered behind the lines already handed out.
    pub fn buffered(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// Whether the connection began as TLS does. Such a peer may never send a line end, so the driver asks
    /// after each push of a plaintext connection and hangs up.
    pub fn is_tls_client_hello(&self) -> bool {
        self.first == Some(foreign::TLS_HANDSHAKE)
    }

    /// Changes the bound for lines not yet split: a SASL exchange has longer ones than commands.
    pub fn set_max_octets(&mut self, max_octets: usize) {
        self.max_octets = max_octets;
    }

    /// Changes the bound for lines that begin with AUTH: an initial response is as long as any token
    /// (RFC 5034 §4 bids clients not to, and those with OAuth tokens do). 0 for none of its own.
    pub fn set_max_auth_octets(&mut self, max_octets: usize) {
        self.max_auth_octets = max_octets;
    }

    /// The bound for the line that begins at `start`.
    fn limit(&self, start: usize) -> usize {
        let is_auth = |line: &[u8]| line.get(..5).is_some_and(|begin| begin.eq_ignore_ascii_case(b"AUTH "));
        if self.max_auth_octets > self.max_octets && is_auth(&self.bytes[start..]) {
            self.max_auth_octets
        } else {
            self.max_octets
        }
    }

    /// What is left has no line end: keep it if it may become a line, and keep nothing else.
    fn park(&mut self) {
        if self.skipping || self.buffered() >= self.limit(self.start) {
            self.skipping |= !self.is_empty();
            self.start = self.bytes.len();
        }
        if self.start > 0 || self.bytes.is_empty() {
            self.forget_taken();
        }
        self.scanned = self.bytes.len();
    }

    fn forget_taken(&mut self) {
        let rest = self.bytes[self.start..].to_vec();
        wipe(&mut self.bytes);
        self.scanned = self.scanned.saturating_sub(self.start);
        self.start = 0;
        self.bytes = rest;
    }
}

impl Default for LineBuffer {
    fn default() -> Self {
        Self::new(MAX_LINE_OCTETS)
    }
}

impl Drop for LineBuffer {
    fn drop(&mut self) {
        wipe(&mut self.bytes);
    }
}

// Neither prints what it holds: a line may be a password.
impl fmt::Debug for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Complete(line) => write!(f, "Complete({} octets)", line.len()),
            Self::TooLong => f.write_str("TooLong"),
        }
    }
}

impl fmt::Debug for LineBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LineBuffer").field("buffered", &self.buffered()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `|` parts the pushes; lines are joined by `,` and an overlong one is `!`. The bound is 8 octets.
    #[track_caller]
    fn check(pushes: &str, expected: &str) {
        let mut buffer = LineBuffer::new(8);
        let mut lines = Vec::new();
        for push in pushes.split('|') {
            buffer.push(push.as_bytes());
            while let Some(line) = buffer.next_line() {
                lines.push(match line {
                    Line::Complete(line) => String::from_utf8_lossy(line).into_owned(),
                    Line::TooLong => "!".to_owned(),
                });
            }
            assert!(buffer.bytes.capacity() <= 8 + push.len(), "holds {} octets", buffer.bytes.capacity());
            assert!(!buffer.is_empty() || buffer.bytes.capacity() == 0, "an empty buffer holds memory");
        }
        assert_eq!(lines.join(","), expected);
    }

    #[test]
    fn splits_lines() {
        check("", "");
        check("a\r\nb\r\n", "a,b");
        check("a\nb\r\n", "a,b");
        check("a\r|\nb|\r\n|c", "a,b");
        check("\r\n\n", ",");
        check("a\rb\r\r\n", "a\rb\r");
    }

    #[test]
    fn skips_an_overlong_line_once() {
        check("123456\r\n", "123456");
        check("1234567\n", "1234567");
        check("1234567\r\n", "!");
        check("12345678\n", "!");
        check("12345678|9|0|USER x\r\nb\n", "!,b");
        check("1234567|8\r\nb\n", "!,b");
        check("12345678|\nb\n|123456789\n", "!,b,!");
    }

    #[test]
    fn holds_octet_by_octet_input_in_bounds() {
        check(&"x|".repeat(40), "");
    }

    #[test]
    fn pipelined_lines_are_not_shifted() {
        let mut buffer = LineBuffer::default();
        buffer.push(&b"RETR 1\r\n".repeat(100_000));
        let held = buffer.bytes.as_ptr();
        for left in (0..100_000).rev() {
            assert!(matches!(buffer.next_line(), Some(Line::Complete(b"RETR 1"))));
            assert_eq!((buffer.buffered(), buffer.bytes.as_ptr()), (left * 8, held));
        }
        assert!(buffer.next_line().is_none() && buffer.bytes.capacity() == 0);
    }

    #[test]
    fn pushing_before_every_line_was_taken_loses_nothing() {
        let mut buffer = LineBuffer::new(8);
        buffer.push(b"a\nb\nc\nd");
        for expected in [b"a", b"b", b"c"] {
            assert_eq!(buffer.next_line(), Some(Line::Complete(expected)));
        }
        buffer.push(b"e\nf\n");
        assert_eq!(buffer.next_line(), Some(Line::Complete(b"de")));
        assert_eq!(buffer.next_line(), Some(Line::Complete(b"f")));
    }

    #[test]
    fn auth_may_be_longer() {
        let mut buffer = LineBuffer::new(16);
        buffer.set_max_auth_octets(40);
        let token = "x".repeat(30);
        for line in [
            format!("auth {token}"),
            format!("AUTX {token}"),
            "AUTH x".into(),
            format!("AUTH {token}{token}"),
        ] {
            for octet in line.bytes().chain(*b"\r\n") {
                buffer.push(&[octet]);
                assert!(buffer.bytes.capacity() <= 41);
                if octet != b'\n' {
                    assert_eq!(buffer.next_line(), None);
                }
            }
            let expected = if line.len() < 40 && line.to_uppercase().starts_with("AUTH ") {
                Line::Complete(line.as_bytes())
            } else {
                Line::TooLong
            };
            assert_eq!(buffer.next_line(), Some(expected), "{line}");
        }
    }

    #[test]
    fn knows_tls_by_its_first_octet() {
        let mut buffer = LineBuffer::default();
        assert!(!buffer.is_tls_client_hello());
        buffer.push(&[]);
        buffer.push(&[0x16, 3, 1, 2]);
        assert!(buffer.is_tls_client_hello());
        let mut buffer = LineBuffer::default();
        buffer.push(b"U\x16");
        buffer.push(b"\x16");
        assert!(!buffer.is_tls_client_hello());
    }

    #[test]
    fn debug_shows_no_content() {
        let mut buffer = LineBuffer::default();
        buffer.push(b"PASS secret\r\n");
        assert!(!format!("{buffer:?}").contains("secret"));
        assert!(!format!("{:?}", buffer.next_line()).contains("secret"));
    }
}
