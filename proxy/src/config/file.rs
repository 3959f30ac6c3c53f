//! Reads the config file: TOML, with the line of each value.

use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::given::{AllValues, ListenerValues, RouteValues, SourcedValue, Values};
use super::key::Key;
use super::mistake::{Mistake, OF_THE_PROXY, ValueSource};
use super::not_toml::slip;
use super::route::RoutePath;
use super::sections::{
    KEYS, LISTENER, find, find_of_listener, is_table, is_table_of_listener, renamed, table_names,
};
use super::suggest;
use super::value::Value;

/// Reads a file and adds its mistakes, in the order of its lines.
///
/// Returns nothing for invalid TOML: what such a file would set is unknown.
pub(super) fn read(name: &str, text: &str, mistakes: &mut Vec<Mistake>) -> Option<AllValues> {
    let mut reader = FileReader {
        name: Arc::from(name),
        line_ends: memchr::memchr_iter(b'\n', text.as_bytes()).collect(),
        mistakes: Vec::new(),
    };
    let (root, errors) = DeTable::parse_recoverable(text);
    let values = if errors.is_empty() {
        Some(reader.root(root.get_ref()))
    } else {
        for error in errors {
            // Not its `Display`: that one quotes the line, which may hold a secret.
            let offset = error.span().map_or(0, |span| span.start);
            match slip(text, offset, error.message()) {
                Some(slip) => reader.mistake(slip.offset, &slip.key, slip.problem),
                None => {
                    let problem = format!("not TOML: {}", error.message());
                    reader.mistake(offset, "", problem);
                }
            }
        }
        // One slip confuses a parser more than once.
        reader.mistakes.dedup_by(|b, a| a.source == b.source);
        None
    };
    reader.mistakes.sort_by_key(|mistake| match mistake.source {
        ValueSource::File { line, .. } => line,
        _ => 0,
    });
    mistakes.append(&mut reader.mistakes);
    values
}

/// Which part of the file is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum FilePart {
    Global,
    Route,
    /// The names of its keys begin with `listener`, the name of the table.
    Listener,
}

struct FileReader {
    name: Arc<str>,
    /// The offsets at which lines end.
    line_ends: Vec<usize>,
    mistakes: Vec<Mistake>,
}

impl FileReader {
    fn source(&self, offset: usize) -> ValueSource {
        ValueSource::File {
            name: Arc::clone(&self.name),
            line: 1 + self.line_ends.partition_point(|end| *end < offset),
        }
    }

    fn mistake(&mut self, offset: usize, key: &str, problem: impl AsRef<str>) {
        let source = self.source(offset);
        self.mistakes.push(Mistake::new(source, key, problem));
    }

    fn root(&mut self, root: &DeTable<'_>) -> AllValues {
        let mut values = AllValues::default();
        for (key, value) in root {
            let offset = key.span().start;
            match key.get_ref().as_ref() {
                "route" => {
                    let tables = self.tables("route", offset, value.get_ref());
                    let routes = tables.into_iter();
                    let routes = routes.filter_map(|(offset, table)| self.route(offset, table));
                    values.routes = routes.collect();
                }
                "listener" => {
                    let tables = self.tables("listener", offset, value.get_ref());
                    let listeners = tables.into_iter();
                    let listeners = listeners.map(|(offset, table)| self.listener(offset, table));
                    values.listeners = listeners.collect();
                }
                _ => self.entry(FilePart::Global, "", key, value, &mut values.global),
            }
        }
        values
    }

    /// The tables of a list, with their offsets.
    fn tables<'v, 'text>(
        &mut self,
        name: &str,
        offset: usize,
        value: &'v DeValue<'text>,
    ) -> Vec<(usize, &'v DeTable<'text>)> {
        let Some(items) = value.as_array() else {
            self.mistake(
                offset,
                name,
                format!("is a list of tables; write [[{name}]]"),
            );
            return Vec::new();
        };
        let mut tables = Vec::new();
        for item in items {
            let offset = item.span().start;
            match item.get_ref().as_table() {
                Some(table) => tables.push((offset, table)),
                None => self.mistake(offset, name, format!("is a table; write [[{name}]]")),
            }
        }
        tables
    }

