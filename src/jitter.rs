//! Times that are not the same for all, so that what began together does not come again together.

use std::time::Duration;

/// Longer than anything lives; arithmetic with it stays in range.
pub(crate) const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Half to one and a half of `retry`, so that clients told at the same instant come back at
/// different ones.
pub(crate) fn jittered(retry: Duration) -> Duration {
    retry.min(LONGEST).mul_f64(0.5 + fastrand::f64())
}

/// `age`, give or take `part` of it, 0 to 1.
pub(crate) fn around(age: Duration, part: f64) -> Duration {
    age.mul_f64(1.0 + part * (2.0 * fastrand::f64() - 1.0))
}

/// Any time up to `longest`: full jitter.
pub(crate) fn up_to(longest: Duration) -> Duration {
    longest.mul_f64(fastrand::f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A time, and its bounds in milliseconds.
    type Case = (fn() -> Duration, u128, u128);

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn times_stay_within_their_bounds_and_fill_them() {
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
        assert!(jittered(Duration::MAX) >= LONGEST / 2);
    }
}
