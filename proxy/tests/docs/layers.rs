//! The modules of `proxy/src` are layers: each uses those below it alone, so that there is no import circle.
//!
//! A module here is a file. Its `use` lines, and `crate::` paths in its code, are its imports; tests do not count.
//! A file and the one that declares it are one unit in one direction: a submodule may use its parent, and what
//! the parent re-exports counts as the submodule that it comes from.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

/// From the lowest to the highest layer: a module imports only from layers above its own in this list, or from
/// its own layer. A folder stands for all files in it, unless one of them is listed.
const LAYERS: &[(&str, &[&str])] = &[
    (
        "leaves: each does one thing, and knows nothing of this proxy",
        &[
            "activation",
            "cgroup",
            "client_keys",
            "control",
            "ended",
            "fd_limit",
            "json_stream_flag",
            "memory",
            "off_thread",
            "percent",
            "phase",
            "tls",
        ],
    ),
    (
        "notifications of systemd, which name the phase",
        &["notify"],
    ),
    ("paths and targets of requests", &["path", "request_target"]),
    ("what a proxy does to header fields", &["headers"]),
    ("the config: its keys, sources and values", &["config"]),
    (
        "what needs no more than the config",
        &[
            "acme",
            "demo",
            "health_command",
            "listen",
            "logging",
            "request_context",
            "request_log",
            "watch",
        ],
    ),
    ("the upstream: connections, pool, requests", &["upstream"]),
    (
        "load shedding by budgets of memory and files",
        &["overload"],
    ),
    ("reading the config again", &["config_reader"]),
    ("what outlives a reload", &["carryover"]),
    (
        "the routes of one config",
        &["route/table", "route/stack", "route/prepare", "route"],
    ),
    ("health of routes and upstreams", &["health"]),
    (
        "the running proxy: active config, carryover, health",
        &["state"],
    ),
    ("the service that clients reach", &["route/handler"]),
    ("the listeners while the proxy runs", &["listeners"]),
    ("the admin address", &["admin"]),
    (
        "periodic work; a reload under way; the shutdown",
        &["maintenance", "reload", "shutdown"],
    ),
    (
        "serving and reloading, until a command to stop",
        &["server"],
    ),
    ("the command line", &["cli"]),
    ("the crate, and the binary", &["lib", "main"]),
];

fn source() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))
}

/// The text of each module by its path, such as `admin/streams`.
type Sources = BTreeMap<String, String>;

/// Which modules each module imports.
type Imports = BTreeMap<String, BTreeSet<String>>;

fn read(folder: &Path, root: &Path, sources: &mut Sources) -> Result {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            read(&path, root, sources)?;
            continue;
        }
        let name = path.strip_prefix(root)?.with_extension("");
        let name = name.to_string_lossy().into_owned();
        if path.extension().is_some_and(|its| its == "rs")
            && !name.split('/').any(|part| part == "tests")
        {
            sources.insert(name, without_tests(&fs::read_to_string(path)?));
        }
    }
    Ok(())
}

/// Without comments, and without the module of tests, which is the last item of its file.
fn without_tests(text: &str) -> String {
    let code = text
        .split("#[cfg(test)]\nmod tests {")
        .next()
        .unwrap_or_default();
    let lines = code
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

/// The paths that a text names: from `crate::`, `super::` or `self::` on, or from one of these submodules on.
fn paths(text: &str, submodules: &[&str]) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for root in ["crate", "super", "self"].iter().chain(submodules) {
        for (start, _) in text.match_indices(&format!("{root}::")) {
            let before = text[..start].chars().next_back();
            if !before.is_some_and(|char| char.is_alphanumeric() || "_:".contains(char)) {
                expand(&text[start..], &mut Vec::new(), &mut found);
            }
        }
    }
    found
}

