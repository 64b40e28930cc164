//! Tenants.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::{StatusCode, Uri},
    response::{IntoResponse as _, Response},
};
use maildrop::{
    Role, State as TenantState, Tenant, TenantId, TenantName,
    port::{Conflict, IndexError, TenantDeletion, TenantUpdate},
};
use uuid::Uuid;

use super::{
    CHANGE_ATTEMPTS,
    extract::{Body, IfMatch, Params, Patch},
    fields::bad_cursor,
    give_way,
    respond::{listed, tagged},
    to_the_end,
};
use crate::{
    Problem,
    api::{Api, Shared},
    auth::Caller,
    guard::TheTenant,
    resources::{DeletionResource, ListQuery, NewTenant, Page, TenantPatch, TenantResource},
};

/// Deletions among which one just asked for is looked for.
const DELETIONS_LOOKED_AT: u32 = 100;

/// List tenants by name.
#[utoipa::path(get, path = "/v1/tenants", operation_id = "listTenants", tag = "tenants", params(ListQuery),
    responses((status = 200, description = "a page of tenants", body = Page<TenantResource>)))]
pub(super) async fn list(
    State(api): State<Shared>,
    Params(query): Params<ListQuery>,
    uri: Uri,
) -> Result<Response, Problem> {
    let limit = query.limit()?;
    let after = query.after.as_deref().map(TenantName::try_from).transpose().map_err(bad_cursor)?;
    let rows = api.directory.all_tenants_list(after.as_ref(), limit + 1).await?;
    let page = Page::<TenantResource>::new(rows, limit, |tenant: &Tenant| tenant.name.to_string());
    Ok(listed(page, &uri, "after"))
}

/// Create a tenant.
#[utoipa::path(post, path = "/v1/tenants", operation_id = "createTenant", tag = "tenants", request_body = NewTenant,
    responses((status = 201, description = "the tenant", body = TenantResource)))]
pub(super) async fn create(
    State(api): State<Shared>,
    Caller { actor, .. }: Caller,
    Body(body): Body<NewTenant>,
) -> Result<Response, Problem> {
    let name = TenantName::try_from(body.name.as_str()).map_err(|error| Problem::invalid("name", error))?;
    let settings = body.settings()?;
    let id = TenantId::generate();
    let key = api.blob.new_tenant_key(id).await?;
    let created_at = api.now();
    let tenant = Tenant { id, name, state: TenantState::Active, revision: 1, settings, key, created_at };
    api.directory.create_tenant(&tenant, &actor).await?;
    Ok(tagged(StatusCode::CREATED, tenant.revision, TenantResource::from(&tenant)))
}

/// Show a tenant.
#[utoipa::path(get, path = "/v1/tenants/{tenant}", operation_id = "readTenant", tag = "tenants",
    responses((status = 200, description = "the tenant", body = TenantResource)))]
pub(super) async fn read(TheTenant(tenant): TheTenant) -> Response {
    tagged(StatusCode::OK, tenant.revision, TenantResource::from(&tenant))
}

/// Change a tenant's quotas, limits and policy.
///
/// A tenant's administrator may change `policy` alone.
#[utoipa::path(patch, path = "/v1/tenants/{tenant}", operation_id = "updateTenant", tag = "tenants",
    request_body(content((TenantPatch = "application/merge-patch+json"), (TenantPatch = "application/json"))),
    responses((status = 200, description = "the tenant as it is now", body = TenantResource)))]
pub(super) async fn update(
    State(api): State<Shared>,
    caller: Caller,
    TheTenant(tenant): TheTenant,
    if_match: IfMatch,
    patch: Patch<TenantPatch>,
) -> Result<Response, Problem> {
    if caller.role != Role::PlatformAdmin
        && let Some(field) = patch.fields().find(|field| *field != "policy")
    {
        return Err(Problem::forbidden_field(field));
    }
    change(&api, &caller, tenant, &if_match, |tenant| {
        let settings = patch.apply(&TenantPatch::from(&tenant.settings))?.settings()?;
        // Made from what was read: it must still be that.
        Ok(TenantUpdate { if_revision: Some(tenant.revision), settings: Some(settings), state: None })
    })
    .await
}

/// Suspend a tenant: nobody logs in, mail is refused as the policy says, sessions end.
#[utoipa::path(post, path = "/v1/tenants/{tenant}/suspend", operation_id = "suspendTenant", tag = "tenants",
    responses((status = 200, description = "the tenant as it is now", body = TenantResource)))]
