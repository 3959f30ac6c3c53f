//! Responds ahead of a slow upstream, so that heartbeats can begin.
//!
//! No layer can send anything before there is a response head, and what stands on the way cuts a connection
//! on which nothing comes (nginx and ALB after 60 s, Cloudflare after 100 s): a model that thinks
//! for longer never gets its first word through. When the upstream has sent no head within
//! [`after`](EarlyLayer::new), this layer answers 200 with an event stream, lets a
//! [`HeartbeatLayer`](crate::heartbeat::HeartbeatLayer) outside fill the wait, and splices the
//! upstream's stream in when it comes.
//!
//! It belongs directly around the service that is slow, inside of all other layers of this crate but
//! [`ResumeLayer`](crate::resume::ResumeLayer); [`SseGuardLayer::early`](crate::SseGuardLayer::early) puts it
//! there.
//!
//! ```
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::{BodyExt, Full};
//! use sse_guard::{SseGuardLayer, early::EarlyLayer, heartbeat::HeartbeatLayer};
//! use std::{convert::Infallible, time::Duration};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let service = ServiceBuilder::new()
//!     .layer(
//!         SseGuardLayer::new()
//!             .heartbeat(HeartbeatLayer::new(Duration::from_secs(15)))
//!             .early(EarlyLayer::new(Duration::from_secs(15))),
//!     )
//!     .service(service_fn(|_: Request<()>| async {
//!         tokio::time::sleep(Duration::from_secs(80)).await; // a model that thinks
//!         Ok::<_, Infallible>(
//!             Response::builder()
//!                 .header("content-type", "text/event-stream")
//!                 .body(Full::new(Bytes::from("data: 42\n\n")))
//!                 .unwrap(),
//!         )
//!     }));
//!
//! let request = Request::get("/").header("accept", "text/event-stream").body(())?;
//! let body = service.oneshot(request).await?.into_body().collect().await?.to_bytes();
//! let (heartbeats, events) = body.split_at(body.len() - 10);
//! assert!(heartbeats.starts_with(b": heartbeat\n: heartbeat\n"));
//! assert_eq!(events, b"data: 42\n\n");
//! # Ok(())
//! # }
//! ```
//!
//! # Which requests
//!
//! Those whose `Accept` names `text/event-stream`, and whose method is not HEAD. Many clients of LLM
//! APIs, OpenAI's own among them, name `application/json` alone, and request a stream in the body: a service that
//! reads it sets a [`StreamRequested`] in the request's extensions, as the proxy does with JSON.
//!
//! A page of another origin that could not read the early answer is left to wait: see
//! [`CorsLayer`](crate::cors::CorsLayer).
//!
//! # What is lost
//!
//! An answer that comes in time passes as it is: status, headers, body. Behind an early answer the
//! status has been sent already, and is 200, so this layer is for routes whose clients can live
//! without the late one:
//!
//! - **Headers of the late answer**: cookies, `Retry-After`, rate limits, `Mcp-Session-Id`.
//! - **A late answer that is not an event stream**, whatever its status: it becomes one last error event
//!   in the [`Family`](crate::family)'s own shape, with the status and up to 4 KiB of a body that is
//!   text, JSON or XML and comes within 5 s, in front of a proper end. Clients of families without
//!   such an event (MCP, and whatever nothing is known of) get a broken transfer. This also happens
//!   to a late JSON answer of a server that may answer either way, as MCP servers may.
//! - **The end of an `EventSource`**: it gives up for good on a status other than 200, also on a 204,
//!   and reconnects again and again when it gets neither. Behind a late 204 the stream just
//!   ends.
//! - **Access by another origin**: the early head allows it if a [`CorsLayer`](crate::cors::CorsLayer)
//!   outside allows it. When the late head does not, or does not allow the credentials that the early head
//!   did, nothing of its body is sent, and the answer counts as refused.
//! - **Errors of the service** are reported as a 502, and their text goes to the log alone.
//!
//! The clock runs from the request's head: a slow upload counts, and continues behind the early answer.
//!
//! # How it ends
//!
//! A client that goes, and any layer outside that ends the stream, drops the request to the upstream
//! at once, also before its head. How long the upstream may take is the decision of a layer or service
//! inside, such as [`tower::timeout`](https://docs.rs/tower/latest/tower/timeout/), and an
//! [idle timeout](crate::idle_timeout) outside counts the wait from the early answer on. In the
//! stream's record the wait is [`StreamState::Connecting`], and what an error event or a broken
//! transfer reports ends as [`EndReason::UpstreamError`](crate::EndReason::UpstreamError).

mod body;
#[cfg(test)]
mod tests;

pub use crate::stream_requested::StreamRequested;
pub use body::EarlyBody;

use crate::accessors::inner_service_accessors;
use crate::answer::OwnResponse;
use crate::cors::{EarlyPermission, NoEarlyResponse};
use crate::family::Family;
use crate::guard::BoxError;
use crate::head::CacheControl;
use crate::head::{self, EVENT_STREAM};
use crate::heartbeat::DEFAULT_INTERVAL;
use crate::log_limit::LogLimit;
use crate::request_info::RequestInfo;
use crate::stream::{EarlyStream, Stream, StreamState};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep};
use tower_layer::Layer;
use tower_service::Service;

/// Sends a response head when the service takes longer than a given time. See the [module docs](self).
#[derive(Clone, Debug)]
pub struct EarlyLayer {
    after: Duration,
    enabled: bool,
    log: LogLimit,
}

impl Default for EarlyLayer {
    /// One that waits for a default heartbeat interval, 15 s.
    fn default() -> Self {
        Self::new(DEFAULT_INTERVAL)
    }
}

