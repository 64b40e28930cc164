//! Sessions, usage and the audit log: of a tenant, and of the platform.

use std::sync::Arc;

use axum::{
    Json,
    body::{Body, Bytes},
    extract::State,
    http::{StatusCode, Uri, header},
    response::{IntoResponse as _, Response},
};
use futures_util::stream;
use maildrop::{
    MailboxId, TenantId,
    port::{AuditEntry, AuditQuery, Records, SessionInfo},
};
use serde::Deserialize;
use time::{Date, Duration, format_description::well_known::Iso8601};
use utoipa::IntoParams;
use uuid::Uuid;

use super::{
    bulk::NDJSON,
    extract::{OfId, Params, Segments},
    fields::{bad_cursor, moment, search},
    respond::listed,
};
use crate::{
    Problem,
    api::{Api, Shared},
    auth::Caller,
    guard::TheTenant,
    resources::{AuditResource, ListQuery, Page, SessionResource, UsageResource, page_limit},
};

/// Days of traffic that are shown where none are asked for, and the most that can be.
const TRAFFIC_DAYS: i64 = 30;
const TRAFFIC_DAYS_MAX: i64 = 366;
/// Entries of the audit log that an export reads at once.
const EXPORT_PAGE: u32 = 500;

/// List who is logged in to the tenant's mailboxes, on all nodes.
#[utoipa::path(get, path = "/v1/tenants/{tenant}/sessions", operation_id = "listTenantSessions", tag = "sessions",
    params(ListQuery), responses((status = 200, description = "a page of sessions", body = Page<SessionResource>)))]
pub(super) async fn tenant_sessions(
    State(api): State<Shared>,
    TheTenant(tenant): TheTenant,
    Params(query): Params<ListQuery>,
    uri: Uri,
) -> Result<Response, Problem> {
    sessions(&api, Some(tenant.id), &query, &uri).await
}

/// List who is logged in, in all tenants, on all nodes.
#[utoipa::path(get, path = "/v1/sessions", operation_id = "listSessions", tag = "sessions", params(ListQuery),
    responses((status = 200, description = "a page of sessions", body = Page<SessionResource>)))]
pub(super) async fn all_sessions(
    State(api): State<Shared>,
    Params(query): Params<ListQuery>,
    uri: Uri,
) -> Result<Response, Problem> {
    sessions(&api, None, &query, &uri).await
}

async fn sessions(
    api: &Api,
    tenant: Option<TenantId>,
    query: &ListQuery,
    uri: &Uri,
) -> Result<Response, Problem> {
    let limit = query.limit()?;
    let after = query.after.as_deref().map(|text| place(text).ok_or(())).transpose().map_err(bad_cursor)?;
    let rows = api.index.sessions(tenant, after, limit + 1).await?;
    let page = Page::<SessionResource>::new(rows, limit, |session: &SessionInfo| {
        let (tenant, mailbox) = (session.tenant.as_uuid(), session.mailbox.as_uuid());
        format!("{}{}", tenant.as_simple(), mailbox.as_simple())
    });
    Ok(listed(page, uri, "after"))
}

/// A place in the order of sessions: tenant and mailbox.
fn place(text: &str) -> Option<(TenantId, MailboxId)> {
    let (tenant, mailbox) = text.split_at_checked(32).filter(|(_, mailbox)| mailbox.len() == 32)?;
    let uuid = |text| Uuid::try_parse(text).ok();
    Some((TenantId::from_uuid(uuid(tenant)?), MailboxId::from_uuid(uuid(mailbox)?)))
}

/// End a session. It cannot delete any more, and its node ends it with its next heartbeat.
#[utoipa::path(delete, path = "/v1/tenants/{tenant}/sessions/{id}", operation_id = "endSession", tag = "sessions",
    responses((status = 204, description = "it ends")))]
pub(super) async fn end_session(
    State(api): State<Shared>,
    Caller { actor, .. }: Caller,
    TheTenant(tenant): TheTenant,
    Segments(path): Segments<OfId>,
) -> Result<StatusCode, Problem> {
    let OfId { id } = path;
    let none = || Problem::not_found("session");
    if !(1..=100).contains(&id.len()) || !id.bytes().all(|octet| octet.is_ascii_graphic()) {
        return Err(none());
    }
    if api.index.end_session(tenant.id, &id, &actor, api.now()).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(none())
    }
}

