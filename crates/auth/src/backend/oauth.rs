//! Tokens of an issuer that a tenant trusts (RFC 6749): whose they are, if they are good.
//!
//! An issuer vouches for mailboxes of the tenant that named it, and of no other: which tenant's issuer is asked is
//! decided by the mailbox that is asked for, never by the token.

mod introspection;
mod keys;

use std::{collections::HashMap, time::Duration};

use jsonwebtoken::{Algorithm, Validation, decode, decode_header};
use maildrop::OauthIssuer;
use serde_json::Value;

use super::{BackendsConfig, Fault, Secrets, Turns, Unfit, callback::TIMEOUT_SECS, http::Http};
use crate::metrics::Metrics;
use introspection::Introspector;
use keys::{Found, Keys};

/// The claim that names the mailbox where the settings name none.
const CLAIM: &str = "email";
/// Clocks may differ by so much where the settings do not say.
const LEEWAY_SECS: u32 = 60;
/// Signatures that are taken. None that the verifier could make itself (HMAC), and never none.
const ALGORITHMS: [Algorithm; 9] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

/// What a token claims.
type Claims = HashMap<String, Value>;

/// An issuer of tokens.
#[derive(Debug)]
pub(super) struct Oauth {
    issuer: String,
    audiences: Vec<String>,
    scopes: Vec<String>,
    claim: String,
    leeway: u64,
    by: By,
}

#[derive(Debug)]
enum By {
    Keys(Keys),
    Introspection(Introspector),
}

impl Oauth {
    pub(super) fn new(
        settings: OauthIssuer,
        secrets: &Secrets,
        config: &BackendsConfig,
    ) -> Result<Self, Unfit> {
        let timeout = Duration::from_secs(settings.timeout_secs.unwrap_or(TIMEOUT_SECS).into());
        let http = Http::new(&config.reach, settings.ca_pem.as_deref(), timeout, config.concurrent_max)?;
        let by = match &settings.introspection {
            Some(introspection) => By::Introspection(Introspector::new(introspection, secrets, http)?),
            None => By::Keys(Keys::new(&settings.issuer, settings.jwks_url.as_deref(), http)?),
        };
        Ok(Self {
            issuer: settings.issuer,
            audiences: settings.audiences,
            scopes: settings.scopes,
            claim: settings.claim.unwrap_or_else(|| CLAIM.to_owned()),
            leeway: settings.leeway_secs.unwrap_or(LEEWAY_SECS).into(),
            by,
        })
    }

    /// What the claim says that names the mailbox; `None` where the token is no good.
    pub(super) async fn holder(
        &self,
        token: &str,
        turns: &Turns,
        metrics: &Metrics,
    ) -> Result<Option<String>, Fault> {
        let claims = match &self.by {
            By::Keys(keys) => self.verified(token, keys, metrics).await?,
            By::Introspection(introspector) => {
                let found = introspector.ask(token, turns, metrics).await?;
                found.filter(|claims| self.are_for_us(claims))
            }
        };
        Ok(claims.and_then(|claims| self.named(&claims)))
    }

    /// The claims of a JWT that the issuer signed (RFC 7519 §7.2).
    async fn verified(&self, token: &str, keys: &Keys, metrics: &Metrics) -> Result<Option<Claims>, Fault> {
        let Ok(header) = decode_header(token) else { return Ok(None) };
        // Extensions that must be understood are not (RFC 7515 §4.1.11); what is encrypted is not for us.
        if !ALGORITHMS.contains(&header.alg) || header.crit.is_some() || header.enc.is_some() {
            return Ok(None);
        }
        let mut validation = Validation::new(header.alg);
        validation.leeway = self.leeway;
        validation.validate_nbf = true;
        validation.set_issuer(&[&self.issuer]);
        validation.set_audience(&self.audiences);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        let Found(candidates) = keys.find(header.kid.as_deref(), header.alg, metrics).await?;
        for key in candidates {
            if let Ok(token) = decode::<Claims>(token, &key, &validation) {
                return Ok(Some(token.claims));
            }
        }
        Ok(None)
    }

    /// Whether what was said of a token is said of one for us and of this time (RFC 7662 §2.2 makes most of it
    /// optional).
    fn are_for_us(&self, claims: &Claims) -> bool {
        let now = jsonwebtoken::get_current_timestamp() as f64;
        let leeway = self.leeway as f64;
        let time = |name: &str| claims.get(name).map(|value| value.as_f64().unwrap_or(f64::NAN));
        let audience = claims.get("aud").map(texts);
        time("exp").is_none_or(|exp| now < exp + leeway)
            && time("nbf").is_none_or(|nbf| nbf - leeway <= now)
            && claims.get("iss").is_none_or(|iss| iss.as_str() == Some(&self.issuer))
            && (self.audiences.is_empty()
                || audience.is_some_and(|aud| aud.iter().any(|aud| self.audiences.contains(aud))))
    }

