//! Which types of other crates the public interface names: a new major version of one of those crates is one of
//! this crate, too.
//!
//! A compiler's own list (`cargo public-api`, rustdoc's JSON) needs a nightly toolchain. This reads the
//! signatures of public items in the sources: the lint `unreachable_pub` makes sure that `pub` means public.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

/// The types and traits of other crates that the public interface may name.
const NAMED: &[&str] = &[
    "bytes::Bytes",
    "http::Extensions",
    "http::HeaderMap",
    "http::Method",
    "http::Request",
    "http::Response",
    "http::StatusCode",
    "http::Uri",
    "http_body::Body",
    "ipnet::IpNet",
    "tokio::Instant",
    "tower_layer::Identity",
    "tower_layer::Layer",
    "tower_service::Service",
    "tracing::Level",
    // Of the feature `serve`.
    "tokio::AsyncRead",
    "tokio::AsyncWrite",
    "tokio::TcpListener",
    "tokio::TcpStream",
    "tokio::UnixListener",
    "tokio::UnixStream",
    // Of the feature `tls`.
    "rustls::CertificateDer",
    "rustls::ClientConfig",
    "rustls::Error",
    "rustls::ProtocolVersion",
    "rustls::ServerConfig",
    "rustls::ServerName",
];

/// A source file without its tests.
struct Source {
    name: String,
    lines: Vec<String>,
    /// What each imported name stands for: `Instant` for `tokio::Instant`.
    imports: BTreeMap<String, String>,
}

impl Source {
    /// Whether the attributes above this line hide the item.
    fn is_hidden(&self, at: usize) -> bool {
        let above = self.lines[..at].iter().rev();
        let mut attributes = above.take_while(|line| line.trim_start().starts_with("#["));
        attributes.any(|line| line.contains("doc(hidden)"))
    }
}

/// A public item up to its body.
struct Signature<'a> {
    source: &'a Source,
    line: usize,
    text: String,
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) -> Result {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let is_test = |name: &str| ["tests", "testing", "properties", "reference"].contains(&name);
        if path
            .file_stem()
            .and_then(|name| name.to_str())
            .is_some_and(is_test)
        {
            continue;
        }
        match path.is_dir() {
            true => files(&path, found)?,
            false => found.push(path),
        }
    }
    Ok(())
}

/// The names of the dependencies as they are in code, from the table of this package.
fn dependencies(manifest: &str) -> BTreeSet<String> {
    let table = manifest
        .split("\n[dependencies]\n")
        .nth(1)
        .unwrap_or_default();
    let lines = table.lines().take_while(|line| !line.starts_with('['));
    let names = lines.filter_map(|line| line.split(['.', ' ', '=']).next());
    let names = names.filter(|name| name.starts_with(|c: char| c.is_ascii_alphabetic()));
    names.map(|name| name.replace('-', "_")).collect()
}

/// `crate::Name` for a path of a dependency.
fn named(path: &str, dependencies: &BTreeSet<String>) -> Option<String> {
    let (root, _) = path.split_once("::")?;
    let last = path.rsplit("::").next()?;
    dependencies
        .contains(root)
        .then(|| format!("{root}::{last}"))
}

/// Adds what `tree`, a part of a `use` declaration behind `prefix`, imports.
fn import(
    prefix: &str,
    tree: &str,
    dependencies: &BTreeSet<String>,
    imports: &mut BTreeMap<String, String>,
) {
    let tree = tree.trim();
    if let Some((path, inner)) = tree.split_once('{') {
        let inner = inner.trim_end().strip_suffix('}').unwrap_or(inner);
        let (mut depth, mut start) = (0, 0);
        for (at, c) in inner.char_indices().chain([(inner.len(), ',')]) {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    let path = format!("{prefix}{path}");
                    import(&path, &inner[start..at], dependencies, imports);
                    start = at + 1;
                }
                _ => {}
            }
        }
        return;
    }
    let (path, alias) = tree.split_once(" as ").unwrap_or((tree, ""));
    let path = format!("{prefix}{path}");
    // `http_body::{self, Frame}` imports `http_body`.
    let path = path.strip_suffix("::self").unwrap_or(&path);
    let name = match alias {
        "" => path.rsplit("::").next().unwrap_or_default(),
        alias => alias,
    };
    if let Some(named) = named(path, dependencies) {
        imports.insert(name.to_owned(), named);
    }
}

fn read(path: &Path, dependencies: &BTreeSet<String>) -> Result<Source> {
    let text = fs::read_to_string(path)?;
    let text = text.split("\n#[cfg(test)]\nmod tests {").next();
    let text = text.unwrap_or_default();
    let mut imports = BTreeMap::new();
    for declaration in text.split("\nuse ").skip(1) {
        let tree = declaration.split(';').next().unwrap_or_default();
        import("", &tree.replace('\n', " "), dependencies, &mut imports);
    }
    Ok(Source {
        name: path.display().to_string(),
        lines: text.lines().map(str::to_owned).collect(),
        imports,
    })
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'));
    words
        .map(|word| word.trim_matches(':'))
        .filter(|word| !word.is_empty())
}

/// The names by which the crate's own items are public.
struct Public {
    types: BTreeSet<String>,
    /// What modules `internal` export, for the proxy alone.
    internal: BTreeSet<String>,
}

