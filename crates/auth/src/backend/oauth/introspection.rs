//! What the issuer says of a token when it is asked (RFC 7662).

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use maildrop::Introspection;
use reqwest::{StatusCode, Url};
use serde_json::Value;
use url::form_urlencoded;
use zeroize::Zeroizing;

use super::Claims;
use crate::{
    backend::{
        Fault, Secrets, Turns, Unfit, after,
        http::{Http, fetch},
        secret::Secret,
    },
    metrics::Metrics,
};

/// Where the settings do not say.
const REMEMBER_SECS: u32 = 60;
/// Answers remembered of one tenant.
const REMEMBERED_MAX: u64 = 1000;
/// The longest answer that is read.
const ANSWER_OCTETS_MAX: usize = 64 * 1024;

/// A service that says what tokens are worth.
pub(super) struct Introspector {
    url: Url,
    client_id: String,
    client_secret: Secret,
    http: Http,
    remember: Duration,
    /// What was said of good tokens, by their keyed hash.
    answers: moka::sync::Cache<[u8; 32], (Claims, Instant)>,
    key: [u8; 32],
}

impl std::fmt::Debug for Introspector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Introspector").field("url", &self.url.as_str()).finish_non_exhaustive()
    }
}

impl Introspector {
    pub(super) fn new(settings: &Introspection, secrets: &Secrets, http: Http) -> Result<Self, Unfit> {
        let mut key = [0; 32];
        key[..16].copy_from_slice(uuid::Uuid::new_v4().as_bytes());
        key[16..].copy_from_slice(uuid::Uuid::new_v4().as_bytes());
        let path = "oauth.introspection.client_secret";
        let remember = Duration::from_secs(settings.remember_secs.unwrap_or(REMEMBER_SECS).into());
        Ok(Self {
            url: settings.url.parse()?,
            client_id: settings.client_id.clone(),
            client_secret: Secret::find(path, &settings.client_secret, secrets)?,
            http,
            remember,
            answers: moka::sync::Cache::builder().max_capacity(REMEMBERED_MAX).time_to_live(remember).build(),
            key,
        })
    }

    /// What is said of a token; `None` where it is not active.
    pub(super) async fn ask(
        &self,
        token: &str,
        turns: &Turns,
        metrics: &Metrics,
    ) -> Result<Option<Claims>, Fault> {
        let digest = *blake3::keyed_hash(&self.key, token.as_bytes()).as_bytes();
        if let Some((claims, until)) = self.answers.get(&digest)
            && Instant::now() < until
        {
            return Ok(Some(claims));
        }
        let Some(_turn) = turns.take().await else {
            return Err("too many tokens wait to be asked for".into());
        };
        let claims = metrics.asking("introspection").answered(self.fetch(token).await)?;
        if let Some(claims) = &claims
            && !self.remember.is_zero()
        {
            // Not beyond the token's end: from then on it is asked for again, and told to be over.
            let now = jsonwebtoken::get_current_timestamp();
            let left = claims.get("exp").and_then(Value::as_u64).map(|exp| exp.saturating_sub(now));
            let remember = self.remember.min(left.map_or(Duration::MAX, Duration::from_secs));
            self.answers.insert(digest, (claims.clone(), after(remember)));
        }
        Ok(claims)
    }

    async fn fetch(&self, token: &str) -> Result<Option<Claims>, Fault> {
        let form = form_urlencoded::Serializer::new(String::new())
            .append_pair("token", token)
            .append_pair("token_type_hint", "access_token")
            .finish();
        let secret = self.client_secret.get().await?;
        // RFC 6749 §2.3.1: both are encoded as forms are, before they are encoded as Basic has it.
        let encoded = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
        let password = Zeroizing::new(encoded(&secret));
        let request = self
            .http
            .post(&self.url)?
            .basic_auth(encoded(&self.client_id), Some(password.as_str()))
            .header("Content-Type", "application/x-www-form-urlencoded")
            .header("Accept", "application/json")
            .body(form);
        let reply = fetch(request, ANSWER_OCTETS_MAX).await?;
        if reply.status != StatusCode::OK {
            // 401 says of us, not of the token, that we are not let in (RFC 7662 §2.3).
            return Err(format!("the issuer answered {}", reply.status.as_u16()).into());
        }
        let claims: HashMap<String, Value> =
            serde_json::from_slice(&reply.body).map_err(|_| "the issuer's answer makes no sense")?;
        match claims.get("active") {
            Some(Value::Bool(true)) => Ok(Some(claims)),
            Some(Value::Bool(false)) => Ok(None),
            _ => Err("the issuer's answer makes no sense".into()),
        }
    }
}
