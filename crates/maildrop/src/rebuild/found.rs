//! Packs that no manifest tells of: what came after the last one, and what was moved since.

use std::collections::HashMap;

use futures_util::StreamExt as _;
use serde_json::json;
use time::OffsetDateTime;
use tracing::warn;

use super::{
    Rebuild, RebuildError,
    tenant::{Work, from_micros},
};
use crate::{
    Actor, Address, Bulletin, BulletinState, Digest, MailboxId, MessageOctets, PackId, SealedKey,
    StoredEntry, Uid,
    downgrade::AsciiExtra,
    manifest::{PACKS_SINCE, micros},
    port::{
        BlobError, FoundEntry, FoundMessage, IndexError, MailboxRecord, MessageRecord, Read, Record,
        RestoredPack,
    },
};

impl Rebuild {
    /// Messages whose packs were rewritten after the manifest was written: their copies are in packs from after it.
    pub(super) async fn follow_moved(
        &self,
        work: &mut Work,
        key: &SealedKey,
        written: OffsetDateTime,
    ) -> Result<(), RebuildError> {
        if work.moved.is_empty() {
            return Ok(());
        }
        let mut wanted: HashMap<String, Vec<(MailboxId, MessageRecord)>> = HashMap::new();
        for (mailbox, row) in std::mem::take(&mut work.moved) {
            wanted.entry(row.digest.clone()).or_default().push((mailbox, row));
        }
        // The newest first: there they will be.
        let mut packs: Vec<(PackId, u64)> =
            work.objects.iter().map(|(pack, octets)| (*pack, *octets)).collect();
        packs.retain(|(pack, _)| pack.time() >= written - PACKS_SINCE);
        packs.sort_unstable_by_key(|(pack, _)| std::cmp::Reverse(pack.time()));
        let of = packs.len() as u64;
        for (done, (pack, octets)) in (0..).zip(packs) {
            if wanted.is_empty() {
                break;
            }
            self.progress.tell(work.tenant, "following moved messages", done, of);
            let Some(contents) = self.look(work, key, pack, octets).await? else { continue };
            for entry in &contents {
                let Some(rows) = wanted.remove(&hex(&entry.measured.digest)) else { continue };
                for (mailbox, row) in rows {
                    let row = MessageRecord {
                        pack_id: pack.as_uuid(),
                        pack_offset: entry.extent.offset as i64,
                        pack_length: entry.extent.length as i64,
                        ..row
                    };
                    if self.options.dry_run {
                        work.report.messages += 1;
                        continue;
                    }
                    let row = [row];
                    let restored = self.manifests.restore_messages(work.tenant, mailbox, &row).await?;
                    work.report.messages += restored.added - restored.renumbered;
                    if restored.known > 0 {
                        // It is there, and points at what is gone: else it would not be looked for.
                        work.report.messages +=
                            self.manifests.repoint_messages(work.tenant, mailbox, &row).await?;
                    }
                    work.report.renumbered += restored.renumbered;
                }
            }
        }
        for (mailbox, row) in wanted.into_values().flatten() {
            work.report.messages_gone += 1;
            let (tenant, uid) = (work.tenant, row.uid);
            warn!(%tenant, %mailbox, uid, "the octets of a message are nowhere in the bucket");
        }
        Ok(())
    }

