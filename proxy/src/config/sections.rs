//! The tables of the config file, a module each: its keys with help and default, what they become
//! in the typed config, and warnings about them.
//!
//! Flags, environment variables, the file's spelling, help texts and defaults all derive from
//! [`KEYS`]; a key that is missing here does not exist.

pub(super) mod acme;
pub(super) mod admin;
mod client;
mod completion;
pub(super) mod cors;
mod drain;
mod early;
pub(super) mod files;
mod health;
pub(super) mod health_check;
mod heartbeat;
mod idle;
mod limit;
pub(super) mod listener;
mod log;
pub(super) mod memory;
pub(super) mod path;
pub(super) mod ready;
pub(super) mod reload;
mod resume;
mod rotation;
pub(super) mod top;
mod tunnel;
pub(super) mod upstream;

pub use acme::{Acme, AcmeChallenge, AcmeName};
pub use admin::Admin;
pub use client::Client;
pub use completion::Completion;
pub use drain::Drain;
pub use early::Early;
pub use health::Health;
pub use health_check::HealthCheck;
pub use heartbeat::{Heartbeat, Style};
pub use idle::{Idle, IdleAction};
pub use limit::{Limit, LimitKey, OwnCounts, Reject};
pub use listener::{HttpsRedirect, LISTENER, ListenerConfig, ProxyProtocol};
pub use log::{Level, Log, LogFormat, LogRequests, RequestsFormat};
pub use memory::{Budget, Budgets};
pub use resume::Resume;
pub use rotation::Rotation;
pub use top::{Takeover, TrustedHeader};
pub(crate) use upstream::port as port_of;
pub use upstream::{Http2Mode, ProxyVersion, Unavailable, Upstream, UpstreamHost};

use super::key::{Key, Table};

/// All tables, in the order of the help and of `check`.
pub const TABLES: &[Table] = &[
    top::TABLE,
    acme::TABLE,
    client::TABLE,
    path::TABLE,
    upstream::TABLE,
    upstream::tls::TABLE,
    health_check::TABLE,
    tunnel::TABLE,
    heartbeat::TABLE,
    cors::TABLE,
    early::TABLE,
    idle::TABLE,
    limit::TABLE,
    rotation::TABLE,
    resume::TABLE,
    completion::TABLE,
    health::TABLE,
    memory::TABLE,
    files::TABLE,
    admin::TABLE,
    ready::TABLE,
    reload::TABLE,
    drain::TABLE,
    log::TABLE,
];

/// The keys of all tables, in their order.
pub static KEYS: &[Key] = &concat::<{ count(TABLES) }>(TABLES);

const fn count(tables: &[Table]) -> usize {
    let (mut count, mut table) = (0, 0);
    while table < tables.len() {
        count += tables[table].keys.len();
        table += 1;
    }
    count
}

const fn concat<const COUNT: usize>(tables: &[Table]) -> [Key; COUNT] {
    let mut keys = [tables[0].keys[0]; COUNT];
    let (mut count, mut table) = (0, 0);
    while table < tables.len() {
        let mut index = 0;
        while index < tables[table].keys.len() {
            keys[count] = tables[table].keys[index];
            count += 1;
            index += 1;
        }
        table += 1;
    }
    keys
}

/// The key of this name.
pub(super) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// The key of a `[[listener]]` of this name.
pub(super) fn find_of_listener(name: &str) -> Option<&'static Key> {
    LISTENER.keys.iter().find(|key| key.name == name)
}

/// Whether a `[[listener]]` may have a table of this name.
pub(super) fn is_table_of_listener(name: &str) -> bool {
    let mut tables = LISTENER.keys.iter().map(|key| key.table_and_leaf().0);
    name != LISTENER.name && tables.any(|table| table == Some(name))
}

/// Whether the file may have a table of this name.
pub(super) fn is_table(name: &str) -> bool {
    table_names().any(|table| table == name)
}

/// The names of the tables that have one.
pub(super) fn table_names() -> impl Iterator<Item = &'static str> {
    let names = TABLES.iter().map(|table| table.name);
    names.filter(|name| !name.is_empty())
}

/// The key that had this name, in whatever spelling `spell` gives a name.
pub(super) fn renamed(old: &str, spell: impl Fn(&str) -> String) -> Option<&'static Key> {
    let is_old = |key: &&Key| key.former_name.is_some_and(|name| spell(name) == old);
    KEYS.iter().find(is_old)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::super::value::Value;
    use super::*;

    #[test]
    fn keys_share_no_spelling() {
        let mut seen = HashSet::new();
        for key in KEYS {
            assert!(seen.insert(key.flag()), "{}", key.name);
            assert!(seen.insert(key.env()), "{}", key.name);
        }
    }

    #[test]
    fn key_defaults_are_values_of_their_kind() {
        for key in KEYS {
            if let Some(text) = key.default {
                assert!(Value::from_text(key.kind, text).is_ok(), "{}", key.name);
            }
        }
    }

    #[test]
    fn keys_of_one_table_stand_together() {
        let names: HashSet<_> = TABLES.iter().map(|table| table.name).collect();
        assert_eq!(names.len(), TABLES.len());
        for table in TABLES {
            for key in table.keys {
                let (of_key, _) = key.table_and_leaf();
                assert_eq!(of_key.unwrap_or_default(), table.name, "{}", key.name);
            }
        }
    }
}
