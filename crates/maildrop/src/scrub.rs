//! Packs are read in the background, bit by bit, so that damage is found before somebody wants the message.
//!
//! One node at a time goes through all packs in their order, from a place chosen by chance, at a rate that nobody notices.
//! It opens every entry, tells of damage, and touches nothing.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::future::{Either, select};
use time::OffsetDateTime;
use tracing::{error, warn};

use crate::{
    NodeId, PackId, TenantCache, TenantId,
    port::{BlobError, Checks, Index, IndexError, ManifestStore},
};

/// The task of the node that does it.
const TASK: &str = "scrub";
/// How long a node keeps it without saying so: longer than a pack takes at the least rate.
const TTL: Duration = Duration::from_mins(10);
/// Packs read from the index in one go.
const PAGE: u32 = 100;
/// Pause where there is nothing to read, or something failed.
const PAUSE: Duration = Duration::from_mins(1);

/// How packs are scrubbed.
#[derive(Clone, Copy, Debug)]
pub struct ScrubConfig {
    /// Octets read in a second, on average; 0 for none. Default: 128 KiB, some 11 GB a day.
    pub octets_per_second: u64,
}

impl Default for ScrubConfig {
    fn default() -> Self {
        Self { octets_per_second: 128 * 1024 }
    }
}

/// Counts since the node started.
#[derive(Debug, Default)]
pub struct ScrubStats {
    packs: AtomicU64,
    octets: AtomicU64,
    entries: AtomicU64,
    damaged: AtomicU64,
    missing: AtomicU64,
    rounds: AtomicU64,
}

impl ScrubStats {
    /// Packs that were read.
    pub fn packs(&self) -> u64 {
        self.packs.load(Relaxed)
    }

    /// Octets of them.
    pub fn octets(&self) -> u64 {
        self.octets.load(Relaxed)
    }

    /// Entries that were opened.
    pub fn entries(&self) -> u64 {
        self.entries.load(Relaxed)
    }

    /// Places in packs that were found damaged.
    pub fn damaged(&self) -> u64 {
        self.damaged.load(Relaxed)
    }

    /// Packs that are not there although something points at them.
    pub fn missing(&self) -> u64 {
        self.missing.load(Relaxed)
    }

    /// Times that the last of all packs was reached.
    pub fn rounds(&self) -> u64 {
        self.rounds.load(Relaxed)
    }
}

/// Scrubs packs.
#[derive(Clone, Debug)]
pub struct Scrubber {
    /// For the task.
    pub index: Arc<dyn Index>,
    /// For what packs there are.
    pub checks: Arc<dyn Checks>,
    /// For tenants' keys.
    pub tenants: TenantCache,
    /// For the packs.
    pub store: Arc<dyn ManifestStore>,
    /// The node.
    pub node: NodeId,
    /// How.
    pub config: ScrubConfig,
    /// What was done.
    pub stats: Arc<ScrubStats>,
}

