//! An object of a manifest: a plain head with the tenant's sealed key, and sealed text.

use maildrop::{SealedKey, TenantId, port::ManifestPart};

use super::{Fields, Malformed, pack::checksum};

/// First octets of every object of a manifest.
const MAGIC: &[u8; 8] = b"POSTERNM";
const VERSION: u16 = 1;
const CHECKSUM_OCTETS: usize = 16;
/// Most octets of a sealed key: one of a key service is some hundreds.
const KEY_OCTETS_MAX: usize = 4096;
/// Most octets of the text: what a reader may have to allocate.
pub const MANIFEST_TEXT_MAX: usize = 64 * 1024 * 1024;

const FULL: u32 = 1;
const LAST: u32 = 2;

/// What stands in front of the sealed text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ManifestHead {
    /// Whose it is.
    pub tenant: TenantId,
    /// Which it is.
    pub part: ManifestPart,
    /// The tenant's data key, sealed under the master key.
    pub key: SealedKey,
    /// Octets of the text before it was compressed.
    pub text_octets: u32,
}

impl ManifestHead {
    /// The head as it stands at the beginning of the object.
    pub fn to_octets(&self) -> Result<Vec<u8>, Malformed> {
        let Self { tenant, part, key, text_octets } = self;
        if key.0.len() > KEY_OCTETS_MAX || *text_octets as usize > MANIFEST_TEXT_MAX {
            return Err(Malformed("manifest is too large"));
        }
        let flags = if part.full { FULL } else { 0 } | if part.last { LAST } else { 0 };
        let mut out = Vec::with_capacity(64 + key.0.len() + CHECKSUM_OCTETS);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&(key.0.len() as u16).to_le_bytes());
        out.extend_from_slice(&text_octets.to_le_bytes());
        out.extend_from_slice(tenant.as_uuid().as_bytes());
        out.extend_from_slice(part.id.as_bytes());
        out.extend_from_slice(&part.round.to_le_bytes());
        out.extend_from_slice(&part.part.to_le_bytes());
        out.extend_from_slice(&flags.to_le_bytes());
        out.extend_from_slice(&key.0);
        let checksum = checksum(&[&out]);
        out.extend_from_slice(&checksum);
        Ok(out)
    }

    /// Reads a head, and gives what comes after it.
    pub fn parse(octets: &[u8]) -> Result<(Self, &[u8]), Malformed> {
        let mut fields = Fields(octets);
        if fields.array()? != *MAGIC {
            return Err(Malformed("not a manifest"));
        }
        if fields.u16()? != VERSION {
            return Err(Malformed("manifest is of another version"));
        }
        let key_octets = usize::from(fields.u16()?);
        let text_octets = fields.u32()?;
        if key_octets > KEY_OCTETS_MAX || text_octets as usize > MANIFEST_TEXT_MAX {
            return Err(Malformed("manifest has an impossible size"));
        }
        let tenant = TenantId::from_uuid(uuid::Uuid::from_bytes(fields.array()?));
        let id = uuid::Uuid::from_bytes(fields.array()?);
        let (round, part, flags) = (fields.u64()?, fields.u32()?, fields.u32()?);
        if flags & !(FULL | LAST) != 0 {
            return Err(Malformed("manifest has unknown flags"));
        }
        let key = SealedKey(fields.take(key_octets)?.to_vec());
        let checked = octets.len() - fields.0.len();
        if fields.array()? != checksum(&[&octets[..checked]]) {
            return Err(Malformed("manifest does not match its checksum"));
        }
        let part = ManifestPart { round, id, full: flags & FULL != 0, part, last: flags & LAST != 0 };
        Ok((Self { tenant, part, key, text_octets }, fields.0))
    }
}
