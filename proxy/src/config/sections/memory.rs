//! `[memory]`.

use super::super::key::{Key, Table};
use super::super::kind::{GIB, MIB, Shape};

pub(super) const TABLE: Table = Table {
    name: "memory",
    about: "Memory of the process.",
    reference: "See [memory and open files](operations.md#memory-and-open-files).",
    keys: &[
        Key::proxy("memory.budget", Shape::Size(8 * MIB, 1024 * GIB))
            .or_off()
            .example("\"1GiB\"")
            .help(
                "Maximum resident memory; near it new streams are rejected, then the largest \
                 streams are ended; default: the container's limit",
            )
            .advice(
                "From 90 % a GET for a stream gets an empty stream with retry:, other requests for \
                 streams get a 503; from 95 % the streams that hold most of the memory are ended. \
                 A quarter of the budget, at most 24 MiB, is reserved for bursts. The kernel's \
                 socket buffers count towards a container's limit (cgroup v2), but not towards a \
                 budget that is set here.",
            ),
    ],
};
