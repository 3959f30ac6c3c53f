//! Random times: what begins at one time does not recur at one time.

use std::time::Duration;

/// Longer durations are cut to this one, with which arithmetic does not overflow.
pub(crate) const MAX_DURATION: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Half to one and a half of `retry`, so that clients which get it at one time reconnect at different times.
pub(crate) fn jittered(retry: Duration) -> Duration {
    retry.min(MAX_DURATION).mul_f64(0.5 + fastrand::f64())
}

/// `age`, plus or minus up to `part` of it, 0 to 1.
pub(crate) fn around(age: Duration, part: f64) -> Duration {
    age.mul_f64(1.0 + part * (2.0 * fastrand::f64() - 1.0))
}

/// Any time up to `max`: full jitter.
pub(crate) fn up_to(max: Duration) -> Duration {
    max.mul_f64(fastrand::f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A random time, and its bounds in milliseconds.
    type Case = (fn() -> Duration, u128, u128);

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn random_times_fill_their_bounds() {
        let cases: [Case; 4] = [
            (|| jittered(SECOND), 500, 1_500),
            (|| around(SECOND, 0.1), 900, 1_100),
            (|| around(SECOND, 1.0), 0, 2_000),
            (|| up_to(SECOND), 0, 1_000),
        ];
        for (time, least, most) in cases {
            let times: Vec<_> = (0..1_000).map(|_| time().as_millis()).collect();
            let (first, last) = (times.iter().min().unwrap(), times.iter().max().unwrap());
            assert!((least..=most).contains(first) && (least..=most).contains(last));
            assert!(last - first > (most - least) * 9 / 10, "{first} to {last}");
        }
        assert_eq!(around(SECOND, 0.0), SECOND);
        assert!(jittered(Duration::MAX) >= MAX_DURATION / 2);
    }
}
