//! `[health]`: when a route and its upstream count as degraded or failing.

use std::time::Duration;

use super::super::given::Scope;
use super::super::key::{Key, Table};
use super::super::kind::Shape;
use super::super::mistake::Mistake;
use super::super::value::Rate;

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

/// Health thresholds of a route; `None` switches a threshold off, except for the comparison with
/// the baseline.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Health {
    /// Whether event rate, gaps and first events without a threshold are compared with the previous
    /// 15 minutes.
    pub baseline: bool,
    /// Minimum event rate per stream.
    pub min_event_rate: Option<Rate>,
    /// Maximum time to the first event, 95th percentile; above zero.
    pub max_first_event_p95: Option<Duration>,
    /// Maximum gap between events, 99th percentile; above zero.
    pub max_gap_p99: Option<Duration>,
    /// Share of requests that fail, and of ends that are breaks; 0 to 1.
    pub max_error_rate: Option<f64>,
    /// Share of early ends among those by the upstream, of streams whose clients reconnect; 0 to 1.
    pub early_ends: Option<f64>,
    /// Share of the streams that came back in a minute; 0 to 1.
    pub reconnects: Option<f64>,
}

impl Health {
    pub(in super::super) fn read(scope: Scope<'_>) -> Result<Self, Mistake> {
        Ok(Self {
            baseline: scope.get("health.baseline")?,
            min_event_rate: scope.get("health.min_event_rate")?,
            max_first_event_p95: scope.get("health.max_first_event_p95")?,
            max_gap_p99: scope.get("health.max_gap_p99")?,
            max_error_rate: scope.get("health.max_error_rate")?,
            early_ends: scope.get("health.early_ends")?,
            reconnects: scope.get("health.reconnects")?,
        })
    }
}
