//! Ends streams whose upstream is silent.
//!
//! There are two timeouts, each optional: no *byte* for [`timeout`](IdleTimeoutLayer::timeout), and no *event
//! with data* for [`event_timeout`](IdleTimeoutLayer::event_timeout), which detects an upstream that hangs but still
//! sends comments or pings. The second is on [by default](EventTimeout::Auto) for answers of models. Only bytes of the
//! upstream reset the timeouts: heartbeats of this crate never do, in any order of the layers. Time in which the
//! client did not read does not count, as the upstream is not read then either.
//!
//! For a stream [in a content coding](crate::Stream::is_opaque) only the timeout for bytes applies, and the stream
//! ends as a broken transfer with every [`IdleAction`], as nothing can be injected into it.
//!
//! The age of a stream is limited by [`rotation`](crate::rotation).
//!
//! ```
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::{BodyExt, Full};
//! use sse_guard::Event;
//! use sse_guard::idle_timeout::{IdleAction, IdleTimeoutLayer};
//! use std::{convert::Infallible, time::Duration};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let service = ServiceBuilder::new()
//!     .layer(
//!         IdleTimeoutLayer::new()
//!             .timeout(Duration::from_secs(600))
//!             .event_timeout(Duration::from_secs(3600))
//!             .ignore_events(["ping"])
//!             .action(IdleAction::ErrorEvent(Event::new("error", r#"{"error":"upstream idle"}"#)?)),
//!     )
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
//! assert_eq!(response.into_body().collect().await?.to_bytes(), "data: 1\n\n");
//! # Ok(())
//! # }
//! ```

#[cfg(test)]
mod tests;

use crate::event::Event;
use crate::guard::{
    Ending, Guard, Interests, Notice, Policy, PolicyContext, Reaction, ResponseInfo, StreamLayer,
};
use crate::jitter::jittered;
use crate::rejection::Rejection;
use crate::request_info::RequestInfo;
use crate::rotation::DEFAULT_RETRY;
use crate::stream::EndReason;
use crate::wire::Encoded;
use http::Request;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tower_layer::Layer;

/// Default [`EventTimeout`] of answers of model APIs: 5 minutes.
pub const DEFAULT_EVENT_TIMEOUT: Duration = Duration::from_secs(300);

/// The time limit between events with data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum EventTimeout {
    /// [5 minutes](DEFAULT_EVENT_TIMEOUT) from the first event on for answers of the families
    /// [`OpenAi`](crate::family::Family::OpenAi) and [`Anthropic`](crate::family::Family::Anthropic), no limit for other streams. The
    /// time before the first event is not limited, as a model may reason first. Within an answer, heartbeats reset the
    /// client's own timeout, hence this one.
    #[default]
    Auto,
    /// No limit.
    Off,
    /// This long, from the response's head on.
    After(Duration),
}

impl From<Duration> for EventTimeout {
    fn from(timeout: Duration) -> Self {
        Self::After(timeout)
    }
}

impl From<Option<Duration>> for EventTimeout {
    fn from(timeout: Option<Duration>) -> Self {
        timeout.map_or(Self::Off, Self::After)
    }
}

/// How a stream ends when its upstream is idle.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum IdleAction {
    /// [`Close`](Self::Close) if the client [reconnects](crate::family::Family::client_reconnects), as that of a GET
    /// usually does; otherwise [`Abort`](Self::Abort), as the client would take the part for a complete answer.
    #[default]
    Auto,
    /// Properly, with a `retry:` line for a client that reconnects.
    Close,
    /// Properly, with this last event.
    ErrorEvent(Event),
    /// As a broken transfer. A [`CompletionLayer`](crate::completion::CompletionLayer) sends the reason before it.
    Abort,
}

/// Ends streams whose upstream is silent. See the [module docs](self).
#[derive(Clone, Debug)]
pub struct IdleTimeoutLayer {
    config: Arc<IdleTimeoutConfig>,
}

#[derive(Clone, Debug)]
struct IdleTimeoutConfig {
    timeout: Option<Duration>,
    event_timeout: EventTimeout,
    comments_are_life: bool,
    ignore_events: Arc<Vec<String>>,
    action: IdleAction,
    retry: Option<Duration>,
}

impl Default for IdleTimeoutLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl IdleTimeoutLayer {
    /// Creates a layer without a timeout for bytes, and with one for events only in answers of model APIs.
    pub fn new() -> Self {
        Self {
            config: Arc::new(IdleTimeoutConfig {
                timeout: None,
                event_timeout: EventTimeout::Auto,
                comments_are_life: true,
                ignore_events: Arc::default(),
                action: IdleAction::Auto,
                retry: Some(DEFAULT_RETRY),
            }),
        }
    }

    fn with(mut self, change: impl FnOnce(&mut IdleTimeoutConfig)) -> Self {
        change(Arc::make_mut(&mut self.config));
        self
    }

    /// Ends a stream after this long without a byte from the upstream; `None`, the default, never.
    #[must_use]
    pub fn timeout(self, timeout: impl Into<Option<Duration>>) -> Self {
        let timeout = timeout.into();
        self.with(|config| config.timeout = timeout)
    }

    /// Ends a stream after this long without an event with data from the upstream. Comments,
    /// [`ignore_events`](Self::ignore_events) and other keepalives do not count. [`EventTimeout::Auto`] by default.
    #[must_use]
    pub fn event_timeout(self, timeout: impl Into<EventTimeout>) -> Self {
        let timeout = timeout.into();
        self.with(|config| config.event_timeout = timeout)
    }

