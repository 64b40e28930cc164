//! What is around the entries: pack header, footer index and trailer. None of it is needed to read an entry
//! at a known extent; all of it is checked by the scanner.

use maildrop::{PackId, TenantId};
use uuid::Uuid;

use super::{Fields, Malformed};

/// First octets of every pack.
const PACK_MAGIC: &[u8; 8] = b"POSTERNP";
/// Last octets of every pack.
const TRAILER_MAGIC: &[u8; 8] = b"POSTERNF";
/// First octets of the footer. Differs from an entry's in its first two octets.
pub const FOOTER_MAGIC: &[u8; 4] = b"PFTR";
/// The only version so far.
const VERSION: u16 = 1;
/// Octets of the pack header.
pub const PACK_HEADER_OCTETS: usize = 64;
/// Octets of the footer before its first entry.
pub const FOOTER_HEAD_OCTETS: usize = 8;
/// Octets of one entry of the footer.
pub const FOOTER_ENTRY_OCTETS: usize = 24;
/// Octets of the trailer.
pub const TRAILER_OCTETS: usize = 40;
/// Most entries of a pack: at the smallest entry of about 250 octets this is a pack of 16 MB, and it bounds
/// what a reader allocates for a footer to 1.5 MiB.
pub const FOOTER_ENTRIES_MAX: u32 = 65_536;
/// Octets of a checksum: BLAKE3, truncated. It finds accidents; forgery is the AEAD's business.
const CHECKSUM_OCTETS: usize = 16;

/// Whose pack it is, and which.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PackHeader {
    /// The tenant all of whose entries these are.
    pub tenant: TenantId,
    /// The pack's own id, as in its key.
    pub pack: PackId,
}

impl PackHeader {
    /// The header as it stands at the beginning of the pack.
    pub fn to_octets(self) -> [u8; PACK_HEADER_OCTETS] {
        let mut out = [0; PACK_HEADER_OCTETS];
        out[..8].copy_from_slice(PACK_MAGIC);
        out[8..10].copy_from_slice(&VERSION.to_le_bytes());
        out[10..12].copy_from_slice(&(PACK_HEADER_OCTETS as u16).to_le_bytes());
        // 12..16: flags, none defined.
        out[16..32].copy_from_slice(self.tenant.as_uuid().as_bytes());
        out[32..48].copy_from_slice(self.pack.as_uuid().as_bytes());
        let checksum = checksum(&[&out[..48]]);
        out[48..].copy_from_slice(&checksum);
        out
    }

    /// Reads a header.
    pub fn parse(octets: &[u8; PACK_HEADER_OCTETS]) -> Result<Self, Malformed> {
        let mut fields = Fields(octets);
        if fields.array()? != *PACK_MAGIC {
            return Err(Malformed("not a pack"));
        }
        if fields.u16()? != VERSION {
            return Err(Malformed("pack is of another version"));
        }
        if usize::from(fields.u16()?) != PACK_HEADER_OCTETS || fields.u32()? != 0 {
            return Err(Malformed("pack header has unknown flags"));
        }
        let tenant = TenantId::from_uuid(Uuid::from_bytes(fields.array()?));
        let pack = PackId::from_uuid(Uuid::from_bytes(fields.array()?));
        if fields.array()? != checksum(&[&octets[..48]]) {
            return Err(Malformed("pack header does not match its checksum"));
        }
        Ok(Self { tenant, pack })
    }
}

/// Where an entry lies, as the footer says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FooterEntry {
    /// First octet of the entry within the pack.
    pub offset: u64,
    /// Octets of the entry.
    pub length: u64,
}

/// The end of a pack: where its footer is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Trailer {
    /// First octet of the footer within the pack.
    pub footer_offset: u64,
    /// Octets of the footer.
    pub footer_octets: u32,
    checksum: [u8; CHECKSUM_OCTETS],
}

