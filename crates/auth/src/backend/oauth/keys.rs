//! An issuer's keys (RFC 7517): fetched when they are needed, kept while the issuer is away.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use jsonwebtoken::{
    Algorithm, AlgorithmFamily, DecodingKey,
    jwk::{AlgorithmParameters, Jwk, PublicKeyUse},
};
use reqwest::{StatusCode, Url};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    backend::{
        Fault,
        http::{Http, fetch},
    },
    metrics::Metrics,
};

/// How long keys count before they are fetched anew: so long one that was withdrawn may still be good.
const FRESH: Duration = Duration::from_mins(10);
/// How long they are good while the issuer is away.
const KEPT: Duration = Duration::from_hours(24);
/// The least time between two fetches, good or not: a token with a key nobody has is quickly made.
const APART: Duration = Duration::from_secs(10);
/// The longest answer that is read: keys come with chains of certificates.
const ANSWER_OCTETS_MAX: usize = 256 * 1024;
/// Keys of one issuer at most, and those tried for a token that names none.
const KEYS_MAX: usize = 64;
const TRIED_MAX: usize = 8;

/// The keys of one issuer.
#[derive(Debug)]
pub(super) struct Keys {
    issuer: String,
    /// `None`: where the issuer's configuration says.
    url: Option<Url>,
    http: Http,
    known: Mutex<Option<Arc<Known>>>,
    /// Held while keys are fetched: who comes meanwhile waits for the same ones.
    fetching: tokio::sync::Mutex<Tried>,
}

#[derive(Debug, Default)]
struct Tried {
    at: Option<Instant>,
    failed: bool,
}

#[derive(Debug)]
struct Known {
    keys: Vec<Key>,
    at: Instant,
}

struct Key {
    id: Option<String>,
    family: AlgorithmFamily,
    /// The one algorithm it is for, if it says.
    algorithm: Option<Algorithm>,
    verifying: DecodingKey,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").field("id", &self.id).finish_non_exhaustive()
    }
}

/// The keys a token may be signed by.
pub(super) struct Found(pub(super) Vec<DecodingKey>);

impl Keys {
    pub(super) fn new(issuer: &str, url: Option<&str>, http: Http) -> Result<Self, Fault> {
        let url = url.map(str::parse).transpose()?;
        let (known, fetching) = (Mutex::default(), tokio::sync::Mutex::default());
        Ok(Self { issuer: issuer.to_owned(), url, http, known, fetching })
    }

    /// The keys that fit this identity and algorithm. An identity nobody knows is asked for once.
    pub(super) async fn find(
        &self,
        id: Option<&str>,
        algorithm: Algorithm,
        metrics: &Metrics,
    ) -> Result<Found, Fault> {
        let known = self.known();
        let fitting = known.as_ref().map(|known| known.fitting(id, algorithm)).unwrap_or_default();
        let fresh = known.is_some_and(|known| known.at.elapsed() < FRESH);
        if fresh && !fitting.is_empty() {
            return Ok(Found(fitting));
        }
        match self.refresh(metrics).await {
            Ok(known) => Ok(Found(known.fitting(id, algorithm))),
            // What is known is good enough while the issuer is away.
            Err(error) if fitting.is_empty() => Err(error),
            Err(error) => {
                tracing::debug!(error = &*error, "an issuer's keys are as old as they were");
                Ok(Found(fitting))
            }
        }
    }

    fn known(&self) -> Option<Arc<Known>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.as_ref().is_some_and(|known| known.at.elapsed() >= KEPT) {
            *known = None;
        }
        known.clone()
    }

    /// The keys as the issuer has them now, or had them a moment ago.
    async fn refresh(&self, metrics: &Metrics) -> Result<Arc<Known>, Fault> {
        let before = Instant::now();
        let mut tried = self.fetching.lock().await;
        if let Some(at) = tried.at
            && (at >= before || at.elapsed() < APART)
        {
            return match (tried.failed, self.known()) {
                (false, Some(known)) => Ok(known),
                _ => Err("the issuer did not answer a moment ago".into()),
            };
        }
        // Noted before it is known how it ends: who gives up meanwhile has asked all the same.
        *tried = Tried { at: Some(Instant::now()), failed: true };
        let fetched = metrics.asking("jwks").answered(self.fetch().await)?;
        let known = Arc::new(Known { keys: fetched, at: Instant::now() });
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&known));
        *tried = Tried { at: Some(Instant::now()), failed: false };
        Ok(known)
    }

    async fn fetch(&self) -> Result<Vec<Key>, Fault> {
        #[derive(Deserialize)]
        struct Configuration {
            issuer: String,
            jwks_uri: String,
        }
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<Value>,
        }
        let url = if let Some(url) = &self.url {
            url.clone()
        } else {
            // OpenID Connect Discovery 1.0 §4.
            let at = format!("{}/.well-known/openid-configuration", self.issuer.trim_end_matches('/'));
            let found: Configuration = self.read(&at.parse()?).await?;
            if found.issuer != self.issuer {
                return Err("the issuer's configuration is another issuer's".into());
            }
            found.jwks_uri.parse()?
        };
        let set: Set = self.read(&url).await?;
        // What cannot be used is passed over: others may be of use.
        let keys: Vec<_> = set.keys.into_iter().filter_map(Key::read).take(KEYS_MAX).collect();
        if keys.is_empty() { Err("the issuer has no key that can be used".into()) } else { Ok(keys) }
    }

    async fn read<T: for<'de> Deserialize<'de>>(&self, url: &Url) -> Result<T, Fault> {
        if !matches!(url.scheme(), "https" | "http") {
            return Err("an address that is no URL of HTTP".into());
        }
        let reply = fetch(self.http.get(url)?, ANSWER_OCTETS_MAX).await?;
        if reply.status != StatusCode::OK {
            return Err(format!("the issuer answered {}", reply.status.as_u16()).into());
        }
        serde_json::from_slice(&reply.body).map_err(|_| "the issuer's answer makes no sense".into())
    }
}

