//! The output of `sse-guard check`.

use std::time::Duration;

use humantime::format_duration;

use super::given::{RouteValues, SourcedValue, Values};
use super::key::{Key, SystemLimits};
use super::kind::Shape;
use super::mistake::ValueSource;
use super::sections::{KEYS, LISTENER, top::LISTEN};
use super::source::LoadedConfig;
use super::value::{Origins, Rate, ReadyWhen, Value, size_text};

impl LoadedConfig {
    /// The effective configuration as a config file: each value with a comment that names its
    /// source, routes with what they override.
    ///
    /// Read as a file, it gives the same [`Config`](super::Config), but for secrets, which are not
    /// in it.
    #[must_use]
    pub(crate) fn to_toml(&self, limits: &SystemLimits) -> String {
        self.print(limits, |_| true)
    }

    /// The same without the values that are those of the defaults, wherever they were set.
    #[must_use]
    pub(crate) fn changes_to_toml(&self, limits: &SystemLimits) -> String {
        self.print(limits, |key| {
            let given = self.values.global.get(key.name);
            let default = key
                .default
                .and_then(|text| Value::from_text(key.kind, text).ok());
            given.map(|given| &given.value) != default.as_ref()
        })
    }

    fn print(&self, limits: &SystemLimits, is_wanted: impl Fn(&Key) -> bool) -> String {
        let mut lines = Vec::new();
        let mut table = None;
        for key in KEYS.iter().filter(|key| is_wanted(key)) {
            let (own_table, leaf) = key.table_and_leaf();
            if own_table != table {
                table = own_table;
                lines.push(PrintedLine::plain(""));
                lines.extend(table.map(|table| PrintedLine::plain(format!("[{table}]"))));
            }
            lines.push(match self.values.global.get(key.name) {
                Some(_) if key.name == LISTEN && !self.values.listeners.is_empty() => {
                    PrintedLine::plain(format!("# {leaf} is replaced by [[listener]]"))
                }
                Some(given) if is_hidden(key, given) => PrintedLine::hidden(leaf, given),
                Some(given) => self.raised(key, leaf, given),
                None => PrintedLine::plain(
                    match key.unset.and_then(|unset| unset(&self.values, limits)) {
                        Some(value) => format!("# {leaf} is not set: {value}"),
                        None => format!("# {leaf} is not set"),
                    },
                ),
            });
        }
        for listener in &self.values.listeners {
            lines.push(PrintedLine::plain(""));
            lines.push(PrintedLine::plain("[[listener]]"));
            let own = listener_values(&listener.values);
            lines.extend(own.map(|(key, given)| PrintedLine::new(in_listener(key), given)));
        }
        for route in &self.values.routes {
            lines.push(PrintedLine::plain(""));
            lines.push(PrintedLine::plain("[[route]]"));
            let path = Value::Text(route.path.as_str().to_owned());
            let source = route.source.clone();
            lines.push(PrintedLine::new(
                "path",
                &SourcedValue {
                    value: path,
                    source,
                },
            ));
            lines.extend(
                overrides(&route.values).map(|(key, given)| PrintedLine::new(key.name, given)),
            );
        }
        render(&lines)
    }

    /// The effective value, which is larger if the given one is too small.
    fn raised(&self, key: &Key, leaf: &str, given: &SourcedValue) -> PrintedLine {
        let raised = key.raised.and_then(|raised| raised(self.values.proxy()));
        let Some((value, by)) = raised else {
            return PrintedLine::new(leaf, given);
        };
        let source = given.source.clone();
        let mut line = PrintedLine::new(leaf, &SourcedValue { value, source });
        let remark = format!("; raised from {} to {by}", toml(&given.value));
        line.origin = line.origin.map(|origin| origin + &remark);
        line
    }
}

/// An effective value and its source.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) key: &'static str,
    /// As the file spells it; nothing for a secret that is set, and for a key that is not set.
    pub(crate) value: Option<String>,
    pub(crate) from: String,
}

impl Entry {
    fn new(key: &'static Key, given: &SourcedValue) -> Self {
        Self {
            key: key.name,
            value: (!is_hidden(key, given)).then(|| toml(&given.value)),
            from: from(&given.source),
        }
    }
}

