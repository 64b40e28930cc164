//! Mailboxes of a tenant.

use std::sync::Arc;

use ::auth::Password;
use axum::{Json, extract::State, http::StatusCode};
use maildrop::{Address, Mailbox, MailboxId, NewMailbox};
use secrecy::{ExposeSecret as _, SecretString};

use super::{
    extract::{Body, Params, Segments, address, bad_cursor},
    to_the_end,
};
use crate::{
    AdminApi, Problem,
    auth::Caller,
    resources::{ListQuery, MailboxResource, NewMailboxBody, NewPassword, Page},
};

/// Longest password in octets: what fits a POP3 command line with room to spare (RFC 2449 §4).
const PASSWORD_OCTETS_MAX: usize = 400;

pub(super) async fn list(
    State(api): State<Arc<AdminApi>>,
    Segments(tenant): Segments<String>,
    Params(query): Params<ListQuery>,
) -> Result<Json<Page<MailboxResource>>, Problem> {
    let tenant = api.tenant(&tenant).await?;
    let after = query.after.as_deref().map(Address::try_from).transpose().map_err(bad_cursor)?;
    let rows = api.directory.list_mailboxes(tenant.id, after.as_ref(), query.limit() + 1).await?;
    Ok(Json(Page::new(rows, query.limit(), |mailbox: &Mailbox| mailbox.address.to_string())))
}

pub(super) async fn create(
    State(api): State<Arc<AdminApi>>,
    Caller(actor): Caller,
    Segments(tenant): Segments<String>,
    Body(body): Body<NewMailboxBody>,
) -> Result<(StatusCode, Json<MailboxResource>), Problem> {
    let tenant = api.tenant(&tenant).await?;
    let address =
        Address::try_from(body.address.as_str()).map_err(|error| Problem::invalid("address", error))?;
    let quota_octets = body.quota_octets;
    if quota_octets.is_some_and(|octets| i64::try_from(octets).is_err()) {
        return Err(Problem::invalid("quota_octets", "a quota is less than 2^63 octets"));
    }
    let password_hash = hash(&api, &body.password).await?;
    let new = NewMailbox { id: MailboxId::generate(), address, password_hash, quota_octets };
    let mailbox = api.directory.create_mailbox(tenant.id, &new, &actor, api.clock.now()).await?;
    Ok((StatusCode::CREATED, Json(MailboxResource::from(&mailbox))))
}

pub(super) async fn read(
    State(api): State<Arc<AdminApi>>,
    Segments((tenant, mailbox)): Segments<(String, String)>,
) -> Result<Json<MailboxResource>, Problem> {
    let tenant = api.tenant(&tenant).await?;
    let mailbox = api.directory.mailbox(tenant.id, &address(&mailbox)?).await?;
    Ok(Json(MailboxResource::from(&mailbox.ok_or_else(|| Problem::not_found("mailbox"))?)))
}

pub(super) async fn delete(
    State(api): State<Arc<AdminApi>>,
    Caller(actor): Caller,
    Segments((tenant, mailbox)): Segments<(String, String)>,
) -> Result<StatusCode, Problem> {
    let tenant = api.tenant(&tenant).await?;
    let (address, at) = (address(&mailbox)?, api.clock.now());
    let deletion = async move { api.directory.delete_mailbox(tenant.id, &address, &actor, at).await };
    if to_the_end(deletion).await? { Ok(StatusCode::NO_CONTENT) } else { Err(Problem::not_found("mailbox")) }
}

pub(super) async fn set_password(
    State(api): State<Arc<AdminApi>>,
    Caller(actor): Caller,
    Segments((tenant, mailbox)): Segments<(String, String)>,
    Body(body): Body<NewPassword>,
) -> Result<StatusCode, Problem> {
    let tenant = api.tenant(&tenant).await?;
    let address = address(&mailbox)?;
    let hash = hash(&api, &body.password).await?;
    if api.directory.set_password(tenant.id, &address, &hash, &actor, api.clock.now()).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(Problem::not_found("mailbox"))
    }
}

async fn hash(api: &AdminApi, password: &SecretString) -> Result<String, Problem> {
    let password = password.expose_secret();
    if password.is_empty() || password.len() > PASSWORD_OCTETS_MAX {
        let detail = format!("a password is 1 to {PASSWORD_OCTETS_MAX} octets");
        return Err(Problem::invalid("password", detail));
    }
    if password.chars().any(|c| matches!(c, '\r' | '\n' | '\0')) {
        return Err(Problem::invalid("password", "a password cannot hold CR, LF or NUL"));
    }
    api.hasher.hash(Password::new(password.as_bytes().to_vec())).await.map_err(|error| {
        tracing::warn!(%error, "password could not be hashed");
        Problem::unavailable()
    })
}
