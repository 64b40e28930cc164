//! The ports of manifests: what is kept in the bucket so that it is enough by itself (P8), and how an index is rebuilt.

use std::collections::BTreeMap;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{BlobError, IndexError};
use crate::{EntryEnvelope, Extent, MailboxId, Measured, PackId, SealedKey, TenantBuckets, TenantId, Uid};

/// Rows by table, each an object of its columns, in a form that all adapters read and write: identifiers and octets in
/// hex, times in microseconds since 1970.
pub type Record = BTreeMap<String, Vec<Value>>;

/// A mailbox without its messages.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct MailboxRecord {
    /// The mailbox.
    #[serde(with = "mailbox_id")]
    pub id: MailboxId,
    /// How often it was changed.
    pub changes: i64,
    /// The uid that its next message gets.
    pub next_uid: u64,
    /// Its rows: the mailbox, its credential, its aliases, its app passwords.
    pub tables: Record,
}

mod mailbox_id {
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};
    use uuid::Uuid;

    use crate::MailboxId;

    pub(super) fn serialize<S: Serializer>(id: &MailboxId, serializer: S) -> Result<S::Ok, S::Error> {
        id.as_uuid().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<MailboxId, D::Error> {
        Uuid::deserialize(deserializer).map(MailboxId::from_uuid)
    }
}

/// A message's row, column by column.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MessageRecord {
    /// Its number.
    pub uid: i64,
    /// Where it lies: the pack,
    pub pack_id: Uuid,
    /// the first octet of its entry,
    pub pack_offset: i64,
    /// and how many there are.
    pub pack_length: i64,
    /// Octets that RETR sends.
    pub octets: i64,
    /// Octets of the stored header.
    pub header_octets: i64,
    /// When it came in, in microseconds since 1970.
    pub received_at: i64,
    /// What it hashes to, in hex.
    pub digest: String,
    /// The address for `Delivered-To`.
    pub delivered_to: String,
    /// The unique-id that was brought along by a migration.
    pub unique_id: Option<String>,
    /// By how many octets it is longer in ASCII.
    pub ascii_extra: Option<i64>,
}

impl MessageRecord {
    /// Where it lies.
    pub fn extent(&self) -> Extent {
        let pack = PackId::from_uuid(self.pack_id);
        Extent { pack, offset: self.pack_offset as u64, length: self.pack_length as u64 }
    }
}

/// Writing of a manifest, as the index knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ManifestRound {
    /// Its number, which grows.
    pub round: u64,
    /// Its name.
    pub id: Uuid,
    /// Whether what was written before it is no longer needed.
    pub full: bool,
    /// Octets that were written.
    pub octets: u64,
    /// When it was begun.
    pub begun_at: OffsetDateTime,
    /// Whether all of it was written.
    pub finished: bool,
}

/// What was restored of some rows.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Restored {
    /// Rows that were not there, and are.
    pub added: u64,
    /// Those that could not be restored, since something else has their name or address.
    pub taken: Vec<String>,
}

/// What was restored of messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RestoredRows {
    /// Messages that were not there, and are.
    pub added: u64,
    /// Those of them that have another unique-id than they had, since another message has theirs.
    pub renumbered: u64,
    /// Messages that were there.
    pub known: u64,
}

/// A pack that is put back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RestoredPack {
    /// The pack.
    pub pack: PackId,
    /// Octets of the object.
    pub octets: u64,
    /// Its entries. Where that is not known: 2, which is never taken for a pack that is not worth rewriting.
    pub entries: u32,
}

/// A message that was found in a pack: its row, but for the uid, which counts for nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FoundMessage {
    /// The mailbox.
    pub mailbox: MailboxId,
    /// The row.
    pub row: MessageRecord,
}

/// What has to be written to manifests, and what is put back from them.
#[async_trait]
pub trait Manifests: Send + Sync + std::fmt::Debug {
    /// Up to `limit` tenants of which something is to be written, from after `after`, in their order.
    async fn all_tenants_manifests_due(
        &self,
        after: Option<TenantId>,
        limit: u32,
    ) -> Result<Vec<TenantId>, IndexError>;

    /// The rounds that are known, in their order.
    async fn manifest_rounds(&self, tenant: TenantId) -> Result<Vec<ManifestRound>, IndexError>;

    /// Notes that a round is begun, before anything of it is written.
    async fn begin_manifest(&self, tenant: TenantId, round: &ManifestRound) -> Result<(), IndexError>;

    /// Notes that a round is over: these mailboxes, where they have not changed since, and these notes are no longer
    /// due. Behind a full one, those before it are forgotten.
    async fn finish_manifest(
        &self,
        tenant: TenantId,
        round: &ManifestRound,
        saved: &[(MailboxId, i64)],
        notes: &[i64],
    ) -> Result<(), IndexError>;

    /// Up to `limit` packs after `after` whose rows were made at `since` or later.
    async fn committed_packs(
        &self,
        tenant: TenantId,
        after: PackId,
        since: OffsetDateTime,
        limit: u32,
    ) -> Result<Vec<PackId>, IndexError>;

    /// The tenant, its domains, certificates, API keys and bulletins; `None` where it is gone, or being deleted.
    async fn tenant_record(&self, tenant: TenantId) -> Result<Option<Record>, IndexError>;

    /// Notes of what changed beside the rows of mailboxes: of which mailbox, or of the tenant itself. Up to `limit`.
    async fn manifest_notes(
        &self,
        tenant: TenantId,
        limit: u32,
    ) -> Result<Vec<(i64, Option<MailboxId>)>, IndexError>;

    /// Up to `limit` mailboxes after `after`, in their order: those of which something is to be written, or `all`.
    async fn manifest_mailboxes(
        &self,
        tenant: TenantId,
        all: bool,
        after: Option<MailboxId>,
        limit: u32,
    ) -> Result<Vec<MailboxId>, IndexError>;

