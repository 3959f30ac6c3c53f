//! The numbers of a layer, for code.

use super::Histogram;
use crate::stream::EndReason;

/// The result of a request for a stream, or of one that got a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// The response is a stream.
    Opened,
    /// The response is a stream in a content coding, or a range of one, which passes unchanged.
    Encoded,
    /// The response is not a stream.
    Other,
    /// A layer rejected the request.
    Rejected,
    /// The inner service failed, or responded with a 5xx.
    Failed,
    /// The client disconnected before the head.
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
    /// Active streams that have lost their upstream and wait for it.
    pub waiting: u64,
    /// Streams opened.
    pub opened: u64,
    /// Opened streams whose client has reconnected: with a `Last-Event-ID`, or soon after an end on this side.
    pub reconnects: u64,
    /// Reconnects without an end on this side before: the stream was cut between the client and this process.
    pub reconnects_after_cut: u64,
    /// Rejected requests.
    pub rejected: u64,
    /// Requests for a stream at which the inner service failed, or responded with a 5xx.
    pub failed: u64,
    /// Failed requests of another client than the one that failed before. Without an identified client, each counts as
    /// another.
    pub failed_others: u64,
    /// Events with data from upstreams.
    pub events: u64,
    /// Bytes from upstreams.
    pub bytes: u64,
    /// Heartbeats in streams that have ended.
    pub heartbeats: u64,
    /// Pauses between the chunks with events of a stream.
    pub gaps: Histogram,
    /// From a stream's head to its first event with data.
    pub first_events: Histogram,
    /// Age at the end of streams that the upstream has ended, properly, by a failure or by silence, and whose clients
    /// reconnect.
    pub upstream_ends: Histogram,
    /// Streams that the upstream has ended properly before they were complete, as a
    /// [`CompletionLayer`](crate::completion::CompletionLayer) found.
    pub cut_short: u64,
    pub(super) ends: [u64; EndReason::ALL.len()],
}

impl Snapshot {
    /// Returns the number of open streams that have lost their upstream. The counts do not change together, so that
    /// `waiting` may exceed `active`.
    pub fn lost(&self) -> u64 {
        self.waiting.min(self.active)
    }

    /// ReconnectTracker the number of streams that ended for this reason.
    pub fn ended(&self, reason: EndReason) -> u64 {
        self.ends[reason as usize]
    }

    /// ReconnectTracker what was added since `earlier`; gauges are those of now.
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