impl LoadedConfig {
    /// Whether this key is not set.
    pub(crate) fn is_default(&self, key: &str) -> bool {
        let given = self.values.global.get(key);
        given.is_none_or(|given| given.source == ValueSource::Default)
    }

    /// The keys that have another value than in `old`; `route` for the keys of a route.
    pub(crate) fn changes_from(&self, old: &Self) -> Vec<&'static str> {
        let value = |loaded: &Self, key: &Key| {
            loaded
                .values
                .global
                .get(key.name)
                .map(|given| given.value.clone())
        };
        let keys = KEYS
            .iter()
            .filter(|key| value(self, key) != value(old, key));
        let mut changed: Vec<_> = keys.map(|key| key.name).collect();
        let listeners = |loaded: &Self| -> Vec<Vec<(&'static str, Value)>> {
            let listeners = loaded.values.listeners.iter();
            listeners
                .map(|listener| values_of(listener_values(&listener.values)))
                .collect()
        };
        if listeners(self) != listeners(old) {
            changed.push("listener");
        }
        let routes = |loaded: &Self| -> Vec<(String, Vec<(&'static str, Value)>)> {
            let own = |route: &RouteValues| values_of(overrides(&route.values));
            let routes = loaded.values.routes.iter();
            routes
                .map(|route| (route.path.as_str().to_owned(), own(route)))
                .collect()
        };
        if routes(self) != routes(old) {
            changed.push("route");
        }
        changed
    }

    /// The effective values of the proxy, in the order of the key table, without secrets.
    pub(crate) fn entries(&self) -> Vec<Entry> {
        let given = |key: &'static Key| Some(Entry::new(key, self.values.global.get(key.name)?));
        KEYS.iter().filter_map(given).collect()
    }

    /// The keys that each `[[listener]]` of the file sets.
    pub(crate) fn listener_entries(&self) -> Vec<Vec<Entry>> {
        let listeners = self.values.listeners.iter();
        let entries = listeners.map(|listener| {
            let own = listener_values(&listener.values);
            own.map(|(key, given)| Entry::new(key, given)).collect()
        });
        entries.collect()
    }

    /// The keys that each route of the file sets.
    pub(crate) fn route_entries(&self) -> Vec<(&str, Vec<Entry>)> {
        let entries = |route: &RouteValues| {
            overrides(&route.values)
                .map(|(key, given)| Entry::new(key, given))
                .collect()
        };
        let routes = self.values.routes.iter();
        routes
            .map(|route| (route.path.as_str(), entries(route)))
            .collect()
    }
}

fn is_hidden(key: &Key, given: &SourcedValue) -> bool {
    key.kind.shape == Shape::Secret && given.value != Value::Off
}

fn from(source: &ValueSource) -> String {
    one_line(&match source {
        ValueSource::File { .. } => format!("file {source}"),
        source => source.to_string(),
    })
}

/// What a route sets, in the order of the key table.
fn overrides(values: &Values) -> impl Iterator<Item = (&'static Key, &SourcedValue)> {
    KEYS.iter()
        .filter_map(|key| Some((key, values.get(key.name)?)))
}

/// What a listener sets, in the order of its keys.
fn listener_values(values: &Values) -> impl Iterator<Item = (&'static Key, &SourcedValue)> {
    let keys = LISTENER.keys.iter();
    keys.filter_map(|key| Some((key, values.get(key.name)?)))
}

/// The name of a key within `[[listener]]`.
fn in_listener(key: &Key) -> &'static str {
    key.name.strip_prefix("listener.").unwrap_or(key.name)
}

fn values_of<'a>(
    given: impl Iterator<Item = (&'static Key, &'a SourcedValue)>,
) -> Vec<(&'static str, Value)> {
    given
        .map(|(key, given)| (key.name, given.value.clone()))
        .collect()
}

/// A line of the file, and perhaps where it came from.
struct PrintedLine {
    code: String,
    origin: Option<String>,
}

impl PrintedLine {
    fn plain(code: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            origin: None,
        }
    }

    fn new(name: &str, given: &SourcedValue) -> Self {
        Self {
            code: format!("{name} = {}", toml(&given.value)),
            origin: Some(from(&given.source)),
        }
    }

    fn hidden(name: &str, given: &SourcedValue) -> Self {
        Self {
            code: format!("# {name} is set, and a secret"),
            origin: Some(from(&given.source)),
        }
    }
}

