//! Errors as problem documents (RFC 9457). The one place that maps errors to HTTP.

use std::{borrow::Cow, time::Duration};

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use maildrop::port::{BlobError, Conflict, IndexError};
use serde::{Deserialize, Serialize};

/// The media type of a problem document.
pub(crate) const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");

/// Why a request was refused, or failed.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Problem(Box<Document>);

/// A problem document.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = Problem)]
pub(crate) struct Document {
    /// Stable and the same for every occurrence: `urn:postern:problem:…`.
    #[serde(rename = "type")]
    #[schema(pattern = "^urn:postern:problem:[a-z-]+$")]
    kind: String,
    /// The same for every occurrence, for people.
    title: Cow<'static, str>,
    /// The HTTP status.
    #[schema(minimum = 400, maximum = 599)]
    status: u16,
    /// What is wrong in this case.
    detail: String,
    /// The offending field of the request, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    field: Option<String>,
    /// What the problem is about, where the request did not name it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    resource: Option<String>,
    /// The request, as the log names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    request: Option<String>,
    /// When trying again may help.
    #[serde(skip)]
    retry_after: Option<Duration>,
    /// Whether it is certain that the request changed nothing.
    #[serde(skip, default = "changed_nothing")]
    changed_nothing: bool,
}

fn changed_nothing() -> bool {
    true
}

impl Problem {
    fn new(status: StatusCode, kind: &str, title: &'static str, detail: impl Into<String>) -> Self {
        Self(Box::new(Document {
            kind: format!("urn:postern:problem:{kind}"),
            title: title.into(),
            status: status.as_u16(),
            detail: detail.into(),
            field: None,
            resource: None,
            request: None,
            retry_after: None,
            changed_nothing: true,
        }))
    }

    pub(crate) fn unauthorized() -> Self {
        let detail = "send a valid token or key as `Authorization: Bearer …`";
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", "Unauthorized", detail)
    }

