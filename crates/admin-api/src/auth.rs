//! Who sends a request: the bootstrap token of the platform administrator, or an API key.

mod key;
mod token;

use std::{convert::Infallible, fmt, net::IpAddr};

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, header::AUTHORIZATION, request::Parts},
};
use maildrop::{Actor, ApiKeyId, Role, TenantId};

pub(crate) use key::{KeyText, NewKey};
pub use token::{AdminToken, AdminTokenError};

use crate::{Problem, api::Api};

/// Who sends a request.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    /// Its key; none where it is the bootstrap token.
    pub(crate) key: Option<ApiKeyId>,
    /// What it may do.
    pub(crate) role: Role,
    /// The one tenant it may do that in, where its role is of a tenant.
    pub(crate) tenant: Option<TenantId>,
    /// For the audit log.
    pub(crate) actor: Actor,
}

impl Caller {
    /// What its requests are told from others' by.
    pub(crate) fn id(&self) -> String {
        self.key.map_or_else(|| "bootstrap".to_owned(), |key| key.to_string())
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        // Put there by the guard. Without it nobody has been asked who they are: nothing is done.
        parts.extensions.get::<Self>().cloned().ok_or_else(Problem::unauthorized)
    }
}

/// The token or key that a request carries.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    headers
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim())
}

/// Where a request comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(pub(crate) Option<IpAddr>);

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(addr) => addr.fmt(f),
            None => f.write_str("unknown"),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Peer {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        use axum::extract::ConnectInfo;
        let info = parts.extensions.get::<ConnectInfo<std::net::SocketAddr>>();
        Ok(Self(info.map(|ConnectInfo(addr)| addr.ip())))
    }
}

impl Api {
    /// Finds out who sends a request. Whatever is wrong with what was sent, the answer is the same.
    pub(crate) async fn authenticate(
        &self,
        headers: &HeaderMap,
        peer: Peer,
        request: &str,
    ) -> Result<Caller, Problem> {
        let sent = bearer(headers);
        let actor = |name: String| Actor { name, origin: peer.to_string(), request: request.to_owned() };
        if sent.is_some_and(|sent| self.token.admits(sent)) {
            let actor = actor("bootstrap-token".to_owned());
            // It is the way in when nothing else is, and is not limited.
            return Ok(Caller { key: None, role: Role::PlatformAdmin, tenant: None, actor });
        }
        let address = peer.0.unwrap_or(IpAddr::from([0, 0, 0, 0]));
        let failed = || match self.rates.failed(address) {
            Ok(()) => Problem::unauthorized(),
            Err(wait) => Problem::rate_limited(wait),
        };
        let key = sent.and_then(KeyText::parse).ok_or_else(failed)?;
        self.rates.may_try(address, key.id).map_err(Problem::rate_limited)?;
        let found = self.directory.all_tenants_api_key(key.id).await?;
        let (api_key, _) = found.filter(|(_, hash)| key.has_hash(hash)).ok_or_else(failed)?;
        let now = self.clock.now();
        if api_key.expires_at.is_some_and(|end| end <= now) {
            return Err(failed());
        }
        self.rates.request(api_key.id, api_key.tenant).map_err(Problem::rate_limited)?;
        self.touch(api_key.id, now);
        Ok(Caller {
            key: Some(api_key.id),
            role: api_key.role,
            tenant: api_key.tenant,
            actor: actor(format!("key:{}", api_key.id)),
        })
    }

    /// Whether whoever began a long request may still be who it was: a key may be deleted or expire meanwhile. The
    /// bootstrap token is good as long as the process runs.
    pub(crate) async fn is_still_good(&self, caller: &Caller) -> Result<bool, Problem> {
        let Some(key) = caller.key else { return Ok(true) };
        let found = self.directory.all_tenants_api_key(key).await?;
        let now = self.clock.now();
        Ok(found.is_some_and(|(key, _)| key.expires_at.is_none_or(|end| end > now)))
    }

    /// Notes that a key was used; nobody waits for that.
    fn touch(&self, key: ApiKeyId, at: time::OffsetDateTime) {
        if self.touched.contains_key(&key) {
            return;
        }
        self.touched.insert(key, ());
        let directory = std::sync::Arc::clone(&self.directory);
        tokio::spawn(async move {
            if let Err(error) = directory.touch_api_key(key, at).await {
                tracing::debug!(%key, %error, "use of a key could not be noted");
            }
        });
    }
}
