//! Times in JSON.

use std::time::{Duration, SystemTime};

/// Milliseconds to a tenth.
pub(super) fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 10_000.0).round() / 10.0
}

/// Milliseconds since 1970.
pub(super) fn since_1970_ms() -> u64 {
    since_1970_of(SystemTime::now())
}

/// The same of any time.
pub(super) fn since_1970_of(time: SystemTime) -> u64 {
    let time = time.duration_since(SystemTime::UNIX_EPOCH);
    time.map_or(0, |time| {
        u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
    })
}
