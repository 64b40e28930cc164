//! Pack format version 1, octet by octet. `docs/pack-format.md` is the reference; a test pins both.
//!
//! ```text
//! pack    = header entry* footer trailer
//! entry   = prefix envelope-frame body-frame* summary-frame
//! frame   = frame-header sealed-octets tag
//! ```
//!
//! Integers are little-endian. This module encodes and decodes; it seals nothing, so everything it decodes
//! from inside an entry must have been opened first.

mod entry;
mod envelope;
mod manifest;
mod pack;

pub use entry::{
    BODY_CHUNK_OCTETS, ENTRY_MAGIC, ENVELOPE_OCTETS_MAX, FRAME_HEADER_OCTETS, FRAME_SEALED_OCTETS_MAX,
    FrameHeader, FrameKind, PREFIX_OCTETS, Prefix, SALT_OCTETS, SUMMARY_OCTETS, Summary, TAG_OCTETS,
};
pub use envelope::{decode_envelope, encode_envelope};
pub use manifest::{MANIFEST_TEXT_MAX, ManifestHead};
pub use pack::{
    FOOTER_ENTRIES_MAX, FOOTER_ENTRY_OCTETS, FOOTER_HEAD_OCTETS, FOOTER_MAGIC, FooterEntry,
    PACK_HEADER_OCTETS, PackHeader, TRAILER_OCTETS, Trailer, parse_footer, write_footer,
};

/// Octets that are not of the format, and what is wrong with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub &'static str);

/// Reads fixed-size fields one after the other.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, octets: usize) -> Result<&'a [u8], Malformed> {
        let (field, rest) = self.0.split_at_checked(octets).ok_or(Malformed("field is cut short"))?;
        self.0 = rest;
        Ok(field)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (field, rest) = self.0.split_first_chunk::<N>().ok_or(Malformed("field is cut short"))?;
        self.0 = rest;
        Ok(*field)
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_le_bytes)
    }

    fn end(&self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed("octets follow the last field")) }
    }
}

#[cfg(test)]
mod tests;
