//! What a user reads is plain technical English: texts of the binary, the docs and the files in `deploy/` contain
//! none of the phrases that had to be read twice.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use sse_guard::proxy::config::KEYS;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A phrase, in lower case, and what to write instead.
const BANNED: &[(&str, &str)] = &[
    ("can not", "cannot"),
    ("for ever", "forever"),
    ("for want of", "for lack of"),
    ("in vain", "without success"),
    ("so long", "this long"),
    ("so many", "this many"),
    ("is no", "is not a"),
    ("are no", "are not"),
    ("nobody", "name the component, or use the passive"),
    ("somebody", "name the component"),
    ("anybody", "any client"),
    ("whoever", "name the component"),
    ("hear", "receive"),
    ("hears", "receives"),
    ("heard", "received"),
    ("heed", "honour, or act on"),
    ("heeds", "honours, or acts on"),
    ("speak", "send"),
    ("speaks", "sends"),
    ("is told", "gets"),
    ("are told", "get"),
    ("was told", "got"),
    ("were told", "got"),
    ("looks at", "reads, or checks"),
    ("is asked", "gets a request"),
    ("are asked", "get a request"),
    ("puts up with", "accepts"),
    ("put up with", "accept"),
    ("its word", "its value"),
    ("last word", "last event"),
    ("last words", "last events"),
    ("given up for good", "ended"),
    ("by nature", "by design"),
    ("go on with", "continue"),
    ("going on without", "continuing without"),
    ("goes round", "loops"),
    ("there is room again", "below the budget again"),
    ("another chance", "a retry"),
    ("unasked", "without a request"),
];

/// The banned phrases in a text, with `place`.
fn check(place: &str, text: &str, found: &mut Vec<String>) {
    let words: Vec<String> = text
        .split(|c: char| !c.is_alphanumeric() && c != '\'' && c != '_')
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect();
    let text = format!(" {} ", words.join(" "));
    for (phrase, instead) in BANNED {
        if let Some(at) = text.find(&format!(" {phrase} ")) {
            let start = text[..at]
                .char_indices()
                .rev()
                .nth(40)
                .map_or(0, |(i, _)| i);
            let around: String = text[start..].chars().take(100).collect();
            found.push(format!(
                "{place}: \"{phrase}\" (write: {instead}) in \"..{around}..\""
            ));
        }
    }
}

fn files(dir: &Path, extensions: &[&str], list: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            files(&path, extensions, list);
        } else if path
            .extension()
            .is_some_and(|extension| extensions.iter().any(|wanted| extension == *wanted))
        {
            list.push(path);
        }
    }
}

/// The string literals of Rust source, without comments and unit tests: texts of logs and errors among them.
fn literals(source: &str) -> Vec<String> {
    let source = source.split("#[cfg(test)]\nmod tests").next().unwrap();
    let (mut list, mut rest) = (Vec::new(), source);
    while let Some(at) = rest.find(['"', '/', '\'']) {
        let tail = &rest[at..];
        if tail.starts_with("//") {
            rest = tail.split_once('\n').map_or("", |(_, rest)| rest);
        } else if tail.starts_with("'\"'") || tail.starts_with("'\\\"'") {
            rest = &tail[3..];
        } else if let Some(inner) = tail.strip_prefix('"') {
            let (mut text, mut chars) = (String::new(), inner.char_indices());
            let mut end = inner.len();
            while let Some((i, c)) = chars.next() {
                match c {
                    '"' => {
                        end = i + 1;
                        break;
                    }
                    '\\' => {
                        chars.next();
                        text.push(' ');
                    }
                    c => text.push(c),
                }
            }
            list.push(text);
            rest = &inner[end..];
        } else {
            rest = &tail[1..];
        }
    }
    list
}

fn assert_plain(found: &[String]) {
    assert!(found.is_empty(), "{}", found.join("\n"));
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn help_is_plain() {
    let mut found = Vec::new();
    for args in [&["--help"][..], &["check", "--help"], &["demo", "--help"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_sse-guard"))
            .args(args)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("Usage:"), "{text}");
        check(&format!("sse-guard {}", args.join(" ")), &text, &mut found);
    }
    for key in KEYS {
        check(key.name, key.help, &mut found);
    }
    assert_plain(&found);
}

#[test]
fn logs_and_errors_are_plain() {
    let (mut sources, mut found, mut count) = (Vec::new(), Vec::new(), 0);
    files(&root().join("src"), &["rs"], &mut sources);
    sources
        .retain(|path| !path.ends_with("tests.rs") && !path.to_string_lossy().contains("/tests/"));
    for path in &sources {
        for text in literals(&fs::read_to_string(path).unwrap()) {
            count += 1;
            check(&path.display().to_string(), &text, &mut found);
        }
    }
    assert!(count > 1_000, "only {count} texts were found");
    assert_plain(&found);
}

#[test]
fn docs_and_deploy_files_are_plain() {
    let mut texts = vec![root().join("README.md"), root().join("CONTRIBUTING.md")];
    files(&root().join("docs"), &["md"], &mut texts);
    let kinds = ["md", "toml", "yml", "service", "socket"];
    files(&root().join("deploy"), &kinds, &mut texts);
    assert!(texts.len() > 8, "{texts:?}");
    let mut found = Vec::new();
    for path in &texts {
        let text = fs::read_to_string(path).unwrap();
        for paragraph in text.split("\n\n") {
            check(&path.display().to_string(), paragraph, &mut found);
        }
    }
    assert_plain(&found);
}

#[test]
fn a_banned_phrase_is_found_across_a_line_break() {
    let mut found = Vec::new();
    check("here", "The client can\n# not connect.", &mut found);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(
        literals(
            r#"let a = "one"; // "two"
        error!("three \
                four", '"')"#
        )
        .len(),
        2
    );
}
