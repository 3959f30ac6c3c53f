//! The value of `Retry-After` (RFC 9110 section 10.2.3): seconds, or a date.

use crate::family::Family;
use http::header::{DATE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue};
use std::time::{Duration, SystemTime};

/// The delay that a `Retry-After` sets. A date that has passed is zero; a number beyond `u64` counts
/// as the largest. `None` without such a header, or if it has neither form.
///
/// A date is compared with the `Date` of the same response, so the clock of the server may be off. Without
/// one, the local clock counts.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    let at = httpdate::parse_http_date(value).ok()?;
    let date = headers.get(DATE).and_then(|date| date.to_str().ok());
    let now = date.and_then(|date| httpdate::parse_http_date(date.trim()).ok());
    let now = now.unwrap_or_else(SystemTime::now);
    Some(at.duration_since(now).unwrap_or_default())
}

/// The field's value in a response of this crate: whole seconds, rounded up, as a client that retries too early is
/// rejected again; at least one, and at most what the clients of this family honour.
pub fn retry_after_value(wait: Duration, family: Family) -> HeaderValue {
    let seconds = wait
        .as_secs()
        .saturating_add(u64::from(wait.subsec_nanos() > 0));
    let longest = family.max_retry_after().map_or(u64::MAX, |it| it.as_secs());
    seconds.clamp(1, longest).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    const NOON: &str = "Sun, 06 Nov 1994 12:00:00 GMT";

    fn parsed(value: &'static str, date: Option<&'static str>) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, HeaderValue::from_static(value));
        if let Some(date) = date {
            headers.insert(DATE, HeaderValue::from_static(date));
        }
        retry_after(&headers)
    }

    #[test]
    fn retry_after_accepts_seconds_and_three_date_formats() {
        for (value, seconds) in [
            ("0", Some(0)),
            (" 20 ", Some(20)),
            ("007", Some(7)),
            ("18446744073709551615", Some(u64::MAX)),
            ("99999999999999999999999", Some(u64::MAX)),
            ("Sun, 06 Nov 1994 12:01:30 GMT", Some(90)),
            ("Sunday, 06-Nov-94 12:01:30 GMT", Some(90)),
            ("Sun Nov  6 12:01:30 1994", Some(90)),
            // Passed.
            ("Sun, 06 Nov 1994 11:59:59 GMT", Some(0)),
            ("Fri, 31 Dec 9999 23:59:59 GMT", Some(252_618_177_599)),
            ("", None),
            ("-1", None),
            ("+1", None),
            ("1.5", None),
            ("5s", None),
            ("Sun, 36 Nov 1994 12:01:30 GMT", None),
            ("tomorrow", None),
        ] {
            let expected = seconds.map(Duration::from_secs);
            assert_eq!(parsed(value, Some(NOON)), expected, "{value}");
        }
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }

    #[test]
    fn retry_after_stays_within_the_limit_of_the_family() {
        let millis = Duration::from_millis;
        for (family, wait, value) in [
            (Family::EventSource, millis(0), "1"),
            (Family::EventSource, millis(1_001), "2"),
            (Family::EventSource, millis(300_000), "300"),
            (Family::Raw, millis(61_000), "61"),
            (Family::Mcp, millis(61_000), "61"),
            (Family::OpenAi, millis(60_000), "60"),
            (Family::OpenAi, millis(60_001), "60"),
            (Family::Anthropic, millis(3_600_000), "60"),
            (Family::Anthropic, Duration::MAX, "60"),
        ] {
            assert_eq!(
                retry_after_value(wait, family),
                value,
                "{family:?} {wait:?}"
            );
        }
    }

    #[test]
    fn retry_after_uses_the_local_clock_without_a_valid_date() {
        for date in [None, Some("yesterday")] {
            assert_eq!(parsed(NOON, date), Some(Duration::ZERO));
            let far = parsed("Fri, 31 Dec 9999 23:59:59 GMT", date).unwrap();
            assert!(
                far > Duration::from_secs(7_000 * 365 * 24 * 3600),
                "{far:?}"
            );
        }
    }
}