impl Known {
    fn fitting(&self, id: Option<&str>, algorithm: Algorithm) -> Vec<DecodingKey> {
        let fits = |key: &&Key| {
            (id.is_none() || key.id.as_deref() == id)
                && key.family == family(algorithm)
                && key.algorithm.is_none_or(|of_key| of_key == algorithm)
        };
        self.keys.iter().filter(fits).take(TRIED_MAX).map(|key| key.verifying.clone()).collect()
    }
}

impl Key {
    fn read(value: Value) -> Option<Self> {
        // An algorithm that is not known is none that a signature could be of.
        let algorithm = match value.get("alg") {
            Some(name) => Some(name.as_str()?.parse::<Algorithm>().ok()?),
            None => None,
        };
        let jwk: Jwk = serde_json::from_value(value).ok()?;
        let family = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => AlgorithmFamily::Rsa,
            AlgorithmParameters::EllipticCurve(_) => AlgorithmFamily::Ec,
            AlgorithmParameters::OctetKeyPair(_) => AlgorithmFamily::Ed,
            // A secret that everybody can read is none.
            _ => return None,
        };
        if jwk.common.public_key_use.as_ref().is_some_and(|of| *of != PublicKeyUse::Signature) {
            return None;
        }
        let verifying = DecodingKey::from_jwk(&jwk).ok()?;
        Some(Self { id: jwk.common.key_id, family, algorithm, verifying })
    }
}

fn family(algorithm: Algorithm) -> AlgorithmFamily {
    match algorithm {
        Algorithm::ES256 | Algorithm::ES384 => AlgorithmFamily::Ec,
        Algorithm::EdDSA => AlgorithmFamily::Ed,
        Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => AlgorithmFamily::Hmac,
        _ => AlgorithmFamily::Rsa,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn known(keys: &[Value]) -> Known {
        Known { keys: keys.iter().cloned().filter_map(Key::read).collect(), at: Instant::now() }
    }

    #[test]
    fn keys_are_for_what_they_say() {
        let (n, x) =
            ("sXchDaQebHnPiGvyDOAT4saGEUetSyo9MKLOoWFsueri", "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU");
        let y = "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0";
        let known = known(&[
            json!({ "kty": "RSA", "kid": "r", "n": n, "e": "AQAB", "alg": "RS256", "use": "sig" }),
            json!({ "kty": "RSA", "kid": "enc", "n": n, "e": "AQAB", "use": "enc" }),
            json!({ "kty": "RSA", "kid": "oaep", "n": n, "e": "AQAB", "alg": "RSA-OAEP" }),
            json!({ "kty": "EC", "kid": "e", "crv": "P-256", "x": x, "y": y }),
            json!({ "kty": "oct", "kid": "s", "k": "c2VjcmV0" }),
            json!({ "kty": "new", "kid": "n" }),
            json!("nonsense"),
        ]);
        assert_eq!(known.keys.len(), 2);
        let count = |id, algorithm| known.fitting(id, algorithm).len();
        assert_eq!((count(Some("r"), Algorithm::RS256), count(None, Algorithm::RS256)), (1, 1));
        assert_eq!((count(Some("r"), Algorithm::RS512), count(Some("r"), Algorithm::ES256)), (0, 0));
        assert_eq!((count(Some("e"), Algorithm::ES256), count(Some("E"), Algorithm::ES256)), (1, 0));
        for secret in [Algorithm::HS256, Algorithm::HS512] {
            assert_eq!(count(None, secret) + count(Some("s"), secret), 0);
        }
    }
}
