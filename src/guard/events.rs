//! The events of one guarded stream: aligned, scanned, counted, and reported to the policy.

use super::clock::unread_pause;
use super::{BreakCause, Ending, Notice, Policy, PolicyContext, StreamError};
use crate::stream::{EndReason, MAX_ID_BYTES, Stream, UpstreamFault, WakerSlot};
use crate::wire::{Aligner, RawEvent, Scanned, Scanner};
use bytes::Bytes;
use http_body::Frame;
use std::task::Waker;
use tokio::time::Instant;

/// The state of a guarded event stream.
pub(super) struct Events {
    pub(super) aligner: Aligner,
    /// Only if events are counted here, or a policy needs them.
    scanner: Option<Scanner>,
    /// The innermost guard writes the stream's record.
    is_recorder: bool,
    pub(super) stream: Stream,
    /// Where the task's waker is registered, if the policy must be woken.
    slot: Option<WakerSlot>,
    /// The time of the last poll.
    pub(super) now: Instant,
    /// The last poll returned data: the source was not read until it was pending.
    handed_out: bool,
    /// A deadline has passed while bytes kept arriving.
    pub(super) overdue: bool,
    /// The next piece begins at a boundary.
    fresh: bool,
}

/// The last id in a piece, which may hold hundreds of events: the record is locked once for all of them.
struct PieceLastId {
    found: bool,
    len: usize,
    bytes: [u8; MAX_ID_BYTES],
}

impl Default for PieceLastId {
    fn default() -> Self {
        Self {
            found: false,
            len: 0,
            bytes: [0; MAX_ID_BYTES],
        }
    }
}

impl PieceLastId {
    /// An id that is too long leaves an empty one.
    fn take(&mut self, id: Option<&[u8]>) {
        let Some(id) = id else { return };
        self.found = true;
        self.len = 0;
        if let Some(prefix) = self.bytes.get_mut(..id.len()) {
            prefix.copy_from_slice(id);
            self.len = id.len();
        }
    }
}

/// The bytes that are still sent, and the error after them.
pub(super) type End = (Option<Bytes>, Option<StreamError>);

impl Events {
    pub(super) fn new<P: Policy>(
        policy: Option<&P>,
        stream: Stream,
        is_recorder: bool,
        aligner: Aligner,
    ) -> Self {
        let interests = policy.map(P::interests).unwrap_or_default();
        let is_readable = !stream.is_opaque();
        Self {
            aligner,
            scanner: (is_readable && (is_recorder || interests.events)).then(Scanner::default),
            is_recorder,
            slot: interests.wake.then(|| stream.waker_slot()),
            now: stream.opened(),
            handed_out: true,
            stream,
            overdue: false,
            fresh: is_readable,
        }
    }

