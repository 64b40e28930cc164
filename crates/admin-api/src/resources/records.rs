//! Sessions, usage and the audit log.

use maildrop::port::{AuditEntry, SessionInfo, Traffic, TrafficDay, Usage};
use serde::Serialize;
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

/// Somebody who is logged in.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Session)]
pub(crate) struct SessionResource {
    /// The session, as its greeting and the logs name it.
    id: String,
    /// The tenant's name.
    tenant: String,
    /// The mailbox's address.
    address: String,
    /// The node it is on.
    node: String,
    /// The client's address, or `unix`.
    peer: String,
    /// When it logged in.
    #[serde(with = "time::serde::rfc3339")]
    since: OffsetDateTime,
}

impl From<&SessionInfo> for SessionResource {
    fn from(session: &SessionInfo) -> Self {
        Self {
            id: session.id.clone(),
            tenant: session.tenant_name.clone(),
            address: session.address.to_string(),
            node: session.node.clone(),
            peer: session.peer.clone(),
            since: session.since,
        }
    }
}

/// What a tenant has, holds and moved.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Usage)]
pub(crate) struct UsageResource {
    /// Its mailboxes.
    mailboxes: u64,
    /// Messages in them.
    messages: u64,
    /// Octets of these messages.
    octets: u64,
    /// Octets given to mailboxes as their quotas.
    allocated_octets: u64,
    /// The most octets all its mailboxes may hold together; none for no limit.
    quota_octets: Option<u64>,
    /// The most messages all its mailboxes may hold together; none for no limit.
    quota_messages: Option<u64>,
    /// What was sent and taken in, by day; days without any are left out.
    traffic: Vec<TrafficResource>,
}

impl UsageResource {
    pub(crate) fn new(usage: Usage, settings: &maildrop::TenantSettings, traffic: &[TrafficDay]) -> Self {
        Self {
            mailboxes: usage.mailboxes,
            messages: usage.messages,
            octets: usage.octets,
            allocated_octets: usage.allocated_octets,
            quota_octets: settings.quota_octets,
            quota_messages: settings.quota_messages,
            traffic: traffic.iter().map(TrafficResource::from).collect(),
        }
    }
}

/// What was sent and taken in on a day.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Traffic)]
pub(crate) struct TrafficResource {
    /// The day (UTC).
    #[schema(format = Date)]
    day: String,
    /// Logins that succeeded.
    logins: u64,
    /// Messages sent to clients in full.
    messages_out: u64,
    /// Octets sent to clients.
    octets_out: u64,
    /// Messages taken in.
    messages_in: u64,
    /// Octets of these.
    octets_in: u64,
}

impl From<&TrafficDay> for TrafficResource {
    fn from(day: &TrafficDay) -> Self {
        let Traffic { logins, messages_out, octets_out, messages_in, octets_in } = day.traffic;
        // `Date` writes itself as RFC 3339's full-date.
        Self { day: day.day.to_string(), logins, messages_out, octets_out, messages_in, octets_in }
    }
}

/// One administrative change, or removal of messages otherwise than by their owner.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AuditEntry)]
pub(crate) struct AuditResource {
    /// Its number: grows, with gaps.
    id: i64,
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    at: OffsetDateTime,
    /// The tenant it was in, if any.
    tenant_id: Option<Uuid>,
    /// Who: `key:` and the identity of an API key, `bootstrap-token`, or a program.
    actor: String,
    /// From where.
    origin: String,
    /// The request it was part of; empty where there was none.
    request: String,
    /// What was done.
    action: String,
    /// To what.
    target: String,
    /// What it was before, if anything.
    before: Option<serde_json::Value>,
    /// What it is since, if anything.
    after: Option<serde_json::Value>,
}

impl From<&AuditEntry> for AuditResource {
    fn from(entry: &AuditEntry) -> Self {
        let entry = entry.clone();
        Self {
            id: entry.id,
            at: entry.at,
            tenant_id: entry.tenant,
            actor: entry.actor,
            origin: entry.origin,
            request: entry.request,
            action: entry.action,
            target: entry.target,
            before: entry.before,
            after: entry.after,
        }
    }
}
