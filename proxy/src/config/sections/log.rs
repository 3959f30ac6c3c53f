//! `[log]`: logs, on standard error.

use super::super::given::Scope;
use super::super::key::{Key, Table};
use super::super::kind::Shape;
use super::super::mistake::Mistake;
use super::super::value::{Choice, Rate, choice};

pub(super) const TABLE: Table = Table {
    name: "log",
    about: "Logs, on standard error.",
    reference: "See [logs](operations.md#logs).",
    keys: &[
        Key::proxy("log.format", Shape::Choice(LogFormat::WORDS))
            .default("text")
            .help("Format of log lines")
            .advice("Use json for log collectors."),
        Key::proxy("log.level", Shape::Choice(Level::WORDS))
            .default("info")
            .help("Minimum severity of log lines")
            .advice("One of error, warn, info, debug, trace."),
        Key::proxy("log.stream_rate", Shape::Rate)
            .or_off()
            .default("100/s")
            .formerly("log.streams")
            .help(
                "Log at most this many streams per interval; the excess is only counted. off: log \
                 all",
            ),
        Key::proxy("log.requests", Shape::Choice(LogRequests::WORDS))
            .default("off")
            .help(
                "Log requests that do not become event streams: none, those with status 400 and \
                 above, or all",
            )
            .advice("One of off, errors, all."),
        Key::proxy("log.requests_format", Shape::Choice(RequestsFormat::WORDS))
            .default("log")
            .help(
                "Format of the lines of log.requests: as other lines (log.format), or in the \
                 Combined Log Format on standard output",
            )
            .advice("One of log, combined."),
    ],
};

/// Log format and level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    /// Format of log lines.
    pub format: LogFormat,
    /// Lowest severity that is logged.
    pub level: Level,
    /// Maximum rate of logged streams; all of them if `None`.
    pub stream_rate: Option<Rate>,
    /// Which requests that do not become event streams are logged.
    pub requests: LogRequests,
    /// How those are written.
    pub requests_format: RequestsFormat,
}

impl Log {
    pub(in super::super) fn read(proxy: Scope<'_>) -> Result<Self, Mistake> {
        Ok(Self {
            format: proxy.get("log.format")?,
            level: proxy.get("log.level")?,
            stream_rate: proxy.get("log.stream_rate")?,
            requests: proxy.get("log.requests")?,
            requests_format: proxy.get("log.requests_format")?,
        })
    }
}

/// Format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

choice! { LogFormat {
    "text" => Text,
    "json" => Json,
} }

/// Severity of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Something failed.
    Error,
    /// Something is unusual.
    Warn,
    /// Something happened.
    Info,
    /// Details for operators.
    Debug,
    /// Details for developers.
    Trace,
}

choice! { Level {
    "error" => Error,
    "warn" => Warn,
    "info" => Info,
    "debug" => Debug,
    "trace" => Trace,
} }

impl Level {
    /// The level's name in lower case, as log filters take it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// Which requests that do not become event streams are logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogRequests {
    /// None.
    Off,
    /// Those with status 400 and above, but for those that a limit rejects.
    Errors,
    /// All.
    All,
}

choice! { LogRequests {
    "off" => Off,
    "errors" => Errors,
    "all" => All,
} }

/// How lines of single requests are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestsFormat {
    /// As other lines.
    Log,
    /// The Combined Log Format, on standard output.
    Combined,
}

choice! { RequestsFormat {
    "log" => Log,
    "combined" => Combined,
} }
