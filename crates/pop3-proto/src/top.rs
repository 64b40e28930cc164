//! How much of a message TOP shows (RFC 1939 §7).

use memchr::memchr;

/// Measures the answer to TOP while the canonical message streams by: header, blank line, and so many lines
/// of the body. A message without a blank line is all header; one with fewer lines is shown whole.
#[derive(Debug)]
pub struct TopLimit {
    part: Part,
    body_lines: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// In the header, at the start of a line.
    HeaderLine,
    /// In the header, behind a CR that began the line.
    HeaderCr,
    /// In the header, within a line that is not blank.
    HeaderText,
    /// In the body, with this many lines to go.
    Body(u64),
}

impl TopLimit {
    /// For the header and `lines` lines of the body.
    pub fn new(lines: u64) -> Self {
        Self { part: Part::HeaderLine, body_lines: lines }
    }

    /// How many leading octets of `chunk` belong to the answer. Fewer than all of them only if it is done.
    pub fn push(&mut self, chunk: &[u8]) -> usize {
        let mut taken = 0;
        while taken < chunk.len() && !self.done() {
            taken += self.advance(&chunk[taken..]);
        }
        taken
    }

    /// Whether the answer is complete. The end of the message completes it too.
    pub fn done(&self) -> bool {
        self.part == Part::Body(0)
    }

    /// Goes on by at least one octet of `rest`, which is not empty.
    fn advance(&mut self, rest: &[u8]) -> usize {
        match (self.part, rest[0]) {
            (Part::HeaderLine | Part::HeaderCr, b'\n') => {
                self.part = Part::Body(self.body_lines);
                1
            }
            (Part::HeaderLine, b'\r') => {
                self.part = Part::HeaderCr;
                1
            }
            (Part::HeaderLine | Part::HeaderCr | Part::HeaderText, _) => {
                let line_feed = memchr(b'\n', rest);
                self.part = if line_feed.is_some() { Part::HeaderLine } else { Part::HeaderText };
                line_feed.map_or(rest.len(), |line_feed| line_feed + 1)
            }
            (Part::Body(lines), _) => match memchr(b'\n', rest) {
                Some(line_feed) => {
                    self.part = Part::Body(lines.saturating_sub(1));
                    line_feed + 1
                }
                None => rest.len(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks the message in one piece and octet by octet.
    #[track_caller]
    fn check(message: &str, lines: u64, expected: &str) {
        for size in [1, message.len().max(1)] {
            let mut limit = TopLimit::new(lines);
            let taken: usize = message.as_bytes().chunks(size).map(|chunk| limit.push(chunk)).sum();
            assert_eq!(&message[..taken], expected, "in chunks of {size}");
        }
    }

    #[test]
    fn counts_body_lines_only() {
        let message = "A: b\r\nC: d\r\n\r\none\r\n\r\nthree\r\n";
        check(message, 0, "A: b\r\nC: d\r\n\r\n");
        check(message, 1, "A: b\r\nC: d\r\n\r\none\r\n");
        check(message, 2, "A: b\r\nC: d\r\n\r\none\r\n\r\n");
        check(message, 3, message);
        check(message, 4, message);
        check(message, u64::MAX, message);
    }

    #[test]
    fn odd_messages() {
        check("", 1, "");
        check("A: b\r\n", 0, "A: b\r\n");
        check("A: b", 0, "A: b");
        check("A: b\r\n\r\n", 5, "A: b\r\n\r\n");
        check("\r\nbody\r\n", 0, "\r\n");
        check("\r\nbody\r\n", 1, "\r\nbody\r\n");
        check("A: b\r\n\rc\r\n\r\nx\r\n", 0, "A: b\r\n\rc\r\n\r\n");
        check("A: b\r\n\r\r\nx\r\n", 0, "A: b\r\n\r\r\nx\r\n");
        check("A: b\n\nx\ny\n", 1, "A: b\n\nx\n");
        check("A: b\r\n\r\nno end", 1, "A: b\r\n\r\nno end");
    }

    #[test]
    fn says_when_it_is_done() {
        let mut limit = TopLimit::new(0);
        assert_eq!((limit.push(b"A: b\r\n\r"), limit.done()), (7, false));
        assert_eq!((limit.push(b"\nbody"), limit.done()), (1, true));
        assert_eq!((limit.push(b"more"), limit.done()), (0, true));
    }
}
