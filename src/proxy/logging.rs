//! Where `tracing` goes: standard error, as text for people or as JSON for machines.

use super::config::{Log, LogFormat};
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// Starts logging. Of other crates only warnings, whatever the level: what they say at lower ones
/// is about their own workings, and may repeat a query with a token in it.
pub(super) fn start(log: &Log) {
    let filter = EnvFilter::new(format!("warn,sse_guard={}", log.level.as_str()));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    match log.format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
}
