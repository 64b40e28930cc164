//! Mailboxes of a tenant.

use std::sync::Arc;

use axum::{
    extract::State,
    http::{StatusCode, Uri},
    response::Response,
};
use maildrop::{
    Address, DomainName, Mailbox, MailboxId, NewMailbox, State as MailboxState, Tenant,
    port::{Conflict, IndexError, MailboxQuery, MailboxUpdate},
};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{
    CHANGE_ATTEMPTS,
    extract::{Body, IfMatch, OfAddress, Params, Patch, Segments},
    fields::{address_of_path, bad_cursor, search},
    give_way,
    passwords::credential_of,
    respond::{listed, tagged},
    to_the_end,
};
use crate::{
    Problem,
    api::{Api, Shared},
    auth::Caller,
    guard::TheTenant,
    resources::{MailboxPatch, MailboxResource, NewMailboxBody, NewPassword, Page, page_limit},
};

/// The query of the list of mailboxes.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct MailboxListQuery {
    /// The cursor: `next` of the page before.
    #[serde(default)]
    #[param(max_length = 400)]
    after: Option<String>,
    /// Items on a page at most; 100 where it is not given.
    #[serde(default)]
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// Only addresses that begin with this.
    #[serde(default)]
    #[param(max_length = 400)]
    search: Option<String>,
    /// Only addresses of this domain.
    #[serde(default)]
    #[param(max_length = 255)]
    domain: Option<String>,
}

/// List a tenant's mailboxes by address.
#[utoipa::path(get, path = "/v1/tenants/{tenant}/mailboxes", operation_id = "listMailboxes", tag = "mailboxes",
    params(MailboxListQuery), responses((status = 200, description = "a page of mailboxes", body = Page<MailboxResource>)))]
pub(super) async fn list(
    State(api): State<Shared>,
    TheTenant(tenant): TheTenant,
    Params(query): Params<MailboxListQuery>,
    uri: Uri,
) -> Result<Response, Problem> {
    let limit = page_limit(query.limit)?;
    let domain = query.domain.as_deref().map(DomainName::try_from).transpose();
    let query = MailboxQuery {
        after: query.after.as_deref().map(Address::try_from).transpose().map_err(bad_cursor)?,
        prefix: search("search", query.search)?
            .map(|text| text.to_lowercase())
            .filter(|text| !text.is_empty()),
        domain: domain.map_err(|error| Problem::invalid("domain", error))?,
        limit: limit + 1,
    };
    let rows = api.directory.list_mailboxes(tenant.id, &query).await?;
    let page = Page::<MailboxResource>::new(rows, limit, |mailbox: &Mailbox| mailbox.address.to_string());
    Ok(listed(page, &uri, "after"))
}

/// Create a mailbox.
#[utoipa::path(post, path = "/v1/tenants/{tenant}/mailboxes", operation_id = "createMailbox", tag = "mailboxes",
    request_body = NewMailboxBody, responses((status = 201, description = "the mailbox", body = MailboxResource)))]
pub(super) async fn create(
    State(api): State<Shared>,
    Caller { actor, .. }: Caller,
    TheTenant(tenant): TheTenant,
    Body(body): Body<NewMailboxBody>,
) -> Result<Response, Problem> {
    let new = new_mailbox(&api, &tenant, body).await?;
    let created = api.directory.create_mailboxes(tenant.id, &[new], &actor, api.now()).await?;
    let mailbox = created.into_iter().next().ok_or_else(Problem::internal)??;
    Ok(tagged(StatusCode::CREATED, mailbox.revision, MailboxResource::from(&mailbox)))
}

