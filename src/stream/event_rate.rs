//! The rate of events of a stream, and the gaps between them.

use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// The rate is a mean over about this many seconds.
const MEAN_SECS: f32 = 10.0;
/// Gaps below 1 ms, 2 ms, 4 ms and so on, the last above four minutes.
const GAP_BUCKETS: usize = 20;
/// Means "no event yet".
const NO_EVENT_YET: u64 = u64::MAX;

/// The body is the only writer, so no lock is needed. Times are in nanoseconds since the stream opened.
#[derive(Debug)]
pub(super) struct EventRate {
    last: AtomicU64,
    /// Events per second at `last`, as the bits of an `f32`.
    rate: AtomicU32,
    gaps: [AtomicU16; GAP_BUCKETS],
}

impl Default for EventRate {
    fn default() -> Self {
        Self {
            last: AtomicU64::new(NO_EVENT_YET),
            rate: AtomicU32::new(0),
            gaps: Default::default(),
        }
    }
}

fn decay(nanos: u64) -> f32 {
    (-Duration::from_nanos(nanos).as_secs_f32() / MEAN_SECS).exp()
}

impl EventRate {
    pub(super) fn record(&self, events: u64, now: u64) {
        let last = self.last.swap(now, Relaxed);
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let more = events as f32 / MEAN_SECS;
        let rate = f32::from_bits(self.rate.load(Relaxed));
        let gap = now.saturating_sub(last);
        self.rate
            .store((rate * decay(gap) + more).to_bits(), Relaxed);
        if last != NO_EVENT_YET {
            self.record_gap(gap);
        }
    }

    fn record_gap(&self, gap: u64) {
        let millis = gap / 1_000_000;
        let bucket = (u64::BITS - millis.leading_zeros()) as usize;
        let count = &self.gaps[bucket.min(GAP_BUCKETS - 1)];
        match count.load(Relaxed) {
            // Halving all counts keeps their proportions.
            u16::MAX => self.halve(),
            n => count.store(n + 1, Relaxed),
        }
    }

    fn halve(&self) {
        for count in &self.gaps {
            count.store(count.load(Relaxed) / 2, Relaxed);
        }
    }

    pub(super) fn last_event(&self) -> Option<u64> {
        Some(self.last.load(Relaxed)).filter(|last| *last != NO_EVENT_YET)
    }

    pub(super) fn per_second(&self, now: u64) -> f32 {
        let since = now.saturating_sub(self.last.load(Relaxed));
        f32::from_bits(self.rate.load(Relaxed)) * decay(since)
    }

    pub(super) fn gap_p99(&self) -> Option<Duration> {
        let counts = self
            .gaps
            .each_ref()
            .map(|count| u64::from(count.load(Relaxed)));
        let all: u64 = counts.iter().sum();
        // Gaps above the percentile.
        let mut above = all / 100;
        for (bucket, count) in counts.iter().enumerate().rev() {
            if *count > above {
                return Some(Duration::from_millis(1 << bucket));
            }
            above -= count;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEC: u64 = 1_000_000_000;

    #[test]
    fn event_rate_follows_a_steady_stream_and_decays_in_silence() {
        let rate = EventRate::default();
        for tenth in 1..=600 {
            rate.record(1, tenth * SEC / 10);
        }
        let per_second = rate.per_second(60 * SEC);
        assert!((9.0..11.0).contains(&per_second), "{per_second}");
        let per_second = rate.per_second(90 * SEC);
        assert!((0.3..0.7).contains(&per_second), "{per_second}");
        assert_eq!(rate.last_event(), Some(60 * SEC));
    }

    #[test]
    fn gap_p99_is_the_upper_end_of_its_bucket() {
        let rate = EventRate::default();
        assert_eq!(rate.gap_p99(), None);
        rate.record(1, 0);
        assert_eq!(rate.gap_p99(), None);
        for tenth in 1..=99 {
            rate.record(1, tenth * SEC / 10);
        }
        assert_eq!(rate.gap_p99(), Some(Duration::from_millis(128)));
        for far in 1..=2 {
            rate.record(1, (10 + far * 7200) * SEC);
        }
        assert_eq!(rate.gap_p99(), Some(Duration::from_millis(1 << 19)));
    }

    #[test]
    fn gap_buckets_do_not_overflow() {
        let rate = EventRate::default();
        for n in 0..200_000 {
            rate.record(1, n);
        }
        assert_eq!(rate.gap_p99(), Some(Duration::from_millis(1)));
    }
}
