//! `[reload]`: when the config is read again.

use std::time::Duration;

use super::super::given::Scope;
use super::super::key::{Key, Table};
use super::super::kind::Shape;
use super::super::mistake::Mistake;

pub(super) const TABLE: Table = Table {
    name: "reload",
    about: "Reloading of this file.",
    reference: "When the config file is read again.",
    keys: &[Key::proxy("reload.watch", Shape::Duration)
        .or_off()
        .default("off")
        .help(
            "Check the config file, and the certificates and keys that it names, for changes at this \
             interval, and reload it; SIGHUP reloads at any time",
        )
        .advice("Use 5s if the file is mounted and replaced without a signal, as in Kubernetes, and so are \
                 certificates.")],
};

/// The interval of checks for changes of the file; none if `None`.
pub(in super::super) fn watch(proxy: Scope<'_>) -> Result<Option<Duration>, Mistake> {
    proxy.get("reload.watch")
}
