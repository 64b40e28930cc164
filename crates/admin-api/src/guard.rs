//! The one door to `/v1`: who is it, which tenant is it about, and may they?

use axum::{
    RequestExt as _,
    extract::{FromRequestParts, MatchedPath, RawPathParams, Request, State},
    http::{HeaderValue, header, request::Parts},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use maildrop::{Role, State as TenantState, Tenant, TenantName};

use crate::{
    Problem,
    api::{Api, Shared},
    auth::{Caller, Peer},
    authorization::{self, DELETION},
    request::RequestId,
};

/// The tenant of the path, which the caller may know of.
#[derive(Clone, Debug)]
pub(crate) struct TheTenant(pub(crate) Tenant);

impl<S: Send + Sync> FromRequestParts<S> for TheTenant {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        parts.extensions.get::<Self>().cloned().ok_or_else(|| Problem::not_found("tenant"))
    }
}

/// Lets pass who may.
pub(crate) async fn guard(State(api): State<Shared>, mut request: Request, next: Next) -> Response {
    let path = request.uri().path();
    if path != "/v1" && !path.starts_with("/v1/") {
        return guard_metrics(State(api), request, next).await;
    }
    match admit(&api, &mut request).await {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    }
}

/// Lets pass who may, on a node that does not serve `/v1`.
pub(crate) async fn guard_metrics(State(api): State<Shared>, mut request: Request, next: Next) -> Response {
    if request.uri().path() == "/metrics"
        && !api.metrics_public
        && let Err(problem) = admit_to_metrics(&api, &mut request).await
    {
        return problem.into_response();
    }
    next.run(request).await
}

/// Why a request does not pass.
enum Refusal {
    Problem(Problem),
    /// The route does not know the method; it knows these.
    Method(String),
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl Refusal {
    fn into_response(self) -> Response {
        match self {
            Self::Problem(problem) => problem.into_response(),
            Self::Method(methods) => {
                let mut response = Problem::method_not_allowed().into_response();
                if let Ok(methods) = HeaderValue::from_str(&methods) {
                    response.headers_mut().insert(header::ALLOW, methods);
                }
                response
            }
        }
    }
}

async fn authenticate(api: &Api, request: &mut Request) -> Result<Caller, Problem> {
    let Ok(peer) = request.extract_parts::<Peer>().await;
    let Ok(RequestId(id)) = request.extract_parts::<RequestId>().await;
    api.authenticate(request.headers(), peer, &id).await
}

async fn admit_to_metrics(api: &Api, request: &mut Request) -> Result<(), Problem> {
    match authenticate(api, request).await?.role {
        Role::Metrics | Role::PlatformAdmin => Ok(()),
        Role::TenantAdmin | Role::TenantReader | Role::Provisioning => Err(Problem::forbidden()),
    }
}

async fn admit(api: &Api, request: &mut Request) -> Result<(), Refusal> {
    let caller = authenticate(api, request).await?;
    let route = request.extensions().get::<MatchedPath>().map(|route| route.as_str().to_owned());
    let Some(route) = route else { return Err(Problem::no_such_route().into()) };
    let method = request.method().clone();
    let roles = authorization::allowed(&method, &route);
    // Whoever may do this in no tenant at all is told so before any tenant is looked up.
    if caller.tenant.is_none() && roles.is_some_and(|roles| !roles.contains(&caller.role)) {
        return Err(Problem::forbidden().into());
    }
    if route.starts_with("/v1/tenants/{tenant}") {
        let tenant = tenant_of_path(api, request).await?;
        let tenant = tenant.filter(|tenant| caller.tenant.is_none_or(|own| own == tenant.id));
        let named = |tenant: &Tenant| {
            tenant.state != TenantState::Deleting || (method == DELETION.0 && route == DELETION.1)
        };
        // Another tenant's, and one that is none, are the same: the name was looked up in either case.
        let tenant = tenant.filter(named).ok_or_else(|| Problem::not_found("tenant"))?;
        request.extensions_mut().insert(TheTenant(tenant));
    }
    let Some(roles) = roles else { return Err(Refusal::Method(authorization::methods(&route))) };
    if !roles.contains(&caller.role) {
        return Err(Problem::forbidden().into());
    }
    request.extensions_mut().insert(caller);
    Ok(())
}

/// The tenant that the path names. A name that cannot be is a tenant that is not.
async fn tenant_of_path(api: &Api, request: &mut Request) -> Result<Option<Tenant>, Problem> {
    let params = request.extract_parts::<RawPathParams>().await;
    let params = params.map_err(|error| Problem::malformed(error.body_text(), None))?;
    let name =
        params.iter().find(|(key, _)| *key == "tenant").and_then(|(_, name)| TenantName::try_from(name).ok());
    match name {
        Some(name) => Ok(api.directory.tenant_by_name(&name).await?),
        None => Ok(None),
    }
}
