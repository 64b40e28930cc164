//! What every request gets: a name, a span, and a limit of time.

use std::convert::Infallible;

use axum::{
    extract::{FromRequestParts, MatchedPath, Request},
    http::{HeaderName, HeaderValue, Method, request::Parts},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use tracing::Instrument as _;
use uuid::Uuid;

use crate::{Problem, REQUEST_TIMEOUT, routes::STREAMED};

/// The name of a request, as the client gave it or we made it.
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The longest name taken from a client: room for a UUID and more.
const REQUEST_ID_MAX: usize = 64;

/// The name of a request: in the answer, in problem documents, in the log and in the audit log.
#[derive(Clone, Debug)]
pub(crate) struct RequestId(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for RequestId {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get::<Self>().cloned().unwrap_or_else(|| Self(String::new())))
    }
}

/// Names a request, and everything that is said of it.
pub(crate) async fn name(mut request: Request, next: Next) -> Response {
    let sent = request.headers().get(X_REQUEST_ID).and_then(|value| value.to_str().ok());
    let sane = |id: &&str| {
        (1..=REQUEST_ID_MAX).contains(&id.len()) && id.bytes().all(|octet| octet.is_ascii_graphic())
    };
    let id = sent.filter(sane).map_or_else(|| Uuid::now_v7().as_simple().to_string(), str::to_owned);
    let route = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
    let span = tracing::info_span!("request", request.id = %id, method = %request.method(), route);
    request.extensions_mut().insert(RequestId(id.clone()));
    let mut response = next.run(request).instrument(span).await;
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        let (mut parts, _) = response.into_parts();
        let (_, body) = problem.of_request(&id).into_response().into_parts();
        parts.headers.remove(axum::http::header::CONTENT_LENGTH);
        response = Response::from_parts(parts, body);
    }
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(X_REQUEST_ID, value);
    }
    response
}

/// Limits the time a request may take. A message may be large and its client slow: there the handler watches over
/// the pauses instead.
pub(crate) async fn time_out(request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    if request.method() == Method::POST && route.is_some_and(|route| STREAMED.contains(&route)) {
        return next.run(request).await;
    }
    match tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Problem::timeout().into_response(),
    }
}
