//! One tenant: what its manifest tells.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt::Write as _,
};

use time::OffsetDateTime;
use uuid::Uuid;

use super::{Rebuild, RebuildError, TenantRebuild};
use serde_json::{Map, Value};

use crate::{
    MailboxId, PackId, SealedKey, TenantBuckets, TenantId, Uid,
    manifest::{Line, lines},
    port::{
        BlobError, MailboxRecord, ManifestPart, ManifestRound, MessageRecord, Record, RestoredPack, Sweep,
    },
};

/// Uids that are left out behind those of a manifest. Which of them were given to messages since is not known, and no
/// unique-id may ever stand for two messages: no mailbox gets so many in the time between two manifests.
pub(super) const UIDS_SKIPPED: u64 = 1 << 24;
/// Packs of one step.
const STEP: usize = 500;

/// What is known of a tenant while it is gone through.
pub(super) struct Work {
    pub(super) tenant: TenantId,
    pub(super) report: TenantRebuild,
    /// Packs in the bucket, and the octets of each.
    pub(super) objects: BTreeMap<PackId, u64>,
    /// Packs that manifests say were known when they were written.
    pub(super) known: HashSet<PackId>,
    /// Packs from before this are known, too.
    pub(super) since: Option<OffsetDateTime>,
    /// Mailboxes that were seen to.
    pub(super) seen: HashSet<MailboxId>,
    /// Mailboxes that were deleted.
    pub(super) gone: HashSet<MailboxId>,
    /// Messages whose packs are not there: they were moved to others.
    pub(super) moved: Vec<(MailboxId, MessageRecord)>,
    /// Whether anything of a manifest could not be read: then nothing counts as known.
    pub(super) doubtful: bool,
}

/// A round as the bucket has it.
struct Round {
    number: u64,
    id: Uuid,
    full: bool,
    parts: Vec<ManifestPart>,
}

impl Round {
    /// Whether all of it was written.
    fn is_whole(&self) -> bool {
        let in_order = (0..).zip(&self.parts).all(|(nth, part)| part.part == nth);
        in_order && self.parts.last().is_some_and(|part| part.last)
    }
}

impl Rebuild {
    /// None where it is not the one that was asked for.
    pub(super) async fn tenant(&self, tenant: TenantId) -> Result<Option<TenantRebuild>, RebuildError> {
        let rounds = rounds(self.store.list_manifests(tenant).await?);
        let in_index = self.directory.tenant(tenant).await?;
        let mut work = Work::new(tenant);
        work.report.known = in_index.is_some();
        work.report.name = in_index.as_ref().map(|of| of.name.to_string());
        let mut key = in_index.as_ref().map(|of| of.key.clone());
        let mut record = None;
        // From the newest back to the last full one. One that was broken off tells nothing that can be relied on.
        let whole: Vec<&Round> = rounds.iter().filter(|round| round.is_whole()).collect();
        let full = whole.iter().rposition(|round| round.full);
        let usable: Vec<&Round> =
            full.map_or(Vec::new(), |full| whole[full..].iter().rev().copied().collect());
        for round in &usable {
            match self.head(tenant, round).await {
                Ok((sealed, found)) => {
                    key = Some(sealed);
                    record = Some(found);
                    break;
                }
                Err(RebuildError::Blob(BlobError::Corrupt(what) | BlobError::NotFound(what))) => {
                    work.doubtful = true;
                    work.report.damaged(what);
                }
                Err(error) => return Err(error),
            }
        }
        if let Some(record) = &record {
            let name = record.get("tenants").and_then(|rows| rows.first()?.get("name")?.as_str());
            work.report.name = name.map(str::to_owned).or(work.report.name);
        }
        if let Some(wanted) = &self.options.tenant
            && *wanted != tenant.to_string()
            && work.report.name.as_ref() != Some(wanted)
        {
            return Ok(None);
        }
        let Some(key) = key else { return Ok(Some(work.report)) };
        work.report.has_key = true;
        if let (None, None) = (&in_index, &record) {
            // There is a key, and nobody that it is of.
            return Ok(Some(work.report));
        }
        self.find_buckets(tenant, record.as_mut()).await?;
        self.list(&mut work).await?;
        let unknown = self.unknown_packs(&work).await?;
        let known_rounds = self.manifests.manifest_rounds(tenant).await?;
        // An index that knows all the rounds is as new as they are: they have nothing to tell it.
        let behind = rounds.iter().any(|round| !known_rounds.iter().any(|known| known.id == round.id));
        if behind && let Some(record) = &record {
            self.begin(&mut work, &key, record, in_index.is_none()).await?;
            if !work.report.taken.is_empty() && in_index.is_none() && self.is_missing(tenant).await? {
                return Ok(Some(work.report));
            }
            work.report.as_of = usable.first().map(|round| time_of(round.id));
            self.read_packs_known(&mut work, &usable).await?;
            let old: Vec<PackId> = unknown.iter().copied().filter(|pack| work.is_known(*pack)).collect();
            self.register(&mut work, &old).await?;
            self.apply(&mut work, &usable).await?;
            self.follow_moved(&mut work, &key, time_of(usable[usable.len() - 1].id)).await?;
        }
        let new: Vec<PackId> = unknown.into_iter().filter(|pack| !work.is_known(*pack)).collect();
        self.find(&mut work, &key, &new).await?;
        self.end(&mut work, in_index.is_none(), &rounds, &known_rounds).await?;
        if self.options.verify {
            self.verify(&mut work, &key).await?;
        }
        Ok(Some(work.report))
    }

