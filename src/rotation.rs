//! Ends streams at a maximum age, and all streams in a drain.
//!
//! A stream without an end hides leaks, pins a client to one server and keeps a deployment waiting. At
//! [`max_age`](RotationLayer::max_age), which is jittered so that streams opened together do not end together, a
//! stream ends at its next event boundary with a jittered `retry: n` line. An `EventSource` reconnects by itself
//! and sends its `Last-Event-ID`.
//!
//! Only streams whose clients [reconnect](crate::family::Family::client_reconnects), those of an `EventSource`, end
//! by age: to end the answer to a POST would cancel the work for it, and what fetch or curl get by a GET without
//! `Accept: text/event-stream` would pass for complete. [`methods`](RotationLayer::methods), or a
//! [`Family`](crate::family::Family) set for the request, override this, and neither a header of the client nor the first event of the
//! upstream changes that. Otherwise both may show that the client does not reconnect, see
//! [`family`](crate::family).
//!
//! A stream [in a content coding](crate::Stream::is_opaque) has no readable event boundary, and cannot end
//! properly. If its client reconnects, it ends by age as a broken transfer, after which an `EventSource` reconnects
//! with the id of the last event that it has decoded. Such a client gets no `retry:` and uses its own delay.
//!
//! A [`StreamRegistry`] ends all streams within a window, or one by its id. While it drains, this layer
//! responds to requests for new streams itself: an `EventSource` gets an empty stream with a
//! `retry:` line that points beyond the window, as it does not reconnect after any status but 200.
//!
//! ```
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::{BodyExt, Full};
//! use sse_guard::StreamRegistry;
//! use sse_guard::rotation::RotationLayer;
//! use std::{convert::Infallible, time::Duration};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let registry = StreamRegistry::new();
//! let service = ServiceBuilder::new()
//!     .layer(RotationLayer::new().max_age(Duration::from_secs(3600), 0.1).registry(&registry))
//!     .service(service_fn(|_: Request<()>| async {
//!         Ok::<_, Infallible>(
//!             Response::builder()
//!                 .header("content-type", "text/event-stream")
//!                 .body(Full::new(Bytes::from("data: 1\n\n")))
//!                 .unwrap(),
//!         )
//!     }));
//!
//! let response = service.oneshot(Request::new(())).await?;
//! assert_eq!(registry.live(), 1);
//! assert_eq!(response.into_body().collect().await?.to_bytes(), "data: 1\n\n");
//! assert_eq!(registry.live(), 0);
//!
//! // On shutdown:
//! registry.drain(Duration::from_secs(10));
//! let _ = tokio::time::timeout(Duration::from_secs(15), registry.finished()).await;
//! # Ok(())
//! # }
//! ```

#[cfg(test)]
mod tests;

use crate::event::Event;
use crate::guard::{
    Ending, Guard, Interests, Notice, Policy, PolicyContext, Reaction, ResponseInfo, StreamLayer,
};
use crate::jitter::{MAX_DURATION, around, jittered};
use crate::rejection::Rejection;
use crate::request_info::RequestInfo;
use crate::stream::{ClientReconnects, EndReason, RegisteredStream, StreamRegistry};
use crate::stream_requested::StreamRequested;
use crate::wire::Encoded;
use bytes::Bytes;
use http::{Method, Request};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tower_layer::Layer;

/// Default reconnection time of clients: 2 s.
pub const DEFAULT_RETRY: Duration = Duration::from_secs(2);

/// Ends streams at a maximum age, and all streams in a drain. See the [module docs](self). No age is
/// set by default: the layer only ends streams on request of its [`StreamRegistry`].
#[derive(Clone, Debug)]
pub struct RotationLayer {
    config: Arc<RotationConfig>,
    registry: StreamRegistry,
}

#[derive(Clone, Debug)]
struct RotationConfig {
    max_age: Option<(Duration, f64)>,
    retry: Option<Duration>,
    /// By family, if `None`.
    methods: Option<Vec<Method>>,
    event: Option<Event>,
    retry_on_open: Option<Duration>,
}

impl Default for RotationLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl RotationLayer {
    /// Creates a layer that ends no stream by age.
    pub fn new() -> Self {
        Self {
            config: Arc::new(RotationConfig {
                max_age: None,
                retry: Some(DEFAULT_RETRY),
                methods: None,
                event: None,
                retry_on_open: None,
            }),
            registry: StreamRegistry::new(),
        }
    }

