//! `[files]`.

use super::super::key::{Key, Table};
use super::super::kind::Shape;

pub(super) const TABLE: Table = Table {
    name: "files",
    about: "Open files of the process.",
    reference: "See [memory and open files](operations.md#memory-and-open-files).",
    keys: &[Key::proxy("files.budget", Shape::Count)
        .or_off()
        .example("20000")
        .help(
            "Maximum open files, handled like memory.budget; default: the limit of this process \
             (ulimit -n)",
        )],
};
