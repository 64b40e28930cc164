//! Reading requests: what is wrong with one is said in a problem document.

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
    http::{StatusCode, header, request::Parts},
};
use maildrop::{Address, DomainName, Tenant, TenantName};
use serde::de::DeserializeOwned;

use crate::{AdminApi, Problem};

/// A JSON body, read strictly: unknown fields, wrong types and anything behind it are errors.
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let is_json = request
            .headers()
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .is_some_and(|value| value.split(';').next().is_some_and(|t| t.trim() == "application/json"));
        if !is_json {
            let detail = "the content type must be application/json";
            return Err(Problem::malformed(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail, None));
        }
        let octets = Bytes::from_request(request, state)
            .await
            .map_err(|rejection| Problem::malformed(rejection.status(), rejection.body_text(), None))?;
        let mut json = serde_json::Deserializer::from_slice(&octets);
        let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
            let path = error.path().to_string();
            let field = (path != ".").then_some(path);
            Problem::malformed(StatusCode::BAD_REQUEST, error.into_inner().to_string(), field)
        })?;
        json.end().map_err(|error| Problem::malformed(StatusCode::BAD_REQUEST, error.to_string(), None))?;
        Ok(Self(value))
    }
}

/// A query string, read strictly.
pub(super) struct Params<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Query::from_request_parts(parts, state).await {
            Ok(Query(value)) => Ok(Self(value)),
            Err(rejection) => Err(Problem::malformed(rejection.status(), rejection.body_text(), None)),
        }
    }
}

/// The segments of the path, in their order.
pub(super) struct Segments<T>(pub(super) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Segments<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Path::from_request_parts(parts, state).await {
            Ok(Path(value)) => Ok(Self(value)),
            Err(rejection) => Err(Problem::malformed(rejection.status(), rejection.body_text(), None)),
        }
    }
}

impl AdminApi {
    /// The tenant of a path. A name that cannot be is a tenant that is not.
    pub(super) async fn tenant(&self, name: &str) -> Result<Tenant, Problem> {
        let Ok(name) = TenantName::try_from(name) else { return Err(Problem::not_found("tenant")) };
        self.directory.tenant_by_name(&name).await?.ok_or_else(|| Problem::not_found("tenant"))
    }
}

/// The mailbox address of a path.
pub(super) fn address(text: &str) -> Result<Address, Problem> {
    Address::try_from(text).map_err(|_| Problem::not_found("mailbox"))
}

/// The domain of a path.
pub(super) fn domain(text: &str) -> Result<DomainName, Problem> {
    DomainName::try_from(text).map_err(|_| Problem::not_found("domain"))
}

/// A cursor that cannot be one of ours.
pub(super) fn bad_cursor<E>(_: E) -> Problem {
    Problem::malformed(
        StatusCode::BAD_REQUEST,
        "`after` is not a cursor of this list",
        Some("after".to_owned()),
    )
}