    /// The key is good, but not for this.
    pub(crate) fn forbidden() -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", "Forbidden", "the key's role does not allow this")
    }

    /// The key is good for the request, but not for this field of it.
    pub(crate) fn forbidden_field(field: &str) -> Self {
        let detail = "the key's role does not allow to set this";
        Self::new(StatusCode::FORBIDDEN, "forbidden", "Forbidden", detail).with_field(field)
    }

    pub(crate) fn not_found(what: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", "Not found", format!("there is no such {what}"))
    }

    pub(crate) fn no_such_route() -> Self {
        Self::new(StatusCode::NOT_FOUND, "no-such-route", "Not found", "there is no such route")
    }

    pub(crate) fn method_not_allowed() -> Self {
        let detail = "this route does not know the method";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "Method not allowed", detail)
    }

    /// The request cannot be read: no JSON of the right shape, an unknown parameter, a bad header.
    pub(crate) fn malformed(detail: impl Into<String>, field: Option<String>) -> Self {
        let mut problem = Self::new(StatusCode::BAD_REQUEST, "malformed", "Malformed request", detail);
        problem.0.field = field;
        problem
    }

    pub(crate) fn media_type(expected: &str) -> Self {
        let detail = format!("the content type must be {expected}");
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "media-type", "Unsupported media type", detail)
    }

    pub(crate) fn too_large(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", "Too large", detail)
    }

    /// A field has a value that cannot be.
    pub(crate) fn invalid(field: &str, detail: impl std::fmt::Display) -> Self {
        let status = StatusCode::UNPROCESSABLE_ENTITY;
        Self::new(status, "invalid", "Invalid value", detail.to_string()).with_field(field)
    }

    /// The resource has changed since the client read it.
    pub(crate) fn stale() -> Self {
        let detail = "the resource is not, or no longer, as `If-Match` says: read it again";
        Self::new(StatusCode::PRECONDITION_FAILED, "stale", "Precondition failed", detail)
    }

    /// There are as many of them as there may be.
    pub(crate) fn limit_reached(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "limit-reached", "Limit reached", detail)
    }

    /// The bucket that was given cannot be used: the step that failed, and why.
    pub(crate) fn bucket_unusable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "bucket-unusable", "Bucket cannot be used", detail)
    }

    /// The store is needed.
    pub(crate) fn bucket_in_use(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "bucket-in-use", "Store in use", detail)
    }

    pub(crate) fn over_quota() -> Self {
        let detail = "the message does not fit the quota of the mailbox or its tenant";
        Self::new(StatusCode::CONFLICT, "over-quota", "Over quota", detail)
    }

    pub(crate) fn suspended() -> Self {
        let detail = "the mailbox or its tenant is suspended";
        Self::new(StatusCode::CONFLICT, "suspended", "Suspended", detail)
    }

    pub(crate) fn storage_full() -> Self {
        let detail = "the blob store has no room";
        Self::new(StatusCode::INSUFFICIENT_STORAGE, "storage-full", "Storage full", detail)
    }

    /// The message was there, and is damaged or lost.
    pub(crate) fn damaged() -> Self {
        let detail = "the message's octets are missing or damaged; the server's log says more";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "damaged", "Damaged", detail)
    }

    pub(crate) fn rate_limited(retry_after: Duration) -> Self {
        let detail = "too many requests; try again later";
        let mut problem =
            Self::new(StatusCode::TOO_MANY_REQUESTS, "rate-limited", "Too many requests", detail);
        problem.0.retry_after = Some(retry_after);
        problem
    }

    /// What may be sent in a day has been.
    pub(crate) fn daily_limit(retry_after: Duration) -> Self {
        let detail = "as much was sent today as may be; try again tomorrow (UTC)";
        let mut problem =
            Self::new(StatusCode::TOO_MANY_REQUESTS, "daily-limit", "Daily limit reached", detail);
        problem.0.retry_after = Some(retry_after);
        problem
    }

    pub(crate) fn idempotency_mismatch() -> Self {
        let detail = "this key was sent before with another request";
        let status = StatusCode::UNPROCESSABLE_ENTITY;
        Self::new(status, "idempotency-mismatch", "Idempotency key mismatch", detail)
            .with_field("Idempotency-Key")
    }

    pub(crate) fn idempotency_pending() -> Self {
        let detail = "the first request with this key is still carried out, or broke off; see whether the \
                      resource is there";
        Self::new(StatusCode::CONFLICT, "idempotency-pending", "Request pending", detail)
            .with_field("Idempotency-Key")
    }

    /// The repeated request was carried out; its answer held a secret, which is shown once.
    pub(crate) fn secret_shown_once(resource: &str) -> Self {
        let detail = "the request was carried out before; its secret was shown then, and is not kept: delete \
                      the resource and create another";
        let mut problem = Self::new(StatusCode::CONFLICT, "secret-shown-once", "Secret was shown", detail);
        problem.0.resource = Some(resource.to_owned());
        problem
    }

    pub(crate) fn internal() -> Self {
        let detail = "the server's log says more";
        let mut problem = Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "Internal error", detail);
        problem.0.changed_nothing = false;
        problem
    }

    pub(crate) fn timeout() -> Self {
        let detail = "the request took too long; whether it was carried out is not known";
        let mut problem = Self::new(StatusCode::GATEWAY_TIMEOUT, "timeout", "Timeout", detail);
        problem.0.changed_nothing = false;
        problem
    }

    /// A request that is carried out by and by took all the time that it may. What was not answered was not begun.
    pub(crate) fn out_of_time(detail: &str) -> Self {
        Self::new(StatusCode::GATEWAY_TIMEOUT, "timeout", "Timeout", detail)
    }

    /// The request's body did not come in time, or not whole.
    pub(crate) fn broken_off() -> Self {
        let detail = "the request's body broke off";
        Self::new(StatusCode::BAD_REQUEST, "broken-off", "Request broke off", detail)
    }

    /// Some part does not answer. `changed_nothing` where that is certain.
    pub(crate) fn unavailable(changed_nothing: bool) -> Self {
        let detail = "a part of the system does not answer; try again";
        let mut problem = Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "Unavailable", detail);
        problem.0.changed_nothing = changed_nothing;
        problem.0.retry_after = Some(Duration::from_secs(1));
        problem
    }

    fn with_field(mut self, field: &str) -> Self {
        self.0.field = Some(field.to_owned());
        self
    }

    /// The same problem, of this request.
    pub(crate) fn of_request(mut self, request: &str) -> Self {
        self.0.request = Some(request.to_owned());
        self
    }

    /// The same problem, with what it may repeat of the request cut short.
    pub(crate) fn shortened(mut self, octets_max: usize) -> Self {
        shorten(&mut self.0.detail, octets_max);
        if let Some(field) = &mut self.0.field {
            shorten(field, octets_max);
        }
        self
    }

    pub(crate) fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// Whether it is certain that the request changed nothing, so that it may be tried again.
    pub(crate) fn has_changed_nothing(&self) -> bool {
        self.0.changed_nothing
    }
}

