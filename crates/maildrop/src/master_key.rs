//! Which master key sealed something.

use std::fmt;

use serde::Serialize;

use crate::SealedKey;

/// Octets of a master key's id.
const ID_OCTETS: usize = 8;
/// Where it stands in a sealed key, of whatever version and kind: after both.
const ID_AT: usize = 2;

/// Names a master key without giving it away: a fingerprint, shown as 16 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MasterKeyId([u8; ID_OCTETS]);

impl MasterKeyId {
    /// The id as it stands in sealed keys.
    pub fn from_octets(octets: [u8; ID_OCTETS]) -> Self {
        Self(octets)
    }

    /// The octets.
    pub fn as_octets(&self) -> &[u8; ID_OCTETS] {
        &self.0
    }
}

impl fmt::Display for MasterKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

impl fmt::Debug for MasterKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MasterKeyId({self})")
    }
}

impl Serialize for MasterKeyId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl SealedKey {
    /// The master key that sealed it; `None` where it is too short for a sealed key, as one that was destroyed is.
    pub fn master_key(&self) -> Option<MasterKeyId> {
        let octets = self.0.get(ID_AT..ID_AT + ID_OCTETS)?;
        octets.try_into().ok().map(MasterKeyId)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_key_names_its_master_key() {
        let sealed = SealedKey([&[1, 1][..], &[0xab; 8], &[9; 60]].concat());
        assert_eq!(sealed.master_key().unwrap().to_string(), "abababababababab");
        assert_eq!(SealedKey(Vec::new()).master_key(), None);
        assert_eq!(SealedKey(vec![1; 9]).master_key(), None);
    }
}
