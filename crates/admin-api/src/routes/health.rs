//! Health and metrics.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use prometheus::{Encoder as _, TextEncoder};

use crate::{AdminApi, Problem};

/// A dependency that takes longer than this to answer is not ready.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// The process runs and answers.
pub(super) async fn livez() -> &'static str {
    "ok\n"
}

/// The node can serve: it is not draining, and the index answers. A blob store that is away does not make it
/// unready: logins, listings and deletions go on without (P7); it is shown all the same.
pub(super) async fn readyz(State(api): State<Arc<AdminApi>>) -> Response {
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

/// The metrics in Prometheus' text format.
pub(super) async fn metrics(State(api): State<Arc<AdminApi>>) -> Result<Response, Problem> {
    let encoder = TextEncoder::new();
    let mut text = Vec::new();
    encoder.encode(&api.registry.gather(), &mut text).map_err(|error| {
        tracing::error!(%error, "metrics cannot be encoded");
        Problem::internal()
    })?;
    Ok(([(header::CONTENT_TYPE, encoder.format_type().to_owned())], text).into_response())
}