    /// Whom good claims name, if they have the scopes that are wanted.
    fn named(&self, claims: &Claims) -> Option<String> {
        // `scope` is a list with spaces between (RFC 8693 §4.2); some issuers have `scp`.
        let scopes: Vec<String> =
            ["scope", "scp"].iter().filter_map(|name| claims.get(*name)).flat_map(texts).collect();
        let has = |wanted: &String| {
            scopes.iter().any(|scopes| scopes.split_ascii_whitespace().any(|scope| scope == wanted))
        };
        if !self.scopes.iter().all(has) {
            return None;
        }
        // An address that its owner may claim without proof names nobody.
        let unproved = match claims.get("email_verified") {
            Some(Value::Bool(verified)) => !verified,
            Some(Value::String(word)) => word != "true",
            Some(_) => true,
            None => false,
        };
        if self.claim == "email" && unproved {
            return None;
        }
        claims.get(&self.claim)?.as_str().map(str::to_owned)
    }
}

/// A text, or those of a list.
fn texts(value: &Value) -> Vec<String> {
    match value {
        Value::String(text) => vec![text.clone()],
        Value::Array(values) => values.iter().filter_map(|value| value.as_str().map(str::to_owned)).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::backend::{Reach, http::Http};

    fn oauth(settings: Value) -> Oauth {
        let settings: OauthIssuer = serde_json::from_value(settings).unwrap();
        let http = Http::new(&Reach::default(), None, Duration::from_secs(1), 1).unwrap();
        Oauth {
            by: By::Keys(Keys::new("https://i.test", None, http).unwrap()),
            issuer: settings.issuer,
            audiences: settings.audiences,
            scopes: settings.scopes,
            claim: settings.claim.unwrap_or_else(|| CLAIM.to_owned()),
            leeway: 60,
        }
    }

    fn claims(claims: Value) -> Claims {
        serde_json::from_value(claims).unwrap()
    }

    #[test]
    fn the_claim_names_somebody_where_the_scopes_are_there() {
        let plain = oauth(json!({ "issuer": "i", "scopes": ["mail", "pop"] }));
        let named = |value| plain.named(&claims(value));
        let (a, some) = ("a@b.test", Some("a@b.test".to_owned()));
        assert_eq!(named(json!({ "email": a, "scope": "pop x mail" })), some);
        assert_eq!(named(json!({ "email": a, "scp": ["mail", "pop"], "email_verified": true })), some);
        assert_eq!(named(json!({ "email": a, "scope": "pop mailbox" })), None);
        assert_eq!(named(json!({ "email": a })), None);
        for unproved in [json!(false), json!("false"), json!(null), json!(1)] {
            assert_eq!(named(json!({ "email": a, "scope": "pop mail", "email_verified": unproved })), None);
        }
        assert_eq!(named(json!({ "email": [a], "scope": "pop mail" })), None);
        let other = oauth(json!({ "issuer": "i", "claim": "upn" }));
        assert_eq!(other.named(&claims(json!({ "upn": a, "email_verified": false }))), some);
        assert_eq!(other.named(&claims(json!({ "email": a }))), None);
    }

    #[test]
    fn what_is_said_of_a_token_is_for_us_and_of_now() {
        let now = jsonwebtoken::get_current_timestamp();
        let any = oauth(json!({ "issuer": "i" }));
        let ours = |value| any.are_for_us(&claims(value));
        assert!(ours(json!({})) && ours(json!({ "iss": "i", "exp": now + 5, "nbf": now - 5, "aud": "x" })));
        assert!(ours(json!({ "exp": now - 50, "nbf": now + 50 })), "clocks differ");
        assert!(!ours(json!({ "exp": now - 70 })) && !ours(json!({ "nbf": now + 70 })));
        assert!(
            !ours(json!({ "iss": "j" })) && !ours(json!({ "exp": "never" })) && !ours(json!({ "iss": 1 }))
        );
        let one = oauth(json!({ "issuer": "i", "audiences": ["a", "b"] }));
        assert!(one.are_for_us(&claims(json!({ "aud": ["x", "b"] }))));
        assert!(one.are_for_us(&claims(json!({ "aud": "a" }))));
        assert!(!one.are_for_us(&claims(json!({ "aud": "c" }))) && !one.are_for_us(&claims(json!({}))));
    }
}
