//! The names of objects. Nothing else in Postern formats one.
//!
//! Object stores disagree on anything beyond `[A-Za-z0-9/_.-]` and on empty or dotted segments, and the disk
//! adapter joins keys to a directory, so a key that breaks these rules cannot be built.

use std::fmt;

use maildrop::{PackId, TenantId, port::ManifestPart};
use uuid::Uuid;

/// Longest key in octets that every object store takes (S3: 1,024).
const KEY_OCTETS_MAX: usize = 1024;
/// Longest configured prefix, so that every key made from it stays well under [`KEY_OCTETS_MAX`].
const PREFIX_OCTETS_MAX: usize = 512;

/// Why a text is not a key or a prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an object key has segments of letters, digits, '_', '-' and inner '.', joined by '/'")]
pub struct BlobKeyError;

/// The name of one object: segments of `[A-Za-z0-9_.-]` that do not start with a dot, joined by `/`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlobKey(String);

impl BlobKey {
    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<&str> for BlobKey {
    type Error = BlobKeyError;

    fn try_from(text: &str) -> Result<Self, BlobKeyError> {
        if text.len() <= KEY_OCTETS_MAX && text.split('/').all(is_segment) {
            Ok(Self(text.to_owned()))
        } else {
            Err(BlobKeyError)
        }
    }
}

impl fmt::Display for BlobKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for BlobKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlobKey({})", self.0)
    }
}

/// A leading dot is refused because of `.` and `..`, and because the disk adapter keeps its own files under
/// dotted names.
fn is_segment(segment: &str) -> bool {
    !segment.is_empty()
        && !segment.starts_with('.')
        && segment.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

/// Where everything lies in a bucket or directory: `{prefix}t/{tenant}/p/{shard}/{pack}`.
///
/// The tenant comes first, so that one tenant's objects can be listed, counted, billed and given rights of
/// their own. The shard is the last octet of the pack's id in hex: it is random, and spreads one tenant's
/// writes, which a time-ordered id alone would pile onto one partition of the store or one directory.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct BlobLayout {
    prefix: String,
}

impl BlobLayout {
    /// A layout under `prefix`: empty, or segments each followed by `/` (a missing last one is added).
    pub fn new(prefix: &str) -> Result<Self, BlobKeyError> {
        let trimmed = prefix.strip_suffix('/').unwrap_or(prefix);
        if prefix.is_empty() {
            return Ok(Self::default());
        }
        if trimmed.len() > PREFIX_OCTETS_MAX || !trimmed.split('/').all(is_segment) {
            return Err(BlobKeyError);
        }
        Ok(Self { prefix: format!("{trimmed}/") })
    }

    /// The key of a pack.
    pub fn pack(&self, tenant: TenantId, pack: PackId) -> BlobKey {
        let shard = pack.as_uuid().as_bytes()[15];
        BlobKey(format!("{}t/{tenant}/p/{shard:02x}/{pack}", self.prefix))
    }

    /// What the keys of all packs of all tenants start with.
    pub fn all_tenants(&self) -> String {
        format!("{}t/", self.prefix)
    }

    /// What the keys of all packs of `tenant` start with.
    pub fn tenant(&self, tenant: TenantId) -> String {
        format!("{}t/{tenant}/p/", self.prefix)
    }

    /// What the keys of everything of `tenant` start with.
    pub fn everything(&self, tenant: TenantId) -> String {
        format!("{}t/{tenant}/", self.prefix)
    }

    /// The key of an object of a manifest: `{prefix}t/{tenant}/m/{round}-{id}/{f or i}{part}`, numbers in hex, and `.end`
    /// behind that of the last.
    pub fn manifest(&self, tenant: TenantId, part: &ManifestPart) -> BlobKey {
        let ManifestPart { round, id, full, part, last } = part;
        let (kind, end) = (if *full { 'f' } else { 'i' }, if *last { ".end" } else { "" });
        BlobKey(format!("{}{round:016x}-{id}/{kind}{part:08x}{end}", self.manifests(tenant)))
    }