/// Why it was broken off.
#[derive(Debug, thiserror::Error)]
enum BrokenOff {
    #[error(transparent)]
    Index(#[from] IndexError),
    #[error(transparent)]
    Blob(#[from] BlobError),
}

impl Scrubber {
    /// Does it until `end` resolves.
    pub async fn run(self, end: impl Future<Output = ()> + Send) {
        if self.config.octets_per_second == 0 {
            return;
        }
        let end = std::pin::pin!(end);
        let scrub = std::pin::pin!(self.scrub());
        let (Either::Left(_) | Either::Right(_)) = select(end, scrub).await;
    }

    async fn scrub(&self) {
        let nil = uuid::Uuid::nil();
        let begin = (TenantId::from_uuid(nil), PackId::from_uuid(nil));
        let mut at = self.somewhere(begin).await.unwrap_or(begin);
        loop {
            match self.page(at).await {
                Ok(Some(last)) => at = last,
                Ok(None) => {
                    at = begin;
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) => {
                    warn!(
                        error = &error as &dyn std::error::Error,
                        "packs could not be scrubbed: it goes on in a minute"
                    );
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// A place chosen by chance: nodes that are restarted every day must not read the same packs every day. Ids of tenants and
    /// packs tell their time.
    async fn somewhere(&self, begin: (TenantId, PackId)) -> Result<(TenantId, PackId), IndexError> {
        let time = |tenant: TenantId| PackId::from_uuid(tenant.as_uuid()).time();
        let (one, other) = uuid::Uuid::new_v4().as_u64_pair();
        let Some((first, _)) = self.checks.all_tenants_packs(begin, 1).await?.first().copied() else {
            return Ok(begin);
        };
        let tenant = TenantId::from_uuid(PackId::first(0, between(time(first), one)).as_uuid());
        let next = self.checks.all_tenants_packs((tenant, begin.1), 1).await?;
        let tenant = next.first().map_or(first, |(tenant, _)| *tenant);
        Ok((tenant, PackId::first(0, between(time(tenant), other))))
    }

    /// Where it went to; none at the end, or where another node does it.
    async fn page(&self, at: (TenantId, PackId)) -> Result<Option<(TenantId, PackId)>, BrokenOff> {
        if !self.index.take_task(TASK, self.node, TTL).await? {
            return Ok(None);
        }
        let page = self.checks.all_tenants_packs(at, PAGE).await?;
        for (tenant, pack) in &page {
            let octets = self.pack(*tenant, *pack).await?;
            let seconds = octets as f64 / self.config.octets_per_second as f64;
            tokio::time::sleep(Duration::from_secs_f64(seconds.min(TTL.as_secs_f64() / 2.0))).await;
            if !self.index.take_task(TASK, self.node, TTL).await? {
                return Ok(None);
            }
        }
        if page.is_empty() {
            self.stats.rounds.fetch_add(1, Relaxed);
        }
        Ok(page.last().copied())
    }

    /// Gives how many octets were read.
    async fn pack(&self, tenant: TenantId, pack: PackId) -> Result<u64, BrokenOff> {
        let Some(of) = self.tenants.get(tenant).await? else { return Ok(0) };
        match self.store.scan_pack(tenant, &of.key, pack).await {
            Ok(contents) => {
                self.stats.packs.fetch_add(1, Relaxed);
                self.stats.octets.fetch_add(contents.read_octets, Relaxed);
                self.stats.entries.fetch_add(contents.entries.len() as u64, Relaxed);
                for (offset, octets, what) in &contents.damage {
                    self.stats.damaged.fetch_add(1, Relaxed);
                    error!(tenant = %of.name, %pack, offset, octets, what, "a pack is damaged: `postern fsck` tells which messages are");
                }
                Ok(contents.read_octets)
            }
            Err(BlobError::NotFound(_)) => {
                // It may have been given back in this moment.
                if !self.checks.check_pointers(tenant, pack).await?.is_empty() {
                    self.stats.missing.fetch_add(1, Relaxed);
                    error!(tenant = %of.name, %pack, "a pack that messages are in is not there");
                }
                Ok(0)
            }
            Err(BlobError::Corrupt(what)) => {
                self.stats.damaged.fetch_add(1, Relaxed);
                error!(tenant = %of.name, %pack, what, "a pack is damaged: `postern fsck` tells which messages are");
                Ok(0)
            }
            // A deleted tenant's key, or another master key's: told where it matters.
            Err(BlobError::WrongKey) => Ok(0),
            // A store of the tenant's own, which is no reason to leave the others' packs.
            Err(error) if !pack.store().is_house() => {
                warn!(tenant = %of.name, %pack, %error, "a pack in a tenant's own store could not be scrubbed");
                Ok(0)
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Some time from `from` to now.
fn between(from: OffsetDateTime, chance: u64) -> OffsetDateTime {
    let span = (OffsetDateTime::now_utc() - from).whole_seconds().max(1);
    from + time::Duration::seconds((chance % span as u64) as i64)
}
