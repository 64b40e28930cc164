//! Identifiers. Each is a type of its own, so that a mailbox can never stand where a tenant belongs.

use std::fmt;

use serde::{Serialize, Serializer};
use time::OffsetDateTime;
use uuid::Uuid;

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            /// A new identifier (UUID version 7: unique without coordination, ordered by time).
            pub fn generate() -> Self {
                Self(Uuid::now_v7())
            }

            /// The identifier with these 16 octets, as read back from a store.
            pub const fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// The 16 octets, as written to a store.
            pub const fn as_uuid(&self) -> Uuid {
                self.0
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                self.0.serialize(serializer)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.as_hyphenated().fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }
    };
}

uuid_id! {
    /// A tenant: the first column of every key, and the owner of every sealed byte.
    TenantId
}
uuid_id! {
    /// A mailbox (an account) of one tenant.
    MailboxId
}
uuid_id! {
    /// A pack: one immutable object in the blob store. Never reused.
    PackId
}
uuid_id! {
    /// A bulletin of a tenant.
    BulletinId
}
uuid_id! {
    /// An app password of a mailbox.
    CredentialId
}
uuid_id! {
    /// A key of the admin API.
    ApiKeyId
}
uuid_id! {
    /// One run of one Postern process. A restart is another node, so that it cannot mistake the locks of
    /// its former life for its own.
    NodeId
}

/// Which of the stores a tenant has had a pack lies in: 0 is the house's, others are the tenant's own, in the order in
/// which they were set.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct StoreNumber(pub u16);

impl StoreNumber {
    /// The house's own.
    pub const HOUSE: Self = Self(0);
    /// The last number there can be: a pack's identity has 12 bits for it.
    pub const MAX: Self = Self(0xfff);

    /// The next one.
    pub fn next(self) -> Option<Self> {
        (self < Self::MAX).then(|| Self(self.0 + 1))
    }

    /// Whether it is the house's.
    pub const fn is_house(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for StoreNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Bits of an identity from which its version, and behind that its first 12 bits of chance, begin.
const VERSION_AT: u32 = 76;
const STORE_AT: u32 = 64;

impl PackId {
    /// A new identity of a pack in this store: UUID version 7 in the house's; in a tenant's own one version 8
    /// (RFC 9562 §5.8), which is as version 7 but for the store's number in place of its first 12 random bits.
    pub fn generate_in(store: StoreNumber) -> Self {
        Self::generate().moved_to(store)
    }

    /// The store it lies in.
    pub const fn store(&self) -> StoreNumber {
        let bits = self.0.as_u128();
        if (bits >> VERSION_AT) & 0xf == 8 {
            StoreNumber((bits >> STORE_AT) as u16 & 0xfff)
        } else {
            StoreNumber(0)
        }
    }

    /// Before all packs of this store from `at` on in this part of a tenant's objects.
    pub fn first_in(store: StoreNumber, shard: u8, at: OffsetDateTime) -> Self {
        Self::first(shard, at).moved_to(store)
    }

    fn moved_to(self, store: StoreNumber) -> Self {
        if store.is_house() {
            return self;
        }
        let bits = self.0.as_u128() & !(0xffff << STORE_AT);
        Self(Uuid::from_u128(bits | 8 << VERSION_AT | u128::from(store.0 & 0xfff) << STORE_AT))
    }

    /// The part of its tenant's objects that it is in.
    pub const fn shard(&self) -> u8 {
        self.0.as_bytes()[15]
    }

    /// When it was generated, to the millisecond: its first 48 bits (RFC 9562 §5.7).
    pub fn time(&self) -> OffsetDateTime {
        let millis = self.0.as_u128() >> 80;
        // 48 bits of milliseconds reach past the year 9999, which no pack is from.
        OffsetDateTime::from_unix_timestamp_nanos((millis * 1_000_000) as i128)
            .unwrap_or(time::macros::datetime!(9999-12-31 0:00 UTC))
    }

    /// What sorts before all packs of `shard` that were generated at `at` or later, and after those from before.
    pub fn first(shard: u8, at: OffsetDateTime) -> Self {
        let millis = u128::try_from(at.unix_timestamp_nanos() / 1_000_000).unwrap_or(0);
        Self(Uuid::from_u128(millis << 80 | u128::from(shard)))
    }
}

/// What a login was proved by. Who comes with the same as the holder of a maildrop's lock is taken for the same
/// program, come back.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Credential {
    /// The mailbox's own password, in whatever mechanism.
    Password,
    /// This app password.
    App(CredentialId),
    /// A client certificate.
    Certificate,
    /// A token of the tenant's issuer, whichever.
    Token,
}

impl Credential {
    /// 16 octets that tell it from the others, as written to a store. Those of an app password are its identifier, of
    /// version 7, as which none of the others reads.
    pub const fn as_uuid(&self) -> Uuid {
        match self {
            Self::Password => Uuid::nil(),
            Self::App(id) => id.as_uuid(),
            Self::Certificate => Uuid::max(),
            Self::Token => Uuid::from_u128(1),
        }
    }
}

/// The proof of holding a maildrop's exclusive-access lock: random, and good for one session (P3).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct LockToken(Uuid);

impl LockToken {
    /// A token nobody else has.
    pub fn generate() -> Self {
        Self(Uuid::new_v4())
    }

