//! Aliases and catch-all addresses of a tenant.

use axum::{
    Json,
    extract::State,
    http::{StatusCode, Uri},
    response::Response,
};
use maildrop::{Address, Alias, AliasAddress};

use super::{
    extract::{Body, OfAddress, Params, Segments},
    fields::bad_cursor,
    respond::listed,
};
use crate::{
    Problem,
    api::Shared,
    auth::Caller,
    guard::TheTenant,
    resources::{AliasResource, ListQuery, NewAlias, Page},
};

/// List a tenant's aliases by address.
#[utoipa::path(get, path = "/v1/tenants/{tenant}/aliases", operation_id = "listAliases", tag = "aliases",
    params(ListQuery), responses((status = 200, description = "a page of aliases", body = Page<AliasResource>)))]
pub(super) async fn list(
    State(api): State<Shared>,
    TheTenant(tenant): TheTenant,
    Params(query): Params<ListQuery>,
    uri: Uri,
) -> Result<Response, Problem> {
    let limit = query.limit()?;
    let after = query.after.as_deref().map(AliasAddress::try_from).transpose().map_err(bad_cursor)?;
    let rows = api.directory.list_aliases(tenant.id, after.as_ref(), limit + 1).await?;
    let page = Page::<AliasResource>::new(rows, limit, |alias: &Alias| alias.address.to_string());
    Ok(listed(page, &uri, "after"))
}

/// Create an alias, or the catch-all address of a domain.
#[utoipa::path(post, path = "/v1/tenants/{tenant}/aliases", operation_id = "createAlias", tag = "aliases",
    request_body = NewAlias, responses((status = 201, description = "the alias", body = AliasResource)))]
pub(super) async fn create(
    State(api): State<Shared>,
    Caller { actor, .. }: Caller,
    TheTenant(tenant): TheTenant,
    Body(body): Body<NewAlias>,
) -> Result<(StatusCode, Json<AliasResource>), Problem> {
    let address = AliasAddress::try_from(body.address.as_str());
    let address = address.map_err(|error| Problem::invalid("address", error))?;
    let mailbox = Address::try_from(body.mailbox.as_str());
    let mailbox = mailbox.map_err(|error| Problem::invalid("mailbox", error))?;
    let alias = Alias { address, mailbox, created_at: api.now() };
    api.directory.create_alias(tenant.id, &alias, &actor).await?;
    Ok((StatusCode::CREATED, Json(AliasResource::from(&alias))))
}

/// Show an alias.
#[utoipa::path(get, path = "/v1/tenants/{tenant}/aliases/{address}", operation_id = "readAlias", tag = "aliases",
    responses((status = 200, description = "the alias", body = AliasResource)))]
pub(super) async fn read(
    State(api): State<Shared>,
    TheTenant(tenant): TheTenant,
    Segments(path): Segments<OfAddress>,
) -> Result<Json<AliasResource>, Problem> {
    let OfAddress { address } = path;
    let alias = api.directory.alias(tenant.id, &of_path(&address)?).await?;
    Ok(Json(AliasResource::from(&alias.ok_or_else(none)?)))
}

/// Delete an alias.
#[utoipa::path(delete, path = "/v1/tenants/{tenant}/aliases/{address}", operation_id = "deleteAlias",
    tag = "aliases", responses((status = 204, description = "it is deleted")))]
pub(super) async fn delete(
    State(api): State<Shared>,
    Caller { actor, .. }: Caller,
    TheTenant(tenant): TheTenant,
    Segments(path): Segments<OfAddress>,
) -> Result<StatusCode, Problem> {
    let OfAddress { address } = path;
    let address = of_path(&address)?;
    if api.directory.delete_alias(tenant.id, &address, &actor, api.now()).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(none())
    }
}

fn of_path(text: &str) -> Result<AliasAddress, Problem> {
    AliasAddress::try_from(text).map_err(|_| none())
}

fn none() -> Problem {
    Problem::not_found("alias")
}
