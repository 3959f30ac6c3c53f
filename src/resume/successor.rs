//! The connection that replaces an old one: opened while the old one still delivers.

use super::reconnect::PendingReconnect;
use crate::wire::{RawEvent, Scanner};
use bytes::{Bytes, BytesMut};
use http_body::Body;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Instant;

/// The longest time for which both connections are read.
const MAX_OVERLAP: Duration = Duration::from_secs(5);
/// How far the old connection may lag behind the new one.
const MAX_LAG: Duration = Duration::from_millis(250);
/// Bytes that are read from the new connection before the switch.
const MAX_READ_AHEAD: usize = 64 * 1024;

/// The connection that is to replace the current one.
pub(super) enum Successor<B> {
    Connecting(PendingReconnect<B>),
    Connected(Box<ConnectedSuccessor<B>>),
}

/// The upstream has accepted the new connection.
pub(super) struct ConnectedSuccessor<B> {
    pub(super) body: Pin<Box<B>>,
    /// Its bytes so far.
    pub(super) read: BytesMut,
    scanner: Scanner,
    /// Hash and time of its first event with data.
    first: Option<(u64, Instant)>,
    /// Events delivered from the old connection by the time it opened.
    pub(super) events_before: usize,
    switch_by: Instant,
    /// The old connection was read until it was pending, after `first` came.
    pub(super) is_old_read: bool,
}

/// Whether the switch may take place.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum SwitchState {
    /// Its first event is there, which the old connection may have sent as well.
    Ready,
    Waiting,
    Ended,
}

impl<B> ConnectedSuccessor<B> {
    pub(super) fn new(body: B, events_before: usize, now: Instant) -> Self {
        Self {
            body: Box::pin(body),
            read: BytesMut::new(),
            scanner: Scanner::default(),
            first: None,
            events_before,
            switch_by: now + MAX_OVERLAP,
            is_old_read: false,
        }
    }

    /// The hash of its first event, see [`EventKey`](super::cursor::EventKey).
    pub(super) fn first(&self) -> Option<u64> {
        self.first.map(|(hash, _)| hash)
    }

    /// Bytes that are buffered until the switch.
    pub(super) fn memory(&self) -> usize {
        self.read.capacity()
    }

    /// The latest time of the switch.
    pub(super) fn switch_at(&self) -> Instant {
        match self.first {
            Some((_, at)) => self.switch_by.min(at + MAX_LAG),
            None => self.switch_by,
        }
    }
}

impl<B> ConnectedSuccessor<B>
where
    B: Body<Data = Bytes>,
{
    /// Reads up to its first event.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        hash: impl Fn(&RawEvent<'_>) -> Option<u64>,
    ) -> SwitchState {
        while self.first.is_none() && self.read.len() < MAX_READ_AHEAD {
            match self.body.as_mut().poll_frame(cx) {
                Poll::Pending => return SwitchState::Waiting,
                Poll::Ready(Some(Ok(frame))) => {
                    let Ok(chunk) = frame.into_data() else {
                        return SwitchState::Ended;
                    };
                    let (mut first, now) = (None, Instant::now());
                    self.scanner
                        .scan(&chunk, |event| first = first.or_else(|| hash(&event)));
                    self.first = first.map(|hash| (hash, now));
                    self.read.extend_from_slice(&chunk);
                }
                Poll::Ready(None | Some(Err(_))) => return SwitchState::Ended,
            }
        }
        SwitchState::Ready
    }
}
