//! What a rebuild came to.

use std::{fmt, sync::Arc};

use serde::Serialize;
use time::OffsetDateTime;

use crate::TenantId;

/// Lines of one kind that a report has at most.
const LINES_MAX: usize = 100;

/// What was done, or would be.
#[derive(Clone, Debug, Default, Serialize)]
pub struct RebuildReport {
    /// Whether it was only looked at.
    pub dry_run: bool,
    /// Tenants that are being deleted: they were left alone.
    pub being_deleted: u64,
    /// The others that the bucket has anything of.
    pub tenants: Vec<TenantRebuild>,
}

impl RebuildReport {
    /// Whether everything that the bucket tells of is in the index.
    pub fn is_whole(&self) -> bool {
        self.tenants.iter().all(TenantRebuild::is_whole)
    }
}

/// What was done for a tenant.
#[derive(Clone, Debug, Serialize)]
pub struct TenantRebuild {
    /// The tenant.
    pub tenant: TenantId,
    /// Its name, where it is known.
    pub name: Option<String>,
    /// Whether its data key is known: without it nothing can be read.
    pub has_key: bool,
    /// Whether the index knew it.
    pub known: bool,
    /// When the last manifest that was used was written. Deletions after it, and changes of accounts, are not known.
    #[serde(with = "time::serde::rfc3339::option")]
    pub as_of: Option<OffsetDateTime>,
    /// Mailboxes that were put back.
    pub mailboxes: u64,
    /// Mailboxes that were created after the last manifest: put back with their address, and without a password.
    pub mailboxes_found: u64,
    /// Messages that were put back under the unique-ids that they had.
    pub messages: u64,
    /// Messages that were put back under new unique-ids, since the index gave theirs to others meanwhile.
    pub renumbered: u64,
    /// Messages that came after the last manifest, put back under new unique-ids; those of them that were deleted, or
    /// refused, are among them.
    pub messages_found: u64,
    /// Bulletins that came after it.
    pub bulletins_found: u64,
    /// Messages whose octets are nowhere in the bucket: as a rule they were deleted after the last manifest.
    pub messages_gone: u64,
    /// Messages to mailboxes that are not there, nor can be.
    pub unplaced: u64,
    /// Packs in the bucket.
    pub packs: u64,
    /// Packs that were read, and octets of them.
    pub packs_read: u64,
    /// Octets that were read of packs.
    pub octets_read: u64,
    /// What could not be put back, since something else has its name.
    pub taken: Vec<String>,
    /// What was found damaged.
    pub damage: Vec<String>,
}

impl TenantRebuild {
    pub(super) fn new(tenant: TenantId) -> Self {
        Self {
            tenant,
            name: None,
            has_key: false,
            known: false,
            as_of: None,
            mailboxes: 0,
            mailboxes_found: 0,
            messages: 0,
            renumbered: 0,
            messages_found: 0,
            bulletins_found: 0,
            messages_gone: 0,
            unplaced: 0,
            packs: 0,
            packs_read: 0,
            octets_read: 0,
            taken: Vec::new(),
            damage: Vec::new(),
        }
    }

    /// Whether everything that the bucket has of it is in the index.
    pub fn is_whole(&self) -> bool {
        self.has_key && self.taken.is_empty() && self.damage.is_empty()
    }

    pub(super) fn damaged(&mut self, what: String) {
        if self.damage.len() < LINES_MAX {
            self.damage.push(what);
        }
    }

    pub(super) fn take(&mut self, taken: Vec<String>) {
        let room = LINES_MAX.saturating_sub(self.taken.len());
        self.taken.extend(taken.into_iter().take(room));
    }
}

/// How far it is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// The tenant.
    pub tenant: TenantId,
    /// What is being done.
    pub step: &'static str,
    /// How much of it is done,
    pub done: u64,
    /// and of how much; 0 where that is not known.
    pub of: u64,
}

/// Who is told. Cheap to clone.
#[derive(Clone)]
pub struct ProgressSink(Arc<dyn Fn(Progress) + Send + Sync>);

impl ProgressSink {
    /// One that calls this.
    pub fn new(tell: impl Fn(Progress) + Send + Sync + 'static) -> Self {
        Self(Arc::new(tell))
    }

    pub(crate) fn tell(&self, tenant: TenantId, step: &'static str, done: u64, of: u64) {
        (self.0)(Progress { tenant, step, done, of });
    }
}

impl Default for ProgressSink {
    /// Nobody.
    fn default() -> Self {
        Self::new(|_| ())
    }
}

impl fmt::Debug for ProgressSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProgressSink")
    }
}
