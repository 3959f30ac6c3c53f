//! `[files]`: the open files of the process.

use std::num::NonZeroU32;

use super::super::given::Scope;
use super::super::key::SystemLimits;
use super::super::key::{Key, Table};
use super::super::kind::Shape;
use super::super::mistake::Mistake;
use super::memory::{self, Budget};

pub(super) const TABLE: Table = Table {
    name: "files",
    about: "Open files of the process.",
    reference: "See [memory and open files](operations.md#memory-and-open-files).",
    keys: &[Key::proxy("files.budget", Shape::Count)
        .or_off()
        .example("20000")
        .unset(|_, limits| Some(unset_budget(limits)))
        .help(
            "Maximum open files, handled like memory.budget; default: the limit of this process \
             (ulimit -n)",
        )],
};

pub(in super::super) fn budget(proxy: Scope<'_>) -> Result<Budget, Mistake> {
    memory::read(proxy, "files.budget", |count: NonZeroU32| {
        count.get().into()
    })
}

fn unset_budget(limits: &SystemLimits) -> String {
    match limits.files {
        Some(limit) => format!("{limit}, the limit of the process"),
        None => "the limit of the process".to_owned(),
    }
}