    /// What the keys of all manifests of `tenant` start with.
    pub fn manifests(&self, tenant: TenantId) -> String {
        format!("{}t/{tenant}/m/", self.prefix)
    }

    /// Which manifest of `tenant` a listed key is, or `None` where it is none.
    pub fn parse_manifest(&self, tenant: TenantId, key: &BlobKey) -> Option<ManifestPart> {
        let (round, part) = key.as_str().strip_prefix(&self.manifests(tenant))?.split_once('/')?;
        let (round, id) = round.split_once('-')?;
        let (full, part) = match part.split_at_checked(1)? {
            ("f", part) => (true, part),
            ("i", part) => (false, part),
            _ => return None,
        };
        let (part, last) = part.strip_suffix(".end").map_or((part, false), |part| (part, true));
        let round = u64::from_str_radix(round, 16).ok()?;
        let part = u32::from_str_radix(part, 16).ok()?;
        let part = ManifestPart { round, id: Uuid::try_parse(id).ok()?, full, part, last };
        (self.manifest(tenant, &part) == *key).then_some(part)
    }

    /// What is known of a tenant's own stores as of this version.
    pub fn description(&self, tenant: TenantId, version: u64, id: Uuid) -> BlobKey {
        BlobKey(format!("{}{version:016x}-{id}", self.descriptions(tenant)))
    }

    /// What all of those begin with.
    pub fn descriptions(&self, tenant: TenantId) -> String {
        format!("{}t/{tenant}/b/", self.prefix)
    }

    /// The version and identity of such a key; `None` where it is none.
    pub fn parse_description(&self, tenant: TenantId, key: &BlobKey) -> Option<(u64, Uuid)> {
        let (version, id) = key.as_str().strip_prefix(&self.descriptions(tenant))?.split_once('-')?;
        let (version, id) = (u64::from_str_radix(version, 16).ok()?, Uuid::try_parse(id).ok()?);
        (self.description(tenant, version, id) == *key).then_some((version, id))
    }

    /// Whose a listed key is, whatever it is.
    pub fn whose(&self, key: &BlobKey) -> Option<TenantId> {
        let (tenant, _) = key.as_str().strip_prefix(&self.all_tenants())?.split_once('/')?;
        Uuid::try_parse(tenant).ok().map(TenantId::from_uuid)
    }

    /// What sorts after all keys of `tenant`, and before those of the next.
    pub fn after(&self, tenant: TenantId) -> BlobKey {
        BlobKey(format!("{}t/{tenant}/z", self.prefix))
    }

    /// The key of a beacon of a shard of the collection of garbage: `{prefix}g/{shard}/{beacon}`.
    pub fn beacon(&self, shard: u8, beacon: Uuid) -> BlobKey {
        BlobKey(format!("{}{beacon}", self.beacons(shard)))
    }

    /// What the keys of all beacons of a shard start with.
    pub fn beacons(&self, shard: u8) -> String {
        format!("{}g/{shard:02x}/", self.prefix)
    }

    /// Which beacon of the shard a listed key is, or `None` where it is none.
    pub fn parse_beacon(&self, shard: u8, key: &BlobKey) -> Option<Uuid> {
        let beacon = Uuid::try_parse(key.as_str().strip_prefix(&self.beacons(shard))?).ok()?;
        (self.beacon(shard, beacon) == *key).then_some(beacon)
    }