/// The mailbox that a body asks for, its password hashed.
pub(super) async fn new_mailbox(
    api: &Api,
    tenant: &Tenant,
    body: NewMailboxBody,
) -> Result<NewMailbox, Problem> {
    let address = Address::try_from(body.address.as_str());
    let address = address.map_err(|error| Problem::invalid("address", error))?;
    let settings = body.settings()?;
    let (id, policy) = (MailboxId::generate(), settings.policy.or(&tenant.settings.policy));
    let credential = credential_of(api, tenant, id, &policy, body.password, body.password_hash).await?;
    let suspended = body.suspended.unwrap_or(false);
    Ok(NewMailbox { id, address, credential, suspended, settings })
}

/// Show a mailbox.
#[utoipa::path(get, path = "/v1/tenants/{tenant}/mailboxes/{address}", operation_id = "readMailbox",
    tag = "mailboxes", responses((status = 200, description = "the mailbox", body = MailboxResource)))]
pub(super) async fn read(
    State(api): State<Shared>,
    TheTenant(tenant): TheTenant,
    Segments(path): Segments<OfAddress>,
) -> Result<Response, Problem> {
    let OfAddress { address } = path;
    let mailbox = api.mailbox(&tenant, &address).await?;
    Ok(tagged(StatusCode::OK, mailbox.revision, MailboxResource::from(&mailbox)))
}

/// Change a mailbox's quotas and policy.
#[utoipa::path(patch, path = "/v1/tenants/{tenant}/mailboxes/{address}", operation_id = "updateMailbox",
    tag = "mailboxes",
    request_body(content((MailboxPatch = "application/merge-patch+json"), (MailboxPatch = "application/json"))),
    responses((status = 200, description = "the mailbox as it is now", body = MailboxResource)))]
pub(super) async fn update(
    State(api): State<Shared>,
    caller: Caller,
    TheTenant(tenant): TheTenant,
    Segments(path): Segments<OfAddress>,
    if_match: IfMatch,
    patch: Patch<MailboxPatch>,
) -> Result<Response, Problem> {
    let OfAddress { address } = path;
    change(&api, &caller, &tenant, &address, &if_match, |mailbox| {
        let settings = patch.apply(&MailboxPatch::from(&mailbox.settings))?.settings()?;
        // Made from what was read: it must still be that.
        Ok(MailboxUpdate { if_revision: Some(mailbox.revision), settings: Some(settings), state: None })
    })
    .await
}

/// Suspend a mailbox: nobody logs in, mail is refused as the policy says, its session ends.
#[utoipa::path(post, path = "/v1/tenants/{tenant}/mailboxes/{address}/suspend", operation_id = "suspendMailbox",
    tag = "mailboxes", responses((status = 200, description = "the mailbox as it is now", body = MailboxResource)))]
pub(super) async fn suspend(
    State(api): State<Shared>,
    caller: Caller,
    TheTenant(tenant): TheTenant,
    Segments(path): Segments<OfAddress>,
    if_match: IfMatch,
) -> Result<Response, Problem> {
    let OfAddress { address } = path;
    set_state(&api, &caller, &tenant, &address, &if_match, MailboxState::Suspended).await
}

/// Resume a suspended mailbox.
#[utoipa::path(post, path = "/v1/tenants/{tenant}/mailboxes/{address}/resume", operation_id = "resumeMailbox",
    tag = "mailboxes", responses((status = 200, description = "the mailbox as it is now", body = MailboxResource)))]
pub(super) async fn resume(
    State(api): State<Shared>,
    caller: Caller,
    TheTenant(tenant): TheTenant,
    Segments(path): Segments<OfAddress>,
    if_match: IfMatch,
) -> Result<Response, Problem> {
    let OfAddress { address } = path;
    set_state(&api, &caller, &tenant, &address, &if_match, MailboxState::Active).await
}

async fn set_state(
    api: &Api,
    caller: &Caller,
    tenant: &Tenant,
    address: &str,
    if_match: &IfMatch,
    state: MailboxState,
) -> Result<Response, Problem> {
    change(api, caller, tenant, address, if_match, |mailbox| {
        let if_revision = if_match.insist(mailbox.revision)?;
        Ok(MailboxUpdate { if_revision, settings: None, state: Some(state) })
    })
    .await
}