fn render(lines: &[PrintedLine]) -> String {
    // A few long values shall not push every comment out of sight.
    const WIDEST: usize = 40;
    let width = |line: &PrintedLine| line.code.chars().count();
    let codes = lines.iter().filter(|line| line.origin.is_some());
    let column = codes
        .map(width)
        .filter(|width| *width <= WIDEST)
        .max()
        .unwrap_or(0);
    let mut text = String::new();
    for line in lines {
        text.push_str(&line.code);
        if let Some(origin) = &line.origin {
            let gap = column.saturating_sub(width(line)) + 2;
            text.push_str(&" ".repeat(gap));
            text.push_str("# ");
            text.push_str(origin);
        }
        text.push('\n');
    }
    text
}

/// The text without what would end a comment.
fn one_line(text: &str) -> String {
    text.replace(char::is_control, " ")
}

/// The value in the file's spelling.
fn toml(value: &Value) -> String {
    match value {
        Value::Off => quote("off"),
        Value::Auto => quote("auto"),
        Value::Duration(duration) => quote(&format_duration(*duration).to_string()),
        Value::Count(count) => count.to_string(),
        Value::Size(bytes) => quote(&size_text(*bytes)),
        Value::Rate(rate) => quote(&rate_text(*rate)),
        // With the point that makes it a float.
        Value::Fraction(number) => format!("{number:?}"),
        Value::Bool(value) => value.to_string(),
        Value::Text(text) => quote(text),
        Value::Address(address) => quote(&address.to_string()),
        Value::Listen(address) => quote(&address.to_string()),
        Value::ListenAll(addresses) => match addresses.as_slice() {
            [address] => quote(&address.to_string()),
            addresses => array(addresses.iter().map(ToString::to_string)),
        },
        Value::Files(files) => match files.as_slice() {
            [file] => quote(file),
            files => array(files.iter().cloned()),
        },
        Value::Mode(mode) => quote(&mode.to_string()),
        Value::Url(url) => quote(&url.to_string()),
        Value::Path(path) => quote(path.as_str()),
        Value::Networks(networks) => array(networks.iter().map(ToString::to_string)),
        Value::Proxies(proxies) => {
            let networks = proxies.networks.iter().map(ToString::to_string);
            array(networks.chain(proxies.unix.then(|| "unix".to_owned())))
        }
        Value::Words(words) => array(words.iter().cloned()),
        Value::Methods(methods) => array(methods.iter().map(ToString::to_string)),
        Value::Origins(Origins::Upstream) => quote("upstream"),
        Value::Origins(Origins::Any) => quote("*"),
        Value::Origins(Origins::Off) => quote("off"),
        Value::Origins(Origins::List(origins)) => array(origins.iter().cloned()),
        Value::ReadyWhen(ReadyWhen::Any) => quote("any"),
        Value::ReadyWhen(ReadyWhen::All) => quote("all"),
        Value::ReadyWhen(ReadyWhen::Routes(routes)) => array(routes.iter().cloned()),
        Value::Prefix(bits) => bits.to_string(),
        Value::Port(port) => port.to_string(),
    }
}

fn rate_text(rate: Rate) -> String {
    const MINUTE: Duration = Duration::from_secs(60);
    const HOUR: Duration = Duration::from_secs(60 * 60);
    let unit = match rate.per {
        MINUTE => "m",
        HOUR => "h",
        _ => "s",
    };
    format!("{}/{unit}", rate.count)
}

fn array(items: impl Iterator<Item = String>) -> String {
    let items: Vec<String> = items.map(|item| quote(&item)).collect();
    format!("[{}]", items.join(", "))
}

