//! Domains of a tenant.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use maildrop::{Domain, DomainName};

use super::extract::{Body, Params, Segments, bad_cursor, domain};
use crate::{
    AdminApi, Problem,
    auth::Caller,
    resources::{DomainResource, ListQuery, NewName, Page},
};

pub(super) async fn list(
    State(api): State<Arc<AdminApi>>,
    Segments(tenant): Segments<String>,
    Params(query): Params<ListQuery>,
) -> Result<Json<Page<DomainResource>>, Problem> {
    let tenant = api.tenant(&tenant).await?;
    let after = query.after.as_deref().map(DomainName::try_from).transpose().map_err(bad_cursor)?;
    let rows = api.directory.list_domains(tenant.id, after.as_ref(), query.limit() + 1).await?;
    Ok(Json(Page::new(rows, query.limit(), |domain: &Domain| domain.name.to_string())))
}

pub(super) async fn create(
    State(api): State<Arc<AdminApi>>,
    Caller(actor): Caller,
    Segments(tenant): Segments<String>,
    Body(body): Body<NewName>,
) -> Result<(StatusCode, Json<DomainResource>), Problem> {
    let tenant = api.tenant(&tenant).await?;
    let name = DomainName::try_from(body.name.as_str()).map_err(|error| Problem::invalid("name", error))?;
    let domain = Domain { name, created_at: api.clock.now() };
    api.directory.create_domain(tenant.id, &domain, &actor).await?;
    Ok((StatusCode::CREATED, Json(DomainResource::from(&domain))))
}

pub(super) async fn delete(
    State(api): State<Arc<AdminApi>>,
    Caller(actor): Caller,
    Segments((tenant, name)): Segments<(String, String)>,
) -> Result<StatusCode, Problem> {
    let tenant = api.tenant(&tenant).await?;
    if api.directory.delete_domain(tenant.id, &domain(&name)?, &actor, api.clock.now()).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(Problem::not_found("domain"))
    }
}
