//! `[completion]`: completeness of model responses.

use super::super::given::Scope;
use super::super::key::{Key, Table};
use super::super::kind::Shape;
use super::super::mistake::Mistake;
use sse_guard::completion::CompletionLayer;

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

/// Completeness of model responses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// Whether the family's last event is required.
    pub required: bool,
}

impl Completion {
    pub(in super::super) fn read(scope: Scope<'_>) -> Result<Self, Mistake> {
        Ok(Self {
            required: scope.get("completion.required")?,
        })
    }

    /// The layer that breaks off incomplete responses.
    pub(crate) fn layer(self) -> CompletionLayer {
        CompletionLayer::new().required(self.required)
    }
}