    fn with(mut self, change: impl FnOnce(&mut RotationConfig)) -> Self {
        change(Arc::make_mut(&mut self.config));
        self
    }

    /// Ends a stream at this age, plus or minus a random share of it up to `jitter` (0.1 is ten
    /// percent).
    ///
    /// # Panics
    ///
    /// If `jitter` is not within 0 to 1: no stream ends before it begins.
    #[must_use]
    pub fn max_age(self, age: Duration, jitter: f64) -> Self {
        assert!(
            (0.0..=1.0).contains(&jitter),
            "jitter is a part of the age, 0 to 1"
        );
        self.with(|config| config.max_age = Some((age.min(MAX_DURATION), jitter)))
    }

    /// Sets the reconnection time (`retry:`) that an ended stream sends, jittered by half either way;
    /// `None` sends none. 2 s by default.
    #[must_use]
    pub fn retry(self, retry: impl Into<Option<Duration>>) -> Self {
        let retry = retry.into();
        self.with(|config| config.retry = retry)
    }

    /// Sends `retry:` with the first event, jittered by half either way, which resets a delay that the
    /// end of an earlier stream has set. `None`, the default, sends none.
    #[must_use]
    pub fn retry_on_open(self, retry: impl Into<Option<Duration>>) -> Self {
        let retry = retry.into();
        self.with(|config| config.retry_on_open = retry)
    }

    /// Sets the request methods whose streams end by age and get `retry:`, for every [`Family`](crate::family::Family). By
    /// default the family decides.
    #[must_use]
    pub fn methods(self, methods: impl IntoIterator<Item = Method>) -> Self {
        self.with(|config| config.methods = Some(methods.into_iter().collect()))
    }

    /// Sends an event before the end of a stream, for client code that listens for it. None by
    /// default.
    #[must_use]
    pub fn event(self, event: impl Into<Option<Event>>) -> Self {
        let event = event.into();
        self.with(|config| config.event = event)
    }

    /// Sets the registry that lists and ends this layer's streams. While it drains, the layer admits no new
    /// ones. Several layers may share one registry.
    #[must_use]
    pub fn registry(mut self, registry: &StreamRegistry) -> Self {
        self.registry = registry.clone();
        self
    }
}

/// The service that [`RotationLayer`] makes.
pub type Rotation<S> = Guard<S, RotationLayer>;

impl<S> Layer<S> for RotationLayer {
    type Service = Rotation<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Guard::new(inner, self.clone())
    }
}

impl StreamLayer for RotationLayer {
    type Admitted = ();
    type Policy = RotationPolicy;
    const OBSERVES: bool = true;
    const INJECTS: bool = true;

    fn admit<B>(&self, request: &Request<B>, request_info: &RequestInfo) -> Result<(), Rejection> {
        if !self.registry.is_draining() || !requests_stream(request, request_info) {
            return Ok(());
        }
        let retry = self.config.retry.unwrap_or(DEFAULT_RETRY);
        let as_stream = request_info.accepts_stream && self.takes_empty_stream(request_info);
        let rejection = Rejection::while_draining(&self.registry, retry, as_stream);
        rejection.map_or(Ok(()), Err)
    }

    fn open(&self, (): (), head: &ResponseInfo<'_>) -> Result<Option<RotationPolicy>, Rejection> {
        let Some(stream) = head.stream else {
            return Ok(None);
        };
        let client_reconnects = head
            .request_info
            .client_reconnects(self.config.methods.as_deref());
        let age = self
            .config
            .max_age
            .filter(|_| client_reconnects.applies_to(stream))
            .map(|(age, jitter)| around(age, jitter));
        Ok(Some(RotationPolicy {
            config: self.config.clone(),
            client_reconnects,
            sends_first_retry: !head.kind.is_opaque() && self.config.retry_on_open.is_some(),
            old_at: age.and_then(|age| stream.opened().checked_add(age)),
            registered: self.registry.register(stream, client_reconnects),
        }))
    }
}

