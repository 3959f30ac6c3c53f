//! `[cors]`: cross-origin access to the responses of sse-guard itself.

use super::super::given::Scope;
use super::super::key::{Key, Table};
use super::super::kind::Shape;
use super::super::mistake::Mistake;
use super::super::value::Origins;
use sse_guard::cors::CorsLayer;

pub(super) const TABLE: Table = Table {
    name: "cors",
    about: "Cross-origin access to the responses of sse-guard itself.",
    reference: "Origins whose pages may read responses of the proxy itself; see [pages of another \
                origin](early-answers.md#pages-of-another-origin).",
    keys: &[Key::route("cors.allowed_origins", Shape::Origins)
        .or_off()
        .default("upstream")
        .help(
            "Origins that may read responses sent in place of the upstream's: upstream (those that \
             it allows), *, off, or a list",
        )
        .advice(
            "The upstream's own responses are never changed. List the origins if there are more \
             than 256, or if they must be allowed from the start of the process on.",
        )],
};

pub(in super::super) fn allowed_origins(scope: Scope<'_>) -> Result<Origins, Mistake> {
    let origins: Option<Origins> = scope.get("cors.allowed_origins")?;
    Ok(origins.unwrap_or(Origins::Off))
}

impl Origins {
    /// The layer that lets pages of these origins read responses.
    pub(crate) fn layer(&self) -> CorsLayer {
        match self {
            Self::Upstream => CorsLayer::new(),
            Self::Any => CorsLayer::any(),
            Self::List(origins) => CorsLayer::origins(origins),
            Self::Off => CorsLayer::new().enabled(false),
        }
    }
}
