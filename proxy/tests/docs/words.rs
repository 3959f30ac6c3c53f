//! What a user reads is plain technical English: texts of the binary, the docs and the files in `deploy/` contain
//! none of the phrases that had to be read twice.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use sse_guard_proxy::config::KEYS;
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
    ("is well", "is healthy"),
    ("are well", "are healthy"),
    ("goes on", "continues"),
    ("go on", "continue"),
    ("going on", "continuing"),
    ("gave up forever", "does not reconnect"),
    ("comes to mean", "resolves to, or becomes"),
    ("comes by", "gets"),
    ("has to be", "must be"),
    ("have to be", "must be"),
    ("has to come", "is required"),
    ("what holds", "the effective value"),
    ("holds to", "keeps"),
    ("of ours", "of sse-guard"),
    ("ask", "request, or check"),
    ("asks", "requests, or checks"),
    ("asked", "requested"),
    ("say", "send, name or report"),
    ("says", "sends, names or reports"),
    ("said", "sent"),
    ("tell", "report, show or distinguish"),
    ("tells", "reports, shows or distinguishes"),
    ("told", "got, or was notified"),
    ("want", "require"),
    ("wants", "requires"),
    ("wanted", "required"),
    ("who", "name the component"),
    ("whom", "name the component"),
    ("steer", "control"),
    ("steers", "controls"),
    ("turn away", "reject"),
    ("turns away", "rejects"),
    ("turned away", "rejected"),
    ("put off", "deferred"),
    ("answers with", "responds with"),
    ("answered with", "responded with"),
    ("upstream answers", "upstream responds"),
    ("upstream answered", "upstream responded"),
    ("upstream has answered", "upstream has responded"),
    ("upstream has not answered", "upstream has not responded"),
    ("does not answer", "does not respond"),
    ("answer with", "respond with"),
    ("answers everything", "sends all responses"),
    ("answers in place", "responses in place"),
    ("answers of the proxy", "responses of the proxy"),
];

/// The banned phrases in a text, with `place`.
fn check(place: &str, text: &str, found: &mut Vec<String>) {
    // `Whose` without the thing that owns: "Whose streams they are". In the middle of a sentence it is plain.
    if text.split_whitespace().any(|word| word == "Whose") {
        found.push(format!("{place}: \"Whose\" (name the thing) in \"{text}\""));
    }
    let words: Vec<String> = prose(text)
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
    let source = without_tests(source);
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

/// A text without its code in backticks, and without the names of values in braces.
fn prose(text: &str) -> String {
    let outside: String = text.split('`').step_by(2).collect::<Vec<_>>().join(" ");
    let mut parts = outside.split('{');
    let mut prose = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let behind = part.split_once('}').map(|(_, behind)| behind);
        prose.push(' ');
        prose.push_str(behind.unwrap_or(part));
    }
    prose
}

/// The source up to its unit tests, if those are in the file: `mod tests;` stands at the top of many.
fn without_tests(source: &str) -> &str {
    source.split("#[cfg(test)]\nmod tests {").next().unwrap()
}

/// The paragraphs of comments, without those of unit tests.
fn paragraphs(source: &str) -> Vec<String> {
    let source = without_tests(source);
    let mut list = vec![String::new()];
    for line in source.lines().map(str::trim_start) {
        let docs = line.strip_prefix("///").or(line.strip_prefix("//!"));
        let text = docs.or(line.strip_prefix("//"));
        match text.map(str::trim) {
            Some(text) if !text.is_empty() => {
                let last = list.last_mut().unwrap();
                last.push_str(text);
                last.push(' ');
            }
            _ => list.push(String::new()),
        }
    }
    list.retain(|text| !text.is_empty());
    list
}

/// The first paragraphs of the docs of modules and of items that begin with `pub`.
fn summaries(source: &str) -> Vec<String> {
    let source = without_tests(source);
    let (mut list, mut docs, mut is_over) = (Vec::new(), String::new(), false);
    for line in source.lines().map(str::trim_start) {
        let of_module = line.strip_prefix("//!");
        match of_module.or(line.strip_prefix("///")).map(str::trim) {
            Some("") => is_over |= !docs.is_empty(),
            Some(_) if is_over => {}
            Some(text) => docs = format!("{docs}{text} "),
            None if line.starts_with("#[") => {}
            None => {
                let text = std::mem::take(&mut docs);
                if line.starts_with("pub ") || (line.is_empty() && list.is_empty()) {
                    list.push(text);
                }
                is_over = false;
            }
        }
    }
    list.retain(|text| !text.is_empty());
    list
}

