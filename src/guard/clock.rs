//! Distinguishes an upstream that is silent from a client that does not read.

use std::time::Duration;
use tokio::time::Instant;

/// A shorter pause between two polls is the time in which a client processes its data.
const MIN_PAUSE: Duration = Duration::from_millis(10);

/// How long the client did not read before the poll at `now`; `None` for a short time.
///
/// A body is not polled while its client is slow. If the poll before, at `last`, has returned data (`handed_out`), the
/// upstream may have sent more since, so that this time is not silence of the upstream.
pub(crate) fn unread_pause(last: Instant, now: Instant, handed_out: bool) -> Option<Duration> {
    let pause = now.saturating_duration_since(last);
    (handed_out && pause > MIN_PAUSE).then_some(pause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unread_pause_counts_only_after_a_poll_that_returned_data() {
        let last = Instant::now();
        let minute = Duration::from_secs(60);
        assert_eq!(unread_pause(last, last + minute, true), Some(minute));
        assert_eq!(unread_pause(last, last + minute, false), None);
        assert_eq!(unread_pause(last, last + MIN_PAUSE, true), None);
    }
}
