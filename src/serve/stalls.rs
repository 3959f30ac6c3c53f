//! How long a client may leave its response unread.

use super::liveness::Liveness;
use super::transport::Io;
use std::time::Duration;

/// A response of this size or less fits into the kernel's buffers, so that no pause is seen.
pub(super) const SMALL: u64 = 64 * 1024;

/// What ends a connection whose client does not read, by what is sent; `None` for no limit.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Stalls {
    pub(super) stream: Option<Duration>,
    pub(super) response: Option<Duration>,
    pub(super) liveness: Liveness,
}

impl Stalls {
    /// Linux counts data that a client has no room for as unacknowledged: `TCP_USER_TIMEOUT` would reset a client
    /// that pauses. Without it, a dead peer is found after the kernel's retransmissions.
    pub(super) fn set_patient(&self, io: &Io, is_patient: bool) {
        let timeout = self.liveness.user_timeout.filter(|_| !is_patient);
        if let Err(error) = Liveness::set_user_timeout(io, timeout) {
            tracing::debug!(%error, "cannot set the user timeout of a connection");
        }
    }
}
