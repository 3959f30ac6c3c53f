//! Sends events of the application into live streams: a maintenance notice, a message to one user.
//!
//! The layer enables [`Stream::send`]; a [`StreamRegistry`](crate::StreamRegistry) lists the live streams.
//! Events are sent at event boundaries only, in the line end of the stream, and do not count as activity of the
//! upstream.
//!
//! ```
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::{BodyExt, Full};
//! use sse_guard::{Event, Stream};
//! use sse_guard::inject::InjectLayer;
//! use std::convert::Infallible;
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let service = ServiceBuilder::new()
//!     .layer(InjectLayer::new())
//!     .service(service_fn(|_: Request<()>| async {
//!         Ok::<_, Infallible>(
//!             Response::builder()
//!                 .header("content-type", "text/event-stream")
//!                 .body(Full::new(Bytes::from("data: 1\n\n")))
//!                 .unwrap(),
//!         )
//!     }));
//!
//! let request = Request::get("/").header("accept", "text/event-stream").body(())?;
//! let response = service.oneshot(request).await?;
//! let stream = response.extensions().get::<Stream>().ok_or("no stream")?.clone();
//! stream.send(&Event::new("notice", "back at 10:00")?)?;
//! let text = response.into_body().collect().await?.to_bytes();
//! assert_eq!(text, "data: 1\n\nevent: notice\ndata: back at 10:00\n\n");
//! # Ok(())
//! # }
//! ```

pub use crate::stream::SendError;

#[cfg(doc)]
use crate::family::Family;
use crate::guard::{
    Guard, Interests, Notice, Policy, PolicyContext, Reaction, ResponseInfo, StreamLayer,
};
use crate::rejection::Rejection;
use crate::request_info::RequestInfo;
use crate::stream::ClientReconnects;
#[cfg(doc)]
use crate::stream::Stream;
use http::{Method, Request};
use std::sync::Arc;
use tokio::time::Instant;
use tower_layer::Layer;

/// Enables [`Stream::send`]: the application's own events in live streams. See the [module docs](self).
#[derive(Clone, Debug)]
pub struct InjectLayer {
    /// By family, if `None`.
    methods: Option<Arc<[Method]>>,
}

impl Default for InjectLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl InjectLayer {
    /// Creates a layer for streams whose clients [reconnect](Family::client_reconnects), mostly those of GET
    /// requests.
    pub fn new() -> Self {
        Self { methods: None }
    }

    /// Sets the request methods whose streams take the application's events, for every [`Family`]. By
    /// default the family decides: the stream of any other is one response in pieces, as a model's, and
    /// its client may fail on an event that is not part of it.
    #[must_use]
    pub fn methods(mut self, methods: impl IntoIterator<Item = Method>) -> Self {
        self.methods = Some(methods.into_iter().collect());
        self
    }
}

/// The service that [`InjectLayer`] makes.
pub type Inject<S> = Guard<S, InjectLayer>;

impl<S> Layer<S> for InjectLayer {
    type Service = Inject<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Guard::new(inner, self.clone())
    }
}

impl StreamLayer for InjectLayer {
    type Admitted = ();
    type Policy = InjectPolicy;
    const OBSERVES: bool = true;
    const INJECTS: bool = true;

    fn admit<B>(&self, _: &Request<B>, _: &RequestInfo) -> Result<(), Rejection> {
        Ok(())
    }

    fn open(&self, (): (), head: &ResponseInfo<'_>) -> Result<Option<InjectPolicy>, Rejection> {
        let takes = head.request_info.client_reconnects(self.methods.as_deref());
        let stream = head.readable().filter(|stream| takes.applies_to(stream));
        Ok(stream.map(|stream| {
            stream.accept_injected();
            InjectPolicy { takes }
        }))
    }
}

/// What is put into one stream.
#[doc(hidden)]
#[derive(Debug)]
pub struct InjectPolicy {
    takes: ClientReconnects,
}

impl Policy for InjectPolicy {
    #[inline]
    fn interests(&self) -> Interests {
        Interests {
            wake: true,
            events: false,
        }
    }

