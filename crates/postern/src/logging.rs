//! The log, on standard error.

mod json;

use std::io;

use tracing::{Level, Metadata, level_filters::LevelFilter};
use tracing_subscriber::{
    EnvFilter, Layer,
    filter::{FilterExt as _, FilterFn},
    layer::SubscriberExt as _,
    registry::Registry,
    util::SubscriberInitExt as _,
};

use crate::{
    config::{Log, LogFormat},
    telemetry::Telemetry,
};

/// Libraries that show at trace what crosses the wire, whatever the filter says of them. The S3 client shows
/// requests and answers: headers with session tokens, and what a credentials service answers. rustls shows
/// the tickets by which sessions are resumed.
const WIRE_AT_TRACE: [&str; 4] = ["aws_sigv4", "aws_smithy_http_client", "aws_smithy_runtime", "rustls"];

/// Whether what it says may stand in a log.
fn is_tellable(metadata: &Metadata<'_>) -> bool {
    let library = metadata.target().split("::").next().unwrap_or_default();
    *metadata.level() != Level::TRACE || !WIRE_AT_TRACE.contains(&library)
}

/// Starts to log, and to give spans to `telemetry`. A second call changes nothing.
pub(crate) fn start(config: &Log, telemetry: &Telemetry) {
    let filter = EnvFilter::try_new(&config.filter.0).unwrap_or_else(|_| EnvFilter::new("info"));
    let lines: Box<dyn Layer<Registry> + Send + Sync> = match config.format {
        LogFormat::Json => json::JsonLines::new(io::stderr).boxed(),
        LogFormat::Text => tracing_subscriber::fmt::layer().with_writer(io::stderr).boxed(),
    };
    let tellable = FilterFn::new(is_tellable).with_max_level_hint(LevelFilter::TRACE);
    let mut layers = vec![lines.with_filter(filter.and(tellable)).boxed()];
    layers.extend(telemetry.layer());
    let _ = tracing_subscriber::registry().with(layers).try_init();
}
