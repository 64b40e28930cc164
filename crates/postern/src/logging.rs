//! The log, on standard error.

mod json;

use std::io;

use tracing_subscriber::{EnvFilter, Layer as _, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use crate::config::{Log, LogFormat};

/// Starts to log. A second call changes nothing.
pub(crate) fn start(config: &Log) {
    let filter = EnvFilter::try_new(&config.filter.0).unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = match config.format {
        LogFormat::Json => json::JsonLines::new(io::stderr).boxed(),
        LogFormat::Text => tracing_subscriber::fmt::layer().with_writer(io::stderr).boxed(),
    };
    let _ = tracing_subscriber::registry().with(lines.with_filter(filter)).try_init();
}
