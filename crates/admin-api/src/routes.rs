//! The routes.

mod aliases;
mod buckets;
mod bulk;
mod bulletins;
mod certificates;
mod domains;
mod extract;
pub(crate) mod fields;
mod health;
mod keys;
mod login;
mod mailboxes;
mod messages;
mod passwords;
mod records;
mod respond;
mod streamed;
mod strict;
mod tenants;

use std::{future::Future, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::DefaultBodyLimit,
    middleware::{from_fn, from_fn_with_state},
};
use maildrop::port::IndexError;
use utoipa_axum::{router::OpenApiRouter, routes};
use utoipa_swagger_ui::{Config, SwaggerUi};

pub(crate) use bulk::BulkResult;

use crate::{
    AdminApi, BODY_OCTETS_MAX, Problem,
    api::{Api, Shared},
    guard, idempotency, request,
};

/// Where messages are delivered. This and the next route take bodies of any length.
pub(crate) const MESSAGES: &str = "/v1/tenants/{tenant}/mailboxes/{address}/messages";
/// Where bulletins are posted.
pub(crate) const BULLETINS: &str = "/v1/tenants/{tenant}/bulletins";
/// The routes that take messages.
pub(crate) const STREAMED: &[&str] = &[MESSAGES, BULLETINS];
/// How often a change is made anew from a resource that somebody else is changing, too.
const CHANGE_ATTEMPTS: u32 = 20;

/// The API as it is served.
pub(crate) fn router(parts: AdminApi) -> Router {
    let manages = parts.manages;
    let api: Shared = Arc::new(Api::new(parts));
    let router: Router<Shared> = public().into();
    let router = if manages {
        let management: Router<Shared> = management().into();
        let browser = SwaggerUi::new("/docs").config(Config::from("/openapi.json"));
        router.merge(management).merge(browser)
    } else {
        router
    };
    // From here on outwards: what is layered last sees a request first.
    let router = router
        .fallback(no_such_route)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(DefaultBodyLimit::max(BODY_OCTETS_MAX))
        .layer(from_fn_with_state(Arc::clone(&api), idempotency::once));
    let router = if manages {
        router.layer(from_fn_with_state(Arc::clone(&api), guard::guard))
    } else {
        router.layer(from_fn_with_state(Arc::clone(&api), guard::guard_metrics))
    };
    router.layer(from_fn(request::time_out)).layer(from_fn(request::name)).with_state(api)
}

/// What machines ask that have no key.
pub(crate) fn public() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(health::livez))
        .routes(routes!(health::readyz))
        .routes(routes!(health::metrics))
        .routes(routes!(health::openapi))
}

/// What is under `/v1`. Each route needs its line in the authorization table, too.
pub(crate) fn management() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(tenants::list, tenants::create))
        .routes(routes!(tenants::read, tenants::update, tenants::delete))
        .routes(routes!(tenants::suspend))
        .routes(routes!(tenants::resume))
        .routes(routes!(tenants::deletions))
        .routes(routes!(domains::list, domains::create))
        .routes(routes!(domains::read, domains::delete))
        .routes(routes!(mailboxes::list, mailboxes::create))
        .routes(routes!(bulk::create))
        .routes(routes!(mailboxes::read, mailboxes::update, mailboxes::delete))
        .routes(routes!(mailboxes::suspend))
        .routes(routes!(mailboxes::resume))
        .routes(routes!(mailboxes::set_password))
        .routes(routes!(passwords::list, passwords::create))
        .routes(routes!(passwords::delete))
        .routes(routes!(messages::list, messages::deliver))
        .routes(routes!(messages::read, messages::delete))
        .routes(routes!(messages::raw))
        .routes(routes!(messages::restore))
        .routes(routes!(bulletins::list, bulletins::create))
        .routes(routes!(bulletins::read, bulletins::withdraw))
        .routes(routes!(aliases::list, aliases::create))
        .routes(routes!(aliases::read, aliases::delete))
        .routes(routes!(records::tenant_sessions))
        .routes(routes!(records::all_sessions))
        .routes(routes!(records::end_session))
        .routes(routes!(records::usage))
        .routes(routes!(records::tenant_audit))
        .routes(routes!(records::all_audit))
        .routes(routes!(records::export_tenant_audit))
        .routes(routes!(records::export_all_audit))
        .routes(routes!(keys::tenant_list, keys::tenant_create))
        .routes(routes!(keys::platform_list, keys::platform_create))
        .routes(routes!(keys::tenant_delete))
        .routes(routes!(keys::platform_delete))
        .routes(routes!(login::read, login::put, login::delete))
        .routes(routes!(buckets::read, buckets::put, buckets::delete))
        .routes(routes!(buckets::forget))
        .routes(routes!(certificates::list))
        .routes(routes!(certificates::read, certificates::put, certificates::delete))
}

/// Waits before a change is made anew, longer each time: who is behind catches up.
async fn give_way(attempt: u32) {
    tokio::time::sleep(Duration::from_millis(u64::from(attempt) * 2)).await;
}

async fn no_such_route() -> Problem {
    Problem::no_such_route()
}

async fn method_not_allowed() -> Problem {
    Problem::method_not_allowed()
}

/// Carries a change out even when its request is given up on: a large deletion that was rolled back each time
/// its client lost patience would never be done.
async fn to_the_end<T: Send + 'static>(
    change: impl Future<Output = Result<T, IndexError>> + Send + 'static,
) -> Result<T, Problem> {
    match tokio::spawn(change).await {
        Ok(result) => Ok(result?),
        Err(error) => {
            tracing::error!(%error, "a change broke off");
            Err(Problem::internal())
        }
    }
}
