//! The metrics of one route for the facade.

use super::{Outcome, Unguarded};
use crate::stream::{EndReason, UpstreamFault, ends_counter};
use ::metrics::{Counter, Gauge, Histogram, Unit, counter, gauge, histogram};

/// The metrics of one route, bound to its label.
pub(super) struct Instruments {
    pub(super) active: Gauge,
    pub(super) outcomes: [Counter; Outcome::ALL.len()],
    pub(super) reconnects: Counter,
    pub(super) duration: Histogram,
    pub(super) head: Histogram,
    pub(super) first_event: Histogram,
    pub(super) gap: Histogram,
    pub(super) events: Counter,
    pub(super) bytes: Counter,
    pub(super) dropped: Counter,
}

impl std::fmt::Debug for Instruments {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Instruments").finish_non_exhaustive()
    }
}

impl Instruments {
    pub(super) fn new(route: &str) -> Self {
        // Registered at zero, so that the first of each reason is an increase.
        for &reason in EndReason::ALL {
            match reason {
                EndReason::UpstreamError => UpstreamFault::ALL
                    .iter()
                    .for_each(|fault| ends_counter(Some(route), reason, Some(*fault)).increment(0)),
                _ => ends_counter(Some(route), reason, None).increment(0),
            }
        }
        let route = || route.to_string();
        Self {
            active: gauge!("sse_guard_streams_active", "route" => route()),
            outcomes: Outcome::ALL.map(|outcome| {
                counter!("sse_guard_streams_total", "route" => route(), "outcome" => outcome.as_str())
            }),
            reconnects: counter!("sse_guard_reconnects_total", "route" => route()),
            duration: histogram!("sse_guard_stream_duration_seconds", "route" => route()),
            head: histogram!("sse_guard_time_to_head_seconds", "route" => route()),
            first_event: histogram!("sse_guard_time_to_first_event_seconds", "route" => route()),
            gap: histogram!("sse_guard_event_gap_seconds", "route" => route()),
            events: counter!("sse_guard_events_total", "route" => route()),
            bytes: counter!("sse_guard_bytes_total", "route" => route()),
            dropped: counter!("sse_guard_dropped_bytes_total", "route" => route()),
        }
    }
}

/// Describes the metrics of [`MetricsLayer`](super::MetricsLayer).
pub(crate) fn describe_metrics() {
    for &reason in Unguarded::ALL {
        counter!("sse_guard_unguarded_total", "reason" => reason.as_str()).increment(0);
    }
    let count = |name, what| ::metrics::describe_counter!(name, Unit::Count, what);
    let bytes = |name, what| ::metrics::describe_counter!(name, Unit::Bytes, what);
    let seconds = |name, what| ::metrics::describe_histogram!(name, Unit::Seconds, what);
    ::metrics::describe_gauge!("sse_guard_streams_active", Unit::Count, "Open streams");
    count(
        "sse_guard_streams_total",
        "Requests for an event stream, and other requests that got one, by outcome",
    );
    count(
        "sse_guard_reconnects_total",
        "Streams of clients that reconnect, with a Last-Event-ID or soon after an end on this side",
    );
    count("sse_guard_events_total", "Events with data from upstreams");
    count(
        "sse_guard_unguarded_total",
        "Responses that look like event streams and lack some or all protections, by reason",
    );
    bytes("sse_guard_bytes_total", "Bytes from upstreams");
    bytes(
        "sse_guard_dropped_bytes_total",
        "Bytes of unfinished events, dropped when a stream failed or was ended",
    );
    seconds(
        "sse_guard_stream_duration_seconds",
        "Age of a stream at its end",
    );
    seconds(
        "sse_guard_time_to_head_seconds",
        "From a request to the response head of its event stream",
    );
    seconds(
        "sse_guard_time_to_first_event_seconds",
        "Time from the response head to the first event with data",
    );
    seconds(
        "sse_guard_event_gap_seconds",
        "Time between two chunks that contain events",
    );
}
