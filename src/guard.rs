//! The mechanism below all layers: one service, one future, one body.
//!
//! A layer is a [`Rule`] for requests and heads, and makes a [`Policy`] for each stream. A policy
//! has no IO: it is told facts and the time, and answers what to do. [`Guard`] and [`Guarded`] own
//! sockets' side of things: bodies, timers, wakers. Several rules may stand in one guard (a pair
//! of rules is a rule), so that a whole stack costs one aligner and one timer.

mod body;
mod error;
mod policy;
mod rule;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use body::Guarded;
pub use error::{BoxError, StreamError};
pub(crate) use policy::{At, Breach, Ending, Policy, Verdict};
pub(crate) use rule::{Failure, Head, Rule};

use crate::answer::{InPlaceOf, WaitsInPlaceOf};
use crate::cache_control::CacheControl;
use crate::early::StreamAsked;
use crate::family::Family;
use crate::head;
use crate::rejection::{Rejected, Rejection};
use crate::request_info::{RequestInfo, ResponseKind};
use crate::stream::{Begun, Stream};
use crate::wire::{Aligner, DEFAULT_HOLD};
use bytes::Bytes;
use http::{Request, Response, response};
use http_body::Body;
use pin_project_lite::pin_project;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tower_service::Service;

/// The service that a layer puts around another.
#[derive(Clone, Debug)]
pub struct Guard<S, R> {
    inner: S,
    rule: R,
    cache_control: Option<CacheControl>,
}

impl<S, R> Guard<S, R> {
    pub(crate) fn new(inner: S, rule: R) -> Self {
        Self {
            inner,
            rule,
            cache_control: None,
        }
    }

    /// What becomes of a stream's `Cache-Control`; without it, what a guard outside has set.
    pub(crate) fn with_cache_control(mut self, cache_control: Option<CacheControl>) -> Self {
        self.cache_control = cache_control;
        self
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
    type Response = Response<Guarded<B, R>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, R>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<ReqB>) -> Self::Future {
        if let Some(cache_control) = self.cache_control {
            // Guards inside rewrite the head first.
            request.extensions_mut().insert(cache_control);
        }
        let request_info = RequestInfo::of(&request);
        let is_plain = || {
            let flag = request.extensions().get::<StreamAsked>();
            !request_info.accepts_stream && flag.is_some_and(StreamAsked::is_never)
        };
        if R::SPEAKS && request_info.may_stream() && !is_plain() {
            head::ask_for_identity(request.headers_mut());
        }
        let state = match self.rule.admit(&request, &request_info) {
            Ok(ticket) => {
                self.rule.extend(&ticket, request.extensions_mut());
                State::Admitted {
                    future: self.inner.call(request),
                    pending: Some((ticket, self.rule.clone(), request_info)),
                }
            }
            Err(rejection) => State::Rejected {
                rejection,
                family: request_info.family,
            },
        };
        ResponseFuture { state }
    }
}

pin_project! {
    /// The response to come.
    pub struct ResponseFuture<F, R: Rule> {
        #[pin]
        state: State<F, R>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F, R: Rule> {
        Admitted {
            #[pin]
            future: F,
            pending: Option<(R::Ticket, R, RequestInfo)>,
        },
        Rejected { rejection: Rejection, family: Family },
    }
}

impl<F, R, B, E> Future for ResponseFuture<F, R>
where
    F: Future<Output = Result<Response<B>, E>>,
    R: Rule,
    B: Body<Data = Bytes>,
{
    type Output = Result<Response<Guarded<B, R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProj::Rejected { rejection, family } => {
                Poll::Ready(Ok(rejection.response(*family).map(Guarded::words)))
            }
            StateProj::Admitted { future, pending } => {
                let result = ready!(future.poll(cx));
                let Some((ticket, rule, request_info)) = pending.take() else {
                    unreachable!("polled again after it was ready");
                };
                Poll::Ready(match result {
                    Ok(response) => Ok(opened(&rule, ticket, &request_info, response)),
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
    request_info: &RequestInfo,
    response: Response<B>,
) -> Response<Guarded<B, R>> {
    let (mut parts, body) = response.into_parts();
    let rejected = parts.extensions.get::<Rejected>().is_some();
    let in_place_of = parts.extensions.get().map(|InPlaceOf(status)| *status);
    let waits = parts.extensions.get().map(|WaitsInPlaceOf(status)| *status);
    let kind = match rejected || in_place_of.is_some() {
        true => ResponseKind::Other,
        false => ResponseKind::of(request_info, &parts),
    };
    let known = parts.extensions.get::<Stream>().cloned();
    // Who finds no record is the innermost and keeps the record's books.
    let keeps_books = known.is_none();
    let stream = match kind {
        ResponseKind::Other => None,
        _ if R::READS => Some(known.unwrap_or_else(|| {
            let begun = parts.extensions.remove::<Begun>();
            begun.map_or_else(Stream::open, |Begun(stream)| stream)
        })),
        _ => known,
    };
    if let Some(stream) = stream.as_ref().filter(|_| keeps_books) {
        stream.set_family(request_info.family, request_info.is_family_said);
        if kind.is_opaque() {
            stream.set_opaque();
        }
    }
    if R::SPEAKS && !rejected && request_info.is_head_of_stream(&parts) {
        harden(&mut parts, request_info);
    }
    let head = Head {
        request_info,
        status: in_place_of.or(waits).unwrap_or(parts.status),
        headers: &parts.headers,
        kind,
        stream: stream.as_ref(),
        rejected,
    };
    let policy = match rule.open(ticket, &head) {
        Ok(policy) => policy,
        Err(rejection) => return rejection.response(request_info.family).map(Guarded::words),
    };
    let body = match stream {
        // Counts of requests hang on the policy.
        _ if kind == ResponseKind::Other => Guarded::carry(body, policy),
        Some(stream) if R::READS => {
            if keeps_books {
                parts.extensions.insert(stream.clone());
            }
            let aligner = match (kind, R::SPEAKS) {
                (ResponseKind::Stream, true) => {
                    harden(&mut parts, request_info);
                    Aligner::with_hold(if stream.align() { 0 } else { DEFAULT_HOLD })
                }
                (ResponseKind::Stream, false) => Aligner::with_hold(0),
                _ => Aligner::opaque(),
            };
            Guarded::stream(body, policy, stream, keeps_books, aligner)
        }
        _ => Guarded::carry(body, policy),
    };
    Response::from_parts(parts, body)
}

fn harden(head: &mut response::Parts, request_info: &RequestInfo) {
    let cache_control = CacheControl::of(&head.extensions).unwrap_or(request_info.cache_control);
    if cache_control == CacheControl::Keep {
        // Guards outside have not seen what was set for this one.
        head.extensions.insert(cache_control);
    }
    head::harden(&mut head.headers, cache_control);
}
