//! `[ready]`.

use super::super::key::{Key, Table};
use super::super::kind::Shape;

pub(super) const TABLE: Table = Table {
    name: "ready",
    about: "When /readyz returns 200.",
    reference: "What readiness depends on.",
    keys: &[Key::proxy("ready.when", Shape::ReadyWhen)
        .default("any")
        .help(
            "Upstreams that /readyz requires to be reachable: any (at least one), all, or those of \
             a list of routes",
        )
        .advice(
            "With any, one dead upstream does not cut off the clients of the others. List the \
             routes that must work, with their paths as they are written here. Example: [\"/v1\", \
             \"/\"].",
        )],
};