/// Makes a change from the mailbox as it is; anew where that has changed meanwhile and the client does not mind.
async fn change(
    api: &Api,
    caller: &Caller,
    tenant: &Tenant,
    address: &str,
    if_match: &IfMatch,
    update: impl Fn(&Mailbox) -> Result<MailboxUpdate, Problem>,
) -> Result<Response, Problem> {
    for attempt in 0..CHANGE_ATTEMPTS {
        let mailbox = api.mailbox(tenant, address).await?;
        if_match.insist(mailbox.revision)?;
        let (update, at) = (update(&mailbox)?, api.now());
        let changed =
            api.directory.update_mailbox(tenant.id, &mailbox.address, &update, &caller.actor, at).await;
        match changed {
            Ok(changed) => {
                let mailbox = changed.ok_or_else(|| Problem::not_found("mailbox"))?;
                return Ok(tagged(StatusCode::OK, mailbox.revision, MailboxResource::from(&mailbox)));
            }
            Err(IndexError::Conflict(Conflict::Revision)) => give_way(attempt).await,
            Err(error) => return Err(error.into()),
        }
    }
    Err(Problem::stale())
}

/// Delete a mailbox with its messages, aliases and passwords.
#[utoipa::path(delete, path = "/v1/tenants/{tenant}/mailboxes/{address}", operation_id = "deleteMailbox",
    tag = "mailboxes", responses((status = 204, description = "it is deleted")))]
pub(super) async fn delete(
    State(api): State<Shared>,
    Caller { actor, .. }: Caller,
    TheTenant(tenant): TheTenant,
    Segments(path): Segments<OfAddress>,
    if_match: IfMatch,
) -> Result<StatusCode, Problem> {
    let OfAddress { address } = path;
    let mailbox = api.mailbox(&tenant, &address).await?;
    if_match.insist(mailbox.revision)?;
    let (directory, at) = (Arc::clone(&api.directory), api.now());
    let deletion = async move { directory.delete_mailbox(tenant.id, &mailbox.address, &actor, at).await };
    if to_the_end(deletion).await? { Ok(StatusCode::NO_CONTENT) } else { Err(Problem::not_found("mailbox")) }
}

/// Set a mailbox's password, or take over its hash. The old one is good no longer, on no node.
#[utoipa::path(put, path = "/v1/tenants/{tenant}/mailboxes/{address}/password", operation_id = "setPassword",
    tag = "mailboxes", request_body = NewPassword, responses((status = 204, description = "it is set")))]
pub(super) async fn set_password(
    State(api): State<Shared>,
    Caller { actor, .. }: Caller,
    TheTenant(tenant): TheTenant,
    Segments(path): Segments<OfAddress>,
    Body(body): Body<NewPassword>,
) -> Result<StatusCode, Problem> {
    let OfAddress { address } = path;
    // Nothing is hashed for a mailbox that is not there.
    let mailbox = api.mailbox(&tenant, &address).await?;
    let policy = mailbox.settings.policy.or(&tenant.settings.policy);
    let credential =
        credential_of(&api, &tenant, mailbox.id, &policy, body.password, body.password_hash).await?;
    let credential =
        credential.ok_or_else(|| Problem::invalid("password", "a password, or a hash, must be given"))?;
    if api.directory.set_password(tenant.id, &mailbox.address, &credential, &actor, api.now()).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(Problem::not_found("mailbox"))
    }
}

impl Api {
    /// The mailbox of a path. An address that cannot be is a mailbox that is not.
    pub(super) async fn mailbox(&self, tenant: &Tenant, address: &str) -> Result<Mailbox, Problem> {
        let found = self.directory.mailbox(tenant.id, &address_of_path(address)?).await?;
        found.ok_or_else(|| Problem::not_found("mailbox"))
    }
}
