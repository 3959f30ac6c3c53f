//! `[upstream]`.

use super::super::key::{Key, Table};
use super::super::kind::{GIB, KIB, Shape};

pub(super) const TABLE: Table = Table {
    name: "upstream",
    about: "The server that requests are forwarded to.",
    reference: "The server that requests are forwarded to.",
    keys: &[
        Key::route("upstream.url", Shape::Url)
            .example("\"http://127.0.0.1:3000\"")
            .help("Server to forward to, such as http://127.0.0.1:3000")
            .advice("Required, here or in each route."),
        Key::route("upstream.connect_timeout", Shape::Duration)
            .default("5s")
            .help("Time limit for connecting to the upstream"),
        Key::route("upstream.idle_timeout", Shape::Duration)
            .default("60s")
            .help(
                "Close an idle upstream connection after this long, or 1s before the timeout of \
                 the upstream's Keep-Alive field",
            )
            .advice("Keep it below the upstream's own timeout where it sends no such field."),
        Key::route("upstream.head_timeout", Shape::Duration)
            .default("2m")
            .help("Time limit for the upstream's response head; allow for models that think")
            .advice("Raise it for models that take longer before their first byte."),
        Key::route("upstream.max_pending", Shape::Count)
            .or_off()
            .default("10000")
            .formerly("upstream.max_waiting")
            .help(
                "Maximum requests that wait for a response head of the upstream; further requests \
                 get a 503",
            )
            .advice("Protects from an upstream that accepts connections and never responds."),
        Key::route("upstream.max_body", Shape::Size(1, 1024 * GIB))
            .or_off()
            .default("off")
            .help("Maximum size of a request's body; a longer one gets a 413")
            .advice("Set it if the upstream itself has no limit."),
        Key::route("upstream.keepalive", Shape::Duration)
            .or_off()
            .default("60s")
            .help(
                "TCP keepalive: probe an upstream that has been idle for this long; \
                 upstream.user_timeout bounds the wait",
            ),
        Key::route("upstream.user_timeout", Shape::Duration)
            .or_off()
            .default("60s")
            .help(
                "Drop an upstream connection that acknowledges nothing for this long \
                 (TCP_USER_TIMEOUT)",
            ),
        Key::route("upstream.max_head", Shape::Size(8 * KIB, GIB))
            .default("408KiB")
            .help(
                "Maximum size of a response's head; a longer one is a 502. The number of its \
                 fields is not limited",
            ),
        Key::route("upstream.title_case_headers", Shape::Bool)
            .default("false")
            .help(
                "Send header names as Content-Type instead of content-type, for old servers that \
                 compare them byte by byte",
            ),
        Key::route("upstream.receive_buffer", Shape::Size(4 * KIB, GIB))
            .or_off()
            .default("off")
            .help(
                "Kernel receive buffer (SO_RCVBUF), which fills when a client does not read; off: \
                 the kernel's choice",
            )
            .advice(
                "28KiB halves the kernel memory of a client that never reads, and costs 10 to 33 % \
                 more CPU at full speed.",
            ),
        Key::route(
            "upstream.cache_control",
            Shape::Choice(&["replace", "keep"]),
        )
        .default("replace")
        .help(
            "Cache-Control of event streams; replace: no-cache, no-transform, unless the upstream \
             sends no-store; keep: that of the upstream if it sends one, with no-transform added",
        )
        .advice(
            "keep also leaves the upstream's X-Accel-Buffering. A cache that stores a stream \
             stores its heartbeats, too.",
        ),
        Key::route(
            "upstream.unavailable",
            Shape::Choice(&["wait", "retry-later", "status"]),
        )
        .default("retry-later")
        .help(
            "Response to an EventSource in place of a 5xx; retry-later: an empty stream, and the \
             client reconnects; wait: a stream that stays open (requires resume.mode); status: the \
             5xx, and the client gives up",
        )
        .advice(
            "Also applies to the 502, 503 and 504 of sse-guard itself; other requests get the \
             status.",
        ),
    ],
};
