//! What is known of a stream that may outlive its upstream.

use super::again::Again;
use super::cursor::{Cursor, Fate, Mark};
use super::{Config, ResumeError};
use crate::family::is_keepalive;
use crate::guard::{BoxError, unread_pause};
use crate::wire::{Aligner, RawEvent, Scanner};
use bytes::{Bytes, BytesMut};
use std::time::Duration;
use tokio::time::Instant;

/// What is known of one stream.
pub(super) struct Books<B> {
    pub(super) again: Again<B>,
    pub(super) cursor: Cursor,
    /// When the upstream said the last byte, and the last event that is a sign of life.
    pub(super) heard: Instant,
    pub(super) lived: Instant,
    /// Since when this connection has been up.
    pub(super) up: Instant,
    pub(super) lost: Option<Lost>,
    /// Since when no upstream has told anything new, if the last was not stable.
    pub(super) away_since: Option<Instant>,
    pub(super) old_at: Option<Instant>,
    /// Events that the client got since a successor was asked for.
    pub(super) ahead: usize,
    pub(super) tries: u32,
    /// Connections in a row that were lost again, soon and without anything new.
    pub(super) flaps: u32,
    /// The upstream's own `retry`.
    pub(super) least: Duration,
    pub(super) polled: Instant,
    pub(super) handed_out: bool,
    /// What of the upstream's last event has not been given to the client.
    pub(super) partial: Option<Box<Partial>>,
}

/// An event that the client perhaps has, and that comes in pieces.
#[derive(Debug)]
pub(super) enum Partial {
    /// Its `id` line has not come.
    Held(BytesMut),
    /// The client has it.
    Dropped,
}

/// So much of it is held until its `id` line comes.
const MOST_HELD: usize = 1024 * 1024;

/// How and when the upstream was lost.
pub(super) struct Lost {
    pub(super) at: Instant,
    pub(super) error: BoxError,
}

impl<B> Books<B> {
    /// `last_id` is what the client has asked with.
    pub(super) fn new(again: Again<B>, last_id: Option<&[u8]>) -> Self {
        let now = Instant::now();
        Self {
            cursor: Cursor::new(last_id, again.config.look_back),
            old_at: again.config.old_at(now),
            again,
            heard: now,
            lived: now,
            up: now,
            lost: None,
            away_since: None,
            ahead: 0,
            tries: 0,
            flaps: 0,
            least: Duration::ZERO,
            polled: now,
            handed_out: false,
            partial: None,
        }
    }

    pub(super) fn config(&self) -> &Config {
        &self.again.config
    }

    /// Begins a poll. Time in which the client did not read is not silence of the upstream.
    pub(super) fn wake_up(&mut self) -> Instant {
        let now = Instant::now();
        let handed_out = std::mem::take(&mut self.handed_out);
        if let Some(pause) = unread_pause(self.polled, now, handed_out) {
            self.heard += pause;
            self.lived += pause;
        }
        self.polled = now;
        now
    }