    /// The tenant's key and its record, from the first object of a round.
    async fn head(&self, tenant: TenantId, round: &Round) -> Result<(SealedKey, Record), RebuildError> {
        let (key, text) = match self.store.read_manifest(tenant, &round.parts[0]).await {
            Err(BlobError::WrongKey) => return Err(RebuildError::WrongKey(tenant)),
            other => other?,
        };
        for line in lines(&text) {
            match line {
                Ok(Line::Tenant(record)) => return Ok((key, record)),
                Ok(_) => {}
                Err(error) => return Err(unreadable(round, &error).into()),
            }
        }
        // Behind very many packs: in one of the next objects.
        for part in &round.parts[1..] {
            let (_, text) = self.store.read_manifest(tenant, part).await?;
            for line in lines(&text) {
                if let Line::Tenant(record) = line.map_err(|error| unreadable(round, &error))? {
                    return Ok((key, record));
                }
            }
        }
        Err(BlobError::Corrupt(format!("round {} of the manifest does not name the tenant", round.number))
            .into())
    }

    /// Finds the tenant's own stores, and puts into its record what was set since that was written.
    async fn find_buckets(&self, tenant: TenantId, record: Option<&mut Record>) -> Result<(), RebuildError> {
        let row = record.and_then(|record| record.get_mut("tenants")?.first_mut()?.as_object_mut());
        let recorded = row.as_ref().and_then(|row| buckets_of(row));
        let before = recorded.as_ref().map_or(0, |recorded| recorded.version);
        let found = self.store.find_buckets(tenant, recorded).await?;
        if let (Some(row), Some(found)) = (row, found)
            && found.version > before
        {
            let hex = |octets: &[u8]| {
                let mut text = String::with_capacity(2 * octets.len());
                for octet in octets {
                    let _ = write!(text, "{octet:02x}");
                }
                Value::String(text)
            };
            let buckets = serde_json::to_value(&found.buckets).unwrap_or_default();
            row.insert("buckets".into(), buckets);
            row.insert("bucket_key".into(), found.key.map_or(Value::Null, |key| hex(&key.0)));
            row.insert("bucket_secrets".into(), found.secrets.map_or(Value::Null, |secrets| hex(&secrets)));
            row.insert("buckets_version".into(), found.version.into());
        }
        Ok(())
    }

    async fn is_missing(&self, tenant: TenantId) -> Result<bool, RebuildError> {
        Ok(!self.options.dry_run && self.directory.tenant(tenant).await?.is_none())
    }

    async fn list(&self, work: &mut Work) -> Result<(), RebuildError> {
        let mut after = None;
        loop {
            let page = self.packs.list_packs(work.tenant, after).await?;
            work.objects.extend(page.packs.iter().copied());
            self.progress.tell(work.tenant, "listing packs", work.objects.len() as u64, 0);
            after = page.packs.last().map(|(pack, _)| *pack).filter(|_| page.more);
            if after.is_none() {
                work.report.packs = work.objects.len() as u64;
                return Ok(());
            }
        }
    }

