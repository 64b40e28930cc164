//! Measuring a message while it streams by.

use crate::Digest;

/// Counts octets, finds the end of the header and hashes, chunk by chunk.
#[derive(Debug, Default)]
pub struct Measure {
    octets: u64,
    header_octets: Option<u64>,
    /// The last octets seen (at most 3), to find CRLF CRLF across chunks.
    tail: Tail,
    hasher: blake3::Hasher,
}

/// What [`Measure`] found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Measured {
    /// Octets in all.
    pub octets: u64,
    /// Octets up to and including the blank line; all of them where there is no blank line.
    pub header_octets: u64,
    /// BLAKE3 of the octets.
    pub digest: Digest,
}

/// How far into CRLF CRLF the text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Tail {
    #[default]
    /// At the start of a line: the text so far is empty or ends in CRLF.
    LineStart,
    /// CR at the start of a line.
    LineStartCr,
    /// Within a line.
    Within,
    /// Within a line, after CR.
    WithinCr,
}

impl Measure {
    /// Takes the next octets of the message.
    pub fn update(&mut self, chunk: &[u8]) {
        self.hasher.update(chunk);
        if self.header_octets.is_none() {
            self.scan_header(chunk);
        }
        self.octets += chunk.len() as u64;
    }

    /// Octets so far.
    pub fn octets(&self) -> u64 {
        self.octets
    }

    /// What was found, once the message is complete.
    pub fn finish(self) -> Measured {
        Measured {
            octets: self.octets,
            header_octets: self.header_octets.unwrap_or(self.octets),
            digest: Digest(*self.hasher.finalize().as_bytes()),
        }
    }

    fn scan_header(&mut self, chunk: &[u8]) {
        for (i, byte) in chunk.iter().enumerate() {
            self.tail = match (self.tail, byte) {
                (Tail::LineStart, b'\r') => Tail::LineStartCr,
                (Tail::LineStartCr, b'\n') => {
                    self.header_octets = Some(self.octets + i as u64 + 1);
                    return;
                }
                (Tail::WithinCr, b'\n') => Tail::LineStart,
                (_, b'\r') => Tail::WithinCr,
                _ => Tail::Within,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &[u8], header_octets: u64) {
        for split in 0..=text.len() {
            let mut measure = Measure::default();
            measure.update(&text[..split]);
            measure.update(&text[split..]);
            let found = measure.finish();
            assert_eq!(found.header_octets, header_octets, "split at {split}");
            assert_eq!(found.octets, text.len() as u64);
            assert_eq!(found.digest.0, *blake3::hash(text).as_bytes());
        }
    }

    #[test]
    fn finds_the_blank_line_at_every_split() {
        check(b"A: b\r\nC: d\r\n\r\nbody\r\n\r\nmore\r\n", 14);
        check(b"\r\nbody\r\n", 2);
        check(b"A: b\r\n", 6);
        check(b"", 0);
        check(b"A: \r\r\n\r\nx\r\n", 8);
        check(b"A\r\n\r\r\n\r\n", 8);
    }
}
