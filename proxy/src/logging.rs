//! Output of `tracing`: standard error, as text or JSON.

use super::config::{Level, Log, LogFormat};
use std::io::IsTerminal;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload::{self, Handle};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, registry};

/// The log, and how much of it there is.
pub(super) struct Logging(Handle<EnvFilter, Registry>);

/// Of other crates only warnings, whatever the level: their lower levels are about internals, and
/// may contain a query with a token in it.
fn filter(level: Level) -> EnvFilter {
    EnvFilter::new(format!("warn,sse_guard={}", level.as_str()))
}

/// Starts logging.
pub(super) fn start(log: &Log) -> Logging {
    let (filter, handle) = reload::Layer::new(filter(log.level));
    let lines = fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    let lines = match log.format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines
            .json()
            .flatten_event(true)
            .with_span_list(false)
            .boxed(),
    };
    registry().with(filter).with(lines).init();
    Logging(handle)
}

impl Logging {
    /// Of a log that is not written.
    #[cfg(test)]
    pub(super) fn detached() -> Self {
        Self(reload::Layer::new(filter(Level::Info)).1)
    }

    pub(super) fn set_level(&self, level: Level) {
        if let Err(error) = self.0.reload(filter(level)) {
            tracing::warn!(%error, "cannot change the log level");
        }
    }
}
