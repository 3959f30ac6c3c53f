//! The decisions of a layer about one stream, without IO: a notice and the time in, a reaction out.

use crate::stream::{EndReason, Stream};
use crate::wire::{Aligner, LineEnd, RawEvent};
use bytes::Bytes;
use tokio::time::Instant;

/// The state of a stream at the moment of a decision.
pub struct PolicyContext<'a> {
    pub(crate) now: Instant,
    pub(crate) stream: &'a Stream,
    pub(super) aligner: &'a Aligner,
}

impl PolicyContext<'_> {
    /// The client does not have an incomplete event: bytes may be injected.
    pub(crate) fn at_boundary(&self) -> bool {
        self.aligner.at_boundary()
    }

    /// The stream's own line end.
    pub(crate) fn line_end(&self) -> LineEnd {
        self.aligner.line_end()
    }
}

/// The optional notices that a [`Policy`] receives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interests {
    /// It is woken by [`Stream::send`] and an end by the operator. Only then is the task's waker registered in
    /// the record, where it may replace one of another task's guard.
    pub(crate) wake: bool,
    /// [`Notice::Event`] and [`Notice::EventPart`]. Events are scanned only if a policy needs them.
    pub(crate) events: bool,
}

impl Interests {
    fn union(self, other: Self) -> Self {
        Self {
            wake: self.wake || other.wake,
            events: self.events || other.events,
        }
    }
}

/// An incident of a stream.
#[derive(Clone, Copy)]
pub enum Notice<'a> {
    /// Bytes are sent to the client.
    Sent,
    /// A whole event has arrived, from the upstream or from a layer inside.
    Event(&'a RawEvent<'a>),
    /// A part of an event has arrived, but not its end. Only an event larger than the
    /// [hold](crate::wire::DEFAULT_HOLD) arrives in parts; the last part arrives as [`Event`](Self::Event).
    EventPart { bytes: &'a [u8], is_first: bool },
    /// An event is about to be sent. [`Reaction::Inject`] puts bytes directly before it.
    BeforeEvent,
    /// The upstream has ended the stream properly, with `tail` after the last whole event.
    /// [`Reaction::Truncated`] turns this into an error. A policy may get this notice more than once for a stream, and
    /// must not change its state.
    UpstreamEnd { tail: &'a [u8] },
    /// A layer inside has broken the stream. [`Reaction::End`] ends it in another way.
    InnerError(EndReason),
    /// The stream is about to break. [`Reaction::Inject`] sends an error event first, unless the client has
    /// an incomplete event.
    BeforeBreak(BreakCause),
}

/// The reaction of a policy.
pub enum Reaction {
    /// Continue.
    Pass,
    /// Send these bytes. Only at a boundary.
    Inject(Bytes),
    /// End the stream.
    End(Ending),
    /// Treat the proper end of the upstream as an error.
    Truncated,
}

impl Reaction {
    /// The bytes to send, where this is the only reaction allowed.
    pub(super) fn into_bytes(self) -> Option<Bytes> {
        match self {
            Self::Inject(bytes) => Some(bytes),
            other => other.expect_pass(),
        }
    }

    /// The ending, where this is the only reaction allowed.
    pub(super) fn into_ending(self) -> Option<Ending> {
        match self {
            Self::End(ending) => Some(ending),
            other => other.expect_pass(),
        }
    }

    /// Whether the end is an error, where this is the only reaction allowed.
    pub(super) fn is_truncated(&self) -> bool {
        debug_assert!(matches!(self, Self::Pass | Self::Truncated));
        matches!(self, Self::Truncated)
    }

    /// A reaction that its notice does not allow is a bug of the policy.
    pub(super) fn expect_pass<T>(self) -> Option<T> {
        debug_assert!(matches!(self, Self::Pass), "not a reaction to this notice");
        None
    }
}

/// Why a stream breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakCause {
    /// The upstream has ended it properly, but [too early](Reaction::Truncated).
    Truncated,
    /// Any other cause, with the end reason of the record.
    Ended(EndReason),
}

impl BreakCause {
    pub(super) fn reason(self) -> EndReason {
        match self {
            Self::Truncated => EndReason::UpstreamError,
            Self::Ended(reason) => reason,
        }
    }
}

/// How a stream ends.
pub struct Ending {
    pub(crate) reason: EndReason,
    /// Sent before the end, unless the client has an incomplete event.
    pub(crate) closing: Option<Bytes>,
    /// As a broken transfer, not as a proper end.
    pub(crate) abort: bool,
}

/// The decisions of one layer about one stream. Held until the end of the body, also if it decides nothing.
///
/// The methods have no defaults: a wrapper that does not forward one would switch a layer off. `on` and
/// `interests` are called for each event. They are inlined, so that a notice costs only the policies that
/// match it, and a stack of layers costs no calls.
pub trait Policy {
    /// The notices that this policy receives. They may change with each notice.
    fn interests(&self) -> Interests;

