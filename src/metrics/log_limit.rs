//! How many streams are logged under a flood.

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Keeps a flood of streams from becoming a flood of lines: of so many a second the opening and the
/// end are logged, of the others neither. Numbers count all of them. A clone shares the limit.
#[derive(Clone)]
pub struct LogLimit(Arc<Shared>);

struct Shared {
    limiter: DefaultDirectRateLimiter,
    left_out: AtomicU64,
}

impl LogLimit {
    /// So many streams in each `per`, and as many ahead of that.
    ///
    /// # Panics
    ///
    /// If `per` is shorter than `streams` nanoseconds.
    pub fn new(streams: NonZeroU32, per: Duration) -> Self {
        let Some(quota) = Quota::with_period(per / streams.get()) else {
            panic!("a rate of {streams} in {per:?} is beyond the clock");
        };
        Self(Arc::new(Shared {
            limiter: RateLimiter::direct(quota.allow_burst(streams)),
            left_out: AtomicU64::new(0),
        }))
    }

    pub(crate) fn takes_one(&self) -> bool {
        let takes = self.0.limiter.check().is_ok();
        if !takes {
            self.0.left_out.fetch_add(1, Relaxed);
        }
        takes
    }

    /// How many have been left out since the last call.
    pub(crate) fn left_out(&self) -> u64 {
        self.0.left_out.swap(0, Relaxed)
    }
}

impl fmt::Debug for LogLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LogLimit")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_beyond_is_counted() {
        let limit = LogLimit::new(NonZeroU32::MIN.saturating_add(1), Duration::from_secs(3600));
        let taken = (0..10).filter(|_| limit.takes_one()).count();
        assert_eq!(taken, 2);
        assert_eq!((limit.left_out(), limit.left_out()), (8, 0));
    }
}
