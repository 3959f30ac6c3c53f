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
mod reconnect;
mod saved_request;
mod state;
mod successor;
#[cfg(test)]
mod tests;

pub use admission::{Admission, WeakAdmission};
pub use body::ResumeBody;
#[doc(hidden)]
pub use reconnect::Unreachable;

use crate::accessors::inner_service_accessors;
use crate::answer::{Own, WaitsInPlaceOf};
use crate::connection_auth;
use crate::guard::BoxError;
use crate::head::EVENT_STREAM;
use crate::jitter::{MAX_DURATION, around};
use crate::last_event_id;
use crate::request_info::{RequestInfo, ResponseKind};
use crate::retry_after::retry_after;
use crate::stream::{EarlyStream, Stream};
use crate::unavailable::may_pass;
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{Extensions, HeaderValue, Request, Response, StatusCode};
use http_body::Body;
use pin_project_lite::pin_project;
use reconnect::{Reconnect, Reissue, ReissueService};
use saved_request::SavedRequest;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;

/// The result of the loss of an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ResumeOutcome {
    /// The stream continued.
    Resumed,
    /// The upstream had no more events.
    Over,
    /// The upstream rejected the request.
    Refused,
    /// The upstream was not back in time.
    GaveUp,
}

impl ResumeOutcome {
    /// All values.
    pub const ALL: &[Self] = &[Self::Resumed, Self::Over, Self::Refused, Self::GaveUp];

    /// The value of the label `outcome` in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Resumed => "resumed",
            Self::Over => "over",
            Self::Refused => "refused",
            Self::GaveUp => "gave_up",
        }
    }
}

/// Why a stream could not be resumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ResumeError {
    /// The upstream ended it properly, and it could not be resumed.
    #[error("the upstream ended the stream")]
    Ended,
    /// The upstream responded with this status to the reconnect request.
    #[error("the upstream responded {0} to the reconnect request")]
    Refused(StatusCode),
    /// The numeric ids of the upstream restarted at one outside of the window.
    #[error("the upstream's event ids restarted: the client's position is unknown")]
    Renumbered,
    /// An event that the upstream perhaps repeats is longer than 1 MiB, and its `id` line is not in that.
    #[error("an event without an id in its first MiB may be a duplicate")]
    TooLong,
}

/// Reconnects a lost upstream behind a live stream. See the [module docs](self).
#[derive(Clone, Debug)]
pub struct ResumeLayer {
    enabled: bool,
    config: Arc<ResumeConfig>,
    admission: Admission,
}

#[derive(Clone, Debug)]
struct ResumeConfig {
    lossy: bool,
    on_end: bool,
    wait_for_upstream: bool,
    idle_timeout: Option<Duration>,
    event_timeout: Option<Duration>,
    ignore_events: Arc<Vec<String>>,
    max_age: Option<(Duration, f64)>,
    initial_backoff: Duration,
    max_backoff: Duration,
    attempts: Option<u32>,
    give_up: Duration,
    reset_after: Duration,
    dedup_window: usize,
    strip: fn(&mut Extensions),
}

impl ResumeConfig {
    fn replace_at(&self, now: Instant) -> Option<Instant> {
        let (age, jitter) = self.max_age?;
        let age = around(age, jitter);
        // At no age at all it would be replaced without a pause.
        now.checked_add(age.max(MIN_CONNECTION_AGE))
    }
}

/// The shortest age at which a connection is old.
const MIN_CONNECTION_AGE: Duration = Duration::from_millis(1);

impl Default for ResumeLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl ResumeLayer {
    /// Creates a layer that resumes streams that break off, for up to 5 minutes, with an [`Admission`]
    /// of its own.
    pub fn new() -> Self {
        Self {
            enabled: true,
            config: Arc::new(ResumeConfig {
                lossy: false,
                on_end: false,
                wait_for_upstream: false,
                idle_timeout: None,
                event_timeout: None,
                ignore_events: Arc::default(),
                max_age: None,
                initial_backoff: Duration::from_secs(1),
                max_backoff: Duration::from_secs(30),
                attempts: None,
                give_up: Duration::from_secs(300),
                reset_after: Duration::from_secs(30),
                dedup_window: 256,
                strip: |_| {},
            }),
            admission: Admission::default(),
        }
    }

    fn with(mut self, change: impl FnOnce(&mut ResumeConfig)) -> Self {
        change(Arc::make_mut(&mut self.config));
        self
    }

    /// Off for a stack without it, whose service keeps its type.
    pub(crate) fn enabled(mut self, enabled: bool) -> Self {
        self.enabled = enabled;
        self
    }

    /// Resumes streams without ids as well, whose clients miss the events of the meantime. Off by default.
    #[must_use]
    pub fn lossy(self, lossy: bool) -> Self {
        self.with(|config| config.lossy = lossy)
    }

    /// Resumes streams that the upstream ends properly, too. Off by default.
    #[must_use]
    pub fn on_end(self, on_end: bool) -> Self {
        self.with(|config| config.on_end = on_end)
    }

    /// Opens a stream whose first request fails, and reconnects it like one that has lost its upstream: a GET that
    /// accepts an event stream, and whose response is an error or a 5xx that may be temporary, gets a 200 at once, and
    /// heartbeats, if a layer outside sends them. An `EventSource` does not reconnect after any other status. Headers
    /// of the later response are lost. If the layer gives up, the stream breaks off, and its client reconnects by
    /// itself. Off by default.
    #[must_use]
    pub fn wait_for_upstream(self, wait: bool) -> Self {
        self.with(|config| config.wait_for_upstream = wait)
    }

