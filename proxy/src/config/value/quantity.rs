//! Numbers with a unit: durations, sizes, rates and counts.

use std::num::NonZeroU32;
use std::time::Duration;

use super::{Value, echo, or_off};
use crate::config::kind::{Kind, Shape};

/// A count per unit of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// The count.
    pub count: NonZeroU32,
    /// The unit of time: a second, a minute or an hour.
    pub per: Duration,
}

/// Units of sizes, the largest first.
const SIZES: &[(&str, u64)] = &[
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
];

/// The longest duration: far above any use, far below where adding it to a clock overflows.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 60 * 60);
/// The shortest one that is not zero: timers and `retry:` count in milliseconds.
const SHORTEST: Duration = Duration::from_millis(1);

/// The problem of a number where a number with a unit belongs.
pub(super) fn unit_missing(kind: Kind, digits: &str) -> Option<String> {
    let unit = match kind.shape {
        Shape::Duration | Shape::DurationOrZero | Shape::DurationOrAuto => "s",
        Shape::Size(..) => "KiB",
        Shape::Rate => "/s",
        _ => return None,
    };
    let number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    if !number {
        return None;
    }
    if kind.off && digits.bytes().all(|byte| byte == b'0') {
        return Some(format!("{digits} does not mean off; write \"off\""));
    }
    Some(format!("{digits} has no unit; write \"{digits}{unit}\""))
}

pub(super) fn duration(kind: Kind, text: &str) -> Result<Value, String> {
    if let Some(problem) = unit_missing(kind, text) {
        return Err(problem);
    }
    let or_auto = match kind.shape {
        Shape::DurationOrAuto => ", \"auto\"",
        _ => "",
    };
    let or_off = or_auto.to_owned() + or_off(kind);
    let Ok(duration) = humantime::parse_duration(text) else {
        return Err(format!(
            "{} is not a duration; write a number and a unit, such as \"200ms\", \"15s\", \"10m\" or \"1h\"{or_off}",
            echo(text)
        ));
    };
    if duration.is_zero() {
        return match kind.shape {
            Shape::DurationOrZero => Ok(Value::Duration(duration)),
            _ if kind.off => Err("zero does not mean off; write \"off\"".to_owned()),
            _ => Err("must be above zero, such as \"15s\"".to_owned()),
        };
    }
    if duration < SHORTEST {
        return Err("is too short; the minimum is \"1ms\"".to_owned());
    }
    if duration > LONGEST {
        return Err(format!("is longer than a year; write less{or_off}"));
    }
    Ok(Value::Duration(duration))
}

pub(super) fn count(kind: Kind, text: &str) -> Result<NonZeroU32, String> {
    let or_off = if kind.off {
        ", or \"off\" for no limit"
    } else {
        ""
    };
    match text.parse::<u32>().map(NonZeroU32::new) {
        Ok(Some(count)) => Ok(count),
        Ok(None) => Err(format!(
            "0 would reject everything; write 1 or more{or_off}"
        )),
        Err(_) => Err(format!(
            "{} is not a count; write a whole number from 1 to {}{or_off}",
            echo(text),
            u32::MAX
        )),
    }
}

pub(super) fn size(kind: Kind, text: &str, least: u64, most: u64) -> Result<u64, String> {
    if let Some(problem) = unit_missing(kind, text) {
        return Err(problem);
    }
    let or_off = or_off(kind);
    let bytes = SIZES.iter().find_map(|(unit, size)| {
        let number: u64 = text.strip_suffix(unit)?.trim_end().parse().ok()?;
        number.checked_mul(*size)
    });
    let bound = |bytes| format!("\"{}\"", size_text(bytes));
    match bytes {
        Some(bytes) if bytes < least => Err(format!(
            "is too small; the minimum is {}{or_off}",
            bound(least)
        )),
        Some(bytes) if bytes > most => Err(format!(
            "is too large; the maximum is {}{or_off}",
            bound(most)
        )),
        Some(bytes) => Ok(bytes),
        None => Err(format!(
            "{} is not a size; write a number and a unit, such as \"16KiB\" or \"1MiB\"{or_off}",
            echo(text)
        )),
    }
}

/// The size in the largest unit that it is a multiple of.
pub(in super::super) fn size_text(bytes: u64) -> String {
    let whole = |(_, size): &&(&str, u64)| bytes.is_multiple_of(*size);
    let (unit, size) = SIZES.iter().find(whole).unwrap_or(&("B", 1));
    format!("{}{unit}", bytes / size)
}

/// A limit, or that there is none, in the spelling of the file without quotes.
pub(in super::super) fn count_or_off(count: Option<NonZeroU32>) -> String {
    count.map_or_else(|| "off".to_owned(), |count| count.to_string())
}

pub(super) fn rate(kind: Kind, text: &str) -> Result<Rate, String> {
    if let Some(problem) = unit_missing(kind, text) {
        return Err(problem);
    }
    let parsed = text.split_once('/').and_then(|(count, unit)| {
        let per = match unit.trim() {
            "s" => 1,
            "m" => 60,
            "h" => 60 * 60,
            _ => return None,
        };
        let count = count.trim().parse::<NonZeroU32>().ok()?;
        Some(Rate {
            count,
            per: Duration::from_secs(per),
        })
    });
    parsed.ok_or_else(|| {
        format!(
            "{} is not a rate; write a number above zero and a time, such as \"50/s\", \"10/m\" or \"100/h\"{}",
            echo(text),
            or_off(kind)
        )
    })
}
