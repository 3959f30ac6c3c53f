//! Injected bytes, in the stream's own line end.

use super::position::LineEnd;
use bytes::Bytes;
use std::fmt::Write as _;
use std::time::Duration;

/// A text cannot stand in an event stream.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EventError {
    /// The text of a comment, an event's name or its data contains CR or LF and would end its line.
    #[error("{text:?} contains a line end: it would break out of its field")]
    LineEnd {
        /// The text that was refused.
        text: String,
    },
    /// An event's name and data are longer than 64 KiB together.
    #[error("an event of {0} bytes is too long; the maximum is 64 KiB")]
    TooLong(usize),
    /// An event's name or data is empty. Some clients crash on either.
    #[error("an event needs a name and data that are not empty: some clients crash without")]
    Empty,
}

/// Refuses what would end the line it stands in.
fn check_line(text: &str) -> Result<(), EventError> {
    if text.contains(['\r', '\n']) {
        return Err(EventError::LineEnd { text: text.into() });
    }
    Ok(())
}

/// Lines of ours, written once for each line end, so that saying them is no work.
#[derive(Clone, Debug)]
pub(crate) struct Encoded([Bytes; 3]);

impl Encoded {
    /// The bytes that it takes.
    pub(crate) fn memory(&self) -> usize {
        self.0.iter().map(Bytes::len).sum()
    }

    /// Lines, of which an empty one is a blank line.
    fn lines(lines: &[String]) -> Self {
        let mut lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        lines.push("");
        Self::part(&lines)
    }

    /// Lines with line ends between them, and none behind the last.
    pub(super) fn part(lines: &[&str]) -> Self {
        Self([LineEnd::Lf, LineEnd::CrLf, LineEnd::Cr].map(|end| {
            let mut bytes = Vec::new();
            for (number, line) in lines.iter().enumerate() {
                if number > 0 {
                    bytes.extend_from_slice(end.as_bytes());
                }
                bytes.extend_from_slice(line.as_bytes());
            }
            bytes.into()
        }))
    }

    /// A comment line, with a blank line behind it if it is to be a block.
    pub(crate) fn comment(text: &str, block: bool) -> Result<Self, EventError> {
        check_line(text)?;
        let mut lines = vec![match text {
            "" => ":".to_owned(),
            text => format!(": {text}"),
        }];
        lines.extend(block.then(String::new));
        Ok(Self::lines(&lines))
    }

    /// A whole event.
    pub(crate) fn event(name: &str, data: &str) -> Result<Self, EventError> {
        check_line(data)?;
        Self::message(Some(name), data, None)
    }

    /// A whole event of any number of lines of data, with or without a name and a time to come back.
    pub(crate) fn message(
        name: Option<&str>,
        data: &str,
        retry: Option<Duration>,
    ) -> Result<Self, EventError> {
        check_line(name.unwrap_or_default())?;
        if data.is_empty() || name.is_some_and(str::is_empty) {
            return Err(EventError::Empty);
        }
        let mut lines = Vec::new();
        lines.extend(retry.map(|retry| format!("retry: {}", retry.as_millis())));
        if let Some(name) = name {
            lines.push(format!("event: {name}"));
        }
        // As clients do: CRLF is one line end.
        let data = data.replace("\r\n", "\n");
        lines.extend(data.split(['\r', '\n']).map(|line| format!("data: {line}")));
        lines.push(String::new());
        Ok(Self::lines(&lines))
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

    /// The last words of a stream: when to come back, glued in front of an event if there is one.
    /// The `retry` line has no blank line of its own, which some clients take for an empty event.
    pub(crate) fn closing(
        retry: Option<Duration>,
        event: Option<&Self>,
        line_end: LineEnd,
    ) -> Option<Bytes> {
        let event = event.map(|event| event.in_line_end(line_end));
        let Some(retry) = retry else {
            return event;
        };
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = write!(text, "retry: {}", retry.as_millis());
        let mut bytes = text.into_bytes();
        bytes.extend_from_slice(line_end.as_bytes());
        bytes.extend_from_slice(&event.unwrap_or_default());
        Some(bytes.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_is_written_in_the_line_end_asked_for() {
        let line = Encoded::comment("hi", false).unwrap();
        let block = Encoded::comment("", true).unwrap();
        let event = Encoded::event("ping", "{}").unwrap();
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
            let words = Encoded::closing(retry, event, LineEnd::CrLf);
            assert_eq!(words.as_deref(), expected.map(str::as_bytes));
        }
    }

    #[test]
    fn no_line_of_a_message_breaks_out_of_its_field() {
        let second = Some(Duration::from_secs(1));
        let message = Encoded::message(Some("a"), "1\r\n\rid: 2\n", second).unwrap();
        assert_eq!(
            message.in_line_end(LineEnd::Lf),
            "retry: 1000\nevent: a\ndata: 1\ndata: \ndata: id: 2\ndata: \n\n"
        );
        for (name, data) in [(None, ""), (Some(""), "x"), (Some("a\rb"), "x")] {
            assert!(Encoded::message(name, data, None).is_err());
        }
    }

    #[test]
    fn a_text_that_would_end_its_line_is_refused() {
        for text in ["a\nb", "a\rb", "\n"] {
            assert!(Encoded::comment(text, false).is_err());
            assert!(Encoded::event(text, "{}").is_err());
            assert!(Encoded::event("ping", text).is_err());
        }
        assert_eq!(Encoded::event("ping", "").unwrap_err(), EventError::Empty);
        assert_eq!(Encoded::event("", "{}").unwrap_err(), EventError::Empty);
    }
}
