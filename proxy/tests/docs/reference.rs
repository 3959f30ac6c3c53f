//! The tables of config keys in `docs/configuration.md` and `deploy/sse-guard.toml` are those of the code.
//!
//! With `UPDATE=1` in the environment the test writes them.

use sse_guard_proxy::config::{Key, LISTENER, Shape, TABLES, Table};
use std::error::Error;
use std::fs;
use std::path::Path;

type Result = std::result::Result<(), Box<dyn Error>>;

const COMMAND: &str = "UPDATE=1 cargo test --workspace --all-features --test docs key_tables";

/// The widest line of the sample config.
const WIDTH: usize = 100;

/// Where the tables of the reference begin; they go on to its end.
const REFERENCE_START: &str = "## Top level\n";

/// What stands before the keys of the sample config, and behind them.
const SAMPLE_START: &str = "set this key for its own path.\n\n";
const SAMPLE_END: &str = "# Routes: ";

/// A table of the config reference, in Markdown.
fn reference_of(table: &Table) -> String {
    let heading = match table.name {
        "" => "Top level".to_owned(),
        name if name == LISTENER.name => format!("`[[{name}]]`"),
        name => format!("`{name}`"),
    };
    let rows: String = table.keys.iter().map(reference_row).collect();
    format!(
        "## {heading}\n\n{}\n\n| key | default | per route | |\n| --- | --- | --- | --- |\n{rows}",
        table.reference
    )
}

fn reference_row(key: &Key) -> String {
    let default = match key.default {
        None => "none".into(),
        Some("") if key.kind.is_list() => "`[]`".into(),
        Some(default) => format!("`{default}`"),
    };
    let route = if key.per_route { "yes" } else { "" };
    format!("| `{}` | {default} | {route} | {} |\n", key.name, key.help)
}

/// A table of the sample config.
fn sample_of(table: &Table) -> String {
    let keys: Vec<String> = table.keys.iter().map(sample_key).collect();
    let keys = keys.join("\n");
    match table.name {
        "" => keys,
        name => format!("{}[{name}]\n\n{keys}", comment(table.about)),
    }
}

fn sample_key(key: &Key) -> String {
    let (_, leaf) = key.table_and_leaf();
    let mut text = format!("{}.", key.help);
    if !key.advice.is_empty() {
        text += &format!(" {}", key.advice);
    }
    if key.per_route {
        text += " Per route.";
    }
    let line = match (key.default, key.example) {
        (Some(default), _) => format!("{leaf} = {}", toml(key, default)),
        (None, Some(example)) => format!("# {leaf} = {example}"),
        (None, None) => format!("# {leaf} has no default"),
    };
    format!("{}{line}\n", comment(&text))
}

/// A default, in the spelling of the file.
fn toml(key: &Key, text: &str) -> String {
    let is_bare = match key.kind.shape {
        Shape::Count | Shape::Fraction | Shape::Prefix => text != "off",
        Shape::Bool | Shape::BoolOrAuto => text != "auto",
        _ => false,
    };
    if is_bare {
        text.to_owned()
    } else if key.kind.is_list() {
        let items = text.split(',').filter(|item| !item.is_empty());
        let items: Vec<String> = items.map(|item| format!("\"{item}\"")).collect();
        format!("[{}]", items.join(", "))
    } else if text.contains('"') {
        format!("'{text}'")
    } else {
        format!("\"{text}\"")
    }
}

/// The text as comment lines.
fn comment(text: &str) -> String {
    let (mut lines, mut line) = (String::new(), String::from("#"));
    for word in text.split(' ') {
        if line.chars().count() + 1 + word.chars().count() > WIDTH {
            lines += &std::mem::replace(&mut line, String::from("#"));
            lines.push('\n');
        }
        line.push(' ');
        line += word;
    }
    format!("{lines}{line}\n")
}