    pub(super) fn context(&self) -> PolicyContext<'_> {
        PolicyContext {
            now: self.now,
            stream: &self.stream,
            aligner: &self.aligner,
        }
    }

    /// The bytes pass unchanged, and none are held.
    pub(super) fn is_untouched(&self) -> bool {
        self.stream.is_opaque() && self.aligner.is_empty()
    }

    /// Begins a poll. Returns true if the one before returned data.
    pub(super) fn begin_poll(&mut self) -> bool {
        let last = std::mem::replace(&mut self.now, Instant::now());
        let handed_out = std::mem::take(&mut self.handed_out);
        if let Some(pause) = unread_pause(last, self.now, handed_out && self.is_recorder) {
            self.stream.exclude_pause(pause);
        }
        handed_out
    }

    /// Returns true if the bytes come from the upstream. After an end that a layer inside has recorded, they are that
    /// layer's closing.
    fn counts(&self) -> bool {
        self.is_recorder && self.stream.end_reason().is_none()
    }

    pub(super) fn push(&mut self, chunk: Bytes) {
        if self.counts() && !chunk.is_empty() {
            self.stream.record_bytes(chunk.len(), self.now);
        }
        self.aligner.push(chunk);
    }

    pub(super) fn hand_out(&mut self, piece: Bytes, policy: &mut impl Policy) -> Frame<Bytes> {
        self.scan(&piece, policy);
        let piece = self.with_prefix(piece, policy);
        self.sent(piece, policy)
    }

    fn scan(&mut self, piece: &[u8], policy: &mut impl Policy) {
        let (counts, notifies) = (self.counts(), policy.interests().events);
        let Some(scanner) = self.scanner.as_mut().filter(|_| counts || notifies) else {
            return;
        };
        let stream = &self.stream;
        let context = PolicyContext {
            now: self.now,
            stream,
            aligner: &self.aligner,
        };
        let (mut events, mut has_life) = (0, false);
        let mut id = PieceLastId::default();
        let is_new = counts && stream.time_to_first_event().is_none();
        let needs_pings = is_new || stream.has_event_clock();
        scanner.scan_parts(piece, |seen| match seen {
            Scanned::Event(event) => {
                id.take(event.id);
                if event.has_data {
                    events += 1;
                    // One event that is not a ping is enough for a piece.
                    let is_ping = !has_life && needs_pings && stream.is_ping(&event);
                    if !has_life && !is_ping {
                        has_life = true;
                        if is_new {
                            stream.detect_family(&event);
                        }
                    }
                }
                if notifies {
                    policy
                        .on(&context, Notice::Event(&event))
                        .expect_pass::<()>();
                }
            }
            Scanned::Part { bytes, is_first } => {
                if is_new && is_first && !has_life {
                    stream.detect_family(&RawEvent::begun(bytes));
                }
                if notifies {
                    policy
                        .on(&context, Notice::EventPart { bytes, is_first })
                        .expect_pass::<()>();
                }
            }
        });
        if counts {
            stream.record_events(events, has_life, self.now);
            if id.found {
                stream.set_last_id(&id.bytes[..id.len]);
            }
        }
    }

    fn with_prefix(&mut self, piece: Bytes, policy: &mut impl Policy) -> Bytes {
        // Before a comment the prefix would be an event of its own, and a byte order mark must come first.
        let is_event = !matches!(piece.first(), None | Some(b':' | b'\r' | b'\n' | 0xEF));
        let is_fresh = is_event && self.fresh;
        self.fresh = self.aligner.is_empty() && self.aligner.at_boundary();
        if !is_fresh {
            return piece;
        }
        match policy.on(&self.context(), Notice::BeforeEvent).into_bytes() {
            Some(prefix) => [prefix, piece].concat().into(),
            None => piece,
        }
    }

    pub(super) fn sent(&mut self, piece: Bytes, policy: &mut impl Policy) -> Frame<Bytes> {
        self.handed_out = true;
        let context = self.context();
        policy.on(&context, Notice::Sent).expect_pass::<()>();
        self.overdue = policy
            .deadline(&context)
            .is_some_and(|deadline| deadline <= context.now);
        Frame::data(piece)
    }

    /// Ends the stream as the policy requires. A client with an incomplete event gets an error in any case.
    pub(super) fn end(&mut self, ending: Ending, policy: &mut impl Policy) -> End {
        let Ending {
            reason,
            closing,
            abort,
        } = ending;
        let closing = match closing {
            None if abort => self.error_event(BreakCause::Ended(reason), policy),
            closing => closing,
        };
        let (closing, torn) = self.stop(reason, closing);
        let error = (abort || torn).then_some(StreamError::Ended(reason));
        (closing, error)
    }

    /// The body inside has failed.
    pub(super) fn fail(&mut self, error: StreamError, policy: &mut impl Policy) -> End {
        let reason = error.reason();
        if reason == EndReason::UpstreamError {
            self.stream.end_by_fault(error.fault());
        }
        let reaction = policy.on(&self.context(), Notice::InnerError(reason));
        match reaction.into_ending() {
            Some(ending) => self.end(ending, policy),
            None => (
                self.break_off(BreakCause::Ended(reason), policy),
                Some(error),
            ),
        }
    }

    /// The upstream has ended properly.
    pub(super) fn close(&mut self, policy: &mut impl Policy) -> End {
        if self.is_truncated(self.aligner.tail(), policy) {
            self.stream.end_by_fault(UpstreamFault::NoLastEvent);
            let closing = self.break_off(BreakCause::Truncated, policy);
            let error = StreamError::Ended(BreakCause::Truncated.reason());
            return (closing, Some(error));
        }
        self.stream.end(EndReason::UpstreamEnd);
        (self.aligner.finish(), None)
    }

    /// Records the proper end if this piece was the last one: a consumer that knows the length drops the body
    /// here, without polling for its end.
    pub(super) fn note_end(&mut self, policy: &mut impl Policy) {
        if !self.is_truncated(&[], policy) {
            self.stream.end(EndReason::UpstreamEnd);
        }
    }

    fn is_truncated(&self, tail: &[u8], policy: &mut impl Policy) -> bool {
        policy
            .on(&self.context(), Notice::UpstreamEnd { tail })
            .is_truncated()
    }

    fn error_event(&self, cause: BreakCause, policy: &mut impl Policy) -> Option<Bytes> {
        policy
            .on(&self.context(), Notice::BeforeBreak(cause))
            .into_bytes()
    }

    fn break_off(&mut self, cause: BreakCause, policy: &mut impl Policy) -> Option<Bytes> {
        let event = self.error_event(cause, policy);
        self.stop(cause.reason(), event).0
    }

    /// Returns `closing`, unless the client has an incomplete event, and whether it has one.
    fn stop(&mut self, reason: EndReason, closing: Option<Bytes>) -> (Option<Bytes>, bool) {
        let torn = !self.aligner.at_boundary();
        self.stream.end(reason);
        self.stream.add_dropped(self.aligner.discard());
        (closing.filter(|_| !torn), torn)
    }

    /// Prepares for a wait.
    pub(super) fn park(&self, waker: &Waker) {
        if let Some(slot) = self.slot {
            self.stream.register_waker(slot, waker);
        }
        // Otherwise a layer inside holds bytes, and reports them.
        if self.aligner.holds_back() {
            self.stream.set_held(self.aligner.held());
        }
    }
}
