//! `[reload]`.

use super::super::key::{Key, Table};
use super::super::kind::Shape;

pub(super) const TABLE: Table = Table {
    name: "reload",
    about: "Reloading of this file.",
    reference: "When the config file is read again.",
    keys: &[Key::proxy("reload.watch", Shape::Duration)
        .or_off()
        .default("off")
        .help(
            "Check the config file for changes at this interval, and reload it; SIGHUP reloads at \
             any time",
        )
        .advice("Use 5s if the file is mounted and replaced without a signal, as in Kubernetes.")],
};