    /// Packs in the bucket that the index does not know.
    async fn unknown_packs(&self, work: &Work) -> Result<Vec<PackId>, RebuildError> {
        let all: Vec<PackId> = work.objects.keys().copied().collect();
        let mut unknown = Vec::new();
        for some in all.chunks(STEP) {
            let known = self.garbage.known_packs(work.tenant, some).await?;
            let known: HashSet<PackId> = known.into_iter().collect();
            unknown.extend(some.iter().filter(|pack| !known.contains(pack)));
        }
        Ok(unknown)
    }

    async fn begin(
        &self,
        work: &mut Work,
        key: &SealedKey,
        record: &Record,
        new: bool,
    ) -> Result<(), RebuildError> {
        if self.options.dry_run {
            return Ok(());
        }
        let restored = self.manifests.restore_tenant(work.tenant, key, record).await?;
        work.report.take(restored.taken);
        if new && self.is_missing(work.tenant).await? {
            return Ok(());
        }
        self.leave_unswept(work.tenant).await
    }

    /// What is there now is no orphan, whatever the index knows of it.
    async fn leave_unswept(&self, tenant: TenantId) -> Result<(), RebuildError> {
        let now = OffsetDateTime::now_utc();
        let sweep = Sweep { tenant, from: now, until: now, at: None };
        Ok(self.garbage.note_sweep(&sweep).await?)
    }

    async fn register(&self, work: &mut Work, packs: &[PackId]) -> Result<(), RebuildError> {
        if self.options.dry_run {
            return Ok(());
        }
        for some in packs.chunks(STEP) {
            let packs: Vec<RestoredPack> = some
                .iter()
                .map(|pack| RestoredPack { pack: *pack, octets: work.objects[pack], entries: 2 })
                .collect();
            self.manifests.restore_packs(work.tenant, &packs).await?;
        }
        Ok(())
    }

    /// Which packs were known when the rounds were written.
    async fn read_packs_known(&self, work: &mut Work, usable: &[&Round]) -> Result<(), RebuildError> {
        for (done, round) in usable.iter().enumerate() {
            self.progress.tell(work.tenant, "reading manifests", done as u64, usable.len() as u64);
            for part in &round.parts {
                let Some(text) = self.text(work, part).await? else { continue };
                for line in lines(&text) {
                    match line {
                        Ok(Line::PacksSince(micros)) => work.since = Some(from_micros(micros)),
                        Ok(Line::Packs(packs)) => {
                            work.known.extend(packs.into_iter().map(PackId::from_uuid));
                        }
                        // Packs come first.
                        Ok(_) => break,
                        Err(error) => {
                            work.doubtful = true;
                            work.report.damaged(unreadable(round, &error).to_string());
                        }
                    }
                }
                if !text.is_empty() && !starts_with_packs(&text) {
                    break;
                }
            }
        }
        Ok(())
    }

    /// The text of an object; none where it is damaged, which makes all of it doubtful.
    async fn text(&self, work: &mut Work, part: &ManifestPart) -> Result<Option<Vec<u8>>, RebuildError> {
        match self.store.read_manifest(work.tenant, part).await {
            Ok((_, text)) => Ok(Some(text)),
            Err(BlobError::Corrupt(what) | BlobError::NotFound(what)) => {
                work.doubtful = true;
                work.report.damaged(what);
                Ok(None)
            }
            Err(BlobError::WrongKey) => Err(RebuildError::WrongKey(work.tenant)),
            Err(error) => Err(error.into()),
        }
    }

