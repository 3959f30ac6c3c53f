//! Client families, whose clients tolerate different things.
//!
//! | family | who reads it | at an end it | an error in the middle |
//! | --- | --- | --- | --- |
//! | [`EventSource`](Family::EventSource) | a browser's `EventSource` and its kin, by a GET for an event stream | comes back, after `retry:` | an event `error` |
//! | [`OpenAi`](Family::OpenAi) | the OpenAI SDKs and what speaks like their API | takes it for the whole | data with `error` in it |
//! | [`Anthropic`](Family::Anthropic) | the Anthropic SDKs | takes it for the whole | an event `error` of their shape |
//! | [`Mcp`](Family::Mcp) | clients of the Model Context Protocol | gives the call up | a broken transfer |
//! | [`Raw`](Family::Raw) | anybody else | may take it for the whole | a broken transfer |
//!
//! An error of MCP would be an answer to the id in the request's body, which nobody here reads; its
//! clients make an error of a broken transfer themselves.
//!
//! # How it is told
//!
//! Three have a say. In this order:
//!
//! 1. **The operator or the application.** A [`Family`] in the request's extensions counts, whatever the
//!    client and the upstream say; the proxy puts it there where a route has a `family`. Layers that take
//!    methods, such as [`RotationLayer::methods`](crate::rotation::RotationLayer::methods), go by those
//!    alone.
//! 2. **The upstream**, by the first event with data, where the request has not told more than that its
//!    client reads an event stream: `chat.completion.chunk`, `response.created`, `thread.run.created` and
//!    the like are OpenAI's and of the many APIs like it, `message_start` is Anthropic's, JSON-RPC is
//!    MCP's. Of a GET for an event stream one thing alone makes something else: a first event `endpoint`
//!    with a URI is the older SSE transport of MCP, whose clients never come back.
//! 3. **The client**, by its request's head and by no path: `anthropic-version`; `mcp-protocol-version`,
//!    `mcp-session-id`, or a POST that accepts both JSON and an event stream; a `User-Agent` of an OpenAI
//!    SDK (`OpenAI/Python`, `AsyncOpenAI/Python`, `OpenAI/JS` and so on), `openai-organization`,
//!    `openai-project` or `openai-beta`; any other GET whose `Accept` names `text/event-stream` is an
//!    [`EventSource`](Family::EventSource)'s. `x-stainless-` headers tell nothing: SDKs of many APIs send
//!    them. What is left is [`Raw`](Family::Raw), such as a GET of curl or fetch for `*/*`: a proper end
//!    half-way would pass for the whole of what it fetches.
//!
//! What a client claims can keep its own stream from being rotated, as it keeps the stream whole. It is
//! no way around an age that the operator wants kept: set the methods, or the family.

mod first_event;

pub(crate) use first_event::is_keepalive;

use crate::head;
use crate::wire::{Encoded, LineEnd};
use bytes::Bytes;
use http::header::USER_AGENT;
use http::{HeaderMap, Method, Request, StatusCode};
use memchr::memmem;
use serde_json::{Value, json};
use std::time::Duration;

/// The kind of a stream's client and API. See the [module docs](self).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Family {
    /// A feed, read by GET.
    EventSource,
    /// An answer of OpenAI's API, or of one like it.
    OpenAi,
    /// An answer of Anthropic's API.
    Anthropic,
    /// Messages of the Model Context Protocol.
    Mcp,
    /// Nothing is known of it.
    Raw,
}

impl Family {
    /// All values.
    pub const ALL: &[Self] = &[
        Self::EventSource,
        Self::OpenAi,
        Self::Anthropic,
        Self::Mcp,
        Self::Raw,
    ];

    /// Returns its name in the config and in the label `family`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::EventSource => "eventsource",
            Self::OpenAi => "openai",
            Self::Anthropic => "anthropic",
            Self::Mcp => "mcp",
            Self::Raw => "raw",
        }
    }

    /// Returns the family of a request: the one in its extensions, else the one that its head
    /// indicates.
    pub fn of<B>(request: &Request<B>) -> Self {
        if let Some(family) = request.extensions().get::<Self>() {
            return *family;
        }
        let headers = request.headers();
        let has = |name: &str| headers.contains_key(name);
        if has("anthropic-version") {
            Self::Anthropic
        } else if has("mcp-protocol-version") || has("mcp-session-id") {
            Self::Mcp
        } else if is_openai(headers) {
            Self::OpenAi
        } else if !head::accepts_event_stream(headers) {
            Self::Raw
        } else if request.method() == Method::GET {
            Self::EventSource
        } else if head::accepts_json(headers) {
            Self::Mcp
        } else {
            Self::Raw
        }
    }

    /// Returns true if its clients reconnect when a stream has ended, and honour `retry:`. To those of
    /// the others an end is a complete answer, and what is not theirs in a stream a danger.
    pub fn comes_back(self) -> bool {
        self == Self::EventSource
    }

    /// Returns true if a broken stream may be requested again with `Last-Event-ID` and continued. Never
    /// MCP's: since 2026-07-28 it has no such thing.
    pub fn may_resume(self) -> bool {
        self == Self::EventSource
    }

    /// The longest `Retry-After` that its clients heed, if there is one: the SDKs of OpenAI and Anthropic, and
    /// those generated alike, ignore more than 60 s, and come back after half a second in its place.
    pub(crate) fn longest_retry_after(self) -> Option<Duration> {
        matches!(self, Self::OpenAi | Self::Anthropic).then_some(Duration::from_secs(60))
    }

    /// The event that reports to clients of this family that their stream has failed, in lines that end
    /// in LF; nothing if only a broken transfer does. `status` is that of the upstream, or what a proxy
    /// would have sent.
    pub fn error_event(self, status: StatusCode, message: &str) -> Option<Bytes> {
        self.error_in(status, message, LineEnd::Lf)
    }

    /// The same in the stream's own line end.
    pub(crate) fn error_in(
        self,
        status: StatusCode,
        message: &str,
        line_end: LineEnd,
    ) -> Option<Bytes> {
        let code = status.as_u16();
        let (name, data): (Option<&str>, Value) = match self {
            Self::EventSource => {
                let error = json!({ "type": "upstream_error", "status": code, "message": message });
                (Some("error"), json!({ "type": "error", "error": error }))
            }
            Self::OpenAi => {
                let error = json!({
                    "message": message,
                    "type": "upstream_error",
                    "param": null,
                    "code": code,
                });
                (None, json!({ "error": error }))
            }
            Self::Anthropic => {
                let error = json!({ "type": anthropic_kind(status), "message": message });
                (Some("error"), json!({ "type": "error", "error": error }))
            }
            Self::Mcp | Self::Raw => return None,
        };
        // JSON has no line ends of its own.
        let words = Encoded::message(name, &data.to_string(), None).ok()?;
        Some(words.in_line_end(line_end))
    }
}