/// Adds the path at the start of `text` to `found`, and returns what follows it.
fn expand<'a>(text: &'a str, path: &mut Vec<String>, found: &mut Vec<Vec<String>>) -> &'a str {
    let depth = path.len();
    let mut text = text.trim_start();
    loop {
        if let Some(mut group) = text.strip_prefix('{') {
            while !group.starts_with('}') && !group.is_empty() {
                group = expand(group, path, found).trim_start();
                group = group.strip_prefix(',').unwrap_or(group).trim_start();
            }
            path.truncate(depth);
            return group.strip_prefix('}').unwrap_or(group);
        }
        let end = text.find(|char: char| !char.is_alphanumeric() && char != '_');
        let (name, rest) = text.split_at(end.unwrap_or(text.len()));
        path.push(name.to_owned());
        match rest.strip_prefix("::") {
            Some(rest) => text = rest,
            None => {
                found.push(path.clone());
                path.truncate(depth);
                // The rest of `as name`, of a `*` or of an attribute does not matter.
                let end = rest.find([',', '}', ';']).unwrap_or(rest.len());
                return if depth == 0 { rest } else { &rest[end..] };
            }
        }
    }
}

fn parent(module: &str) -> Option<&str> {
    module.rsplit_once('/').map(|(parent, _)| parent)
}

fn submodules<'a>(sources: &'a Sources, module: &str) -> Vec<&'a str> {
    let all = sources.keys().filter_map(|name| match module {
        "lib" => Some(name.as_str()),
        _ => name.strip_prefix(module)?.strip_prefix('/'),
    });
    all.filter(|name| !name.contains('/')).collect()
}

/// The module that `path` leads to from `module`, and the name behind it.
fn resolve(sources: &Sources, module: &str, path: &[String]) -> Option<(String, Option<String>)> {
    let mut at: Vec<&str> = match path.first()?.as_str() {
        "crate" => Vec::new(),
        _ if module == "lib" => Vec::new(),
        _ => module.split('/').collect(),
    };
    let mut rest = path.iter().map(String::as_str).peekable();
    while let Some(root) = rest.next_if(|part| ["crate", "super", "self"].contains(part)) {
        if root == "super" {
            at.pop()?;
        }
    }
    while let Some(part) = rest.peek() {
        at.push(part);
        if !sources.contains_key(&at.join("/")) {
            at.pop();
            break;
        }
        rest.next();
    }
    // Items of the root are in `lib`.
    let found = match at.is_empty() {
        true => "lib".to_owned(),
        false => at.join("/"),
    };
    Some((found, rest.next().map(str::to_owned)))
}

/// Whether a text declares an item of this name.
fn declares(text: &str, name: &str) -> bool {
    let kinds = [
        "struct", "enum", "type", "fn", "const", "trait", "static", "mod",
    ];
    kinds.iter().any(|kind| {
        let item = format!("{kind} {name}");
        let mut found = text.match_indices(&item);
        found.any(|(at, found)| {
            let next = text[at + found.len()..].chars().next();
            !next.is_some_and(|char| char.is_alphanumeric() || char == '_')
        })
    })
}

/// The module that a name of `module` comes from, if `module` imports it itself.
fn origin(sources: &Sources, module: &str, name: &str) -> Option<String> {
    let text = sources.get(module)?;
    if declares(text, name) {
        return None;
    }
    let all = paths(text, &submodules(sources, module));
    let all = all
        .iter()
        .filter(|path| path.last().is_some_and(|last| last == name));
    let mut origins = all.filter_map(|path| resolve(sources, module, path));
    origins
        .find(|(origin, _)| origin != module)
        .map(|(origin, _)| origin)
}

/// A text without what it re-exports, and that.
fn split_re_exports(text: &str) -> (String, String) {
    let is_re_export = |statement: &str| {
        let statement = statement.trim_start();
        let vis = statement.strip_prefix("pub");
        let vis = vis.map(|rest| {
            rest.split_once(") ")
                .map_or(rest, |(_, rest)| rest)
                .trim_start()
        });
        vis.is_some_and(|rest| rest.starts_with("use "))
    };
    let statements = text.split_inclusive(';');
    let (re_exports, code): (Vec<_>, Vec<_>) =
        statements.partition(|statement| is_re_export(statement));
    (code.concat(), re_exports.concat())
}

fn imports(sources: &Sources) -> Imports {
    let mut imports = Imports::new();
    for (module, text) in sources {
        let submodules = submodules(sources, module);
        let (code, re_exports) = split_re_exports(text);
        let code = paths(&code, &submodules)
            .into_iter()
            .map(|path| (path, false));
        let re_exports = paths(&re_exports, &submodules)
            .into_iter()
            .map(|path| (path, true));
        let mut all = BTreeSet::new();
        for (path, is_re_export) in code.chain(re_exports) {
            let Some((mut target, name)) = resolve(sources, module, &path) else {
                continue;
            };
            if let Some(origin) = name.and_then(|name| origin(sources, &target, &name)) {
                target = origin;
            }
            let is_parent = format!("{module}/").starts_with(&format!("{target}/"));
            let is_own = target.starts_with(&format!("{module}/"));
            if !is_parent && target != "lib" && !(is_own && is_re_export) {
                all.insert(target);
            }
        }
        imports.insert(module.clone(), all);
    }
    imports
}

