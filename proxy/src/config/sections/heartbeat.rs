//! `[heartbeat]`.

use super::super::key::{Key, Table};
use super::super::kind::Shape;

pub(super) const TABLE: Table = Table {
    name: "heartbeat",
    about: "Heartbeats, which keep quiet streams open.",
    reference: "What is sent into a quiet stream; see [which timeouts it must stay \
                below](timeouts.md).",
    keys: &[
        Key::route("heartbeat.interval", Shape::Duration)
            .or_off()
            .default("15s")
            .help(
                "Send a heartbeat after this long without output; keep it below every idle timeout \
                 on the path",
            )
            .advice(
                "The shortest of them counts: Heroku 55s; ALB, nginx and Traefik 60s; Cloudflare \
                 100s. Half of it is a good choice.",
            ),
        Key::route(
            "heartbeat.style",
            Shape::Choice(&["auto", "line", "block", "event"]),
        )
        .default("auto")
        .help(
            "auto: a comment line (every client ignores it), or the family's own ping; line, block \
             (comment and blank line), or event (a named event)",
        )
        .advice(
            "Use event if client code monitors the connection: comments are invisible to \
             EventSource.",
        ),
        Key::route("heartbeat.text", Shape::Text)
            .default("heartbeat")
            .help("Text of the comment of the styles line and block"),
        Key::route("heartbeat.event", Shape::Filled)
            .default("ping")
            .help("Event name of the style event"),
        Key::route("heartbeat.data", Shape::Filled)
            .default("{}")
            .help(
                "Data of the style event; {now} in it becomes the Unix time in seconds; clients \
                 drop an event without data",
            )
            .advice(
                "With {now}, clients can show when the last heartbeat was sent. Example: \
                 '{\"now\":{now}}'.",
            ),
        Key::route("heartbeat.immediate", Shape::BoolOrAuto)
            .default("auto")
            .help(
                "Send the first heartbeat right after the response head, because some proxies hold \
                 the head back until data follows; auto: for families eventsource and mcp",
            )
            .advice("true or false applies to every family."),
    ],
};
