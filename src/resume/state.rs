//! The state of a stream that can be resumed.

use super::cursor::{Cursor, Dedup, EventKey};
use super::reconnect::Reconnect;
use super::{ResumeConfig, ResumeError};
use crate::family::is_keepalive;
use crate::guard::{BoxError, unread_pause};
use crate::wire::{Aligner, RawEvent, Scanner};
use bytes::{Bytes, BytesMut};
use std::time::Duration;
use tokio::time::Instant;

pub(super) struct ResumeState<B> {
    pub(super) reconnect: Reconnect<B>,
    pub(super) cursor: Cursor,
    /// Times of the last byte and of the last event that is not a ping.
    pub(super) last_byte: Instant,
    pub(super) last_event: Instant,
    pub(super) connected_at: Instant,
    pub(super) lost: Option<UpstreamLoss>,
    /// Start of the outage; a connection without a new event that is not stable does not end it.
    pub(super) outage_since: Option<Instant>,
    pub(super) replace_at: Option<Instant>,
    /// Events delivered since a replacement was started.
    pub(super) events_since_overlap: usize,
    pub(super) attempts: u32,
    /// Connections in a row that were lost soon, without a new event.
    pub(super) flaps: u32,
    /// The `retry:` of the upstream.
    pub(super) min_delay: Duration,
    pub(super) polled_at: Instant,
    pub(super) returned_data: bool,
    /// The incomplete event of the upstream that is not delivered yet.
    pub(super) partial: Option<Box<PartialEvent>>,
}

/// An incomplete event that may be a duplicate.
#[derive(Debug)]
pub(super) enum PartialEvent {
    /// Its `id` line is not there yet.
    Held(BytesMut),
    /// Its id is that of a delivered event.
    Duplicate,
}

/// Bytes that are held until the `id` line comes.
const MAX_HELD: usize = 1024 * 1024;

/// How and when the upstream was lost.
pub(super) struct UpstreamLoss {
    pub(super) at: Instant,
    pub(super) error: BoxError,
}

impl<B> ResumeState<B> {
    /// `last_id` is the `Last-Event-ID` of the request.
    pub(super) fn new(reconnect: Reconnect<B>, last_id: Option<&[u8]>) -> Self {
        let now = Instant::now();
        Self {
            cursor: Cursor::new(last_id, reconnect.config.dedup_window),
            replace_at: reconnect.config.replace_at(now),
            reconnect,
            last_byte: now,
            last_event: now,
            connected_at: now,
            lost: None,
            outage_since: None,
            events_since_overlap: 0,
            attempts: 0,
            flaps: 0,
            min_delay: Duration::ZERO,
            polled_at: now,
            returned_data: false,
            partial: None,
        }
    }

    pub(super) fn config(&self) -> &ResumeConfig {
        &self.reconnect.config
    }

    /// Excludes the time in which the body was not polled, as the client did not read, from the upstream's idle
    /// time. Returns now.
    pub(super) fn exclude_pause(&mut self) -> Instant {
        let now = Instant::now();
        let returned_data = std::mem::take(&mut self.returned_data);
        if let Some(pause) = unread_pause(self.polled_at, now, returned_data) {
            self.last_byte += pause;
            self.last_event += pause;
        }
        self.polled_at = now;
        now
    }

