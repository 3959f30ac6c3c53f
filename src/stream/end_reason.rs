//! Why streams end.

use std::fmt;

/// Why a stream ended. The first reason that is detected is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EndReason {
    /// The upstream ended it properly.
    UpstreamEnd,
    /// The upstream's body failed.
    UpstreamError,
    /// The upstream was silent for longer than the idle timeout.
    UpstreamIdle,
    /// The client went.
    ClientGone,
    /// The client stopped reading.
    ClientStalled,
    /// It had reached its maximum age.
    Rotated,
    /// A drain of all streams ended it.
    Drained,
    /// An operator ended it.
    Operator,
    /// The process stopped without waiting for it.
    Shutdown,
    /// The service panicked while it made the body.
    Panicked,
}

impl EndReason {
    /// All values.
    pub const ALL: &[Self] = &[
        Self::UpstreamEnd,
        Self::UpstreamError,
        Self::UpstreamIdle,
        Self::ClientGone,
        Self::ClientStalled,
        Self::Rotated,
        Self::Drained,
        Self::Operator,
        Self::Shutdown,
        Self::Panicked,
    ];

    /// The value of the label `reason` in metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UpstreamEnd => "upstream_end",
            Self::UpstreamError => "upstream_error",
            Self::UpstreamIdle => "upstream_idle",
            Self::ClientGone => "client_gone",
            Self::ClientStalled => "client_stalled",
            Self::Rotated => "rotated",
            Self::Drained => "drained",
            Self::Operator => "operator",
            Self::Shutdown => "shutdown",
            Self::Panicked => "panicked",
        }
    }

    /// Returns true if the upstream ended it, by an end, an error or silence.
    pub(crate) fn is_upstreams(self) -> bool {
        matches!(
            self,
            Self::UpstreamEnd | Self::UpstreamError | Self::UpstreamIdle
        )
    }
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
