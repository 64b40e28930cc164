//! Requests that may come more than once: the first is carried out, the others get its answer.

use axum::{
    body::{Body, to_bytes},
    extract::{MatchedPath, Request, State},
    http::{HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use maildrop::port::{Claim, IdempotencyKey, IndexError, StoredAnswer};

use crate::{
    BODY_OCTETS_MAX, Problem,
    api::{Api, Shared},
    auth::{Caller, bearer},
    routes::{BULLETINS, MESSAGES, STREAMED},
};

/// What a client names a request by that it may send again.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Set where an answer is that of an earlier request.
const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
/// The longest key.
const KEY_MAX: usize = 255;
/// What the key of the hash of a request is derived for.
const HASH_CONTEXT: &str = "postern 2026 admin-api hash of a request that may be repeated";

/// The routes that create with POST and take a key.
pub(crate) const CREATING: &[&str] = &[
    "/v1/tenants",
    "/v1/api-keys",
    "/v1/tenants/{tenant}/domains",
    "/v1/tenants/{tenant}/mailboxes",
    "/v1/tenants/{tenant}/mailboxes/{address}/app-passwords",
    MESSAGES,
    BULLETINS,
    "/v1/tenants/{tenant}/aliases",
    "/v1/tenants/{tenant}/api-keys",
];

/// Marks an answer that shows a secret of this resource: it is not remembered with the secret in it.
#[derive(Clone, Debug)]
pub(crate) struct ShowsSecret(pub(crate) String);

/// Carries a request out once for each key.
pub(crate) async fn once(State(api): State<Shared>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map(|route| route.as_str().to_owned());
    let route = route.filter(|route| request.method() == Method::POST && CREATING.contains(&route.as_str()));
    let (Some(route), true) = (route, request.headers().contains_key(IDEMPOTENCY_KEY)) else {
        return next.run(request).await;
    };
    // From the claim on, the request is carried out to its end, whoever waits for it: what broke off in the middle
    // could never be answered.
    match tokio::spawn(carry_out(api, route, request, next)).await {
        Ok(Ok(response)) => response,
        Ok(Err(problem)) => problem.into_response(),
        Err(error) => {
            tracing::error!(%error, "a request broke off");
            Problem::internal().into_response()
        }
    }
}

async fn carry_out(api: Shared, route: String, request: Request, next: Next) -> Result<Response, Problem> {
    let (key, request) = identify(&route, request).await?;
    let claimed = api.records.claim(&key, api.now()).await?;
    match claimed {
        Claim::First => {}
        Claim::Answered(answer) => return replay(answer),
        Claim::Pending => return Err(Problem::idempotency_pending()),
        Claim::Mismatch => return Err(Problem::idempotency_mismatch()),
    }
    let response = next.run(request).await;
    Ok(note(&api, &key, response).await)
}

/// The key of a request, and the request again.
async fn identify(route: &str, request: Request) -> Result<(IdempotencyKey, Request), Problem> {
    let (parts, body) = request.into_parts();
    let mut keys = parts.headers.get_all(IDEMPOTENCY_KEY).iter();
    let key = keys.next().and_then(|value| value.to_str().ok()).unwrap_or_default();
    let good = (1..=KEY_MAX).contains(&key.len()) && key.bytes().all(|octet| octet.is_ascii_graphic());
    if !good || keys.next().is_some() {
        let detail = "a key is one of 1 to 255 visible ASCII characters";
        return Err(Problem::malformed(detail, Some("Idempotency-Key".to_owned())));
    }
    let caller = parts.extensions.get::<Caller>().ok_or_else(Problem::unauthorized)?.id();
    let mut hash = hasher(bearer(&parts.headers).ok_or_else(Problem::unauthorized)?);
    let uri = parts.uri.path_and_query().map_or("", |uri| uri.as_str());
    hash.update(parts.method.as_str().as_bytes()).update(b" ").update(uri.as_bytes()).update(b"\n");
    // A message is not kept in memory to be compared: there the announced length stands for it.
    let body = if STREAMED.contains(&route) {
        let length = parts.headers.get(header::CONTENT_LENGTH).map_or(&b""[..], HeaderValue::as_bytes);
        hash.update(length);
        body
    } else {
        let octets = to_bytes(body, BODY_OCTETS_MAX).await;
        let octets = octets.map_err(|_| Problem::too_large("the body is longer than 1 MiB, or broke off"))?;
        hash.update(&octets);
        Body::from(octets)
    };
    let key = IdempotencyKey { caller, key: key.to_owned(), request: *hash.finalize().as_bytes() };
    Ok((key, Request::from_parts(parts, body)))
}

/// Hashes a request of whoever sent this token. A body may hold a password, which a plain hash would give to everybody
/// who reads the index and guesses fast; the token is not in the index.
fn hasher(token: &str) -> blake3::Hasher {
    blake3::Hasher::new_keyed(&blake3::derive_key(HASH_CONTEXT, token.as_bytes()))
}

/// Remembers the answer, or gives the claim back where nothing was done.
async fn note(api: &Api, key: &IdempotencyKey, response: Response) -> Response {
    // What was done is done, even where that cannot be written down: a repeated request will hear that its outcome is
    // not known.
    let failed = |error: IndexError| {
        tracing::warn!(error = &error as &dyn std::error::Error, "an answer could not be remembered");
    };
    if !response.status().is_success() {
        if response.extensions().get::<Problem>().is_some_and(Problem::has_changed_nothing) {
            let _ = api.records.disclaim(key).await.map_err(failed);
        }
        return response;
    }
    let (parts, body) = response.into_parts();
    // Ours, and small: one resource.
    let octets = to_bytes(body, 2 * BODY_OCTETS_MAX).await.unwrap_or_default();
    let answer = match parts.extensions.get::<ShowsSecret>() {
        Some(ShowsSecret(resource)) => {
            let problem = Problem::secret_shown_once(resource);
            StoredAnswer {
                status: problem.status().as_u16(),
                body: serde_json::to_vec(&problem).unwrap_or_default(),
                etag: None,
            }
        }
        None => StoredAnswer {
            status: parts.status.as_u16(),
            body: octets.to_vec(),
            etag: parts.headers.get(header::ETAG).and_then(|etag| etag.to_str().ok()).map(str::to_owned),
        },
    };
    let _ = api.records.remember(key, &answer).await.map_err(failed);
    Response::from_parts(parts, Body::from(octets))
}

/// The answer of an earlier request.
fn replay(answer: StoredAnswer) -> Result<Response, Problem> {
    let status = StatusCode::from_u16(answer.status).map_err(|_| Problem::internal())?;
    let mut response = if status.is_success() {
        let mut response = (status, answer.body).into_response();
        let json = HeaderValue::from_static("application/json");
        response.headers_mut().insert(header::CONTENT_TYPE, json);
        response
    } else {
        let problem: Problem = serde_json::from_slice(&answer.body).map_err(|_| Problem::internal())?;
        problem.into_response()
    };
    let headers = response.headers_mut();
    headers.insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
    if let Some(Ok(etag)) = answer.etag.as_deref().map(HeaderValue::from_str) {
        headers.insert(header::ETAG, etag);
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use maildrop::{Actor, Role};

    use super::*;

    async fn hash(token: &str, body: &'static str) -> [u8; 32] {
        let request = Request::post("/v1/tenants/one/mailboxes")
            .header(header::AUTHORIZATION, format!("Bearer {token}"))
            .header(IDEMPOTENCY_KEY, "order-1");
        let mut request = request.body(Body::from(body)).unwrap();
        let actor = Actor { name: String::new(), origin: String::new(), request: String::new() };
        let caller = Caller { key: None, role: Role::PlatformAdmin, tenant: None, actor };
        request.extensions_mut().insert(caller);
        let (key, request) = identify("/v1/tenants/{tenant}/mailboxes", request).await.unwrap();
        assert_eq!(to_bytes(request.into_body(), 100).await.unwrap(), body);
        key.request
    }

    #[tokio::test]
    async fn a_request_is_known_again_by_nobody_but_its_sender() {
        let body = "{\"password\":\"letmein\"}";
        let first = hash("token-one", body).await;
        assert_eq!(first, hash("token-one", body).await);
        assert_ne!(first, hash("token-two", body).await);
        assert_ne!(first, hash("token-one", "{\"password\":\"letmein2\"}").await);
        let text = format!("POST /v1/tenants/one/mailboxes\n{body}");
        assert_ne!(first, *blake3::hash(text.as_bytes()).as_bytes());
    }
}
