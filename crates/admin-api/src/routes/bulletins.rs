//! Bulletins of a tenant.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Request, State},
    http::{StatusCode, Uri},
    response::{IntoResponse as _, Response},
};
use maildrop::{Bulletin, BulletinError, BulletinId, NewBulletin};
use serde::Deserialize;
use time::OffsetDateTime;
use utoipa::IntoParams;

use super::{
    extract::{OfId, Params, Segments},
    fields::{bad_cursor, expiry, uuid_of_path},
    respond::listed,
    streamed::{announced, message_too_large, receive},
    to_the_end,
};
use crate::{
    Problem,
    api::Shared,
    auth::Caller,
    guard::TheTenant,
    resources::{BulletinResource, BulletinWithHolders, ListQuery, Page},
};

/// Longest note in characters.
const NOTE_CHARACTERS_MAX: usize = 200;

/// What the query says of a new bulletin.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct NewBulletinQuery {
    /// What it shall be called in lists and in the audit log; the message's subject is not read for that.
    #[serde(default)]
    #[param(max_length = 200)]
    note: Option<String>,
    /// Whether mailboxes that are created later get it, too, until it expires or is withdrawn.
    #[serde(default)]
    new_mailboxes: Option<bool>,
    /// From when on no mailbox gets it any more that does not have it. Those that have it keep it.
    #[serde(default)]
    #[param(format = DateTime)]
    expires_at: Option<String>,
}

/// List a tenant's bulletins, newest first.
#[utoipa::path(get, path = "/v1/tenants/{tenant}/bulletins", operation_id = "listBulletins", tag = "bulletins",
    params(ListQuery),
    responses((status = 200, description = "a page of bulletins", body = Page<BulletinResource>)))]
pub(super) async fn list(
    State(api): State<Shared>,
    TheTenant(tenant): TheTenant,
    Params(query): Params<ListQuery>,
    uri: Uri,
) -> Result<Response, Problem> {
    let limit = query.limit()?;
    let before = query.after.as_deref().map(number_of).transpose()?;
    let rows = api.bulletins.bulletins(tenant.id, before, limit + 1).await?;
    let page = Page::<BulletinResource>::new(rows, limit, |bulletin: &Bulletin| bulletin.number.to_string());
    Ok(listed(page, &uri, "after"))
}

/// Post a bulletin: a message to every mailbox of the tenant.
///
/// It is stored once, as it is sent but for line ends, which become CRLF. When this answers 201, it is durable, and every
/// mailbox that was there will get it within minutes, whatever its quota and its state. Each gets it once: who deletes it
/// is not shown it again.
#[utoipa::path(post, path = "/v1/tenants/{tenant}/bulletins", operation_id = "createBulletin", tag = "bulletins",
    params(NewBulletinQuery),
    request_body(content = String, content_type = "message/rfc822", description = "the message"),
    responses((status = 201, description = "the bulletin", body = BulletinResource)))]
pub(super) async fn create(
    State(api): State<Shared>,
    Caller { actor, .. }: Caller,
    TheTenant(tenant): TheTenant,
    Params(query): Params<NewBulletinQuery>,
    request: Request,
) -> Result<Response, Problem> {
    let created_at = api.now();
    announced(request.headers(), api.limits.message_octets_max)?;
    let new = NewBulletin {
        tenant: tenant.id,
        note: note(query.note.unwrap_or_default())?,
        new_mailboxes: query.new_mailboxes.unwrap_or(false),
        expires_at: expiry(query.expires_at.as_deref(), created_at)?.map(in_micros),
        created_at,
    };
    let mut writer = api.bulletin_writers.begin(new).await.map_err(refused)?;
    receive(&mut writer, request.into_body(), api.limits.message_octets_max).await?;
    // From here on it is stored, whoever waits for the answer.
    let posted = tokio::spawn(writer.finish(actor)).await.map_err(|error| {
        tracing::error!(%error, "a bulletin broke off");
        Problem::internal()
    })?;
    let bulletin = posted.map_err(refused)?;
    Ok((StatusCode::CREATED, Json(BulletinResource::from(&bulletin))).into_response())
}

/// Show a bulletin, and how many mailboxes hold it.
#[utoipa::path(get, path = "/v1/tenants/{tenant}/bulletins/{id}", operation_id = "readBulletin", tag = "bulletins",
    responses((status = 200, description = "the bulletin", body = BulletinWithHolders)))]
pub(super) async fn read(
    State(api): State<Shared>,
    TheTenant(tenant): TheTenant,
    Segments(path): Segments<OfId>,
) -> Result<Json<BulletinWithHolders>, Problem> {
    let OfId { id } = path;
    let found = api.bulletins.bulletin(tenant.id, id_of_path(&id)?).await?;
    let (bulletin, holding) = found.ok_or_else(none)?;
    Ok(Json(BulletinWithHolders { bulletin: BulletinResource::from(&bulletin), holding }))
}

/// Withdraw a bulletin.
///
/// No further mailbox gets it. Those that hold it lose it within minutes, and nobody can restore it. A session that is
/// open keeps its numbers; it hears that there is no such message when it asks for it. To ask again changes nothing.
#[utoipa::path(delete, path = "/v1/tenants/{tenant}/bulletins/{id}", operation_id = "withdrawBulletin",
    tag = "bulletins",
    responses((status = 202, description = "the bulletin, being withdrawn", body = BulletinResource)))]
pub(super) async fn withdraw(
    State(api): State<Shared>,
    Caller { actor, .. }: Caller,
    TheTenant(tenant): TheTenant,
    Segments(path): Segments<OfId>,
) -> Result<Response, Problem> {
    let OfId { id } = path;
    let (bulletins, id, at) = (Arc::clone(&api.bulletins), id_of_path(&id)?, api.now());
    let withdrawn =
        to_the_end(async move { bulletins.withdraw_bulletin(tenant.id, id, &actor, at).await }).await?;
    let bulletin = withdrawn.ok_or_else(none)?;
    Ok((StatusCode::ACCEPTED, Json(BulletinResource::from(&bulletin))).into_response())
}

fn refused(error: BulletinError) -> Problem {
    match error {
        BulletinError::NoTenant => Problem::not_found("tenant"),
        BulletinError::TooLarge => message_too_large(),
        BulletinError::StorageFull => Problem::storage_full(),
        BulletinError::Unavailable => Problem::unavailable(true),
        BulletinError::Index(error) => error.into(),
    }
}

/// As finely as the index keeps time.
fn in_micros(at: OffsetDateTime) -> OffsetDateTime {
    at.replace_nanosecond(at.nanosecond() / 1000 * 1000).unwrap_or(at)
}

/// A note: one line of at most 200 characters.
fn note(text: String) -> Result<String, Problem> {
    if text.chars().count() <= NOTE_CHARACTERS_MAX && !text.chars().any(char::is_control) {
        Ok(text)
    } else {
        Err(Problem::invalid("note", "a note is at most 200 characters, none of them a control character"))
    }
}

/// A number as it is written, in one way only.
fn number_of(text: &str) -> Result<u64, Problem> {
    let number: u64 = text.parse().map_err(bad_cursor)?;
    if i64::try_from(number).is_ok() && number.to_string() == text { Ok(number) } else { Err(bad_cursor(())) }
}

fn id_of_path(text: &str) -> Result<BulletinId, Problem> {
    uuid_of_path(text, "bulletin").map(BulletinId::from_uuid)
}

fn none() -> Problem {
    Problem::not_found("bulletin")
}