/// Compares a file with what it should contain, or writes it.
fn compare(path: &str, expected: &str) -> Result {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join(path);
    let text = fs::read_to_string(&path)?;
    if text == expected {
        return Ok(());
    }
    if std::env::var_os("UPDATE").is_some() {
        return Ok(fs::write(&path, expected)?);
    }
    let mut lines = text.lines().chain([""]).zip(expected.lines().chain([""]));
    let (line, should_be) = lines.find(|(a, b)| a != b).unwrap_or_default();
    let path = path.display();
    panic!("{path} has\n{line}\nin place of\n{should_be}\nTo write the tables:\n{COMMAND}");
}

/// The tables of the reference, with that of listeners behind the keys that it replaces.
fn reference() -> String {
    let (top, others) = TABLES.split_at(1);
    let tables = top.iter().chain([&LISTENER]).chain(others);
    let tables: Vec<String> = tables.map(reference_of).collect();
    tables.join("\n")
}

fn sample() -> String {
    let tables: Vec<String> = TABLES.iter().map(sample_of).collect();
    tables.join("\n")
}

/// The example of a listener in the sample config. Its lines are indented: all keys of the sample are valid
/// together, and listeners stand in place of `listen`.
fn sample_listener() -> String {
    let mut text = format!("# Listeners: {}\n#\n#   [[listener]]\n", LISTENER.about);
    for key in LISTENER.keys {
        let leaf = key.name.trim_start_matches("listener.");
        let help = comment(&format!("  {}.", key.help)).replace("\n# ", "\n#   ");
        text += &help;
        let example = key.example.or(key.default).unwrap_or_default();
        text += &format!("#   {leaf} = {example}\n");
    }
    text
}

#[test]
fn key_tables_of_the_reference_are_those_of_the_code() -> Result {
    let path = "docs/configuration.md";
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path))?;
    let (start, _) = text.split_once(REFERENCE_START).ok_or("no tables")?;
    compare(path, &format!("{start}{}", reference()))
}

#[test]
fn key_tables_of_the_sample_config_are_those_of_the_code() -> Result {
    let path = "deploy/sse-guard.toml";
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path))?;
    let (start, keys) = text.split_once(SAMPLE_START).ok_or("no keys")?;
    let (_, end) = keys.split_once(SAMPLE_END).ok_or("no end")?;
    let keys = sample();
    let listener = sample_listener();
    compare(
        path,
        &format!("{start}{SAMPLE_START}{keys}\n{listener}\n{SAMPLE_END}{end}"),
    )
}

/// Rust source below a folder that does not belong to unit tests, with its path.
fn sources(folder: &Path, all: &mut Vec<(String, String)>) -> Result {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            sources(&path, all)?;
        } else if !path.ends_with("tests.rs") {
            let text = fs::read_to_string(&path)?;
            let code = text.split("mod tests").next().unwrap_or_default();
            all.push((path.display().to_string(), code.to_owned()));
        }
    }
    Ok(())
}

/// Adding a key takes its section, and nothing else of the config.
#[test]
fn keys_are_named_in_the_section_of_their_table_alone() -> Result {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/config");
    let mut all = Vec::new();
    sources(&folder, &mut all)?;
    // Names outside of tables are words that stand elsewhere, too.
    for table in TABLES.iter().filter(|table| !table.name.is_empty()) {
        let section = format!("sections/{}.rs", table.name.replace('.', "/"));
        for key in table.keys {
            let literal = format!("\"{}\"", key.name);
            let named = all.iter().filter(|(_, code)| code.contains(&literal));
            let named: Vec<_> = named.map(|(path, _)| path).collect();
            let file = match key.name {
                // A route without it is a mistake; that is checked before tables are read.
                "upstream.url" => "given.rs",
                _ => &section,
            };
            // Warnings of another section may name it.
            let is_right = |path: &&String| path.ends_with(file) || path.contains("/sections/");
            let is_alone =
                named.iter().any(|path| path.ends_with(file)) && named.iter().all(is_right);
            assert!(is_alone, "{}: {named:?}", key.name);
        }
    }
    Ok(())
}