    /// These mailboxes; those that are gone are left out.
    async fn mailbox_records(
        &self,
        tenant: TenantId,
        mailboxes: &[MailboxId],
    ) -> Result<Vec<MailboxRecord>, IndexError>;

    /// Up to `limit` messages of the mailbox in order of uid, from `from` to under `before`.
    async fn message_records(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        from: Uid,
        before: Uid,
        limit: u32,
    ) -> Result<Vec<MessageRecord>, IndexError>;

    /// Puts a tenant back under its sealed key, with all of its record, where it is not there. What is there is left.
    async fn restore_tenant(
        &self,
        tenant: TenantId,
        key: &SealedKey,
        record: &Record,
    ) -> Result<Restored, IndexError>;

    /// Puts a mailbox back where it is not there; what is there is left. Its next message gets no uid under `next_uid`.
    async fn restore_mailbox(
        &self,
        tenant: TenantId,
        mailbox: &MailboxRecord,
        next_uid: Uid,
    ) -> Result<Restored, IndexError>;

    /// Makes packs known that are not; they are not dead, since messages in them are about to be put back.
    async fn restore_packs(&self, tenant: TenantId, packs: &[RestoredPack]) -> Result<u64, IndexError>;

    /// Puts messages back under their uids. Where another message has such a uid, the message gets a new one, unless it
    /// has one already. Counters are not touched ([`recount`](Self::recount)).
    async fn restore_messages(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        rows: &[MessageRecord],
    ) -> Result<RestoredRows, IndexError>;

    /// Puts messages of a pack that no row knows into their mailboxes, under new uids, with the pack's row: all or
    /// nothing, and nothing where the pack is known by now. One that its mailbox has, or had within what is kept, is
    /// left out. Quotas refuse none.
    async fn restore_found(
        &self,
        tenant: TenantId,
        pack: &RestoredPack,
        found: &[FoundMessage],
    ) -> Result<RestoredRows, IndexError>;

    /// Counts the messages of a mailbox anew, while nobody changes it. Gives by how many messages and octets it was wrong.
    async fn recount(&self, tenant: TenantId, mailbox: MailboxId) -> Result<(i64, i64), IndexError>;

    /// Notes what nothing points at of these packs, whose rows were just made.
    async fn note_garbage(&self, tenant: TenantId, packs: &[PackId]) -> Result<(), IndexError>;

    /// Notes rounds that were found in the bucket: what is in them was put back.
    async fn adopt_manifests(&self, tenant: TenantId, rounds: &[ManifestRound]) -> Result<(), IndexError>;
}

/// An object of a manifest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ManifestPart {
    /// The round.
    pub round: u64,
    /// Its name.
    pub id: Uuid,
    /// Whether what was written before the round is no longer needed.
    pub full: bool,
    /// Which of the round's, from 0.
    pub part: u32,
    /// Whether it is the last. A round without it was broken off.
    pub last: bool,
}

/// An entry that was found in a pack.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FoundEntry {
    /// Where it lies.
    pub extent: Extent,
    /// What it says of itself.
    pub envelope: EntryEnvelope,
    /// Octets and hash of its message.
    pub measured: Measured,
}

/// What was found in a pack.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PackContents {
    /// Its entries.
    pub entries: Vec<FoundEntry>,
    /// What is the matter with it: first octet, how many, and what.
    pub damage: Vec<(u64, u64, String)>,
    /// Octets that were read.
    pub read_octets: u64,
}

/// Manifests in the bucket, and what packs say of themselves.
#[async_trait]
pub trait ManifestStore: Send + Sync + std::fmt::Debug {
    /// The first tenant after `after` of whom anything is stored, in the order of their names.
    async fn all_tenants_next(&self, after: Option<TenantId>) -> Result<Option<TenantId>, BlobError>;

    /// Writes an object of a manifest, sealed under the tenant's key, which is in it as it is. Durable when this returns.
    /// Gives its octets.
    async fn put_manifest(
        &self,
        tenant: TenantId,
        key: &SealedKey,
        part: &ManifestPart,
        text: &[u8],
    ) -> Result<u64, BlobError>;

    /// Finds out which stores of its own the tenant has: what a manifest has `recorded`, or what was described in the
    /// house's store when they were set, where that is newer. From here on packs are looked for there.
    async fn find_buckets(
        &self,
        tenant: TenantId,
        recorded: Option<TenantBuckets>,
    ) -> Result<Option<TenantBuckets>, BlobError>;

    /// The tenant's manifests, in the order of rounds and parts.
    async fn list_manifests(&self, tenant: TenantId) -> Result<Vec<ManifestPart>, BlobError>;

    /// Reads one, and the tenant's sealed key that is in it. A key that another master key sealed is
    /// [`BlobError::WrongKey`].
    async fn read_manifest(
        &self,
        tenant: TenantId,
        part: &ManifestPart,
    ) -> Result<(SealedKey, Vec<u8>), BlobError>;

    /// Deletes manifests.
    async fn delete_manifests(&self, tenant: TenantId, parts: &[ManifestPart]) -> Result<(), BlobError>;

    /// What a pack of `octets` says of its entries: envelopes and summaries, and no more than that has to be read. Where
    /// that fails, all of it is.
    async fn look_into_pack(
        &self,
        tenant: TenantId,
        key: &SealedKey,
        pack: PackId,
        octets: u64,
    ) -> Result<PackContents, BlobError>;

    /// Reads a whole pack, and opens every entry in it.
    async fn scan_pack(
        &self,
        tenant: TenantId,
        key: &SealedKey,
        pack: PackId,
    ) -> Result<PackContents, BlobError>;
}
