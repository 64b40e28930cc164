//! The routes.

mod domains;
mod extract;
mod health;
mod mailboxes;
mod tenants;

use std::{future::Future, sync::Arc};

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request},
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
    routing::{get, put},
};

use maildrop::port::IndexError;

use crate::{AdminApi, BODY_OCTETS_MAX, Problem, REQUEST_TIMEOUT, auth};

/// All routes. What is under `/v1` needs a token; the fallback too, so that nobody can tell what exists.
pub(crate) fn router(api: Arc<AdminApi>) -> Router {
    let v1 = Router::new()
        .route("/tenants", get(tenants::list).post(tenants::create))
        .route("/tenants/{tenant}", get(tenants::read).delete(tenants::delete))
        .route("/tenants/{tenant}/domains", get(domains::list).post(domains::create))
        .route("/tenants/{tenant}/domains/{domain}", axum::routing::delete(domains::delete))
        .route("/tenants/{tenant}/mailboxes", get(mailboxes::list).post(mailboxes::create))
        .route("/tenants/{tenant}/mailboxes/{address}", get(mailboxes::read).delete(mailboxes::delete))
        .route("/tenants/{tenant}/mailboxes/{address}/password", put(mailboxes::set_password))
        .fallback(no_such_route)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(middleware::from_fn_with_state(Arc::clone(&api), auth::require_token));
    let router = if api.manages { Router::new().nest("/v1", v1) } else { Router::new() };
    router
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(health::metrics))
        .fallback(no_such_route)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(DefaultBodyLimit::max(BODY_OCTETS_MAX))
        .layer(middleware::from_fn(time_out))
        .with_state(api)
}

async fn no_such_route() -> Problem {
    Problem::no_such_route()
}

async fn method_not_allowed() -> Problem {
    Problem::method_not_allowed()
}

async fn time_out(request: Request, next: Next) -> Response {
    match tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Problem::timeout().into_response(),
    }
}

/// Carries a change out even when its request is given up on: a large deletion that was rolled back each time
/// its client lost patience would never be done.
async fn to_the_end(
    change: impl Future<Output = Result<bool, IndexError>> + Send + 'static,
) -> Result<bool, Problem> {
    match tokio::spawn(change).await {
        Ok(result) => Ok(result?),
        Err(error) => {
            tracing::error!(%error, "a change broke off");
            Err(Problem::internal())
        }
    }
}