    /// Whose pack a listed key is, or `None` where it is not a pack of this layout.
    pub fn parse(&self, key: &BlobKey) -> Option<(TenantId, PackId)> {
        let mut segments = key.as_str().strip_prefix(self.prefix.as_str())?.split('/');
        let ("t", tenant, "p", _shard, pack, None) = (
            segments.next()?,
            segments.next()?,
            segments.next()?,
            segments.next()?,
            segments.next()?,
            segments.next(),
        ) else {
            return None;
        };
        let tenant = TenantId::from_uuid(Uuid::try_parse(tenant).ok()?);
        let pack = PackId::from_uuid(Uuid::try_parse(pack).ok()?);
        // Only the one spelling that `pack` writes: other spellings of the same ids are not our objects.
        (self.pack(tenant, pack) == *key).then_some((tenant, pack))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TENANT: &str = "0190a6d0-0000-7000-8000-000000000001";
    const PACK: &str = "0190a6d0-1111-7222-8333-4444444444ab";

    fn ids() -> (TenantId, PackId) {
        (
            TenantId::from_uuid(Uuid::try_parse(TENANT).unwrap()),
            PackId::from_uuid(Uuid::try_parse(PACK).unwrap()),
        )
    }

    #[test]
    fn the_layout_is_pinned() {
        let (tenant, pack) = ids();
        let key = BlobLayout::default().pack(tenant, pack);
        assert_eq!(key.as_str(), format!("t/{TENANT}/p/ab/{PACK}"));
        let layout = BlobLayout::new("mail/eu-1").unwrap();
        let key = layout.pack(tenant, pack);
        assert_eq!(key.as_str(), format!("mail/eu-1/t/{TENANT}/p/ab/{PACK}"));
        assert!(key.as_str().starts_with(&layout.tenant(tenant)));
        assert!(key.as_str().starts_with(&layout.all_tenants()));
        assert_eq!(layout.parse(&key), Some((tenant, pack)));
        assert_eq!(BlobLayout::default().parse(&key), None);
    }

    #[test]
    fn manifests_sort_by_round_and_part() {
        let (layout, (tenant, _)) = (BlobLayout::new("mail").unwrap(), ids());
        let id = Uuid::try_parse(PACK).unwrap();
        let parts = [
            ManifestPart { round: 9, id, full: true, part: 0, last: false },
            ManifestPart { round: 9, id, full: true, part: 10, last: true },
            ManifestPart { round: 300, id, full: false, part: 0, last: true },
        ];
        let keys: Vec<_> = parts.iter().map(|part| layout.manifest(tenant, part)).collect();
        assert_eq!(keys[1].as_str(), format!("mail/t/{TENANT}/m/0000000000000009-{PACK}/f0000000a.end"));
        assert!(keys.is_sorted());
        for (part, key) in parts.iter().zip(&keys) {
            assert_eq!(layout.parse_manifest(tenant, key), Some(*part));
            assert_eq!((layout.parse(key), layout.whose(key)), (None, Some(tenant)));
            assert!(*key < layout.after(tenant));
        }
        let other = BlobKey::try_from(format!("mail/t/{TENANT}/m/9-{PACK}/f0").as_str()).unwrap();
        assert_eq!(layout.parse_manifest(tenant, &other), None);
    }

    #[test]
    fn other_spellings_are_not_ours() {
        let layout = BlobLayout::default();
        for text in [
            format!("t/{TENANT}/p/aa/{PACK}"),
            format!("t/{TENANT}/q/ab/{PACK}"),
            format!("t/{}/p/ab/{PACK}", TENANT.replace('-', "")),
            format!("t/{TENANT}/p/ab/{PACK}/x"),
            format!("t/{TENANT}/p/ab"),
        ] {
            assert_eq!(layout.parse(&BlobKey::try_from(text.as_str()).unwrap()), None, "{text}");
        }
    }

    #[test]
    fn bad_keys_cannot_be_built() {
        for text in
            ["", "/", "a/", "/a", "a//b", "..", "a/../b", ".tmp/x", "a/.b", "a b", "a\0b", "ä", "a\\b"]
        {
            assert_eq!(BlobKey::try_from(text), Err(BlobKeyError), "{text:?}");
        }
        assert!(BlobKey::try_from("a".repeat(1025).as_str()).is_err());
        for text in ["a", "a/b", "a.b/c_d-e/0"] {
            assert!(BlobKey::try_from(text).is_ok(), "{text:?}");
        }
        for text in ["../x/", "/", "a//", "a b/"] {
            assert!(BlobLayout::new(text).is_err(), "{text:?}");
        }
    }
}
