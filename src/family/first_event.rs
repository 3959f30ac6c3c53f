//! The family that an event indicates.

use super::Family;
use crate::wire::RawEvent;
use memchr::memmem::{self, Finder};
use std::sync::LazyLock;

/// So many of an event's first bytes are looked at for what it is.
const LOOK: usize = 2048;

/// A longer event is no keep-alive.
const LONGEST_KEEPALIVE: usize = 160;

impl Family {
    /// What the first event with data makes of a stream whose request has told so much.
    ///
    /// SDKs that name themselves are taken at their word. A POST that accepts JSON and a stream may be
    /// anybody's. A GET for an event stream is an `EventSource`'s or one of the older
    /// [SSE transport of MCP](https://modelcontextprotocol.io/specification/2024-11-05/basic/transports),
    /// which does not come back.
    pub(crate) fn learnt_from(self, event: &RawEvent<'_>) -> Option<Self> {
        match self {
            Self::Raw | Self::Mcp => Self::of_first_event(event),
            Self::EventSource => is_endpoint(event).then_some(Self::Mcp),
            Self::OpenAi | Self::Anthropic => None,
        }
    }

    /// As the first event with data of a stream tells whose request told nothing.
    pub(crate) fn of_first_event(event: &RawEvent<'_>) -> Option<Self> {
        let name = event.name.unwrap_or_default();
        let raw = &event.raw[..event.raw.len().min(LOOK)];
        // In a text within JSON there would be a backslash before the last quote.
        let says = |word: &str| memmem::find(raw, word.as_bytes()).is_some();
        if is_endpoint(event) || says(r#""jsonrpc""#) {
            Some(Self::Mcp)
        } else if name == b"message_start" || says(r#""message_start""#) {
            Some(Self::Anthropic)
        } else if name.starts_with(b"response.")
            || name.starts_with(b"thread.")
            || says(r#""chat.completion.chunk""#)
            || says(r#""chat.completion""#)
            || says(r#""text_completion""#)
            || says(r#""response.created""#)
            || says(r#""response.queued""#)
            || says(r#""response.in_progress""#)
        {
            Some(Self::OpenAi)
        } else {
            // Azure's first event has an empty `object`, and some servers have none at all.
            let has_choices = says(r#""choices""#);
            let more = [
                r#""prompt_filter_results""#,
                r#""prompt_annotations""#,
                r#""finish_reason""#,
                r#""delta""#,
            ];
            (has_choices && more.into_iter().any(says)).then_some(Self::OpenAi)
        }
    }
}

/// Whether it tells an MCP client where to post its messages: a URI, alone.
fn is_endpoint(event: &RawEvent<'_>) -> bool {
    let is_uri = |data: &[u8]| match data {
        [] | [b'{' | b'[' | b'"', ..] => false,
        data => !data.iter().any(u8::is_ascii_whitespace),
    };
    event.name == Some(b"endpoint") && is_uri(event.data().trim_ascii())
}

/// Whether an event says no more than that its server is there: Anthropic's `ping`, the `keepalive` of
/// OpenAI and Azure.
pub(crate) fn is_keepalive(event: &RawEvent<'_>, family: Family) -> bool {
    match (family, event.name) {
        (Family::Anthropic, Some(b"ping")) | (Family::OpenAi, Some(b"keepalive")) => return true,
        _ => {}
    }
    // Most events are longer, or have neither word.
    if event.raw.len() > LONGEST_KEEPALIVE {
        return false;
    }
    let says = |word: &LazyLock<Finder<'_>>| word.find(event.raw).is_some();
    (says(&KEEPALIVE) || says(&PING)) && has_keepalive_type(event)
}

static KEEPALIVE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"keepalive\""));
static PING: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"ping\""));

fn has_keepalive_type(event: &RawEvent<'_>) -> bool {
    let data: Vec<&[u8]> = event.data_lines().collect();
    let Ok(data) = serde_json::from_slice::<serde_json::Value>(&data.join(&b'\n')) else {
        return false;
    };
    let kind = data.get("type").and_then(serde_json::Value::as_str);
    matches!(kind, Some("keepalive" | "ping"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Scanner;

    fn each<T>(event: &str, of: impl Fn(&RawEvent<'_>) -> T) -> T {
        let mut found = Vec::new();
        let bytes = format!("{event}\n\n");
        Scanner::default().scan(bytes.as_bytes(), |event| found.push(of(&event)));
        assert_eq!(found.len(), 1);
        found.remove(0)
    }

    #[test]
    fn the_first_event_tells() {
        let openai = Some(Family::OpenAi);
        let mcp = Some(Family::Mcp);
        for (event, expected) in [
            (r#"data: {"object": "chat.completion.chunk"}"#, openai),
            (r#"data: {"id":"1","object":"chat.completion"}"#, openai),
            (r#"data: {"id":"1","object":"text_completion"}"#, openai),
            (
                r#"data: {"choices":[],"created":0,"id":"","model":"","object":"","prompt_filter_results":[{}]}"#,
                openai,
            ),
            (
                r#"data: {"id":"","object":"","prompt_annotations":[],"choices":[],"usage":null}"#,
                openai,
            ),
            (r#"data: {"choices":[{"delta":{"content":"a"}}]}"#, openai),
            (
                "data: {\"choices\":\ndata: [{\"text\":\"a\",\"finish_reason\":null}]}",
                openai,
            ),
            ("event: response.created\ndata: {}", openai),
            (r#"data: {"type":"response.in_progress"}"#, openai),
            ("event: thread.run.created\ndata: {}", openai),
            ("event: message_start\ndata: {}", Some(Family::Anthropic)),
            (
                r#"data: {"type": "message_start"}"#,
                Some(Family::Anthropic),
            ),
            (r#"data: {"jsonrpc":"2.0"}"#, mcp),
            ("event: endpoint\ndata: /messages?sessionId=1", mcp),
            ("event: endpoint\r\ndata:http://a.test/m\r", mcp),
            (r#"data: {"text":"\"chat.completion.chunk\""}"#, None),
            (r#"data: {"choices":["red","blue"]}"#, None),
            ("event: message\ndata: {}", None),
            ("event: endpoint\ndata: {\"url\":\"/x\"}", None),
            ("event: endpoint\ndata: is up", None),
            ("data: /messages", None),
        ] {
            assert_eq!(each(event, Family::of_first_event), expected, "{event}");
        }
    }

    #[test]
    fn of_an_event_source_only_the_endpoint_makes_something_else() {
        let learnt = |family: Family, event: &str| each(event, |event| family.learnt_from(event));
        let chunk = r#"data: {"object":"chat.completion.chunk"}"#;
        let endpoint = "event: endpoint\ndata: /m";
        assert_eq!(learnt(Family::EventSource, chunk), None);
        assert_eq!(learnt(Family::EventSource, endpoint), Some(Family::Mcp));
        assert_eq!(learnt(Family::Raw, chunk), Some(Family::OpenAi));
        assert_eq!(learnt(Family::Mcp, chunk), Some(Family::OpenAi));
        for told in [Family::OpenAi, Family::Anthropic] {
            assert_eq!(learnt(told, endpoint), None);
        }
    }

    #[test]
    fn keepalives_say_nothing_else() {
        let raw = Family::Raw;
        for (family, event, expected) in [
            (raw, r#"data: {"type":"keepalive"}"#, true),
            (
                raw,
                r#"data: {"sequence_number":7, "type" : "keepalive"}"#,
                true,
            ),
            (
                raw,
                "event: keepalive\r\ndata: {\"type\":\"keepalive\"}",
                true,
            ),
            (raw, "data: {\ndata: \"type\": \"keepalive\"}", true),
            (raw, r#"data: {"type":"ping"}"#, true),
            (raw, "event: ping\ndata: {\"type\": \"ping\"}", true),
            (Family::Anthropic, "event: ping\ndata: {}", true),
            (Family::OpenAi, "event: keepalive\ndata: {}", true),
            (raw, "event: ping\ndata: {}", false),
            (Family::EventSource, "event: ping\ndata: 12:00", false),
            (raw, r#"data: {"type":"message","text":"keepalive"}"#, false),
            (raw, r#"data: {"text":"\"type\":\"keepalive\""}"#, false),
            (raw, r#"data: ["type","keepalive"]"#, false),
            (raw, "data: keepalive", false),
        ] {
            let found = each(event, |event| is_keepalive(event, family));
            assert_eq!(found, expected, "{family:?}: {event}");
        }
    }
}
