//! `[health_check]`.

use super::super::key::{Key, Table};
use super::super::kind::Shape;

pub(super) const TABLE: Table = Table {
    name: "health_check",
    about: "Active health checks of the upstream.",
    reference: "Active health checks of the upstream.",
    keys: &[
        Key::route("health_check.interval", Shape::Duration)
            .or_off()
            .default("off")
            .formerly("upstream.check")
            .help("Interval of active health checks; off: judge by live traffic only")
            .advice(
                "After the third failed check the upstream counts as unreachable (ready.when), \
                 until a check passes. At most once per second. An upstream that several routes \
                 share is checked with the settings of the first of them.",
            ),
        Key::route("health_check.path", Shape::Path)
            .or_off()
            .default("off")
            .formerly("upstream.check_path")
            .help(
                "Path to GET for a health check, which passes with a 2xx or 3xx response; off: \
                 connecting is enough",
            )
            .advice(
                "The path starts at the root of the host, whatever path upstream.url has; the \
                 response must begin within 5 s. Set it for an upstream that may accept \
                 connections without responding. Example: \"/healthz\".",
            ),
    ],
};
