//! How often something may happen, by the generic cell rate algorithm.

use crate::jitter::MAX_DURATION;
use std::num::NonZeroU32;
use std::time::Duration;
use tokio::time::Instant;

/// A rate with a burst, by the generic cell rate algorithm.
///
/// The state of each limited client is one point in time, at which its next cell is due if its cells were
/// evenly spread; `None` after a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate {
    /// The time between two evenly spread cells.
    interval: Duration,
    /// How much earlier a cell may come.
    tolerance: Duration,
}

impl Rate {
    /// # Panics
    ///
    /// If `per` is shorter than `count` nanoseconds.
    pub(crate) fn new(count: NonZeroU32, per: Duration, burst: NonZeroU32) -> Self {
        let interval = (per / count.get()).min(MAX_DURATION);
        assert!(
            !interval.is_zero(),
            "a rate of {count} in {per:?} is beyond the clock"
        );
        Self {
            interval,
            tolerance: interval.saturating_mul(burst.get()).min(MAX_DURATION),
        }
    }

    /// Takes one. Returns the new state, or the time until one is available.
    pub(crate) fn take(self, due: Option<Instant>, now: Instant) -> Result<Instant, Duration> {
        let next = due.map_or(now, |due| due.max(now)) + self.interval;
        match next.duration_since(now).checked_sub(self.tolerance) {
            Some(wait) if !wait.is_zero() => Err(wait),
            _ => Ok(next),
        }
    }

    /// Returns one that was taken.
    pub(crate) fn give_back(self, due: Instant) -> Option<Instant> {
        due.checked_sub(self.interval)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rate(count: u32, per: Duration, burst: u32) -> Rate {
        let [count, burst] = [count, burst].map(|n| NonZeroU32::new(n).unwrap());
        Rate::new(count, per, burst)
    }

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn burst_is_available_at_once_and_the_wait_is_exact() {
        let (rate, now) = (rate(2, MINUTE, 3), Instant::now());
        let mut due = None;
        for _ in 0..3 {
            due = Some(rate.take(due, now).unwrap());
        }
        let wait = rate.take(due, now).unwrap_err();
        assert_eq!(wait, MINUTE / 2);
        let nearly = now + wait - Duration::from_nanos(1);
        assert_eq!(rate.take(due, nearly), Err(Duration::from_nanos(1)));
        assert!(rate.take(due, now + wait).is_ok());
    }

    #[test]
    fn returned_cell_can_be_taken_again() {
        let (rate, now) = (rate(1, MINUTE, 1), Instant::now());
        let due = rate.take(None, now).unwrap();
        assert_eq!(rate.take(Some(due), now), Err(MINUTE));
        assert!(rate.take(rate.give_back(due), now).is_ok());
    }

    #[test]
    fn longest_times_do_not_overflow() {
        let (rate, now) = (rate(1, Duration::MAX, u32::MAX), Instant::now());
        let due = rate.take(None, now).unwrap();
        assert!(rate.take(Some(due), now).is_err());
    }

    #[test]
    #[should_panic(expected = "beyond the clock")]
    fn rate_faster_than_the_clock_panics() {
        rate(2, Duration::from_nanos(1), 1);
    }

    proptest! {
        /// A bucket that fills by one in each interval up to the burst decides alike.
        #[test]
        fn rate_decides_as_a_token_bucket(
            interval in 1_u32..50,
            burst in 1_u32..20,
            pauses in proptest::collection::vec(0_u32..200, 1..200),
        ) {
            let rate = rate(1, Duration::from_nanos(interval.into()), burst);
            let (mut now, mut due) = (Instant::now(), None);
            // In parts of a token, of which one nanosecond brings one.
            let full = u64::from(interval) * u64::from(burst);
            let mut bucket = full;
            for pause in pauses {
                now += Duration::from_nanos(pause.into());
                bucket = full.min(bucket + u64::from(pause));
                let taken = rate.take(due, now);
                match bucket.checked_sub(interval.into()) {
                    Some(rest) => {
                        prop_assert!(taken.is_ok());
                        bucket = rest;
                        due = taken.ok();
                    }
                    None => {
                        let wait = Duration::from_nanos(u64::from(interval) - bucket);
                        prop_assert_eq!(taken, Err(wait));
                    }
                }
            }
        }
    }
}