    fn listener(&mut self, offset: usize, table: &DeTable<'_>) -> ListenerValues {
        let mut values = Values::new();
        for (key, value) in table {
            self.entry(FilePart::Listener, LISTENER.name, key, value, &mut values);
        }
        ListenerValues {
            source: self.source(offset),
            values,
        }
    }

    fn route(&mut self, offset: usize, table: &DeTable<'_>) -> Option<RouteValues> {
        let mut path = None;
        let mut path_given = false;
        let mut values = Values::new();
        for (key, value) in table {
            if key.get_ref() != "path" {
                self.entry(FilePart::Route, "", key, value, &mut values);
                continue;
            }
            // What stands below `path` is of the table of that name.
            if let Some(inner) = value.get_ref().as_table() {
                for (key, value) in inner {
                    self.entry(FilePart::Route, "path", key, value, &mut values);
                }
                continue;
            }
            path_given = true;
            let parsed = match value.get_ref().as_str() {
                Some(text) => RoutePath::parse(text),
                None => Err("is a text in quotes, such as \"/v1\"".to_owned()),
            };
            match parsed {
                Ok(parsed) => path = Some(parsed),
                Err(problem) => self.mistake(key.span().start, "route.path", problem),
            }
        }
        if !path_given {
            let problem = "missing; write one such as path = \"/v1\"";
            self.mistake(offset, "route.path", problem);
        }
        Some(RouteValues {
            path: path?,
            source: self.source(offset),
            values,
        })
    }

    fn entry(
        &mut self,
        part: FilePart,
        table: &str,
        key: &Spanned<DeString<'_>>,
        value: &Spanned<DeValue<'_>>,
        values: &mut Values,
    ) {
        let offset = key.span().start;
        let name = if table.is_empty() {
            key.get_ref().to_string()
        } else {
            format!("{table}.{}", key.get_ref())
        };
        let known = match part {
            FilePart::Global | FilePart::Route => find(&name),
            FilePart::Listener => find_of_listener(&name),
        };
        let Some(known) = known else {
            if part == FilePart::Listener {
                if let (true, Some(inner)) =
                    (is_table_of_listener(&name), value.get_ref().as_table())
                {
                    for (key, value) in inner {
                        self.entry(part, &name, key, value, values);
                    }
                    return;
                }
                return self.mistake(offset, &name, unknown_of_listener(&name));
            }
            // `admin = false`: a table whose first key turns all of it off.
            let switch = find(&format!("{name}.listen")).filter(|key| key.kind.off);
            if let (Some(key), DeValue::Boolean(false), FilePart::Global) =
                (switch, value.get_ref(), part)
            {
                let (value, source) = (Value::Off, self.source(offset));
                values.insert(key.name, SourcedValue { value, source });
                return;
            }
            // `resume = "lossy"`: short for a table with this mode.
            if let (Some(mode), DeValue::String(_)) =
                (find(&format!("{name}.mode")), value.get_ref())
            {
                return self.set(part, mode, offset, value.get_ref(), values);
            }
            return match value.get_ref().as_table() {
                Some(inner) if is_table(&name) => {
                    for (key, value) in inner {
                        self.entry(part, &name, key, value, values);
                    }
                }
                _ => self.mistake(offset, &name, unknown(part, &name)),
            };
        };
        self.set(part, known, offset, value.get_ref(), values);
    }

    fn set(
        &mut self,
        part: FilePart,
        key: &'static Key,
        offset: usize,
        value: &DeValue<'_>,
        values: &mut Values,
    ) {
        if part == FilePart::Route && !key.per_route {
            return self.mistake(offset, key.name, OF_THE_PROXY);
        }
        match Value::from_toml(key.kind, value) {
            Ok(value) => {
                let source = self.source(offset);
                values.insert(key.name, SourcedValue { value, source });
            }
            Err(problem) => self.mistake(offset, key.name, problem),
        }
    }
}

/// The problem of a name that is not a key of a listener.
fn unknown_of_listener(name: &str) -> String {
    let leaf = |name: &str| name.split_once('.').map_or("", |(_, leaf)| leaf).to_owned();
    let leaves: Vec<String> = LISTENER.keys.iter().map(|key| leaf(key.name)).collect();
    match suggest::nearest(&leaf(name), leaves.iter().map(String::as_str)) {
        Some(near) => format!("unknown key; did you mean {near}?"),
        None => format!("unknown key; a listener has {}", leaves.join(", ")),
    }
}

