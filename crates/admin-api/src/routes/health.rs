//! Health and metrics.

use std::time::Duration;

use axum::{
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use prometheus::{Encoder as _, TextEncoder};

use crate::{Problem, api::Shared};

/// A dependency that takes longer than this to answer is not ready.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// The process runs and answers.
#[utoipa::path(get, path = "/livez", operation_id = "livez", tag = "health",
    responses((status = 200, description = "alive", body = String, content_type = "text/plain")))]
pub(super) async fn livez() -> &'static str {
    "ok\n"
}

/// Whether the node can serve.
///
/// It is not draining, and the index answers. A blob store that is away does not make it unready: logins, listings and
/// deletions go on without (P7); it is shown all the same.
#[utoipa::path(get, path = "/readyz", operation_id = "readyz", tag = "health",
    responses((status = 200, description = "ready", body = String, content_type = "text/plain"),
        (status = 503, description = "not ready", body = String, content_type = "text/plain")))]
pub(super) async fn readyz(State(api): State<Shared>) -> Response {
    if (api.draining)() {
        return (StatusCode::SERVICE_UNAVAILABLE, "draining\n").into_response();
    }
    let (index, blob) = tokio::join!(
        tokio::time::timeout(PROBE_TIMEOUT, api.index.ready()),
        tokio::time::timeout(PROBE_TIMEOUT, api.blob.ready()),
    );
    let word = |good| if good { "ok" } else { "unavailable" };
    let (index, blob) = (matches!(index, Ok(Ok(()))), matches!(blob, Ok(Ok(()))));
    let status = if index { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, format!("index {}\nblob {}\n", word(index), word(blob))).into_response()
}

/// The metrics, in Prometheus' text format.
///
/// Where the node is configured so, a key of the role `metrics` is needed.
#[utoipa::path(get, path = "/metrics", operation_id = "metrics", tag = "health",
    responses((status = 200, description = "the metrics", body = String, content_type = "text/plain")))]
pub(super) async fn metrics(State(api): State<Shared>) -> Result<Response, Problem> {
    let encoder = TextEncoder::new();
    let mut text = Vec::new();
    encoder.encode(&api.registry.gather(), &mut text).map_err(|error| {
        tracing::error!(%error, "metrics cannot be encoded");
        Problem::internal()
    })?;
    Ok(([(header::CONTENT_TYPE, encoder.format_type().to_owned())], text).into_response())
}

/// This API, as OpenAPI 3.1 describes it.
#[utoipa::path(get, path = "/openapi.json", operation_id = "openapi", tag = "health",
    responses((status = 200, description = "the document", body = Object)))]
pub(super) async fn openapi(State(api): State<Shared>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], api.document.clone()).into_response()
}
