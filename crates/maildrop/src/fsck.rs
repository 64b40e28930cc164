//! Index and packs are compared, and what can be mended without asking anybody is.
//!
//! Of each tenant: packs that something points at are looked into (or read to the last octet, where that is asked for), and
//! what the rows say is compared with what the packs say; then counters with rows. Nobody is kept from anything: what looks
//! wrong because it changed in the middle is looked at once more before it is told.

mod report;

use std::{collections::BTreeMap, sync::Arc};

use time::OffsetDateTime;
use tracing::error;

use crate::{
    Extent, PackId, ProgressSink, SealedKey, Tenant, TenantId, TenantName,
    port::{
        BlobError, Checks, Directory, IndexError, ManifestStore, Manifests, PackContents, PackFacts,
        PackStore, Pointers, RestoredPack,
    },
};

pub use report::{Finding, FindingKind, FsckReport, FsckState};

/// Tenants, packs and mailboxes read in one go.
const TENANTS: u32 = 100;
const PACKS: u32 = 500;
const MAILBOXES: u32 = 500;
/// An object that the index does not know is an orphan after this.
const YOUNG: time::Duration = time::Duration::DAY;
/// So many missing packs of a tenant are too few to be suspicious.
const MISSING_FEW: u64 = 16;

/// What was seen of a tenant's packs.
#[derive(Debug, Default)]
struct Seen {
    packs: u64,
    missing: u64,
    /// Those that nothing points at, and that are not garbage.
    unnoted: Vec<PackId>,
}

impl Seen {
    /// Whether so many packs are missing that it is rather the wrong bucket, or the wrong index.
    const fn is_suspicious(&self) -> bool {
        self.missing > MISSING_FEW && self.missing * 10 > self.packs
            || self.missing > 1 && self.missing == self.packs
    }
}

/// What to do.
#[derive(Clone, Debug, Default)]
pub struct FsckOptions {
    /// Mend what can be: counters, notes of garbage, packs that the index does not know and messages are in.
    pub repair: bool,
    /// Take messages whose octets are lost out of their mailboxes, and keep their rows.
    pub quarantine: bool,
    /// Those whose packs are missing as well, however many are.
    pub all_missing: bool,
    /// Open every entry.
    pub deep: bool,
    /// Only the tenant of this name.
    pub tenant: Option<TenantName>,
}

/// Checks index and packs.
#[derive(Clone, Debug)]
pub struct Fsck {
    /// For tenants.
    pub directory: Arc<dyn Directory>,
    /// For what the index says.
    pub checks: Arc<dyn Checks>,
    /// For what is put right.
    pub manifests: Arc<dyn Manifests>,
    /// For what packs there are.
    pub packs: Arc<dyn PackStore>,
    /// For what is in them.
    pub store: Arc<dyn ManifestStore>,
    /// What to do.
    pub options: FsckOptions,
    /// Who is told how far it is.
    pub progress: ProgressSink,
}

/// Why it could not go on.
#[derive(Debug, thiserror::Error)]
pub enum FsckError {
    /// There is no such tenant.
    #[error("there is no such tenant")]
    NoTenant,
    /// The index could not do it.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The blob store could not do it.
    #[error(transparent)]
    Blob(#[from] BlobError),
}

impl Fsck {
    /// Goes on from `state`, and tells `keep` of the state now and then, so that it can be gone on from there.
    pub async fn run(&self, state: &mut FsckState, keep: impl Fn(&FsckState)) -> Result<(), FsckError> {
        let mut after = state.done.clone().and_then(|name| TenantName::try_from(name.as_str()).ok());
        loop {
            let tenants = match &self.options.tenant {
                Some(name) => {
                    let tenant = self.directory.tenant_by_name(name).await?.ok_or(FsckError::NoTenant)?;
                    vec![tenant]
                }
                None => self.directory.all_tenants_list(after.as_ref(), TENANTS).await?,
            };
            for tenant in &tenants {
                after = Some(tenant.name.clone());
                // One that is being deleted has rows and objects in any order.
                if tenant.state != crate::State::Deleting {
                    self.tenant(tenant, state, &keep).await?;
                    state.report.tenants += 1;
                }
                state.done = Some(tenant.name.to_string());
                state.pack = None;
                keep(state);
            }
            if self.options.tenant.is_some() || tenants.len() < TENANTS as usize {
                return Ok(());
            }
        }
    }

