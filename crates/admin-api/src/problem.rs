//! Errors as problem documents (RFC 9457). The one place that maps errors to HTTP.

use axum::{
    Json,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use maildrop::port::{BlobError, Conflict, IndexError};
use serde::Serialize;

/// A problem document.
#[derive(Debug, Serialize)]
pub struct Problem {
    /// Stable and the same for every occurrence: `urn:postern:problem:…`.
    #[serde(rename = "type")]
    kind: String,
    title: &'static str,
    status: u16,
    /// What is wrong in this case.
    detail: String,
    /// The offending field of the request body, if it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
}

impl Problem {
    fn new(status: StatusCode, kind: &str, title: &'static str, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("urn:postern:problem:{kind}"),
            title,
            status: status.as_u16(),
            detail: detail.into(),
            field: None,
        }
    }

    pub(crate) fn unauthorized() -> Self {
        let detail = "send a valid token as `Authorization: Bearer …`";
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", "Unauthorized", detail)
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

    /// The body is no JSON of the right shape, or a query parameter is wrong.
    pub(crate) fn malformed(status: StatusCode, detail: impl Into<String>, field: Option<String>) -> Self {
        Self { field, ..Self::new(status, "malformed", "Malformed request", detail) }
    }

    /// A field has a value that cannot be.
    pub(crate) fn invalid(field: &str, detail: impl std::fmt::Display) -> Self {
        let status = StatusCode::UNPROCESSABLE_ENTITY;
        let problem = Self::new(status, "invalid", "Invalid value", detail.to_string());
        Self { field: Some(field.to_owned()), ..problem }
    }

    pub(crate) fn internal() -> Self {
        let detail = "the server's log says more";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "Internal error", detail)
    }

    pub(crate) fn timeout() -> Self {
        let detail = "the request took too long; whether it was carried out is not known";
        Self::new(StatusCode::GATEWAY_TIMEOUT, "timeout", "Timeout", detail)
    }

    pub(crate) fn unavailable() -> Self {
        let detail = "a part of the system does not answer; try again";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "Unavailable", detail)
    }
}

impl From<IndexError> for Problem {
    fn from(error: IndexError) -> Self {
        match error {
            IndexError::Unreached(_) | IndexError::Unavailable(_) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "request failed");
                Self::unavailable()
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
            Conflict::ForeignDomain => {
                ("foreign-domain", "the address's domain is not one of the tenant's", "address")
            }
            Conflict::DomainInUse => ("in-use", "the domain still has mailboxes", "name"),
        };
        let problem = Self::new(StatusCode::CONFLICT, kind, "Conflict", detail);
        Self { field: Some(field.to_owned()), ..problem }
    }
}

impl From<BlobError> for Problem {
    fn from(error: BlobError) -> Self {
        tracing::error!(%error, "request failed");
        if error.is_retryable() { Self::unavailable() } else { Self::internal() }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self)).into_response();
        let media_type = header::HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, media_type);
        if status == StatusCode::UNAUTHORIZED {
            let scheme = header::HeaderValue::from_static("Bearer");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
        }
        response
    }
}
