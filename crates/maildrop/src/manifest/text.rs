//! The text of manifests: lines of JSON.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    SealedKey, State, TenantId,
    port::{
        BlobError, Directory, MailboxRecord, ManifestPart, ManifestRound, ManifestStore, MessageRecord,
        Record,
    },
};

/// Text of one object, before it is compressed, is this much and a line more.
const PART_OCTETS: usize = 4 * 1024 * 1024;
/// Messages of a line: at some 300 octets each less than a megabyte.
pub(crate) const MESSAGES_OF_LINE: u32 = 2000;

/// A line. In a round they come in this order, and a mailbox's messages behind it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Line {
    /// In a full round: packs from before this time, in microseconds since 1970, are known, too.
    PacksSince(i64),
    /// Packs whose rows were committed before the round read anything else.
    Packs(Vec<Uuid>),
    /// The tenant, but for its mailboxes.
    Tenant(Record),
    /// A mailbox, but for its messages.
    Mailbox(MailboxRecord),
    /// Messages that it holds.
    Messages {
        /// The mailbox.
        mailbox: Uuid,
        /// Their rows, in order of uid.
        rows: Vec<MessageRecord>,
    },
    /// Mailboxes that were deleted.
    Gone(Vec<Uuid>),
}

/// The lines of an object.
pub(crate) fn lines(text: &[u8]) -> impl Iterator<Item = Result<Line, serde_json::Error>> {
    text.split(|octet| *octet == b'\n').filter(|line| !line.is_empty()).map(serde_json::from_slice)
}

/// Writes a round, object by object.
pub(super) struct Writer<'a> {
    store: &'a dyn ManifestStore,
    directory: &'a dyn Directory,
    tenant: TenantId,
    key: &'a SealedKey,
    next: ManifestPart,
    text: Vec<u8>,
    octets: u64,
}

impl<'a> Writer<'a> {
    pub(super) fn new(
        store: &'a dyn ManifestStore,
        directory: &'a dyn Directory,
        tenant: TenantId,
        key: &'a SealedKey,
        round: &ManifestRound,
    ) -> Self {
        let next = ManifestPart { round: round.round, id: round.id, full: round.full, part: 0, last: false };
        Self { store, directory, tenant, key, next, text: Vec::new(), octets: 0 }
    }

    pub(super) async fn push(&mut self, line: &Line) -> Result<(), BlobError> {
        if self.text.len() >= PART_OCTETS {
            self.put().await?;
        }
        serde_json::to_writer(&mut self.text, line)
            .map_err(|error| BlobError::Corrupt(format!("a line of a manifest: {error}")))?;
        self.text.push(b'\n');
        Ok(())
    }

    /// Writes what is left, as the last object. Gives the octets of all.
    pub(super) async fn finish(mut self) -> Result<u64, BlobError> {
        self.next.last = true;
        self.put().await?;
        Ok(self.octets)
    }

    async fn put(&mut self) -> Result<(), BlobError> {
        // With it goes the tenant's key, sealed: what is under way when that is destroyed is purged within the grace of
        // the deletion, and nothing may follow it.
        let of = self.directory.tenant(self.tenant).await;
        let of = of.map_err(|error| BlobError::Unavailable(error.to_string()))?;
        if of.is_none_or(|of| of.state == State::Deleting) {
            return Err(BlobError::NotFound(format!("tenant {}", self.tenant)));
        }
        self.octets += self.store.put_manifest(self.tenant, self.key, &self.next, &self.text).await?;
        self.next.part += 1;
        self.text.clear();
        Ok(())
    }
}
