//! The canonical form of a message.

use memchr::memchr_iter;

/// Brings octets into the form that is stored and counted: a bare LF becomes CRLF, and the last line gets its
/// CRLF. Everything else passes unharmed: bare CR, NUL, 8-bit octets. A message of no octets stays one: a line
/// end would be content that nobody sent.
#[derive(Debug, Default)]
pub struct Canonicaliser {
    octets: u64,
    last: Option<u8>,
}

impl Canonicaliser {
    /// Appends the canonical form of the next octets.
    pub fn push(&mut self, chunk: &[u8], out: &mut Vec<u8>) {
        let Some(&last) = chunk.last() else { return };
        let before = out.len();
        let mut written = 0;
        for line_feed in memchr_iter(b'\n', chunk) {
            let previous = line_feed.checked_sub(1).map_or(self.last, |index| Some(chunk[index]));
            if previous != Some(b'\r') {
                out.extend_from_slice(&chunk[written..line_feed]);
                out.push(b'\r');
                written = line_feed;
            }
        }
        out.extend_from_slice(&chunk[written..]);
        self.last = Some(last);
        self.octets += (out.len() - before) as u64;
    }

    /// Completes the last line.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        // Every LF was written as CRLF, so one at the end is a line end.
        if self.last.is_some_and(|last| last != b'\n') {
            out.extend_from_slice(b"\r\n");
            self.octets += 2;
            self.last = Some(b'\n');
        }
    }

    /// The octets of the canonical form so far.
    pub fn octets(&self) -> u64 {
        self.octets
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn canonical(content: &[u8], size: usize) -> Vec<u8> {
        let (mut canonicaliser, mut out) = (Canonicaliser::default(), Vec::new());
        for chunk in content.chunks(size) {
            canonicaliser.push(chunk, &mut out);
        }
        canonicaliser.finish(&mut out);
        assert_eq!(canonicaliser.octets(), out.len() as u64);
        out
    }

    #[track_caller]
    fn check(content: &str, expected: &str) {
        for size in [1, 2, content.len().max(1)] {
            let canonical = canonical(content.as_bytes(), size);
            assert_eq!(String::from_utf8_lossy(&canonical), expected, "in chunks of {size}");
        }
    }

    #[test]
    fn line_ends_become_crlf() {
        check("a\r\nb\r\n", "a\r\nb\r\n");
        check("a\nb\n", "a\r\nb\r\n");
        check("\n\n", "\r\n\r\n");
        check("a\n\r\n\nb", "a\r\n\r\n\r\nb\r\n");
    }

    #[test]
    fn the_last_line_is_completed() {
        check("", "");
        check("a", "a\r\n");
        check("a\r", "a\r\r\n");
        check("a\n", "a\r\n");
    }

    #[test]
    fn odd_octets_pass() {
        check("a\rb\0\u{e9}\r\n", "a\rb\0\u{e9}\r\n");
        check("\r\r\n", "\r\r\n");
    }

    fn model(content: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        for &octet in content {
            if octet == b'\n' && out.last() != Some(&b'\r') {
                out.push(b'\r');
            }
            out.push(octet);
        }
        if !out.is_empty() && !out.ends_with(b"\r\n") {
            out.extend_from_slice(b"\r\n");
        }
        out
    }

    proptest! {
        #[test]
        fn agrees_with_the_model(
            parts in vec(proptest::sample::select(["\r", "\n", "\r\n", ".", "a", "\0"].as_slice()), 0..40),
            size in 1_usize..9,
        ) {
            let content = parts.concat().into_bytes();
            prop_assert_eq!(canonical(&content, size), model(&content));
        }
    }
}