    fn deadline(&self, context: &PolicyContext<'_>) -> Option<Instant> {
        (context.at_boundary() && context.stream.has_injected()).then_some(context.now)
    }

    fn check(&mut self, context: &PolicyContext<'_>) -> Reaction {
        let event = context
            .at_boundary()
            .then(|| context.stream.next_injected(context.line_end()));
        // The first event may have shown another family.
        let event = event
            .flatten()
            .filter(|_| self.takes.applies_to(context.stream));
        event.map_or(Reaction::Pass, Reaction::Inject)
    }

    #[inline]
    fn on(&mut self, _: &PolicyContext<'_>, _: Notice<'_>) -> Reaction {
        Reaction::Pass
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SseGuardLayer;
    use crate::event::Event;
    use crate::guard::testing::{ScriptedUpstream, get, post};
    use crate::rotation::RotationLayer;
    use crate::stream::StreamRegistry;

    fn event(data: &str) -> Event {
        Event::new(None, data).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn injected_event_is_sent_at_once_on_a_quiet_stream() {
        let mut response = get(InjectLayer::new(), ScriptedUpstream::new().hang()).await;
        let stream = response.stream();
        let sent = async {
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            stream.send(&event("1")).unwrap();
            stream.send(&event("2")).unwrap();
        };
        let (first, ()) = tokio::join!(response.next(), sent);
        assert_eq!(first.unwrap().unwrap(), "data: 1\n\n");
        assert_eq!(response.next().await.unwrap().unwrap(), "data: 2\n\n");
        assert_eq!((stream.events(), stream.bytes()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn injected_event_waits_for_the_end_of_an_event() {
        let upstream = ScriptedUpstream::new()
            .send("data: a\r\n")
            .wait(5)
            .send("\r\ndata: b\r\n\r\n");
        let response = get(InjectLayer::new(), upstream).await;
        response.stream().send(&event("x")).unwrap();
        let text = response.text().await;
        assert_eq!(text, "data: x\r\n\r\ndata: a\r\n\r\ndata: b\r\n\r\n");

        let big = format!("data: {}", "x".repeat(70_000));
        let upstream = ScriptedUpstream::new().send(&big).wait(5).send("\n\n");
        let mut response = get(InjectLayer::new(), upstream).await;
        let mut text = response.next().await.unwrap().unwrap();
        response.stream().send(&event("x")).unwrap();
        text.push_str(&response.text().await);
        assert_eq!(text, format!("{big}\n\ndata: x\n\n"));
    }

    #[tokio::test(start_paused = true)]
    async fn injected_event_is_sent_before_the_end_of_the_stream() {
        let registry = StreamRegistry::new();
        let rotation = RotationLayer::new().retry(None).registry(&registry);
        let stack = SseGuardLayer::new()
            .inject(InjectLayer::new())
            .rotation(rotation);
        let response = get(stack, ScriptedUpstream::new().hang()).await;
        response.stream().send(&event("x")).unwrap();
        registry.drain(std::time::Duration::ZERO);
        assert_eq!(response.text().await, "data: x\n\n");
    }

    #[tokio::test(start_paused = true)]
    async fn injection_into_answers_requires_configured_methods() {
        let layer = InjectLayer::new();
        let response = post(layer.clone(), ScriptedUpstream::new().hang()).await;
        assert_eq!(
            response.stream().send(&event("x")),
            Err(SendError::NotInjectable)
        );
        let response = post(
            layer.methods([Method::POST]),
            ScriptedUpstream::new().hang(),
        )
        .await;
        assert_eq!(response.stream().send(&event("x")), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn send_fails_without_the_layer_and_after_the_end() {
        let stack = SseGuardLayer::new();
        let response = get(stack, ScriptedUpstream::new().hang()).await;
        let stream = response.stream();
        assert_eq!(stream.send(&event("x")), Err(SendError::NotInjectable));
        drop(response);
        assert_eq!(stream.send(&event("x")), Err(SendError::Ended));
    }
}