/// The query of usage.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct UsageQuery {
    /// The first day (UTC); 30 days before the last where it is not given.
    #[serde(default)]
    #[param(format = Date)]
    from: Option<String>,
    /// The last day (UTC); today where it is not given. 366 days at most.
    #[serde(default)]
    #[param(format = Date)]
    to: Option<String>,
}

/// Show what a tenant has, holds and moved.
#[utoipa::path(get, path = "/v1/tenants/{tenant}/usage", operation_id = "readUsage", tag = "usage",
    params(UsageQuery), responses((status = 200, description = "usage", body = UsageResource)))]
pub(super) async fn usage(
    State(api): State<Shared>,
    TheTenant(tenant): TheTenant,
    Params(query): Params<UsageQuery>,
) -> Result<Json<UsageResource>, Problem> {
    let to = day("to", query.to.as_deref())?.unwrap_or_else(|| api.now().date());
    let first = to.checked_sub(Duration::days(TRAFFIC_DAYS - 1)).unwrap_or(Date::MIN);
    let from = day("from", query.from.as_deref())?.unwrap_or(first);
    if from > to || (to - from).whole_days() >= TRAFFIC_DAYS_MAX {
        return Err(Problem::invalid("from", "is not after `to`, and 366 days before it at most"));
    }
    let usage = api.index.usage(tenant.id).await?;
    let traffic = api.records.traffic(tenant.id, from, to).await?;
    Ok(Json(UsageResource::new(usage, &tenant.settings, &traffic)))
}

fn day(field: &str, text: Option<&str>) -> Result<Option<Date>, Problem> {
    // RFC 3339's full-date, of all that ISO 8601 has: what a date writes itself as.
    let parse = |text: &str| Date::parse(text, &Iso8601::DATE).ok().filter(|day| day.to_string() == text);
    let bad = || Problem::invalid(field, "is no day as YYYY-MM-DD");
    text.map(|text| parse(text).ok_or_else(bad)).transpose()
}

/// The query of the audit log.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct AuditListQuery {
    /// The cursor: `next` of the page before, which is newer.
    #[serde(default)]
    #[param(minimum = 1)]
    before: Option<i64>,
    /// Items on a page at most; 100 where it is not given.
    #[serde(default)]
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// Only what this actor did.
    #[serde(default)]
    #[param(max_length = 400)]
    actor: Option<String>,
    /// Only this action, or all that begin with it and a dot: `mailbox`.
    #[serde(default)]
    #[param(max_length = 400)]
    action: Option<String>,
    /// Only what was done to this.
    #[serde(default)]
    #[param(max_length = 400)]
    target: Option<String>,
    /// Not before this.
    #[serde(default)]
    #[param(format = DateTime)]
    since: Option<String>,
    /// Before this.
    #[serde(default)]
    #[param(format = DateTime)]
    until: Option<String>,
}

/// The query of an export of the audit log.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct AuditExportQuery {
    /// Only what this actor did.
    #[serde(default)]
    #[param(max_length = 400)]
    actor: Option<String>,
    /// Only this action, or all that begin with it and a dot: `mailbox`.
    #[serde(default)]
    #[param(max_length = 400)]
    action: Option<String>,
    /// Only what was done to this.
    #[serde(default)]
    #[param(max_length = 400)]
    target: Option<String>,
    /// Not before this.
    #[serde(default)]
    #[param(format = DateTime)]
    since: Option<String>,
    /// Before this.
    #[serde(default)]
    #[param(format = DateTime)]
    until: Option<String>,
}

impl From<AuditExportQuery> for AuditListQuery {
    fn from(query: AuditExportQuery) -> Self {
        let AuditExportQuery { actor, action, target, since, until } = query;
        Self { before: None, limit: None, actor, action, target, since, until }
    }
}

impl AuditListQuery {
    fn read(self, tenant: Option<TenantId>, limit: u32) -> Result<AuditQuery, Problem> {
        if self.before.is_some_and(|before| before < 1) {
            return Err(Problem::invalid("before", "is not a cursor of this list"));
        }
        Ok(AuditQuery {
            tenant,
            before_id: self.before,
            actor: search("actor", self.actor)?,
            action: search("action", self.action)?,
            target: search("target", self.target)?,
            since: moment("since", self.since.as_deref())?,
            until: moment("until", self.until.as_deref())?,
            limit,
        })
    }
}

/// List what administrators did in the tenant, newest first.
#[utoipa::path(get, path = "/v1/tenants/{tenant}/audit", operation_id = "listTenantAudit", tag = "audit",
    params(AuditListQuery), responses((status = 200, description = "a page of entries", body = Page<AuditResource>)))]
