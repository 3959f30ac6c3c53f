//! `[health]`.

use super::super::key::{Key, Table};
use super::super::kind::Shape;

pub(super) const TABLE: Table = Table {
    name: "health",
    about: "When a route and its upstream count as degraded or failing. The state appears in the \
            log, on the dashboard, in /readyz and in the metric sse_guard_health; it does not end \
            any stream. It is computed from the last minute. A route is failing if a time is four \
            times its threshold, or if a share is halfway between its threshold and 1.",
    reference: "When a route or an upstream counts as degraded or failing; see \
                [health](operations.md#health).",
    keys: &[
        Key::route("health.baseline", Shape::Bool)
            .default("true")
            .formerly("health.learn")
            .help(
                "Where no threshold is set, compare event rate, gaps and first events with the \
                 previous 15 minutes",
            )
            .advice("Degraded: a quarter of the usual rate, or four times the usual time."),
        Key::route("health.min_event_rate", Shape::Rate)
            .or_off()
            .default("off")
            .formerly("health.events")
            .help(
                "Minimum events per stream; below it the route is degraded, below a quarter of it \
                 failing",
            )
            .advice("Example: \"6/m\" for a feed that sends an event every ten seconds."),
        Key::route("health.max_first_event_p95", Shape::Duration)
            .or_off()
            .default("off")
            .formerly("health.first_event")
            .help("Maximum time to the first event, 95th percentile"),
        Key::route("health.max_gap_p99", Shape::Duration)
            .or_off()
            .default("off")
            .formerly("health.gap")
            .help("Maximum gap between two events, 99th percentile"),
        Key::route("health.max_error_rate", Shape::Fraction)
            .or_off()
            .default("0.05")
            .formerly("health.errors")
            .help(
                "Share of failed requests, or of streams that the upstream breaks off; from this \
                 value on a route is degraded",
            ),
        Key::route("health.early_ends", Shape::Fraction)
            .or_off()
            .default("0.5")
            .help(
                "Share, among the EventSource streams that the upstream ends, of those that it \
                 ends within 10 s; from this value on a route is degraded",
            )
            .advice("Set \"off\" if streams are short by design, such as the progress of a job."),
        Key::route("health.reconnects", Shape::Fraction)
            .or_off()
            .default("0.5")
            .help(
                "Share of streams whose clients reconnect within a minute; from this value on a \
                 route is degraded",
            )
            .advice(
                "Clients are recognized by their Last-Event-ID; streams that sse-guard itself \
                 ended are not counted.",
            ),
    ],
};
