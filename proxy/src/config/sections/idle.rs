//! `[idle]`: streams whose upstream is silent.

use std::time::Duration;

use super::super::given::Scope;
use super::super::key::{Key, Table};
use super::super::kind::Shape;
use super::super::mistake::Mistake;
use super::super::value::{Choice, FromValue, Value, choice};
use sse_guard::idle_timeout::{self, EventTimeout, IdleTimeoutLayer};
use sse_guard::{Event, EventError};

pub(super) const TABLE: Table = Table {
    name: "idle",
    about: "Streams whose upstream is silent.",
    reference: "When a stream with a silent upstream ends, and how.",
    keys: &[
        Key::route("idle.timeout", Shape::Duration)
            .or_off()
            .default("10m")
            .help("End a stream after this long without a byte from its upstream")
            .advice("A quiet stream is not dead: keep it above the longest silence of a \
                     healthy upstream, its comments included."),
        Key::route("idle.event_timeout", Shape::DurationOrAuto)
            .or_off()
            .default("auto")
            .help("End a stream after this long without an event with data from its \
                   upstream, regardless of comments and pings; auto: 5m from the first event \
                   on for families openai and anthropic")
            .advice("For an upstream that hangs but continues to send keepalives, and \
                     because heartbeats prevent a client's own timeout from firing."),
        Key::route("idle.ignore_events", Shape::Words)
            .default("")
            .formerly("idle.pings")
            .help("Event names that neither reset idle.event_timeout nor count as the first \
                   event, in addition to the APIs' own pings and keepalives")
            .advice("For an upstream whose keepalives are events. Example: [\"ping\"]."),
        Key::route("idle.action", Shape::Choice(IdleAction::WORDS))
            .default("auto")
            .help("How an idle stream ends: close, error-event, or abort; auto: close for \
                   family eventsource, else abort, because other clients take a clean end for \
                   a complete response")
            .advice("abort sends clients of openai and anthropic the reason first, in the \
                     error format of their API."),
        Key::route("idle.error_event", Shape::Filled)
            .default("error")
            .help("Name of the last event of action error-event"),
        Key::route("idle.error_data", Shape::Filled)
            .default(r#"{"type":"error","error":{"type":"upstream_idle","message":"the upstream went silent"}}"#)
            .help("Data of the last event of action error-event"),
    ],
};

/// Timeouts of silent upstreams, and how their streams end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idle {
    /// Time limit without a byte; above zero; none if `None`.
    pub timeout: Option<Duration>,
    /// Time limit without an event with data; above zero.
    pub event_timeout: EventTimeout,
    /// How the stream ends.
    pub action: IdleAction,
    /// The name of the last event of [`IdleAction::ErrorEvent`]; one line, not empty.
    pub error_event: String,
    /// The data of that event; one line, not empty.
    pub error_data: String,
    /// Names of events that `event_timeout` does not count.
    pub ignore_events: Vec<String>,
}

/// How a stream with a silent upstream ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdleAction {
    /// `Close` where clients come back, else `Abort`.
    Auto,
    /// As a complete response.
    Close,
    /// With a last event that names the reason, then as a complete response.
    ErrorEvent,
    /// As a broken transfer.
    Abort,
}

choice! { IdleAction {
    "auto" => Auto,
    "close" => Close,
    "error-event" => ErrorEvent,
    "abort" => Abort,
} }

impl Idle {
    pub(in super::super) fn read(scope: Scope<'_>) -> Result<Self, Mistake> {
        Ok(Self {
            timeout: scope.get("idle.timeout")?,
            event_timeout: scope.get("idle.event_timeout")?,
            action: scope.get("idle.action")?,
            error_event: scope.get("idle.error_event")?,
            error_data: scope.get("idle.error_data")?,
            ignore_events: scope.get("idle.ignore_events")?,
        })
    }

    /// The layer; its last event sends `retry`.
    pub(crate) fn layer(&self, retry: Duration) -> Result<IdleTimeoutLayer, EventError> {
        Ok(IdleTimeoutLayer::new()
            .timeout(self.timeout)
            .event_timeout(self.event_timeout)
            .ignore_events(self.ignore_events.iter().cloned())
            .retry(retry)
            .action(match self.action {
                IdleAction::Auto => idle_timeout::IdleAction::Auto,
                IdleAction::Close => idle_timeout::IdleAction::Close,
                IdleAction::Abort => idle_timeout::IdleAction::Abort,
                IdleAction::ErrorEvent => {
                    let event = Event::new(&*self.error_event, &self.error_data)?;
                    idle_timeout::IdleAction::ErrorEvent(event)
                }
            }))
    }
}

impl FromValue for EventTimeout {
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Auto => Some(Self::Auto),
            value => Option::<Duration>::from_value(value).map(Self::from),
        }
    }
}
