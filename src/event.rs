//! The event that layers and applications send into streams.

use crate::wire::{Encoded, EventError};
use std::time::Duration;

/// Bytes of name and data together. Each stream whose client does not read holds its queued events.
const MAX_BYTES: usize = 64 * 1024;

/// A validated event: a heartbeat, the last event of a stream, or an event of the application.
///
/// It has no id, so the `Last-Event-ID` of clients remains an id of the upstream.
///
/// ```
/// use sse_guard::Event;
/// use std::time::Duration;
///
/// # fn main() -> Result<(), sse_guard::EventError> {
/// let event = Event::new("maintenance", "back at 10:00\nplease save your work")?;
/// let event = event.with_retry(Duration::from_secs(60));
/// assert!(Event::new(None, "").is_err());
/// assert!(Event::new("a\ndata: forged", "x").is_err());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Event(Encoded);

impl Event {
    /// Creates an event. Without a name, clients dispatch it as `message`. Each line of `data`, with any of the
    /// three line ends, becomes a `data` field, which clients join again.
    ///
    /// # Errors
    ///
    /// If the name or `data` is empty, the name contains CR or LF, or they are longer than 64 KiB together.
    pub fn new<'a>(name: impl Into<Option<&'a str>>, data: &str) -> Result<Self, EventError> {
        let name = name.into();
        let len = data.len() + name.map_or(0, str::len);
        if len > MAX_BYTES {
            return Err(EventError::TooLong(len));
        }
        Encoded::event(name, data).map(Self)
    }

    /// Adds a `retry` field, which sets the reconnection delay of the clients from then on.
    #[must_use]
    pub fn with_retry(self, retry: Duration) -> Self {
        Self(self.0.with_retry(retry))
    }

    pub(crate) fn encoded(&self) -> &Encoded {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::LineEnd;

    #[test]
    fn event_takes_at_most_64_kib() {
        let long = "x".repeat(MAX_BYTES);
        assert!(Event::new(None, &long).is_ok());
        let error = Event::new("a", &long).unwrap_err();
        assert_eq!(error, EventError::TooLong(MAX_BYTES + 1));
    }

    #[test]
    fn event_with_retry_sends_retry_first() {
        let event = Event::new("a", "1").unwrap();
        let event = event.with_retry(Duration::from_secs(1));
        let bytes = event.encoded().in_line_end(LineEnd::CrLf);
        assert_eq!(bytes, "retry: 1000\r\nevent: a\r\ndata: 1\r\n\r\n");
    }
}
