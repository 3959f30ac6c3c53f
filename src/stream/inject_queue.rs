//! Events of the operator's own, on their way into a stream.

use crate::lock::lock;
use crate::wire::{Encoded, EventError, LineEnd};
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

/// Messages that may wait in one stream.
const MAX_QUEUED: usize = 16;

/// Bytes of one: each stream whose client does not read keeps a copy of its own.
const MAX_EVENT_BYTES: usize = 64 * 1024;

/// An event to be put into live streams, by [`Stream::send`](crate::Stream::send).
///
/// It has no id: the upstream's ids stay what its clients come back with.
///
/// ```
/// use sse_guard::inject::Message;
///
/// # fn main() -> Result<(), sse_guard::wire::EventError> {
/// let message = Message::event("maintenance", "back at 10:00\nplease save your work")?;
/// assert!(Message::data("").is_err());
/// assert!(Message::event("a\ndata: forged", "x").is_err());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Message(Encoded);

impl Message {
    /// Creates an event without a name, which clients dispatch as `message`. Each line of `data`,
    /// whatever its line end, is a `data` field of its own, as clients join them.
    ///
    /// # Errors
    ///
    /// If `data` is empty, or longer than 64 KiB.
    pub fn data(data: &str) -> Result<Self, EventError> {
        Self::new(None, data, None)
    }

    /// Creates an event with a name.
    ///
    /// # Errors
    ///
    /// If either is empty, `name` contains CR or LF, or they are longer than 64 KiB together.
    pub fn event(name: &str, data: &str) -> Result<Self, EventError> {
        Self::new(Some(name), data, None)
    }

    /// One that also sets the clients' reconnection delay, which they keep from then on.
    ///
    /// # Errors
    ///
    /// If `data` is empty, `name` is or contains CR or LF, or they are longer than 64 KiB together.
    pub fn with_retry(name: Option<&str>, data: &str, retry: Duration) -> Result<Self, EventError> {
        Self::new(name, data, Some(retry))
    }

    fn new(name: Option<&str>, data: &str, retry: Option<Duration>) -> Result<Self, EventError> {
        let len = data.len() + name.map_or(0, str::len);
        if len > MAX_EVENT_BYTES {
            return Err(EventError::TooLong(len));
        }
        Encoded::message(name, data, retry).map(Self)
    }
}

/// Why an event cannot be sent into a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The stream has ended.
    #[error("the stream has ended")]
    Ended,
    /// No [`InjectLayer`](crate::inject::InjectLayer) is on the stream.
    #[error("the stream accepts only events of its upstream")]
    NotInjectable,
    /// Its client takes too little.
    #[error("too many events are already queued in the stream")]
    Full,
}

/// Nobody empties it.
const CLOSED: u8 = 0;
const EMPTY: u8 = 1;
const QUEUED: u8 = 2;

#[derive(Debug, Default)]
pub(super) struct InjectQueue {
    /// What a look at each event may cost: no lock.
    state: AtomicU8,
    // Most streams never get any.
    queue: Mutex<Option<Box<Queue>>>,
}

#[derive(Debug, Default)]
struct Queue(VecDeque<Encoded>);

impl InjectQueue {
    fn queue(&self) -> MutexGuard<'_, Option<Box<Queue>>> {
        lock(&self.queue)
    }

    pub(super) fn open(&self) {
        let _ = self.state.compare_exchange(CLOSED, EMPTY, Relaxed, Relaxed);
    }

    pub(super) fn has_queued(&self) -> bool {
        self.state.load(Relaxed) == QUEUED
    }

    /// What waits, in bytes.
    pub(super) fn bytes(&self) -> usize {
        if !self.has_queued() {
            return 0;
        }
        let queue = self.queue();
        let queued = queue.iter().flat_map(|queue| queue.0.iter());
        queued.map(Encoded::memory).sum()
    }

    pub(super) fn push(&self, message: &Message) -> Result<(), SendError> {
        if self.state.load(Relaxed) == CLOSED {
            return Err(SendError::NotInjectable);
        }
        let mut queue = self.queue();
        let Queue(queued) = &mut **queue.get_or_insert_default();
        if queued.len() == MAX_QUEUED {
            return Err(SendError::Full);
        }
        queued.push_back(message.0.clone());
        self.state.store(QUEUED, Relaxed);
        Ok(())
    }

    pub(super) fn pop(&self, line_end: LineEnd) -> Option<Bytes> {
        let mut queue = self.queue();
        let Queue(queued) = &mut **queue.as_mut()?;
        let words = queued.pop_front();
        if queued.is_empty() {
            *queue = None;
            self.state.store(EMPTY, Relaxed);
        }
        words.map(|words| words.in_line_end(line_end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_a_bound() {
        let long = "x".repeat(MAX_EVENT_BYTES);
        assert!(Message::data(&long).is_ok());
        let error = Message::event("a", &long).unwrap_err();
        assert_eq!(error, EventError::TooLong(MAX_EVENT_BYTES + 1));
    }

    #[test]
    fn mail_waits_in_order_and_within_bounds() {
        let queue = InjectQueue::default();
        let message = |n: usize| Message::data(&n.to_string()).unwrap();
        assert_eq!(queue.push(&message(0)), Err(SendError::NotInjectable));
        queue.open();
        for n in 0..MAX_QUEUED {
            assert_eq!(queue.push(&message(n)), Ok(()));
        }
        assert_eq!(queue.push(&message(MAX_QUEUED)), Err(SendError::Full));
        for n in 0..MAX_QUEUED {
            assert!(queue.has_queued());
            assert_eq!(queue.pop(LineEnd::Lf).unwrap(), format!("data: {n}\n\n"));
        }
        assert!(!queue.has_queued());
        assert_eq!(queue.pop(LineEnd::Lf), None);
        assert_eq!(queue.push(&message(0)), Ok(()));
    }
}
