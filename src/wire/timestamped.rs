//! An injected event whose data shows when it was sent.

use super::encode::{Encoded, EventError};
use super::position::LineEnd;
use bytes::Bytes;
use std::io::Write as _;
use std::iter;
use std::time::{SystemTime, UNIX_EPOCH};

/// Replaced in the data by the Unix time.
const NOW: &str = "{now}";

/// An event with `{now}` any number of times in its data.
#[derive(Clone, Debug)]
pub(crate) struct Timestamped {
    /// Each has the time behind it.
    before: Box<[Encoded]>,
    /// All there is of an event without `{now}`.
    last: Encoded,
}

impl Timestamped {
    pub(crate) fn event(name: &str, data: &str) -> Result<Self, EventError> {
        let whole = Encoded::event(name, data)?;
        let Some((data, last)) = data.rsplit_once(NOW) else {
            return Ok(whole.into());
        };
        let mut texts = data.split(NOW);
        let first = texts.next().unwrap_or_default();
        let first = Encoded::part(&[&format!("event: {name}"), &format!("data: {first}")]);
        let others = texts.map(|text| Encoded::part(&[text]));
        Ok(Self {
            before: iter::once(first).chain(others).collect(),
            last: Encoded::part(&[last, "", ""]),
        })
    }

    /// Nothing is formatted or allocated without `{now}`.
    pub(crate) fn in_line_end(&self, line_end: LineEnd) -> Bytes {
        match self.before.is_empty() {
            true => self.last.in_line_end(line_end),
            false => self.at(unix_seconds(), line_end),
        }
    }

    fn at(&self, seconds: u64, line_end: LineEnd) -> Bytes {
        let mut bytes = Vec::with_capacity(128);
        for part in &self.before {
            bytes.extend_from_slice(&part.in_line_end(line_end));
            // Writing to a vector cannot fail.
            let _ = write!(bytes, "{seconds}");
        }
        bytes.extend_from_slice(&self.last.in_line_end(line_end));
        bytes.into()
    }
}

/// Bytes that are always the same.
impl From<Encoded> for Timestamped {
    fn from(words: Encoded) -> Self {
        Self {
            before: Box::default(),
            last: words,
        }
    }
}

/// The time of the system's clock; 0 on one that is set to before 1970.
fn unix_seconds() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(data: &str) -> Timestamped {
        Timestamped::event("ping", data).unwrap()
    }

    #[test]
    fn the_time_stands_wherever_the_data_has_it() {
        for (data, expected) in [
            ("{now}", "7"),
            (r#"{"now":{now}}"#, r#"{"now":7}"#),
            ("{now}{now} and {now}", "77 and 7"),
            ("{{now}}", "{7}"),
            ("{}", "{}"),
            ("{NOW} {now {no", "{NOW} {now {no"),
        ] {
            for line_end in [LineEnd::Lf, LineEnd::CrLf, LineEnd::Cr] {
                let expected = Encoded::event("ping", expected).unwrap();
                let expected = expected.in_line_end(line_end);
                let event_bytes = event(data);
                assert_eq!(event_bytes.at(7, line_end), expected, "{data}");
            }
        }
    }

    #[test]
    fn a_name_is_no_place_for_the_time() {
        let event_bytes = Timestamped::event("{now}", "{now}").unwrap();
        let written = event_bytes.at(7, LineEnd::Lf);
        assert_eq!(written, "event: {now}\ndata: 7\n\n");
    }

    #[test]
    fn it_is_the_time_of_the_systems_clock() {
        let before = unix_seconds();
        let written = event("{now}").in_line_end(LineEnd::Lf);
        let after = unix_seconds();
        let possible = |now: u64| written == format!("event: ping\ndata: {now}\n\n");
        assert!((before..=after).any(possible), "{written:?}");
    }

    #[test]
    fn an_event_without_the_time_is_shared_bytes() {
        for event_bytes in [
            event("{}"),
            Encoded::comment("{now}", false).unwrap().into(),
        ] {
            let [first, second] = [LineEnd::Lf; 2].map(|end| event_bytes.in_line_end(end));
            assert_eq!(first.as_ptr(), second.as_ptr());
        }
    }

    #[test]
    fn what_cannot_stand_in_an_event_is_refused() {
        for (name, data) in [
            ("", "{now}"),
            ("ping", ""),
            ("ping", "{now}\n"),
            ("a\r", "1"),
        ] {
            assert!(Timestamped::event(name, data).is_err());
        }
    }
}
