//! Resumes streams: when the upstream breaks off, falls silent or reaches a maximum age, its streams
//! continue at their position, and their clients get heartbeats meanwhile.
//!
//! An `EventSource` reconnects by itself and sends its `Last-Event-ID`, see
//! [the specification](https://html.spec.whatwg.org/multipage/server-sent-events.html#the-last-event-id-header).
//! This layer does so in its place: it repeats the request to the inner service with the id of the last event that
//! the client got, and continues the client's stream with the events of the new response.
//!
//! # Which streams are resumed
//!
//! Streams of GET requests without a body whose [`Family`](crate::family::Family) allows it: those of an
//! `EventSource`, whose `Accept` names `text/event-stream`, and those for which the application sets the family. A
//! GET for `*/*` may be a job that would start again. The last event must have an id, or no event was sent yet
//! ([`lossy`](ResumeLayer::lossy) lifts this), and the client must not have an incomplete event. NTLM and Negotiate
//! authenticate a connection: streams of requests that depend on such a login are not resumed, as a new connection
//! lacks it.
//!
//! An event that was cut off never reaches the client. Events that the upstream repeats are dropped up to and
//! including the last delivered one, as far back as [`dedup_window`](ResumeLayer::dedup_window). Events without an
//! id after that one are recognised by their content, up to the same number;
//! [`ignore_events`](ResumeLayer::ignore_events) are never dropped. If numeric ids restart further back, the position is unknown and
//! the stream fails, as it would without this layer.
//!
//! # How it reconnects
//!
//! A lost stream reconnects within half a second, at most [`backoff`](ResumeLayer::backoff), but not before the
//! `retry:` of the stream or a `Retry-After`. Connections that break again within 5 s without a new event double
//! that delay, up to 30 s (full jitter).
//!
//! All streams of an [`Admission`] share one queue, limited in rate and in concurrency, so that an upstream is not
//! overrun when it is back. Turns are distributed by client, and by target within a client. While the upstream is
//! unreachable one stream probes it, once a second, or more often if it is the only one; the first response ends
//! the wait of all. A 5xx defers the streams of that client and target only, one of which probes likewise. With
//! [`attempts`](ResumeLayer::attempts) a stream does not probe: each attempt waits for its backoff.
//!
//! | the upstream | its client |
//! | --- | --- |
//! | responds with an event stream | gets its events |
//! | responds 204 | gets a proper end |
//! | fails, responds 408, 425, 429 or 5xx | continues to wait |
//! | responds with any other status | gets a last error event, see [`Family`](crate::family::Family), and a proper end |
//! | is not back after all attempts, or the time to [give up](ResumeLayer::give_up) | gets the original failure |
//!
//! The events of the upstream are aligned in this layer: what is dropped after a loss, or held until it is known to
//! be new, ends at an event boundary. A guard outside does not hold them a second time. It follows the position in
//! what passes, by the last bytes of a chunk, because this position differs from the upstream's: the guard injects
//! events of its own, and drops an LF or a byte order mark behind them.
//!
//! The layer must be inside all layers that inject, so that heartbeats continue;
//! [`SseGuardLayer::resume`](crate::SseGuardLayer::resume) puts it there. With idle timeouts of its own
//! ([`idle_timeout`](ResumeLayer::idle_timeout)) an
//! [`IdleTimeoutLayer`](crate::idle_timeout::IdleTimeoutLayer) does not watch its streams, and only selects how
//! a stream ends that is idle and cannot be resumed.
//!
//! ```
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::{BodyExt, Empty, Full};
//! use sse_guard::SseGuardLayer;
//! use sse_guard::resume::ResumeLayer;
//! use std::convert::Infallible;
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // An upstream that ends after each event, and responds 204 after the last.
//! let upstream = service_fn(|request: Request<Empty<Bytes>>| async move {
//!     let next = match request.headers().get("last-event-id") {
//!         None => "id: 1\ndata: a\n\n",
//!         Some(id) if id == "1" => "id: 2\ndata: b\n\n",
//!         Some(_) => return Response::builder().status(204).body(Full::default()),
//!     };
//!     Response::builder()
//!         .header("content-type", "text/event-stream")
//!         .body(Full::new(Bytes::from(next)))
//! });
//! let service = ServiceBuilder::new()
//!     .layer(SseGuardLayer::new().resume(ResumeLayer::new().on_end(true)))
//!     .service(upstream);
//!
//! let request = Request::get("/").header("accept", "text/event-stream");
//! let response = service.oneshot(request.body(Empty::new())?).await?;
//! let text = response.into_body().collect().await?.to_bytes();
//! assert_eq!(text, "id: 1\ndata: a\n\nid: 2\ndata: b\n\n");
//! # Ok(())
//! # }
//! ```

