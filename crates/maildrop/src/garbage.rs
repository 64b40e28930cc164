//! Octets in packs that nothing points at any more are given back: dead packs are deleted, packs with little left are
//! rewritten, objects that no row knows are swept.
//!
//! The work is divided by tenant into shards, each done by one node at a time. Each step can be broken off, and is
//! taken up again from what the index says; doing one twice does no harm. Counts of garbage say where to look, and
//! nothing else: that nothing points at a pack is asked when it is declared dead, and again before it is deleted.

mod beacon;
mod stats;
mod sweep;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures_util::future::{Either, select};
use time::OffsetDateTime;
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use crate::{
    NodeId, PackId, State, TenantId,
    port::{
        BlobError, Directory, GARBAGE_SHARDS, Garbage, Index, IndexError, Inspected, LiveEntry,
        MOVED_ROWS_MAX, PACK_AGE_MAX, PackStore,
    },
};

pub use stats::GarbageStats;

/// Notes of garbage added up in one step.
const FOLD: u32 = 5000;
/// Packs read in one go.
const PAGE: u32 = 500;
/// Dead packs that cannot be deleted now, and are passed over to come to others'.
const OVER_MAX: u32 = 100 * PAGE;
/// Rows of packs are kept for so long after the packs came, be their objects deleted or not: a repeated delivery finds
/// what became of the first, and none is repeated so late. A pack's object, too, is an orphan only after that.
pub(crate) const YOUNG: Duration = Duration::from_hours(24);
const _: () = assert!(PACK_AGE_MAX.as_secs() * 2 <= YOUNG.as_secs());

/// When and how fast garbage is collected.
#[derive(Clone, Copy, Debug)]
pub struct GarbageConfig {
    /// Pause between two rounds. Default: 1 min.
    pub interval: Duration,
    /// How long a dead pack is left, for those who read its rows before it died. Default: 1 h.
    pub grace: Duration,
    /// Packs of which less than this is left, 0 to 1, are rewritten; 0 for none. Default: 0.5.
    pub live_ratio: f64,
    /// Octets that are copied into one pack, at most; twice as many are in memory meanwhile. Default: 16 MiB.
    pub pack_octets: u64,
    /// Octets read and written in a second, at most. Default: 16 MiB.
    pub octets_per_second: u64,
    /// Requests made in a second, at most. Default: 50.
    pub requests_per_second: u32,
    /// Whether objects that no row knows are deleted, once they are a day old. Default: true.
    pub orphans: bool,
}

impl Default for GarbageConfig {
    fn default() -> Self {
        Self {
            interval: Duration::from_mins(1),
            grace: Duration::from_hours(1),
            live_ratio: 0.5,
            pack_octets: 16 * 1024 * 1024,
            octets_per_second: 16 * 1024 * 1024,
            requests_per_second: 50,
            orphans: true,
        }
    }
}

/// The garbage collection of a node.
#[derive(Clone, Debug)]
pub struct GarbageCollector {
    /// For tenants' keys.
    pub directory: Arc<dyn Directory>,
    /// For the tasks.
    pub index: Arc<dyn Index>,
    /// For what is garbage.
    pub garbage: Arc<dyn Garbage>,
    /// For the objects.
    pub packs: Arc<dyn PackStore>,
    /// The node.
    pub node: NodeId,
    /// When it is done.
    pub config: GarbageConfig,
    /// What was done.
    pub stats: Arc<GarbageStats>,
}

