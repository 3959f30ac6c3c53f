//! Keeps a quiet stream alive: sends a heartbeat after an interval without a byte to the client.
//!
//! Heartbeats reset idle timeouts on the path (nginx, ALB and Traefik 60 s, Heroku 55 s, Cloudflare 100 s) and
//! timeouts of clients. The events that a client dispatches do not change. Heartbeats are sent only at
//! event boundaries, in the stream's own line end, and do not count as output of the upstream. The
//! first is sent immediately if the upstream sends no event with its head, by default over HTTP/2 and for
//! [some families](HeartbeatLayer::immediate); a byte order mark of the upstream after it is
//! removed, as clients accept one only at the start.
//!
//! ```
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::{BodyExt, Full};
//! use sse_guard::heartbeat::{HeartbeatLayer, HeartbeatStyle};
//! use std::{convert::Infallible, time::Duration};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let service = ServiceBuilder::new()
//!     .layer(
//!         HeartbeatLayer::new(Duration::from_secs(15))
//!             .style(HeartbeatStyle::line("still here")?)
//!             .immediate(true),
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
//! assert_eq!(response.headers()["x-accel-buffering"], "no");
//! assert_eq!(response.into_body().collect().await?.to_bytes(), "data: 1\n\n");
//! # Ok(())
//! # }
//! ```

#[cfg(test)]
mod tests;

use crate::event::Event;
use crate::guard::{
    Guard, Interests, Notice, Policy, PolicyContext, Reaction, ResponseInfo, StreamLayer,
};
use crate::rejection::Rejection;
use crate::request_info::RequestInfo;
use crate::stream::Stream;
use crate::wire::{Encoded, EventError, Timestamped};
use http::Request;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tower_layer::Layer;

/// Default interval: 15 s, below every idle timeout in common use.
pub const DEFAULT_INTERVAL: Duration = Duration::from_secs(15);

/// The layer's streams send at common times, this many per interval: a writing thread wakes up once for all
/// heartbeats that are due.
const SEND_TIMES_PER_INTERVAL: u32 = 128;

/// The bytes of a heartbeat.
#[derive(Clone, Debug)]
pub struct HeartbeatStyle {
    event: Timestamped,
    /// The family's own heartbeat replaces it, if there is one.
    is_by_family: bool,
}

impl HeartbeatStyle {
    fn of(event: impl Into<Timestamped>) -> Self {
        Self {
            event: event.into(),
            is_by_family: false,
        }
    }

    /// Selects the style by the stream's [`Family`](crate::family::Family), the default: [a comment line](Self::line), or the
    /// event `ping` for clients of [`Anthropic`](crate::family::Family::Anthropic), as their API sends it.
    ///
    /// # Errors
    ///
    /// If `text` contains CR or LF.
    pub fn auto(text: &str) -> Result<Self, EventError> {
        Ok(Self {
            event: Encoded::comment(text, false)?.into(),
            is_by_family: true,
        })
    }

    /// Sends a comment line, `: text`, without a blank line: the only form that all common clients
    /// accept.
    ///
    /// # Errors
    ///
    /// If `text` contains CR or LF.
    pub fn line(text: &str) -> Result<Self, EventError> {
        Encoded::comment(text, false).map(Self::of)
    }

    /// Sends a comment line and a blank line, for clients that split the stream at blank lines. Some
    /// other clients parse it as an empty event.
    ///
    /// # Errors
    ///
    /// If `text` contains CR or LF.
    pub fn block(text: &str) -> Result<Self, EventError> {
        Encoded::comment(text, true).map(Self::of)
    }

    /// Sends a named event with data, for client code that listens for it: code does not receive comments.
    ///
    /// `{now}` in the data is replaced by the Unix time at the moment of sending, in whole seconds, for
    /// clients that show the time of the last heartbeat: `{"now":{now}}` is sent as `{"now":1767225600}`.
    pub fn event(event: &Event) -> Self {
        Self::of(Timestamped::new(event.encoded()))
    }
}

/// Sends heartbeats on quiet event streams. See the [module docs](self).
#[derive(Clone, Debug)]
pub struct HeartbeatLayer {
    beat: Arc<HeartbeatSettings>,
}

/// The settings that all streams of a layer share.
#[derive(Clone, Debug)]
struct HeartbeatSettings {
    interval: Duration,
    style: Option<HeartbeatStyle>,
    /// `None`: the family decides.
    immediate: Option<bool>,
    /// The first of the common times.
    since: Instant,
}

impl Default for HeartbeatLayer {
    fn default() -> Self {
        Self::new(DEFAULT_INTERVAL)
    }
}

