//! A maildrop's messages as one session sees them.

use time::OffsetDateTime;

use crate::{MailboxId, Uid, UniqueIdPrefix};

/// The messages of a maildrop in order, held as columns: 12 octets a message and no allocation per message,
/// so that a maildrop of 100,000 messages costs little more than a megabyte.
#[derive(Debug, Clone)]
pub struct Listing {
    prefix: UniqueIdPrefix,
    uids: Vec<u64>,
    octets: Vec<u32>,
    total: u64,
    /// Unique-ids that a migration brought along: position, and end of its text in `imported_text`.
    imported: Vec<(u32, u32)>,
    imported_text: String,
}

/// One message of a [`Listing`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListingEntry {
    /// The message's number in its mailbox, for ever.
    pub uid: Uid,
    /// Octets that RETR sends before byte-stuffing.
    pub octets: u64,
}

/// A message, and when it was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceivedMessage {
    /// When that was.
    pub received_at: OffsetDateTime,
    /// The message's number in its mailbox, for ever.
    pub uid: Uid,
    /// Octets that RETR sends before byte-stuffing.
    pub octets: u64,
    /// Its unique-id, where that is not made from the uid.
    pub unique_id: Option<String>,
}

impl Listing {
    /// An empty listing of `mailbox`.
    pub fn new(mailbox: MailboxId) -> Self {
        Self {
            prefix: UniqueIdPrefix::of(mailbox),
            uids: Vec::new(),
            octets: Vec::new(),
            total: 0,
            imported: Vec::new(),
            imported_text: String::new(),
        }
    }

    /// Makes room for `additional` further messages.
    pub fn reserve(&mut self, additional: usize) {
        self.uids.reserve_exact(additional);
        self.octets.reserve_exact(additional);
    }

    /// Appends a message. `unique_id` is given where it is not made from the uid.
    pub fn push(&mut self, uid: Uid, octets: u64, unique_id: Option<&str>) {
        if let Some(text) = unique_id {
            self.imported_text.push_str(text);
            self.imported.push((self.uids.len() as u32, self.imported_text.len() as u32));
        }
        self.uids.push(uid.0);
        // Messages over 4 GiB, in ASCII too, are refused at delivery, so that nothing is cut here.
        self.octets.push(u32::try_from(octets).unwrap_or(u32::MAX));
        self.total += octets;
    }

    /// A listing of these messages by the time they were received, of which only the last are wanted where `last`
    /// says so.
    pub fn by_time(mailbox: MailboxId, mut messages: Vec<ReceivedMessage>, last: Option<u32>) -> Self {
        messages.sort_unstable_by_key(|message| (message.received_at, message.uid.0));
        let skip = last.map_or(0, |last| messages.len().saturating_sub(last as usize));
        let mut listing = Self::new(mailbox);
        listing.reserve(messages.len() - skip);
        for message in &messages[skip..] {
            listing.push(message.uid, message.octets, message.unique_id.as_deref());
        }
        listing
    }

    /// How many messages there are.
    pub fn len(&self) -> usize {
        self.uids.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.uids.is_empty()
    }

    /// Octets of all messages.
    pub fn octets(&self) -> u64 {
        self.total
    }

    /// The message at `position` (0 is message number 1).
    pub fn get(&self, position: usize) -> Option<ListingEntry> {
        Some(ListingEntry { uid: Uid(*self.uids.get(position)?), octets: u64::from(self.octets[position]) })
    }

    /// Appends the unique-id of the message at `position` to `out`.
    pub fn write_unique_id(&self, position: usize, out: &mut String) {
        if let Ok(i) = self.imported.binary_search_by_key(&(position as u32), |(p, _)| *p) {
            let start = if i == 0 { 0 } else { self.imported[i - 1].1 };
            out.push_str(&self.imported_text[start as usize..self.imported[i].1 as usize]);
        } else if let Some(uid) = self.uids.get(position) {
            self.prefix.write(Uid(*uid), out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_order_octets_and_unique_ids() {
        let mut listing = Listing::new(MailboxId::generate());
        listing.push(Uid(3), 10, None);
        listing.push(Uid(4), 20, Some("old-a"));
        listing.push(Uid(9), 30, Some("old-bb"));
        listing.push(Uid(10), 40, None);
        let unique_id = |i| {
            let mut s = String::new();
            listing.write_unique_id(i, &mut s);
            s
        };
        assert_eq!(listing.len(), 4);
        assert_eq!(listing.octets(), 100);
        assert_eq!(listing.get(2), Some(ListingEntry { uid: Uid(9), octets: 30 }));
        assert_eq!(listing.get(4), None);
        assert_eq!(unique_id(1), "old-a");
        assert_eq!(unique_id(2), "old-bb");
        assert!(unique_id(0).ends_with('3') && unique_id(3).ends_with('a'));
    }
}
