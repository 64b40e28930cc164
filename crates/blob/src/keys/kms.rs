//! A master key in AWS KMS (or what speaks its protocol): it never leaves the service, which is asked to seal and open.

use std::{fmt, time::Duration};

use async_trait::async_trait;
use aws_config::{BehaviorVersion, Region};
use aws_sdk_kms::{
    Client,
    config::{http::HttpResponse, retry::RetryConfig, timeout::TimeoutConfig},
    error::{DisplayErrorContext, ProvideErrorMetadata, SdkError},
    primitives::Blob,
};
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use maildrop::{MasterKeyId, SealedKey, TenantId, port::BlobError};
use zeroize::Zeroizing;

use super::{KeyWrap, TenantKey};

/// Version of the sealed key's layout.
const VERSION: u8 = 1;
/// Kind of sealed key: wrapped by a key service.
const KIND_SERVICE: u8 = 2;
/// Where the service's octets start: after version, kind and key id.
const SEALED_AT: usize = 10;
/// What the service binds to what it seals, and writes to its log (CloudTrail).
const CONTEXT: &str = "postern:tenant";
/// Longest text of an error kept for the log.
const TEXT_CHARS_MAX: usize = 300;

/// How a key service is asked. [`KmsConfig::new`] gives the defaults.
#[derive(Clone, Debug)]
pub struct KmsConfig {
    /// The key.
    pub key: KmsKeyArn,
    /// The server's URL; by default Amazon's, by the key's region.
    pub endpoint: Option<String>,
    /// Longest time of one attempt; all of them together have twice that. Default: 3 s.
    pub timeout: Duration,
    /// Attempts in all, with growing, jittered pauses. Default: 3.
    pub attempts_max: u32,
}

impl KmsConfig {
    /// The defaults, for a key.
    pub fn new(key: KmsKeyArn) -> Self {
        Self { key, endpoint: None, timeout: Duration::from_secs(3), attempts_max: 3 }
    }
}

/// Names a key of AWS KMS: `arn:aws:kms:REGION:ACCOUNT:key/ID`. Not an alias, which may come to mean another key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KmsKeyArn(String);

/// Why a text is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a key of AWS KMS is named by its ARN, arn:aws:kms:REGION:ACCOUNT:key/ID, and not by an alias")]
pub struct KmsKeyArnError;

impl KmsKeyArn {
    /// The ARN.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn region(&self) -> &str {
        self.0.split(':').nth(3).unwrap_or_default()
    }

    /// What names or tells the key: no secret, for an ARN is none.
    fn digest(&self, purpose: &str) -> [u8; 32] {
        blake3::derive_key(purpose, self.0.as_bytes())
    }
}

impl std::str::FromStr for KmsKeyArn {
    type Err = KmsKeyArnError;

    fn from_str(text: &str) -> Result<Self, KmsKeyArnError> {
        let parts: Vec<&str> = text.split(':').collect();
        let [arn, partition, service, region, account, key] = parts[..] else { return Err(KmsKeyArnError) };
        let id = key.strip_prefix("key/").ok_or(KmsKeyArnError)?;
        let filled = [partition, region, account, id]
            .iter()
            .all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'));
        if arn == "arn" && service == "kms" && filled {
            Ok(Self(text.to_owned()))
        } else {
            Err(KmsKeyArnError)
        }
    }
}

/// A master key in a key service.
pub struct KmsKey {
    client: Client,
    key: KmsKeyArn,
    id: MasterKeyId,
}

impl KmsKey {
    /// The key, asked for with the credentials of the standard AWS chain. Makes no request.
    pub async fn connect(config: KmsConfig) -> Self {
        let http = aws_smithy_http_client::Builder::new()
            .tls_provider(Provider::Rustls(CryptoMode::AwsLc))
            .build_https();
        let shared = aws_config::defaults(BehaviorVersion::latest())
            .http_client(http)
            .region(Region::new(config.key.region().to_owned()))
            .load()
            .await;
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(config.timeout)
            .operation_attempt_timeout(config.timeout)
            .operation_timeout(config.timeout * 2)
            .build();
        let retries = RetryConfig::standard()
            .with_max_attempts(config.attempts_max.max(1))
            .with_initial_backoff(Duration::from_millis(50))
            .with_max_backoff(Duration::from_secs(1));
        let mut builder =
            aws_sdk_kms::config::Builder::from(&shared).timeout_config(timeouts).retry_config(retries);
        if let Some(endpoint) = &config.endpoint {
            builder = builder.endpoint_url(endpoint);
        }
        let digest = config.key.digest("postern kms key v1: key id");
        let mut id = [0; 8];
        id.copy_from_slice(&digest[..8]);
        let id = MasterKeyId::from_octets(id);
        Self { client: Client::from_conf(builder.build()), key: config.key, id }
    }
}

#[async_trait]
impl KeyWrap for KmsKey {
    fn id(&self) -> MasterKeyId {
        self.id
    }

    fn check_value(&self) -> [u8; 32] {
        self.key.digest("postern kms key v1: check value")
    }

