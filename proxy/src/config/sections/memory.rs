//! `[memory]`: the memory of the process.

use super::super::given::Scope;
use super::super::key::SystemLimits;
use super::super::key::{Key, Table};
use super::super::kind::{GIB, MIB, Shape};
use super::super::mistake::Mistake;
use super::super::value::{FromValue, size_text};

pub(super) const TABLE: Table = Table {
    name: "memory",
    about: "Memory of the process.",
    reference: "See [memory and open files](operations.md#memory-and-open-files).",
    keys: &[
        Key::proxy("memory.budget", Shape::Size(8 * MIB, 1024 * GIB))
            .or_off()
            .example("\"1GiB\"")
            .unset(|_, limits| Some(unset_budget(limits)))
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

/// Budgets of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budgets {
    /// Memory in bytes; default: the container's limit.
    pub memory: Budget,
    /// Open files; default: the limit of the process.
    pub files: Budget,
}

/// A budget of memory or files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Budget {
    /// The limit of the system.
    Auto,
    /// This amount; above zero.
    Of(u64),
    /// No budget.
    Off,
}

pub(in super::super) fn budget(proxy: Scope<'_>) -> Result<Budget, Mistake> {
    read(proxy, "memory.budget", |bytes: u64| bytes)
}

/// The budget that a key sets.
pub(super) fn read<T: FromValue>(
    proxy: Scope<'_>,
    name: &str,
    amount: impl Fn(T) -> u64,
) -> Result<Budget, Mistake> {
    let given: Option<Option<T>> = proxy.get_if_set(name)?;
    Ok(match given {
        None => Budget::Auto,
        Some(None) => Budget::Off,
        Some(Some(given)) => Budget::Of(amount(given)),
    })
}

fn unset_budget(limits: &SystemLimits) -> String {
    match limits.memory {
        Some(limit) => format!("\"{}\", the limit of the container", size_text(limit)),
        None => "\"off\", as the container has no limit".to_owned(),
    }
}