    /// When to [check](Self::check), if no byte passes until then.
    fn deadline(&self, context: &PolicyContext<'_>) -> Option<Instant>;

    /// Called at the [deadline](Self::deadline), or as soon as possible after it.
    fn check(&mut self, context: &PolicyContext<'_>) -> Reaction;

    /// Called for each [`Notice`], which names the reactions that it allows beside [`Reaction::Pass`].
    fn on(&mut self, context: &PolicyContext<'_>, notice: Notice<'_>) -> Reaction;
}

/// A layer that has no policy for the stream.
impl<P: Policy> Policy for Option<P> {
    #[inline]
    fn interests(&self) -> Interests {
        self.as_ref().map_or_else(Interests::default, P::interests)
    }

    #[inline]
    fn deadline(&self, context: &PolicyContext<'_>) -> Option<Instant> {
        self.as_ref().and_then(|policy| policy.deadline(context))
    }

    #[inline]
    fn check(&mut self, context: &PolicyContext<'_>) -> Reaction {
        match self {
            Some(policy) => policy.check(context),
            None => Reaction::Pass,
        }
    }

    #[inline(always)]
    fn on(&mut self, context: &PolicyContext<'_>, notice: Notice<'_>) -> Reaction {
        match self {
            Some(policy) => policy.on(context, notice),
            None => Reaction::Pass,
        }
    }
}

/// Two policies, the outer first. A notice goes through them as bytes do, the inner first, until one reacts.
/// At a common deadline the outer is checked first.
impl<A: Policy, B: Policy> Policy for (A, B) {
    #[inline]
    fn interests(&self) -> Interests {
        self.0.interests().union(self.1.interests())
    }

    #[inline]
    fn deadline(&self, context: &PolicyContext<'_>) -> Option<Instant> {
        match (self.0.deadline(context), self.1.deadline(context)) {
            (Some(outer), Some(inner)) => Some(outer.min(inner)),
            (outer, inner) => outer.or(inner),
        }
    }

    #[inline]
    fn check(&mut self, context: &PolicyContext<'_>) -> Reaction {
        match self.0.check(context) {
            Reaction::Pass => self.1.check(context),
            reaction => reaction,
        }
    }

    #[inline(always)]
    fn on(&mut self, context: &PolicyContext<'_>, notice: Notice<'_>) -> Reaction {
        match self.1.on(context, notice) {
            Reaction::Pass => self.0.on(context, notice),
            reaction => reaction,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::time::Duration;

    /// Records each call by its name, and returns the configured reaction.
    struct Recorder<'a> {
        name: &'static str,
        calls: &'a RefCell<Vec<String>>,
        interests: Interests,
        reacts: bool,
    }

    impl Recorder<'_> {
        fn react(&self, call: &str) -> Reaction {
            self.calls
                .borrow_mut()
                .push(format!("{} {call}", self.name));
            match self.reacts {
                true => Reaction::Inject(Bytes::from(self.name)),
                false => Reaction::Pass,
            }
        }
    }

    impl Policy for Recorder<'_> {
        fn interests(&self) -> Interests {
            self.interests
        }

        fn deadline(&self, context: &PolicyContext<'_>) -> Option<Instant> {
            self.reacts
                .then(|| context.now + Duration::from_secs(self.name.len() as u64))
        }

        fn check(&mut self, _: &PolicyContext<'_>) -> Reaction {
            self.react("check")
        }

        fn on(&mut self, _: &PolicyContext<'_>, notice: Notice<'_>) -> Reaction {
            self.react(match notice {
                Notice::Sent => "sent",
                Notice::Event(_) => "event",
                Notice::EventPart { .. } => "event part",
                Notice::BeforeEvent => "before event",
                Notice::UpstreamEnd { .. } => "upstream end",
                Notice::InnerError(_) => "inner error",
                Notice::BeforeBreak(_) => "before break",
            })
        }
    }

    #[test]
    fn wrappers_forward_every_call_to_both_policies() {
        let calls = RefCell::new(Vec::new());
        let recorder = |name, reacts, interests| Recorder {
            name,
            calls: &calls,
            interests,
            reacts,
        };
        let (wake, events) = (
            Interests {
                wake: true,
                events: false,
            },
            Interests {
                wake: false,
                events: true,
            },
        );
        let stream = Stream::open();
        let context = PolicyContext {
            now: stream.opened(),
            stream: &stream,
            aligner: &Aligner::new(),
        };
        let event = RawEvent::begun(b"data: 1");
        let notices = [
            Notice::Sent,
            Notice::Event(&event),
            Notice::EventPart {
                bytes: b"data",
                is_first: true,
            },
            Notice::BeforeEvent,
            Notice::UpstreamEnd { tail: b"" },
            Notice::InnerError(EndReason::UpstreamIdle),
            Notice::BeforeBreak(BreakCause::Truncated),
        ];
        let mut pair = (
            Some(recorder("outer", false, wake)),
            Some(recorder("in", false, events)),
        );
        assert_eq!(pair.interests(), wake.union(events));
        assert!(pair.deadline(&context).is_none());
        for notice in notices {
            assert!(matches!(pair.on(&context, notice), Reaction::Pass));
            let calls: Vec<String> = calls.take();
            assert_eq!(calls.len(), 2, "{calls:?}");
            assert!(calls[0].starts_with("in ") && calls[1].starts_with("outer "));
        }
        assert!(matches!(pair.check(&context), Reaction::Pass));
        assert_eq!(calls.take(), ["outer check", "in check"]);

        let mut pair = (
            Some(recorder("outer", true, wake)),
            Some(recorder("in", true, events)),
        );
        let due = pair.deadline(&context).unwrap();
        assert_eq!(due, context.now + Duration::from_secs(2));
        for notice in notices {
            assert_eq!(pair.on(&context, notice).into_bytes().unwrap(), "in");
            assert_eq!(calls.take().len(), 1);
        }
        assert_eq!(pair.check(&context).into_bytes().unwrap(), "outer");

        let mut none: Option<Recorder<'_>> = None;
        assert_eq!(none.interests(), Interests::default());
        assert!(none.deadline(&context).is_none());
        assert!(matches!(none.check(&context), Reaction::Pass));
        assert!(matches!(none.on(&context, Notice::Sent), Reaction::Pass));
    }
}
