//! The mechanism below all layers: one service, one future, one body.
//!
//! A layer is a [`Rule`] for requests and heads, and makes a [`Policy`] for each stream. A policy
//! has no IO: it is told facts and the time, and answers what to do. [`Guard`] and [`Guarded`] own
//! sockets' side of things: bodies, timers, wakers. Several rules may stand in one guard (a pair
//! of rules is a rule), so that a whole stack costs one aligner and one timer.

mod body;
mod error;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use body::Guarded;
pub use error::{BoxError, StreamError};

use crate::head::{self, Asked, Kind};
use crate::rejection::{Rejected, Rejection};
use crate::stream::{Begun, EndReason, Stream};
use crate::wire::{DEFAULT_HOLD, LineEnd, RawEvent};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Body;
use pin_project_lite::pin_project;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::time::Instant;
use tower_service::Service;

/// The response head, as a rule sees it.
pub struct Head<'a> {
    pub(crate) asked: &'a Asked,
    pub(crate) status: StatusCode,
    pub(crate) kind: Kind,
    /// The record, if the response is a stream whose bytes are read.
    pub(crate) stream: Option<&'a Stream>,
    pub(crate) rejected: bool,
}

/// Why a ticket came to nothing.
pub enum Failure {
    Rejected,
    Service,
}

/// What a layer does with requests, and which policy it has for a stream.
pub trait Rule: Clone {
    /// What an admitted request holds until its head comes. Dropped if it never does.
    type Ticket;
    type Policy: Policy;
    /// Its policies need to know what passes.
    const READS: bool;
    /// Its policies may put bytes of their own into the stream, or end it.
    const SPEAKS: bool;

    fn admit<B>(&self, request: &Request<B>, asked: &Asked) -> Result<Self::Ticket, Rejection>;

    fn open(
        &self,
        ticket: Self::Ticket,
        head: &Head<'_>,
    ) -> Result<Option<Self::Policy>, Rejection>;

    fn failed(&self, ticket: Self::Ticket, failure: &Failure) {
        let _ = (ticket, failure);
    }
}

/// The state of things when a policy is asked.
pub struct At<'a> {
    pub(crate) now: Instant,
    pub(crate) stream: &'a Stream,
    /// Nothing of an event is on the wire without its end: one may speak.
    pub(crate) boundary: bool,
    pub(crate) line_end: LineEnd,
}

