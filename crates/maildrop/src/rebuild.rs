//! An index is rebuilt from the bucket and the keys alone (P8), or completed where it was set back.
//!
//! Tenants are gone through one by one. Of each: its manifest tells who it is, its mailboxes, and which messages they
//! held when it was written (`manifest.rs`); packs that came since are looked into (`found.rs`). Nothing is ever
//! deleted, and what is in the index is left, so it may be broken off and begun again at any point. Memory is some
//! hundred octets for each pack and mailbox of one tenant, whatever they hold.

mod found;
mod report;
mod tenant;

use std::{sync::Arc, time::Duration};

use tokio::task::JoinHandle;
use tracing::warn;

use crate::{
    NodeId, TenantId,
    port::{
        BlobError, BlobStore, Bulletins, Directory, Garbage, Index, IndexError, ManifestStore, Manifests,
        PackStore, REBUILD_TASK,
    },
};

pub use report::{Progress, ProgressSink, RebuildReport, TenantRebuild};

/// How long the task outlives whoever has it.
const TTL: Duration = Duration::from_mins(1);
/// How long steps of the worker's tasks are waited for that were under way when they were stopped.
const SETTLE: Duration = Duration::from_secs(10);

/// What to do.
#[derive(Clone, Debug, Default)]
pub struct RebuildOptions {
    /// Only look, and say what would be done.
    pub dry_run: bool,
    /// Read every pack, and open every message.
    pub verify: bool,
    /// Only the tenant of this name or identity.
    pub tenant: Option<String>,
}

/// Rebuilds an index.
#[derive(Clone, Debug)]
pub struct Rebuild {
    /// For tenants that are there.
    pub directory: Arc<dyn Directory>,
    /// For the task.
    pub index: Arc<dyn Index>,
    /// For packs that are known, and so that what is put back is not swept.
    pub garbage: Arc<dyn Garbage>,
    /// For bulletins that were posted lately.
    pub bulletins: Arc<dyn Bulletins>,
    /// For what is put back.
    pub manifests: Arc<dyn Manifests>,
    /// For messages.
    pub blob: Arc<dyn BlobStore>,
    /// For what packs there are.
    pub packs: Arc<dyn PackStore>,
    /// For manifests and what packs say.
    pub store: Arc<dyn ManifestStore>,
    /// This process.
    pub node: NodeId,
    /// What to do.
    pub options: RebuildOptions,
    /// Who is told how far it is.
    pub progress: ProgressSink,
}

/// Why it could not be done.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// Somebody else is rebuilding the index.
    #[error("another rebuild is under way")]
    UnderWay,
    /// Nothing of what is in the bucket opens.
    #[error(
        "the manifest of tenant {0} was sealed under another master key: is this the right bucket, and the right key?"
    )]
    WrongKey(TenantId),
    /// There is no such tenant in the bucket.
    #[error("there is no such tenant in the bucket")]
    NoTenant,
    /// The index could not do it.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The blob store could not do it.
    #[error(transparent)]
    Blob(#[from] BlobError),
}

/// Keeps the task until it is dropped.
struct Hold(JoinHandle<()>);

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Rebuild {
    /// Does it, and tells what was done.
    pub async fn run(&self) -> Result<RebuildReport, RebuildError> {
        let hold = if self.options.dry_run { None } else { Some(self.hold().await?) };
        let result = self.all().await;
        if hold.is_some() {
            drop(hold);
            // So that others need not wait for it to run out.
            let given_back = self.index.take_task(REBUILD_TASK, self.node, Duration::ZERO).await;
            let retired = self.index.retire(self.node).await;
            if let Some(error) = given_back.err().or(retired.err()) {
                let error = &error as &dyn std::error::Error;
                warn!(error, "the task could not be given back: it runs out in a minute");
            }
        }
        result
    }

    /// Stops the worker's tasks on all nodes: what is about to be put back must not be swept meanwhile.
    async fn hold(&self) -> Result<Hold, RebuildError> {
        let pulse = self.index.heartbeat(self.node, "rebuild", TTL).await?;
        if !self.index.take_task(REBUILD_TASK, self.node, TTL).await? {
            return Err(RebuildError::UnderWay);
        }
        let (index, node) = (Arc::clone(&self.index), self.node);
        let hold = Hold(tokio::spawn(async move {
            loop {
                tokio::time::sleep(TTL / 6).await;
                match index.take_task(REBUILD_TASK, node, TTL).await {
                    Ok(true) => {}
                    Ok(false) => warn!("another rebuild has taken over: what both put back is put back once"),
                    Err(error) => {
                        let error = &error as &dyn std::error::Error;
                        warn!(error, "the task could not be kept: it is tried again");
                    }
                }
            }
        }));
        if pulse.nodes > 1 {
            // A step under way is finished by then; before the next, the task is asked for.
            tokio::time::sleep(SETTLE).await;
        }
        Ok(hold)
    }

    async fn all(&self) -> Result<RebuildReport, RebuildError> {
        let mut report = RebuildReport { dry_run: self.options.dry_run, ..RebuildReport::default() };
        let deleting: Vec<TenantId> = self
            .directory
            .all_tenants_deletions(u32::MAX >> 1)
            .await?
            .into_iter()
            .map(|deletion| deletion.tenant)
            .collect();
        let mut after = None;
        while let Some(tenant) = self.store.all_tenants_next(after).await? {
            after = Some(tenant);
            if deleting.contains(&tenant) {
                report.being_deleted += 1;
                continue;
            }
            report.tenants.extend(self.tenant(tenant).await?);
        }
        if self.options.tenant.is_some() && report.tenants.is_empty() {
            return Err(RebuildError::NoTenant);
        }
        Ok(report)
    }
}