    async fn tenant(
        &self,
        tenant: &Tenant,
        state: &mut FsckState,
        keep: &impl Fn(&FsckState),
    ) -> Result<(), FsckError> {
        let id = tenant.id;
        let mut objects = self.objects(id).await?;
        let of = objects.len() as u64;
        let mut after = state.pack.map(PackId::from_uuid);
        if let Some(after) = after {
            objects.retain(|pack, _| *pack > after);
        }
        let mut done = 0;
        let mut seen = Seen::default();
        loop {
            let (page, last) = self.checks.check_packs(id, after, PACKS).await?;
            for facts in &page {
                let object = objects.remove(&facts.pack);
                self.pack(tenant, facts, object, &mut seen, &mut state.report).await?;
                done += 1;
                self.progress.tell(id, "checking packs", done, of.max(done));
                state.pack = Some(facts.pack.as_uuid());
                if done % 100 == 0 {
                    keep(state);
                }
            }
            after = last;
            if after.is_none() {
                break;
            }
        }
        for pack in seen.unnoted {
            let what = "nothing points at it, and that is not noted".into();
            let mut finding = Finding::of_pack(FindingKind::GarbageNotNoted, tenant, pack, what);
            // Where messages' packs are missing, this may be where their octets are.
            if self.options.repair && seen.missing == 0 {
                self.manifests.note_garbage(id, &[pack]).await?;
                finding.repaired = true;
            }
            state.report.find(finding);
        }
        let old = OffsetDateTime::now_utc() - YOUNG;
        for (pack, octets) in objects {
            state.report.packs += 1;
            if pack.time() < old && self.checks.check_pointers(id, pack).await?.is_empty() {
                let what = format!("{octets} octets that the index does not know");
                state.report.find(Finding::of_pack(FindingKind::Orphan, tenant, pack, what));
            }
        }
        self.counters(tenant, &mut state.report).await
    }

    async fn objects(&self, tenant: TenantId) -> Result<BTreeMap<PackId, u64>, FsckError> {
        let mut objects = BTreeMap::new();
        let mut after = None;
        loop {
            let page = self.packs.list_packs(tenant, after).await?;
            objects.extend(page.packs.iter().copied());
            self.progress.tell(tenant, "listing packs", objects.len() as u64, 0);
            after = page.packs.last().map(|(pack, _)| *pack).filter(|_| page.more);
            if after.is_none() {
                return Ok(objects);
            }
        }
    }

    async fn pack(
        &self,
        tenant: &Tenant,
        facts: &PackFacts,
        object: Option<u64>,
        seen: &mut Seen,
        report: &mut FsckReport,
    ) -> Result<(), FsckError> {
        report.packs += 1;
        let pack = facts.pack;
        if !facts.alive {
            if object.is_some()
                && !facts.collected
                && !facts.deleted
                && pack.time() < OffsetDateTime::now_utc() - YOUNG
            {
                seen.unnoted.push(pack);
            }
            return Ok(());
        }
        if facts.octets.is_none() && object.is_some() {
            let what = "messages are in it, and the index does not know it".into();
            let mut finding = Finding::of_pack(FindingKind::PackNotKnown, tenant, pack, what);
            if self.options.repair {
                let octets = object.unwrap_or_default();
                self.manifests.restore_packs(tenant.id, &[RestoredPack { pack, octets, entries: 2 }]).await?;
                finding.repaired = true;
            }
            report.find(finding);
        }
        if let (Some(known), Some(is)) = (facts.octets, object)
            && known != is
        {
            let what = format!("the index says that it has {known} octets, and it has {is}");
            report.find(Finding::of_pack(FindingKind::PackSize, tenant, pack, what));
        }
        // A pack that came since the listing is looked at by its own size.
        let octets = object.or(facts.octets).unwrap_or_default();
        let pointers = self.checks.check_pointers(tenant.id, pack).await?;
        if pointers.is_empty() {
            // Moved or deleted meanwhile, or in quarantine, which keeps the pack.
            return Ok(());
        }
        seen.packs += 1;
        let mut first = FsckReport::default();
        let faults = self.compare(tenant, pack, octets, &pointers, &mut first).await?;
        if faults.is_empty() && first.counts.is_empty() {
            report.octets_read += first.octets_read;
            report.entries += first.entries;
            return Ok(());
        }
        // Octets may have been damaged on their way: what is stored is judged by a second reading.
        let faults = self.compare(tenant, pack, octets, &pointers, report).await?;
        if faults.iter().any(|(_, kind, _)| *kind == FindingKind::PackMissing) {
            seen.missing += 1;
        }
        // Rows that were moved or deleted meanwhile point elsewhere by now.
        let still = self.checks.check_pointers(tenant.id, pack).await?;
        for (pointers, kind, what) in faults {
            if !still.iter().any(|now| now.extent == pointers.extent) {
                continue;
            }
            let doubtful =
                kind == FindingKind::PackMissing && seen.is_suspicious() && !self.options.all_missing;
            let quarantine = self.options.quarantine && !doubtful;
            self.lost(tenant, &pointers, kind, what, quarantine, report).await?;
        }
        Ok(())
    }

