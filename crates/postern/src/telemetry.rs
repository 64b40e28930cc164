//! Traces for a collector, by OTLP over HTTP with protobuf bodies.
//!
//! What is sent are the spans of sessions and requests, with the fields the log shows; never the log's lines.
//! Spans wait in a bounded queue, from where a thread of its own sends them: a collector that is slow or away
//! costs the spans that no longer fit in, and nothing else.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use anyhow::Context as _;
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use opentelemetry::{KeyValue, trace::TracerProvider as _};
use opentelemetry_http::{HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::{
    Resource,
    trace::{Sampler, SdkTracerProvider},
};
use tracing::{Metadata, info, level_filters::LevelFilter, warn};
use tracing_subscriber::{Layer, filter::filter_fn, registry::Registry};

use crate::config::{self, ConfigError};

/// Longest time for one request to the collector: the default of OTLP's exporters.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest time for what is still queued when the node goes down.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);
/// Octets of an answer that are read; a collector has little to say.
const ANSWER_OCTETS_MAX: usize = 64 * 1024;
/// Whose spans are sent: ours. Those of libraries are many, and speak of their own insides.
const TARGETS: [&str; 7] = ["admin_api", "auth", "blob", "frontend", "index", "maildrop", "postern"];

/// The exporter, where there is one.
#[derive(Debug, Default)]
pub(crate) struct Telemetry {
    provider: Option<SdkTracerProvider>,
}

impl Telemetry {
    /// Starts the exporter that `config` wants, if any, for the node of this name.
    pub(crate) fn start(config: &config::Telemetry, node: &str) -> anyhow::Result<Self> {
        let Some(endpoint) = &config.otlp_endpoint else { return Ok(Self::default()) };
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(Client::new()?)
            .with_endpoint(traces_url(endpoint))
            .with_headers(config.headers()?.into_iter().collect())
            .with_timeout(REQUEST_TIMEOUT)
            .build()
            .map_err(|error| ConfigError::new("telemetry.otlp_endpoint", error))?;
        let resource = Resource::builder()
            .with_service_name(config.service_name.clone())
            .with_attribute(KeyValue::new("service.instance.id", node.to_owned()))
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build();
        let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(config.sampling_ratio)));
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(resource)
            .with_sampler(sampler)
            .build();
        Ok(Self { provider: Some(provider) })
    }

    /// What gives the exporter its spans.
    pub(crate) fn layer(&self) -> Option<Box<dyn Layer<Registry> + Send + Sync>> {
        let tracer = self.provider.as_ref()?.tracer("postern");
        let layer = tracing_opentelemetry::layer()
            .with_tracer(tracer)
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false);
        Some(layer.with_filter(filter_fn(is_sent)).boxed())
    }

    /// Sends what is queued, as far as it goes, and ends the exporter.
    pub(crate) async fn end(self) {
        let Some(provider) = self.provider else { return };
        // Its thread sends by way of this runtime, which must not be kept from it.
        let ended = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(FLUSH_TIMEOUT)).await;
        if let Ok(Err(error)) = ended {
            warn!(%error, "the last spans were not sent");
        }
    }
}

fn is_sent(metadata: &Metadata<'_>) -> bool {
    let room = metadata.target().split("::").next().unwrap_or_default();
    metadata.is_span() && *metadata.level() <= LevelFilter::INFO && TARGETS.contains(&room)
}

/// The collector's address, with OTLP's own path where it has none.
fn traces_url(endpoint: &str) -> String {
    let has_path = endpoint
        .split_once("://")
        .is_some_and(|(_, rest)| rest.split_once('/').is_some_and(|(_, path)| !path.is_empty()));
    if has_path { endpoint.to_owned() } else { format!("{}/v1/traces", endpoint.trim_end_matches('/')) }
}

/// Sends requests on this runtime, for a thread that has none.
#[derive(Debug)]
struct Client {
    http: reqwest::Client,
    runtime: tokio::runtime::Handle,
    /// Whether the last request failed: what stays as it is is not told again.
    failing: AtomicBool,
}

impl Client {
    fn new() -> anyhow::Result<Self> {
        // A redirect could carry the headers' secrets elsewhere.
        let http =
            reqwest::Client::builder().timeout(REQUEST_TIMEOUT).redirect(reqwest::redirect::Policy::none());
        Ok(Self {
            http: http.build().context("make a client for telemetry")?,
            runtime: tokio::runtime::Handle::try_current().context("telemetry needs a runtime")?,
            failing: AtomicBool::new(false),
        })
    }

    fn tell(&self, problem: Option<&dyn std::fmt::Display>) {
        let failed_before = self.failing.swap(problem.is_some(), Ordering::Relaxed);
        match problem {
            Some(problem) if !failed_before => warn!(%problem, "spans cannot be sent"),
            None if failed_before => info!("spans are sent again"),
            Some(_) | None => {}
        }
    }
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let request = reqwest::Request::try_from(request)?;
        let answer = self.runtime.spawn(send(self.http.clone(), request)).await?;
        match &answer {
            Ok(answer) if answer.status().is_success() => self.tell(None),
            Ok(answer) => self.tell(Some(&answer.status())),
            Err(error) => self.tell(Some(&config::Chain(error))),
        }
        Ok(answer?)
    }
}

async fn send(http: reqwest::Client, request: reqwest::Request) -> Result<Response<Bytes>, reqwest::Error> {
    let mut answer = http.execute(request).await?;
    let mut body = BytesMut::new();
    while let Some(octets) = answer.chunk().await? {
        if body.len() + octets.len() > ANSWER_OCTETS_MAX {
            break;
        }
        body.extend_from_slice(&octets);
    }
    let mut response = Response::new(body.freeze());
    *response.status_mut() = answer.status();
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_is_added_where_there_is_none() {
        for (endpoint, url) in [
            ("http://c:4318", "http://c:4318/v1/traces"),
            ("http://c:4318/", "http://c:4318/v1/traces"),
            ("https://c/otlp/traces", "https://c/otlp/traces"),
        ] {
            assert_eq!(traces_url(endpoint), url);
        }
    }
}
