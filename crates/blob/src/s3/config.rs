//! How the S3 adapter is set up.

use std::{fmt, time::Duration};

use aws_config::{BehaviorVersion, Region};
use aws_sdk_s3::{
    Client,
    config::{
        Credentials, RequestChecksumCalculation, ResponseChecksumValidation, StalledStreamProtectionConfig,
        retry::{RetryConfig, RetryPartition, TokenBucket},
        timeout::TimeoutConfig,
    },
};
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};

use super::{attempts::Attempts, transfer_time};
use crate::own::Guarded;

/// The region signed into requests to a custom endpoint when none is given: most such servers take any.
const CUSTOM_ENDPOINT_REGION: &str = "us-east-1";

/// Tokens of a retry; a request that succeeds at the first attempt gives one back.
const RETRY_COST: u32 = 10;

/// How the S3 store is set up. [`S3Config::new`] gives the defaults.
#[derive(Clone, Debug)]
pub struct S3Config {
    /// The bucket. It must exist.
    pub bucket: String,
    /// The region; by default from the standard AWS chain, or `us-east-1` where an endpoint is given.
    pub region: Option<String>,
    /// The server's URL; by default Amazon's, by region.
    pub endpoint: Option<String>,
    /// Whether the bucket stands in the path instead of the host name. Default: `true` with an endpoint,
    /// for hardly any private server has a name per bucket.
    pub force_path_style: Option<bool>,
    /// When the SDK adds checksums of its own. Default: with an endpoint `WhenRequired`, because some
    /// servers refuse the trailers; otherwise `WhenSupported`.
    pub checksum: Option<ChecksumMode>,
    /// Longest wait for a connection. Default: 3 s.
    pub connect_timeout: Duration,
    /// Longest silence of the server after a request was sent. Default: 10 s.
    pub read_timeout: Duration,
    /// Pace an upload must keep: each attempt gets `read_timeout` and its octets at this pace. Default:
    /// 128 KiB a second.
    pub upload_octets_per_second_min: u64,
    /// Longest time a body may stand still while it is being read. Default: 5 s.
    pub stall_grace: Duration,
    /// Attempts in all at one request, with growing, jittered pauses up to a second; all of them together have the
    /// time of two. Default: 3.
    pub attempts_max: u32,
    /// Second and third attempts there may be in a row on this client, while nothing succeeds at the first; each ten
    /// requests that do earn one back. Default: 30.
    pub retries_max: u32,
    /// Most short requests at once. Default: 128.
    pub requests_max: usize,
    /// Most long downloads (over 256 KiB) at once. Default: 256.
    pub downloads_max: usize,
    /// Longest wait for one of these places. Default: 15 s.
    pub queue_timeout: Duration,
    /// Credentials; by default from the standard AWS chain (environment, profile, web identity, IMDS).
    pub credentials: Option<StaticCredentials>,
}

/// When the SDK computes and checks checksums of whole bodies. Ours are there in any case.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChecksumMode {
    /// Wherever the operation knows them (Amazon's own default).
    WhenSupported,
    /// Only where the operation demands them.
    WhenRequired,
}

/// Credentials given by hand.
#[derive(Clone)]
pub struct StaticCredentials {
    /// The access key id.
    pub access_key: String,
    /// The secret.
    pub secret_key: String,
}

impl fmt::Debug for StaticCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StaticCredentials").field("access_key", &self.access_key).finish_non_exhaustive()
    }
}

impl S3Config {
    /// The defaults, for `bucket`.
    pub fn new(bucket: impl Into<String>) -> Self {
        Self {
            bucket: bucket.into(),
            region: None,
            endpoint: None,
            force_path_style: None,
            checksum: None,
            connect_timeout: Duration::from_secs(3),
            read_timeout: Duration::from_secs(10),
            upload_octets_per_second_min: 128 * 1024,
            stall_grace: Duration::from_secs(5),
            attempts_max: 3,
            retries_max: 30,
            requests_max: 128,
            downloads_max: 256,
            queue_timeout: Duration::from_secs(15),
            credentials: None,
        }
    }

    /// Deadlines of a request that carries up to `octets`: those of each attempt, and of all together twice that, so
    /// that one that is lost in silence can be repeated, and one that is slow for good cannot thrice.
    ///
    /// The SDK counts the time a body takes to go out against both the attempt and the wait for the answer,
    /// so both grow with it.
    pub(super) fn timeouts(&self, octets: u64) -> TimeoutConfig {
        let read = self.read_timeout + transfer_time(octets, self.upload_octets_per_second_min);
        TimeoutConfig::builder()
            .connect_timeout(self.connect_timeout)
            .read_timeout(read)
            .operation_attempt_timeout(self.connect_timeout + read)
            .operation_timeout((self.connect_timeout + read) * 2)
            .build()
    }

    /// What retries are paid from, shared by all requests of a client whatever their deadlines.
    fn retry_budget(&self) -> RetryPartition {
        let tokens = (self.retries_max * RETRY_COST) as usize;
        let bucket = TokenBucket::builder()
            .capacity(tokens)
            .retry_cost(RETRY_COST)
            .throttling_retry_cost(RETRY_COST)
            .timeout_retry_cost(RETRY_COST)
            .build();
        RetryPartition::custom("postern").token_bucket(bucket).build()
    }

    pub(super) async fn client(&self, attempts: Attempts, guarded: Option<Guarded>) -> Client {
        let http = aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::AwsLc));
        let http = match guarded {
            Some(guarded) => http.build_with_resolver(guarded),
            None => http.build_https(),
        };
        let mut loader = aws_config::defaults(BehaviorVersion::latest()).http_client(http);
        let region = self.region.clone();
        let custom = self.endpoint.is_some();
        if let Some(region) = region.or_else(|| custom.then(|| CUSTOM_ENDPOINT_REGION.to_owned())) {
            loader = loader.region(Region::new(region));
        }
        if let Some(given) = &self.credentials {
            let given = Credentials::new(&given.access_key, &given.secret_key, None, None, "configuration");
            loader = loader.credentials_provider(given);
        }
        let shared = loader.load().await;

        let (request, response) = match self.checksum.unwrap_or(ChecksumMode::default_for(custom)) {
            ChecksumMode::WhenSupported => {
                (RequestChecksumCalculation::WhenSupported, ResponseChecksumValidation::WhenSupported)
            }
            ChecksumMode::WhenRequired => {
                (RequestChecksumCalculation::WhenRequired, ResponseChecksumValidation::WhenRequired)
            }
        };
        let mut config = aws_sdk_s3::config::Builder::from(&shared)
            .force_path_style(self.force_path_style.unwrap_or(custom))
            .request_checksum_calculation(request)
            .response_checksum_validation(response)
            .timeout_config(self.timeouts(0))
            .interceptor(attempts)
            .retry_partition(self.retry_budget())
            .stalled_stream_protection(
                StalledStreamProtectionConfig::enabled().grace_period(self.stall_grace).build(),
            )
            .retry_config(
                RetryConfig::standard()
                    .with_max_attempts(self.attempts_max.max(1))
                    .with_initial_backoff(Duration::from_millis(50))
                    .with_max_backoff(Duration::from_secs(1)),
            );
        if let Some(endpoint) = &self.endpoint {
            config = config.endpoint_url(endpoint);
        }
        Client::from_conf(config.build())
    }
}

impl ChecksumMode {
    fn default_for(custom_endpoint: bool) -> Self {
        if custom_endpoint { Self::WhenRequired } else { Self::WhenSupported }
    }
}