fn assert_plain(found: &[String]) {
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// Of the repository.
fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// Rust source below a folder, without files of unit tests.
fn sources(folder: &str) -> Vec<PathBuf> {
    let mut sources = Vec::new();
    files(&root().join(folder), &["rs"], &mut sources);
    sources.retain(|path| {
        // The repository itself may be in a folder of that name.
        let mut parts = path.strip_prefix(root()).unwrap().iter();
        !path.ends_with("tests.rs") && parts.all(|part| part != "tests")
    });
    sources
}

#[test]
fn help_is_plain() {
    let mut found = Vec::new();
    for args in [
        &["--help"][..],
        &["check", "--help"],
        &["health", "--help"],
        &["demo", "--help"],
    ] {
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
    let (mut found, mut count) = (Vec::new(), 0);
    for path in sources("src").iter().chain(&sources("proxy/src")) {
        for text in literals(&fs::read_to_string(path).unwrap()) {
            count += 1;
            check(&path.display().to_string(), &text, &mut found);
        }
    }
    assert!(count > 1_000, "only {count} texts were found");
    assert_plain(&found);
}

/// Texts of a script: in quotes and in templates, without lines of comments.
fn script_texts(source: &str) -> Vec<String> {
    let is_code = |line: &&str| {
        let line = line.trim_start();
        !line.starts_with("//") && !line.starts_with("/*") && !line.starts_with('*')
    };
    let code: Vec<&str> = source.lines().filter(is_code).collect();
    let code = code.join("\n").replace("${", "{");
    let quoted = code.split('"').skip(1).step_by(2);
    let templates = code.split('`').skip(1).step_by(2);
    quoted.chain(templates).map(str::to_owned).collect()
}

/// Texts of a page between its tags.
fn page_texts(source: &str) -> Vec<String> {
    let (_, body) = source.split_once("<body>").unwrap();
    let texts = body.split('<').filter_map(|tag| tag.split_once('>'));
    texts.map(|(_, text)| text.to_owned()).collect()
}

#[test]
fn pages_are_plain() {
    let (mut found, mut count, mut pages) = (Vec::new(), 0, Vec::new());
    files(&root().join("proxy/src"), &["html", "js"], &mut pages);
    for path in &pages {
        let source = fs::read_to_string(path).unwrap();
        let texts = match path.extension().is_some_and(|kind| kind == "js") {
            true => script_texts(&source),
            false => page_texts(&source),
        };
        for text in texts {
            count += 1;
            check(&path.display().to_string(), &text, &mut found);
        }
    }
    assert!(pages.len() > 15, "{pages:?}");
    assert!(count > 500, "only {count} texts were found");
    assert_plain(&found);
}

#[test]
fn comments_of_the_proxy_are_plain() {
    let (mut found, mut count) = (Vec::new(), 0);
    for path in &sources("proxy/src") {
        for text in paragraphs(&fs::read_to_string(path).unwrap()) {
            count += 1;
            check(&path.display().to_string(), &text, &mut found);
        }
    }
    assert!(count > 800, "only {count} paragraphs were found");
    assert_plain(&found);
}

/// Modules of the library whose comments are checked as a whole, not only the first sentences of their docs.
const PLAIN_MODULES: &[&str] = &[
    "accessors",
    "answer",
    "client_key",
    "completion",
    "connection_auth",
    "connection_limit",
    "cors",
    "describe",
    "early",
    "event",
    "guard",
    "heartbeat",
    "idle_timeout",
    "inject",
    "jitter",
    "last_event_id",
    "lib.rs",
    "lock",
    "log_limit",
    "metrics",
    "own_layer",
    "rate",
    "rejection",
    "request_info",
    "resume",
    "retry_after",
    "rotation",
    "serve",
    "stack",
    "stream",
    "stream_requested",
    "unavailable",
    "wire",
];

#[test]
fn comments_of_the_librarys_plain_modules_are_plain() {
    let (mut found, mut count) = (Vec::new(), 0);
    let src = root().join("src");
    for path in &sources("src") {
        let module = path.strip_prefix(&src).unwrap().to_str().unwrap();
        if !PLAIN_MODULES.iter().any(|plain| module.starts_with(plain)) {
            continue;
        }
        for text in paragraphs(&fs::read_to_string(path).unwrap()) {
            count += 1;
            check(&path.display().to_string(), &text, &mut found);
        }
    }
    assert!(count > 350, "only {count} paragraphs were found");
    assert_plain(&found);
}

#[test]
fn first_sentences_of_the_librarys_docs_are_plain() {
    let (mut found, mut count) = (Vec::new(), 0);
    for path in sources("src").iter().chain(&sources("proxy/src")) {
        for text in summaries(&fs::read_to_string(path).unwrap()) {
            count += 1;
            check(&path.display().to_string(), &text, &mut found);
        }
    }
    assert!(count > 500, "only {count} were found");
    assert_plain(&found);
}

#[test]
fn docs_and_deploy_files_are_plain() {
    let mut texts = vec![root().join("README.md"), root().join("CONTRIBUTING.md")];
    files(&root().join("docs"), &["md"], &mut texts);
    let kinds = ["md", "toml", "yml", "json", "service", "socket"];
    files(&root().join("deploy"), &kinds, &mut texts);
    texts.push(root().join("deploy/docker/Dockerfile"));
    assert!(texts.len() > 8, "{texts:?}");
    let mut found = Vec::new();
    for path in &texts {
        let mut text = fs::read_to_string(path).unwrap();
        let is_unit = path
            .extension()
            .is_none_or(|kind| kind == "service" || kind == "socket");
        if is_unit {
            let is_text = |line: &&str| line.starts_with('#') || line.starts_with("Description=");
            text = text.lines().filter(is_text).collect::<Vec<_>>().join("\n");
        }
        for paragraph in text.split("\n\n") {
            check(&path.display().to_string(), paragraph, &mut found);
        }
    }
    assert_plain(&found);
}

#[test]
fn banned_phrase_is_found_across_a_line_break() {
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
