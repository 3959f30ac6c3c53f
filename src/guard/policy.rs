//! The decisions of a layer about one stream: from facts and the time to an action.

use crate::stream::{EndReason, Stream};
use crate::wire::{LineEnd, RawEvent};
use bytes::Bytes;
use tokio::time::Instant;

/// The state of a stream when a policy decides.
pub struct At<'a> {
    pub(crate) now: Instant,
    pub(crate) stream: &'a Stream,
    /// Nothing of an event is on the wire without its end: one may speak.
    pub(crate) boundary: bool,
    pub(crate) line_end: LineEnd,
}

/// The decision of a policy.
pub enum Verdict {
    Wait,
    /// Put these bytes in. Only at a boundary.
    Speak(Bytes),
    End(Ending),
}

/// Why a stream is about to break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Breach {
    /// Its upstream has ended it properly, but [too early](Policy::is_short).
    Short,
    /// Anything else, with the reason that the record gets.
    Broken(EndReason),
}

impl Breach {
    pub(crate) fn reason(self) -> EndReason {
        match self {
            Self::Short => EndReason::UpstreamError,
            Self::Broken(reason) => reason,
        }
    }
}

/// How a stream is to end.
pub struct Ending {
    pub(crate) reason: EndReason,
    pub(crate) last_words: Option<Bytes>,
    /// As a broken transfer, not as a proper end.
    pub(crate) abort: bool,
}

/// What to do on one stream. Held to the end of its body, also when it does nothing.
pub trait Policy {
    /// Whether it heeds what others want of the stream: only such a one may take the record's waker,
    /// which another task's guard may need.
    fn heeds(&self) -> bool {
        false
    }

    /// When to ask it again, if no byte passes until then.
    fn deadline(&self, at: &At<'_>) -> Option<Instant> {
        let _ = at;
        None
    }

    /// Asked from its deadline on.
    fn check(&mut self, at: &At<'_>) -> Verdict {
        let _ = at;
        Verdict::Wait
    }

    /// Bytes left for the client.
    fn sent(&mut self, stream: &Stream, now: Instant) {
        let _ = (stream, now);
    }

    /// An event is about to leave: what goes right ahead of it, as a part of it.
    fn ahead(&mut self, stream: &Stream, line_end: LineEnd) -> Option<Bytes> {
        let _ = (stream, line_end);
        None
    }

    /// Whether it wants to hear of events.
    fn hears(&self) -> bool {
        false
    }

    /// An event has come whole, from the upstream or a layer inside.
    fn heard(&mut self, stream: &Stream, event: &RawEvent<'_>) {
        let _ = (stream, event);
    }

    /// A part of an event has come whose end has not; the last part comes with the event. Only events
    /// beyond what is held back come in parts.
    fn heard_part(&mut self, stream: &Stream, part: &[u8], is_first: bool) {
        let _ = (stream, part, is_first);
    }

    /// The upstream has ended properly, with `tail` behind its last whole event: whether it ought to
    /// have said more.
    fn is_short(&self, stream: &Stream, tail: &[u8]) -> bool {
        let _ = (stream, tail);
        false
    }

    /// A layer inside has broken the stream: how it ends instead.
    fn instead(&mut self, at: &At<'_>, reason: EndReason) -> Option<Ending> {
        let _ = (at, reason);
        None
    }

    /// The stream is about to break: what its client is told ahead of that. It is lost if a part of
    /// an event has left.
    fn parting(&mut self, at: &At<'_>, why: Breach) -> Option<Bytes> {
        let _ = (at, why);
        None
    }
}

impl<P: Policy> Policy for Option<P> {
    fn heeds(&self) -> bool {
        self.as_ref().is_some_and(P::heeds)
    }

    fn deadline(&self, at: &At<'_>) -> Option<Instant> {
        self.as_ref().and_then(|policy| policy.deadline(at))
    }

    fn check(&mut self, at: &At<'_>) -> Verdict {
        self.as_mut()
            .map_or(Verdict::Wait, |policy| policy.check(at))
    }

    fn sent(&mut self, stream: &Stream, now: Instant) {
        if let Some(policy) = self {
            policy.sent(stream, now);
        }
    }

    fn ahead(&mut self, stream: &Stream, line_end: LineEnd) -> Option<Bytes> {
        self.as_mut()
            .and_then(|policy| policy.ahead(stream, line_end))
    }

    fn hears(&self) -> bool {
        self.as_ref().is_some_and(P::hears)
    }

    fn heard(&mut self, stream: &Stream, event: &RawEvent<'_>) {
        if let Some(policy) = self {
            policy.heard(stream, event);
        }
    }

    fn heard_part(&mut self, stream: &Stream, part: &[u8], is_first: bool) {
        if let Some(policy) = self {
            policy.heard_part(stream, part, is_first);
        }
    }

    fn is_short(&self, stream: &Stream, tail: &[u8]) -> bool {
        self.as_ref()
            .is_some_and(|policy| policy.is_short(stream, tail))
    }

    fn instead(&mut self, at: &At<'_>, reason: EndReason) -> Option<Ending> {
        self.as_mut().and_then(|policy| policy.instead(at, reason))
    }

    fn parting(&mut self, at: &At<'_>, why: Breach) -> Option<Bytes> {
        self.as_mut().and_then(|policy| policy.parting(at, why))
    }
}

impl<A: Policy, B: Policy> Policy for (A, B) {
    fn heeds(&self) -> bool {
        self.0.heeds() || self.1.heeds()
    }

    fn deadline(&self, at: &At<'_>) -> Option<Instant> {
        match (self.0.deadline(at), self.1.deadline(at)) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    fn check(&mut self, at: &At<'_>) -> Verdict {
        match self.0.check(at) {
            Verdict::Wait => self.1.check(at),
            verdict => verdict,
        }
    }

    fn sent(&mut self, stream: &Stream, now: Instant) {
        self.0.sent(stream, now);
        self.1.sent(stream, now);
    }

    fn ahead(&mut self, stream: &Stream, line_end: LineEnd) -> Option<Bytes> {
        let outer = self.0.ahead(stream, line_end);
        outer.or_else(|| self.1.ahead(stream, line_end))
    }

    fn hears(&self) -> bool {
        self.0.hears() || self.1.hears()
    }

    fn heard(&mut self, stream: &Stream, event: &RawEvent<'_>) {
        self.0.heard(stream, event);
        self.1.heard(stream, event);
    }

    fn heard_part(&mut self, stream: &Stream, part: &[u8], is_first: bool) {
        self.0.heard_part(stream, part, is_first);
        self.1.heard_part(stream, part, is_first);
    }

    fn is_short(&self, stream: &Stream, tail: &[u8]) -> bool {
        self.0.is_short(stream, tail) || self.1.is_short(stream, tail)
    }

    fn instead(&mut self, at: &At<'_>, reason: EndReason) -> Option<Ending> {
        let inner = self.1.instead(at, reason);
        inner.or_else(|| self.0.instead(at, reason))
    }

    fn parting(&mut self, at: &At<'_>, why: Breach) -> Option<Bytes> {
        let inner = self.1.parting(at, why);
        inner.or_else(|| self.0.parting(at, why))
    }
}