    /// The key of an event that came in one piece.
    pub(super) fn event_key<'a>(&self, event: &RawEvent<'a>) -> EventKey<'a> {
        let ignored = &self.reconnect.config.ignore_events;
        let is_ignored = |name: &[u8]| ignored.iter().any(|ignored| ignored.as_bytes() == name);
        let has_content = event.has_data && !event.name.is_some_and(is_ignored);
        EventKey {
            id: event.id,
            content: has_content.then_some(event.raw),
            is_partial: false,
        }
    }

    /// Whether the client has no incomplete event.
    pub(super) fn at_boundary(&self, aligner: &Aligner) -> bool {
        aligner.at_boundary() || self.partial.is_some()
    }

    /// Whether the upstream can continue at the position of the client.
    pub(super) fn may_resume(&self, aligner: &Aligner) -> bool {
        // A client with half an event would join it with the next one.
        // The family may have changed with the first event: the older transport of MCP cannot resume.
        let may_resume = self.reconnect.stream.family().may_resume();
        may_resume && self.at_boundary(aligner) && (self.config().lossy || self.cursor.is_known())
    }

    /// Memory in bytes, without the stream's record.
    pub(super) fn memory(&self) -> usize {
        let held = match self.partial.as_deref() {
            Some(PartialEvent::Held(held)) => held.capacity(),
            Some(PartialEvent::Duplicate) | None => 0,
        };
        held + self.cursor.memory()
    }

    /// Drops the incomplete event. Returns how many bytes were dropped.
    pub(super) fn discard(&mut self, aligner: &mut Aligner) -> usize {
        let held = match self.partial.take().map(|partial| *partial) {
            Some(PartialEvent::Held(held)) => held.len(),
            Some(PartialEvent::Duplicate) | None => 0,
        };
        held + aligner.discard()
    }

    /// When the first idle timeout expires.
    pub(super) fn idle_at(&self) -> Option<Instant> {
        let silent = self.config().idle_timeout.map(|time| self.last_byte + time);
        let eventless = self
            .config()
            .event_timeout
            .map(|time| self.last_event + time);
        match (silent, eventless) {
            (Some(silent), Some(eventless)) => Some(silent.min(eventless)),
            (silent, eventless) => silent.or(eventless),
        }
    }

    /// Returns the bytes of `piece` to deliver: all but duplicates. An event that is not `whole` is held until its
    /// `id` line has come.
    pub(super) fn process(
        &mut self,
        scanner: &mut Scanner,
        piece: Bytes,
        whole: bool,
    ) -> Result<Bytes, ResumeError> {
        let now = self.polled_at;
        let mut partial = self.partial.take().map(|partial| *partial);
        let needs_copy = self.cursor.is_deduping() || partial.is_some();
        let mut kept = needs_copy.then(BytesMut::new);
        let mut in_pieces = scanner.is_inside();
        let mut behind = 0;
        let mut lost = false;
        let (start, ignored) = (
            piece.as_ptr().addr(),
            self.reconnect.config.ignore_events.clone(),
        );
        scanner.scan(&piece, |event| {
            let is_ignored = |name: &[u8]| ignored.iter().any(|ignored| ignored.as_bytes() == name);
            let is_keepalive = || is_keepalive(&event, self.reconnect.request_info.family);
            let has_content = event.has_data
                && !event.name.is_some_and(is_ignored)
                && (event.id.is_some() || !is_keepalive());
            if has_content {
                self.last_event = now;
            }
            if let Some(retry) = event.retry.and_then(retry) {
                self.min_delay = retry;
            }
            let end = event.raw.as_ptr().addr() + event.raw.len() - start;
            let bytes = &piece[behind..end];
            behind = end;
            let (held, is_dropped) = match partial.take() {
                Some(PartialEvent::Held(mut held)) => {
                    held.extend_from_slice(bytes);
                    (Some(held), false)
                }
                Some(PartialEvent::Duplicate) => (None, true),
                None => (None, false),
            };
            let raw = held.as_deref().map_or(event.raw, without_line_end);
            let key = EventKey {
                id: event.id,
                content: has_content.then_some(raw),
                is_partial: std::mem::take(&mut in_pieces) && held.is_none(),
            };
            let dedup = match is_dropped {
                true => Dedup::Duplicate,
                false => self.cursor.classify(key),
            };
            lost |= dedup == Dedup::Reset;
            if dedup == Dedup::Deliver {
                self.cursor.record(key);
                self.events_since_overlap += usize::from(event.id.is_some() || has_content);
                if has_content {
                    self.outage_since = None;
                }
            }
            if let (Some(kept), Dedup::Deliver) = (&mut kept, dedup) {
                kept.extend_from_slice(held.as_deref().unwrap_or(bytes));
            } else if dedup == Dedup::Duplicate {
                metrics::counter!("sse_guard_duplicate_events_dropped_total").increment(1);
            }
        });
        if lost {
            return Err(ResumeError::Renumbered);
        }
        let Some(mut kept) = kept else {
            return Ok(piece);
        };
        let rest = &piece[behind..];
        match partial {
            Some(PartialEvent::Duplicate) => self.partial = Some(Box::new(PartialEvent::Duplicate)),
            Some(PartialEvent::Held(mut held)) => {
                held.extend_from_slice(rest);
                self.process_partial(scanner, held, &mut kept)?;
            }
            None if whole || rest.is_empty() || !self.cursor.is_deduping() => {
                kept.extend_from_slice(rest);
            }
            None => self.process_partial(scanner, BytesMut::from(rest), &mut kept)?,
        }
        Ok(kept.freeze())
    }

    /// Decides about an incomplete event: bytes to deliver are appended to `kept`.
    fn process_partial(
        &mut self,
        scanner: &Scanner,
        part: BytesMut,
        kept: &mut BytesMut,
    ) -> Result<(), ResumeError> {
        let id = scanner.id_so_far().filter(|id| !id.is_empty());
        let Some(id) = id else {
            if part.len() > MAX_HELD {
                return Err(ResumeError::TooLong);
            }
            self.partial = Some(Box::new(PartialEvent::Held(part)));
            return Ok(());
        };
        let key = EventKey {
            id: Some(id),
            content: None,
            is_partial: true,
        };
        match self.cursor.classify(key) {
            Dedup::Deliver => kept.extend_from_slice(&part),
            Dedup::Duplicate => self.partial = Some(Box::new(PartialEvent::Duplicate)),
            Dedup::Reset => return Err(ResumeError::Renumbered),
        }
        Ok(())
    }
}

/// A held event may begin with the LF of the CRLF before it.
fn without_line_end(event: &[u8]) -> &[u8] {
    event.strip_prefix(b"\n").unwrap_or(event)
}

/// Digits only: by the specification any other value is ignored.
fn retry(value: &[u8]) -> Option<Duration> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let millis = std::str::from_utf8(value).ok()?.parse().ok()?;
    Some(Duration::from_millis(millis))
}