/// What a policy wants.
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
    fn ahead(&mut self, line_end: LineEnd) -> Option<Bytes> {
        let _ = line_end;
        None
    }

    /// Whether it wants to hear of events.
    fn hears(&self) -> bool {
        false
    }

    /// An event has come whole, from the upstream or a layer inside.
    fn heard(&mut self, event: &RawEvent<'_>) {
        let _ = event;
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

    fn ahead(&mut self, line_end: LineEnd) -> Option<Bytes> {
        self.as_mut().and_then(|policy| policy.ahead(line_end))
    }

    fn hears(&self) -> bool {
        self.as_ref().is_some_and(P::hears)
    }

    fn heard(&mut self, event: &RawEvent<'_>) {
        if let Some(policy) = self {
            policy.heard(event);
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

    fn ahead(&mut self, line_end: LineEnd) -> Option<Bytes> {
        let outer = self.0.ahead(line_end);
        outer.or_else(|| self.1.ahead(line_end))
    }

    fn hears(&self) -> bool {
        self.0.hears() || self.1.hears()
    }

    fn heard(&mut self, event: &RawEvent<'_>) {
        self.0.heard(event);
        self.1.heard(event);
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

/// A rule that may be switched off.
impl<R: Rule> Rule for Option<R> {
    type Ticket = Option<R::Ticket>;
    type Policy = R::Policy;
    const READS: bool = R::READS;
    const SPEAKS: bool = R::SPEAKS;

    fn admit<B>(&self, request: &Request<B>, asked: &Asked) -> Result<Self::Ticket, Rejection> {
        self.as_ref()
            .map(|rule| rule.admit(request, asked))
            .transpose()
    }

    fn open(&self, ticket: Self::Ticket, head: &Head<'_>) -> Result<Option<R::Policy>, Rejection> {
        match (self, ticket) {
            (Some(rule), Some(ticket)) => rule.open(ticket, head),
            _ => Ok(None),
        }
    }

    fn failed(&self, ticket: Self::Ticket, failure: &Failure) {
        if let (Some(rule), Some(ticket)) = (self, ticket) {
            rule.failed(ticket, failure);
        }
    }
}

/// Two rules, the outer first: it sees requests first and heads last.
impl<A: Rule, B: Rule> Rule for (A, B) {
    type Ticket = (A::Ticket, B::Ticket);
    type Policy = (Option<A::Policy>, Option<B::Policy>);
    const READS: bool = A::READS || B::READS;
    const SPEAKS: bool = A::SPEAKS || B::SPEAKS;

    fn admit<T>(&self, request: &Request<T>, asked: &Asked) -> Result<Self::Ticket, Rejection> {
        let outer = self.0.admit(request, asked)?;
        match self.1.admit(request, asked) {
            Ok(inner) => Ok((outer, inner)),
            Err(rejection) => {
                self.0.failed(outer, &Failure::Rejected);
                Err(rejection)
            }
        }
    }

    fn open(
        &self,
        (outer, inner): Self::Ticket,
        head: &Head<'_>,
    ) -> Result<Option<Self::Policy>, Rejection> {
        let inner = match self.1.open(inner, head) {
            Ok(policy) => policy,
            Err(rejection) => {
                self.0.failed(outer, &Failure::Rejected);
                return Err(rejection);
            }
        };
        let outer = self.0.open(outer, head)?;
        Ok((outer.is_some() || inner.is_some()).then_some((outer, inner)))
    }

    fn failed(&self, (outer, inner): Self::Ticket, failure: &Failure) {
        self.1.failed(inner, failure);
        self.0.failed(outer, failure);
    }
}

/// The service that a layer puts around another.
#[derive(Clone, Debug)]
pub struct Guard<S, R> {
    inner: S,
    rule: R,
}

impl<S, R> Guard<S, R> {
    pub(crate) fn new(inner: S, rule: R) -> Self {
        Self { inner, rule }
    }

    /// The service inside.
    pub fn inner(&self) -> &S {
        &self.inner
    }
}

impl<S, R, ReqB, B> Service<Request<ReqB>> for Guard<S, R>
where
    S: Service<Request<ReqB>, Response = Response<B>>,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
    R: Rule,
{
    type Response = Response<Guarded<B, R::Policy>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, R>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<ReqB>) -> Self::Future {
        let asked = Asked::of(&request);
        if R::SPEAKS && asked.may_stream() {
            head::ask_for_identity(request.headers_mut());
        }
        match self.rule.admit(&request, &asked) {
            Ok(ticket) => ResponseFuture::Asked {
                future: self.inner.call(request),
                pending: Some((ticket, self.rule.clone(), asked)),
            },
            Err(rejection) => ResponseFuture::Rejected { rejection },
        }
    }
}

pin_project! {
    /// The response to come.
    #[project = FutureProj]
    pub enum ResponseFuture<F, R: Rule> {
        #[doc(hidden)]
        Asked {
            #[pin]
            future: F,
            pending: Option<(R::Ticket, R, Asked)>,
        },
        #[doc(hidden)]
        Rejected { rejection: Rejection },
    }
}

impl<F, R, B, E> Future for ResponseFuture<F, R>
where
    F: Future<Output = Result<Response<B>, E>>,
    R: Rule,
    B: Body<Data = Bytes>,
{
    type Output = Result<Response<Guarded<B, R::Policy>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            FutureProj::Rejected { rejection } => {
                Poll::Ready(Ok(rejection.into_response().map(Guarded::words)))
            }
            FutureProj::Asked { future, pending } => {
                let result = ready!(future.poll(cx));
                let Some((ticket, rule, asked)) = pending.take() else {
                    unreachable!("polled again after it was ready");
                };
                Poll::Ready(match result {
                    Ok(response) => Ok(opened(&rule, ticket, &asked, response)),
                    Err(error) => {
                        rule.failed(ticket, &Failure::Service);
                        Err(error)
                    }
                })
            }
        }
    }
}

fn opened<R: Rule, B>(
    rule: &R,
    ticket: R::Ticket,
    asked: &Asked,
    response: Response<B>,
) -> Response<Guarded<B, R::Policy>> {
    let (mut parts, body) = response.into_parts();
    let rejected = parts.extensions.get::<Rejected>().is_some();
    let kind = match Kind::of(asked, &parts) {
        Kind::Stream if rejected => Kind::Other,
        kind => kind,
    };
    let known = parts.extensions.get::<Stream>().cloned();
    // Who finds no record is the innermost and keeps the record's books.
    let keeps_books = known.is_none();
    let stream = match kind {
        Kind::Stream if R::READS => Some(known.unwrap_or_else(|| {
            let begun = parts.extensions.remove::<Begun>();
            begun.map_or_else(Stream::open, |Begun(stream)| stream)
        })),
        Kind::Stream => known,
        Kind::Encoded | Kind::Other => None,
    };
    let head = Head {
        asked,
        status: parts.status,
        kind,
        stream: stream.as_ref(),
        rejected,
    };
    let policy = match rule.open(ticket, &head) {
        Ok(policy) => policy,
        Err(rejection) => return rejection.into_response().map(Guarded::words),
    };
    let body = match (kind, stream) {
        (Kind::Stream, Some(stream)) if R::READS => {
            if keeps_books {
                parts.extensions.insert(stream.clone());
            }
            let hold = if R::SPEAKS {
                head::harden(&mut parts.headers);
                if stream.align() { 0 } else { DEFAULT_HOLD }
            } else {
                0
            };
            Guarded::stream(body, policy, stream, keeps_books, hold)
        }
        (Kind::Stream | Kind::Encoded, _) => Guarded::carry(body, policy),
        (Kind::Other, _) => Guarded::pass(body),
    };
    Response::from_parts(parts, body)
}
