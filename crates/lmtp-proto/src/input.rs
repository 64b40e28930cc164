//! What the client sent and nobody used yet.

use std::fmt;

use memchr::{memchr, memmem};

/// The longest command line taken, its CRLF included. RFC 5321 §4.5.3.1.4 demands 512; extensions lengthen
/// MAIL and RCPT (RFC 1870 §3, RFC 6531 §3.4), and senders write longer addresses than they should.
const MAX_LINE_OCTETS: usize = 4096;

const HTTP_METHODS: [&[u8]; 10] = [
    b"GET ",
    b"HEAD ",
    b"POST ",
    b"PUT ",
    b"DELETE ",
    b"OPTIONS ",
    b"CONNECT ",
    b"PATCH ",
    b"TRACE ",
    b"PRI ",
];

/// A command line, without its CRLF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Line<'a> {
    Complete(&'a [u8]),
    /// Over the bound; skipped up to its end, reported once.
    TooLong,
    /// It is not known where the next command begins, so nothing more may be parsed: a line end that is not
    /// CRLF (RFC 5321 §2.3.8), an overlong BDAT whose octets nobody can count, HTTP or TLS.
    OutOfStep,
}

/// A buffer of lines and octets. Empty, it holds no memory.
#[derive(Default)]
pub(crate) struct Input {
    octets: Vec<u8>,
    start: usize,
    /// Up to where there is known to be no LF.
    scanned: usize,
    skipping: Option<Skipping>,
}

/// The rest of an overlong line is being dropped.
struct Skipping {
    is_chunk: bool,
    ends_in_cr: bool,
}

impl Input {
    pub(crate) fn push(&mut self, octets: &[u8]) {
        if self.start > 0 && self.start >= self.octets.len() / 2 {
            self.forget_taken();
        }
        self.octets.extend_from_slice(octets);
    }

    /// The next command line, if a whole one has arrived.
    pub(crate) fn line(&mut self) -> Option<Line<'_>> {
        // The content type of a TLS handshake record: such a peer may never send a line end.
        if self.rest().first() == Some(&0x16) && self.skipping.is_none() {
            return Some(Line::OutOfStep);
        }
        let Some(offset) = memchr(b'\n', &self.octets[self.scanned..]) else {
            self.park();
            return None;
        };
        let line = self.start..self.scanned + offset;
        self.start = line.end + 1;
        self.scanned = self.start;
        let skipped = self.skipping.take();
        let line = &self.octets[line];
        let is_chunk = skipped.as_ref().map_or_else(|| is_chunk(line), |skipped| skipped.is_chunk);
        let ends_in_cr = line.last().map_or_else(
            || skipped.as_ref().is_some_and(|skipped| skipped.ends_in_cr),
            |&octet| octet == b'\r',
        );
        let too_long = skipped.is_some() || line.len() >= MAX_LINE_OCTETS;
        Some(match line.split_last() {
            _ if !ends_in_cr || (too_long && is_chunk) => Line::OutOfStep,
            _ if too_long => Line::TooLong,
            Some((_, line)) if is_http(line) => Line::OutOfStep,
            Some((_, line)) => Line::Complete(line),
            None => Line::OutOfStep,
        })
    }

    /// All that is buffered.
    pub(crate) fn rest(&self) -> &[u8] {
        &self.octets[self.start..]
    }

    /// Uses up the first `octets` of [`Self::rest`].
    pub(crate) fn consume(&mut self, octets: usize) {
        self.start = (self.start + octets).min(self.octets.len());
        self.scanned = self.start;
        if self.start == self.octets.len() {
            self.forget_taken();
        }
    }

    /// What is left has no line end: keep it if it may become a line, and keep nothing else.
    fn park(&mut self) {
        let rest = &self.octets[self.start..];
        match &mut self.skipping {
            Some(skipping) => {
                skipping.ends_in_cr = rest.last().map_or(skipping.ends_in_cr, |&octet| octet == b'\r');
                self.start = self.octets.len();
            }
            None if rest.len() >= MAX_LINE_OCTETS => {
                self.skipping =
                    Some(Skipping { is_chunk: is_chunk(rest), ends_in_cr: rest.ends_with(b"\r") });
                self.start = self.octets.len();
            }
            None => {}
        }
        if self.start > 0 {
            self.forget_taken();
        }
        self.scanned = self.octets.len();
    }

    fn forget_taken(&mut self) {
        self.octets = self.octets[self.start..].to_vec();
        self.scanned = self.scanned.saturating_sub(self.start);
        self.start = 0;
    }
}

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Input({} octets)", self.rest().len())
    }
}

/// Whether the line begins as BDAT does.
pub(crate) fn is_chunk(line: &[u8]) -> bool {
    line.get(..4).is_some_and(|verb| verb.eq_ignore_ascii_case(b"BDAT"))
}

/// Whether the line is of an HTTP request: a browser, or a server-side request someone forged, must not get
/// to the point where its body is read as commands.
fn is_http(line: &[u8]) -> bool {
    line.get(..5).is_some_and(|start| start.eq_ignore_ascii_case(b"host:"))
        || (HTTP_METHODS.iter().any(|method| line.starts_with(method))
            && memmem::find(line, b" HTTP/").is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks the input in one piece and octet by octet. `!` is an overlong line, `?` out of step.
    #[track_caller]
    fn check(octets: &str, expected: &str) {
        for size in [1, octets.len().max(1)] {
            let (mut input, mut lines) = (Input::default(), Vec::new());
            for push in octets.as_bytes().chunks(size) {
                input.push(push);
                while let Some(line) = input.line() {
                    lines.push(match line {
                        Line::Complete(line) => String::from_utf8_lossy(line).into_owned(),
                        Line::TooLong => "!".to_owned(),
                        Line::OutOfStep => "?".to_owned(),
                    });
                    if lines.last().is_some_and(|line| line == "?") {
                        break;
                    }
                }
                if lines.last().is_some_and(|line| line == "?") {
                    break;
                }
                assert!(input.octets.len() < MAX_LINE_OCTETS);
                assert!(!input.rest().is_empty() || input.octets.capacity() == 0);
            }
            assert_eq!(lines.join(","), expected, "in pushes of {size}");
        }
    }

    #[test]
    fn lines_end_in_crlf_only() {
        check("", "");
        check("LHLO a\r\nQUIT\r\n", "LHLO a,QUIT");
        check("\r\n", "");
        check("a\rb\r\n", "a\rb");
        check("QUIT\nNOOP\r\n", "?");
        check("\n", "?");
    }

    #[test]
    fn skips_an_overlong_line_once() {
        let long = "x".repeat(MAX_LINE_OCTETS);
        check(&format!("{}\r\nQUIT\r\n", &long[2..]), &format!("{},QUIT", &long[2..]));
        check(&format!("{}\r\nQUIT\r\n", &long[1..]), "!,QUIT");
        check(&format!("{long}{long}{long}\r\nQUIT\r\n"), "!,QUIT");
        check(&format!("{long}{long}\nQUIT\r\n"), "?");
        check(&format!("bdat {long}\r\nQUIT\r\n"), "?");
    }

    #[test]
    fn other_protocols_are_out_of_step() {
        check("\u{16}\u{3}\u{1}", "?");
        check("GET / HTTP/1.1\r\nMAIL FROM:<>\r\n", "?");
        check("host: a\r\nMAIL FROM:<>\r\n", "?");
        check("NOOP GET / HTTP/1.1\r\n", "NOOP GET / HTTP/1.1");
    }
}
