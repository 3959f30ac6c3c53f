//! Comments, events and `retry` lines of this crate, in the line end of each stream.

use super::position::LineEnd;
use bytes::Bytes;
use memchr::memmem;
use std::fmt::Write as _;
use std::time::Duration;

/// Why a text cannot be sent as an event or comment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EventError {
    /// The text of a comment or the name of an event contains CR or LF and would end its line.
    #[error("{text:?} contains a line end: it would break out of its field")]
    LineEnd {
        /// The rejected text.
        text: String,
    },
    /// An event's name and data are longer than 64 KiB together.
    #[error("an event of {0} bytes is too long; the maximum is 64 KiB")]
    TooLong(usize),
    /// An event's name or data is empty. Some clients crash on either.
    #[error("an event needs a name and data that are not empty: some clients crash without")]
    Empty,
}

/// Rejects a text that would end its line.
fn check_line(text: &str) -> Result<(), EventError> {
    if text.contains(['\r', '\n']) {
        return Err(EventError::LineEnd { text: text.into() });
    }
    Ok(())
}

/// Lines, encoded once for each line end, so that sending them allocates nothing.
#[derive(Clone, Debug)]
pub(crate) struct Encoded([Bytes; 3]);

impl Encoded {
    /// Memory in bytes.
    pub(crate) fn memory(&self) -> usize {
        self.0.iter().map(Bytes::len).sum()
    }

    fn lines(lines: &[String]) -> Self {
        Self([LineEnd::Lf, LineEnd::CrLf, LineEnd::Cr].map(|end| {
            let mut bytes = Vec::new();
            for line in lines {
                bytes.extend_from_slice(line.as_bytes());
                bytes.extend_from_slice(end.as_bytes());
            }
            bytes.into()
        }))
    }

    /// A comment line, followed by a blank line if it is a block.
    pub(crate) fn comment(text: &str, block: bool) -> Result<Self, EventError> {
        check_line(text)?;
        let mut lines = vec![match text {
            "" => ":".to_owned(),
            text => format!(": {text}"),
        }];
        lines.extend(block.then(String::new));
        Ok(Self::lines(&lines))
    }

    /// A whole event, with any number of lines of data.
    pub(crate) fn event(name: Option<&str>, data: &str) -> Result<Self, EventError> {
        check_line(name.unwrap_or_default())?;
        if data.is_empty() || name.is_some_and(str::is_empty) {
            return Err(EventError::Empty);
        }
        let mut lines = Vec::new();
        if let Some(name) = name {
            lines.push(format!("event: {name}"));
        }
        // CRLF is one line end.
        let data = data.replace("\r\n", "\n");
        lines.extend(data.split(['\r', '\n']).map(|line| format!("data: {line}")));
        lines.push(String::new());
        Ok(Self::lines(&lines))
    }

    /// The event with a `retry` field in front.
    pub(crate) fn with_retry(&self, retry: Duration) -> Self {
        Self([LineEnd::Lf, LineEnd::CrLf, LineEnd::Cr].map(|line_end| {
            let mut bytes = retry_line(retry, line_end);
            bytes.extend_from_slice(&self.in_line_end(line_end));
            bytes.into()
        }))
    }

    /// The event cut at each `marker` in its data. Without one it is a single part.
    pub(super) fn split_data(&self, marker: &str) -> Vec<Self> {
        let Self(encoded) = self;
        let [lf, crlf, cr] = encoded
            .each_ref()
            .map(|event| split_data(event, marker.as_bytes()));
        let parts = lf.into_iter().zip(crlf).zip(cr);
        parts.map(|((lf, crlf), cr)| Self([lf, crlf, cr])).collect()
    }

    pub(crate) fn in_line_end(&self, line_end: LineEnd) -> Bytes {
        let [lf, crlf, cr] = &self.0;
        match line_end {
            LineEnd::Lf => lf,
            LineEnd::CrLf => crlf,
            LineEnd::Cr => cr,
        }
        .clone()
    }

    /// The last bytes of a stream: a `retry` line and an event. No blank line separates them, as some clients
    /// take a lone `retry` block for an empty event.
    pub(crate) fn closing(
        retry: Option<Duration>,
        event: Option<&Self>,
        line_end: LineEnd,
    ) -> Option<Bytes> {
        let event = event.map(|event| event.in_line_end(line_end));
        let Some(retry) = retry else {
            return event;
        };
        let mut bytes = retry_line(retry, line_end);
        bytes.extend_from_slice(&event.unwrap_or_default());
        Some(bytes.into())
    }
}

fn retry_line(retry: Duration, line_end: LineEnd) -> Vec<u8> {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write!(text, "retry: {}", retry.as_millis());
    let mut bytes = text.into_bytes();
    bytes.extend_from_slice(line_end.as_bytes());
    bytes
}

/// Cuts an encoded event at each `marker`, but not within the lines before the data.
fn split_data(event: &Bytes, marker: &[u8]) -> Vec<Bytes> {
    // No line before the first data line contains this, as a line end would have ended it.
    let data = [&b"\ndata: "[..], b"\rdata: "]
        .into_iter()
        .find_map(|start| memmem::find(event, start));
    let (mut parts, mut start) = (Vec::new(), 0);
    let data = data.unwrap_or(0);
    for at in memmem::find_iter(&event[data..], marker) {
        parts.push(event.slice(start..data + at));
        start = data + at + marker.len();
    }
    parts.push(event.slice(start..));
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoded_text_uses_the_given_line_end() {
        let line = Encoded::comment("hi", false).unwrap();
        let block = Encoded::comment("", true).unwrap();
        let event = Encoded::event(Some("ping"), "{}").unwrap();
        let second = Some(Duration::from_secs(1));
        assert_eq!(line.in_line_end(LineEnd::Lf), ": hi\n");
        assert_eq!(line.in_line_end(LineEnd::CrLf), ": hi\r\n");
        assert_eq!(block.in_line_end(LineEnd::Cr), ":\r\r");
        assert_eq!(event.in_line_end(LineEnd::Lf), "event: ping\ndata: {}\n\n");
        for (retry, event, expected) in [
            (None, None, None),
            (second, None, Some("retry: 1000\r\n")),
            (None, Some(&event), Some("event: ping\r\ndata: {}\r\n\r\n")),
            (
                second,
                Some(&event),
                Some("retry: 1000\r\nevent: ping\r\ndata: {}\r\n\r\n"),
            ),
        ] {
            let closing = Encoded::closing(retry, event, LineEnd::CrLf);
            assert_eq!(closing.as_deref(), expected.map(str::as_bytes));
        }
    }

    #[test]
    fn event_data_cannot_break_out_of_its_field() {
        let second = Duration::from_secs(1);
        let event = Encoded::event(Some("a"), "1\r\n\rid: 2\n").unwrap();
        assert_eq!(
            event.with_retry(second).in_line_end(LineEnd::Lf),
            "retry: 1000\nevent: a\ndata: 1\ndata: \ndata: id: 2\ndata: \n\n"
        );
        for (name, data) in [(None, ""), (Some(""), "x"), (Some("a\rb"), "x")] {
            assert!(Encoded::event(name, data).is_err());
        }
    }

    #[test]
    fn comment_or_name_with_a_line_end_is_rejected() {
        for text in ["a\nb", "a\rb", "\n"] {
            assert!(Encoded::comment(text, false).is_err());
            assert!(Encoded::event(Some(text), "{}").is_err());
        }
        for (name, data) in [("ping", ""), ("", "{}")] {
            let error = Encoded::event(Some(name), data).unwrap_err();
            assert_eq!(error, EventError::Empty);
        }
    }
}