    /// The 16 octets, as written to the lock table.
    pub const fn as_uuid(&self) -> Uuid {
        self.0
    }
}

impl fmt::Debug for LockToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LockToken({})", self.0)
    }
}

/// One connection of a client, for people: it stands in the greeting, in every line of the log about the
/// connection, and in its trace, so that a user's complaint can be found there. 80 random bits as 16
/// characters (RFC 4648 §6, in lower case): it is no secret, and no two meet.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionId([u8; 16]);

impl SessionId {
    /// An identifier nobody else has.
    pub fn generate() -> Self {
        const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
        // Version and variant lie in the two octets that are left out here (RFC 9562 §5.4).
        let random = Uuid::new_v4().as_u128();
        let bits = (random >> 80) << 48 | random & 0xffff_ffff_ffff;
        Self(std::array::from_fn(|i| ALPHABET[(bits >> (5 * i) & 31) as usize]))
    }

    /// The characters.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for SessionId {
    type Err = SessionIdError;

    fn from_str(text: &str) -> Result<Self, SessionIdError> {
        let octets: [u8; 16] = text.as_bytes().try_into().map_err(|_| SessionIdError)?;
        if octets.iter().all(|octet| matches!(octet, b'a'..=b'z' | b'2'..=b'7')) {
            Ok(Self(octets))
        } else {
            Err(SessionIdError)
        }
    }
}

/// The text names no session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a session is named by 16 letters and digits")]
pub struct SessionIdError;

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionId({self})")
    }
}

/// A message's number within its mailbox: grows by one with each message and is never reused.
#[derive(Serialize, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Uid(pub u64);

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn packs_know_their_store() {
        let pack = PackId::generate();
        assert_eq!(pack.store(), StoreNumber::HOUSE);
        assert_eq!(PackId::generate_in(StoreNumber::HOUSE).as_uuid().get_version_num(), 7);
        for number in [1, 2, 255, 256, 0xfff] {
            let before = OffsetDateTime::now_utc() - time::Duration::SECOND;
            let pack = PackId::generate_in(StoreNumber(number));
            assert_eq!((pack.store(), pack.as_uuid().get_version_num()), (StoreNumber(number), 8));
            assert_eq!(pack.as_uuid().get_variant(), uuid::Variant::RFC4122);
            assert!(before < pack.time() && pack.time() <= OffsetDateTime::now_utc());
            let first = PackId::first_in(StoreNumber(number), pack.shard(), before);
            assert!(first < pack && first.store() == pack.store() && first.shard() == pack.shard());
        }
        let all: HashSet<_> = (0..1000).map(|_| PackId::generate_in(StoreNumber(1))).collect();
        assert_eq!(all.len(), 1000);
    }

    #[test]
    fn session_ids_are_16_characters_and_all_of_them_vary() {
        let ids: Vec<_> = (0..1000).map(|_| SessionId::generate()).collect();
        assert_eq!(ids.iter().collect::<HashSet<_>>().len(), 1000);
        assert_eq!(ids[0].as_str().parse(), Ok(ids[0]));
        for bad in ["", "abc", "ABCDEFGHIJKLMNOP", "abcdefghijklmnoü"] {
            assert_eq!(bad.parse::<SessionId>(), Err(SessionIdError));
        }
        for place in 0..16 {
            let used: HashSet<_> = ids.iter().map(|id| id.as_str().as_bytes()[place]).collect();
            assert_eq!(used.len(), 32, "character {place}");
        }
    }
}