/// Whether the head of a request shows that it opens a stream.
fn requests_stream<B>(request: &Request<B>, request_info: &RequestInfo) -> bool {
    match request_info.method {
        Method::GET => request_info.accepts_stream,
        // Their responses are never streams.
        Method::HEAD | Method::OPTIONS | Method::DELETE | Method::TRACE | Method::CONNECT => false,
        // Clients of these APIs request a stream in the body only. If no layer has read it, the request is
        // rejected and the client repeats it, which costs less than an answer that is broken off.
        _ => {
            request_info.accepts_stream
                || match request.extensions().get::<StreamRequested>() {
                    Some(flag) => flag.get(),
                    None => request_info.family.is_model_api(),
                }
        }
    }
}

impl RotationLayer {
    /// Whether the client reconnects after an empty stream, instead of taking it for the answer.
    fn takes_empty_stream(&self, request_info: &RequestInfo) -> bool {
        let methods = self.config.methods.as_ref();
        let client_reconnects =
            methods.is_some_and(|methods| methods.contains(&request_info.method));
        request_info.takes_retry_later() || client_reconnects
    }
}

/// The age of one stream.
#[doc(hidden)]
#[derive(Debug)]
pub struct RotationPolicy {
    config: Arc<RotationConfig>,
    client_reconnects: ClientReconnects,
    /// `retry:` is to be sent with the first event.
    sends_first_retry: bool,
    old_at: Option<Instant>,
    registered: RegisteredStream,
}

impl RotationPolicy {
    /// The time and reason of the end, if the stream can end here: at an event boundary, or anywhere in an opaque
    /// stream.
    fn end(&self, context: &PolicyContext<'_>) -> Option<(Instant, EndReason)> {
        if !context.at_boundary() && !context.stream.is_opaque() {
            return None;
        }
        // A client that reconnects while the upstream is away gets nothing there.
        let may_rotate = || {
            self.client_reconnects.applies_to(context.stream)
                && !context.stream.state().has_lost_upstream()
        };
        let old_at = self.old_at.filter(|_| may_rotate());
        let old = old_at.map(|old_at| (old_at, EndReason::Rotated));
        match (old, context.stream.stop_requested()) {
            (Some(old), Some(stop)) => Some(if stop.0 <= old.0 { stop } else { old }),
            (old, stop) => old.or(stop),
        }
    }
}

impl RotationPolicy {
    /// The `retry:` line that goes before the first event.
    fn first_retry(&mut self, context: &PolicyContext<'_>) -> Option<Bytes> {
        if !std::mem::take(&mut self.sends_first_retry)
            || !self.client_reconnects.applies_to(context.stream)
        {
            return None;
        }
        let retry = self.config.retry_on_open.map(jittered);
        Encoded::closing(retry, None, context.line_end())
    }
}

impl Policy for RotationPolicy {
    #[inline]
    fn interests(&self) -> Interests {
        Interests {
            wake: true,
            events: false,
        }
    }

    fn deadline(&self, context: &PolicyContext<'_>) -> Option<Instant> {
        self.end(context).map(|(at, _)| at)
    }

    fn check(&mut self, context: &PolicyContext<'_>) -> Reaction {
        let Some((due, reason)) = self.end(context) else {
            return Reaction::Pass;
        };
        if context.now < due {
            return Reaction::Pass;
        }
        let is_opaque = context.stream.is_opaque();
        let client_reconnects = self.client_reconnects.applies_to(context.stream);
        let closing = if client_reconnects && !is_opaque {
            let retry = self.config.retry.map(|retry| match reason {
                EndReason::Drained => self.registered.retry(retry),
                _ => jittered(retry),
            });
            Encoded::closing(
                retry,
                self.config.event.as_ref().map(Event::encoded),
                context.line_end(),
            )
        } else {
            None
        };
        Reaction::End(Ending {
            reason,
            closing,
            // The client of an answer in pieces would take the part for the whole. A content coding that
            // stops half-way is damaged, even with a proper end of the message.
            abort: !client_reconnects || is_opaque,
        })
    }

    #[inline]
    fn on(&mut self, context: &PolicyContext<'_>, notice: Notice<'_>) -> Reaction {
        match notice {
            Notice::BeforeEvent => self
                .first_retry(context)
                .map_or(Reaction::Pass, Reaction::Inject),
            _ => Reaction::Pass,
        }
    }
}