mod admission;
mod body;
mod cursor;
mod layer;
mod outcome;
mod reconnect;
mod saved_request;
mod state;
mod successor;
#[cfg(test)]
mod tests;

pub use admission::{Admission, WeakAdmission};
pub use body::ResumeBody;
pub use layer::ResumeLayer;
pub(crate) use outcome::describe_metrics;
pub use outcome::{ResumeError, ResumeOutcome};
#[doc(hidden)]
pub use reconnect::Unreachable;

use crate::accessors::inner_service_accessors;
use crate::answer::{OwnResponse, ReplacedWhileWaiting};
use crate::connection_auth;
use crate::guard::BoxError;
use crate::head::EVENT_STREAM;
use crate::last_event_id;
use crate::request_info::{RequestInfo, ResponseKind};
use crate::retry_after::retry_after;
use crate::stream::{EarlyStream, Stream};
use crate::unavailable::is_temporary;
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{Extensions, HeaderValue, Request, Response, StatusCode};
use http_body::Body;
use layer::ResumeConfig;
use pin_project_lite::pin_project;
use reconnect::{Reconnect, Reissue, ReissueService};
use saved_request::SavedRequest;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tower_layer::Layer;
use tower_service::Service;

impl<S> Layer<S> for ResumeLayer {
    type Service = Resume<S>;

    fn layer(&self, inner: S) -> Resume<S> {
        Resume {
            inner,
            layer: self.clone(),
        }
    }
}

/// The service that [`ResumeLayer`] makes.
#[derive(Clone, Debug)]
pub struct Resume<S> {
    inner: S,
    layer: ResumeLayer,
}

impl<S> Resume<S> {
    inner_service_accessors!();
}

impl<S, ReqB, B> Service<Request<ReqB>> for Resume<S>
where
    S: Service<Request<ReqB>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    ReqB: Body + Default + Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<ResumeBody<B>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqB>) -> Self::Future {
        let request_info = RequestInfo::of(&request);
        let may_resume = self.layer.enabled
            && !connection_auth::in_request(request.headers())
            && request_info.is_get()
            && request_info.family.may_resume()
            && request.body().is_end_stream();
        if !may_resume {
            return ResponseFuture {
                future: self.inner.call(request),
                plan: None,
            };
        }
        let (head, body) = request.into_parts();
        let plan = ResumePlan {
            layer: self.layer.clone(),
            request_info,
            last_id: last_event_id::of(&head.headers, &head.uri),
            stream: head.extensions.get().cloned(),
            reissue: Arc::new(ReissueService::<_, ReqB>::new(
                self.inner.clone(),
                SavedRequest::of(&head, self.layer.config.strip),
            )),
        };
        ResponseFuture {
            future: self.inner.call(Request::from_parts(head, body)),
            plan: Some(Box::new(plan)),
        }
    }
}

/// What is needed to resume the response if it is a stream.
struct ResumePlan<B> {
    layer: ResumeLayer,
    request_info: RequestInfo,
    // A copy, as a header value keeps the whole read buffer of its connection.
    last_id: Option<Box<[u8]>>,
    stream: Option<EarlyStream>,
    reissue: Arc<dyn Reissue<B>>,
}

impl<B> ResumePlan<B> {
    /// Whether the client gets an open stream when its first request fails.
    fn waits_for_upstream(&self) -> bool {
        self.layer.config.wait_for_upstream && self.request_info.accepts_stream
    }