/// Cuts a text to so many octets at most, between characters. What is left holds no more memory than it needs.
pub(crate) fn shorten(text: &mut String, octets_max: usize) {
    if text.len() > octets_max {
        text.truncate(text.floor_char_boundary(octets_max));
        text.shrink_to_fit();
    }
}

impl From<IndexError> for Problem {
    fn from(error: IndexError) -> Self {
        match error {
            IndexError::Unreached(_) | IndexError::Unavailable(_) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "request failed");
                Self::unavailable(matches!(error, IndexError::Unreached(_)))
            }
            IndexError::Internal(_) => {
                tracing::error!(error = &error as &dyn std::error::Error, "request failed");
                Self::internal()
            }
            IndexError::Conflict(conflict) => conflict.into(),
        }
    }
}

impl From<Conflict> for Problem {
    fn from(conflict: Conflict) -> Self {
        // A domain may be another tenant's: the answer does not say whose.
        let (kind, detail, field) = match conflict {
            Conflict::TenantName => ("taken", "the name is taken", "name"),
            Conflict::DomainName => ("taken", "the domain cannot be had", "name"),
            Conflict::Address => ("taken", "the address is taken", "address"),
            Conflict::ForeignDomain => (
                "foreign-domain",
                "the address's domain is not one of the tenant's, or an alias of another",
                "address",
            ),
            Conflict::DomainInUse => {
                ("in-use", "the domain still has mailboxes, aliases or alias domains", "name")
            }
            Conflict::AliasDomain => {
                ("no-such-domain", "this is no domain of the tenant, or itself an alias", "alias_of")
            }
            Conflict::AliasMailbox => ("no-such-mailbox", "this is no mailbox of the tenant", "mailbox"),
            Conflict::ForeignHost => {
                ("foreign-domain", "the host is not within one of the tenant's domains", "host")
            }
            Conflict::OverAllocated => (
                "over-allocated",
                "the quota is more than the tenant may still give, or there is none where there must be one",
                "quota_octets",
            ),
            Conflict::AppPasswords => {
                ("too-many", "the mailbox has as many app passwords as it may", "address")
            }
            Conflict::Bulletins => {
                ("too-many", "the tenant has as many bulletins under way as it may", "tenant")
            }
            Conflict::Revision => return Self::stale(),
        };
        Self::new(StatusCode::CONFLICT, kind, "Conflict", detail).with_field(field)
    }
}

impl From<BlobError> for Problem {
    fn from(error: BlobError) -> Self {
        tracing::error!(%error, "request failed");
        if error.is_retryable() { Self::unavailable(true) } else { Self::internal() }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = self.status();
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, PROBLEM_JSON);
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(wait) = self.0.retry_after {
            let seconds = wait.as_secs_f64().ceil().max(1.0) as u64;
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        // Whoever knows the request writes the document anew with it.
        response.extensions_mut().insert(self);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_between_characters() {
        for (octets_max, left) in
            [(0, ""), (1, "a"), (2, "a"), (3, "a\u{fc}"), (4, "a\u{fc}b"), (9, "a\u{fc}b")]
        {
            let mut text = "a\u{fc}b".to_owned();
            shorten(&mut text, octets_max);
            assert_eq!(text, left);
        }
    }
}