pub(super) async fn suspend(
    State(api): State<Shared>,
    caller: Caller,
    TheTenant(tenant): TheTenant,
    if_match: IfMatch,
) -> Result<Response, Problem> {
    set_state(&api, &caller, tenant, &if_match, TenantState::Suspended).await
}

/// Resume a suspended tenant.
#[utoipa::path(post, path = "/v1/tenants/{tenant}/resume", operation_id = "resumeTenant", tag = "tenants",
    responses((status = 200, description = "the tenant as it is now", body = TenantResource)))]
pub(super) async fn resume(
    State(api): State<Shared>,
    caller: Caller,
    TheTenant(tenant): TheTenant,
    if_match: IfMatch,
) -> Result<Response, Problem> {
    set_state(&api, &caller, tenant, &if_match, TenantState::Active).await
}

async fn set_state(
    api: &Api,
    caller: &Caller,
    tenant: Tenant,
    if_match: &IfMatch,
    state: TenantState,
) -> Result<Response, Problem> {
    change(api, caller, tenant, if_match, |tenant| {
        let if_revision = if_match.insist(tenant.revision)?;
        Ok(TenantUpdate { if_revision, settings: None, state: Some(state) })
    })
    .await
}

/// Makes a change from the tenant as it is; anew where that has changed meanwhile and the client does not mind.
async fn change(
    api: &Api,
    caller: &Caller,
    mut tenant: Tenant,
    if_match: &IfMatch,
    update: impl Fn(&Tenant) -> Result<TenantUpdate, Problem>,
) -> Result<Response, Problem> {
    let gone = || Problem::not_found("tenant");
    for attempt in 0..CHANGE_ATTEMPTS {
        if_match.insist(tenant.revision)?;
        let update = update(&tenant)?;
        match api.directory.update_tenant(tenant.id, &update, &caller.actor, api.now()).await {
            Ok(changed) => {
                let tenant = changed.ok_or_else(gone)?;
                return Ok(tagged(StatusCode::OK, tenant.revision, TenantResource::from(&tenant)));
            }
            Err(IndexError::Conflict(Conflict::Revision)) => {
                give_way(attempt).await;
                tenant = api.directory.tenant(tenant.id).await?.ok_or_else(gone)?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(Problem::stale())
}

/// Delete a tenant with everything it has.
///
/// Its data key is destroyed and its sessions end at once; rows and objects go in the background, which
/// `/v1/deletions` shows. To ask again changes nothing.
#[utoipa::path(delete, path = "/v1/tenants/{tenant}", operation_id = "deleteTenant", tag = "tenants",
    responses((status = 202, description = "the deletion", body = DeletionResource)))]
pub(super) async fn delete(
    State(api): State<Shared>,
    Caller { actor, .. }: Caller,
    TheTenant(tenant): TheTenant,
    if_match: IfMatch,
) -> Result<Response, Problem> {
    if_match.insist(tenant.revision)?;
    let at = api.now();
    let directory = Arc::clone(&api.directory);
    let deletion = async move { directory.begin_tenant_deletion(tenant.id, &actor, at).await };
    if !to_the_end(deletion).await? {
        return Err(Problem::not_found("tenant"));
    }
    let deletions = api.directory.all_tenants_list_deletions(None, DELETIONS_LOOKED_AT).await?;
    let of_this = deletions.iter().find(|deletion| deletion.tenant == tenant.id);
    // Beyond so many others at once its beginning is all there is to say.
    let just_begun = TenantDeletion {
        tenant: tenant.id,
        name: tenant.name,
        rows_deleted: 0,
        rows_left: true,
        objects_deleted: 0,
        begun_at: at,
        finished_at: None,
    };
    Ok((StatusCode::ACCEPTED, Json(DeletionResource::from(of_this.unwrap_or(&just_begun)))).into_response())
}

/// List deletions of tenants under way, and those finished in the last 30 days, newest first.
#[utoipa::path(get, path = "/v1/deletions", operation_id = "listDeletions", tag = "tenants",
    params(ListQuery), responses((status = 200, description = "a page of deletions", body = Page<DeletionResource>)))]
pub(super) async fn deletions(
    State(api): State<Shared>,
    Params(query): Params<ListQuery>,
    uri: Uri,
) -> Result<Response, Problem> {
    let limit = query.limit()?;
    let after = query.after.as_deref().map(Uuid::parse_str).transpose().map_err(bad_cursor)?;
    let rows = api.directory.all_tenants_list_deletions(after.map(TenantId::from_uuid), limit + 1).await?;
    let page =
        Page::<DeletionResource>::new(rows, limit, |deletion: &TenantDeletion| deletion.tenant.to_string());
    Ok(listed(page, &uri, "after"))
}
