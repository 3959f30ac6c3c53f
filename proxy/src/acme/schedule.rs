//! When a certificate is ordered, and when a failed order is repeated.

use super::certificate::Certificate;
use std::time::{Duration, SystemTime};

/// The first delay after a failure. CAs allow few failures an hour: Let's Encrypt 5 for each name.
const FIRST_RETRY: Duration = Duration::from_secs(5 * 60);
const LONGEST_RETRY: Duration = Duration::from_secs(6 * 60 * 60);
/// Between two requests for renewal information, RFC 9773 section 4.3.2.
const SHORTEST_CHECK: Duration = Duration::from_secs(60);
const LONGEST_CHECK: Duration = Duration::from_secs(24 * 60 * 60);
/// A part of its lifetime in which a certificate is never renewed, whatever the CA suggests: one that suggests the past for
/// each new certificate would otherwise get an order after the other.
const MIN_AGE_DIVISOR: u32 = 100;

/// The delay before the next attempt, after this many failures in sequence.
pub(super) fn retry_delay(failures: u32) -> Duration {
    let doubled = 1_u32
        .checked_shl(failures.saturating_sub(1))
        .unwrap_or(u32::MAX);
    let delay = FIRST_RETRY
        .saturating_mul(doubled.max(1))
        .min(LONGEST_RETRY);
    // Names that fail together do not try again together.
    delay + part(delay / 5)
}

/// When to renew a certificate without information of the CA: at a third of its lifetime before its end, or up to a
/// thirtieth of it earlier.
pub(super) fn renewal(certificate: &Certificate) -> SystemTime {
    let lifetime = certificate.lifetime();
    earlier(certificate.not_after, lifetime / 3 + part(lifetime / 30))
}

/// A moment in the window that the CA suggests, RFC 9773 section 4.2; not before a minimum age.
pub(super) fn in_window(
    certificate: &Certificate,
    start: SystemTime,
    end: SystemTime,
) -> SystemTime {
    let moment = start + part(end.duration_since(start).unwrap_or_default());
    let earliest = certificate.not_before + certificate.lifetime() / MIN_AGE_DIVISOR;
    // The last moment is not up to the CA.
    moment.max(earliest).min(certificate.not_after)
}

/// When to request renewal information again, by the CA's `Retry-After`.
pub(super) fn check_delay(retry_after: Duration) -> Duration {
    retry_after.clamp(SHORTEST_CHECK, LONGEST_CHECK)
}

/// The first request for renewal information of a certificate from the cache: not together with other processes that
/// start, and not at each start of one that is restarted often.
pub(super) fn first_check() -> Duration {
    SHORTEST_CHECK + part(Duration::from_secs(60 * 60))
}

fn earlier(time: SystemTime, by: Duration) -> SystemTime {
    time.checked_sub(by).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Up to the whole, at random.
fn part(whole: Duration) -> Duration {
    whole.mul_f64(fastrand::f64())
}

#[cfg(test)]
mod tests {
    use super::super::certificate::tests::issued;
    use super::*;

    const HOUR: Duration = Duration::from_secs(60 * 60);
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    /// Of 90 days.
    fn certificate() -> Certificate {
        let pem = issued("a.test", |params| {
            params.not_before = rcgen::date_time_ymd(2026, 1, 1);
            params.not_after = rcgen::date_time_ymd(2026, 4, 1);
        });
        Certificate::from_pem(&pem, "a.test").unwrap()
    }

    #[test]
    fn failed_orders_are_repeated_ever_later_and_few_within_the_first_hour() {
        let within = |failures, least: Duration| {
            let delay = retry_delay(failures);
            assert!(
                delay >= least && delay <= least.mul_f64(1.2),
                "{failures}: {delay:?}"
            );
        };
        within(1, FIRST_RETRY);
        within(2, 2 * FIRST_RETRY);
        within(7, 64 * FIRST_RETRY);
        for failures in [8, 9, 32, 33, 1000, u32::MAX] {
            within(failures, LONGEST_RETRY);
        }
        let mut elapsed = Duration::ZERO;
        let attempts = (1..).take_while(|failures| {
            elapsed += retry_delay(*failures);
            elapsed < HOUR
        });
        assert!(attempts.count() < 5);
    }

    #[test]
    fn certificate_is_renewed_with_a_third_of_its_lifetime_left() {
        let certificate = certificate();
        for _ in 0..100 {
            let left = certificate
                .not_after
                .duration_since(renewal(&certificate))
                .unwrap();
            assert!((30 * DAY..=33 * DAY).contains(&left), "{left:?}");
        }
    }

    #[test]
    fn window_of_the_ca_is_followed_within_the_life_of_the_certificate() {
        let certificate = certificate();
        let at = |days: u32| certificate.not_before + days * DAY;
        for _ in 0..100 {
            let moment = in_window(&certificate, at(10), at(12));
            assert!(moment >= at(10) && moment <= at(12));
        }
        // A window in the past, as after a mass revocation.
        let earliest = certificate.not_before + 90 * DAY / 100;
        let past = certificate.not_before - DAY;
        assert_eq!(in_window(&certificate, past, past), earliest);
        assert_eq!(
            in_window(&certificate, at(300), at(301)),
            certificate.not_after
        );
        assert_eq!(in_window(&certificate, at(12), at(10)), at(12));
    }

    #[test]
    fn checks_are_neither_too_frequent_nor_too_rare() {
        assert_eq!(check_delay(Duration::ZERO), SHORTEST_CHECK);
        assert_eq!(check_delay(6 * HOUR), 6 * HOUR);
        assert_eq!(check_delay(100 * DAY), LONGEST_CHECK);
    }
}
