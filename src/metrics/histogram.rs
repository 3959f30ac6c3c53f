//! Histograms of durations, for code without access to a metrics backend.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Upper bounds of the buckets in seconds: from the gap between tokens of a model to an hour. Exporters that
/// need buckets should use the same.
pub const BUCKETS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
    120.0, 300.0, 600.0, 1800.0, 3600.0,
];

/// With one for longer durations.
const BUCKET_COUNT: usize = BUCKETS.len() + 1;

/// A [`Histogram`] that several threads update.
#[derive(Debug, Default)]
pub(super) struct AtomicHistogram {
    counts: [AtomicU64; BUCKET_COUNT],
    /// Of the durations in each bucket, in microseconds.
    sums: [AtomicU64; BUCKET_COUNT],
}

impl AtomicHistogram {
    pub(super) fn record(&self, time: Duration) {
        let secs = time.as_secs_f64();
        let bucket = BUCKETS.partition_point(|bound| *bound < secs);
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.counts[bucket].fetch_add(1, Relaxed);
        self.sums[bucket].fetch_add(micros, Relaxed);
    }

    pub(super) fn snapshot(&self) -> Histogram {
        let load =
            |numbers: &[AtomicU64; BUCKET_COUNT]| numbers.each_ref().map(|one| one.load(Relaxed));
        Histogram {
            counts: load(&self.counts),
            sums: load(&self.sums),
        }
    }
}

/// Counts of durations in the [`BUCKETS`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    counts: [u64; BUCKET_COUNT],
    sums: [u64; BUCKET_COUNT],
}

impl Histogram {
    /// ReconnectTracker the number of durations.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// ReconnectTracker how many durations are in buckets that end at or before `time`.
    pub fn below(&self, time: Duration) -> u64 {
        let time = time.as_secs_f64();
        let buckets = BUCKETS.partition_point(|bound| *bound <= time);
        self.counts[..buckets].iter().sum()
    }

    /// Returns the duration that this share of them (0.99 for 99 %) does not exceed, within the precision of the buckets;
    /// `None` if there are none. Durations above all buckets count as an hour.
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
                // Spread evenly around their mean, as far as the bucket allows: durations that are all equal give
                // that duration.
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

    /// ReconnectTracker what was added since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let since = |now: &[u64; BUCKET_COUNT], then: &[u64; BUCKET_COUNT]| {
            std::array::from_fn(|n| now[n].saturating_sub(then[n]))
        };
        Self {
            counts: since(&self.counts, &earlier.counts),
            sums: since(&self.sums, &earlier.sums),
        }
    }
}

impl Histogram {
    /// For tests.
    #[doc(hidden)]
    pub fn of(millis: &[u64]) -> Self {
        let histogram = AtomicHistogram::default();
        for ms in millis {
            histogram.record(Duration::from_millis(*ms));
        }
        histogram.snapshot()
    }
}

impl std::ops::Add for Histogram {
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

    fn of(millis: &[u64]) -> Histogram {
        Histogram::of(millis)
    }

    #[test]
    fn quantile_lies_in_the_bucket_of_its_rank() {
        assert_eq!(Histogram::default().quantile(0.5), None);
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
    fn below_counts_the_buckets_that_end_at_or_before_the_time() {
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
            let histogram = AtomicHistogram::default();
            histogram.record(Duration::from_secs_f64(bound));
            let below = histogram.snapshot().below(Duration::from_secs_f64(bound));
            assert_eq!(below, 1, "{bound} s");
        }
    }

    #[test]
    fn since_is_the_difference_of_two_snapshots() {
        let (early, late) = (of(&[1]), of(&[1, 40]));
        assert_eq!(late.since(&early), of(&[40]));
        assert_eq!(early.clone() + late.since(&early), late);
        assert_eq!(late.count(), 2);
    }
}