impl EarlyLayer {
    /// Answers a request after `after` without a response head from the service. Half of the shortest
    /// idle cut on the way is a good choice: failures that are quicker keep their status.
    pub fn new(after: Duration) -> Self {
        Self {
            after,
            enabled: true,
            log: LogLimit::per_kind(),
        }
    }

    /// Off for a stack without it, whose service keeps its type.
    pub(crate) fn enabled(mut self, yes: bool) -> Self {
        self.enabled = yes;
        self
    }
}

impl<S> Layer<S> for EarlyLayer {
    type Service = Early<S>;

    fn layer(&self, inner: S) -> Early<S> {
        Early {
            inner,
            config: self.clone(),
        }
    }
}

/// The service that [`EarlyLayer`] makes.
#[derive(Clone, Debug)]
pub struct Early<S> {
    inner: S,
    config: EarlyLayer,
}

impl<S> Early<S> {
    inner_service_accessors!();
}

impl<S, ReqB, B> Service<Request<ReqB>> for Early<S>
where
    S: Service<Request<ReqB>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Response = Response<EarlyBody<S::Future, B>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<ReqB>) -> Self::Future {
        let state = match self.config.eligible(&request) {
            None => EarlyFutureState::Passing {
                future: self.inner.call(request),
            },
            Some(request_info) => {
                let stream = Stream::open();
                let family = Family::of(&request);
                let later = request.extensions().get().cloned();
                let early_permission = request.extensions().get().cloned();
                request.extensions_mut().insert(EarlyStream(stream.clone()));
                let waiting = WaitingRequest {
                    future: self.inner.call(request),
                    timer: sleep(self.config.after),
                    after: self.config.after,
                    later,
                    early_permission,
                    request_info,
                    family,
                    stream,
                    log: self.config.log.clone(),
                };
                EarlyFutureState::Waiting {
                    waiting: Some(Box::pin(waiting)),
                }
            }
        };
        ResponseFuture { state }
    }
}

impl EarlyLayer {
    /// What was requested, if it may be answered early.
    fn eligible<B>(&self, request: &Request<B>) -> Option<RequestInfo> {
        let is_excluded = request.extensions().get::<NoEarlyResponse>().is_some();
        if !self.enabled || request.method() == Method::HEAD || is_excluded {
            return None;
        }
        let flag = request.extensions().get::<StreamRequested>();
        let may_request_stream = flag.is_some_and(|flag| !flag.is_never());
        Some(RequestInfo::of(request))
            .filter(|request_info| request_info.accepts_stream || may_request_stream)
    }
}

pin_project! {
    /// A request whose answer has not come. In a box of its own, as it moves from the response's
    /// future to the response's body when the time is up.
    struct WaitingRequest<F> {
        #[pin]
        future: F,
        #[pin]
        timer: Sleep,
        after: Duration,
        later: Option<StreamRequested>,
        early_permission: Option<EarlyPermission>,
        request_info: RequestInfo,
        family: Family,
        stream: Stream,
        log: LogLimit,
    }
}

pin_project! {
    /// The response to come: the upstream's, or ours.
    pub struct ResponseFuture<F> {
        #[pin]
        state: EarlyFutureState<F>,
    }
}

pin_project! {
    #[project = EarlyFutureStateProj]
    enum EarlyFutureState<F> {
        Passing {
            #[pin]
            future: F,
        },
        Waiting {
            waiting: Option<Pin<Box<WaitingRequest<F>>>>,
        },
    }
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<EarlyBody<F, B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let in_time = |result: F::Output| result.map(|response| response.map(EarlyBody::passing));
        match self.project().state.project() {
            EarlyFutureStateProj::Passing { future } => future.poll(cx).map(in_time),
            EarlyFutureStateProj::Waiting { waiting } => {
                let Some(mut request) = waiting.take() else {
                    unreachable!("polled again after it was ready");
                };
                let mut on_time = request.as_mut().project();
                if let Poll::Ready(result) = on_time.future.poll(cx) {
                    return Poll::Ready(in_time(result));
                }
                while on_time.timer.as_mut().poll(cx).is_ready() {
                    let is_requested = on_time.later.as_ref().is_some_and(StreamRequested::get);
                    if on_time.request_info.accepts_stream || is_requested {
                        return Poll::Ready(Ok(answer(request)));
                    }
                    // It may be further down a body that is slow to come.
                    on_time
                        .timer
                        .as_mut()
                        .reset(Instant::now() + *on_time.after);
                }
                *waiting = Some(request);
                Poll::Pending
            }
        }
    }
}

/// Ours, with the upstream's to come in its body.
fn answer<F, B>(request: Pin<Box<WaitingRequest<F>>>) -> Response<EarlyBody<F, B>> {
    metrics::counter!("sse_guard_early_answers_total").increment(1);
    if let Some(early_permission) = &request.early_permission {
        early_permission.mark_used();
    }
    let stream = request.stream.clone();
    stream.set_state(StreamState::Connecting);
    let mut response = Response::new(EarlyBody::waiting(request));
    let event_stream = HeaderValue::from_static(EVENT_STREAM);
    response.headers_mut().insert(CONTENT_TYPE, event_stream);
    // There may be no guard outside that does.
    head::harden(response.headers_mut(), CacheControl::Replace);
    response.extensions_mut().insert(EarlyStream(stream));
    response.extensions_mut().insert(OwnResponse);
    response
}

pub(crate) fn describe_metrics() {
    metrics::counter!("sse_guard_early_answers_total").increment(0);
    metrics::describe_counter!(
        "sse_guard_early_answers_total",
        metrics::Unit::Count,
        "Requests that got an early answer"
    );
}
