//! The family that a request or an event indicates.

use super::Family;
use super::profile::{PROFILES, Profile};
use crate::head;
use crate::wire::RawEvent;
use http::{HeaderMap, Method};
use memchr::memmem::Finder;
use std::sync::LazyLock;

/// Signs are searched in this many bytes at the start of an event.
const MAX_SEARCHED_BYTES: usize = 2048;

/// A longer event is not a keepalive.
const MAX_KEEPALIVE_BYTES: usize = 160;

/// How sure an event indicates a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Sign {
    None,
    Likely,
    /// Also against a request that indicates another family.
    Certain,
}

impl Sign {
    pub(super) fn likely(is_likely: bool) -> Self {
        match is_likely {
            true => Self::Likely,
            false => Self::None,
        }
    }
}

/// The row of the family that the head of a request indicates.
pub(super) fn of_request(rows: &[Profile], method: &Method, headers: &HeaderMap) -> Option<usize> {
    let named = rows.iter().rposition(|row| (row.names_itself)(headers));
    if named.is_some() || !head::accepts_event_stream(headers) {
        return named;
    }
    rows.iter()
        .rposition(|row| (row.is_likely)(method, headers))
}

/// The row of the family that the first event with data indicates, by a sign that is at least `sign`.
pub(super) fn of_first_event(rows: &[Profile], event: &RawEvent<'_>, sign: Sign) -> Option<usize> {
    let start = &event.raw[..event.raw.len().min(MAX_SEARCHED_BYTES)];
    rows.iter()
        .rposition(|row| (row.first_event)(event, start) >= sign)
}

impl Family {
    /// The family of a stream whose request indicates `self`, if its first event with data shows another.
    ///
    /// The request of an SDK that names itself is final.
    pub(crate) fn learnt_from(self, event: &RawEvent<'_>) -> Option<Self> {
        let sign = self.profile().is_changed_by?;
        of_first_event(PROFILES, event, sign).map(|row| Self::ALL[row])
    }

    /// The family that the first event with data shows, if the request indicates none.
    pub(crate) fn of_first_event(event: &RawEvent<'_>) -> Option<Self> {
        of_first_event(PROFILES, event, Sign::Likely).map(|row| Self::ALL[row])
    }

    /// Any sign in the first event may show that a stream is of another family.
    pub(crate) fn is_open(self) -> bool {
        self.profile().is_changed_by == Some(Sign::Likely)
    }
}

/// Returns true if an event only shows that its server is alive: Anthropic's `ping`, the `keepalive` of
/// OpenAI and Azure.
pub(crate) fn is_keepalive(event: &RawEvent<'_>, family: Family) -> bool {
    is_keepalive_of(family.profile(), event)
}

pub(super) fn is_keepalive_of(profile: &Profile, event: &RawEvent<'_>) -> bool {
    if event.name.is_some() && event.name == profile.keepalive_event {
        return true;
    }
    // Most events are longer, or have neither word.
    if event.raw.len() > MAX_KEEPALIVE_BYTES {
        return false;
    }
    let has = |word: &LazyLock<Finder<'_>>| word.find(event.raw).is_some();
    (has(&KEEPALIVE) || has(&PING)) && has_keepalive_type(event)
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
        for family in [Family::OpenAi, Family::Anthropic] {
            assert_eq!(learnt(family, endpoint), None);
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
