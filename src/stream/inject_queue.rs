//! Events of the application that are queued for a stream.

use crate::event::Event;
use crate::lock::lock;
use crate::wire::{Encoded, LineEnd};
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard};

/// Events that may be queued in one stream.
const MAX_QUEUED_EVENTS: usize = 16;

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
    /// The client reads too slowly.
    #[error("too many events are already queued in the stream")]
    Full,
}

/// No layer takes events out of the queue.
const CLOSED: u8 = 0;
const EMPTY: u8 = 1;
const QUEUED: u8 = 2;

#[derive(Debug, Default)]
pub(super) struct InjectQueue {
    /// Read at each event of the upstream, so without the lock.
    state: AtomicU8,
    /// Boxed, as most streams never have one.
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

    /// Bytes of the queued events.
    pub(super) fn bytes(&self) -> usize {
        if !self.has_queued() {
            return 0;
        }
        let queue = self.queue();
        let queued = queue.iter().flat_map(|queue| queue.0.iter());
        queued.map(Encoded::memory).sum()
    }

    pub(super) fn push(&self, event: &Event) -> Result<(), SendError> {
        if self.state.load(Relaxed) == CLOSED {
            return Err(SendError::NotInjectable);
        }
        let mut queue = self.queue();
        let Queue(queued) = &mut **queue.get_or_insert_default();
        if queued.len() == MAX_QUEUED_EVENTS {
            return Err(SendError::Full);
        }
        queued.push_back(event.encoded().clone());
        self.state.store(QUEUED, Relaxed);
        Ok(())
    }

    pub(super) fn pop(&self, line_end: LineEnd) -> Option<Bytes> {
        let mut queue = self.queue();
        let Queue(queued) = &mut **queue.as_mut()?;
        let encoded = queued.pop_front();
        if queued.is_empty() {
            *queue = None;
            self.state.store(EMPTY, Relaxed);
        }
        encoded.map(|encoded| encoded.in_line_end(line_end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queue_is_bounded_and_keeps_the_order() {
        let queue = InjectQueue::default();
        let event = |n: usize| Event::new(None, &n.to_string()).unwrap();
        assert_eq!(queue.push(&event(0)), Err(SendError::NotInjectable));
        queue.open();
        for n in 0..MAX_QUEUED_EVENTS {
            assert_eq!(queue.push(&event(n)), Ok(()));
        }
        assert_eq!(queue.push(&event(MAX_QUEUED_EVENTS)), Err(SendError::Full));
        for n in 0..MAX_QUEUED_EVENTS {
            assert!(queue.has_queued());
            assert_eq!(queue.pop(LineEnd::Lf).unwrap(), format!("data: {n}\n\n"));
        }
        assert!(!queue.has_queued());
        assert_eq!(queue.pop(LineEnd::Lf), None);
        assert_eq!(queue.push(&event(0)), Ok(()));
    }
}
