//! The library's modules import downwards only: a module depends on modules above it in [`ORDER`], and on none
//! below. So there is no circle, and each module can be read and tested with those above it alone.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::fs;
use std::path::{Path, PathBuf};

/// The modules of `src/`, each with the reason for its place.
const ORDER: &[(&str, &str)] = &[
    // Helpers.
    ("accessors", "a macro"),
    ("lock", "a mutex that outlives a panic"),
    ("jitter", "random times"),
    ("rate", "a count per time, jittered"),
    ("log_limit", "a rate of log lines"),
    // HTTP and the wire format.
    (
        "wire",
        "the bytes of events: the only module with their syntax",
    ),
    ("event", "one validated event that this crate writes"),
    ("head", "headers"),
    ("family", "client families: headers and first events"),
    ("retry_after", "a header, bounded by the family"),
    ("last_event_id", "a header, or a parameter of the query"),
    ("client_key", "which client a request is from"),
    ("connection_auth", "authentication that binds a connection"),
    // Facts about one request and one stream.
    ("stream", "the record of a stream, which layers share"),
    (
        "stream_requested",
        "what a request's body shows of its response",
    ),
    (
        "request_info",
        "what a request's head shows, and its response",
    ),
    ("answer", "bodies of this crate's own responses"),
    ("rejection", "responses in place of a stream"),
    (
        "cors",
        "headers on this crate's own responses, also on rejections",
    ),
    // The mechanism of all layers.
    ("guard", "service, future, body and policy"),
    // The server, and the layers.
    ("rotation", "ends streams; the server drains by it"),
    (
        "serve",
        "the server; limits count its connections, and resume drops their handles",
    ),
    ("heartbeat", "a layer"),
    (
        "idle_timeout",
        "a layer; its default retry is that of rotation",
    ),
    ("inject", "a layer"),
    ("completion", "a layer"),
    (
        "connection_limit",
        "a layer; preflights of CORS count apart",
    ),
    ("early", "a layer; begins with the interval of heartbeats"),
    ("unavailable", "a layer; resume reads its list of statuses"),
    ("resume", "a layer"),
    ("metrics", "a layer; no other layer depends on it"),
    // All together.
    ("own_layer", "docs of a layer outside the crate"),
    ("stack", "all layers in their order"),
    ("describe", "the metrics of all layers"),
];

fn sources(dir: &Path, list: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let is_test = ["tests", "testing", "properties", "reference"]
            .iter()
            .any(|name| path.file_stem().is_some_and(|stem| stem == *name));
        match path.is_dir() {
            _ if is_test => {}
            true => sources(&path, list),
            false => list.push(path),
        }
    }
}

/// The code of a file, without comments and unit tests.
fn code(path: &Path) -> String {
    let source = fs::read_to_string(path).unwrap();
    let code = source.split("\nmod tests {").next().unwrap();
    let lines = code.lines();
    let lines = lines.filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

/// The names behind `crate::`, also those of a list.
fn imports(code: &str) -> Vec<String> {
    let is_ident = |c: char| c.is_alphanumeric() || c == '_';
    let mut found = Vec::new();
    for rest in code.split("crate::").skip(1) {
        match rest.strip_prefix('{') {
            None => found.push(rest.split(|c| !is_ident(c)).next().unwrap().to_owned()),
            Some(list) => {
                let (mut depth, mut item) = (0, String::new());
                for c in list.chars() {
                    match c {
                        '}' if depth == 0 => break,
                        ',' if depth == 0 => found.push(std::mem::take(&mut item)),
                        '{' => depth += 1,
                        '}' => depth -= 1,
                        _ if depth == 0 => item.push(c),
                        _ => {}
                    }
                }
                found.push(item);
            }
        }
    }
    let top = |name: String| name.trim().split("::").next().unwrap().to_owned();
    let mut found: Vec<String> = found.into_iter().map(top).collect();
    found.retain(|name| !name.is_empty());
    found
}

fn place(module: &str) -> Option<usize> {
    ORDER.iter().position(|(name, _)| *name == module)
}

#[test]
fn imports_of_a_list_and_of_single_names_are_found() {
    let code = "use crate::a::B; use crate::{c, d::{E, F}, g};\nlet x = crate::h::i();";
    assert_eq!(imports(code), ["a", "c", "d", "g", "h"]);
}

#[test]
fn modules_import_only_modules_above_them() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut files, mut wrong) = (Vec::new(), Vec::new());
    sources(&root, &mut files);
    assert!(files.len() > ORDER.len());
    for file in files {
        let relative = file.strip_prefix(&root).unwrap();
        let module = relative.iter().next().unwrap().to_str().unwrap();
        let module = module.trim_end_matches(".rs");
        if module == "lib" {
            continue;
        }
        let Some(own) = place(module) else {
            wrong.push(format!("{module} is not listed"));
            continue;
        };
        for import in imports(&code(&file)) {
            match place(&import) {
                Some(other) if other <= own => {}
                Some(_) => wrong.push(format!("{} imports {import}", relative.display())),
                None => wrong.push(format!("{} imports crate::{import}", relative.display())),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn families_are_named_only_in_their_table() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut files, mut wrong) = (Vec::new(), Vec::new());
    sources(&root.join("src"), &mut files);
    for file in files {
        let relative = file.strip_prefix(root).unwrap().display().to_string();
        // `Raw` is the family of what is unknown: the default everywhere.
        let names = ["EventSource", "OpenAi", "Anthropic", "Mcp"];
        let code = code(&file);
        let is_named = |name: &&str| code.contains(&format!("Family::{name}"));
        if !relative.starts_with("src/family") {
            let found = names.iter().filter(|name| is_named(name));
            wrong.extend(found.map(|name| format!("{relative} names Family::{name}")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
