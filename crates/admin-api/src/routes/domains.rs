//! Domains of a tenant.

use axum::{
    Json,
    extract::State,
    http::{StatusCode, Uri},
    response::Response,
};
use maildrop::{Domain, DomainName, Role};

use super::{
    extract::{Body, OfDomain, Params, Segments},
    fields::{bad_cursor, domain_of_path},
    respond::listed,
};
use crate::{
    Problem,
    api::Shared,
    auth::Caller,
    guard::TheTenant,
    resources::{DomainResource, ListQuery, NewDomain, Page},
};

/// List a tenant's domains by name.
#[utoipa::path(get, path = "/v1/tenants/{tenant}/domains", operation_id = "listDomains", tag = "domains",
    params(ListQuery), responses((status = 200, description = "a page of domains", body = Page<DomainResource>)))]
pub(super) async fn list(
    State(api): State<Shared>,
    TheTenant(tenant): TheTenant,
    Params(query): Params<ListQuery>,
    uri: Uri,
) -> Result<Response, Problem> {
    let limit = query.limit()?;
    let after = query.after.as_deref().map(DomainName::try_from).transpose().map_err(bad_cursor)?;
    let rows = api.directory.list_domains(tenant.id, after.as_ref(), limit + 1).await?;
    let page = Page::<DomainResource>::new(rows, limit, |domain: &Domain| domain.name.to_string());
    Ok(listed(page, &uri, "after"))
}

/// Create a domain.
#[utoipa::path(post, path = "/v1/tenants/{tenant}/domains", operation_id = "createDomain", tag = "domains",
    request_body = NewDomain, responses((status = 201, description = "the domain", body = DomainResource)))]
pub(super) async fn create(
    State(api): State<Shared>,
    Caller { actor, role, .. }: Caller,
    TheTenant(tenant): TheTenant,
    Body(body): Body<NewDomain>,
) -> Result<(StatusCode, Json<DomainResource>), Problem> {
    let parse =
        |field, text: &str| DomainName::try_from(text).map_err(|error| Problem::invalid(field, error));
    let name = parse("name", &body.name)?;
    let alias_of = body.alias_of.as_deref().map(|text| parse("alias_of", text)).transpose()?;
    // What lies under or over another tenant's is for the platform to give: whose domain is the nearest to a
    // host decides whose certificate is shown for it. Nor is a whole top-level domain a tenant's to take.
    let nested = role == Role::PlatformAdmin;
    if !nested && !name.as_str().contains('.') {
        return Err(Problem::invalid("name", "a domain has two labels at least"));
    }
    let domain = Domain { name, alias_of, created_at: api.now() };
    api.directory.create_domain(tenant.id, &domain, nested, &actor).await?;
    Ok((StatusCode::CREATED, Json(DomainResource::from(&domain))))
}

/// Show a domain.
#[utoipa::path(get, path = "/v1/tenants/{tenant}/domains/{domain}", operation_id = "readDomain", tag = "domains",
    responses((status = 200, description = "the domain", body = DomainResource)))]
pub(super) async fn read(
    State(api): State<Shared>,
    TheTenant(tenant): TheTenant,
    Segments(path): Segments<OfDomain>,
) -> Result<Json<DomainResource>, Problem> {
    let OfDomain { domain: name } = path;
    let domain = api.directory.domain(tenant.id, &domain_of_path(&name)?).await?;
    Ok(Json(DomainResource::from(&domain.ok_or_else(|| Problem::not_found("domain"))?)))
}

/// Delete a domain that has no mailboxes, aliases and alias domains.
#[utoipa::path(delete, path = "/v1/tenants/{tenant}/domains/{domain}", operation_id = "deleteDomain",
    tag = "domains", responses((status = 204, description = "it is deleted")))]
pub(super) async fn delete(
    State(api): State<Shared>,
    Caller { actor, .. }: Caller,
    TheTenant(tenant): TheTenant,
    Segments(path): Segments<OfDomain>,
) -> Result<StatusCode, Problem> {
    let OfDomain { domain: name } = path;
    let name = domain_of_path(&name)?;
    if api.directory.delete_domain(tenant.id, &name, &actor, api.now()).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(Problem::not_found("domain"))
    }
}
