//! Distributions of times, for code without access to a metrics backend.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Upper ends of the buckets in seconds: from what a model's tokens take to an hour. Exporters that
/// need buckets should use the same.
pub const BUCKETS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
    120.0, 300.0, 600.0, 1800.0, 3600.0,
];

/// With the one for what is longer than all.
const COUNTS: usize = BUCKETS.len() + 1;

/// Times by bucket, counted by many threads.
#[derive(Debug, Default)]
pub(super) struct Times {
    counts: [AtomicU64; COUNTS],
    /// Of the times in each bucket, in microseconds.
    sums: [AtomicU64; COUNTS],
}

impl Times {
    pub(super) fn record(&self, time: Duration) {
        let secs = time.as_secs_f64();
        let bucket = BUCKETS.partition_point(|bound| *bound < secs);
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.counts[bucket].fetch_add(1, Relaxed);
        self.sums[bucket].fetch_add(micros, Relaxed);
    }

    pub(super) fn snapshot(&self) -> Distribution {
        let load = |numbers: &[AtomicU64; COUNTS]| numbers.each_ref().map(|one| one.load(Relaxed));
        Distribution {
            counts: load(&self.counts),
            sums: load(&self.sums),
        }
    }
}

/// Counts of durations in the [`BUCKETS`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Distribution {
    counts: [u64; COUNTS],
    sums: [u64; COUNTS],
}

impl Distribution {
    /// Returns the number of durations.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Returns how many durations are in buckets that end at or before `time`.
    pub fn below(&self, time: Duration) -> u64 {
        let time = time.as_secs_f64();
        let buckets = BUCKETS.partition_point(|bound| *bound <= time);
        self.counts[..buckets].iter().sum()
    }

    /// The time that this share of them (0.99 for 99 %) is not longer than, within the precision of
    /// buckets; nothing if there are none. What is longer than all buckets counts as an hour.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        #[expect(clippy::cast_precision_loss, reason = "buckets are not exact anyway")]
        let (all, counts) = (self.count() as f64, self.counts.map(|count| count as f64));
        if all == 0.0 {
            return None;
        }
        let rank = share.clamp(0.0, 1.0) * all;
        let (mut below, mut lower) = (0.0, 0.0);
        for (bucket, (count, upper)) in counts.into_iter().zip(BUCKETS.iter().copied()).enumerate()
        {
            if count > 0.0 && below + count >= rank {
                let within = ((rank - below) / count).max(0.0);
                #[expect(clippy::cast_precision_loss, reason = "means are not exact anyway")]
                let mean = self.sums[bucket] as f64 / count / 1e6;
                // Spread evenly around their mean, as far as the bucket allows: times that are all the same
                // are not taken for any other.
                let mean = mean.clamp(lower, upper);
                let spread = (mean - lower).min(upper - mean);
                let time = mean + (2.0 * within - 1.0) * spread;
                return Some(Duration::from_secs_f64(time));
            }
            below += count;
            lower = upper;
        }
        Some(Duration::from_secs_f64(lower))
    }

    /// Returns what was added since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let since = |now: &[u64; COUNTS], then: &[u64; COUNTS]| {
            std::array::from_fn(|n| now[n].saturating_sub(then[n]))
        };
        Self {
            counts: since(&self.counts, &earlier.counts),
            sums: since(&self.sums, &earlier.sums),
        }
    }
}

impl Distribution {
    /// For tests.
    #[doc(hidden)]
    pub fn of(millis: &[u64]) -> Self {
        let times = Times::default();
        for ms in millis {
            times.record(Duration::from_millis(*ms));
        }
        times.snapshot()
    }
}

impl std::ops::Add for Distribution {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            counts: std::array::from_fn(|n| self.counts[n] + other.counts[n]),
            sums: std::array::from_fn(|n| self.sums[n] + other.sums[n]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(millis: &[u64]) -> Distribution {
        Distribution::of(millis)
    }

    #[test]
    fn a_quantile_lies_in_the_bucket_of_its_rank() {
        assert_eq!(Distribution::default().quantile(0.5), None);
        let spread = of(&[1, 30, 30, 30, 700]);
        let within = |share: f64, low: u64, high: u64| {
            let time = spread.quantile(share).unwrap();
            let range = Duration::from_millis(low)..=Duration::from_millis(high);
            assert!(range.contains(&time), "{share}: {time:?}");
        };
        within(0.0, 0, 1);
        within(0.5, 25, 50);
        within(0.99, 500, 1000);
        // Just above the end of a bucket.
        let alike = of(&[120_020; 50]).quantile(0.99).unwrap();
        assert!(
            (120_000..=120_100).contains(&alike.as_millis()),
            "{alike:?}"
        );
        let endless = of(&[10_000_000]).quantile(0.5);
        assert_eq!(endless, Some(Duration::from_secs(3600)));
    }

    #[test]
    fn below_a_time_is_what_fell_into_buckets_that_end_there() {
        let spread = of(&[1, 2, 30, 100, 700, 10_000_000]);
        for (ms, below) in [
            (0, 0),
            (1, 1),
            (2, 1),
            (3, 2),
            (49, 2),
            (50, 3),
            (100, 4),
            (999, 4),
            (1000, 5),
        ] {
            assert_eq!(spread.below(Duration::from_millis(ms)), below, "{ms} ms");
        }
        assert_eq!(spread.below(Duration::MAX), 5);
        for bound in BUCKETS.iter().copied() {
            let times = Times::default();
            times.record(Duration::from_secs_f64(bound));
            let below = times.snapshot().below(Duration::from_secs_f64(bound));
            assert_eq!(below, 1, "{bound} s");
        }
    }

    #[test]
    fn a_window_is_the_difference_of_two_looks() {
        let (early, late) = (of(&[1]), of(&[1, 40]));
        assert_eq!(late.since(&early), of(&[40]));
        assert_eq!(early.clone() + late.since(&early), late);
        assert_eq!(late.count(), 2);
    }
}