    /// Mailboxes and their messages, the newest word on each.
    async fn apply(&self, work: &mut Work, usable: &[&Round]) -> Result<(), RebuildError> {
        for round in usable {
            let mut current: Option<MailboxRecord> = None;
            for part in &round.parts {
                let Some(text) = self.text(work, part).await? else {
                    current = None;
                    continue;
                };
                for line in lines(&text) {
                    match line {
                        Ok(Line::Gone(mailboxes)) => {
                            work.gone.extend(mailboxes.into_iter().map(MailboxId::from_uuid));
                        }
                        Ok(Line::Mailbox(record)) => {
                            current = self.mailbox(work, record).await?;
                        }
                        Ok(Line::Messages { mailbox, rows }) => {
                            if let Some(record) = &current
                                && record.id.as_uuid() == mailbox
                            {
                                self.messages(work, record.id, rows).await?;
                            }
                        }
                        Ok(Line::Packs(_) | Line::PacksSince(_) | Line::Tenant(_)) => {}
                        Err(error) => {
                            work.doubtful = true;
                            work.report.damaged(unreadable(round, &error).to_string());
                        }
                    }
                }
                self.progress.tell(work.tenant, "restoring mailboxes", work.seen.len() as u64, 0);
            }
        }
        Ok(())
    }

    /// Gives the mailbox back where its messages are to be put into it.
    async fn mailbox(
        &self,
        work: &mut Work,
        record: MailboxRecord,
    ) -> Result<Option<MailboxRecord>, RebuildError> {
        if work.gone.contains(&record.id) || !work.seen.insert(record.id) {
            return Ok(None);
        }
        if self.options.dry_run {
            let known = self.manifests.mailbox_records(work.tenant, &[record.id]).await?;
            work.report.mailboxes += u64::from(known.is_empty());
            return Ok(Some(record));
        }
        let known = self.manifests.mailbox_records(work.tenant, &[record.id]).await?;
        let next_uid = Uid(record.next_uid + UIDS_SKIPPED);
        let restored = self.manifests.restore_mailbox(work.tenant, &record, next_uid).await?;
        let refused = !restored.taken.is_empty() && known.is_empty();
        work.report.mailboxes += u64::from(known.is_empty() && restored.added > 0);
        work.report.take(restored.taken);
        Ok((!refused).then_some(record))
    }

    async fn messages(
        &self,
        work: &mut Work,
        mailbox: MailboxId,
        rows: Vec<MessageRecord>,
    ) -> Result<(), RebuildError> {
        let (there, moved): (Vec<_>, Vec<_>) =
            rows.into_iter().partition(|row| work.objects.contains_key(&PackId::from_uuid(row.pack_id)));
        if self.options.dry_run {
            work.report.messages += self.missing(work.tenant, mailbox, &there).await?;
            let moved_missing = self.missing(work.tenant, mailbox, &moved).await?;
            if moved_missing == 0 {
                return Ok(());
            }
        } else {
            if work.report.known {
                // What the index took for dead is not.
                let packs: HashSet<PackId> = there.iter().map(|row| PackId::from_uuid(row.pack_id)).collect();
                self.register(work, &packs.into_iter().collect::<Vec<_>>()).await?;
            }
            let restored = self.manifests.restore_messages(work.tenant, mailbox, &there).await?;
            work.report.messages += restored.added - restored.renumbered;
            work.report.renumbered += restored.renumbered;
        }
        work.moved.extend(moved.into_iter().map(|row| (mailbox, row)));
        Ok(())
    }

    /// How many of these the index does not have.
    pub(super) async fn missing(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        rows: &[MessageRecord],
    ) -> Result<u64, RebuildError> {
        let (Some(first), Some(last)) = (rows.first(), rows.last()) else { return Ok(0) };
        let (from, before) = (Uid(first.uid as u64), Uid(last.uid as u64 + 1));
        let known = self.manifests.message_records(tenant, mailbox, from, before, u32::MAX >> 1).await?;
        let known: HashMap<i64, String> = known.into_iter().map(|row| (row.uid, row.digest)).collect();
        Ok(rows.iter().filter(|row| known.get(&row.uid) != Some(&row.digest)).count() as u64)
    }