pub(super) async fn tenant_audit(
    State(api): State<Shared>,
    TheTenant(tenant): TheTenant,
    Params(query): Params<AuditListQuery>,
    uri: Uri,
) -> Result<Response, Problem> {
    audit(&api, Some(tenant.id), query, &uri).await
}

/// List what administrators did, newest first.
#[utoipa::path(get, path = "/v1/audit", operation_id = "listAudit", tag = "audit", params(AuditListQuery),
    responses((status = 200, description = "a page of entries", body = Page<AuditResource>)))]
pub(super) async fn all_audit(
    State(api): State<Shared>,
    Params(query): Params<AuditListQuery>,
    uri: Uri,
) -> Result<Response, Problem> {
    audit(&api, None, query, &uri).await
}

async fn audit(
    api: &Api,
    tenant: Option<TenantId>,
    query: AuditListQuery,
    uri: &Uri,
) -> Result<Response, Problem> {
    let limit = page_limit(query.limit)?;
    let rows = api.records.audit(&query.read(tenant, limit + 1)?).await?;
    let page = Page::<AuditResource>::new(rows, limit, |entry: &AuditEntry| entry.id.to_string());
    Ok(listed(page, uri, "before"))
}

/// Export what administrators did in the tenant: an entry a line, newest first.
#[utoipa::path(get, path = "/v1/tenants/{tenant}/audit/export", operation_id = "exportTenantAudit", tag = "audit",
    params(AuditExportQuery),
    responses((status = 200, description = "an AuditEntry a line", body = String, content_type = "application/x-ndjson")))]
pub(super) async fn export_tenant_audit(
    State(api): State<Shared>,
    TheTenant(tenant): TheTenant,
    Params(query): Params<AuditExportQuery>,
) -> Result<Response, Problem> {
    export(&api, Some(tenant.id), query).await
}

/// Export what administrators did: an entry a line, newest first.
#[utoipa::path(get, path = "/v1/audit/export", operation_id = "exportAudit", tag = "audit", params(AuditExportQuery),
    responses((status = 200, description = "an AuditEntry a line", body = String, content_type = "application/x-ndjson")))]
pub(super) async fn export_all_audit(
    State(api): State<Shared>,
    Params(query): Params<AuditExportQuery>,
) -> Result<Response, Problem> {
    export(&api, None, query).await
}

async fn export(api: &Api, tenant: Option<TenantId>, query: AuditExportQuery) -> Result<Response, Problem> {
    let query = AuditListQuery::from(query).read(tenant, EXPORT_PAGE)?;
    // The first page is read before the answer begins: what is wrong is said as a problem. What goes wrong later
    // breaks the body off, so that half an export is not taken for one.
    let first = api.records.audit(&query).await?;
    let records = Arc::clone(&api.records);
    let pages = stream::try_unfold(Some((first, query)), move |state| next_page(Arc::clone(&records), state));
    Ok(([(header::CONTENT_TYPE, NDJSON)], Body::from_stream(pages)).into_response())
}

type Export = Option<(Vec<AuditEntry>, AuditQuery)>;

/// A page as lines, and the page after it.
async fn next_page(
    records: Arc<dyn Records>,
    state: Export,
) -> Result<Option<(Bytes, Export)>, maildrop::port::IndexError> {
    let Some((entries, mut query)) = state else { return Ok(None) };
    let mut lines = Vec::new();
    for entry in &entries {
        if serde_json::to_writer(&mut lines, &AuditResource::from(entry)).is_ok() {
            lines.push(b'\n');
        }
    }
    let next = match entries.last() {
        Some(last) if entries.len() as u32 == query.limit => {
            query.before_id = Some(last.id);
            Some((records.audit(&query).await?, query))
        }
        _ => None,
    };
    Ok(Some((lines.into(), next)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_full_dates() {
        assert!(day("from", Some("2026-11-23")).unwrap().is_some());
        for bad in ["2026-11", "20261123", "2026-W48-1", "2026-327", "2026-11-31", "x"] {
            assert!(day("from", Some(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn cursors_of_sessions_are_two_identities() {
        let (tenant, mailbox) = (TenantId::generate(), MailboxId::generate());
        let text = format!("{}{}", tenant.as_uuid().as_simple(), mailbox.as_uuid().as_simple());
        assert_eq!(place(&text), Some((tenant, mailbox)));
        for bad in ["", "x", &text[1..], &format!("{text}0"), &"\u{e9}".repeat(32)] {
            assert_eq!(place(bad), None, "{bad}");
        }
    }
}
