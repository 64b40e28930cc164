//! A tenant's data key, and the key of each entry derived from it.

use std::fmt;

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    hkdf::{HKDF_SHA256, Salt},
};
use maildrop::{TenantId, port::BlobError};
use zeroize::Zeroizing;

use crate::format::{FRAME_HEADER_OCTETS, PREFIX_OCTETS, Prefix, TAG_OCTETS};

/// Octets of a data key.
pub(super) const KEY_OCTETS: usize = 32;

/// What an entry's key is for, so that a data key can serve other ends later without meeting it.
const ENTRY_KEY_INFO: &[u8] = b"postern pack v1: entry";

/// A tenant's data key. It seals nothing itself: each entry has a key derived from it.
pub struct TenantKey(Zeroizing<[u8; KEY_OCTETS]>);

impl TenantKey {
    /// A new random key.
    pub fn generate() -> Result<Self, BlobError> {
        let mut octets = Zeroizing::new([0; KEY_OCTETS]);
        aws_lc_rs::rand::fill(octets.as_mut_slice())
            .map_err(|_| BlobError::Unavailable("the system gives no random octets".into()))?;
        Ok(Self(octets))
    }

    pub(super) fn from_octets(octets: [u8; KEY_OCTETS]) -> Self {
        Self(Zeroizing::new(octets))
    }

    /// The key itself.
    pub fn octets(&self) -> &[u8; KEY_OCTETS] {
        &self.0
    }

    pub(super) fn from_slice(octets: &[u8]) -> Option<Self> {
        Some(Self(Zeroizing::new(octets.try_into().ok()?)))
    }

    #[cfg(test)]
    pub(crate) fn fixed(octet: u8) -> Self {
        Self(Zeroizing::new([octet; KEY_OCTETS]))
    }

    /// The cipher of the entry that begins with `prefix`; `None` is a failure of the library.
    pub(crate) fn entry(&self, tenant: TenantId, prefix: Prefix) -> Option<EntryCipher> {
        let id = *tenant.as_uuid().as_bytes();
        let derived = Salt::new(HKDF_SHA256, &prefix.salt).extract(self.octets());
        let derived: UnboundKey = derived.expand(&[ENTRY_KEY_INFO, &id], &AES_256_GCM).ok()?.into();
        let mut aad = [0; AAD_OCTETS];
        aad[..16].copy_from_slice(&id);
        aad[16..16 + PREFIX_OCTETS].copy_from_slice(&prefix.to_octets());
        Some(EntryCipher { key: LessSafeKey::new(derived), aad })
    }
}

/// What a secret's key is for.
const SECRET_KEY_INFO: &[u8] = b"postern secret v1";
/// Version of the form of a sealed secret: version, salt, sealed octets, tag.
const SECRET_VERSION: u8 = 1;
const SECRET_SALT_OCTETS: usize = 32;

impl TenantKey {
    /// Seals a small secret of the tenant, for one purpose. `None` is a failure of the library.
    pub(super) fn seal_secret(&self, tenant: TenantId, purpose: &str, secret: &[u8]) -> Option<Vec<u8>> {
        let mut sealed = Vec::with_capacity(1 + SECRET_SALT_OCTETS + secret.len() + TAG_OCTETS);
        sealed.push(SECRET_VERSION);
        let mut salt = [0; SECRET_SALT_OCTETS];
        aws_lc_rs::rand::fill(&mut salt).ok()?;
        sealed.extend_from_slice(&salt);
        let mut octets = secret.to_vec();
        let key = self.secret_key(tenant, purpose, &salt)?;
        // The key is this secret's alone, by its salt: a fixed nonce is used once.
        key.seal_in_place_append_tag(nonce(0), Aad::from([SECRET_VERSION]), &mut octets).ok()?;
        sealed.append(&mut octets);
        Some(sealed)
    }

    /// Opens what [`seal_secret`](Self::seal_secret) sealed for the same tenant and purpose.
    pub(super) fn open_secret(&self, tenant: TenantId, purpose: &str, sealed: &[u8]) -> Option<Vec<u8>> {
        let (version, rest) = sealed.split_first()?;
        let (salt, octets) = rest.split_at_checked(SECRET_SALT_OCTETS)?;
        let key = self.secret_key(tenant, purpose, salt)?;
        let mut octets = octets.to_vec();
        let opened = key.open_in_place(nonce(0), Aad::from([*version]), &mut octets).ok()?.len();
        octets.truncate(opened);
        Some(octets)
    }

    fn secret_key(&self, tenant: TenantId, purpose: &str, salt: &[u8]) -> Option<LessSafeKey> {
        let id = *tenant.as_uuid().as_bytes();
        let derived = Salt::new(HKDF_SHA256, salt).extract(self.octets());
        let info = [SECRET_KEY_INFO, &id, purpose.as_bytes()];
        let derived: UnboundKey = derived.expand(&info, &AES_256_GCM).ok()?.into();
        Some(LessSafeKey::new(derived))
    }
}

impl fmt::Debug for TenantKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TenantKey([REDACTED])")
    }
}

const HEADER_AT: usize = 16 + PREFIX_OCTETS;
const INDEX_AT: usize = HEADER_AT + FRAME_HEADER_OCTETS;
const AAD_OCTETS: usize = INDEX_AT + 8;

/// Seals and opens the frames of one entry.
///
/// The nonce is the frame's index: the key belongs to this entry alone, so no nonce is ever used twice under
/// it. What is authenticated beside the octets: tenant, the entry's prefix (with its salt), the frame's
/// header (kind, flags, sizes) and its index. The pack is not among it, so that an entry can be copied into
/// another pack as it is.
pub(crate) struct EntryCipher {
    key: LessSafeKey,
    aad: [u8; AAD_OCTETS],
}

impl EntryCipher {
    /// Seals `octets` in place and gives the tag.
    pub(crate) fn seal(
        &self,
        header: [u8; FRAME_HEADER_OCTETS],
        index: u64,
        octets: &mut [u8],
    ) -> Option<[u8; TAG_OCTETS]> {
        let tag = self.key.seal_in_place_separate_tag(nonce(index), self.aad(header, index), octets).ok()?;
        tag.as_ref().try_into().ok()
    }

    /// Opens `sealed` (octets and tag) into `plain`, which is shorter by the tag. On failure `plain` holds
    /// nothing of use.
    #[must_use]
    pub(crate) fn open(
        &self,
        header: [u8; FRAME_HEADER_OCTETS],
        index: u64,
        sealed: &[u8],
        plain: &mut [u8],
    ) -> bool {
        sealed.split_last_chunk::<TAG_OCTETS>().is_some_and(|(octets, tag)| {
            let aad = self.aad(header, index);
            self.key.open_separate_gather(nonce(index), aad, octets, tag, plain).is_ok()
        })
    }

    fn aad(&self, header: [u8; FRAME_HEADER_OCTETS], index: u64) -> Aad<[u8; AAD_OCTETS]> {
        let mut aad = self.aad;
        aad[HEADER_AT..INDEX_AT].copy_from_slice(&header);
        aad[INDEX_AT..].copy_from_slice(&index.to_le_bytes());
        Aad::from(aad)
    }
}

impl fmt::Debug for EntryCipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EntryCipher([REDACTED])")
    }
}

fn nonce(index: u64) -> Nonce {
    let mut octets = [0; 12];
    octets[4..].copy_from_slice(&index.to_be_bytes());
    Nonce::assume_unique_for_key(octets)
}
