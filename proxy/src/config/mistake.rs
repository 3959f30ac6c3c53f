//! Sources of values, and mistakes in them.

use std::fmt;
use std::sync::Arc;

/// The problem of a key that no route may set.
pub(super) const OF_THE_PROXY: &str =
    "applies to the whole proxy; write it above the first [[route]]";

/// Where a value was set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueSource {
    /// Nowhere: the default of the key table.
    Default,
    /// A default of this run, as `sse-guard demo` has them.
    Demo,
    /// A line of the config file.
    File {
        /// The file's name as it was given.
        name: Arc<str>,
        /// The line, counted from 1.
        line: usize,
    },
    /// A flag, with its dashes.
    Flag(String),
    /// An environment variable.
    Env(String),
    /// The configuration as a whole, for what is missing from it.
    Config,
}

impl fmt::Display for ValueSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Demo => f.write_str("demo"),
            Self::File { name, line } => write!(f, "{name}:{line}"),
            Self::Flag(name) | Self::Env(name) => f.write_str(name),
            Self::Config => f.write_str("config"),
        }
    }
}

/// One thing that is wrong with a configuration.
///
/// Its text names a correct value, and never contains one that could be a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Where the value was set.
    pub source: ValueSource,
    /// The key it is about, in dotted spelling; empty if it is about no key.
    pub key: String,
    /// The problem, and a correct value.
    pub problem: String,
}

impl Mistake {
    pub(super) fn new(source: ValueSource, key: &str, problem: impl AsRef<str>) -> Self {
        // Keys and parser messages come from the file: a line break in them would look like a
        // second mistake, an escape would reach the terminal.
        let one_line = |text: &str| text.replace(char::is_control, " ");
        Self {
            source,
            key: one_line(key),
            problem: one_line(problem.as_ref()),
        }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A flag or a variable is a spelling of the key already.
        let names_the_key = matches!(self.source, ValueSource::Flag(_) | ValueSource::Env(_));
        if self.key.is_empty() || names_the_key {
            write!(f, "{}: {}", self.source, self.problem)
        } else {
            write!(f, "{}: {}: {}", self.source, self.key, self.problem)
        }
    }
}

/// All mistakes of a configuration; displayed as one line per mistake.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", lines(.mistakes))]
pub struct ConfigError {
    /// The mistakes, at least one, in the order flags, environment, file by line, combinations.
    pub mistakes: Vec<Mistake>,
    /// The certificates and keys that the config names: a change of one may correct a mistake.
    pub(crate) files: Vec<String>,
}

fn lines(mistakes: &[Mistake]) -> String {
    let lines: Vec<String> = mistakes.iter().map(Mistake::to_string).collect();
    lines.join("\n")
}