    /// Treats the upstream as lost after this long without a byte. Off by default.
    #[must_use]
    pub fn idle_timeout(self, timeout: impl Into<Option<Duration>>) -> Self {
        let timeout = timeout.into().map(|timeout| timeout.min(MAX_DURATION));
        self.with(|config| config.idle_timeout = timeout)
    }

    /// Treats the upstream as lost after this long without an event with data. Off by default.
    #[must_use]
    pub fn event_timeout(self, timeout: impl Into<Option<Duration>>) -> Self {
        let timeout = timeout.into().map(|timeout| timeout.min(MAX_DURATION));
        self.with(|config| config.event_timeout = timeout)
    }

    /// Sets names of events that do not reset the [`event_timeout`](Self::event_timeout), and that
    /// may be delivered twice. None by default.
    #[must_use]
    pub fn ignore_events(self, names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let names = names.into_iter().map(Into::into).collect();
        self.with(|config| config.ignore_events = Arc::new(names))
    }

    /// Replaces the upstream's connection at this age, plus or minus a random share of it up to
    /// `jitter` (0.1 is ten percent). The new one is opened while the old one continues, and
    /// takes over with its first event, or after 5 s of silence; if it fails, the old one stays. Events
    /// that both deliver are recognised by their ids, or by their content if they have none.
    /// Never by default.
    ///
    /// # Panics
    ///
    /// If `jitter` is not within 0 to 1.
    #[must_use]
    pub fn max_age(self, age: Duration, jitter: f64) -> Self {
        assert!(
            (0.0..=1.0).contains(&jitter),
            "jitter is a part of the age, 0 to 1"
        );
        self.with(|config| config.max_age = Some((age.min(MAX_DURATION), jitter)))
    }

    /// Sets the first wait before a lost stream reconnects, and the longest that it doubles to. 1 s and
    /// 30 s by default. It is cut short once its upstream is known to be back, and a stream may probe
    /// before.
    #[must_use]
    pub fn backoff(self, initial_backoff: Duration, max_backoff: Duration) -> Self {
        self.with(|config| {
            config.initial_backoff = initial_backoff.min(MAX_DURATION);
            config.max_backoff = max_backoff.min(MAX_DURATION);
        })
    }

    /// Limits the attempts since the stream was last [stable](Self::reset_after); `None`, the default, for
    /// no limit.
    #[must_use]
    pub fn attempts(self, attempts: impl Into<Option<u32>>) -> Self {
        let attempts = attempts.into();
        self.with(|config| config.attempts = attempts)
    }

    /// Fails a stream that has been without its upstream for this long. A connection that is lost again before it is
    /// [stable](Self::reset_after) and without a new event does not end that time.
    /// 5 minutes by default.
    #[must_use]
    pub fn give_up(self, time: Duration) -> Self {
        self.with(|config| config.give_up = time.min(MAX_DURATION))
    }

    /// Sets how long a connection must be up to count as stable. 30 s by default.
    #[must_use]
    pub fn reset_after(self, time: Duration) -> Self {
        self.with(|config| config.reset_after = time)
    }

    /// Sets how many ids of delivered events each stream keeps, and events without one after the
    /// last of them, at 8 bytes each. 256 by default.
    #[must_use]
    pub fn dedup_window(self, ids: usize) -> Self {
        self.with(|config| config.dedup_window = ids)
    }

    /// Calls `strip` with the extensions that reconnect requests are going to carry: those of the
    /// request, which each stream keeps to its end. It should remove what is large, or belongs to
    /// one response. By default all are kept, except for those of the `serve` feature.
    #[must_use]
    pub fn strip_extensions(self, strip: fn(&mut Extensions)) -> Self {
        self.with(|config| config.strip = strip)
    }

    /// Sets the queue in which streams wait to reconnect. Layers in front of the same upstream should
    /// share one.
    #[must_use]
    pub fn admission(mut self, admission: &Admission) -> Self {
        self.admission = admission.clone();
        self
    }
}

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
        if may_pass(response.status()) && self.waits_for_upstream() {
            let failed = response.status();
            let min_delay = retry_after(response.headers()).unwrap_or_default();
            return self.wait(failed, ResumeError::Refused(failed).into(), min_delay);
        }
        let (mut head, body) = response.into_parts();
        if ResponseKind::of(&self.request_info, &head) != ResponseKind::Stream {
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
        head.extensions.insert(Own);
        head.extensions.insert(WaitsInPlaceOf(in_place_of));
        if let Some(granted) = self.reissue.saved_request().granted() {
            granted.use_it();
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

pub(crate) fn describe_metrics() {
    for &outcome in ResumeOutcome::ALL {
        metrics::counter!("sse_guard_resumes_total", "outcome" => outcome.as_str()).increment(0);
    }
    metrics::counter!("sse_guard_duplicate_events_dropped_total").increment(0);
    metrics::counter!("sse_guard_upstream_replacements_total").increment(0);
    let count = |name, what| metrics::describe_counter!(name, metrics::Unit::Count, what);
    count(
        "sse_guard_resumes_total",
        "Streams that lost their upstream, by outcome",
    );
    count(
        "sse_guard_duplicate_events_dropped_total",
        "Events that an upstream repeated, and that were dropped",
    );
    count(
        "sse_guard_upstream_replacements_total",
        "Upstream connections that were replaced for their age",
    );
    metrics::describe_histogram!(
        "sse_guard_resume_seconds",
        metrics::Unit::Seconds,
        "Time from the loss of an upstream to its return"
    );
}