    /// What tells an event that came whole from others.
    pub(super) fn mark<'a>(&self, event: &RawEvent<'a>) -> Mark<'a> {
        let pings = &self.again.config.pings;
        let is_ping = |name: &[u8]| pings.iter().any(|ping| ping.as_bytes() == name);
        let is_news = event.has_data && !event.name.is_some_and(is_ping);
        Mark {
            id: event.id,
            news: is_news.then_some(event.raw),
            is_part: false,
        }
    }

    /// Whether the client has no part of an event without its end.
    pub(super) fn at_boundary(&self, aligner: &Aligner) -> bool {
        aligner.at_boundary() || self.partial.is_some()
    }

    /// Whether the upstream can be asked to go on where this stream stands.
    pub(super) fn may_go_on(&self, aligner: &Aligner) -> bool {
        // A client that has half an event would join it with another.
        // The older transport of MCP has told so by its first event.
        let may_resume = self.again.stream.family().may_resume();
        may_resume && self.at_boundary(aligner) && (self.config().lossy || self.cursor.is_known())
    }

    /// What it takes, in bytes, beside the stream's own record.
    pub(super) fn memory(&self) -> usize {
        let held = match self.partial.as_deref() {
            Some(Partial::Held(held)) => held.capacity(),
            Some(Partial::Dropped) | None => 0,
        };
        held + self.cursor.memory()
    }

    /// Drops what the client has no end of, and what is held back of it; tells how much that was.
    pub(super) fn discard(&mut self, aligner: &mut Aligner) -> usize {
        let held = match self.partial.take().map(|partial| *partial) {
            Some(Partial::Held(held)) => held.len(),
            Some(Partial::Dropped) | None => 0,
        };
        held + aligner.discard()
    }

    /// When the silence is too long.
    pub(super) fn idle_at(&self) -> Option<Instant> {
        let silent = self.config().idle_timeout.map(|time| self.heard + time);
        let eventless = self.config().event_timeout.map(|time| self.lived + time);
        match (silent, eventless) {
            (Some(silent), Some(eventless)) => Some(silent.min(eventless)),
            (silent, eventless) => silent.or(eventless),
        }
    }

    /// Notes what the client gets of a piece, without what it has got already. Of an event that is not
    /// `whole` the `id` line tells, once it has come.
    pub(super) fn take(
        &mut self,
        scanner: &mut Scanner,
        piece: Bytes,
        whole: bool,
    ) -> Result<Bytes, ResumeError> {
        let now = self.polled;
        let mut partial = self.partial.take().map(|partial| *partial);
        let judges = self.cursor.is_checking() || partial.is_some();
        let mut kept = judges.then(BytesMut::new);
        let mut in_pieces = scanner.is_inside();
        let mut behind = 0;
        let mut lost = false;
        let (start, pings) = (piece.as_ptr().addr(), self.again.config.pings.clone());
        scanner.scan(&piece, |event| {
            let is_ping = |name: &[u8]| pings.iter().any(|ping| ping.as_bytes() == name);
            let is_keepalive = || is_keepalive(&event, self.again.request_info.family);
            let is_news = event.has_data
                && !event.name.is_some_and(is_ping)
                && (event.id.is_some() || !is_keepalive());
            if is_news {
                self.lived = now;
            }
            if let Some(retry) = event.retry.and_then(retry) {
                self.least = retry;
            }
            let end = event.raw.as_ptr().addr() + event.raw.len() - start;
            let bytes = &piece[behind..end];
            behind = end;
            let (held, is_dropped) = match partial.take() {
                Some(Partial::Held(mut held)) => {
                    held.extend_from_slice(bytes);
                    (Some(held), false)
                }
                Some(Partial::Dropped) => (None, true),
                None => (None, false),
            };
            let raw = held.as_deref().map_or(event.raw, without_line_end);
            let mark = Mark {
                id: event.id,
                news: is_news.then_some(raw),
                is_part: std::mem::take(&mut in_pieces) && held.is_none(),
            };
            let fate = match is_dropped {
                true => Fate::Drop,
                false => self.cursor.judge(mark),
            };
            lost |= fate == Fate::Lost;
            if fate == Fate::Deliver {
                self.cursor.deliver(mark);
                self.ahead += usize::from(event.id.is_some() || is_news);
                if is_news {
                    self.away_since = None;
                }
            }
            if let (Some(kept), Fate::Deliver) = (&mut kept, fate) {
                kept.extend_from_slice(held.as_deref().unwrap_or(bytes));
            } else if fate == Fate::Drop {
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
            Some(Partial::Dropped) => self.partial = Some(Box::new(Partial::Dropped)),
            Some(Partial::Held(mut held)) => {
                held.extend_from_slice(rest);
                self.judge_part(scanner, held, &mut kept)?;
            }
            None if whole || rest.is_empty() || !self.cursor.is_checking() => {
                kept.extend_from_slice(rest);
            }
            None => self.judge_part(scanner, BytesMut::from(rest), &mut kept)?,
        }
        Ok(kept.freeze())
    }

    /// What to do with an event of which this has come: what may leave goes to `kept`.
    fn judge_part(
        &mut self,
        scanner: &Scanner,
        part: BytesMut,
        kept: &mut BytesMut,
    ) -> Result<(), ResumeError> {
        let id = scanner.id_so_far().filter(|id| !id.is_empty());
        let Some(id) = id else {
            if part.len() > MOST_HELD {
                return Err(ResumeError::TooLong);
            }
            self.partial = Some(Box::new(Partial::Held(part)));
            return Ok(());
        };
        let mark = Mark {
            id: Some(id),
            news: None,
            is_part: true,
        };
        match self.cursor.judge(mark) {
            Fate::Deliver => kept.extend_from_slice(&part),
            Fate::Drop => self.partial = Some(Box::new(Partial::Dropped)),
            Fate::Lost => return Err(ResumeError::Renumbered),
        }
        Ok(())
    }
}

/// The end of the line before may stand ahead of an event that was held.
fn without_line_end(event: &[u8]) -> &[u8] {
    event.strip_prefix(b"\n").unwrap_or(event)
}

/// Digits alone, or it is to be ignored.
fn retry(value: &[u8]) -> Option<Duration> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let millis = std::str::from_utf8(value).ok()?.parse().ok()?;
    Some(Duration::from_millis(millis))
}