    async fn look(
        &self,
        work: &mut Work,
        key: &SealedKey,
        pack: PackId,
        octets: u64,
    ) -> Result<Option<Vec<FoundEntry>>, RebuildError> {
        match self.store.look_into_pack(work.tenant, key, pack, octets).await {
            Ok(contents) => {
                work.report.packs_read += 1;
                work.report.octets_read += contents.read_octets;
                work.note_damage(pack, &contents.damage);
                Ok(Some(contents.entries))
            }
            Err(BlobError::Corrupt(what) | BlobError::NotFound(what)) => {
                work.report.damaged(what);
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Messages of packs that neither the index nor the manifest knows.
    pub(super) async fn find(
        &self,
        work: &mut Work,
        key: &SealedKey,
        packs: &[PackId],
    ) -> Result<(), RebuildError> {
        let mut packs = packs.to_vec();
        // In the order of time, as mailboxes got them.
        packs.sort_unstable();
        let of = packs.len() as u64;
        for (done, pack) in (0..).zip(packs) {
            self.progress.tell(work.tenant, "looking into new packs", done, of);
            let octets = work.objects[&pack];
            let Some(entries) = self.look(work, key, pack, octets).await? else { continue };
            let mut found = Vec::new();
            for entry in &entries {
                // Older than what is known: a copy of a message that the manifest tells of, or that was deleted.
                let before = work.since.max(work.copies_before);
                let old = before.is_some_and(|before| entry.envelope.received_at < before);
                if !old || work.doubtful {
                    self.entry(work, key, entry, octets, entries.len() as u32, &mut found).await?;
                }
            }
            if self.options.dry_run {
                work.report.messages_found += found.len() as u64;
                continue;
            }
            for message in &found {
                self.raise(work, message.mailbox).await?;
            }
            let pack = RestoredPack { pack, octets, entries: entries.len() as u32 };
            let restored = self.manifests.restore_found(work.tenant, &pack, &found).await?;
            work.report.messages_found += restored.added;
        }
        Ok(())
    }

    async fn entry(
        &self,
        work: &mut Work,
        key: &SealedKey,
        entry: &FoundEntry,
        pack_octets: u64,
        pack_entries: u32,
        found: &mut Vec<FoundMessage>,
    ) -> Result<(), RebuildError> {
        let envelope = &entry.envelope;
        let mut places = Vec::new();
        for (mailbox, address) in &envelope.recipients {
            let Ok(address) = Address::try_from(address.as_str()) else {
                work.report.unplaced += 1;
                continue;
            };
            if self.is_there(work, *mailbox, &address, envelope.received_at).await? {
                places.push((*mailbox, address));
            } else {
                work.report.unplaced += 1;
            }
        }
        if places.is_empty() && envelope.bulletin.is_none() {
            return Ok(());
        }
        let ascii_extra = match self.ascii_extra(work, key, entry).await {
            Ok(extra) => extra,
            Err(BlobError::Corrupt(what) | BlobError::NotFound(what)) => {
                work.report.damaged(what);
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        let stored = MessageOctets::stored(entry.measured.octets, ascii_extra);
        if envelope.bulletin.is_some() {
            return self.bulletin(work, entry, stored, pack_octets, pack_entries).await;
        }
        for (mailbox, address) in places {
            let octets = stored.delivered_to(&address);
            let row = MessageRecord {
                uid: 0,
                pack_id: entry.extent.pack.as_uuid(),
                pack_offset: entry.extent.offset as i64,
                pack_length: entry.extent.length as i64,
                octets: octets.ascii as i64,
                header_octets: entry.measured.header_octets as i64,
                received_at: micros(envelope.received_at),
                digest: hex(&entry.measured.digest),
                delivered_to: address.as_str().to_owned(),
                unique_id: None,
                ascii_extra: octets.ascii_extra,
            };
            found.push(FoundMessage { mailbox, row });
        }
        Ok(())
    }

    /// Reads the message, which shows that it can be, and says by how much it is longer in ASCII.
    async fn ascii_extra(
        &self,
        work: &mut Work,
        key: &SealedKey,
        entry: &FoundEntry,
    ) -> Result<Option<i64>, BlobError> {
        let read = Read::Whole { octets: entry.measured.octets, digest: entry.measured.digest };
        let mut body = self.blob.read(work.tenant, key, entry.extent, read).await?;
        let mut extra = AsciiExtra::default();
        while let Some(chunk) = body.next().await {
            extra.push(&chunk?);
        }
        work.report.octets_read += entry.extent.length;
        Ok(extra.finish())
    }

    /// Whether the mailbox is there. One that was created after the last manifest is created again, under the address by
    /// which it was written to.
    async fn is_there(
        &self,
        work: &mut Work,
        mailbox: MailboxId,
        address: &Address,
        at: OffsetDateTime,
    ) -> Result<bool, RebuildError> {
        if work.gone.contains(&mailbox) {
            return Ok(false);
        }
        let tenant = work.tenant;
        if work.seen.contains(&mailbox)
            || !self.manifests.mailbox_records(tenant, &[mailbox]).await?.is_empty()
        {
            work.seen.insert(mailbox);
            return Ok(true);
        }
        if self.options.dry_run {
            work.seen.insert(mailbox);
            work.report.mailboxes_found += 1;
            return Ok(true);
        }
        let row = json!({
            "mailbox_id": mailbox.as_uuid(), "address": address.as_str(), "credential_version": 1, "next_uid": 1,
            "created_at": micros(at), "state": "active", "revision": 1, "policy": {}, "bulletins": 0,
        });
        let tables = Record::from([("mailboxes".to_owned(), vec![row])]);
        let record = MailboxRecord { id: mailbox, changes: 0, next_uid: 1, tables };
        let domain = crate::DomainName::try_from(address.domain());
        let ours = match domain {
            Ok(domain) => self.directory.domain(tenant, &domain).await?.is_some(),
            Err(_) => false,
        };
        // Another tenant's domain, or an address that another mailbox has by now.
        if !ours {
            return Ok(false);
        }
        let restored =
            self.manifests.restore_mailbox(tenant, &record, Uid(super::tenant::UIDS_SKIPPED)).await?;
        if restored.added == 0 {
            return Ok(false);
        }
        work.seen.insert(mailbox);
        work.report.mailboxes_found += 1;
        Ok(true)
    }

    /// A bulletin that was posted after the last manifest: it is put into mailboxes once more. Whoever had it is shown it
    /// again.
    async fn bulletin(
        &self,
        work: &mut Work,
        entry: &FoundEntry,
        octets: MessageOctets,
        pack_octets: u64,
        pack_entries: u32,
    ) -> Result<(), RebuildError> {
        let Some(envelope) = &entry.envelope.bulletin else { return Ok(()) };
        if self.bulletins.bulletin(work.tenant, envelope.id).await?.is_some() {
            return Ok(());
        }
        work.report.bulletins_found += 1;
        if self.options.dry_run {
            return Ok(());
        }
        let bulletin = Bulletin {
            id: envelope.id,
            number: 0,
            note: envelope.note.clone(),
            state: BulletinState::RollingOut,
            new_mailboxes: envelope.new_mailboxes,
            expires_at: envelope.expires_at,
            extent: entry.extent,
            octets,
            header_octets: entry.measured.header_octets,
            digest: entry.measured.digest,
            delivered: 0,
            removed: 0,
            created_by: "rebuild".into(),
            created_at: from_micros(micros(entry.envelope.received_at)),
            ended_at: None,
        };
        let stored = StoredEntry { extent: entry.extent, pack_octets, pack_entries };
        let actor = Actor { name: "rebuild".into(), origin: "local".into(), request: String::new() };
        match self.bulletins.create_bulletin(work.tenant, &bulletin, &stored, &actor).await {
            Ok(_) => Ok(()),
            Err(IndexError::Conflict(_)) => {
                work.report.damaged(format!("bulletin {}: there are too many", envelope.id));
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }
}

fn hex(digest: &Digest) -> String {
    use std::fmt::Write as _;
    digest.0.iter().fold(String::with_capacity(64), |mut text, octet| {
        let _ = write!(text, "{octet:02x}");
        text
    })
}