    /// Counters, garbage, and that the rounds are known from now on.
    async fn end(
        &self,
        work: &mut Work,
        new: bool,
        rounds: &[Round],
        known: &[ManifestRound],
    ) -> Result<(), RebuildError> {
        if self.options.dry_run {
            return Ok(());
        }
        let of = work.seen.len() as u64;
        for (done, mailbox) in (0..).zip(&work.seen) {
            self.manifests.recount(work.tenant, *mailbox).await?;
            self.progress.tell(work.tenant, "counting", done, of);
        }
        // What nothing points at is garbage only where all is known that might have.
        if new && !work.doubtful {
            let all: Vec<PackId> = work.objects.keys().copied().collect();
            self.manifests.note_garbage(work.tenant, &all).await?;
        }
        self.leave_unswept(work.tenant).await?;
        let adopted: Vec<ManifestRound> = rounds
            .iter()
            .filter(|round| !known.iter().any(|known| known.id == round.id))
            .map(|round| ManifestRound {
                round: round.number,
                id: round.id,
                // The next one will be.
                full: false,
                octets: 0,
                begun_at: time_of(round.id),
                finished: true,
            })
            .collect();
        Ok(self.manifests.adopt_manifests(work.tenant, &adopted).await?)
    }

    /// Opens everything.
    async fn verify(&self, work: &mut Work, key: &SealedKey) -> Result<(), RebuildError> {
        let of = work.objects.len() as u64;
        for (done, pack) in (0..).zip(work.objects.keys().copied().collect::<Vec<_>>()) {
            self.progress.tell(work.tenant, "verifying packs", done, of);
            match self.store.scan_pack(work.tenant, key, pack).await {
                Ok(contents) => work.note_damage(pack, &contents.damage),
                Err(BlobError::Corrupt(what) | BlobError::NotFound(what)) => work.report.damaged(what),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

impl Work {
    fn new(tenant: TenantId) -> Self {
        Self {
            tenant,
            report: TenantRebuild::new(tenant),
            objects: BTreeMap::new(),
            known: HashSet::new(),
            since: None,
            seen: HashSet::new(),
            gone: HashSet::new(),
            moved: Vec::new(),
            doubtful: false,
        }
    }

    /// Whether the manifest was written after the pack's rows were: then it says all there is to say of its messages.
    pub(super) fn is_known(&self, pack: PackId) -> bool {
        !self.doubtful && (self.known.contains(&pack) || self.since.is_some_and(|since| pack.time() < since))
    }

    pub(super) fn note_damage(&mut self, pack: PackId, damage: &[(u64, u64, String)]) {
        for (offset, octets, what) in damage {
            self.report.damaged(format!("pack {pack}, {octets} octets at octet {offset}: {what}"));
        }
    }
}

/// Parts by round, in their order.
fn rounds(parts: Vec<ManifestPart>) -> Vec<Round> {
    let mut rounds: Vec<Round> = Vec::new();
    for part in parts {
        match rounds.last_mut() {
            Some(round) if round.id == part.id && round.number == part.round => round.parts.push(part),
            _ => rounds.push(Round { number: part.round, id: part.id, full: part.full, parts: vec![part] }),
        }
    }
    rounds
}

fn starts_with_packs(text: &[u8]) -> bool {
    // The last line of the object is of packs, too: the next one may go on with them.
    let last = text.split(|octet| *octet == b'\n').rfind(|line| !line.is_empty());
    last.is_some_and(|line| line.starts_with(b"{\"packs"))
}

fn unreadable(round: &Round, error: &serde_json::Error) -> BlobError {
    BlobError::Corrupt(format!("round {} of the manifest is not of this version: {error}", round.number))
}

/// When a round was begun, by its name (UUID version 7).
fn time_of(id: Uuid) -> OffsetDateTime {
    PackId::from_uuid(id).time()
}

pub(super) fn from_micros(micros: i64) -> OffsetDateTime {
    OffsetDateTime::UNIX_EPOCH + time::Duration::microseconds(micros)
}

/// The stores of a tenant's own that its row in a manifest tells of.
fn buckets_of(row: &Map<String, Value>) -> Option<TenantBuckets> {
    let version = row.get("buckets_version")?.as_i64()?;
    let buckets = serde_json::from_value(row.get("buckets")?.clone()).ok()?;
    let octets = |name: &str| {
        let text = row.get(name)?.as_str()?.as_bytes();
        let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        text.chunks(2).map(pair).collect::<Option<Vec<u8>>>()
    };
    let (key, secrets) = (octets("bucket_key").map(SealedKey), octets("bucket_secrets"));
    Some(TenantBuckets { buckets, key, secrets, version })
}
