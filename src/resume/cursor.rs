//! The position of the client in the stream: where to continue, and which events are duplicates.

#[cfg(test)]
mod tests;

use crate::wire::MAX_KEPT;
use http::HeaderValue;
use std::collections::VecDeque;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

/// Longer ids are not sent as `Last-Event-ID`.
const MAX_RECONNECT_ID: usize = 1024;

// Of an id line that the scanner truncates, what remains is too long as well.
const _: () = assert!(MAX_KEPT > MAX_RECONNECT_ID + b"id: ".len());

#[derive(Debug)]
pub(super) struct Cursor {
    /// Empty if there is none.
    last_id: Vec<u8>,
    /// The start of the stream is not a position to continue at: an event was delivered, or an unusable id.
    has_begun: bool,
    /// Hashes of the last delivered ids, the oldest first.
    delivered: VecDeque<u64>,
    /// Hashes of the events without an id since the last one with an id. A run of equal events, as pings are,
    /// counts once.
    without_id: VecDeque<u64>,
    /// There were more of those than fit the window.
    is_without_id_full: bool,
    dedup_window: usize,
    /// For streams without ids: the events of this connection since a replacement was started.
    overlap: Option<Box<Overlap>>,
    /// Hash of the last event without an id.
    last: Option<u64>,
    dedup: Option<Box<DedupWindow>>,
}

/// Boxed, as most streams have none.
#[derive(Debug, Default)]
struct Overlap(VecDeque<u64>);

/// What a new connection may repeat of the delivered events.
#[derive(Debug)]
struct DedupWindow {
    /// An id that was delivered twice is in it twice.
    delivered: VecDeque<u64>,
    without_id: VecDeque<u64>,
    /// The event before was a duplicate, and not the last delivered one.
    repeats: bool,
    order: SearchOrder,
}

/// How an event is searched for in `without_id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SearchOrder {
    /// Anywhere; an event that is not there is new.
    Any,
    /// The last equal one; then [`Next`](Self::Next).
    First,
    /// The one after the last match.
    Next,
}

/// The parts of an event by which duplicates are recognised.
#[derive(Clone, Copy, Debug)]
pub(super) struct EventKey<'a> {
    pub(super) id: Option<&'a [u8]>,
    /// Its bytes, if it has data and is not a ping.
    pub(super) content: Option<&'a [u8]>,
    /// It came in pieces, and `content` is only the last.
    pub(super) is_partial: bool,
}

/// Whether an event is new to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dedup {
    Deliver,
    Duplicate,
    /// The numeric ids restarted: the position of the client is unknown.
    Reset,
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

fn number(id: &[u8]) -> Option<u64> {
    std::str::from_utf8(id).ok()?.parse().ok()
}

impl EventKey<'_> {
    /// Without line ends at the end, as the LF of the last CRLF may come in a later chunk.
    pub(super) fn hash_content(&self) -> Option<u64> {
        let content = self.content?;
        let end = content
            .iter()
            .rposition(|byte| !matches!(byte, b'\r' | b'\n'));
        Some(hash(&content[..end.map_or(0, |end| end + 1)]))
    }
}

impl Cursor {
    /// `last_id` is the `Last-Event-ID` of the request.
    pub(super) fn new(last_id: Option<&[u8]>, dedup_window: usize) -> Self {
        let mut cursor = Self {
            last_id: Vec::new(),
            has_begun: false,
            delivered: VecDeque::new(),
            without_id: VecDeque::new(),
            is_without_id_full: false,
            dedup_window,
            overlap: None,
            last: None,
            dedup: None,
        };
        if let Some(id) = last_id {
            cursor.advance(id);
        }
        cursor
    }

    /// Memory in bytes.
    pub(super) fn memory(&self) -> usize {
        let marks = self.delivered.capacity() + self.without_id.capacity();
        self.last_id.capacity() + marks * size_of::<u64>()
    }

    /// The value for `Last-Event-ID`, if the last id is valid in a header.
    pub(super) fn last_id(&self) -> Option<HeaderValue> {
        let id = Some(&self.last_id).filter(|id| !id.is_empty())?;
        HeaderValue::from_bytes(id).ok()
    }

    /// Whether the upstream can continue at the position: after an id, or at the start.
    pub(super) fn is_known(&self) -> bool {
        match self.last_id() {
            Some(_) => !self.is_without_id_full,
            None => !self.has_begun && self.last_id.is_empty(),
        }
    }

    /// The next events are those of a new connection.
    pub(super) fn start_dedup(&mut self) {
        let (delivered, without_id) = (self.delivered.clone(), self.without_id.clone());
        // The order of ids is known from this stream's events only, not from the client's first id.
        let is_number = self.has_begun && number(&self.last_id).is_some();
        let may_repeat = !delivered.is_empty() || !without_id.is_empty();
        self.dedup = (is_number || may_repeat).then(|| {
            Box::new(DedupWindow {
                delivered,
                without_id,
                repeats: false,
                order: SearchOrder::Any,
            })
        });
    }

