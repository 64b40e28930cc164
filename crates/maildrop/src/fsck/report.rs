//! What a check found.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{MailboxId, PackId, Tenant, Uid, port::WrongCounters};

/// Findings that a report names; the others are counted.
const FINDINGS_MAX: usize = 10_000;

/// How far a check is: where to go on, and what was found so far.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct FsckState {
    /// The last tenant that is done, by name.
    pub done: Option<String>,
    /// The last pack that is done of the next.
    pub pack: Option<Uuid>,
    /// What was found.
    pub report: FsckReport,
}

/// What was found.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct FsckReport {
    /// Tenants that were checked.
    pub tenants: u64,
    /// Packs.
    pub packs: u64,
    /// Entries in them.
    pub entries: u64,
    /// Octets that were read of them.
    pub octets_read: u64,
    /// Mailboxes.
    pub mailboxes: u64,
    /// How many findings there are of each kind.
    pub counts: BTreeMap<FindingKind, u64>,
    /// How many of all were mended.
    pub repaired: u64,
    /// The first of them.
    pub findings: Vec<serde_json::Value>,
}

impl FsckReport {
    /// Whether nothing was found, or all that was is mended.
    pub fn is_clean(&self) -> bool {
        self.counts.values().sum::<u64>() == self.repaired
    }

    pub(super) fn find(&mut self, finding: Finding) {
        *self.counts.entry(finding.kind).or_default() += 1;
        self.repaired += u64::from(finding.repaired);
        if self.findings.len() < FINDINGS_MAX {
            self.findings.extend(serde_json::to_value(finding));
        }
    }
}

/// What may be wrong.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    /// Messages whose pack is not there.
    PackMissing,
    /// Messages whose entry does not open.
    EntryDamaged,
    /// Messages whose entry is another message.
    EntryDiffers,
    /// Octets of a pack are not what was written.
    PackDamaged,
    /// A pack has another size than the index says.
    PackSize,
    /// Messages are in a pack that the index does not know.
    PackNotKnown,
    /// An object that the index does not know, older than a day.
    Orphan,
    /// Nothing points at a pack, and it is not garbage.
    GarbageNotNoted,
    /// Counters of a mailbox.
    Counters,
    /// Counters of a tenant.
    Usage,
}

/// Something that is wrong.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// What kind of thing.
    pub kind: FindingKind,
    /// The tenant's name.
    pub tenant: String,
    /// The pack.
    pub pack: Option<PackId>,
    /// Where in it an entry begins.
    pub offset: Option<u64>,
    /// A mailbox that is concerned,
    pub mailbox: Option<MailboxId>,
    /// and the message in it.
    pub uid: Option<Uid>,
    /// Messages that are concerned.
    pub rows: u64,
    /// What there is to say.
    pub what: String,
    /// Whether it was mended.
    pub repaired: bool,
}

impl Finding {
    pub(super) fn of_pack(kind: FindingKind, tenant: &Tenant, pack: PackId, what: String) -> Self {
        Self { pack: Some(pack), ..Self::new(kind, tenant, what) }
    }

    pub(super) fn of_counters(tenant: &Tenant, wrong: &WrongCounters) -> Self {
        let WrongCounters { mailbox, address, messages, octets, next_uid } = wrong;
        let what = format!(
            "{address}: {} messages noted, {} there; {} octets noted, {} there; next uid {}, greatest {}",
            messages.0, messages.1, octets.0, octets.1, next_uid.0, next_uid.1
        );
        Self { mailbox: Some(*mailbox), ..Self::new(FindingKind::Counters, tenant, what) }
    }

    pub(super) fn of_usage(tenant: &Tenant, usage: &[(i64, i64); 4]) -> Self {
        let names = ["mailboxes", "messages", "octets", "octets given to mailboxes"];
        let wrong = names.iter().zip(usage).filter(|(_, (noted, is))| noted != is);
        let what: Vec<String> =
            wrong.map(|(name, (noted, is))| format!("{noted} {name} noted, {is} there")).collect();
        Self::new(FindingKind::Usage, tenant, what.join("; "))
    }

    fn new(kind: FindingKind, tenant: &Tenant, what: String) -> Self {
        let tenant = tenant.name.to_string();
        Self {
            kind,
            tenant,
            pack: None,
            offset: None,
            mailbox: None,
            uid: None,
            rows: 0,
            what,
            repaired: false,
        }
    }
}
