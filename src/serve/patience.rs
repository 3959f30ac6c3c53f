//! How long bytes may wait for a client that does not take them.

use pin_project_lite::pin_project;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Sleep, sleep};

/// So much progress is enough, however much waits: a slow client may be offered large pieces.
const ENOUGH: usize = 8 * 1024;

pin_project! {
    /// Runs from the moment when the kernel has no room, until the bytes that wait by then have left. A
    /// client that trickles takes some bytes now and then; if each write began the time anew, it would hold
    /// its stream and what waits for it without end.
    pub(super) struct Patience {
        #[pin]
        time: Sleep,
        // Bytes that have to leave in that time.
        left: usize,
    }
}

impl Patience {
    /// For `waiting` bytes.
    pub(super) fn new(time: Duration, waiting: usize) -> Self {
        Self {
            time: sleep(time),
            left: waiting.min(ENOUGH),
        }
    }

    /// So many bytes have left. Whether those are all that had to.
    pub(super) fn is_satisfied(self: Pin<&mut Self>, wrote: usize) -> bool {
        let left = self.project().left;
        *left = left.saturating_sub(wrote);
        *left == 0
    }

    pub(super) fn poll_over(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.project().time.poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use tokio::time::Instant;

    const STALL: Duration = Duration::from_secs(30);

    /// After how many seconds of a client that takes `step` bytes each second it is over, if it is.
    async fn is_over_after(waiting: usize, step: usize) -> Option<u64> {
        let start = Instant::now();
        let mut patience = Box::pin(Patience::new(STALL, waiting));
        loop {
            let second = sleep(Duration::from_secs(1));
            tokio::select! {
                biased;
                () = poll_fn(|cx| patience.as_mut().poll_over(cx)) => {
                    return Some(start.elapsed().as_secs());
                }
                () = second => if patience.as_mut().is_satisfied(step) {
                    return None;
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_trickles_is_given_as_much_time_as_one_that_takes_nothing() {
        for (waiting, step, expected) in [
            (100_000, 0, Some(30)),
            (100_000, 100, Some(30)),
            (100, 1, Some(30)),
            (100, 4, None),
            // Slow, and served.
            (100_000, 300, None),
        ] {
            assert_eq!(
                is_over_after(waiting, step).await,
                expected,
                "{step} of {waiting}"
            );
        }
    }
}
