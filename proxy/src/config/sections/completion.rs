//! `[completion]`: completeness of model responses.

use super::super::given::Scope;
use super::super::key::{Key, Table};
use super::super::kind::Shape;
use super::super::mistake::Mistake;

pub(super) const TABLE: Table = Table {
    name: "completion",
    about: "Completeness of model responses: OpenAI's end with [DONE], Anthropic's with \
            message_stop.",
    reference: "Incomplete answers of models; see [when an answer is \
                complete](client-families.md#when-an-answer-is-complete).",
    keys: &[Key::route("completion.required", Shape::Bool)
        .default("true")
        .help(
            "Break off a stream whose upstream ends it without its family's last event: half an \
             answer of openai or anthropic",
        )
        .advice(
            "Set false for a server that omits the last event, as some with an OpenAI-compatible \
             API do.",
        )],
};

/// Whether the family's last event is required.
pub(in super::super) fn required(scope: Scope<'_>) -> Result<bool, Mistake> {
    scope.get("completion.required")
}