/// Modules that import each other, in the order of the circle.
fn circle(imports: &Imports) -> Option<Vec<String>> {
    fn visit(
        imports: &Imports,
        module: &str,
        on: &mut Vec<String>,
        done: &mut BTreeSet<String>,
    ) -> Option<Vec<String>> {
        if let Some(start) = on.iter().position(|known| known == module) {
            return Some(on[start..].to_vec());
        }
        if done.contains(module) {
            return None;
        }
        on.push(module.to_owned());
        let next = imports.get(module).into_iter().flatten();
        let found = next
            .into_iter()
            .find_map(|next| visit(imports, next, on, done));
        on.pop();
        done.insert(module.to_owned());
        found
    }
    let mut done = BTreeSet::new();
    imports
        .keys()
        .find_map(|module| visit(imports, module, &mut Vec::new(), &mut done))
}

fn layer(module: &str) -> Option<usize> {
    let mut name = Some(module);
    while let Some(part) = name {
        if let Some(layer) = LAYERS.iter().position(|(_, names)| names.contains(&part)) {
            return Some(layer);
        }
        name = parent(part);
    }
    None
}

fn of_the_proxy() -> Result<Sources> {
    let mut sources = Sources::new();
    read(&source(), &source(), &mut sources)?;
    Ok(sources)
}

#[test]
fn modules_import_only_from_their_own_layer_and_those_below() -> Result {
    let sources = of_the_proxy()?;
    let mut wrong = Vec::new();
    for (module, imported) in imports(&sources) {
        let Some(own) = layer(&module) else {
            wrong.push(format!("{module} is in no layer: add it to the list"));
            continue;
        };
        let above = imported.iter().filter(|other| layer(other) > Some(own));
        wrong.extend(above.map(|other| format!("{module} imports {other}, which is above it")));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    for name in LAYERS.iter().flat_map(|(_, names)| *names) {
        assert!(sources.contains_key(*name), "there is no module {name}");
    }
    Ok(())
}

#[test]
fn modules_have_no_import_circle() -> Result {
    assert_eq!(circle(&imports(&of_the_proxy()?)), None);
    Ok(())
}

#[test]
fn circle_is_found_in_each_spelling_of_an_import() {
    let of = |texts: &[(&str, &str)]| {
        let texts = texts
            .iter()
            .map(|(module, text)| ((*module).to_owned(), (*text).to_owned()));
        circle(&imports(&texts.collect()))
    };
    let admin = (
        "admin",
        "mod log;\npub(super) use log::Log;\nuse super::state::State;",
    );
    let log = ("admin/log", "pub(crate) struct Log;");
    for text in [
        "use super::admin::{self, Log};",
        "use crate::{lock, admin::serve};",
        "use crate::admin::serve;",
        "fn f() { crate::admin::serve() }",
        "use super::{\n    listen,\n    admin::{\n        serve,\n    },\n};",
    ] {
        let found = of(&[admin, log, ("state", text)]);
        assert!(found.is_some_and(|found| found.len() == 2), "{text}");
    }
    // What comes from a submodule that imports nothing.
    assert_eq!(of(&[admin, log, ("state", "use super::admin::Log;")]), None);
    let using = (
        "admin/log",
        "use crate::state::State;\npub(crate) struct Log;",
    );
    assert!(of(&[admin, using, ("state", "use super::admin::Log;")]).is_some());
    // A submodule and its parent are one unit; two submodules are not.
    assert_eq!(
        of(&[
            ("a", "mod b;\nuse b::B;\nstruct A;"),
            ("a/b", "use super::A;")
        ]),
        None
    );
    let siblings = [
        ("a", ""),
        ("a/b", "use super::c::C;"),
        ("a/c", "use super::b::B;"),
    ];
    assert!(of(&siblings).is_some());
}
