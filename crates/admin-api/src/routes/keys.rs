//! API keys: of a tenant, and of the platform.

use axum::{
    Json,
    extract::State,
    http::{StatusCode, Uri},
    response::{IntoResponse as _, Response},
};
use maildrop::{ApiKey, ApiKeyId, Role, TenantId};
use secrecy::ExposeSecret as _;

use super::{
    extract::{Body, OfId, Params, Segments},
    fields::{bad_cursor, expiry, label, uuid_of_path},
    respond::listed,
};
use crate::{
    Problem,
    api::{Api, Shared},
    auth::{Caller, NewKey},
    guard::TheTenant,
    idempotency::ShowsSecret,
    resources::{ApiKeyResource, ListQuery, NewApiKey, NewPlatformKey, Page, ShownApiKey},
};

/// API keys of a tenant at most: one for each program that manages it, and some more.
const TENANT_KEYS_MAX: u32 = 100;
/// API keys of the platform at most.
const PLATFORM_KEYS_MAX: u32 = 1000;

/// List a tenant's API keys. The keys themselves are not kept.
#[utoipa::path(get, path = "/v1/tenants/{tenant}/api-keys", operation_id = "listTenantApiKeys", tag = "API keys",
    params(ListQuery), responses((status = 200, description = "a page of keys", body = Page<ApiKeyResource>)))]
pub(super) async fn tenant_list(
    State(api): State<Shared>,
    TheTenant(tenant): TheTenant,
    Params(query): Params<ListQuery>,
    uri: Uri,
) -> Result<Response, Problem> {
    list(&api, Some(tenant.id), &query, &uri).await
}

/// List the platform's API keys. The keys themselves are not kept.
#[utoipa::path(get, path = "/v1/api-keys", operation_id = "listApiKeys", tag = "API keys", params(ListQuery),
    responses((status = 200, description = "a page of keys", body = Page<ApiKeyResource>)))]
pub(super) async fn platform_list(
    State(api): State<Shared>,
    Params(query): Params<ListQuery>,
    uri: Uri,
) -> Result<Response, Problem> {
    list(&api, None, &query, &uri).await
}

async fn list(
    api: &Api,
    tenant: Option<TenantId>,
    query: &ListQuery,
    uri: &Uri,
) -> Result<Response, Problem> {
    let limit = query.limit()?;
    let after = query.after.as_deref().map(uuid::Uuid::try_parse).transpose().map_err(bad_cursor)?;
    let rows = api.directory.list_api_keys(tenant, after.map(ApiKeyId::from_uuid), limit + 1).await?;
    let page = Page::<ApiKeyResource>::new(rows, limit, |key: &ApiKey| key.id.to_string());
    Ok(listed(page, uri, "after"))
}

/// Create an API key of the tenant, of 100 at most. The answer shows it, this once.
#[utoipa::path(post, path = "/v1/tenants/{tenant}/api-keys", operation_id = "createTenantApiKey", tag = "API keys",
    request_body = NewApiKey, responses((status = 201, description = "the key", body = ShownApiKey)))]
pub(super) async fn tenant_create(
    State(api): State<Shared>,
    caller: Caller,
    TheTenant(tenant): TheTenant,
    Body(body): Body<NewApiKey>,
) -> Result<Response, Problem> {
    create(&api, caller, Some(tenant.id), body.role.into(), body.label, body.expires_at.as_deref()).await
}

/// Create an API key of the platform, of 1000 at most. The answer shows it, this once.
#[utoipa::path(post, path = "/v1/api-keys", operation_id = "createApiKey", tag = "API keys",
    request_body = NewPlatformKey, responses((status = 201, description = "the key", body = ShownApiKey)))]
pub(super) async fn platform_create(
    State(api): State<Shared>,
    caller: Caller,
    Body(body): Body<NewPlatformKey>,
) -> Result<Response, Problem> {
    create(&api, caller, None, body.role.into(), body.label, body.expires_at.as_deref()).await
}

async fn create(
    api: &Api,
    Caller { actor, .. }: Caller,
    tenant: Option<TenantId>,
    role: Role,
    text: String,
    expires_at: Option<&str>,
) -> Result<Response, Problem> {
    let now = api.now();
    let (label, expires_at) = (label(text)?, expiry(expires_at, now)?);
    // Requests that come at the same moment may each find room for one more: the bound is against what grows without
    // one, and need not be exact.
    let keys_max = if tenant.is_some() { TENANT_KEYS_MAX } else { PLATFORM_KEYS_MAX };
    if api.directory.list_api_keys(tenant, None, keys_max).await?.len() >= keys_max as usize {
        return Err(Problem::limit_reached(format!("there are {keys_max} API keys; delete one first")));
    }
    let new = NewKey::generate()?;
    let key = ApiKey {
        id: new.id,
        tenant,
        role,
        label,
        created_by: actor.name.clone(),
        expires_at,
        last_used_at: None,
        created_at: now,
    };
    api.directory.create_api_key(&key, &new.secret_hash, &actor).await?;
    let shown = ShownApiKey {
        id: key.id.as_uuid(),
        key: new.text.expose_secret().to_owned(),
        role,
        label: key.label,
        expires_at,
        created_at: now,
    };
    let mut response = (StatusCode::CREATED, Json(shown)).into_response();
    response.extensions_mut().insert(ShowsSecret(key.id.to_string()));
    Ok(response)
}

/// Delete an API key of the tenant. It is good no longer, on no node.
#[utoipa::path(delete, path = "/v1/tenants/{tenant}/api-keys/{id}", operation_id = "deleteTenantApiKey",
    tag = "API keys", responses((status = 204, description = "it is deleted")))]
pub(super) async fn tenant_delete(
    State(api): State<Shared>,
    caller: Caller,
    TheTenant(tenant): TheTenant,
    Segments(path): Segments<OfId>,
) -> Result<StatusCode, Problem> {
    let OfId { id } = path;
    delete(&api, &caller, Some(tenant.id), &id).await
}

/// Delete an API key of the platform. It is good no longer, on no node.
#[utoipa::path(delete, path = "/v1/api-keys/{id}", operation_id = "deleteApiKey", tag = "API keys",
    responses((status = 204, description = "it is deleted")))]
pub(super) async fn platform_delete(
    State(api): State<Shared>,
    caller: Caller,
    Segments(id): Segments<String>,
) -> Result<StatusCode, Problem> {
    delete(&api, &caller, None, &id).await
}

async fn delete(
    api: &Api,
    caller: &Caller,
    tenant: Option<TenantId>,
    id: &str,
) -> Result<StatusCode, Problem> {
    let id = ApiKeyId::from_uuid(uuid_of_path(id, "API key")?);
    if api.directory.delete_api_key(tenant, id, &caller.actor, api.now()).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(Problem::not_found("API key"))
    }
}