    /// A replacement is started: without ids, the events of this connection from now on are compared with its own.
    pub(super) fn start_overlap(&mut self) {
        // An event at that instant may be on both, and some upstreams send the last event to each new client.
        self.overlap = Some(Box::new(Overlap(self.last.into_iter().collect())));
    }

    /// The replacement failed or has become the connection.
    pub(super) fn cancel_overlap(&mut self) {
        self.overlap = None;
    }

    /// Whether an event came on this connection, too.
    pub(super) fn is_in_overlap(&self, first: u64) -> bool {
        self.overlap
            .as_ref()
            .is_some_and(|overlap| overlap.0.contains(&first))
    }

    /// The next events are those of the replacement, from the time of [`start_overlap`](Self::start_overlap) on.
    pub(super) fn switch_connection(&mut self) {
        let Overlap(overlap) = self
            .overlap
            .take()
            .map_or_else(Overlap::default, |overlap| *overlap);
        if self.last_id().is_some() {
            return self.start_dedup();
        }
        self.dedup = (!overlap.is_empty()).then(|| {
            Box::new(DedupWindow {
                delivered: VecDeque::new(),
                without_id: overlap,
                repeats: false,
                order: SearchOrder::First,
            })
        });
    }

    /// Whether each event must be [classified](Self::classify).
    pub(super) fn is_deduping(&self) -> bool {
        self.dedup.is_some()
    }

    /// Whether the next event is a duplicate.
    pub(super) fn classify(&mut self, event: EventKey<'_>) -> Dedup {
        let Some(window) = &mut self.dedup else {
            return Dedup::Deliver;
        };
        let Some(id) = event.id.filter(|id| !id.is_empty()) else {
            // It followed that event the first time, too.
            if window.repeats {
                return Dedup::Duplicate;
            }
            let Some(same) = event.hash_content() else {
                return Dedup::Deliver;
            };
            let is_same = |known: &u64| *known == same;
            let at = match window.order {
                SearchOrder::Any => window.without_id.iter().position(is_same),
                SearchOrder::First => window.without_id.iter().rposition(is_same),
                SearchOrder::Next => window
                    .without_id
                    .front()
                    .filter(|known| is_same(known))
                    .map(|_| 0),
            };
            let Some(at) = at else {
                if window.order != SearchOrder::Any {
                    self.dedup = None;
                }
                return Dedup::Deliver;
            };
            window.without_id.drain(..=at);
            if window.order == SearchOrder::First {
                window.order = SearchOrder::Next;
            }
            self.stop_dedup_when_done();
            return Dedup::Duplicate;
        };
        let same = hash(id);
        let Some(at) = window.delivered.iter().position(|known| *known == same) else {
            self.dedup = None;
            return match (number(id), number(&self.last_id)) {
                (Some(new), Some(last)) if self.has_begun && new <= last => Dedup::Reset,
                _ => Dedup::Deliver,
            };
        };
        window.delivered.remove(at);
        window.repeats = true;
        if id == self.last_id && !window.delivered.contains(&same) {
            // Only events without an id may still be repeated.
            window.delivered.clear();
            window.repeats = false;
            self.stop_dedup_when_done();
        }
        Dedup::Duplicate
    }

    fn stop_dedup_when_done(&mut self) {
        let is_over =
            |window: &DedupWindow| window.delivered.is_empty() && window.without_id.is_empty();
        if self.dedup.as_deref().is_some_and(is_over) {
            self.dedup = None;
        }
    }

    /// Records a delivered event.
    pub(super) fn record(&mut self, event: EventKey<'_>) {
        self.has_begun |= event.content.is_some();
        if let Some(id) = event.id {
            self.advance(id);
            return;
        }
        let Some(same) = event.hash_content() else {
            return;
        };
        self.last = Some(same);
        if let Some(overlap) = &mut self.overlap
            && overlap.0.len() < self.dedup_window
        {
            overlap.0.push_back(same);
        }
        if self.last_id.is_empty() {
            return;
        }
        if self.without_id.back() == Some(&same) {
            return;
        }
        // The last piece alone does not identify an event.
        if self.without_id.len() == self.dedup_window || event.is_partial {
            self.is_without_id_full = true;
        } else {
            self.without_id.push_back(same);
        }
    }

    /// Moves to this id.
    fn advance(&mut self, id: &[u8]) {
        self.without_id.clear();
        self.is_without_id_full = false;
        self.last_id.clear();
        if id.len() > MAX_RECONNECT_ID {
            self.has_begun = true;
            return;
        }
        self.last_id.extend_from_slice(id);
        if self.dedup_window > 0 && !id.is_empty() {
            if self.delivered.len() == self.dedup_window {
                self.delivered.pop_front();
            }
            self.delivered.push_back(hash(id));
        }
    }
}
