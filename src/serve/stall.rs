//! How long output may wait for a client that does not read it.

use super::io::Io;
use super::keepalive::KeepaliveOptions;
use pin_project_lite::pin_project;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Sleep, sleep};

/// A response of this size or less fits into the kernel's buffers, so that a client's pause has no effect.
pub(super) const MAX_BUFFERED_RESPONSE: u64 = 64 * 1024;

/// Progress that is sufficient, however much output waits: the writes of a stream may be large.
const SUFFICIENT_PROGRESS: usize = 8 * 1024;

/// Timeouts after which a client that does not read is reset; `None` for no limit.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct StallTimeouts {
    pub(super) stream: Option<Duration>,
    /// Of responses that are not streams.
    pub(super) response: Option<Duration>,
    pub(super) keepalive: KeepaliveOptions,
}

impl StallTimeouts {
    /// Sets or lifts `TCP_USER_TIMEOUT`. Linux counts data for which a client has no space as unacknowledged, and
    /// would reset a client that pauses. Without the option, the kernel's retransmissions detect a dead peer.
    pub(super) fn set_allows_pause(&self, io: &Io, allows_pause: bool) {
        let timeout = self.keepalive.user_timeout.filter(|_| !allows_pause);
        if let Err(error) = KeepaliveOptions::set_user_timeout(io, timeout) {
            tracing::debug!(%error, "cannot set the user timeout of a connection");
        }
    }
}

pin_project! {
    /// Runs from the moment at which the kernel's send buffer is full until the bytes that wait then are written. Not
    /// restarted by each write: a client that reads a few bytes now and then would keep its stream and its output
    /// without limit.
    pub(super) struct StallTimer {
        #[pin]
        timeout: Sleep,
        // Bytes that must be written before the timeout.
        required: usize,
    }
}

impl StallTimer {
    pub(super) fn new(timeout: Duration, waiting_bytes: usize) -> Self {
        Self {
            timeout: sleep(timeout),
            required: waiting_bytes.min(SUFFICIENT_PROGRESS),
        }
    }

    /// Accounts for bytes that were written. Returns true if that is all that was required.
    pub(super) fn is_satisfied_by(self: Pin<&mut Self>, written: usize) -> bool {
        let required = self.project().required;
        *required = required.saturating_sub(written);
        *required == 0
    }

    pub(super) fn poll_expired(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.project().timeout.poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use tokio::time::Instant;

    const STALL: Duration = Duration::from_secs(30);

    /// The second at which the timer of a client that reads `step` bytes each second expires, if it does.
    async fn expires_after(waiting: usize, step: usize) -> Option<u64> {
        let start = Instant::now();
        let mut timer = Box::pin(StallTimer::new(STALL, waiting));
        loop {
            let second = sleep(Duration::from_secs(1));
            tokio::select! {
                biased;
                () = poll_fn(|cx| timer.as_mut().poll_expired(cx)) => {
                    return Some(start.elapsed().as_secs());
                }
                () = second => if timer.as_mut().is_satisfied_by(step) {
                    return None;
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn stall_timer_expires_for_a_trickling_client_as_for_a_silent_one() {
        for (waiting, step, expected) in [
            (100_000, 0, Some(30)),
            (100_000, 100, Some(30)),
            (100, 1, Some(30)),
            (100, 4, None),
            // Slow, and served.
            (100_000, 300, None),
        ] {
            assert_eq!(
                expires_after(waiting, step).await,
                expected,
                "{step} of {waiting}"
            );
        }
    }
}
