//! How many streams are logged under a flood.

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Keeps a flood of streams from becoming a flood of lines: of so many a second the opening and the
/// end are logged, of the others neither. Numbers count all of them. A clone shares the limit.
#[derive(Clone)]
pub struct LogLimit(Arc<Shared>);

struct Shared {
    limiter: DefaultDirectRateLimiter,
    left_out: AtomicU64,
}

impl LogLimit {
    /// So many streams a second, and as many ahead of that.
    pub fn per_second(streams: NonZeroU32) -> Self {
        Self::by(Quota::per_second(streams))
    }

    /// So many streams a minute, and as many ahead of that.
    pub fn per_minute(streams: NonZeroU32) -> Self {
        Self::by(Quota::per_minute(streams))
    }

    /// So many streams an hour, and as many ahead of that.
    pub fn per_hour(streams: NonZeroU32) -> Self {
        Self::by(Quota::per_hour(streams))
    }

    fn by(quota: Quota) -> Self {
        Self(Arc::new(Shared {
            limiter: RateLimiter::direct(quota),
            left_out: AtomicU64::new(0),
        }))
    }

    pub(super) fn takes_one(&self) -> bool {
        let takes = self.0.limiter.check().is_ok();
        if !takes {
            self.0.left_out.fetch_add(1, Relaxed);
        }
        takes
    }

    /// How many have been left out since the last call.
    pub(super) fn left_out(&self) -> u64 {
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
        let limit = LogLimit::per_hour(NonZeroU32::MIN.saturating_add(1));
        let taken = (0..10).filter(|_| limit.takes_one()).count();
        assert_eq!(taken, 2);
        assert_eq!((limit.left_out(), limit.left_out()), (8, 0));
    }
}
