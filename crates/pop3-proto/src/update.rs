//! UPDATE: the only state that may remove mail (RFC 1939 §6).

use crate::language::Wording;
use crate::marks::DeletionMarks;
use crate::number::MessageNumber;
use crate::{replies, texts};

/// The deletions a client asked for and confirmed by QUIT.
///
/// Only QUIT in TRANSACTION builds one. The reply comes after the commit and says what happened: `+OK`
/// is never sent for something that may still fail.
#[derive(Debug)]
#[must_use]
pub struct Update {
    deleted: DeletionMarks,
    wording: Wording,
}

impl Update {
    pub(crate) fn new(deleted: DeletionMarks, wording: Wording) -> Self {
        Self { deleted, wording }
    }

    /// The messages to remove, ascending.
    pub fn deleted(&self) -> impl Iterator<Item = MessageNumber> + '_ {
        self.deleted.iter()
    }

    /// How many messages there are to remove.
    pub fn len(&self) -> u32 {
        self.deleted.len()
    }

    /// Whether there is nothing to remove.
    pub fn is_empty(&self) -> bool {
        self.deleted.is_empty()
    }

    /// Everything asked for is removed.
    pub fn committed(self, out: &mut Vec<u8>) {
        replies::ok(self.wording, texts::BYE, out);
    }

    /// Nothing is known to be removed (RFC 1939 §6: a server that cannot remove what was asked for says
    /// `-ERR`).
    pub fn failed(self, out: &mut Vec<u8>) {
        replies::temporary_failure(self.wording, texts::NOT_COMMITTED, out);
    }
}