/// The text as a TOML string: literal where that spares backslashes, else basic.
fn quote(text: &str) -> String {
    let needs_escape = |c: char| c == '"' || c == '\\' || c.is_control();
    if !text.contains(needs_escape) {
        return format!("\"{text}\"");
    }
    if !text.contains(|c: char| c == '\'' || c.is_control()) {
        return format!("'{text}'");
    }
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::super::key::SystemLimits;
    use super::super::sections::find;
    use super::super::source::tests::from_file;
    use super::super::source::{ConfigInputs, FileText, read};

    fn same_again(text: &str) -> String {
        let first = from_file(text).unwrap();
        let printed = first.to_toml(&SystemLimits::default());
        match from_file(&printed) {
            Ok(second) => assert_eq!(second.config, first.config, "{printed}"),
            Err(error) => panic!("{error}\n{printed}"),
        }
        printed
    }

    #[test]
    fn printed_config_reads_back_as_it_was() {
        same_again("upstream.url = 'http://app'");
        same_again("upstream.url = 'http://app'\nready.when = 'all'");
        same_again("[[route]]\npath = '/v1'\nupstream.url = 'http://app'");
        same_again(
            r#"
            listen = "0.0.0.0:80"
            trusted_proxies = ["10.0.0.0/8", "::1"]
            trusted_header = "forwarded"
            upstream.url = "http://app:3000/base"
            heartbeat = { interval = "1m 30s", style = "event", data = "it's \"\\\" \t ä \u007f" }
            idle = { timeout = "off", event_timeout = "1500ms", ignore_events = ["ping", "a\"b"] }
            limit = { per_ip = "off", total = 5, rate = "10/m", allow = ["::/0"], ipv6_prefix = 48 }
            rotation = { max_age = "off", jitter = 1, methods = ["GET", "POST"], event = "bye" }
            client = { max_head = "8193B", write_stall = "off", notsent_lowat = "1MiB" }
            threads = 3
            ready.when = ["/v1/*/{a,b}\\*", "/"]
            drain.window = "0s"
            log = { format = "json", level = "trace" }
            [[route]]
            path = "/v1/*/{a,b}\\*"
            upstream = { head_timeout = "10m" }
            health_check = { interval = "5s", path = "/up?x='1'" }
            limit.rate = "7/h"
            [[route]]
            path = "/"
            "#,
        );
    }

    #[test]
    fn printed_values_name_their_source() {
        let loaded = read(ConfigInputs {
            flags: vec![(find("heartbeat.interval").unwrap(), "5s".to_owned())],
            env: vec![("SSE_GUARD_LIMIT_PER_IP".to_owned(), "7".to_owned())],
            file: Some(Ok(FileText {
                name: "sse-guard.toml".to_owned(),
                text: "[idle]\ntimeout = '1h'\n[[route]]\npath = '/v1'\nlimit.total = 3".to_owned(),
            })),
            demo: vec![("upstream.url".to_owned(), "http://app".to_owned())],
        });
        let printed = loaded.unwrap().to_toml(&SystemLimits::default());
        let squeezed: Vec<String> = printed
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        let expected = [
            "listen = \"127.0.0.1:8080\" # default",
            "[upstream]",
            "url = \"http://app/\" # demo",
            "interval = \"5s\" # --heartbeat-interval",
            "timeout = \"1h\" # file sse-guard.toml:2",
            "per_ip = 7 # SSE_GUARD_LIMIT_PER_IP",
            "path = \"/v1\" # file sse-guard.toml:3",
            "limit.total = 3 # file sse-guard.toml:5",
        ];
        for line in expected {
            assert!(
                squeezed.iter().any(|other| other == line),
                "{line}\n{printed}"
            );
        }
    }

    #[test]
    fn printed_value_that_is_raised_is_the_effective_one() {
        let printed = same_again("upstream.url = 'http://app'\ndrain.window = '1m'");
        let line = printed.lines().find(|line| line.starts_with("answers"));
        let told = "# default; raised from \"20s\" to drain.window";
        let is_told = |line: &str| line.starts_with("answers = \"1m\" ") && line.ends_with(told);
        assert!(line.is_some_and(is_told), "{line:?}");
    }

    #[test]
    fn printed_route_has_only_what_it_overrides() {
        let printed = same_again("upstream.url = 'http://app'\n[[route]]\npath = '/v1'");
        let route = printed.split("[[route]]").nth(1).unwrap();
        assert_eq!(route.trim().lines().count(), 1, "{route}");
    }

    #[test]
    fn printed_key_that_is_not_set_is_a_comment() {
        let printed = same_again("[[route]]\npath = '/v1'\nupstream.url = 'http://app'");
        assert!(printed.contains("# url is not set"));
    }
}
