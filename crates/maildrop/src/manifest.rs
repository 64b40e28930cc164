//! Manifests: what only the index knows, kept in the bucket (P8), so that an index can be rebuilt.
//!
//! A tenant's manifest is a sequence of *rounds*, each some objects of text: a full one, which has all of it, and those
//! after it, which have what changed. What a later round says of a mailbox goes before what an earlier one does. When the
//! rounds after a full one are as large as it, the next one is full, and those before it are deleted: so what is written
//! is in proportion to what changed. When the tenant's sealed key was exchanged the next one is full, too: the old ones
//! hold the old one.

mod stats;
mod text;

use std::{
    collections::{BTreeSet, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::future::{Either, join_all, select};
use time::OffsetDateTime;
use tracing::{debug, error, warn};
use uuid::Uuid;

use crate::{
    MailboxId, NodeId, PackId, State, TenantId, Uid,
    port::{BlobError, Directory, Index, IndexError, ManifestRound, ManifestStore, Manifests},
};

pub use stats::ManifestStats;
use text::Writer;
pub(crate) use text::{Line, MESSAGES_OF_LINE, lines};

/// The task of the node that writes them.
const TASK: &str = "manifests";
/// Tenants read in one go, and seen to at once.
const TENANTS: u32 = 500;
const TENANTS_AT_ONCE: usize = 4;
/// Mailboxes read in one go.
const MAILBOXES: u32 = 100;
/// Packs read in one go.
const PACKS: u32 = 5000;
/// Notes seen to in one round; more are due in the next.
const NOTES: u32 = 200_000;
/// A round is full when those since the last full one have more octets than it, and than this.
const FULL_OCTETS: u64 = 1024 * 1024;
/// Or are so many: each is a request when an index is rebuilt.
const ROUNDS_MAX: usize = 64;
/// What a pack's name says of its time is this near to when its rows were made: an upload that takes longer is given up.
pub(crate) const PACKS_SINCE: time::Duration = time::Duration::DAY;
/// Packs whose rows were made so long before the last round are read again: transactions that were under way.
const OVERLAP: time::Duration = time::Duration::minutes(10);

/// When manifests are written.
#[derive(Clone, Copy, Debug)]
pub struct ManifestConfig {
    /// Pause between two rounds; none for no manifests at all. Default: 15 min.
    pub interval: Option<Duration>,
}

impl Default for ManifestConfig {
    fn default() -> Self {
        Self { interval: Some(Duration::from_mins(15)) }
    }
}

/// Writes the manifests of all tenants, on one node at a time.
#[derive(Clone, Debug)]
pub struct ManifestWriter {
    /// For tenants' keys.
    pub directory: Arc<dyn Directory>,
    /// For the task.
    pub index: Arc<dyn Index>,
    /// For what is to be written.
    pub manifests: Arc<dyn Manifests>,
    /// Where it is written to.
    pub store: Arc<dyn ManifestStore>,
    /// The node.
    pub node: NodeId,
    /// When it is done.
    pub config: ManifestConfig,
    /// What was done.
    pub stats: Arc<ManifestStats>,
    /// Tenants whose bucket was found to hold no more than the index knows of.
    pub checked: Arc<Mutex<HashSet<TenantId>>>,
}

/// Why the writing was broken off.
#[derive(Debug, thiserror::Error)]
enum BrokenOff {
    #[error("another node has taken over")]
    Lost,
    #[error(transparent)]
    Index(#[from] IndexError),
    #[error(transparent)]
    Blob(#[from] BlobError),
}

impl ManifestWriter {
    /// Does it until `end` resolves; what is under way then is broken off.
    pub async fn run(self, end: impl Future<Output = ()> + Send) {
        let Some(interval) = self.config.interval else { return };
        let mut end = std::pin::pin!(end);
        loop {
            let pause = std::pin::pin!(tokio::time::sleep(interval));
            if let Either::Left(_) = select(end.as_mut(), pause).await {
                return;
            }
            let round = std::pin::pin!(self.all(interval));
            match select(end.as_mut(), round).await {
                Either::Left(_) => return,
                Either::Right((Ok(()) | Err(BrokenOff::Lost), _)) => {}
                Either::Right((Err(error), _)) => {
                    warn!(error = &error as &dyn std::error::Error, "manifests were not written");
                }
            }
        }
    }

    /// The lease outlasts a large tenant's pages, and a node that died is replaced within some rounds.
    async fn keep_task(&self, interval: Duration) -> Result<(), BrokenOff> {
        let ttl = (interval * 3).clamp(Duration::from_secs(30), Duration::from_mins(10));
        let taken = self.index.take_task(TASK, self.node, ttl).await?;
        if taken { Ok(()) } else { Err(BrokenOff::Lost) }
    }

    async fn all(&self, interval: Duration) -> Result<(), BrokenOff> {
        let (mut after, mut well) = (None, true);
        loop {
            self.keep_task(interval).await?;
            let due = self.manifests.all_tenants_manifests_due(after, TENANTS).await?;
            for some in due.chunks(TENANTS_AT_ONCE) {
                self.keep_task(interval).await?;
                let written = join_all(some.iter().map(|tenant| self.tenant(*tenant, interval))).await;
                for (tenant, result) in some.iter().zip(written) {
                    match result {
                        Ok(()) => {}
                        Err(BrokenOff::Lost) => return Err(BrokenOff::Lost),
                        // What one tenant meets does not keep the others' from being written.
                        Err(error) => {
                            well = false;
                            self.stats.add_failure();
                            let error = &error as &dyn std::error::Error;
                            warn!(error, %tenant, "a manifest was not written");
                        }
                    }
                }
            }
            after = due.last().copied().filter(|_| due.len() == TENANTS as usize);
            if after.is_none() {
                if well {
                    self.stats.all_written();
                }
                return Ok(());
            }
        }
    }

    /// One round of a tenant.
    async fn tenant(&self, tenant: TenantId, interval: Duration) -> Result<(), BrokenOff> {
        let Some(of) = self.directory.tenant(tenant).await?.filter(|of| of.state != State::Deleting) else {
            return Ok(());
        };
        let known = self.manifests.manifest_rounds(tenant).await?;
        let full = is_full_due(&known) || self.manifests.is_manifest_key_outdated(tenant).await?;
        if !self.knows_all(tenant, full).await? {
            return Ok(());
        }
        let begun_at = OffsetDateTime::now_utc();
        let round = known.last().map_or(1, |last| last.round + 1);
        let mut round =
            ManifestRound { round, id: Uuid::now_v7(), full, octets: 0, begun_at, finished: false };
        // Before anything of it is in the bucket: so that what is there and not known comes from another index.
        self.manifests.begin_manifest(tenant, &round, &of.key).await?;
        let mut text = Writer::new(&*self.store, &*self.directory, tenant, &of.key, &round);
        // Packs first: what is known of them is then in the mailboxes that are read after it.
        let since = if full { None } else { known.iter().rfind(|round| round.finished).map(|r| r.begun_at) };
        self.packs(tenant, begun_at, since, &mut text).await?;
        let notes = self.manifests.manifest_notes(tenant, NOTES).await?;
        let Some(record) = self.manifests.tenant_record(tenant).await? else { return Ok(()) };
        text.push(&Line::Tenant(record)).await?;
        let mut saved = Vec::new();
        let mut after = None;
        loop {
            let page = self.manifests.manifest_mailboxes(tenant, full, after, MAILBOXES).await?;
            self.mailboxes(tenant, &page, &mut text, &mut saved).await?;
            after = page.last().copied().filter(|_| page.len() == MAILBOXES as usize);
            self.keep_task(interval).await?;
            if after.is_none() {
                break;
            }
        }
        if !full {
            let written: HashSet<MailboxId> = saved.iter().map(|(mailbox, _)| *mailbox).collect();
            let noted: BTreeSet<MailboxId> = notes.iter().filter_map(|(_, mailbox)| *mailbox).collect();
            let noted: Vec<MailboxId> = noted.into_iter().filter(|id| !written.contains(id)).collect();
            for page in noted.chunks(MAILBOXES as usize) {
                self.mailboxes(tenant, page, &mut text, &mut saved).await?;
                self.keep_task(interval).await?;
            }
        }
        round.octets = text.finish().await?;
        round.finished = true;
        let notes: Vec<i64> = notes.into_iter().map(|(note, _)| note).collect();
        self.manifests.finish_manifest(tenant, &round, &saved, &notes).await?;
        self.stats.add_round(round.octets);
        debug!(%tenant, round = round.round, full, octets = round.octets, mailboxes = saved.len(), "manifest written");
        if full {
            let mut old = self.store.list_manifests(tenant).await?;
            old.retain(|part| part.round < round.round);
            if !old.is_empty() {
                self.store.delete_manifests(tenant, &old).await?;
            }
        }
        Ok(())
    }

    /// Whether the bucket has no manifest that the index does not know. It has where the index was set back: then it
    /// tells of mail that the index has lost, and must not be written over. Looked at once by each process, and
    /// before each full round, behind which the others are deleted.
    async fn knows_all(&self, tenant: TenantId, full: bool) -> Result<bool, BrokenOff> {
        let checked = || self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        if !full && checked().contains(&tenant) {
            return Ok(true);
        }
        let parts = self.store.list_manifests(tenant).await?;
        // Read after the bucket: a round of another node is noted before it has objects.
        let known = self.manifests.manifest_rounds(tenant).await?;
        let oldest = known.first().map_or(0, |round| round.round);
        let news = parts.iter().filter(|part| {
            // Those from before what is known are left from when they were to be deleted.
            part.round >= oldest && !known.iter().any(|round| round.id == part.id)
        });
        if news.count() > 0 {
            error!(
                %tenant,
                "the bucket has manifests that the index does not know: was it set back? \
                 Run `postern rebuild`; until then none is written for this tenant"
            );
            self.stats.add_set_back(tenant);
            return Ok(false);
        }
        self.stats.no_longer_set_back(tenant);
        checked().insert(tenant);
        Ok(true)
    }

    /// Packs whose rows were there before anything else was read.
    async fn packs(
        &self,
        tenant: TenantId,
        begun_at: OffsetDateTime,
        since: Option<OffsetDateTime>,
        text: &mut Writer<'_>,
    ) -> Result<(), BrokenOff> {
        let mut after = PackId::first(0, begun_at - PACKS_SINCE);
        if since.is_none() {
            text.push(&Line::PacksSince(micros(begun_at - PACKS_SINCE))).await?;
        }
        let since = since.map_or(OffsetDateTime::UNIX_EPOCH, |since| since - OVERLAP);
        loop {
            let page = self.manifests.committed_packs(tenant, after, since, PACKS).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = *last;
            text.push(&Line::Packs(page.iter().map(PackId::as_uuid).collect())).await?;
        }
    }

    /// These mailboxes, or that they are gone.
    async fn mailboxes(
        &self,
        tenant: TenantId,
        page: &[MailboxId],
        text: &mut Writer<'_>,
        saved: &mut Vec<(MailboxId, i64)>,
    ) -> Result<(), BrokenOff> {
        let records = self.manifests.mailbox_records(tenant, page).await?;
        let there: HashSet<MailboxId> = records.iter().map(|record| record.id).collect();
        let gone: Vec<Uuid> =
            page.iter().filter(|mailbox| !there.contains(mailbox)).map(MailboxId::as_uuid).collect();
        if !gone.is_empty() {
            text.push(&Line::Gone(gone)).await?;
        }
        for record in records {
            let (mailbox, before) = (record.id, Uid(record.next_uid));
            saved.push((mailbox, record.changes));
            text.push(&Line::Mailbox(record)).await?;
            let mut from = Uid(0);
            loop {
                let rows =
                    self.manifests.message_records(tenant, mailbox, from, before, MESSAGES_OF_LINE).await?;
                let Some(last) = rows.last() else { break };
                from = Uid(last.uid as u64 + 1);
                let more = rows.len() == MESSAGES_OF_LINE as usize;
                text.push(&Line::Messages { mailbox: mailbox.as_uuid(), rows }).await?;
                if !more {
                    break;
                }
            }
        }
        Ok(())
    }
}

/// Whether the next round writes everything.
fn is_full_due(known: &[ManifestRound]) -> bool {
    let Some(at) = known.iter().rposition(|round| round.full && round.finished) else { return true };
    let (full, later) = (known[at], &known[at + 1..]);
    later.len() >= ROUNDS_MAX
        || later.iter().map(|round| round.octets).sum::<u64>() > full.octets.max(FULL_OCTETS)
}

/// Microseconds since 1970, as rows have them.
pub(crate) fn micros(at: OffsetDateTime) -> i64 {
    at.unix_timestamp_nanos().div_euclid(1000) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(rounds: &[(bool, u64, bool)], full: bool) {
        let round = |(round, (full, octets, finished)): (u64, &(bool, u64, bool))| ManifestRound {
            round,
            id: Uuid::nil(),
            full: *full,
            octets: *octets,
            begun_at: OffsetDateTime::UNIX_EPOCH,
            finished: *finished,
        };
        let rounds: Vec<_> = (1..).zip(rounds).map(round).collect();
        assert_eq!(is_full_due(&rounds), full);
    }

    #[test]
    fn a_round_is_full_when_what_changed_is_as_much_as_there_is() {
        let large = 10 * FULL_OCTETS;
        check(&[], true);
        check(&[(true, large, false)], true);
        check(&[(true, large, true)], false);
        check(&[(true, large, true), (false, large, true)], false);
        check(&[(true, large, true), (false, large, true), (false, 1, true)], true);
        check(&[(true, 100, true), (false, 500, true)], false);
        check(&[(true, 100, true), (false, FULL_OCTETS + 1, true)], true);
        let many = vec![(false, 1, true); ROUNDS_MAX];
        check(&[&[(true, large, true)], &many[..]].concat(), true);
    }
}
