//! Tenants.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use maildrop::{Tenant, TenantId, TenantName};

use super::{
    extract::{Body, Params, Segments, bad_cursor},
    to_the_end,
};
use crate::{
    AdminApi, Problem,
    auth::Caller,
    resources::{ListQuery, NewName, Page, TenantResource},
};

pub(super) async fn list(
    State(api): State<Arc<AdminApi>>,
    Params(query): Params<ListQuery>,
) -> Result<Json<Page<TenantResource>>, Problem> {
    let after = query.after.as_deref().map(TenantName::try_from).transpose().map_err(bad_cursor)?;
    let rows = api.directory.all_tenants_list(after.as_ref(), query.limit() + 1).await?;
    Ok(Json(Page::new(rows, query.limit(), |tenant: &Tenant| tenant.name.to_string())))
}

pub(super) async fn create(
    State(api): State<Arc<AdminApi>>,
    Caller(actor): Caller,
    Body(body): Body<NewName>,
) -> Result<(StatusCode, Json<TenantResource>), Problem> {
    let name = TenantName::try_from(body.name.as_str()).map_err(|error| Problem::invalid("name", error))?;
    let id = TenantId::generate();
    let key = api.blob.new_tenant_key(id)?;
    let tenant = Tenant { id, name, key, created_at: api.clock.now() };
    api.directory.create_tenant(&tenant, &actor).await?;
    Ok((StatusCode::CREATED, Json(TenantResource::from(&tenant))))
}

pub(super) async fn read(
    State(api): State<Arc<AdminApi>>,
    Segments(tenant): Segments<String>,
) -> Result<Json<TenantResource>, Problem> {
    Ok(Json(TenantResource::from(&api.tenant(&tenant).await?)))
}

pub(super) async fn delete(
    State(api): State<Arc<AdminApi>>,
    Caller(actor): Caller,
    Segments(tenant): Segments<String>,
) -> Result<StatusCode, Problem> {
    let tenant = api.tenant(&tenant).await?;
    let at = api.clock.now();
    let deletion = async move { api.directory.delete_tenant(tenant.id, &actor, at).await };
    if to_the_end(deletion).await? { Ok(StatusCode::NO_CONTENT) } else { Err(Problem::not_found("tenant")) }
}
