//! The results of the loss of an upstream, and their metrics.

use http::StatusCode;

/// The result of the loss of an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ResumeOutcome {
    /// The stream continued.
    Resumed,
    /// The upstream had no more events.
    Over,
    /// The upstream rejected the request.
    Refused,
    /// The upstream was not back in time.
    GaveUp,
}

impl ResumeOutcome {
    /// All values.
    pub const ALL: &[Self] = &[Self::Resumed, Self::Over, Self::Refused, Self::GaveUp];

    /// The value of the label `outcome` in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Resumed => "resumed",
            Self::Over => "over",
            Self::Refused => "refused",
            Self::GaveUp => "gave_up",
        }
    }
}

/// Why a stream could not be resumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ResumeError {
    /// The upstream ended it properly, and it could not be resumed.
    #[error("the upstream ended the stream")]
    Ended,
    /// The upstream responded with this status to the reconnect request.
    #[error("the upstream responded {0} to the reconnect request")]
    Refused(StatusCode),
    /// The numeric ids of the upstream restarted at one outside of the window.
    #[error("the upstream's event ids restarted: the client's position is unknown")]
    Renumbered,
    /// An event that the upstream perhaps repeats is longer than 1 MiB, and its `id` line is not in that.
    #[error("an event without an id in its first MiB may be a duplicate")]
    TooLong,
}

pub(crate) fn describe_metrics() {
    for &outcome in ResumeOutcome::ALL {
        metrics::counter!("sse_guard_resumes_total", "outcome" => outcome.as_str()).increment(0);
    }
    metrics::counter!("sse_guard_duplicate_events_dropped_total").increment(0);
    metrics::counter!("sse_guard_upstream_replacements_total").increment(0);
    let count = |name, what| metrics::describe_counter!(name, metrics::Unit::Count, what);
    count(
        "sse_guard_resumes_total",
        "Streams that lost their upstream, by outcome",
    );
    count(
        "sse_guard_duplicate_events_dropped_total",
        "Events that an upstream repeated, and that were dropped",
    );
    count(
        "sse_guard_upstream_replacements_total",
        "Upstream connections that were replaced for their age",
    );
    metrics::describe_histogram!(
        "sse_guard_resume_seconds",
        metrics::Unit::Seconds,
        "Time from the loss of an upstream to its return"
    );
}
