//! `[idle]`.

use super::super::key::{Key, Table};
use super::super::kind::Shape;

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
        Key::route("idle.action", Shape::Choice(&["auto", "close", "error-event", "abort"]))
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
