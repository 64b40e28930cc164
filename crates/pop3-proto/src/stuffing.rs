//! Byte-stuffing of multi-line answers (RFC 1939 §3).

use memchr::memmem::Finder;

/// Byte-stuffs a message that arrives in chunks: a line that begins with the termination octet gets another
/// one, and the end is marked. The content's octets pass through otherwise unchanged.
///
/// A line begins after LF, with or without a CR before it. In canonical content there is no bare LF; should
/// one get here, stuffing behind it keeps a lenient client from seeing an end that is none.
#[derive(Debug)]
pub struct ByteStuffer {
    /// Finds the dots to double. A search for the pair runs at the speed of memory where one for line ends
    /// or for dots would stop every few dozen octets.
    line_start_dot: Finder<'static>,
    /// The last two octets that were pushed, as far as they matter.
    tail: Tail,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tail {
    /// Nothing yet, or CRLF: a line begins here, and the content may end here.
    LineStart,
    /// LF without CR: a line begins here.
    BareLf,
    /// CR, which may become CRLF.
    Cr,
    /// Anything else.
    Within,
}

impl ByteStuffer {
    /// Ready for the first octet of a message.
    pub fn new() -> Self {
        Self { line_start_dot: Finder::new(b"\n."), tail: Tail::LineStart }
    }

    /// Appends the next octets of the content to `out`, stuffed.
    pub fn push(&mut self, chunk: &[u8], out: &mut Vec<u8>) {
        let Some(&first) = chunk.first() else { return };
        // Dots are rare: room for a few, and the vector grows if there are more.
        out.reserve(chunk.len() + 16);
        if first == b'.' && matches!(self.tail, Tail::LineStart | Tail::BareLf) {
            out.push(b'.');
        }
        let mut rest = chunk;
        while let Some(line_feed) = self.line_start_dot.find(rest) {
            let (line, next) = rest.split_at(line_feed + 1);
            out.extend_from_slice(line);
            out.push(b'.');
            rest = next;
        }
        out.extend_from_slice(rest);
        self.tail = match chunk {
            [.., b'\r', b'\n'] => Tail::LineStart,
            [b'\n'] if self.tail == Tail::Cr => Tail::LineStart,
            [.., b'\n'] => Tail::BareLf,
            [.., b'\r'] => Tail::Cr,
            _ => Tail::Within,
        };
    }

    /// Ends the answer: `.` and CRLF, on a line of their own, in one piece.
    pub fn finish(self, out: &mut Vec<u8>) {
        if self.tail != Tail::LineStart {
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b".\r\n");
    }
}

impl Default for ByteStuffer {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks the content in one piece and octet by octet.
    #[track_caller]
    fn check(content: &str, expected: &str) {
        for size in [1, content.len().max(1)] {
            let mut stuffer = ByteStuffer::new();
            let mut out = Vec::new();
            for chunk in content.as_bytes().chunks(size) {
                stuffer.push(chunk, &mut out);
            }
            stuffer.finish(&mut out);
            assert_eq!(String::from_utf8_lossy(&out), expected, "in chunks of {size}");
        }
    }

    #[test]
    fn stuffs_a_leading_dot() {
        check(".\r\n", "..\r\n.\r\n");
        check("a\r\n.b\r\n..c\r\n.\r\n", "a\r\n..b\r\n...c\r\n..\r\n.\r\n");
        check("a.b\r\n. \r\n", "a.b\r\n.. \r\n.\r\n");
    }

    #[test]
    fn ends_on_a_line_of_its_own() {
        check("", ".\r\n");
        check("a", "a\r\n.\r\n");
        check(".", "..\r\n.\r\n");
        check("a\r\n.", "a\r\n..\r\n.\r\n");
        check("a\r", "a\r\r\n.\r\n");
        check("a\r\n", "a\r\n.\r\n");
        check("\r\n", "\r\n.\r\n");
    }

    #[test]
    fn passes_odd_octets_through() {
        check("a\rb\0\u{e9}\r\n", "a\rb\0\u{e9}\r\n.\r\n");
        check("a\n.\nb\r\n", "a\n..\nb\r\n.\r\n");
        check("a\r.\r\n", "a\r.\r\n.\r\n");
        check("a\n", "a\n\r\n.\r\n");
    }
}
