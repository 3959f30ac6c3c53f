//! Client families, whose clients tolerate different things.
//!
//! | family | client | at an end it | an error in the middle |
//! | --- | --- | --- | --- |
//! | [`EventSource`](Family::EventSource) | a browser's `EventSource` and its kin, by a GET for an event stream | reconnects after `retry:` | an event `error` |
//! | [`OpenAi`](Family::OpenAi) | the OpenAI SDKs and clients of APIs like theirs | takes the answer for complete | data with `error` in it |
//! | [`Anthropic`](Family::Anthropic) | the Anthropic SDKs | takes the answer for complete | an event `error` of their shape |
//! | [`Mcp`](Family::Mcp) | clients of the Model Context Protocol | fails the call | a broken transfer |
//! | [`Raw`](Family::Raw) | all others | may take the response for complete | a broken transfer |
//!
//! An error of MCP would need the id in the request's body, which is not read; its clients turn a broken transfer into
//! an error themselves.
//!
//! # Detection
//!
//! In this order:
//!
//! 1. **The operator or the application.** A [`Family`] in the request's extensions counts, whatever the client and the
//!    upstream send; the proxy inserts the `family` of a route there. Layers that take methods, such as
//!    [`RotationLayer::methods`](crate::rotation::RotationLayer::methods), depend on those alone.
//! 2. **The upstream**, by the first event with data, if the request shows only that its client accepts an event
//!    stream: `chat.completion.chunk`, `response.created`, `thread.run.created` and similar are those of OpenAI and of
//!    the many APIs like it, `message_start` is Anthropic's, JSON-RPC is MCP's. A GET for an event stream changes its
//!    family in one case only: a first event `endpoint` with a URI is the older SSE transport of MCP, whose clients do
//!    not reconnect.
//! 3. **The client**, by its request's head, but not by the path: `anthropic-version`; `mcp-protocol-version`,
//!    `mcp-session-id`, or a POST that accepts both JSON and an event stream; a `User-Agent` of an OpenAI SDK
//!    (`OpenAI/Python`, `AsyncOpenAI/Python`, `OpenAI/JS` and so on), `openai-organization`, `openai-project` or
//!    `openai-beta`; any other GET whose `Accept` names `text/event-stream` is an
//!    [`EventSource`](Family::EventSource)'s. `x-stainless-` headers do not count: SDKs of many APIs send them. All
//!    others are [`Raw`](Family::Raw), such as a GET of curl or fetch for `*/*`: a proper end in the middle would pass
//!    for a complete response.
//!
//! A client that forges these signs can prevent the rotation of its own stream, as its stream is then taken for an
//! answer that must stay whole. To enforce an age, set the methods or the family.

mod detect;
mod profile;

pub(crate) use detect::is_keepalive;
pub(crate) use profile::AnswerFormat;
pub use profile::Family;

use crate::wire::{Encoded, LineEnd, Timestamped};
use bytes::Bytes;
use http::{Request, StatusCode};
use profile::{PROFILES, Profile};
use std::sync::LazyLock;
use std::time::Duration;

impl Family {
    /// Returns its name in the config and in the label `family`.
    pub fn as_str(self) -> &'static str {
        self.profile().name
    }

    /// Returns the family of a request: the one in its extensions, else the one that its head
    /// indicates.
    pub fn of<B>(request: &Request<B>) -> Self {
        if let Some(family) = request.extensions().get::<Self>() {
            return *family;
        }
        let row = detect::of_request(PROFILES, request.method(), request.headers());
        row.map_or(Self::Raw, |row| Self::ALL[row])
    }

    /// Returns true if its clients reconnect when a stream has ended, and honour `retry:`. Clients of
    /// other families take an end for a complete answer, and may fail at events that are not theirs.
    pub fn client_reconnects(self) -> bool {
        self.profile().client_reconnects
    }

    /// Returns true if a broken stream may be requested again with `Last-Event-ID` and continued. Never
    /// for MCP, which has no such mechanism since 2026-07-28.
    pub fn may_resume(self) -> bool {
        self.profile().may_resume
    }

    /// Returns true if its streams are answers of a model API, which end with a final event.
    pub fn is_model_api(self) -> bool {
        self.answer_format().is_some()
    }

    /// Returns true if its streams may be quiet from the start on, and its clients wait for the head.
    pub(crate) fn is_feed(self) -> bool {
        self.profile().is_feed
    }

    pub(crate) fn answer_format(self) -> Option<AnswerFormat> {
        self.profile().answer_format
    }

    /// The longest `Retry-After` that its clients honour, if they have a limit.
    pub(crate) fn max_retry_after(self) -> Option<Duration> {
        self.profile().max_retry_after
    }

    /// The heartbeat in the family's own form, if there is one.
    pub(crate) fn heartbeat_event(self) -> Option<&'static Timestamped> {
        static EVENTS: LazyLock<Vec<Option<Timestamped>>> = LazyLock::new(|| {
            let event = |row: &Profile| {
                let (name, data) = row.heartbeat_event?;
                Encoded::event(Some(name), data).ok().map(Into::into)
            };
            PROFILES.iter().map(event).collect()
        });
        EVENTS[self as usize].as_ref()
    }

    /// The event that reports to clients of this family that their stream has failed, in lines that end
    /// in LF; nothing if only a broken transfer does. `status` is that of the upstream, or what a proxy
    /// would have sent.
    pub fn error_event(self, status: StatusCode, message: &str) -> Option<Bytes> {
        self.error_in(status, message, LineEnd::Lf)
    }

    /// The [error event](Self::error_event) in the stream's own line end.
    pub(crate) fn error_in(
        self,
        status: StatusCode,
        message: &str,
        line_end: LineEnd,
    ) -> Option<Bytes> {
        self.profile().error_event(status, message, line_end)
    }
}

impl Profile {
    fn error_event(&self, status: StatusCode, message: &str, line_end: LineEnd) -> Option<Bytes> {
        let (name, data) = self.error_event?(status, message);
        // JSON has no line ends of its own.
        let event = Encoded::event(name, &data.to_string()).ok()?;
        Some(event.in_line_end(line_end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn request(fields: &[(&str, &str)]) -> Request<()> {
        let post = Request::post("/v1");
        let request = fields
            .iter()
            .fold(post, |request, (name, value)| request.header(*name, *value));
        request.body(()).unwrap()
    }

    #[test]
    fn family_is_detected_by_the_signs_of_a_request() {
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
    fn error_is_one_event_whatever_its_message() {
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
