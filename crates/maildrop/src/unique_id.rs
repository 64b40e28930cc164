//! Unique-ids: what UIDL shows (RFC 1939 §7).

use crate::{MailboxId, Uid};

/// Longest unique-id in characters (RFC 1939 §7, UIDL).
const UNIQUE_ID_MAX: usize = 70;
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// Why a text cannot be a unique-id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a unique-id is 1 to 70 characters in the range 0x21 to 0x7e")]
pub struct UniqueIdError;

/// A message's unique-id: 1 to 70 characters in the range 0x21 to 0x7E (RFC 1939 §7, UIDL).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct UniqueId(String);

impl UniqueId {
    /// The unique-id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for UniqueId {
    type Error = UniqueIdError;

    fn try_from(text: String) -> Result<Self, UniqueIdError> {
        let good =
            (1..=UNIQUE_ID_MAX).contains(&text.len()) && text.bytes().all(|b| (0x21..=0x7e).contains(&b));
        if good { Ok(Self(text)) } else { Err(UniqueIdError) }
    }
}

/// The part all unique-ids of a mailbox share: eight characters made from the mailbox's identity, so that an
/// address that is deleted and created again does not show a client the unique-ids it has already seen.
/// It has a fixed width, so a prefix and a uid joined can be read in one way only.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UniqueIdPrefix([u8; 8]);

impl UniqueIdPrefix {
    /// The prefix of this mailbox: 40 bits of the BLAKE3 of its identity, base32.
    pub fn of(mailbox: MailboxId) -> Self {
        let hash = blake3::hash(mailbox.as_uuid().as_bytes());
        let mut bits = [0u8; 8];
        bits[3..].copy_from_slice(&hash.as_bytes()[..5]);
        let bits = u64::from_be_bytes(bits);
        Self(std::array::from_fn(|i| ALPHABET[((bits >> (35 - 5 * i)) & 31) as usize]))
    }

    /// Appends the unique-id of the message `uid` to `out`.
    pub fn write(&self, uid: Uid, out: &mut String) {
        use std::fmt::Write as _;
        out.extend(self.0.iter().map(|b| char::from(*b)));
        // Writing to a `String` cannot fail.
        let _ = write!(out, "{:x}", uid.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unique_ids_are_legal_stable_and_distinct() {
        let mailbox = MailboxId::from_uuid(uuid::Uuid::from_u128(7));
        let text = |m, u| {
            let mut s = String::new();
            UniqueIdPrefix::of(m).write(Uid(u), &mut s);
            s
        };
        // Pinned: a change here would make every client of every mailbox download its mail again.
        assert_eq!(text(mailbox, 26), "pwj3iwe41a");
        assert!(UniqueId::try_from(text(mailbox, u64::MAX)).is_ok());
        assert_ne!(text(mailbox, 1), text(MailboxId::from_uuid(uuid::Uuid::from_u128(8)), 1));
    }

    #[test]
    fn refuses_what_rfc_1939_does_not_allow() {
        for bad in [String::new(), "a b".into(), "a\u{7f}".into(), "ä".into(), "x".repeat(71)] {
            assert_eq!(UniqueId::try_from(bad), Err(UniqueIdError));
        }
        assert!(UniqueId::try_from("x".repeat(70)).is_ok());
    }
}
