//! Better messages for invalid TOML: the key that is concerned, and a correct line.

use super::mistake::OF_THE_PROXY;
use super::sections::{find, is_table};

/// A mistake with a better message than the parser's.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ExplainedMistake {
    /// Where it is in the text.
    pub(super) offset: usize,
    /// Known to be a key or a table, and so no value that may be a secret.
    pub(super) key: String,
    pub(super) problem: String,
}

/// What is wrong at `offset`, where a key has two values, or a value and keys below it.
///
/// `None` where it is about something else: then the parser knows best.
pub(super) fn slip(text: &str, offset: usize, message: &str) -> Option<ExplainedMistake> {
    if !message.contains("duplicate key") && !message.contains("cannot extend value") {
        return None;
    }
    let lines = lines(text);
    let index = lines.partition_point(|line| line.offset <= offset);
    let line = lines.get(index.checked_sub(1)?)?;
    if line.is_route {
        // `path` is the path of a route, and a table outside of one.
        let of_this_route = lines.iter().filter(|other| other.section == line.section);
        let below = |other: &&KeyLine| other.name == "path" && other.is_header;
        let below = |other: &&KeyLine| other.name.starts_with("path.") || below(other);
        if let (true, Some(slip)) = (
            line.name.split('.').next() == Some("path"),
            of_this_route.into_iter().find(below),
        ) {
            return Some(ExplainedMistake {
                offset: slip.offset,
                key: slip.name.clone(),
                problem: OF_THE_PROXY.to_owned(),
            });
        }
    }
    let name = line.name.as_str();
    let table = name.split('.').next().unwrap_or_default();
    let is_path = line.is_route && name == "path";
    let key = if is_path { "route.path" } else { name }.to_owned();
    if find(name).is_none() && !is_table(table) {
        return None;
    }
    let of_table = |other: &&KeyLine| other.section == line.section && other.name == table;
    let word = lines[..index - 1]
        .iter()
        .find(|other| of_table(other) && !other.is_header);
    let problem = match word {
        Some(_) if line.is_header || name != table => format!(
            "{table} has a value of its own above; write {} there instead",
            in_full(table)
        ),
        _ if line.is_header => {
            format!("[{table}] is defined twice; write all of its keys in one place")
        }
        _ => "is set twice; remove one".to_owned(),
    };
    Some(ExplainedMistake {
        offset: line.offset,
        key,
        problem,
    })
}

/// How the value of a table that may be a word is written beside other keys.
fn in_full(table: &str) -> String {
    for leaf in ["mode", "listen"] {
        let key = format!("{table}.{leaf}");
        if find(&key).is_some_and(|key| key.kind.off || leaf == "mode") {
            return key;
        }
    }
    "its keys".to_owned()
}

/// A line that names a key or a table.
struct KeyLine {
    offset: usize,
    /// In full, without `route`.
    name: String,
    is_header: bool,
    is_route: bool,
    /// The number of the route, or of what is above all routes.
    section: usize,
}

fn lines(text: &str) -> Vec<KeyLine> {
    let (mut offset, mut table, mut section) = (0, String::new(), 0);
    let mut lines = Vec::new();
    for line in text.split_inclusive('\n') {
        let start = offset + (line.len() - line.trim_start().len());
        offset += line.len();
        let line = line.trim();
        let is_header = line.starts_with('[');
        let name = if is_header {
            let name = line.trim_start_matches('[').split(']').next();
            section += usize::from(line.starts_with("[["));
            table = squeezed(name.unwrap_or_default());
            table.clone()
        } else {
            let Some((key, _)) = line.split_once('=') else {
                continue;
            };
            let key = squeezed(key);
            match table.as_str() {
                "" => key,
                table => format!("{table}.{key}"),
            }
        };
        let is_route = name == "route" || name.starts_with("route.");
        let name = name.strip_prefix("route.").unwrap_or(&name).to_owned();
        lines.push(KeyLine {
            offset: start,
            name,
            is_header,
            is_route,
            section,
        });
    }
    lines
}

fn squeezed(name: &str) -> String {
    name.split('.').map(str::trim).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::super::source::tests::problems;

    fn check(cases: &[(&str, &str)]) {
        for (text, line) in cases {
            let text = format!("upstream.url = 'http://app'\n{text}");
            assert_eq!(
                problems(&text),
                [format!("sse-guard.toml:{line}")],
                "{text}"
            );
        }
    }

    #[test]
    fn path_of_a_route_has_no_keys() {
        let problem = "applies to the whole proxy; write it above the first [[route]]";
        let normalize = format!("path.normalize: {problem}");
        let at = |line: usize| format!("{line}: {normalize}");
        check(&[
            ("[[route]]\npath = '/x'\npath.normalize = 'off'", &at(4)),
            ("[[route]]\npath.normalize = 'off'\npath = '/x'", &at(3)),
            (
                "[[route]]\npath = '/a'\n[[route]]\n  path = '/b'\n  path . normalize = 'off'",
                &at(6),
            ),
            (
                "[[route]]\npath = '/x'\n[route.path]\nnormalize = 'off'",
                &format!("4: path: {problem}"),
            ),
        ]);
    }

    #[test]
    fn table_with_a_value_and_keys_is_a_mistake() {
        check(&[
            (
                "resume = 'on'\nresume.on_end = true",
                "3: resume.on_end: resume has a value of its own above; write resume.mode there instead",
            ),
            (
                "[[route]]\npath = '/x'\nresume = 'on'\n[route.resume]\non_end = true",
                "5: resume: resume has a value of its own above; write resume.mode there instead",
            ),
            (
                "admin = false\n[admin]\ntoken = 'hunter2'",
                "3: admin: admin has a value of its own above; write admin.listen there instead",
            ),
            (
                "limit = 5\nlimit.per_ip = 5",
                "3: limit.per_ip: limit has a value of its own above; write its keys there instead",
            ),
        ]);
    }

    #[test]
    fn key_that_is_set_twice_is_a_mistake() {
        check(&[
            (
                "limit.per_ip = 5\nlimit.per_ip = 6",
                "3: limit.per_ip: is set twice; remove one",
            ),
            (
                "limit.per_ip = 5\n[limit]\ntotal = 5",
                "3: limit: [limit] is defined twice; write all of its keys in one place",
            ),
            (
                "[[route]]\npath = '/x'\npath = '/y'",
                "4: route.path: is set twice; remove one",
            ),
            ("hunter2 = 1\nhunter2 = 2", "3: not TOML: duplicate key"),
        ]);
    }
}