    /// Sets whether comments of the upstream reset the [`timeout`](Self::timeout): yes by default. If not, only events
    /// with data reset it.
    #[must_use]
    pub fn comments_are_life(self, yes: bool) -> Self {
        self.with(|config| config.comments_are_life = yes)
    }

    /// Sets names of events that count as keepalives of the upstream, not as data. None by default. Keepalives of model
    /// APIs, Anthropic's `ping` and `{"type":"keepalive"}`, count as such without it.
    #[must_use]
    pub fn ignore_events<N: Into<String>>(self, names: impl IntoIterator<Item = N>) -> Self {
        let names = names.into_iter().map(Into::into).collect();
        self.with(|config| config.ignore_events = Arc::new(names))
    }

    /// Sets how streams end. [`IdleAction::Auto`] by default.
    #[must_use]
    pub fn action(self, action: IdleAction) -> Self {
        self.with(|config| config.action = action)
    }

    /// Sets the reconnection time (`retry:`) of clients that reconnect, jittered by half either way;
    /// `None` sends none. 2 s by default.
    #[must_use]
    pub fn retry(self, retry: impl Into<Option<Duration>>) -> Self {
        let retry = retry.into();
        self.with(|config| config.retry = retry)
    }
}

/// The service that [`IdleTimeoutLayer`] makes.
pub type IdleTimeout<S> = Guard<S, IdleTimeoutLayer>;

impl<S> Layer<S> for IdleTimeoutLayer {
    type Service = IdleTimeout<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Guard::new(inner, self.clone())
    }
}

impl StreamLayer for IdleTimeoutLayer {
    type Admitted = ();
    type Policy = IdlePolicy;
    const OBSERVES: bool = true;
    const INJECTS: bool = true;

    fn admit<B>(&self, _: &Request<B>, _: &RequestInfo) -> Result<(), Rejection> {
        Ok(())
    }

    fn open(&self, (): (), head: &ResponseInfo<'_>) -> Result<Option<IdlePolicy>, Rejection> {
        let Some(stream) = head.stream else {
            return Ok(None);
        };
        stream.set_pings(&self.config.ignore_events);
        let is_set = matches!(self.config.event_timeout, EventTimeout::After(_));
        if is_set || !self.config.comments_are_life {
            stream.set_event_clock();
        }
        Ok(Some(IdlePolicy {
            config: self.config.clone(),
        }))
    }
}

/// The timeouts of one stream.
#[doc(hidden)]
#[derive(Debug)]
pub struct IdlePolicy {
    config: Arc<IdleTimeoutConfig>,
}

impl IdlePolicy {
    /// When the timeout for events expires.
    fn event_deadline(&self, context: &PolicyContext<'_>) -> Option<Instant> {
        let stream = context.stream;
        let timeout = match self.config.event_timeout {
            EventTimeout::Off => return None,
            EventTimeout::After(timeout) => timeout,
            EventTimeout::Auto => {
                let is_answer = stream.family().is_model_api();
                // Before that the model may be reasoning.
                let has_begun = stream.time_to_first_event().is_some();
                (is_answer && has_begun).then_some(DEFAULT_EVENT_TIMEOUT)?
            }
        };
        stream.eventless_since().checked_add(timeout)
    }

    fn ending(&self, context: &PolicyContext<'_>) -> Ending {
        let client_reconnects = context.stream.family().client_reconnects();
        let retry = self
            .config
            .retry
            .filter(|_| client_reconnects)
            .map(jittered);
        let (closing, abort) = match &self.config.action {
            IdleAction::Auto if !client_reconnects => (None, true),
            IdleAction::Auto | IdleAction::Close => {
                (Encoded::closing(retry, None, context.line_end()), false)
            }
            IdleAction::ErrorEvent(event) => (
                Encoded::closing(retry, Some(event.encoded()), context.line_end()),
                false,
            ),
            IdleAction::Abort => (None, true),
        };
        Ending {
            reason: EndReason::UpstreamIdle,
            closing,
            abort,
        }
    }
}

impl Policy for IdlePolicy {
    #[inline]
    fn interests(&self) -> Interests {
        Interests::default()
    }

    fn deadline(&self, context: &PolicyContext<'_>) -> Option<Instant> {
        if context.stream.is_idle_watched() {
            return None;
        }
        let after = |since: Instant, timeout: Option<Duration>| since.checked_add(timeout?);
        if context.stream.is_opaque() {
            return after(context.stream.silent_since(), self.config.timeout);
        }
        let silent_since = match self.config.comments_are_life {
            true => context.stream.silent_since(),
            false => context.stream.eventless_since(),
        };
        let bytes = after(silent_since, self.config.timeout);
        let events = self.event_deadline(context);
        match (bytes, events) {
            (Some(bytes), Some(events)) => Some(bytes.min(events)),
            (bytes, events) => bytes.or(events),
        }
    }

    fn check(&mut self, context: &PolicyContext<'_>) -> Reaction {
        if self
            .deadline(context)
            .is_none_or(|deadline| context.now < deadline)
        {
            return Reaction::Pass;
        }
        Reaction::End(self.ending(context))
    }

    #[inline]
    fn on(&mut self, context: &PolicyContext<'_>, notice: Notice<'_>) -> Reaction {
        match notice {
            // The resume layer watches this stream, and could not reconnect its idle upstream.
            Notice::InnerError(EndReason::UpstreamIdle) if context.stream.is_idle_watched() => {
                Reaction::End(self.ending(context))
            }
            _ => Reaction::Pass,
        }
    }
}
