//! Defaults that README and `docs/` state in their prose are those of the code.
//!
//! A page states one in one of these forms, where the key and a value of code stand in backticks:
//!
//! | form | example |
//! | --- | --- |
//! | a quantity behind the key | `heartbeat.interval` (15 s); `drain.delay`, 0 s |
//! | `(default: ..)` behind the key | `early.after` (default: `heartbeat.interval`) |
//! | `defaults to the ..` behind the key | `memory.budget` defaults to the container's limit |
//! | `default is ..` before it | The default is `http://127.0.0.1:9090` (`admin.listen`) |
//! | `(default)` behind a value | `path.normalize = "match"` (default); in a table of values of a key: `status` (default) |
//!
//! The key tables of `docs/configuration.md` are written by a command, see `reference`.

use sse_guard_proxy::config::{KEYS, Key};
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

/// Those stated in words: a part of the text, the key and its default.
const IN_WORDS: &[(&str, &str, Option<&str>)] = &[
    (
        "By default no peer with an address is trusted",
        "trusted_proxies",
        Some("unix"),
    ),
    (
        "The admin address binds to loopback by default",
        "admin.listen",
        Some("127.0.0.1:9090"),
    ),
    (
        "It is off by default, except on routes with `family = \"eventsource\"`",
        "resume.mode",
        None,
    ),
    (
        "It is off by default, because a late answer loses its status and headers",
        "early.enabled",
        Some("false"),
    ),
    (
        "Other requests have no lines by default",
        "log.requests",
        Some("off"),
    ),
];

/// Paragraphs that have a key and the word in another sense, by a part of their text.
const OTHERS: &[&str] = &[
    // Of defaults as such.
    "SSE_GUARD_DEFAULT_LISTEN",
    // Of what replaces it.
    "A list of your own replaces the default",
    // Of why; the same page states it.
    "Why `match` is the default",
];

/// That a key has this default.
#[derive(Debug)]
struct Claim {
    key: &'static Key,
    value: String,
}

fn key(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// A text in turns: plain, code, plain and so on.
fn spans(text: &str) -> Vec<&str> {
    text.split('`').collect()
}

/// `(15 s`, `, 0 s` or `(10 min` as the config spells it.
fn quantity(text: &str) -> Option<String> {
    let text = text
        .strip_prefix(" (")
        .or_else(|| text.strip_prefix(", "))?;
    let (number, rest) = text.split_once(' ')?;
    number.parse::<u64>().ok()?;
    let end = rest.find(|char: char| !char.is_alphabetic());
    let unit = &rest[..end.unwrap_or(rest.len())];
    let unit = match unit {
        "min" => "m",
        "ms" | "s" | "h" | "KiB" | "MiB" => unit,
        _ => return None,
    };
    Some(format!("{number}{unit}"))
}

/// What a text states. `topic` is the last key that was named before, and after it that of the text.
fn claims(text: &str, topic: &mut Option<&'static Key>) -> Vec<Claim> {
    let spans = spans(text);
    let mut claims = Vec::new();
    for at in (1..spans.len()).step_by(2) {
        let (before, code) = (spans[at - 1], spans[at]);
        let after = spans.get(at + 1).copied().unwrap_or_default();
        let next = spans.get(at + 2).copied().unwrap_or_default();
        let (name, value) = match code.split_once(" = ") {
            Some((name, value)) => (name, Some(value.trim_matches('"'))),
            None => (code, None),
        };
        let named = key(name);
        let mut add = |key: Option<&'static Key>, value: &str| {
            let value = value.to_owned();
            claims.extend(key.map(|key| Claim { key, value }));
        };
        match (named, value) {
            (Some(key), Some(value)) if after.starts_with(" (default") => add(Some(key), value),
            (Some(key), None) => {
                if let Some(value) = quantity(after) {
                    add(Some(key), &value);
                } else if let Some(value) = after.strip_prefix(" (default: ") {
                    let value = if value.is_empty() { next } else { value };
                    let end = value.find([',', ')', ';']).unwrap_or(value.len());
                    add(Some(key), &value[..end]);
                } else if let Some(value) = after.strip_prefix(" defaults to ") {
                    let end = value.find([',', '.', ';']).unwrap_or(value.len());
                    add(Some(key), &value[..end]);
                }
            }
            (Some(key), Some(value)) if before.ends_with("by default: ") => {
                add(Some(key), value.trim_matches(['[', ']', '"']));
            }
            (None, _) if before.ends_with("default is ") && after == " (" => {
                add(self::key(next), code);
            }
            (None, _) if after.starts_with(" (default)") => add(*topic, code),
            _ => {}
        }
        *topic = named.or(*topic);
    }
    claims
}

