//! Where a stream stands between its client and its upstream.

use std::fmt;

/// Where a stream stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StreamState {
    /// Its client has been answered, its upstream has not answered yet.
    Connecting,
    /// The upstream's events pass.
    Open,
    /// The upstream has gone, and is asked to go on.
    Resuming,
    /// The upstream has been asked to go on several times, in vain.
    Degraded,
    /// It has ended.
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

    /// Whether it waits for its upstream, which most streams never do.
    pub(crate) fn is_waiting(self) -> bool {
        matches!(self, Self::Connecting | Self::Resuming | Self::Degraded)
    }

    /// Whether it has lost its upstream, and is to be resumed.
    pub(crate) fn has_lost_upstream(self) -> bool {
        matches!(self, Self::Resuming | Self::Degraded)
    }
}

impl fmt::Display for StreamState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