    /// What the rows say and the pack does not.
    async fn compare(
        &self,
        tenant: &Tenant,
        pack: PackId,
        octets: u64,
        pointers: &[Pointers],
        report: &mut FsckReport,
    ) -> Result<Vec<(Pointers, FindingKind, String)>, FsckError> {
        let all = |kind: FindingKind, what: &str| {
            pointers.iter().map(|pointers| (*pointers, kind, what.to_owned())).collect()
        };
        let contents = match self.contents(tenant.id, &tenant.key, pack, octets).await {
            Ok(contents) => contents,
            Err(BlobError::NotFound(_)) => return Ok(all(FindingKind::PackMissing, "its pack is not there")),
            Err(BlobError::Corrupt(what)) => return Ok(all(FindingKind::EntryDamaged, &what)),
            Err(error) => return Err(error.into()),
        };
        report.octets_read += contents.read_octets;
        report.entries += contents.entries.len() as u64;
        let given_up = if contents.damage.is_empty() {
            Vec::new()
        } else {
            self.checks.quarantined(tenant.id, pack).await?
        };
        for (offset, octets, what) in &contents.damage {
            if given_up
                .iter()
                .any(|extent| extent.offset <= *offset && offset + octets <= extent.offset + extent.length)
            {
                continue;
            }
            let what = format!("{octets} octets at octet {offset}: {what}");
            report.find(Finding::of_pack(FindingKind::PackDamaged, tenant, pack, what));
        }
        let entries: BTreeMap<u64, _> =
            contents.entries.iter().map(|entry| (entry.extent.offset, entry)).collect();
        let mut faults = Vec::new();
        for pointers in pointers {
            match entries.get(&pointers.extent.offset) {
                Some(entry) if entry.extent.length != pointers.extent.length => {
                    faults.push((
                        *pointers,
                        FindingKind::EntryDiffers,
                        "the entry has another length".into(),
                    ));
                }
                Some(entry) if entry.measured.digest != pointers.digest => {
                    faults.push((
                        *pointers,
                        FindingKind::EntryDiffers,
                        "the entry is another message".into(),
                    ));
                }
                Some(_) => {}
                None => {
                    faults.push((
                        *pointers,
                        FindingKind::EntryDamaged,
                        "there is no entry that opens".into(),
                    ));
                }
            }
        }
        Ok(faults)
    }

    async fn contents(
        &self,
        tenant: TenantId,
        key: &SealedKey,
        pack: PackId,
        octets: u64,
    ) -> Result<PackContents, BlobError> {
        if self.options.deep || octets == 0 {
            return self.store.scan_pack(tenant, key, pack).await;
        }
        self.store.look_into_pack(tenant, key, pack, octets).await
    }

    async fn lost(
        &self,
        tenant: &Tenant,
        pointers: &Pointers,
        kind: FindingKind,
        what: String,
        quarantine: bool,
        report: &mut FsckReport,
    ) -> Result<(), FsckError> {
        let Extent { pack, offset, .. } = pointers.extent;
        let (mailbox, uid, rows) = (pointers.mailbox, pointers.uid, pointers.rows);
        error!(tenant = %tenant.name, %pack, offset, %mailbox, uid = uid.0, rows, what, "messages cannot be read");
        let mut finding = Finding::of_pack(kind, tenant, pack, what);
        finding.offset = Some(offset);
        finding.mailbox = Some(mailbox);
        finding.uid = Some(uid);
        finding.rows = rows;
        if quarantine {
            let now = OffsetDateTime::now_utc();
            let moved = self.checks.quarantine(tenant.id, pointers.extent, &finding.what, now).await?;
            finding.repaired = moved > 0;
        }
        report.find(finding);
        Ok(())
    }

    async fn counters(&self, tenant: &Tenant, report: &mut FsckReport) -> Result<(), FsckError> {
        let mut after = None;
        let mut looked_at = 0;
        loop {
            let (wrong, last) = self.checks.check_counters(tenant.id, after, MAILBOXES).await?;
            for wrong in wrong {
                let mut finding = Finding::of_counters(tenant, &wrong);
                if self.options.repair {
                    self.checks.mend_counters(tenant.id, wrong.mailbox).await?;
                    finding.repaired = true;
                }
                report.find(finding);
            }
            after = last;
            if after.is_none() {
                break;
            }
            // Whole pages.
            looked_at += u64::from(MAILBOXES);
            self.progress.tell(tenant.id, "checking counters", looked_at, 0);
        }
        let usage = self.checks.check_usage(tenant.id).await?;
        report.mailboxes += usage[0].1.unsigned_abs();
        if usage.iter().any(|(noted, is)| noted != is) {
            let mut finding = Finding::of_usage(tenant, &usage);
            if self.options.repair {
                self.checks.mend_usage(tenant.id).await?;
                finding.repaired = true;
            }
            report.find(finding);
        }
        Ok(())
    }
}