impl Claim {
    fn holds(&self) -> bool {
        let value = self.value.trim_start_matches("http://");
        match self.key.default {
            Some("auto") => self.helps_with("auto: "),
            Some(default) => default == value,
            None => self.helps_with("default: "),
        }
    }

    /// Whether the key's help has the value behind this word.
    fn helps_with(&self, word: &str) -> bool {
        let help = self.key.help.split_once(word);
        help.is_some_and(|(_, help)| help.contains(&self.value))
    }
}

fn pages() -> Result<Vec<PathBuf>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut pages = vec![root.join("README.md")];
    for entry in fs::read_dir(root.join("docs"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|its| its == "md") {
            pages.push(path);
        }
    }
    Ok(pages)
}

/// The paragraphs and table rows of a page, without blocks of code and the tables of all keys.
fn paragraphs(text: &str) -> Vec<String> {
    let prose = text.split("\n## Top level\n").next().unwrap_or_default();
    let outside = prose.split("```").step_by(2);
    let lines = outside.flat_map(|part| part.split("\n\n"));
    let paragraphs = lines.flat_map(|paragraph| match paragraph.trim_start().starts_with('|') {
        true => paragraph.lines().map(str::to_owned).collect(),
        false => vec![paragraph.replace('\n', " ")],
    });
    paragraphs.collect()
}

#[test]
fn defaults_in_the_prose_are_those_of_the_code() -> Result {
    let (mut wrong, mut count) = (Vec::new(), 0);
    let mut in_words = Vec::new();
    for page in pages()? {
        let mut topic = None;
        for paragraph in paragraphs(&fs::read_to_string(&page)?) {
            let claims = claims(&paragraph, &mut topic);
            count += claims.len();
            let page = page.display();
            for claim in claims.iter().filter(|claim| !claim.holds()) {
                let Claim { key, value } = claim;
                wrong.push(format!(
                    "{page}: {} is {:?}, not {value}",
                    key.name, key.default
                ));
            }
            let names_key = spans(&paragraph)
                .into_iter()
                .skip(1)
                .step_by(2)
                .any(|code| key(code.split(" = ").next().unwrap_or_default()).is_some());
            let stated = IN_WORDS
                .iter()
                .filter(|(part, ..)| paragraph.contains(part));
            in_words.extend(stated.clone());
            let is_other = stated.count() > 0 || OTHERS.iter().any(|part| paragraph.contains(part));
            if claims.is_empty() && names_key && !is_other && paragraph.contains("default") {
                wrong.push(format!(
                    "{page}: states a default in no form that is checked: {paragraph}"
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    for stated in IN_WORDS {
        let (text, name, default) = stated;
        assert!(in_words.contains(&stated), "no page states: {text}");
        assert_eq!(key(name).map(|key| key.default), Some(*default), "{text}");
    }
    assert!(count > 10, "only {count} were found");
    Ok(())
}

#[test]
fn default_is_found_in_each_form() {
    for (text, name, value) in [
        (
            "within `heartbeat.interval` (15 s) or so",
            "heartbeat.interval",
            "15s",
        ),
        ("| `drain.delay`, 0 s | red |", "drain.delay", "0s"),
        ("`idle.timeout` (10 min)", "idle.timeout", "10m"),
        (
            "after `early.after` (default: `heartbeat.interval`), it",
            "early.after",
            "heartbeat.interval",
        ),
        (
            "`memory.budget` defaults to the container's limit, and",
            "memory.budget",
            "the container's limit",
        ),
        (
            "The default is `http://127.0.0.1:9090` (`admin.listen`).",
            "admin.listen",
            "http://127.0.0.1:9090",
        ),
        (
            "it is trusted by default: `trusted_proxies = [\"unix\"]`.",
            "trusted_proxies",
            "unix",
        ),
        (
            "With `path.normalize = \"match\"` (default) it",
            "path.normalize",
            "match",
        ),
        (
            "| `upstream.unavailable` | \n| `retry-later` (default) |",
            "upstream.unavailable",
            "retry-later",
        ),
    ] {
        let claims = claims(text, &mut None);
        assert!(claims.len() == 1, "{text}: {claims:?}");
        assert_eq!(
            (claims[0].key.name, claims[0].value.as_str()),
            (name, value)
        );
        assert!(claims[0].holds(), "{text}");
        let other = Claim {
            value: "7s".to_owned(),
            ..claims[0]
        };
        assert!(!other.holds(), "{text}");
    }
    assert!(claims("`rotation.max_age` and `idle.timeout` of 3 s", &mut None).is_empty());
}
