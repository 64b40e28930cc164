//! A service of the tenant's that is asked of passwords by HTTP (`docs/authentication.md`).

use std::time::{Duration, SystemTime};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use maildrop::{Address, HttpBackend};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{BackendsConfig, Fault, Secrets, Unfit, http::Http, http::fetch, secret::Secret};
use crate::Password;

/// The longest answer that is read.
const ANSWER_OCTETS_MAX: usize = 16 * 1024;
/// Where there is none given.
pub(super) const TIMEOUT_SECS: u32 = 5;

#[derive(Debug)]
pub(super) struct Callback {
    url: reqwest::Url,
    secret: Secret,
    http: Http,
}

/// What is asked.
#[derive(Serialize)]
struct Question<'a> {
    /// The form of all this: 1.
    version: u32,
    /// Different for each question.
    id: String,
    /// The mailbox's address.
    login: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    password: Option<&'a str>,
    /// Where it is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    password_base64: Option<&'a str>,
}

/// What is answered.
#[derive(Deserialize)]
struct Answer {
    result: Judgement,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Judgement {
    Good,
    Refused,
}

impl Callback {
    pub(super) fn new(
        settings: &HttpBackend,
        secrets: &Secrets,
        config: &BackendsConfig,
    ) -> Result<Self, Unfit> {
        let timeout = Duration::from_secs(settings.timeout_secs.unwrap_or(TIMEOUT_SECS).into());
        let http = Http::new(&config.reach, settings.ca_pem.as_deref(), timeout, config.concurrent_max)?;
        let secret = Secret::find("http.secret", &settings.secret, secrets)?;
        Ok(Self { url: settings.url.parse()?, secret, http })
    }

    pub(super) async fn is_password(&self, address: &Address, password: &Password) -> Result<bool, Fault> {
        let text = str::from_utf8(password.expose()).ok();
        let encoded = text.is_none().then(|| Zeroizing::new(STANDARD.encode(password.expose())));
        let question = Question {
            version: 1,
            id: uuid::Uuid::new_v4().to_string(),
            login: address.as_str(),
            password: text,
            password_base64: encoded.as_ref().map(|encoded| encoded.as_str()),
        };
        let body = serde_json::to_vec(&question)?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs().to_string();
        let signature = signature(self.secret.get().await?.as_bytes(), &now, &body);
        let request = self
            .http
            .post(&self.url)?
            .header("Content-Type", "application/json")
            .header("Postern-Timestamp", now)
            .header("Postern-Signature", format!("v1={signature}"))
            .body(body);
        let reply = fetch(request, ANSWER_OCTETS_MAX).await?;
        // Whatever stands between has its own opinions of 401 and 403: only the service's own word counts.
        if reply.status != reqwest::StatusCode::OK {
            return Err(format!("the service answered {}", reply.status.as_u16()).into());
        }
        let answer: Answer =
            serde_json::from_slice(&reply.body).map_err(|_| "the service's answer makes no sense")?;
        Ok(matches!(answer.result, Judgement::Good))
    }
}

/// HMAC-SHA-256 over time and body, in hexadecimal.
fn signature(secret: &[u8], time: &str, body: &[u8]) -> String {
    use aws_lc_rs::hmac;
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, secret));
    context.update(time.as_bytes());
    context.update(b".");
    context.update(body);
    context.sign().as_ref().iter().fold(String::with_capacity(64), |mut text, octet| {
        text.push_str(&format!("{octet:02x}"));
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_over_time_and_body() {
        // printf '1700000000.{"a":1}' | openssl dgst -sha256 -hmac secret
        let signed = signature(b"secret", "1700000000", br#"{"a":1}"#);
        assert_eq!(signed, "49f24e537407743fa4a0242bb63b94b9a47ee99cbbe071ccd8a22550ae411686");
        assert_ne!(signed, signature(b"secret", "1700000001", br#"{"a":1}"#));
        assert_ne!(signed, signature(b"secre", "1700000000", br#"{"a":1}"#));
    }
}
