//! Keeps an `EventSource` alive while the service behind it is unavailable.
//!
//! A browser's `EventSource` reconnects after a broken connection and after the end of a stream, but
//! any status other than 200
//! [fails the connection](https://html.spec.whatwg.org/multipage/server-sent-events.html#sse-processing-model)
//! permanently: after one 502 during a deployment, the page gets no events until it is reloaded. This
//! layer replaces such a response with an event stream without events, which sets the reconnection time
//! and ends.
//!
//! ```
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::{BodyExt, Full};
//! use sse_guard::unavailable::UnavailableLayer;
//! use std::{convert::Infallible, time::Duration};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let service = ServiceBuilder::new()
//!     .layer(UnavailableLayer::new().retry(Duration::from_secs(5)))
//!     .service(service_fn(|_: Request<()>| async {
//!         Ok::<_, Infallible>(
//!             Response::builder()
//!                 .status(503)
//!                 .body(Full::new(Bytes::from("restarting")))
//!                 .unwrap(),
//!         )
//!     }));
//!
//! let feed = Request::get("/").header("accept", "text/event-stream").body(())?;
//! let response = service.clone().oneshot(feed).await?;
//! assert_eq!(response.status(), 200);
//! let body = response.into_body().collect().await?.to_bytes();
//! assert!(body.starts_with(b"retry: "));
//!
//! let response = service.oneshot(Request::get("/status").body(())?).await?;
//! assert_eq!(response.status(), 503);
//! # Ok(())
//! # }
//! ```
//!
//! # Which requests
//!
//! GET requests whose `Accept` names `text/event-stream`, of the families
//! [`EventSource`](crate::family::Family::EventSource) and [`Mcp`](crate::family::Family::Mcp): the
//! official MCP clients do not reopen their GET stream after two error statuses, but reconnect after an end.
//! All other requests get the original status, since their clients take an empty stream for a complete answer.
//!
//! # Which answers
//!
//! | status | the client gets |
//! | --- | --- |
//! | 500, 502, 503, 504, any other 5xx | 200, `retry:` and the end |
//! | 501, 505, 506, 508, 510, 511 | the status: these describe the request or the setup and are permanent |
//! | 204 | the status: it is how a server stops an `EventSource` |
//! | 1xx, 2xx, 3xx, 4xx | the status |
//!
//! Responses of a [`ConnectionLimitLayer`](crate::connection_limit::ConnectionLimitLayer) pass unchanged:
//! [`Reject`](crate::connection_limit::Reject) selects their form. An error of the service passes, too: a
//! server closes the connection after it, and an `EventSource` then reconnects.
//!
//! # When clients come back
//!
//! After [`retry`](UnavailableLayer::retry), jittered by half either way. It does not grow with the
//! length of an outage, so that clients reconnect soon after the service is back. A `Retry-After`, in seconds or as
//! a date, is honoured: clients reconnect at that time or up to half of it later, but within
//! [`max_retry`](UnavailableLayer::max_retry).
//!
//! The response has `Cache-Control: no-store` and `X-Accel-Buffering: no`. Of the service's head it keeps
//! `Access-Control-*`, `Timing-Allow-Origin`, `Vary`, `Set-Cookie`, `Date` and `Connection`.
//!
//! # Order
//!
//! Outermost, so that layers inside count and log the original status. It also works inside other layers of this
//! crate: they treat its responses as failures with the status that was replaced.
//!
//! Each replaced response is counted in `sse_guard_unavailable_total`, and logged: at most one line in ten seconds, and
//! one with the number of suppressed lines.

#[cfg(test)]
mod tests;

use crate::accessors::inner_service_accessors;
use crate::answer::{AnswerBody, OwnResponse, ReplacedStatus, retry_line, set_retry_later};
use crate::jitter::{MAX_DURATION, jittered, up_to};
use crate::log_limit::LogLimit;
use crate::rejection::Rejected;
use crate::request_info::RequestInfo;
use crate::retry_after::retry_after;
use http::header::{CONNECTION, DATE, SET_COOKIE, VARY};
use http::{HeaderMap, HeaderName, Request, Response, StatusCode, response};
use pin_project_lite::pin_project;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tower_layer::Layer;
use tower_service::Service;

/// The default reconnection time: 5 s.
pub const DEFAULT_RETRY: Duration = Duration::from_secs(5);
/// The default maximum that a `Retry-After` may set: 5 minutes.
pub const DEFAULT_MAX_RETRY: Duration = Duration::from_secs(300);

const TIMING_ALLOW_ORIGIN: HeaderName = HeaderName::from_static("timing-allow-origin");
/// At most one log line per interval.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Sends `EventSource` clients an empty stream with `retry:` while the service is unavailable.
/// See the [module docs](self).
#[derive(Clone, Debug)]
pub struct UnavailableLayer {
    enabled: bool,
    retry: Duration,
    max: Duration,
    log: LogLimit,
}

impl Default for UnavailableLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl UnavailableLayer {
    /// Creates a layer whose clients reconnect after 5 s, jittered.
    pub fn new() -> Self {
        Self {
            enabled: true,
            retry: DEFAULT_RETRY,
            max: DEFAULT_MAX_RETRY,
            log: LogLimit::new(NonZeroU32::MIN, LOG_INTERVAL),
        }
    }

