//! Distinguishes an upstream that is silent from a client that does not read.

use std::time::Duration;
use tokio::time::Instant;

/// A shorter pause between two polls is the time in which a client takes what it got.
const MIN_PAUSE: Duration = Duration::from_millis(10);

/// How long the client did not read before the poll at `now`. Nothing if that is short.
///
/// A body is not polled while its client is slow, so that the time since `last`, the poll before, is not
/// silence of the upstream if that poll `handed_out` something.
pub(crate) fn unread_pause(last: Instant, now: Instant, handed_out: bool) -> Option<Duration> {
    let pause = now.saturating_duration_since(last);
    (handed_out && pause > MIN_PAUSE).then_some(pause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unread_pause_counts_only_behind_a_poll_that_handed_something_out() {
        let last = Instant::now();
        let minute = Duration::from_secs(60);
        assert_eq!(unread_pause(last, last + minute, true), Some(minute));
        assert_eq!(unread_pause(last, last + minute, false), None);
        assert_eq!(unread_pause(last, last + MIN_PAUSE, true), None);
    }
}
