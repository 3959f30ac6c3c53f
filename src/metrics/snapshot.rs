//! What the layer has counted, for code.

use super::Distribution;
use crate::stream::EndReason;

/// The result of a request for a stream, or of one that got a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// It became a stream.
    Opened,
    /// It became a stream in a content coding, or a range of one, which passes as it is.
    Encoded,
    /// The response was something else.
    Other,
    /// It was turned away.
    Rejected,
    /// The inner service failed, or answered with a 5xx.
    Failed,
    /// The client went before the head.
    ClientGone,
}

impl Outcome {
    pub(super) const ALL: [Self; 6] = [
        Self::Opened,
        Self::Encoded,
        Self::Other,
        Self::Rejected,
        Self::Failed,
        Self::ClientGone,
    ];

    /// The value of the label `outcome`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Encoded => "encoded",
            Self::Other => "other",
            Self::Rejected => "rejected",
            Self::Failed => "failed",
            Self::ClientGone => "client_gone",
        }
    }
}

/// The numbers of a [`MetricsLayer`](super::MetricsLayer) and its clones at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Snapshot {
    /// Streams open now.
    pub active: u64,
    /// Those of them that have lost their upstream and wait for it.
    pub waiting: u64,
    /// Streams opened.
    pub opened: u64,
    /// Those of them whose client came back: with a `Last-Event-ID`, or soon after an end on this side.
    pub reconnects: u64,
    /// Those of the reconnects that followed no end on this side: something between the client and this
    /// process cut the stream.
    pub reconnects_after_cut: u64,
    /// Rejected requests.
    pub rejected: u64,
    /// Requests for a stream at which the inner service failed, or responded with a 5xx.
    pub failed: u64,
    /// Those of them that came from another client than the one that failed before. Where nothing names
    /// clients, each counts as another.
    pub failed_others: u64,
    /// Events with data from upstreams.
    pub events: u64,
    /// Bytes from upstreams.
    pub bytes: u64,
    /// Heartbeats in streams that have ended.
    pub heartbeats: u64,
    /// Pauses between the chunks with events of a stream.
    pub gaps: Distribution,
    /// From a stream's head to its first event with data.
    pub first_events: Distribution,
    /// Age at the end of streams whose clients come back and that the upstream has ended: properly, by
    /// breaking off, or by silence.
    pub upstream_ends: Distribution,
    /// Streams that the upstream has ended properly before they were complete, as a
    /// [`CompletionLayer`](crate::completion::CompletionLayer) found.
    pub cut_short: u64,
    pub(super) ends: [u64; EndReason::ALL.len()],
}

impl Snapshot {
    /// Open streams that have lost their upstream: both counts change one after the other.
    pub fn lost(&self) -> u64 {
        self.waiting.min(self.active)
    }

    /// Returns the number of streams that ended for this reason.
    pub fn ended(&self, reason: EndReason) -> u64 {
        self.ends[reason as usize]
    }

    /// Returns what was added since `earlier`; gauges are those of now.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let since = |number: fn(&Self) -> u64| number(self).saturating_sub(number(earlier));
        Self {
            active: self.active,
            waiting: self.waiting,
            opened: since(|all| all.opened),
            reconnects: since(|all| all.reconnects),
            reconnects_after_cut: since(|all| all.reconnects_after_cut),
            rejected: since(|all| all.rejected),
            failed: since(|all| all.failed),
            failed_others: since(|all| all.failed_others),
            events: since(|all| all.events),
            bytes: since(|all| all.bytes),
            heartbeats: since(|all| all.heartbeats),
            gaps: self.gaps.since(&earlier.gaps),
            first_events: self.first_events.since(&earlier.first_events),
            upstream_ends: self.upstream_ends.since(&earlier.upstream_ends),
            cut_short: since(|all| all.cut_short),
            ends: std::array::from_fn(|reason| {
                self.ends[reason].saturating_sub(earlier.ends[reason])
            }),
        }
    }
}

impl Snapshot {
    /// For tests.
    #[doc(hidden)]
    pub fn add_ends(&mut self, reason: EndReason, streams: u64) {
        self.ends[reason as usize] += streams;
    }
}

impl std::ops::Add for Snapshot {
    type Output = Self;

    /// The numbers of two layers together.
    fn add(self, other: Self) -> Self {
        Self {
            active: self.active + other.active,
            waiting: self.waiting + other.waiting,
            opened: self.opened + other.opened,
            reconnects: self.reconnects + other.reconnects,
            reconnects_after_cut: self.reconnects_after_cut + other.reconnects_after_cut,
            rejected: self.rejected + other.rejected,
            failed: self.failed + other.failed,
            failed_others: self.failed_others + other.failed_others,
            events: self.events + other.events,
            bytes: self.bytes + other.bytes,
            heartbeats: self.heartbeats + other.heartbeats,
            gaps: self.gaps + other.gaps,
            first_events: self.first_events + other.first_events,
            upstream_ends: self.upstream_ends + other.upstream_ends,
            cut_short: self.cut_short + other.cut_short,
            ends: std::array::from_fn(|reason| self.ends[reason] + other.ends[reason]),
        }
    }
}
