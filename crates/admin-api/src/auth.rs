//! Who may use the API: the bootstrap token of the platform administrator.

use std::{fmt, net::SocketAddr, sync::Arc};

use axum::{
    extract::{ConnectInfo, FromRequestParts, Request, State},
    http::{header::AUTHORIZATION, request::Parts},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use maildrop::Actor;

use crate::{AdminApi, Problem};

/// The fewest characters of a token: 128 bits in base64 are 22, in hex 32.
const TOKEN_CHARACTERS_MIN: usize = 16;

/// A bearer token, kept as its hash.
#[derive(Clone, Copy)]
pub struct AdminToken(blake3::Hash);

/// Why a text cannot be a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an admin token is at least {TOKEN_CHARACTERS_MIN} printable ASCII characters without spaces")]
pub struct AdminTokenError;

impl AdminToken {
    /// Takes the token as it stands in its file, white space around it aside.
    pub fn new(text: &str) -> Result<Self, AdminTokenError> {
        let text = text.trim();
        if text.len() < TOKEN_CHARACTERS_MIN || !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(AdminTokenError);
        }
        Ok(Self(blake3::hash(text.as_bytes())))
    }

    /// Compares in constant time: hashes by `blake3::Hash`'s own equality.
    fn admits(&self, text: &str) -> bool {
        blake3::hash(text.as_bytes()) == self.0
    }
}

impl fmt::Debug for AdminToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AdminToken(…)")
    }
}

/// Lets a request pass that has the token.
pub(crate) async fn require_token(
    State(api): State<Arc<AdminApi>>,
    request: Request,
    next: Next,
) -> Response {
    let token = request
        .headers()
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim());
    if !token.is_some_and(|token| api.token.admits(token)) {
        return Problem::unauthorized().into_response();
    }
    next.run(request).await
}

/// Who makes a request, for the audit log.
pub(crate) struct Caller(pub(crate) Actor);

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        let origin = parts
            .extensions
            .get::<ConnectInfo<SocketAddr>>()
            .map_or_else(|| "unknown".to_owned(), |ConnectInfo(addr)| addr.ip().to_string());
        Ok(Self(Actor { name: "bootstrap-token".to_owned(), origin }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_compared_whole_and_never_shown() {
        let token = AdminToken::new(" 0123456789abcdef\n").unwrap();
        assert!(token.admits("0123456789abcdef"));
        assert!(!token.admits("0123456789abcde"));
        assert!(!token.admits(""));
        assert_eq!(format!("{token:?}"), "AdminToken(…)");
        assert!(AdminToken::new("short").is_err());
        assert!(AdminToken::new("0123456789 abcdef").is_err());
    }
}
