//! The paths of the origin, each with a fault that `sse-guard` hardens against.

use serde::Serialize;

/// A path of the origin, and what a client sees of it.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Endpoint {
    pub(crate) path: &'static str,
    pub(crate) method: &'static str,
    pub(crate) about: &'static str,
    /// Behind a load balancer with an idle timeout.
    pub(crate) without: &'static str,
    /// With `sse-guard` between them.
    pub(crate) with: &'static str,
}

const fn get(
    path: &'static str,
    about: &'static str,
    without: &'static str,
    with: &'static str,
) -> Endpoint {
    Endpoint {
        path,
        method: "GET",
        about,
        without,
        with,
    }
}

/// What the origin serves, the page first.
pub(crate) const ENDPOINTS: &[Endpoint] = &[
    get(
        "/",
        "a page that shows each stream without and with sse-guard",
        "",
        "",
    ),
    get(
        "/quiet",
        "an event, then 65 s of silence, and again",
        "The load balancer closes the idle connection; the client reconnects and never gets the second event.",
        "Heartbeats keep the connection open, and the second event arrives after 65 s.",
    ),
    get(
        "/feed",
        "an event every 200 ms, with ids that start again on each connection",
        "Works: data is always flowing.",
        "The same events.",
    ),
    get(
        "/named",
        "events named price and trade, and unnamed ones",
        "Works: data is always flowing.",
        "The same events, with the same names.",
    ),
    get(
        "/dies",
        "three events and a half, then the connection breaks",
        "The client gets half an event and an error, and reconnects.",
        "The half event is dropped, and the error stays an error; the client reconnects.",
    ),
    get(
        "/hangs",
        "two events, then nothing: a hung upstream",
        "The load balancer closes each connection after 10 s; the hung upstream goes unnoticed.",
        "After idle.event_timeout (70 s) the stream ends with a retry: line; the dashboard shows upstream_idle.",
    ),
    get(
        "/pings",
        "two events, then only comments every 2 s: a hung upstream that looks alive",
        "The connection stays open without events.",
        "Comments do not count as events: after 70 s the stream ends with a retry: line.",
    ),
    get(
        "/resume",
        "an event each second, continued after the request's Last-Event-ID",
        "Works: data is always flowing.",
        "The same events; after rotation.max_age (3 min) the client reconnects and continues with the next id.",
    ),
    Endpoint {
        path: "/v1/chat/completions",
        method: "POST",
        about: "an answer of a model: 12 s without data, then a token every 50 ms",
        without: "The load balancer closes the connection before the first token; the answer is lost.",
        with: "Heartbeats keep the connection open until the first token.",
    },
    get(
        "/slow-head",
        "20 s until the response head, then a feed",
        "The load balancer closes the connection before the response begins.",
        "sse-guard responds after 3 s (early.enabled) and sends heartbeats until the upstream does.",
    ),
    get(
        "/untyped",
        "a stream with the Content-Type text/event-streams, silent after its first event",
        "The load balancer closes the idle connection.",
        "Not handled as an event stream, so no heartbeats; the dashboard lists it as not protected.",
    ),
    get(
        "/plain",
        "a JSON response, no event stream",
        "A response of 15 bytes.",
        "The same bytes: other responses pass through unchanged.",
    ),
    get(
        "/crlf",
        "a feed with CRLF line ends, its bytes cut between CR and LF and inside a character",
        "Works in a client whose parser is correct.",
        "The same events, each sent whole.",
    ),
];

pub(super) fn listing() -> String {
    ENDPOINTS.iter().fold(
        "404: no such path. Paths of the demo:\n\n".to_owned(),
        |text, endpoint| {
            let Endpoint {
                path,
                method,
                about,
                ..
            } = endpoint;
            text + &format!("{method:<4} {path:<22} {about}\n")
        },
    )
}