/// By what OpenAI's own SDKs send and no other's: many APIs take their bearer tokens and
/// `x-stainless-` headers.
fn is_openai(headers: &HeaderMap) -> bool {
    let own = ["openai-organization", "openai-project", "openai-beta"];
    own.iter().any(|name| headers.contains_key(*name))
        || headers
            .get(USER_AGENT)
            .is_some_and(|agent| memmem::find(agent.as_bytes(), b"OpenAI/").is_some())
}

/// <https://docs.anthropic.com/en/api/errors>
fn anthropic_kind(status: StatusCode) -> &'static str {
    match status.as_u16() {
        400 => "invalid_request_error",
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        503 | 529 => "overloaded_error",
        504 => "timeout_error",
        _ => "api_error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(fields: &[(&str, &str)]) -> Request<()> {
        let post = Request::post("/v1");
        let request = fields
            .iter()
            .fold(post, |request, (name, value)| request.header(*name, *value));
        request.body(()).unwrap()
    }

    #[test]
    fn the_requests_signs_tell() {
        let both = "application/json, text/event-stream";
        for (name, value, expected) in [
            ("anthropic-version", "2023-06-01", Family::Anthropic),
            ("mcp-protocol-version", "2025-06-18", Family::Mcp),
            ("mcp-session-id", "1", Family::Mcp),
            ("accept", both, Family::Mcp),
            ("accept", "text/event-stream", Family::Raw),
            ("accept", "application/json", Family::Raw),
            ("openai-project", "p", Family::OpenAi),
            ("user-agent", "AsyncOpenAI/Python 3.54.0", Family::OpenAi),
            ("user-agent", "OpenAI/JS 6.49.0", Family::OpenAi),
            ("user-agent", "Groq/Python 1.0", Family::Raw),
            ("x-stainless-lang", "python", Family::Raw),
        ] {
            let found = Family::of(&request(&[(name, value)]));
            assert_eq!(found, expected, "{name}: {value}");
        }
    }

    #[test]
    fn a_get_for_an_event_stream_is_an_event_sources_unless_it_says_otherwise() {
        for (name, value, expected) in [
            ("accept", "text/event-stream", Family::EventSource),
            (
                "accept",
                "text/html, text/event-stream;q=0.5",
                Family::EventSource,
            ),
            ("accept", "*/*", Family::Raw),
            ("accept", "application/json", Family::Raw),
            ("x-none", "1", Family::Raw),
            ("mcp-session-id", "1", Family::Mcp),
            ("anthropic-version", "2023-06-01", Family::Anthropic),
        ] {
            let get = Request::get("/feed").header(name, value).body(()).unwrap();
            assert_eq!(Family::of(&get), expected, "{name}: {value}");
        }
    }

    #[test]
    fn what_the_extensions_say_counts_for_more() {
        let mut known = request(&[("anthropic-version", "2023-06-01")]);
        known.extensions_mut().insert(Family::OpenAi);
        assert_eq!(Family::of(&known), Family::OpenAi);
    }

    #[test]
    fn an_error_is_one_event_whatever_the_message_says() {
        let message = "a \"b\"\r\n\ndata: c\u{2028}";
        for family in [Family::EventSource, Family::OpenAi, Family::Anthropic] {
            let event = family
                .error_event(StatusCode::BAD_GATEWAY, message)
                .unwrap();
            let event = std::str::from_utf8(&event).unwrap();
            let (_, data) = event.split_once("data: ").unwrap();
            let json: Value = serde_json::from_str(data.strip_suffix("\n\n").unwrap()).unwrap();
            assert_eq!(json["error"]["message"], message, "{family:?}");
        }
        for family in [Family::Mcp, Family::Raw] {
            assert_eq!(family.error_event(StatusCode::BAD_GATEWAY, message), None);
        }
    }
}
