//! `[path]`: how request paths are matched.

use crate::path::Normalize;

use super::super::given::Scope;
use super::super::key::{Key, Table};
use super::super::kind::Shape;
use super::super::mistake::Mistake;
use super::super::value::{Choice, choice};

pub(super) const TABLE: Table = Table {
    name: "path",
    about: "How request paths are matched.",
    reference: "How paths are matched; see [paths](security.md#paths).",
    keys: &[Key::proxy(
        "path.normalize",
        Shape::Choice(Normalize::WORDS),
    )
    .default("match")
    .help(
        "How paths are matched with routes and forwarded; match: matched normalized, forwarded as \
         sent, and rejected (400) if some servers would read a path of another route; rewrite: \
         matched and forwarded normalized; off: matched and forwarded as sent",
    )
    .advice("Use rewrite if the upstream should get one spelling only; see docs/security.md.")],
};

choice! { Normalize {
    "match" => Match,
    "rewrite" => Rewrite,
    "off" => Off,
} }

pub(in super::super) fn normalize(proxy: Scope<'_>) -> Result<Normalize, Mistake> {
    proxy.get("path.normalize")
}
