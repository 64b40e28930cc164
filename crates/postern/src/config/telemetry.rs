//! What a node tells of itself: metrics, log and traces.

use std::path::PathBuf;

use serde::Deserialize;

use super::{
    ConfigError,
    types::{Secret, optional_text, parsed, text},
};

/// What `/metrics` shows.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Metrics {
    /// Whether there are series of single tenants. Default: no: each tenant has some ten.
    pub(crate) tenant_series: bool,
    /// How many tenants have series of their own; the others share one label. Default: 1,000.
    pub(crate) tenant_series_max: usize,
}

impl Default for Metrics {
    fn default() -> Self {
        Self { tenant_series: false, tenant_series_max: 1000 }
    }
}

/// How the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// A JSON object a line.
    #[default]
    Json,
}

/// The log, on standard error.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Log {
    /// `json` or `text`. Default: `json`.
    pub(crate) format: LogFormat,
    /// A filter such as `info` or `info,index=debug`. Default: `info`.
    #[serde(deserialize_with = "parsed")]
    pub(crate) filter: LogFilter,
    /// Whether clients' addresses are logged. Default: yes.
    pub(crate) client_addresses: bool,
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::default(), filter: LogFilter::default(), client_addresses: true }
    }
}

/// A filter directive that was read once to see that it can be.
#[derive(Debug, Clone)]
pub(crate) struct LogFilter(pub(crate) String);

impl Default for LogFilter {
    fn default() -> Self {
        Self("info".to_owned())
    }
}

impl std::str::FromStr for LogFilter {
    type Err = tracing_subscriber::filter::ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        tracing_subscriber::EnvFilter::try_new(text).map(|_| Self(text.to_owned()))
    }
}

/// Traces for a collector.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Telemetry {
    /// The collector: `http://host:4318`, OTLP over HTTP. Default: none, and nothing is sent.
    #[serde(deserialize_with = "optional_text")]
    pub(crate) otlp_endpoint: Option<String>,
    /// Headers for it, `name=value` with commas between: it may want a token.
    pub(crate) otlp_headers: Option<Secret>,
    /// A file that holds them.
    pub(crate) otlp_headers_file: Option<PathBuf>,
    /// What the spans say they come from. Default: `postern`.
    #[serde(deserialize_with = "text")]
    pub(crate) service_name: String,
    /// The share of sessions that are sent, 0 to 1. Default: 1.
    pub(crate) sampling_ratio: f64,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self {
            otlp_endpoint: None,
            otlp_headers: None,
            otlp_headers_file: None,
            service_name: "postern".to_owned(),
            sampling_ratio: 1.0,
        }
    }
}

impl Telemetry {
    /// The headers, from wherever they are given.
    pub(crate) fn headers(&self) -> Result<Vec<(String, String)>, ConfigError> {
        let path = "telemetry.otlp_headers";
        let text = Secret::from_either(self.otlp_headers.as_ref(), self.otlp_headers_file.as_deref(), path)?;
        let Some(text) = text else { return Ok(Vec::new()) };
        let pairs = text.expose().split(',').map(|pair| {
            let (name, value) = pair.split_once('=')?;
            let (name, value) = (name.trim(), value.trim());
            let good = name.parse::<http::HeaderName>().is_ok() && http::HeaderValue::from_str(value).is_ok();
            good.then(|| (name.to_owned(), value.to_owned()))
        });
        let pairs: Option<_> = pairs.collect();
        pairs.ok_or_else(|| ConfigError::new(path, "must be name=value, with commas between"))
    }
}
