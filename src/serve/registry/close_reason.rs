//! Why connections are closed.

use std::net::IpAddr;

/// Why a connection was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// File descriptors are nearly exhausted.
    Files,
    /// Memory is nearly exhausted.
    Memory,
    /// The client's address has reached its limit.
    PerClient,
    /// The listener has reached its limit.
    Total,
    /// The client exceeds its share while memory or file descriptors are nearly exhausted.
    Share,
}

impl CloseReason {
    /// All values.
    pub const ALL: &[Self] = &[
        Self::Files,
        Self::Memory,
        Self::PerClient,
        Self::Total,
        Self::Share,
    ];

    /// The value of the label `reason`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Files => "files",
            Self::Memory => "memory",
            Self::PerClient => "per_client",
            Self::Total => "total",
            Self::Share => "share",
        }
    }

    pub(super) fn log(self, closed: usize, peer: Option<IpAddr>) {
        let peer = peer.map(tracing::field::display);
        match self {
            Self::PerClient => tracing::warn!(
                closed,
                peer,
                "closing connections of an address that has reached client.max_connections, the \
                 oldest idle ones first"
            ),
            Self::Files | Self::Memory => tracing::warn!(
                closed,
                reason = self.as_str(),
                "closing idle connections, the oldest first: {} run short",
                self.as_str()
            ),
            Self::Total => tracing::warn!(
                closed,
                peer,
                "closing connections of a listener that has reached its limit, the oldest idle ones first"
            ),
            // Logged with the name of the client where they are closed.
            Self::Share => {}
        }
    }
}
