//! A prescan of an event, which rules out nearly all that need not be read.

use crate::family::{AnswerFormat, Family};
use crate::wire::RawEvent;
use memchr::memmem::Finder;
use std::sync::LazyLock;

/// The result of a prescan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Prescan {
    /// Nothing that shows the answer's end.
    Nothing,
    /// A part of the first choice, and nothing else.
    FirstChoice,
    /// It must be read.
    Read,
}

/// A member of this name. In a text within JSON there would be a backslash before the last quote.
struct JsonMember(LazyLock<Finder<'static>>);

macro_rules! member {
    ($name:literal) => {
        JsonMember(LazyLock::new(|| {
            Finder::new(concat!("\"", $name, "\"").as_bytes())
        }))
    };
}

static ERROR: JsonMember = member!("error");
static FINISH_REASON: JsonMember = member!("finish_reason");
static STOP_REASON: JsonMember = member!("stop_reason");
static INDEX: JsonMember = member!("index");
static MESSAGE_STOP: JsonMember = member!("message_stop");
static RESPONSE: JsonMember = JsonMember(LazyLock::new(|| Finder::new(b"\"response.")));

impl JsonMember {
    fn is_in(&self, raw: &[u8]) -> bool {
        self.0.find(raw).is_some()
    }

    /// What stands behind each.
    fn behind<'a>(&'a self, raw: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        let len = self.0.needle().len();
        self.0.find_iter(raw).map(move |at| &raw[at + len..])
    }

    /// Whether each is null, and written in one line.
    fn is_null(&self, raw: &[u8]) -> bool {
        self.behind(raw)
            .all(|behind| value(behind).starts_with(b"null"))
    }
}

/// A member's value and what follows, given what follows its name.
fn value(behind: &[u8]) -> &[u8] {
    let behind = behind.trim_ascii_start();
    behind
        .strip_prefix(b":")
        .map_or(b"", <[u8]>::trim_ascii_start)
}

pub(super) fn at(event: &RawEvent<'_>, family: Family) -> Prescan {
    let raw = event.raw;
    if ERROR.is_in(raw) {
        return Prescan::Read;
    }
    if family.answer_format() == Some(AnswerFormat::Anthropic) {
        let is_unnamed_stop = event.name.is_none() && MESSAGE_STOP.is_in(raw);
        return match STOP_REASON.is_null(raw) && !is_unnamed_stop {
            true => Prescan::Nothing,
            false => Prescan::Read,
        };
    }
    let names_end = |behind: &[u8]| {
        let state = behind.split(|&byte| byte == b'"').next();
        state.is_some_and(|state| super::ENDS.contains(&state))
    };
    let is_unnamed_end = event.name.is_none() && RESPONSE.behind(raw).any(names_end);
    if is_unnamed_end || !FINISH_REASON.is_null(raw) {
        return Prescan::Read;
    }
    let mut found = Prescan::Nothing;
    for behind in INDEX.behind(raw) {
        match value(behind) {
            [b'0', next, ..] if !next.is_ascii_digit() => found = Prescan::FirstChoice,
            _ => return Prescan::Read,
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Scanner;

    fn prescan(event: &str, family: Family) -> Prescan {
        let mut found = None;
        Scanner::default().scan(format!("{event}\n\n").as_bytes(), |event| {
            found = Some(at(&event, family));
        });
        found.unwrap()
    }

    #[test]
    fn prescan_finds_members_that_may_end_an_answer() {
        for (event, expected) in [
            (
                r#"data: {"choices":[{"index":0,"delta":{},"finish_reason":null}]}"#,
                Prescan::FirstChoice,
            ),
            (
                r#"data: {"choices":[{"index" : 0 ,"finish_reason" : null}]}"#,
                Prescan::FirstChoice,
            ),
            (r#"data: {"choices":[],"usage":{}}"#, Prescan::Nothing),
            (
                r#"data: {"choices":[{"index":0,"finish_reason":"stop"}]}"#,
                Prescan::Read,
            ),
            (
                r#"data: {"choices":[{"index":1,"finish_reason":null}]}"#,
                Prescan::Read,
            ),
            ("data: {\"finish_reason\":\ndata: null}", Prescan::Read),
            (r#"data: {"error":null}"#, Prescan::Read),
            (
                r#"data: {"text":"\"error\" \"finish_reason\":1"}"#,
                Prescan::Nothing,
            ),
            (r#"data: {"type":"response.completed"}"#, Prescan::Read),
            (
                r#"data: {"type":"response.output_text.delta"}"#,
                Prescan::Nothing,
            ),
            (
                "event: response.x\ndata: {\"a\":\"response.completed\"}",
                Prescan::Nothing,
            ),
        ] {
            assert_eq!(prescan(event, Family::OpenAi), expected, "{event}");
        }
        for (event, expected) in [
            (
                r#"data: {"delta":{"stop_reason":"end_turn"}}"#,
                Prescan::Read,
            ),
            (
                r#"data: {"message":{"stop_reason":null}}"#,
                Prescan::Nothing,
            ),
            (r#"data: {"type":"message_stop"}"#, Prescan::Read),
            (r#"data: {"delta":{"text":"a"}}"#, Prescan::Nothing),
        ] {
            assert_eq!(prescan(event, Family::Anthropic), expected, "{event}");
        }
    }
}
