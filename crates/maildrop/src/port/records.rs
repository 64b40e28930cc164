//! The port to what was done: the audit log, answers to repeated requests, and traffic.

use async_trait::async_trait;
use serde::Serialize;
use time::{Date, OffsetDateTime};
use uuid::Uuid;

use crate::{Actor, MailboxId, TenantId, port::IndexError};

/// What was done.
#[async_trait]
pub trait Records: Send + Sync + std::fmt::Debug {
    /// Entries of the audit log that match, newest first.
    async fn audit(&self, query: &AuditQuery) -> Result<Vec<AuditEntry>, IndexError>;

    /// Writes an entry of its own to the audit log: for what changes nothing in the directory and no maildrop's
    /// messages by itself. Changes write theirs in the transaction that makes them.
    async fn note(&self, note: &Note<'_>) -> Result<(), IndexError>;

    /// Claims the right to carry out a request that may come more than once.
    async fn claim(&self, key: &IdempotencyKey, at: OffsetDateTime) -> Result<Claim, IndexError>;

    /// Remembers the answer to a claimed request for a day.
    async fn remember(&self, key: &IdempotencyKey, answer: &StoredAnswer) -> Result<(), IndexError>;

    /// Gives a claim back: the request changed nothing and may be tried again.
    async fn disclaim(&self, key: &IdempotencyKey) -> Result<(), IndexError>;

    /// Forgets up to `limit` claims made before `before`.
    async fn forget_claims(&self, before: OffsetDateTime, limit: u32) -> Result<u64, IndexError>;

    /// Adds to the traffic of tenants and mailboxes.
    async fn add_traffic(&self, deltas: &[TrafficDelta]) -> Result<(), IndexError>;

    /// The tenant's traffic by day, from `from` to `to`, both included, in order; days without any are left
    /// out.
    async fn traffic(&self, tenant: TenantId, from: Date, to: Date) -> Result<Vec<TrafficDay>, IndexError>;

    /// Octets sent that day: for the tenant as a whole, and for the mailbox where that is counted by itself.
    async fn octets_sent(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        day: Date,
    ) -> Result<(u64, u64), IndexError>;

    /// Forgets up to `limit` counts of traffic: those of tenants before the day `tenants`, those of mailboxes
    /// before the day `mailboxes`. Gives how many.
    async fn all_tenants_forget_traffic(
        &self,
        tenants: Date,
        mailboxes: Date,
        limit: u32,
    ) -> Result<u64, IndexError>;

    /// Forgets entries of the audit log made before `before`, the oldest first, up to `limit`; and gives how
    /// many. Those of the last [`AUDIT_KEPT_DAYS_MIN`] days cannot be forgotten.
    async fn all_tenants_forget_audit(&self, before: OffsetDateTime, limit: u32) -> Result<u64, IndexError>;
}

/// Entries of the audit log stay for at least so many days: the schema itself sees to that.
pub const AUDIT_KEPT_DAYS_MIN: u32 = 30;

/// One administrative change, or removal of messages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AuditEntry {
    /// Its number: grows, with gaps.
    pub id: i64,
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// The tenant it was in, if any.
    #[serde(rename = "tenant_id")]
    pub tenant: Option<Uuid>,
    /// Who.
    pub actor: String,
    /// From where.
    pub origin: String,
    /// The request it was part of; empty where there was none.
    pub request: String,
    /// What was done: `tenant.create`, `mailbox.update`, `message.expire` …
    pub action: String,
    /// To what.
    pub target: String,
    /// What it was before, as JSON, if anything.
    pub before: Option<serde_json::Value>,
    /// What it is since, as JSON, if anything.
    pub after: Option<serde_json::Value>,
}

/// An entry to be written to the audit log.
#[derive(Clone, Debug)]
pub struct Note<'a> {
    /// The tenant it is in, if any.
    pub tenant: Option<TenantId>,
    /// Who.
    pub actor: &'a Actor,
    /// When.
    pub at: OffsetDateTime,
    /// What is done.
    pub action: &'static str,
    /// To what.
    pub target: &'a str,
    /// What there is to say of it.
    pub after: Option<serde_json::Value>,
}

/// Which entries of the audit log.
#[derive(Clone, Debug, Default)]
pub struct AuditQuery {
    /// Of this tenant; all where there is none.
    pub tenant: Option<TenantId>,
    /// With a number under this one.
    pub before_id: Option<i64>,
    /// By this actor.
    pub actor: Option<String>,
    /// Of this action, or of all that begin with it and a dot.
    pub action: Option<String>,
    /// To this target.
    pub target: Option<String>,
    /// Not before this.
    pub since: Option<OffsetDateTime>,
    /// Before this.
    pub until: Option<OffsetDateTime>,
    /// So many at most.
    pub limit: u32,
}

/// A request that may come more than once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// Who sends it.
    pub caller: String,
    /// The key it is sent with.
    pub key: String,
    /// What it asks for: a hash of method, path and body.
    pub request: [u8; 32],
}

/// What a claim came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// It is the first one: carry it out.
    First,
    /// It was carried out before: this was the answer.
    Answered(StoredAnswer),
    /// It is being carried out, or broke off; its outcome is not known.
    Pending,
    /// The key was sent before with another request.
    Mismatch,
}

/// An answer that was remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredAnswer {
    /// The HTTP status.
    pub status: u16,
    /// The body; never with a secret in it.
    pub body: Vec<u8>,
    /// The ETag, if it had one.
    pub etag: Option<String>,
}

/// What was sent and taken in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Traffic {
    /// Logins that succeeded.
    pub logins: u64,
    /// Messages sent to clients in full.
    pub messages_out: u64,
    /// Octets sent to clients.
    pub octets_out: u64,
    /// Messages taken in.
    pub messages_in: u64,
    /// Octets of these.
    pub octets_in: u64,
}

impl Traffic {
    /// Adds to it.
    pub fn add(&mut self, other: Self) {
        self.logins += other.logins;
        self.messages_out += other.messages_out;
        self.octets_out += other.octets_out;
        self.messages_in += other.messages_in;
        self.octets_in += other.octets_in;
    }
}

/// Traffic to be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrafficDelta {
    /// The tenant.
    pub tenant: TenantId,
    /// The mailbox, or the tenant as a whole: each is counted by itself.
    pub mailbox: Option<MailboxId>,
    /// The day (UTC).
    pub day: Date,
    /// How much.
    pub traffic: Traffic,
}

/// A day's traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrafficDay {
    /// The day (UTC).
    pub day: Date,
    /// How much.
    pub traffic: Traffic,
}
