//! A key of the configuration, and its name in each spelling.

use super::given::{AllValues, Scope, SourcedValue, Values};
use super::kind::{Kind, Shape};
use super::mistake::{Mistake, ValueSource};
use super::value::Value;

/// One key of the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// The name, with the table in front if it is in one: `heartbeat.interval`.
    pub name: &'static str,
    /// The kind of its value.
    pub kind: Kind,
    /// The value of a key that is not set, in the spelling of a flag.
    pub default: Option<&'static str>,
    /// Whether a `[[route]]` may set it for itself.
    pub per_route: bool,
    /// Its help text.
    pub help: &'static str,
    /// When to change it, for the sample config; may be empty.
    pub advice: &'static str,
    /// A value in the spelling of the file, for the sample config: of a key without a default.
    pub example: Option<&'static str>,
    /// A shorter flag, without its dashes.
    pub(super) alias: Option<&'static str>,
    /// The name that it had before.
    pub(super) former_name: Option<&'static str>,
    /// The effective value of a key without a default that is not set, for `check`.
    pub(super) unset: Option<UnsetFn>,
    /// The effective value of a key whose own is too small.
    pub(super) raised: Option<RaisedFn>,
}

type UnsetFn = fn(&AllValues, &SystemLimits) -> Option<String>;

/// With the key that raises it.
type RaisedFn = fn(Scope<'_>) -> Option<(Value, &'static str)>;

/// Limits of this system, which are those of budgets that are not set.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SystemLimits {
    /// Bytes of memory.
    pub(crate) memory: Option<u64>,
    /// Open files.
    pub(crate) files: Option<u64>,
}

/// A table of the config file and its keys; one of them holds the keys outside of any table.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    /// The name; empty for the keys outside of any table.
    pub name: &'static str,
    /// What it is about, for the sample config.
    pub about: &'static str,
    /// What it is about, for the config reference, in Markdown.
    pub reference: &'static str,
    /// Its keys, in the order of the help and of `check`.
    pub keys: &'static [Key],
}

/// The prefix of all environment variables.
pub(super) const ENV_PREFIX: &str = "SSE_GUARD_";

impl Key {
    /// A key that applies to the whole proxy.
    pub(super) const fn proxy(name: &'static str, shape: Shape) -> Self {
        Self {
            name,
            kind: Kind { shape, off: false },
            default: None,
            per_route: false,
            help: "",
            advice: "",
            example: None,
            alias: None,
            former_name: None,
            unset: None,
            raised: None,
        }
    }

    /// A key that a `[[route]]` may set for itself.
    pub(super) const fn route(name: &'static str, shape: Shape) -> Self {
        Self {
            per_route: true,
            ..Self::proxy(name, shape)
        }
    }

    pub(super) const fn or_off(mut self) -> Self {
        self.kind.off = true;
        self
    }

    pub(super) const fn default(mut self, text: &'static str) -> Self {
        self.default = Some(text);
        self
    }

    pub(super) const fn help(mut self, text: &'static str) -> Self {
        self.help = text;
        self
    }

    pub(super) const fn advice(mut self, text: &'static str) -> Self {
        self.advice = text;
        self
    }

    pub(super) const fn example(mut self, value: &'static str) -> Self {
        self.example = Some(value);
        self
    }

    pub(super) const fn alias(mut self, flag: &'static str) -> Self {
        self.alias = Some(flag);
        self
    }

    pub(super) const fn formerly(mut self, name: &'static str) -> Self {
        self.former_name = Some(name);
        self
    }

    pub(super) const fn unset(mut self, effective: UnsetFn) -> Self {
        self.unset = Some(effective);
        self
    }

    pub(super) const fn raised(mut self, effective: RaisedFn) -> Self {
        self.raised = Some(effective);
        self
    }

    /// Reads a text in the spelling of a flag into the values of its source.
    pub(super) fn read(
        &'static self,
        text: &str,
        source: ValueSource,
        values: &mut Values,
        mistakes: &mut Vec<Mistake>,
    ) {
        match Value::from_text(self.kind, text) {
            Ok(value) => {
                values.insert(self.name, SourcedValue { value, source });
            }
            Err(problem) => mistakes.push(Mistake::new(source, self.name, problem)),
        }
    }

    /// The flag without its dashes: `heartbeat-interval`.
    #[must_use]
    pub fn flag(&self) -> String {
        flag_name(self.name)
    }

    /// The environment variable: `SSE_GUARD_HEARTBEAT_INTERVAL`.
    #[must_use]
    pub fn env(&self) -> String {
        env_name(self.name)
    }

    /// The table that the key is in, and its name there; no table for the keys at the top.
    #[must_use]
    pub fn table_and_leaf(&self) -> (Option<&'static str>, &'static str) {
        match self.name.rsplit_once('.') {
            Some((table, leaf)) => (Some(table), leaf),
            None => (None, self.name),
        }
    }
}

/// The flag of a key's name, without its dashes: `heartbeat-interval`.
pub(super) fn flag_name(name: &str) -> String {
    name.replace(['.', '_'], "-")
}

/// The environment variable of a key's name: `SSE_GUARD_HEARTBEAT_INTERVAL`.
pub(super) fn env_name(name: &str) -> String {
    format!("{ENV_PREFIX}{}", name.replace('.', "_").to_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_name_has_three_spellings() {
        let key = Key::route("limit.per_ip", Shape::Count);
        assert_eq!(key.flag(), "limit-per-ip");
        assert_eq!(key.env(), "SSE_GUARD_LIMIT_PER_IP");
        assert_eq!(key.table_and_leaf(), (Some("limit"), "per_ip"));
        let key = Key::route("upstream.tls.ca", Shape::File);
        assert_eq!(key.flag(), "upstream-tls-ca");
        assert_eq!(key.env(), "SSE_GUARD_UPSTREAM_TLS_CA");
        assert_eq!(key.table_and_leaf(), (Some("upstream.tls"), "ca"));
    }
}
