//! The log, on standard error.

mod json;

use std::io;

use tracing_subscriber::{
    EnvFilter, Layer, layer::SubscriberExt as _, registry::Registry, util::SubscriberInitExt as _,
};

use crate::{
    config::{Log, LogFormat},
    telemetry::Telemetry,
};

/// Starts to log, and to give spans to `telemetry`. A second call changes nothing.
pub(crate) fn start(config: &Log, telemetry: &Telemetry) {
    let filter = EnvFilter::try_new(&config.filter.0).unwrap_or_else(|_| EnvFilter::new("info"));
    let lines: Box<dyn Layer<Registry> + Send + Sync> = match config.format {
        LogFormat::Json => json::JsonLines::new(io::stderr).boxed(),
        LogFormat::Text => tracing_subscriber::fmt::layer().with_writer(io::stderr).boxed(),
    };
    let mut layers = vec![lines.with_filter(filter).boxed()];
    layers.extend(telemetry.layer());
    let _ = tracing_subscriber::registry().with(layers).try_init();
}