    fn is_remote(&self) -> bool {
        true
    }

    async fn seal(&self, tenant: TenantId, key: &TenantKey) -> Result<SealedKey, BlobError> {
        let sent = self
            .client
            .encrypt()
            .key_id(self.key.as_str())
            .plaintext(Blob::new(key.octets().as_slice()))
            .encryption_context(CONTEXT, tenant.to_string())
            .send()
            .await
            .map_err(|error| kms_error("seal", &error))?;
        let sealed = sent.ciphertext_blob().map(AsRef::as_ref).unwrap_or_default();
        if sealed.is_empty() {
            return Err(BlobError::Unavailable("the key service answered without a sealed key".into()));
        }
        Ok(SealedKey([&[VERSION, KIND_SERVICE], &self.id.as_octets()[..], sealed].concat()))
    }

    async fn open(&self, tenant: TenantId, sealed: &SealedKey) -> Result<TenantKey, BlobError> {
        let octets = &sealed.0;
        if octets.len() <= SEALED_AT || octets[..2] != [VERSION, KIND_SERVICE] {
            return Err(match sealed.master_key().filter(|id| *id != self.id) {
                Some(id) => BlobError::NoMasterKey(id),
                None => BlobError::Corrupt("data key is not in a form this version knows".into()),
            });
        }
        if let Some(id) = sealed.master_key().filter(|id| *id != self.id) {
            return Err(BlobError::NoMasterKey(id));
        }
        let sent = self
            .client
            .decrypt()
            .key_id(self.key.as_str())
            .ciphertext_blob(Blob::new(&octets[SEALED_AT..]))
            .encryption_context(CONTEXT, tenant.to_string())
            .send()
            .await
            .map_err(|error| kms_error("open", &error))?;
        let plain = sent.plaintext.map(|plain| Zeroizing::new(plain.into_inner()));
        plain.and_then(|plain| TenantKey::from_slice(&plain)).ok_or(BlobError::WrongKey)
    }
}

impl fmt::Debug for KmsKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KmsKey").field("key", &self.key).finish_non_exhaustive()
    }
}

/// What the service's errors mean to the caller.
fn kms_error<E>(what: &str, error: &SdkError<E, HttpResponse>) -> BlobError
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let clip = |text: String| text.chars().take(TEXT_CHARS_MAX).collect::<String>();
    match error {
        SdkError::ServiceError(service) => {
            let code = service.err().code().unwrap_or_default();
            let message = service.err().message().unwrap_or_default();
            let status = service.raw().status().as_u16();
            by_code(code, clip(format!("key service, {what}: {status} {code} {message}")))
        }
        SdkError::ConstructionFailure(_) => {
            BlobError::Misconfigured(clip(format!("key service, {what}: {}", DisplayErrorContext(error))))
        }
        _ => BlobError::Unavailable(clip(format!("key service, {what}: {}", DisplayErrorContext(error)))),
    }
}

fn by_code(code: &str, text: String) -> BlobError {
    match code {
        // Not what this key sealed, or not for this tenant.
        "InvalidCiphertextException" | "IncorrectKeyException" => BlobError::WrongKey,
        // Disabled, being deleted, no such key, no right to it.
        "DisabledException" | "KMSInvalidStateException" | "NotFoundException" | "AccessDeniedException" => {
            BlobError::Misconfigured(text)
        }
        // Credentials of a moment ago, clocks, what stands in between: no word about this key.
        _ => BlobError::Unavailable(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_named_by_its_arn() {
        let good = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";
        assert_eq!(good.parse::<KmsKeyArn>().unwrap().region(), "eu-central-1");
        for bad in [
            "",
            "1234abcd-12ab-34cd-56ef-1234567890ab",
            "arn:aws:kms:eu-central-1:111122223333:alias/mail",
            "arn:aws:s3:eu-central-1:111122223333:key/x",
            "arn:aws:kms::111122223333:key/x",
            "arn:aws:kms:eu-central-1:111122223333:key/",
            "arn:aws:kms:eu-central-1:111122223333:key/x:y",
        ] {
            assert_eq!(bad.parse::<KmsKeyArn>(), Err(KmsKeyArnError), "{bad}");
        }
    }

    #[track_caller]
    fn check(code: &str, expected: fn(String) -> BlobError) {
        let found = by_code(code, String::new());
        let expected = expected(String::new());
        assert_eq!(std::mem::discriminant(&found), std::mem::discriminant(&expected), "{code}");
    }

    #[test]
    fn codes_mean_what_the_caller_does_next() {
        check("ThrottlingException", BlobError::Unavailable);
        check("KMSInternalException", BlobError::Unavailable);
        check("", BlobError::Unavailable);
        check("DisabledException", BlobError::Misconfigured);
        check("AccessDeniedException", BlobError::Misconfigured);
        check("InvalidSignatureException", BlobError::Unavailable);
        check("InvalidCiphertextException", |_| BlobError::WrongKey);
    }
}