impl Trailer {
    /// Reads a trailer. The checksum is checked by [`parse_footer`].
    pub fn parse(octets: &[u8; TRAILER_OCTETS]) -> Result<Self, Malformed> {
        let mut fields = Fields(octets);
        let footer_offset = fields.u64()?;
        let footer_octets = fields.u32()?;
        let version = fields.u16()?;
        let reserved = fields.u16()?;
        let checksum = fields.array()?;
        if fields.array()? != *TRAILER_MAGIC {
            return Err(Malformed("pack has no trailer"));
        }
        if version != VERSION || reserved != 0 {
            return Err(Malformed("trailer is of another version"));
        }
        let body = (footer_octets as usize).checked_sub(FOOTER_HEAD_OCTETS);
        if !body.is_some_and(|octets| {
            octets.is_multiple_of(FOOTER_ENTRY_OCTETS)
                && octets / FOOTER_ENTRY_OCTETS <= FOOTER_ENTRIES_MAX as usize
        }) {
            return Err(Malformed("trailer gives the footer an impossible size"));
        }
        Ok(Self { footer_offset, footer_octets, checksum })
    }

    fn checked_fields(&self) -> [u8; 16] {
        let mut out = [0; 16];
        out[..8].copy_from_slice(&self.footer_offset.to_le_bytes());
        out[8..12].copy_from_slice(&self.footer_octets.to_le_bytes());
        out[12..14].copy_from_slice(&VERSION.to_le_bytes());
        out
    }
}

/// Appends footer and trailer of a pack that is `footer_offset` octets long so far.
pub fn write_footer(out: &mut Vec<u8>, footer_offset: u64, entries: &[FooterEntry]) {
    let start = out.len();
    out.reserve(FOOTER_HEAD_OCTETS + FOOTER_ENTRY_OCTETS * entries.len() + TRAILER_OCTETS);
    out.extend_from_slice(FOOTER_MAGIC);
    out.extend_from_slice(&(entries.len() as u32).to_le_bytes());
    for entry in entries {
        out.extend_from_slice(&entry.offset.to_le_bytes());
        out.extend_from_slice(&entry.length.to_le_bytes());
        out.extend_from_slice(&[0; 8]); // flags and a reserved field, none defined
    }
    let footer_octets = (out.len() - start) as u32;
    let mut trailer = Trailer { footer_offset, footer_octets, checksum: [0; CHECKSUM_OCTETS] };
    let fields = trailer.checked_fields();
    trailer.checksum = checksum(&[&out[start..], &fields]);
    out.extend_from_slice(&fields);
    out.extend_from_slice(&trailer.checksum);
    out.extend_from_slice(TRAILER_MAGIC);
}

/// Reads a footer that `trailer` points at.
pub fn parse_footer(octets: &[u8], trailer: &Trailer) -> Result<Vec<FooterEntry>, Malformed> {
    if octets.len() != trailer.footer_octets as usize {
        return Err(Malformed("footer and trailer disagree on the footer's size"));
    }
    if checksum(&[octets, &trailer.checked_fields()]) != trailer.checksum {
        return Err(Malformed("footer does not match its checksum"));
    }
    let mut fields = Fields(octets);
    if fields.array()? != *FOOTER_MAGIC {
        return Err(Malformed("not a footer"));
    }
    let count = fields.u32()?;
    let mut entries = Vec::with_capacity(octets.len() / FOOTER_ENTRY_OCTETS);
    for _ in 0..count {
        entries.push(FooterEntry { offset: fields.u64()?, length: fields.u64()? });
        if fields.u64()? != 0 {
            return Err(Malformed("footer entry has unknown flags"));
        }
    }
    fields.end()?;
    Ok(entries)
}

pub(super) fn checksum(parts: &[&[u8]]) -> [u8; CHECKSUM_OCTETS] {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(part);
    }
    let mut out = [0; CHECKSUM_OCTETS];
    out.copy_from_slice(&hasher.finalize().as_bytes()[..CHECKSUM_OCTETS]);
    out
}
