//! The state of a stream between its client and its upstream.

use std::fmt;

/// The state of a stream between its client and its upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StreamState {
    /// The client has its response head, the upstream has not responded yet.
    Connecting,
    /// Events of the upstream pass.
    Open,
    /// The upstream was lost; the stream reconnects.
    Resuming,
    /// Several reconnects failed.
    Degraded,
    /// The stream has ended.
    Closed,
}

impl StreamState {
    /// All values.
    pub const ALL: &[Self] = &[
        Self::Connecting,
        Self::Open,
        Self::Resuming,
        Self::Degraded,
        Self::Closed,
    ];

    /// The value of the label `state` in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Open => "open",
            Self::Resuming => "resuming",
            Self::Degraded => "degraded",
            Self::Closed => "closed",
        }
    }

    /// Returns true if the stream waits for its upstream.
    pub(crate) fn is_waiting(self) -> bool {
        matches!(self, Self::Connecting | Self::Resuming | Self::Degraded)
    }

    /// Returns true if the upstream was lost and the stream reconnects.
    pub(crate) fn has_lost_upstream(self) -> bool {
        matches!(self, Self::Resuming | Self::Degraded)
    }
}

impl fmt::Display for StreamState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