    /// Switches the layer on or off, for a type that does not depend on the configuration.
    #[must_use]
    pub fn enabled(mut self, enabled: bool) -> Self {
        self.enabled = enabled;
        self
    }

    /// Sets the reconnection time, jittered by half either way. 5 s by default.
    #[must_use]
    pub fn retry(mut self, retry: Duration) -> Self {
        self.retry = retry.min(MAX_DURATION);
        self
    }

    /// Limits the reconnection time that a `Retry-After` may set. 5 minutes by default.
    #[must_use]
    pub fn max_retry(mut self, max: Duration) -> Self {
        self.max = max.min(MAX_DURATION);
        self
    }

    fn retry_of(&self, headers: &HeaderMap) -> Duration {
        match retry_after(headers) {
            // Jitter only adds to the minimum that the service has set.
            Some(wait) if !wait.is_zero() => {
                let wait = wait.min(self.max);
                (wait + up_to(wait / 2)).min(self.max.max(self.retry))
            }
            _ => jittered(self.retry),
        }
    }

    fn answer<B>(&self, response: Response<B>) -> Response<AnswerBody<B>> {
        let (mut head, body) = response.into_parts();
        if !is_masked(&head) {
            return Response::from_parts(head, AnswerBody::inner(body));
        }
        let (status, retry) = (head.status, self.retry_of(&head.headers));
        metrics::counter!("sse_guard_unavailable_total", "answer" => "retry_later").increment(1);
        let code = status.as_u16();
        self.log.write(
            || {
                tracing::warn!(
                    status = code,
                    "upstream unavailable: event streams get 200 and retry: instead"
                );
            },
            move |not_logged| {
                tracing::warn!(
                    status = code,
                    not_logged,
                    "upstream unavailable: more event streams got 200 and retry:"
                );
            },
        );
        head.status = StatusCode::OK;
        head.headers = kept(head.headers);
        set_retry_later(&mut head.headers);
        head.extensions.insert(OwnResponse);
        head.extensions.insert(ReplacedStatus(status));
        Response::from_parts(head, AnswerBody::own(retry_line(retry)))
    }
}

/// Whether the response ends an `EventSource` permanently although a later one may succeed.
fn is_masked(head: &response::Parts) -> bool {
    is_temporary(head.status) && head.extensions.get::<Rejected>().is_none()
}

/// Whether the same request may succeed later. The other statuses from 500 on are about a request or a setup
/// that the server does not support (RFC 9110 section 15.6, RFC 2295, 2774, 5842, 6585).
pub(crate) fn is_temporary(status: StatusCode) -> bool {
    status.is_server_error() && !matches!(status.as_u16(), 501 | 505 | 506 | 508 | 510 | 511)
}

/// The fields that do not describe the replaced body.
fn kept(headers: HeaderMap) -> HeaderMap {
    let mut kept = HeaderMap::new();
    let mut last = None;
    // Only the first of several values comes with the name.
    for (name, value) in headers {
        last = name.or(last);
        let Some(name) = &last else { continue };
        let is_kept = [CONNECTION, DATE, SET_COOKIE, TIMING_ALLOW_ORIGIN, VARY].contains(name)
            || name.as_str().starts_with("access-control-");
        if is_kept {
            kept.append(name, value);
        }
    }
    kept
}

impl<S> Layer<S> for UnavailableLayer {
    type Service = Unavailable<S>;

    fn layer(&self, inner: S) -> Unavailable<S> {
        Unavailable {
            inner,
            layer: self.clone(),
        }
    }
}

/// The service that [`UnavailableLayer`] makes.
#[derive(Clone, Debug)]
pub struct Unavailable<S> {
    inner: S,
    layer: UnavailableLayer,
}

impl<S> Unavailable<S> {
    inner_service_accessors!();
}

impl<S, ReqB, B> Service<Request<ReqB>> for Unavailable<S>
where
    S: Service<Request<ReqB>, Response = Response<B>>,
{
    type Response = Response<AnswerBody<B>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqB>) -> Self::Future {
        let applies = self.layer.enabled && RequestInfo::of(&request).takes_retry_later();
        ResponseFuture {
            layer: applies.then(|| self.layer.clone()),
            future: self.inner.call(request),
        }
    }
}

pin_project! {
    /// The response future.
    pub struct ResponseFuture<F> {
        #[pin]
        future: F,
        layer: Option<UnavailableLayer>,
    }
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<AnswerBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.future.poll(cx))?;
        Poll::Ready(Ok(match this.layer {
            Some(layer) => layer.answer(response),
            None => response.map(AnswerBody::inner),
        }))
    }
}

pub(crate) fn describe_metrics() {
    for answer in ["retry_later", "wait"] {
        metrics::counter!("sse_guard_unavailable_total", "answer" => answer).increment(0);
    }
    metrics::describe_counter!(
        "sse_guard_unavailable_total",
        metrics::Unit::Count,
        "Requests for event streams during an outage of the upstream, by the response in place of the error \
         status"
    );
}
