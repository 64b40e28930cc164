//! An entry: prefix, frames and summary.

use maildrop::{Digest, Measured};

use super::{Fields, Malformed};

/// First octets of every entry.
pub const ENTRY_MAGIC: &[u8; 4] = b"PENT";
/// The only version so far. It stands for everything inside the entry: key derivation, cipher, compression
/// and the encoding of envelope and summary.
const VERSION: u8 = 1;
/// Octets of an entry's salt.
pub const SALT_OCTETS: usize = 32;
/// Octets of an entry before its first frame.
pub const PREFIX_OCTETS: usize = 40;
/// Octets of a frame before what is sealed.
pub const FRAME_HEADER_OCTETS: usize = 12;
/// Octets of an AES-GCM tag.
pub const TAG_OCTETS: usize = 16;
/// Plain octets of a body chunk; only the last may have fewer. Large enough for zstd to find most of what
/// there is to find in mail, small enough that TOP fetches little and a session holds little.
pub const BODY_CHUNK_OCTETS: usize = 64 * 1024;
/// Most octets of an encoded envelope: more than 10,000 recipients of the longest addresses.
pub const ENVELOPE_OCTETS_MAX: usize = 4 * 1024 * 1024;
/// Octets of an encoded summary.
pub const SUMMARY_OCTETS: usize = 56;
/// Most octets after a frame header: what a reader may have to buffer.
pub const FRAME_SEALED_OCTETS_MAX: usize = ENVELOPE_OCTETS_MAX + TAG_OCTETS;

const FLAG_COMPRESSED: u8 = 1;
const FLAG_FINAL: u8 = 2;

/// The plain beginning of an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Prefix {
    /// Random, and never used twice: the entry's key is derived from it.
    pub salt: [u8; SALT_OCTETS],
}

impl Prefix {
    /// The prefix as it stands at the beginning of the entry.
    pub fn to_octets(self) -> [u8; PREFIX_OCTETS] {
        let mut out = [0; PREFIX_OCTETS];
        out[..4].copy_from_slice(ENTRY_MAGIC);
        out[4] = VERSION;
        // 5: reserved; 6..8: which of the tenant's data keys sealed it, only the first so far.
        out[8..].copy_from_slice(&self.salt);
        out
    }

    /// Reads a prefix.
    pub fn parse(octets: &[u8; PREFIX_OCTETS]) -> Result<Self, Malformed> {
        let mut fields = Fields(octets);
        if fields.array()? != *ENTRY_MAGIC {
            return Err(Malformed("no entry begins here"));
        }
        let [version, reserved] = fields.array()?;
        if version != VERSION || reserved != 0 {
            return Err(Malformed("entry is of another version"));
        }
        if fields.u16()? != 0 {
            return Err(Malformed("entry is sealed with an unknown data key"));
        }
        Ok(Self { salt: fields.array()? })
    }
}

/// What a frame holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrameKind {
    /// The envelope: the first frame, once.
    Envelope,
    /// A chunk of the message.
    Body,
    /// What was measured of the message: the last frame, once, and the only one marked final.
    Summary,
}

/// The plain beginning of a frame. It is part of what the frame's tag covers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameHeader {
    /// What it holds.
    pub kind: FrameKind,
    /// Whether zstd was applied before sealing.
    pub compressed: bool,
    /// Octets before compression.
    pub plain_octets: u32,
    /// Octets that follow this header: compressed and sealed, the tag included.
    pub sealed_octets: u32,
}

impl FrameHeader {
    /// The header as it stands at the beginning of the frame.
    pub fn to_octets(self) -> [u8; FRAME_HEADER_OCTETS] {
        let (kind, last) = match self.kind {
            FrameKind::Envelope => (1, 0),
            FrameKind::Body => (2, 0),
            FrameKind::Summary => (3, FLAG_FINAL),
        };
        let mut out = [0; FRAME_HEADER_OCTETS];
        out[0] = kind;
        out[1] = last | if self.compressed { FLAG_COMPRESSED } else { 0 };
        // 2..4: reserved.
        out[4..8].copy_from_slice(&self.plain_octets.to_le_bytes());
        out[8..].copy_from_slice(&self.sealed_octets.to_le_bytes());
        out
    }

    /// Reads a header. What it gives back is within the limits of its kind, so a reader may allocate by it.
    pub fn parse(octets: &[u8; FRAME_HEADER_OCTETS]) -> Result<Self, Malformed> {
        let mut fields = Fields(octets);
        let [kind, flags, reserved @ ..]: [u8; 4] = fields.array()?;
        let plain_octets = fields.u32()?;
        let sealed_octets = fields.u32()?;
        let plain = plain_octets as usize;
        let (kind, fits, last) = match kind {
            1 => (FrameKind::Envelope, plain <= ENVELOPE_OCTETS_MAX, 0),
            2 => (FrameKind::Body, (1..=BODY_CHUNK_OCTETS).contains(&plain), 0),
            3 => (FrameKind::Summary, plain == SUMMARY_OCTETS, FLAG_FINAL),
            _ => return Err(Malformed("frame is of an unknown kind")),
        };
        if flags & !FLAG_COMPRESSED != last || reserved != [0; 2] {
            return Err(Malformed("frame has unknown flags"));
        }
        let compressed = flags & FLAG_COMPRESSED != 0;
        let fits = fits
            && match (sealed_octets as usize).checked_sub(TAG_OCTETS) {
                Some(octets) if compressed => octets < plain,
                Some(octets) => octets == plain,
                None => false,
            };
        if !fits {
            return Err(Malformed("frame has an impossible size"));
        }
        Ok(Self { kind, compressed, plain_octets, sealed_octets })
    }
}

/// What the last frame says of the message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Summary {
    /// Octets, header octets and digest of the message.
    pub measured: Measured,
    /// Body frames in the entry.
    pub chunks: u64,
}

impl Summary {
    /// The summary as it is sealed.
    pub fn to_octets(self) -> [u8; SUMMARY_OCTETS] {
        let mut out = [0; SUMMARY_OCTETS];
        out[..8].copy_from_slice(&self.measured.octets.to_le_bytes());
        out[8..16].copy_from_slice(&self.measured.header_octets.to_le_bytes());
        out[16..48].copy_from_slice(&self.measured.digest.0);
        out[48..].copy_from_slice(&self.chunks.to_le_bytes());
        out
    }

    /// Reads a summary.
    pub fn parse(octets: &[u8]) -> Result<Self, Malformed> {
        let mut fields = Fields(octets);
        let octets = fields.u64()?;
        let header_octets = fields.u64()?;
        let digest = Digest(fields.array()?);
        let chunks = fields.u64()?;
        fields.end()?;
        Ok(Self { measured: Measured { octets, header_octets, digest }, chunks })
    }
}
