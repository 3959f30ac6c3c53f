//! The families, one row each: everything that depends on the family of a stream.

use super::detect::Sign;
use crate::head;
use crate::wire::RawEvent;
use http::header::USER_AGENT;
use http::{HeaderMap, HeaderName, Method, StatusCode};
use memchr::memmem;
use serde_json::{Value, json};
use std::time::Duration;

/// What a family's clients tolerate, and how a stream of it is detected.
#[derive(Clone, Copy)]
pub(crate) struct Profile {
    /// In the config and in labels.
    pub(super) name: &'static str,
    /// Its clients reconnect after a proper end, and honour `retry:`.
    pub(super) client_reconnects: bool,
    /// A broken stream may be requested again with `Last-Event-ID` and continued.
    pub(super) may_resume: bool,
    /// Its streams may be quiet from the start, and its clients wait for the head: a first heartbeat at once.
    /// Its clients accept an empty stream with `retry:` in place of a 503.
    pub(super) is_feed: bool,
    /// Its streams are answers of a model API, which are complete only with a final event.
    pub(super) answer_format: Option<AnswerFormat>,
    /// Its clients ignore a longer `Retry-After`.
    pub(super) max_retry_after: Option<Duration>,
    /// Name and data of a heartbeat in the family's own form.
    pub(super) heartbeat_event: Option<(&'static str, &'static str)>,
    /// Name of the event that the upstream sends to keep a stream alive.
    pub(super) keepalive_event: Option<&'static [u8]>,
    /// Name and data of an error event. Without it a broken transfer reports the error.
    pub(super) error_event: Option<ErrorEvent>,
    /// The headers of a request name the family.
    pub(super) names_itself: fn(&HeaderMap) -> bool,
    /// A request that accepts an event stream is probably of this family, if no other is named.
    pub(super) is_likely: fn(&Method, &HeaderMap) -> bool,
    /// What the first event with data shows. Gets the event and its beginning.
    pub(super) first_event: fn(&RawEvent<'_>, &[u8]) -> Sign,
    /// The weakest sign in the first event that moves a stream from this family to another.
    pub(super) is_changed_by: Option<Sign>,
}

/// From the status and a message to the name and data of an event.
type ErrorEvent = fn(StatusCode, &str) -> (Option<&'static str>, Value);

/// How the completion of an answer is detected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AnswerFormat {
    OpenAi,
    Anthropic,
}

// As names, which are parsed once: all of them are looked up in each request.
static OPENAI: [HeaderName; 3] = [
    HeaderName::from_static("openai-organization"),
    HeaderName::from_static("openai-project"),
    HeaderName::from_static("openai-beta"),
];
static ANTHROPIC: [HeaderName; 1] = [HeaderName::from_static("anthropic-version")];
static MCP: [HeaderName; 2] = [
    HeaderName::from_static("mcp-protocol-version"),
    HeaderName::from_static("mcp-session-id"),
];

/// A family without signs, whose clients are unknown.
const UNKNOWN: Profile = Profile {
    name: "raw",
    client_reconnects: false,
    may_resume: false,
    is_feed: false,
    answer_format: None,
    max_retry_after: None,
    heartbeat_event: None,
    keepalive_event: None,
    error_event: None,
    names_itself: |_| false,
    is_likely: |_, _| false,
    first_event: |_, _| Sign::None,
    is_changed_by: Some(Sign::Likely),
};

macro_rules! families {
    ($($(#[$doc:meta])* $family:ident: $profile:expr,)+) => {
        /// The kind of a stream's client and API. See the [module docs](crate::family).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Family {
            $($(#[$doc])* $family,)+
        }

        impl Family {
            /// All values.
            pub const ALL: &'static [Self] = &[$(Self::$family),+];
        }

        pub(super) static PROFILES: &[Profile] = &[$($profile),+];
    };
}

// The last row whose sign is found counts.
families! {
    /// A feed, read by GET.
    EventSource: Profile {
        name: "eventsource",
        client_reconnects: true,
        may_resume: true,
        is_feed: true,
        error_event: Some(|status, message| {
            let (kind, code) = ("upstream_error", status.as_u16());
            let error = json!({ "type": kind, "status": code, "message": message });
            (Some("error"), json!({ "type": "error", "error": error }))
        }),
        is_likely: |method, _| method == Method::GET,
        // The older SSE transport of MCP, whose clients do not reconnect, begins with a GET like this.
        is_changed_by: Some(Sign::Certain),
        ..UNKNOWN
    },
    /// An answer of OpenAI's API, or of one like it.
    OpenAi: Profile {
        name: "openai",
        answer_format: Some(AnswerFormat::OpenAi),
        // The SDKs ignore more, and retry after half a second.
        max_retry_after: Some(Duration::from_secs(60)),
        keepalive_event: Some(b"keepalive"),
        error_event: Some(|status, message| {
            let (kind, code) = ("upstream_error", status.as_u16());
            let error = json!({ "message": message, "type": kind, "param": null, "code": code });
            (None, json!({ "error": error }))
        }),
        names_itself: is_openai,
        first_event: |event, start| Sign::likely(is_openai_event(event, start)),
        is_changed_by: None,
        ..UNKNOWN
    },
    /// An answer of Anthropic's API.
    Anthropic: Profile {
        name: "anthropic",
        answer_format: Some(AnswerFormat::Anthropic),
        // The SDKs ignore more, and retry after half a second.
        max_retry_after: Some(Duration::from_secs(60)),
        heartbeat_event: Some(("ping", r#"{"type": "ping"}"#)),
        keepalive_event: Some(b"ping"),
        error_event: Some(|status, message| {
            let error = json!({ "type": anthropic_error_type(status), "message": message });
            (Some("error"), json!({ "type": "error", "error": error }))
        }),
        names_itself: names_anthropic,
        first_event: |event, start| {
            let is_named = event.name == Some(b"message_start");
            Sign::likely(is_named || contains(start, r#""message_start""#))
        },
        is_changed_by: None,
        ..UNKNOWN
    },
    /// Messages of the Model Context Protocol.
    Mcp: Profile {
        name: "mcp",
        is_feed: true,
        names_itself: |headers| {
            head::has_any(headers, &MCP) && !names_anthropic(headers)
        },
        is_likely: |method, headers| method != Method::GET && head::accepts_json(headers),
        first_event: |event, start| match is_endpoint(event) {
            true => Sign::Certain,
            false => Sign::likely(contains(start, r#""jsonrpc""#)),
        },
        ..UNKNOWN
    },
    /// An unknown one.
    Raw: UNKNOWN,
}

impl Family {
    pub(super) fn profile(self) -> &'static Profile {
        &PROFILES[self as usize]
    }
}

/// In a text within JSON a backslash would stand before the last quote.
fn contains(start: &[u8], word: &str) -> bool {
    memmem::find(start, word.as_bytes()).is_some()
}

/// Headers that only OpenAI's own SDKs send. Many APIs take their bearer tokens and `x-stainless-` headers.
fn is_openai(headers: &HeaderMap) -> bool {
    head::has_any(headers, &OPENAI)
        || headers
            .get(USER_AGENT)
            .is_some_and(|agent| memmem::find(agent.as_bytes(), b"OpenAI/").is_some())
}

fn is_openai_event(event: &RawEvent<'_>, start: &[u8]) -> bool {
    let name = event.name.unwrap_or_default();
    let has = |word| contains(start, word);
    let words = [
        r#""chat.completion.chunk""#,
        r#""chat.completion""#,
        r#""text_completion""#,
        r#""response.created""#,
        r#""response.queued""#,
        r#""response.in_progress""#,
    ];
    if name.starts_with(b"response.") || name.starts_with(b"thread.") || words.into_iter().any(has)
    {
        return true;
    }
    // Azure's first event has an empty `object`, and some servers have none at all.
    let more = [
        r#""prompt_filter_results""#,
        r#""prompt_annotations""#,
        r#""finish_reason""#,
        r#""delta""#,
    ];
    has(r#""choices""#) && more.into_iter().any(has)
}

fn names_anthropic(headers: &HeaderMap) -> bool {
    head::has_any(headers, &ANTHROPIC)
}

/// <https://docs.anthropic.com/en/api/errors>
fn anthropic_error_type(status: StatusCode) -> &'static str {
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

/// The event by which the older
/// [SSE transport of MCP](https://modelcontextprotocol.io/specification/2024-11-05/basic/transports) names
/// the URI for messages: a URI, alone.
fn is_endpoint(event: &RawEvent<'_>) -> bool {
    let is_uri = |data: &[u8]| match data {
        [] | [b'{' | b'[' | b'"', ..] => false,
        data => !data.iter().any(u8::is_ascii_whitespace),
    };
    event.name == Some(b"endpoint") && is_uri(event.data().trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::super::detect::{is_keepalive_of, of_first_event, of_request};
    use super::*;
    use crate::wire::Scanner;

    /// A sixth family, as one row.
    const SIXTH: Profile = Profile {
        name: "gemini",
        answer_format: Some(AnswerFormat::OpenAi),
        keepalive_event: Some(b"alive"),
        error_event: Some(|status, message| {
            let error = json!({ "code": status.as_u16(), "message": message });
            (None, json!({ "error": error }))
        }),
        names_itself: |headers| headers.contains_key("x-goog-api-key"),
        first_event: |_, start| Sign::likely(contains(start, r#""candidates""#)),
        is_changed_by: None,
        ..UNKNOWN
    };

    #[test]
    fn sixth_family_is_one_row() {
        let rows: Vec<Profile> = PROFILES.iter().copied().chain([SIXTH]).collect();
        let mut headers = HeaderMap::new();
        headers.insert("accept", "text/event-stream".parse().unwrap());
        let name = |headers: &HeaderMap| {
            let row = of_request(&rows, &Method::GET, headers);
            row.map(|row| rows[row].name)
        };
        assert_eq!(name(&headers), Some("eventsource"));
        headers.insert("x-goog-api-key", "1".parse().unwrap());
        assert_eq!(name(&headers), Some("gemini"));

        let mut found = Vec::new();
        let events = "data: {\"candidates\": []}\n\nevent: alive\ndata: 1\n\n";
        Scanner::default().scan(events.as_bytes(), |event| {
            let row = of_first_event(&rows, &event, Sign::Likely);
            let keeps_alive = is_keepalive_of(&SIXTH, &event);
            found.push((row.map(|row| rows[row].name), keeps_alive));
        });
        assert_eq!(found, [(Some("gemini"), false), (None, true)]);

        let event = SIXTH.error_event(StatusCode::BAD_GATEWAY, "lost", crate::wire::LineEnd::Lf);
        let expected = "data: {\"error\":{\"code\":502,\"message\":\"lost\"}}\n\n";
        assert_eq!(event.unwrap(), expected);
    }

    #[test]
    fn families_and_rows_have_one_order_and_one_name_each() {
        assert_eq!(Family::ALL.len(), PROFILES.len());
        for (row, family) in Family::ALL.iter().enumerate() {
            assert_eq!(*family as usize, row);
            let others = PROFILES.iter().enumerate();
            assert!(
                others
                    .filter(|(other, _)| *other != row)
                    .all(|(_, other)| { other.name != family.as_str() })
            );
        }
    }
}
