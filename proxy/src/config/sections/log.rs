//! `[log]`.

use super::super::key::{Key, Table};
use super::super::kind::Shape;

pub(super) const TABLE: Table = Table {
    name: "log",
    about: "Logs, on standard error.",
    reference: "See [logs](operations.md#logs).",
    keys: &[
        Key::proxy("log.format", Shape::Choice(&["text", "json"]))
            .default("text")
            .help("Format of log lines")
            .advice("Use json for log collectors."),
        Key::proxy(
            "log.level",
            Shape::Choice(&["error", "warn", "info", "debug", "trace"]),
        )
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
        Key::proxy("log.requests", Shape::Choice(&["off", "errors", "all"]))
            .default("off")
            .help(
                "Log requests that do not become event streams: none, those with status 400 and \
                 above, or all",
            )
            .advice("One of off, errors, all."),
        Key::proxy("log.requests_format", Shape::Choice(&["log", "combined"]))
            .default("log")
            .help(
                "Format of the lines of log.requests: as other lines (log.format), or in the \
                 Combined Log Format on standard output",
            )
            .advice("One of log, combined."),
    ],
};