    fn resume_response(self, response: Response<B>) -> Response<ResumeBody<B>>
    where
        B: Send + 'static,
    {
        if is_connection_bound(&response) {
            return response.map(ResumeBody::pass);
        }
        if is_temporary(response.status()) && self.waits_for_upstream() {
            let failed = response.status();
            let min_delay = retry_after(response.headers()).unwrap_or_default();
            return self.wait(failed, ResumeError::Refused(failed).into(), min_delay);
        }
        let (mut head, body) = response.into_parts();
        if ResponseKind::of(&self.request_info.method, &head) != ResponseKind::Stream {
            return Response::from_parts(head, ResumeBody::pass(body));
        }
        head.headers.remove(CONTENT_LENGTH);
        let (reconnect, last_id) = self.reconnect(&mut head.extensions);
        let last_id = last_id.as_deref();
        // This layer reports the bytes it holds; a layer outside that held as well would overwrite them.
        reconnect.stream.set_aligned();
        let body = ResumeBody::resumable(body, reconnect, last_id);
        Response::from_parts(head, body)
    }

    /// Opens a stream whose first request failed.
    fn wait(
        self,
        in_place_of: StatusCode,
        error: BoxError,
        min_delay: Duration,
    ) -> Response<ResumeBody<B>>
    where
        B: Send + 'static,
    {
        metrics::counter!("sse_guard_unavailable_total", "answer" => "wait").increment(1);
        let mut head = Response::new(()).into_parts().0;
        let event_stream = HeaderValue::from_static(EVENT_STREAM);
        head.headers.insert(CONTENT_TYPE, event_stream);
        head.extensions.insert(OwnResponse);
        head.extensions.insert(ReplacedWhileWaiting(in_place_of));
        if let Some(granted) = self.reissue.saved_request().granted() {
            granted.mark_used();
        }
        let (reconnect, last_id) = self.reconnect(&mut head.extensions);
        let last_id = last_id.as_deref();
        // This layer reports the bytes it holds; a layer outside that held as well would overwrite them.
        reconnect.stream.set_aligned();
        let body = ResumeBody::waiting(reconnect, last_id, error, min_delay);
        Response::from_parts(head, body)
    }

    /// The means to reconnect, and the `Last-Event-ID` of the request.
    fn reconnect(self, extensions: &mut Extensions) -> (Reconnect<B>, Option<Box<[u8]>>) {
        let known = extensions.get::<Stream>().cloned();
        let early = self.stream.map(|EarlyStream(stream)| stream);
        let stream = known.or(early).unwrap_or_else(Stream::open);
        let config = &self.layer.config;
        if config.idle_timeout.is_some() || config.event_timeout.is_some() {
            stream.set_idle_watched();
        }
        stream.set_family(self.request_info.family, self.request_info.is_family_fixed);
        extensions.insert(EarlyStream(stream.clone()));
        let reconnect = Reconnect {
            reissue: self.reissue,
            config: self.layer.config,
            admission: self.layer.admission,
            stream,
            request_info: self.request_info,
        };
        (reconnect, self.last_id)
    }
}

/// Whether the request depends on a login of the connection.
fn is_connection_bound<B>(response: &Response<B>) -> bool {
    if response
        .extensions()
        .get::<connection_auth::ConnectionBound>()
        .is_some()
    {
        return true;
    }
    connection_auth::in_response(response.headers())
}

pin_project! {
    /// The response to come.
    pub struct ResponseFuture<F, B> {
        #[pin]
        future: F,
        plan: Option<Box<ResumePlan<B>>>,
    }
}

impl<F, B, E> Future for ResponseFuture<F, B>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Send + 'static,
    E: Into<BoxError>,
{
    type Output = Result<Response<ResumeBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.future.poll(cx));
        Poll::Ready(match (this.plan.take(), response) {
            (Some(plan), Ok(response)) => Ok(plan.resume_response(response)),
            (Some(plan), Err(error)) if plan.waits_for_upstream() => {
                let failed = StatusCode::BAD_GATEWAY;
                Ok(plan.wait(failed, error.into(), Duration::ZERO))
            }
            (_, response) => response.map(|response| response.map(ResumeBody::pass)),
        })
    }
}
