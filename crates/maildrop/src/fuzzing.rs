//! Doors for the fuzz targets to what is nobody else's. Not for use.

use crate::downgrade::{AsciiExtra, Downgrade};

/// A message rewritten for clients without UTF-8, and by how much that is announced to be longer.
#[derive(Debug, Default)]
pub struct Downgraded {
    rewritten: Downgrade,
    announced: AsciiExtra,
}

impl Downgraded {
    /// Takes the next octets (canonical: lines end in CRLF), and appends to `out` what they become.
    pub fn push(&mut self, chunk: &[u8], out: &mut Vec<u8>) {
        self.rewritten.push(chunk, out);
        self.announced.push(chunk);
    }

    /// The end of the message: by how many octets it is longer, where its header is not ASCII already.
    pub fn finish(mut self, out: &mut Vec<u8>) -> Option<i64> {
        self.rewritten.finish(out);
        self.announced.finish()
    }
}
