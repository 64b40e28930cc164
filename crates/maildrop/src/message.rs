//! Messages as they are stored: extents, digests, envelopes and rows.

use std::fmt;

use serde::Serialize;
use time::OffsetDateTime;

use crate::{Address, BulletinId, MailboxId, MessageOrder, PackId, Uid, delivered_to, downgrade};

/// The BLAKE3 hash of a stored message (canonical octets, without `Delivered-To`).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest(pub [u8; 32]);

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in &self.0[..8] {
            write!(f, "{byte:02x}")?;
        }
        f.write_str("…")
    }
}

/// Where a message lies: `length` octets from `offset` in the object of `pack`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Extent {
    /// The pack.
    pub pack: PackId,
    /// First octet of the entry within the pack.
    pub offset: u64,
    /// Octets of the entry: sealed and compressed, its own header and summary included.
    pub length: u64,
}

/// A tenant's data key, sealed under the master key. Only the blob store can open it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SealedKey(pub Vec<u8>);

impl fmt::Debug for SealedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealedKey({} octets)", self.0.len())
    }
}

/// What an entry says of itself, sealed, so that the index can be rebuilt from packs alone (P8).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EntryEnvelope {
    /// When Postern took the message in.
    pub received_at: OffsetDateTime,
    /// The reverse-path, without angle brackets; empty for a bounce.
    pub sender: String,
    /// The mailboxes it was addressed to, each with the address that led to it. None where it is a bulletin.
    pub recipients: Vec<(MailboxId, String)>,
    /// What there is to say of a bulletin, which goes to all mailboxes of the tenant.
    pub bulletin: Option<BulletinEnvelope>,
}

/// What the entry of a bulletin says of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BulletinEnvelope {
    /// The bulletin.
    pub id: BulletinId,
    /// Whether mailboxes that were created after it get it, too.
    pub new_mailboxes: bool,
    /// From when on no mailbox gets it any more that does not have it.
    pub expires_at: Option<OffsetDateTime>,
    /// What its author calls it.
    pub note: String,
}

/// A message that is durably in the blob store (but in no maildrop yet).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StoredEntry {
    /// Where it lies.
    pub extent: Extent,
    /// Octets of the whole pack object.
    pub pack_octets: u64,
    /// Entries in the pack.
    pub pack_entries: u32,
}

/// How messages are sent (RFC 6856).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Form {
    /// With headers in ASCII: 8-bit ones are rewritten.
    #[default]
    Ascii,
    /// As they are.
    Native,
}

/// How long a message is when it is sent, before byte-stuffing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MessageOctets {
    /// Octets in [`Form::Ascii`].
    pub ascii: u64,
    /// By how many of them that is more than in [`Form::Native`], where the two differ.
    pub ascii_extra: Option<i64>,
}

impl MessageOctets {
    /// Of so many octets as they are stored, which become `ascii_extra` more where the header is rewritten to ASCII.
    pub fn stored(octets: u64, ascii_extra: Option<i64>) -> Self {
        Self { ascii: octets.saturating_add_signed(ascii_extra.unwrap_or(0)), ascii_extra }
    }

    /// With `Delivered-To` of this address in front, as RETR sends it.
    #[must_use]
    pub fn delivered_to(self, address: &Address) -> Self {
        let native = delivered_to(address.as_str());
        let mut ascii = Vec::new();
        downgrade::field(native.as_bytes(), &mut ascii);
        let extra = (ascii.len() as u64).cast_signed() - (native.len() as u64).cast_signed();
        let extra = (!native.is_ascii()).then_some(extra);
        Self {
            ascii: self.ascii.saturating_add(ascii.len() as u64),
            ascii_extra: match (self.ascii_extra, extra) {
                (None, None) => None,
                (of_header, of_line) => Some(of_header.unwrap_or(0) + of_line.unwrap_or(0)),
            },
        }
    }
}

/// What a session sees of a maildrop, and how. Default: all of it, in order of arrival, with headers in ASCII.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct View {
    /// How messages are sent.
    pub form: Form,
    /// Their order.
    pub order: MessageOrder,
    /// Only those received since.
    pub since: Option<OffsetDateTime>,
    /// Only so many: the last in their order.
    pub last: Option<u32>,
}

/// A message of a maildrop: its row in the index.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MessageRow {
    /// Its number in the mailbox, for ever.
    pub uid: Uid,
    /// Octets that RETR sends before byte-stuffing, `Delivered-To` included, in [`Form::Ascii`].
    pub octets: u64,
    /// By how many octets [`Form::Ascii`] is longer than [`Form::Native`], where they differ.
    pub ascii_extra: Option<i64>,
    /// Octets of the stored header up to and including the blank line, `Delivered-To` not included.
    pub header_octets: u64,
    /// Hash of the stored octets.
    pub digest: Digest,
    /// The address it was delivered to, served as `Delivered-To` in front of the stored octets.
    pub delivered_to: String,
    /// Where the stored octets lie.
    pub extent: Extent,
}

impl MessageRow {
    /// Octets that RETR sends before byte-stuffing, `Delivered-To` included.
    pub fn octets_in(&self, form: Form) -> u64 {
        match form {
            Form::Ascii => self.octets,
            Form::Native => self.octets.saturating_add_signed(self.ascii_extra.unwrap_or(0).saturating_neg()),
        }
    }
}

/// A message as an administrator sees it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct MessageInfo {
    /// Its number in the mailbox, for ever.
    pub uid: Uid,
    /// Its unique-id (RFC 1939 §7, UIDL).
    pub unique_id: String,
    /// Octets that RETR sends before byte-stuffing.
    pub octets: u64,
    /// When it came in.
    #[serde(with = "time::serde::rfc3339")]
    pub received_at: OffsetDateTime,
    /// When it was deleted, if it is.
    #[serde(with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub deleted_at: Option<OffsetDateTime>,
    /// Until when it can be restored, if it is deleted.
    #[serde(with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub restorable_until: Option<OffsetDateTime>,
}
