//! The connection that replaces an old one: opened while the old one still delivers.

use super::again::Asking;
use crate::wire::{RawEvent, Scanner};
use bytes::{Bytes, BytesMut};
use http_body::Body;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Instant;

/// For how long both are read at the most.
const OVERLAP: Duration = Duration::from_secs(5);
/// For how long the old one may be behind the new one with the same event.
const SETTLE: Duration = Duration::from_millis(250);
/// More is not read ahead of the switch.
const MOST: usize = 64 * 1024;

/// What is to replace the connection of a stream.
pub(super) enum Successor<B> {
    Asking(Asking<B>),
    Open(Box<Opened<B>>),
}

/// It has answered.
pub(super) struct Opened<B> {
    pub(super) body: Pin<Box<B>>,
    /// What it has sent so far.
    pub(super) read: BytesMut,
    scanner: Scanner,
    /// Its first event with data, once that has come, and when.
    first: Option<(u64, Instant)>,
    /// How many events the client had been given by the time it opened.
    pub(super) ahead: usize,
    until: Instant,
    /// The old one has been read to its last byte since `first` came.
    pub(super) is_old_read: bool,
}

/// What is to be done with it now.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// It has sent what the old one may have sent as well.
    Ready,
    /// Not yet.
    Waiting,
    /// It has ended.
    Ended,
}

impl<B> Opened<B> {
    pub(super) fn new(body: B, ahead: usize, now: Instant) -> Self {
        Self {
            body: Box::pin(body),
            read: BytesMut::new(),
            scanner: Scanner::default(),
            first: None,
            ahead,
            until: now + OVERLAP,
            is_old_read: false,
        }
    }

    /// Its first event, as [`Mark`](super::cursor::Mark) tells it from others.
    pub(super) fn first(&self) -> Option<u64> {
        self.first.map(|(hash, _)| hash)
    }

    /// What it has sent and holds until the switch, in bytes.
    pub(super) fn memory(&self) -> usize {
        self.read.capacity()
    }

    /// When the switch is due, whatever comes until then.
    pub(super) fn due(&self) -> Instant {
        match self.first {
            Some((_, at)) => self.until.min(at + SETTLE),
            None => self.until,
        }
    }
}

impl<B> Opened<B>
where
    B: Body<Data = Bytes>,
{
    /// Reads to its first event.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        hash: impl Fn(&RawEvent<'_>) -> Option<u64>,
    ) -> Progress {
        while self.first.is_none() && self.read.len() < MOST {
            match self.body.as_mut().poll_frame(cx) {
                Poll::Pending => return Progress::Waiting,
                Poll::Ready(Some(Ok(frame))) => {
                    let Ok(chunk) = frame.into_data() else {
                        return Progress::Ended;
                    };
                    let (mut first, now) = (None, Instant::now());
                    self.scanner
                        .scan(&chunk, |event| first = first.or_else(|| hash(&event)));
                    self.first = first.map(|hash| (hash, now));
                    self.read.extend_from_slice(&chunk);
                }
                Poll::Ready(None | Some(Err(_))) => return Progress::Ended,
            }
        }
        Progress::Ready
    }
}
