//! An event with the time of sending in its data.

use super::encode::Encoded;
use super::position::LineEnd;
use bytes::Bytes;
use std::io::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

/// Placeholder for the Unix time.
const NOW: &str = "{now}";

/// A comment or event with any number of `{now}` in its data.
#[derive(Clone, Debug)]
pub(crate) struct Timestamped {
    /// The time follows each of them.
    before: Box<[Encoded]>,
    /// The rest; the whole event without a `{now}`.
    last: Encoded,
}

impl Timestamped {
    pub(crate) fn new(event: &Encoded) -> Self {
        let mut before = event.split_data(NOW);
        // There is at least one part.
        let last = before.pop().unwrap_or_else(|| event.clone());
        Self {
            before: before.into(),
            last,
        }
    }

    /// Allocates only if there is a `{now}`.
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

/// Without a placeholder.
impl From<Encoded> for Timestamped {
    fn from(encoded: Encoded) -> Self {
        Self {
            before: Box::default(),
            last: encoded,
        }
    }
}

/// The system clock; 0 if it is set to a time before 1970.
fn unix_seconds() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(name: &str, data: &str) -> Encoded {
        Encoded::event(Some(name), data).unwrap()
    }

    fn event(data: &str) -> Timestamped {
        Timestamped::new(&encoded("ping", data))
    }

    #[test]
    fn time_replaces_each_placeholder_in_the_data() {
        for (data, expected) in [
            ("{now}", "7"),
            (r#"{"now":{now}}"#, r#"{"now":7}"#),
            ("{now}{now} and {now}", "77 and 7"),
            ("{{now}}", "{7}"),
            ("{}", "{}"),
            ("{NOW} {now {no", "{NOW} {now {no"),
            ("{now}\ndata: {now}", "7\ndata: 7"),
        ] {
            for line_end in [LineEnd::Lf, LineEnd::CrLf, LineEnd::Cr] {
                let expected = encoded("ping", expected);
                let expected = expected.in_line_end(line_end);
                let event_bytes = event(data);
                assert_eq!(event_bytes.at(7, line_end), expected, "{data}");
            }
        }
    }

    #[test]
    fn placeholder_in_the_name_is_not_replaced() {
        let event_bytes = Timestamped::new(&encoded("{now}", "{now}"));
        let written = event_bytes.at(7, LineEnd::Lf);
        assert_eq!(written, "event: {now}\ndata: 7\n\n");
    }

    #[test]
    fn time_is_that_of_the_system_clock() {
        let before = unix_seconds();
        let written = event("{now}").in_line_end(LineEnd::Lf);
        let after = unix_seconds();
        let possible = |now: u64| written == format!("event: ping\ndata: {now}\n\n");
        assert!((before..=after).any(possible), "{written:?}");
    }

    #[test]
    fn event_without_placeholder_is_not_copied() {
        for event_bytes in [
            event("{}"),
            Encoded::comment("{now}", false).unwrap().into(),
        ] {
            let [first, second] = [LineEnd::Lf; 2].map(|end| event_bytes.in_line_end(end));
            assert_eq!(first.as_ptr(), second.as_ptr());
        }
    }
}
