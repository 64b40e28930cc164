//! How a tenant's logins are verified.

use axum::{extract::State, http::StatusCode, response::Response};
use maildrop::{DomainName, LoginSettings, Role, Tenant};

use super::{
    extract::{Body, IfMatch},
    respond::tagged,
};
use crate::{
    Problem,
    api::{Api, Shared},
    auth::Caller,
    guard::TheTenant,
};

/// Show how a tenant's logins are verified.
///
/// Secrets are not shown: where one is kept there is an empty object, or the name of its file.
#[utoipa::path(get, path = "/v1/tenants/{tenant}/login", operation_id = "readLogin", tag = "login",
    responses((status = 200, description = "the settings", body = LoginSettings)))]
pub(super) async fn read(
    State(api): State<Shared>,
    TheTenant(tenant): TheTenant,
) -> Result<Response, Problem> {
    let login = api.directory.tenant_login(tenant.id).await?.ok_or_else(gone)?;
    Ok(tagged(StatusCode::OK, login.version, login.settings))
}

/// Set how a tenant's logins are verified, all of it: what is absent is as built in, and secrets are given anew.
///
/// Who is logged in stays so; what nodes remember of passwords counts no longer.
#[utoipa::path(put, path = "/v1/tenants/{tenant}/login", operation_id = "putLogin", tag = "login",
    request_body = LoginSettings,
    responses((status = 200, description = "the settings as they are now", body = LoginSettings)))]
pub(super) async fn put(
    State(api): State<Shared>,
    caller: Caller,
    TheTenant(tenant): TheTenant,
    if_match: IfMatch,
    Body(settings): Body<LoginSettings>,
) -> Result<Response, Problem> {
    if let Some(problem) = api.backends.problem(&settings) {
        return Err(Problem::invalid(problem.path, problem.detail));
    }
    // Where a secret goes is said in the same settings: the operator's are for the operator to send somewhere.
    let file = settings.secrets().into_iter().find(|(_, secret)| secret.file.is_some());
    if let Some((path, _)) = file
        && caller.role != Role::PlatformAdmin
    {
        return Err(Problem::invalid(path, "files are for the platform's keys to name"));
    }
    let settings = with_own_domain(&api, &tenant, settings).await?;
    let (version, settings) = set(&api, &caller, &tenant, &if_match, settings).await?;
    Ok(tagged(StatusCode::OK, version, settings))
}

/// Have a tenant's logins verified as built in: by passwords kept here, and no tokens.
#[utoipa::path(delete, path = "/v1/tenants/{tenant}/login", operation_id = "deleteLogin", tag = "login",
    responses((status = 204, description = "so they are")))]
pub(super) async fn delete(
    State(api): State<Shared>,
    caller: Caller,
    TheTenant(tenant): TheTenant,
    if_match: IfMatch,
) -> Result<StatusCode, Problem> {
    set(&api, &caller, &tenant, &if_match, LoginSettings::default()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Settings whose default domain, if there is one, is the tenant's, as domains are written.
async fn with_own_domain(
    api: &Api,
    tenant: &Tenant,
    settings: LoginSettings,
) -> Result<LoginSettings, Problem> {
    let Some(domain) = &settings.default_domain else { return Ok(settings) };
    let wrong = || Problem::invalid("default_domain", "is none of the tenant's domains");
    let name = DomainName::try_from(domain.as_str()).map_err(|_| wrong())?;
    let found = api.directory.domain(tenant.id, &name).await?.ok_or_else(wrong)?;
    Ok(LoginSettings { default_domain: Some(found.name.to_string()), ..settings })
}

async fn set(
    api: &Api,
    caller: &Caller,
    tenant: &Tenant,
    if_match: &IfMatch,
    settings: LoginSettings,
) -> Result<(i64, LoginSettings), Problem> {
    let before = api.directory.tenant_login(tenant.id).await?.ok_or_else(gone)?;
    let if_version = if_match.insist(before.version)?;
    let sealed = api.backends.secrets().seal(tenant, &settings).await?;
    let set = api
        .directory
        .set_tenant_login(tenant.id, &settings, sealed.as_deref(), if_version, &caller.actor, api.now())
        .await;
    match set {
        Ok(version) => Ok((version.ok_or_else(gone)?, settings)),
        // It was changed between the two.
        Err(maildrop::port::IndexError::Conflict(maildrop::port::Conflict::Revision)) => {
            Err(Problem::stale())
        }
        Err(error) => Err(error.into()),
    }
}

fn gone() -> Problem {
    Problem::not_found("tenant")
}