impl HeartbeatLayer {
    /// Sends a heartbeat after `interval` without output, in the style [`auto`](HeartbeatStyle::auto)
    /// with the text `heartbeat` by default. A heartbeat is never later, and up to 1/128 of the interval earlier:
    /// streams of a layer send at common times, which costs a process with thousands of quiet streams a quarter less.
    ///
    /// # Panics
    ///
    /// If `interval` is zero.
    pub fn new(interval: Duration) -> Self {
        assert!(
            !interval.is_zero(),
            "a heartbeat needs an interval above zero"
        );
        Self {
            beat: Arc::new(HeartbeatSettings {
                interval,
                style: HeartbeatStyle::auto("heartbeat").ok(),
                immediate: None,
                since: Instant::now(),
            }),
        }
    }

    fn with(mut self, change: impl FnOnce(&mut HeartbeatSettings)) -> Self {
        change(Arc::make_mut(&mut self.beat));
        self
    }

    /// Sets the style of heartbeats.
    #[must_use]
    pub fn style(self, style: HeartbeatStyle) -> Self {
        self.with(|beat| beat.style = Some(style))
    }

    /// Sets whether to send the first heartbeat immediately when the upstream sends no event with its head:
    /// buffering proxies and HTTP/2 hops hold the head back until the first byte of the body. `None`, the
    /// default, sends it over HTTP/2, and for the families [`EventSource`](crate::family::Family::EventSource) and
    /// [`Mcp`](crate::family::Family::Mcp), whose streams may be quiet from the start, and whose clients wait for the head.
    #[must_use]
    pub fn immediate(self, immediate: impl Into<Option<bool>>) -> Self {
        let immediate = immediate.into();
        self.with(|beat| beat.immediate = immediate)
    }
}

/// The service that [`HeartbeatLayer`] makes.
pub type Heartbeat<S> = Guard<S, HeartbeatLayer>;

impl<S> Layer<S> for HeartbeatLayer {
    type Service = Heartbeat<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Guard::new(inner, self.clone())
    }
}

impl StreamLayer for HeartbeatLayer {
    type Admitted = ();
    type Policy = HeartbeatPolicy;
    const OBSERVES: bool = true;
    const INJECTS: bool = true;

    fn admit<B>(&self, _: &Request<B>, _: &RequestInfo) -> Result<(), Rejection> {
        Ok(())
    }

    fn open(&self, (): (), head: &ResponseInfo<'_>) -> Result<Option<HeartbeatPolicy>, Rejection> {
        let policy = |stream: &Stream| {
            let mut policy = HeartbeatPolicy {
                beat: self.beat.clone(),
                due: Some(stream.opened()),
            };
            let request = &head.request_info;
            let by_request = || request.is_multiplexed || request.family.is_feed();
            if !self.beat.immediate.unwrap_or_else(by_request) {
                policy.sent(stream.opened());
            }
            policy
        };
        Ok(head.readable().map(policy))
    }
}

/// The heartbeats of one stream.
#[doc(hidden)]
#[derive(Debug)]
pub struct HeartbeatPolicy {
    beat: Arc<HeartbeatSettings>,
    /// `None`: the time is out of range, and no heartbeat is sent.
    due: Option<Instant>,
}

impl HeartbeatPolicy {
    /// Sets the time of the next heartbeat.
    fn sent(&mut self, now: Instant) {
        let HeartbeatSettings {
            interval, since, ..
        } = *self.beat;
        self.due = now.checked_add(interval).map(|latest| {
            let step = nanos(interval / SEND_TIMES_PER_INTERVAL).max(1);
            let past = nanos(latest.saturating_duration_since(since));
            latest - Duration::from_nanos(past % step)
        });
    }
}

impl Policy for HeartbeatPolicy {
    #[inline]
    fn interests(&self) -> Interests {
        Interests::default()
    }

    fn deadline(&self, context: &PolicyContext<'_>) -> Option<Instant> {
        self.due.filter(|_| context.at_boundary())
    }

    fn check(&mut self, context: &PolicyContext<'_>) -> Reaction {
        if self
            .deadline(context)
            .is_none_or(|deadline| context.now < deadline)
        {
            return Reaction::Pass;
        }
        let Some(style) = &self.beat.style else {
            return Reaction::Pass;
        };
        context.stream.add_heartbeat();
        metrics::counter!("sse_guard_heartbeats_total").increment(1);
        let own = style
            .is_by_family
            .then(|| context.stream.family().heartbeat_event());
        let event = own.flatten().unwrap_or(&style.event);
        Reaction::Inject(event.in_line_end(context.line_end()))
    }

    #[inline]
    fn on(&mut self, context: &PolicyContext<'_>, notice: Notice<'_>) -> Reaction {
        if let Notice::Sent = notice {
            self.sent(context.now);
        }
        Reaction::Pass
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

pub(crate) fn describe_metrics() {
    metrics::describe_counter!(
        "sse_guard_heartbeats_total",
        metrics::Unit::Count,
        "Heartbeats sent"
    );
}