/// The problem of a name that is not a key.
fn unknown(part: FilePart, name: &str) -> String {
    // It is a table, too, but this is the mistake that is made.
    if name == "path" {
        return "is a key of a route; write it below [[route]]".to_owned();
    }
    if is_table(name) {
        let of_table = |key: &&Key| key.table_and_leaf().0 == Some(name);
        let mut of_table = KEYS.iter().filter(of_table);
        if part == FilePart::Route && of_table.all(|key| !key.per_route) {
            return OF_THE_PROXY.to_owned();
        }
        return format!("is a table; write [{name}] and its keys below");
    }
    if let Some(key) = renamed(name, str::to_owned) {
        return format!("is now called {}", key.name);
    }
    let keys = KEYS
        .iter()
        .filter(|key| part == FilePart::Global || key.per_route)
        .map(|key| key.name);
    let extra = match part {
        FilePart::Global => &["route", "listener"][..],
        _ => &["path"],
    };
    let candidates = keys.chain(table_names()).chain(extra.iter().copied());
    match suggest::nearest(name, candidates) {
        Some(near @ ("route" | "listener")) => format!("unknown; did you mean [[{near}]]?"),
        Some(near) if is_table(near) => format!("unknown; did you mean [{near}]?"),
        Some(near) => format!("unknown key; did you mean {near}?"),
        None => "unknown key; `sse-guard --help` lists them all".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::mistake::OF_THE_PROXY;
    use super::super::source::tests::{from_file, problems};
    use super::KEYS;

    /// Each case is a file and the lines of its error.
    fn check(cases: &[(&str, &[&str])]) {
        for (text, lines) in cases {
            let text = format!("upstream.url = 'http://app'\n{text}");
            assert_eq!(problems(&text), *lines, "{text}");
        }
    }

    #[test]
    fn mistake_names_file_line_key_and_a_correct_value() {
        check(&[
            (
                "[heartbeat]\n# fifteen\ninterval = 15",
                &["sse-guard.toml:4: heartbeat.interval: 15 has no unit; write \"15s\""],
            ),
            (
                "heartbeat = { interval = false }",
                &["sse-guard.toml:2: heartbeat.interval: false is not valid here; write \"off\""],
            ),
            (
                "[limit]\r\nper_ip = true",
                &[
                    "sse-guard.toml:3: limit.per_ip: is of type boolean; write a number such as 100, or \"off\"",
                ],
            ),
        ]);
    }

    #[test]
    fn table_with_a_mode_may_be_a_word() {
        for text in [
            "resume = 'lossy'",
            "[[route]]\npath = '/'\nresume = 'lossy'",
        ] {
            let text = format!("upstream.url = 'http://app'\n{text}");
            let config = from_file(&text).unwrap().config;
            assert!(config.routes[0].settings.resume.unwrap().lossy);
        }
        check(&[(
            "resume = 'yes'",
            &["sse-guard.toml:2: resume.mode: \"yes\" is not one of off, on, lossy"],
        )]);
    }

    #[test]
    fn unknown_name_gets_a_hint() {
        check(&[
            (
                "[heartbeat]\nintervall = '1s'",
                &[
                    "sse-guard.toml:3: heartbeat.intervall: unknown key; did you mean heartbeat.interval?",
                ],
            ),
            (
                "[hartbeat]\ninterval = '1s'",
                &["sse-guard.toml:2: hartbeat: unknown; did you mean [heartbeat]?"],
            ),
            (
                "per_ip = 1",
                &["sse-guard.toml:2: per_ip: unknown key; did you mean limit.per_ip?"],
            ),
            (
                "[[routes]]\npath = '/'",
                &["sse-guard.toml:2: routes: unknown; did you mean [[route]]?"],
            ),
            (
                "colour = 1",
                &["sse-guard.toml:2: colour: unknown key; `sse-guard --help` lists them all"],
            ),
            (
                "heartbeat = '15s'",
                &["sse-guard.toml:2: heartbeat: is a table; write [heartbeat] and its keys below"],
            ),
            (
                "path = '/v1'",
                &["sse-guard.toml:2: path: is a key of a route; write it below [[route]]"],
            ),
        ]);
    }

    #[test]
    fn route_has_a_path_and_no_key_of_the_whole_proxy() {
        check(&[
            (
                "\n[[route]]\n[route.limit]\nper_ip = 1",
                &["sse-guard.toml:3: route.path: missing; write one such as path = \"/v1\""],
            ),
            (
                "[[route]]\npath = 'v1'",
                &[
                    "sse-guard.toml:3: route.path: a path begins with a slash; write one such as \"/v1\"",
                ],
            ),
            (
                "[[route]]\npath = 1",
                &["sse-guard.toml:3: route.path: is a text in quotes, such as \"/v1\""],
            ),
            (
                "[[route]]\npath = '/'\nlisten = '127.0.0.1:1'\ndrain.window = '1s'",
                &[
                    "sse-guard.toml:4: listen: applies to the whole proxy; write it above the \
                     first [[route]]",
                    "sse-guard.toml:5: drain.window: applies to the whole proxy; write it above \
                     the first [[route]]",
                ],
            ),
            (
                "[[route]]\npath = '/'\nadmin = false",
                &[
                    "sse-guard.toml:4: admin: applies to the whole proxy; write it above the first \
                     [[route]]",
                ],
            ),
            (
                "[[route]]\npath.normalize = 'off'",
                &[
                    "sse-guard.toml:2: route.path: missing; write one such as path = \"/v1\"",
                    "sse-guard.toml:3: path.normalize: applies to the whole proxy; write it above \
                     the first [[route]]",
                ],
            ),
            (
                "[route]\npath = '/'",
                &["sse-guard.toml:2: route: is a list of tables; write [[route]]"],
            ),
            (
                "route = [1]",
                &["sse-guard.toml:2: route: is a table; write [[route]]"],
            ),
        ]);
    }

    #[test]
    fn keys_of_the_whole_proxy_are_mistakes_in_a_route_in_every_spelling() {
        let of_the_proxy = KEYS.iter().filter(|key| !key.per_route);
        for key in of_the_proxy {
            let told = format!("{}: {OF_THE_PROXY}", key.name);
            let route = "upstream.url = 'http://app'\n[[route]]\npath = '/x'\n";
            let dotted = format!("{route}{} = 1", key.name);
            assert_eq!(problems(&dotted), [format!("sse-guard.toml:4: {told}")]);
            if let (Some(table), leaf) = key.table_and_leaf() {
                let header = format!("{route}[route.{table}]\n{leaf} = 1");
                let problems = problems(&header);
                assert_eq!(problems.len(), 1, "{problems:?}");
                assert!(problems[0].ends_with(OF_THE_PROXY), "{problems:?}");
            }
        }
    }

    #[test]
    fn invalid_toml_is_reported_by_line_and_not_repeated() {
        let lines = problems("listen = '127.0.0.1:1'\n[upstream]\nurl = hunter2\n");
        assert!(
            lines[0].starts_with("sse-guard.toml:3: not TOML: "),
            "{lines:?}"
        );
        assert!(!lines.join("\n").contains("hunter2"), "{lines:?}");
    }

    #[test]
    fn mistake_is_one_line_whatever_the_file_contains() {
        let lines = problems("\"a\\n\\u001bb\" = 1\nupstream.url = 'http://app'");
        let line = "sse-guard.toml:1: a  b: unknown key; `sse-guard --help` lists them all";
        assert_eq!(lines, [line]);
    }

    #[test]
    fn tables_are_read_in_all_spellings() {
        let files = [
            "upstream.url = 'http://app'",
            "upstream = { url = 'http://app' }",
            "[upstream]\nurl = 'http://app'",
            "[[route]]\npath = '/'\nupstream.url = 'http://app'",
            "[[route]]\npath = '/'\n[route.upstream]\nurl = 'http://app'",
            "route = [{ path = '/', upstream = { url = 'http://app' } }]",
        ];
        for text in files {
            let config = from_file(text).unwrap().config;
            assert_eq!(
                config.routes[0].settings.upstream.url, "http://app/",
                "{text}"
            );
        }
    }

    #[test]
    fn reader_panics_at_no_text() {
        let text = "[upstream]\nurl = 'http://app'\n[[route]]\npath = \"/ä\"\nlimit.per_ip = 3\n";
        for end in (0..text.len()).filter(|end| text.is_char_boundary(*end)) {
            let _ = from_file(&text[..end]);
            let _ = from_file(&text[end..]);
        }
    }
}