impl Public {
    fn of(sources: &[Source]) -> Self {
        let (mut modules, mut internal) = (BTreeSet::new(), BTreeSet::new());
        for source in sources {
            for (at, line) in source.lines.iter().enumerate() {
                let module = line
                    .strip_prefix("pub mod ")
                    .and_then(|name| name.strip_suffix(';'));
                if let (Some(module), false) = (module, source.is_hidden(at)) {
                    modules.insert(format!("/src/{module}.rs"));
                }
            }
            let mut lines = source.lines.iter();
            if lines.any(|line| line == "pub mod internal {") {
                let inner = lines.take_while(|line| *line != "}");
                let paths = inner.flat_map(|line| words(line));
                let names = paths.filter_map(|path| path.rsplit("::").next());
                internal.extend(names.map(str::to_owned));
            }
        }
        let mut types = BTreeSet::new();
        for source in sources {
            // A name that is exported for the proxy may be that of another type, too.
            let is_module = modules.iter().any(|module| source.name.ends_with(module));
            for (at, line) in source.lines.iter().enumerate() {
                let kinds = ["pub struct ", "pub enum ", "pub type ", "pub trait "];
                let rest = kinds.iter().find_map(|kind| line.trim().strip_prefix(kind));
                let name = rest.and_then(|rest| words(rest).next());
                types.extend(
                    name.filter(|name| {
                        !source.is_hidden(at) && (is_module || !internal.contains(*name))
                    })
                    .map(str::to_owned),
                );
            }
        }
        Self { types, internal }
    }
}

/// The signatures of what is public in `source`: items, methods, fields, and implementations of traits.
fn signatures<'a>(source: &'a Source, public: &Public) -> Vec<Signature<'a>> {
    let mut found = Vec::new();
    // Whether the item at hand is public, or the type that is implemented.
    let mut is_public = true;
    // The end of the public enum at hand.
    let mut end_of_enum: Option<String> = None;
    for (at, line) in source.lines.iter().enumerate() {
        let item = line.trim_start();
        let indent = &line[..line.len() - item.len()];
        let text = || {
            let mut text = String::new();
            for line in &source.lines[at..] {
                let code = line.split("//").next().unwrap_or_default();
                let end = code.find([';', '{']);
                text.push_str(&code[..end.unwrap_or(code.len())]);
                text.push(' ');
                if end.is_some() || (line.ends_with(',') && !text.contains('(')) {
                    break;
                }
            }
            text
        };
        let is_hidden = source.is_hidden(at);
        if end_of_enum.as_deref() == Some(line) {
            end_of_enum = None;
        } else if item.starts_with("pub enum ") && !is_hidden {
            end_of_enum = Some(format!("{indent}}}"));
        }
        // Items of `pin_project!` are indented.
        let mut kinds = [
            "pub struct ",
            "pub enum ",
            "pub type ",
            "pub trait ",
            "pub fn ",
            "pub const ",
        ]
        .iter();
        if item.starts_with("impl") {
            let text = text();
            // A public type, or a type of another crate for which a public trait is implemented.
            let of = text.split(" where ").next().unwrap_or_default();
            is_public = !is_hidden && words(of).any(|word| public.types.contains(word));
        } else if let Some(kind) = kinds.find(|kind| item.starts_with(**kind)) {
            let name = words(&item[kind.len()..]).next().unwrap_or_default();
            let is_type = !matches!(*kind, "pub fn " | "pub const ");
            if is_type {
                is_public = public.types.contains(name);
            } else if indent.is_empty() {
                is_public = !public.internal.contains(name);
            }
        }
        let is_associated = item.starts_with("type ") && !indent.is_empty();
        let is_item = item.starts_with("pub ") || item.starts_with("impl") || is_associated;
        let is_variant = end_of_enum.is_some() && !item.starts_with(['#', '/']);
        if is_public && !is_hidden && (is_item || is_variant) {
            let (line, text) = (at + 1, text());
            found.push(Signature { source, line, text });
        }
    }
    found
}

#[test]
fn public_interface_names_only_these_types_of_other_crates() -> Result {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dependencies = dependencies(&fs::read_to_string(root.join("Cargo.toml"))?);
    assert!(dependencies.contains("tower_layer") && dependencies.contains("hyper"));
    let mut paths = Vec::new();
    files(&root.join("src"), &mut paths)?;
    let sources = paths.iter().map(|path| read(path, &dependencies));
    let sources = sources.collect::<Result<Vec<_>>>()?;
    let public = Public::of(&sources);
    let mut seen = BTreeMap::new();
    for signature in sources
        .iter()
        .flat_map(|source| signatures(source, &public))
    {
        let Signature { source, line, text } = signature;
        let place = format!("{}:{line}: {text}", source.name);
        for word in words(&text) {
            let imported = word
                .split("::")
                .next()
                .and_then(|first| source.imports.get(first));
            if let Some(name) = imported.cloned().or_else(|| named(word, &dependencies)) {
                seen.entry(name).or_insert_with(|| place.clone());
            }
        }
    }
    let unnamed: Vec<_> = seen
        .iter()
        .filter(|(name, _)| !NAMED.contains(&name.as_str()))
        .collect();
    assert!(
        unnamed.is_empty(),
        "in the public interface, and not listed: {unnamed:#?}"
    );
    let unused: Vec<_> = NAMED
        .iter()
        .filter(|name| !seen.contains_key(**name))
        .collect();
    assert!(
        unused.is_empty(),
        "listed, and not in the public interface: {unused:?}"
    );
    Ok(())
}