/// Why the work on a shard was broken off.
#[derive(Debug, thiserror::Error)]
enum BrokenOff {
    #[error("another node has taken over")]
    Lost,
    #[error(transparent)]
    Index(#[from] IndexError),
    #[error(transparent)]
    Blob(#[from] BlobError),
}

/// Entries that will be copied into one pack.
#[derive(Debug, Default)]
struct Batch {
    entries: Vec<LiveEntry>,
    octets: u64,
    rows: u64,
    /// What is left of the packs they are from.
    live: HashMap<PackId, u64>,
}

impl Batch {
    fn has_room(&self, entry: &LiveEntry, octets_max: u64) -> bool {
        self.entries.is_empty()
            || self.octets + entry.extent.length <= octets_max && self.rows + entry.rows <= MOVED_ROWS_MAX
    }

    fn push(&mut self, entry: LiveEntry, live: u64) {
        self.octets += entry.extent.length;
        self.rows += entry.rows;
        self.live.insert(entry.extent.pack, live);
        self.entries.push(entry);
    }
}

impl GarbageCollector {
    /// Does it until `end` resolves; what is under way then is broken off between two steps.
    pub async fn run(self, end: impl Future<Output = ()> + Send) {
        let mut end = std::pin::pin!(end);
        let mut swept = HashMap::new();
        loop {
            let pause = std::pin::pin!(tokio::time::sleep(self.config.interval));
            if let Either::Left(_) = select(end.as_mut(), pause).await {
                return;
            }
            let round = std::pin::pin!(self.round(&mut swept));
            if let Either::Left(_) = select(end.as_mut(), round).await {
                return;
            }
        }
    }

    /// All shards, each node from another one on. What one of them meets does not keep the others from being done.
    async fn round(&self, swept: &mut HashMap<u8, Instant>) {
        let first = self.node.as_uuid().as_bytes()[15];
        for nth in 0..GARBAGE_SHARDS {
            let shard = first.wrapping_add(nth) % GARBAGE_SHARDS;
            match self.shard(shard, swept).await {
                Ok(()) => {}
                Err(BrokenOff::Lost) => self.stats.set_oldest(shard, None),
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    warn!(error, shard, "the collection of garbage was broken off");
                }
            }
        }
    }

    async fn shard(&self, shard: u8, swept: &mut HashMap<u8, Instant>) -> Result<(), BrokenOff> {
        self.keep_task(shard).await?;
        while self.garbage.all_tenants_fold(shard, self.config.live_ratio, FOLD).await? == u64::from(FOLD) {
            self.keep_task(shard).await?;
        }
        // What cannot be rewritten must not keep dead packs from being deleted.
        let looked = self.look(shard).await;
        self.delete(shard).await?;
        looked?;
        let now = OffsetDateTime::now_utc();
        while self.garbage.all_tenants_forget_packs(shard, now - YOUNG, PAGE).await? == u64::from(PAGE) {
            self.keep_task(shard).await?;
        }
        self.stats.set_oldest(shard, self.garbage.all_tenants_oldest_garbage(shard).await?);
        if self.config.orphans && swept.get(&shard).is_none_or(|at| at.elapsed() >= sweep::PAUSE) {
            self.light_beacon(shard).await?;
            self.sweep_shard(shard).await?;
            swept.insert(shard, Instant::now());
        }
        Ok(())
    }

    /// The lease outlasts a slow step, and a node that died is replaced within some rounds.
    async fn keep_task(&self, shard: u8) -> Result<(), BrokenOff> {
        let ttl = (self.config.interval * 3).max(Duration::from_secs(30));
        let taken = self.index.take_task(&format!("gc/{shard}"), self.node, ttl).await?;
        if taken { Ok(()) } else { Err(BrokenOff::Lost) }
    }

    /// Keeps to the rate: others want to read and write, too.
    async fn pace(&self, octets: u64, requests: u64) {
        let seconds = (octets as f64 / self.config.octets_per_second.max(1) as f64)
            .max(requests as f64 / f64::from(self.config.requests_per_second.max(1)));
        tokio::time::sleep(Duration::from_secs_f64(seconds.min(3600.0))).await;
    }

    /// Looks at packs that are due. Those of a tenant are rewritten together.
    async fn look(&self, shard: u8) -> Result<(), BrokenOff> {
        let mut after: Option<(TenantId, PackId)> = None;
        let mut batch = Batch::default();
        loop {
            let due = self.garbage.all_tenants_due(shard, after, PAGE).await?;
            for (tenant, pack) in &due {
                if let Some((before, _)) = after
                    && before != *tenant
                {
                    self.rewrite(shard, before, std::mem::take(&mut batch)).await?;
                }
                after = Some((*tenant, *pack));
                match self.garbage.inspect(*tenant, *pack).await? {
                    Inspected::Gone => {}
                    Inspected::Dead => debug!(%tenant, %pack, "nothing points at a pack"),
                    Inspected::Live { octets, live_octets, entries } => {
                        let worth = (live_octets as f64) < octets as f64 * self.config.live_ratio;
                        if entries.is_empty() || !worth {
                            self.garbage.settle(*tenant, *pack, live_octets).await?;
                            continue;
                        }
                        for entry in entries {
                            if !batch.has_room(&entry, self.config.pack_octets) {
                                self.rewrite(shard, *tenant, std::mem::take(&mut batch)).await?;
                            }
                            batch.push(entry, live_octets);
                        }
                    }
                }
            }
            self.keep_task(shard).await?;
            if due.len() < PAGE as usize {
                break;
            }
        }
        match after {
            Some((tenant, _)) => self.rewrite(shard, tenant, batch).await,
            None => Ok(()),
        }
    }

    /// Copies what is left of packs into a new one, and lets the rows point there.
    async fn rewrite(&self, shard: u8, tenant: TenantId, batch: Batch) -> Result<(), BrokenOff> {
        if batch.entries.is_empty() {
            return Ok(());
        }
        self.keep_task(shard).await?;
        match self.copy(tenant, batch).await {
            // It may have a store of its own, which is no reason to leave the others' packs. They stay due.
            Err(BrokenOff::Blob(error)) => {
                warn!(%tenant, %error, "what is left of a tenant's packs could not be put into new ones");
                Ok(())
            }
            copied => copied,
        }
    }

    async fn copy(&self, tenant: TenantId, batch: Batch) -> Result<(), BrokenOff> {
        let Some(of) = self.directory.tenant(tenant).await?.filter(|of| of.state != State::Deleting) else {
            // Everything of it is being deleted anyway.
            return Ok(());
        };
        let Batch { entries, live, .. } = batch;
        let rewritten = self.packs.rewrite(tenant, &of.key, entries).await?;
        for (extent, what) in &rewritten.damaged {
            error!(%tenant, ?extent, what, "a stored message is damaged: its pack is left as it is");
        }
        self.stats.add_damaged(rewritten.damaged.len() as u64);
        let damaged: std::collections::HashSet<_> = rewritten.damaged.iter().map(|(at, _)| at.pack).collect();
        for pack in &damaged {
            // Looked at again when it has more garbage, not in each round.
            self.garbage.settle(tenant, *pack, live.get(pack).copied().unwrap_or(0)).await?;
        }
        let mut octets = rewritten.read_octets;
        if let Some(pack) = &rewritten.pack {
            octets += pack.octets;
            self.stats.add_copied(pack.octets);
            let rows = self.garbage.retarget(tenant, pack, &rewritten.moved).await?;
            let packs = (live.len() - damaged.len()) as u64;
            self.stats.add_rewritten(packs);
            info!(
                %tenant, pack = %pack.pack, octets = pack.octets, entries = pack.entries, rows, packs,
                "what was left of packs was put into a new one"
            );
        }
        self.pace(octets, rewritten.requests).await;
        Ok(())
    }

    /// Objects first, then the index: what is deleted twice is as good as deleted once.
    async fn delete(&self, shard: u8) -> Result<(), BrokenOff> {
        // Tenants whose store, which may be their own, does not answer, and what of them is passed over.
        let (mut left, mut over): (HashSet<TenantId>, u32) = (HashSet::new(), 0);
        loop {
            let limit = PAGE + over;
            let condemned = self.garbage.all_tenants_condemned(shard, self.config.grace, limit).await?;
            over = 0;
            for of_tenant in condemned.chunk_by(|a, b| a.0 == b.0) {
                let tenant = of_tenant[0].0;
                if left.contains(&tenant) {
                    over = (over + of_tenant.len() as u32).min(OVER_MAX);
                    continue;
                }
                let packs: Vec<PackId> = of_tenant.iter().map(|(_, pack, _)| *pack).collect();
                self.keep_task(shard).await?;
                if let Err(error) = self.packs.delete_packs(tenant, &packs).await {
                    warn!(%tenant, packs = packs.len(), %error, "dead packs of a tenant could not be deleted");
                    left.insert(tenant);
                    over = (over + of_tenant.len() as u32).min(OVER_MAX);
                    continue;
                }
                self.garbage.note_deleted(tenant, &packs).await?;
                self.pace(0, 1).await;
                let octets = of_tenant.iter().map(|(.., octets)| octets).sum();
                self.stats.add_deleted(packs.len() as u64, octets);
                info!(%tenant, packs = packs.len(), octets, "dead packs were deleted");
            }
            if condemned.len() < limit as usize || condemned.iter().all(|(tenant, ..)| left.contains(tenant))
            {
                return Ok(());
            }
        }
    }
}
