//! Values: from text or TOML to a [`Kind`], with problems that name a correct value.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;
use std::time::Duration;

use http::uri::PathAndQuery;
use http::{HeaderName, Method, Uri};
use ipnet::IpNet;
use toml::de::DeValue;

use super::super::path;
use super::kind::{Kind, Shape};
use super::suggest;

mod from_value;

pub(super) use from_value::{Choice, FromValue, choice};

/// A valid value of some [`Kind`].
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Off,
    Auto,
    Duration(Duration),
    Count(NonZeroU32),
    /// Bytes.
    Size(u64),
    Rate(Rate),
    Fraction(f64),
    Bool(bool),
    Text(String),
    Address(SocketAddr),
    Url(Uri),
    Path(PathAndQuery),
    Networks(Vec<IpNet>),
    Words(Vec<String>),
    Methods(Vec<Method>),
    Origins(Origins),
    ReadyWhen(ReadyWhen),
    Prefix(u8),
}

/// Origins that may read responses sent in place of the upstream's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origins {
    /// Origins that the upstream has allowed.
    Upstream,
    /// Any.
    Any,
    /// These, as browsers write them; at least one.
    List(Vec<String>),
    /// None.
    Off,
}

/// A count per unit of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// The count.
    pub count: NonZeroU32,
    /// The unit of time: a second, a minute or an hour.
    pub per: Duration,
}

/// Upstreams that must be reachable for the proxy to be ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadyWhen {
    /// One of them.
    Any,
    /// Each of them.
    All,
    /// Those of these routes, at least one, by their paths.
    Routes(Vec<String>),
}

/// Units of sizes, the largest first.
const SIZES: &[(&str, u64)] = &[
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
];

/// The longest duration: far above any use, far below where adding it to a clock overflows.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 60 * 60);
/// The shortest one that is not zero: timers and `retry:` count in milliseconds.
const SHORTEST: Duration = Duration::from_millis(1);

impl Value {
    /// Reads the text of a flag, a variable, a default, or of a string in the file.
    ///
    /// The problem that it returns names a correct value.
    pub(super) fn from_text(kind: Kind, text: &str) -> Result<Self, String> {
        if kind.off && text == "off" {
            return Ok(Self::Off);
        }
        match kind.shape {
            Shape::DurationOrAuto if text == "auto" => Ok(Self::Auto),
            Shape::Duration | Shape::DurationOrZero | Shape::DurationOrAuto => duration(kind, text),
            Shape::Count => count(kind, text).map(Self::Count),
            Shape::Size(least, most) => size(kind, text, least, most).map(Self::Size),
            Shape::Rate => rate(kind, text).map(Self::Rate),
            Shape::Fraction => fraction(text),
            Shape::Bool | Shape::BoolOrAuto => match text {
                "true" => Ok(Self::Bool(true)),
                "false" => Ok(Self::Bool(false)),
                "auto" if kind.shape == Shape::BoolOrAuto => Ok(Self::Auto),
                _ if kind.shape == Shape::BoolOrAuto => {
                    Err(format!("{} is none of auto, true and false", echo(text)))
                }
                _ => Err(format!("{} is neither true nor false", echo(text))),
            },
            Shape::Text => line(text, true),
            Shape::Filled => line(text, false),
            Shape::Choice(words) => choice(words, text),
            Shape::Path => path(text).map(Self::Path),
            Shape::Header => match HeaderName::try_from(text) {
                Ok(name) => Ok(Self::Text(name.as_str().to_owned())),
                Err(_) => Err(format!(
                    "{} is not a header name; write one such as \"x-user-id\", or \"off\"",
                    echo(text)
                )),
            },
            Shape::Secret => secret(text),
            Shape::Address => address(text).map(Self::Address),
            Shape::Url => url(text).map(Self::Url),
            Shape::Origins => {
                let items: Vec<&str> = text.split(',').map(str::trim).collect();
                origins(&items).map(Self::Origins)
            }
            Shape::ReadyWhen => {
                let items: Vec<&str> = text.split(',').map(str::trim).collect();
                ready_when(&items).map(Self::ReadyWhen)
            }
            Shape::Prefix => match text.parse() {
                Ok(bits @ 1..=128) => Ok(Self::Prefix(bits)),
                _ => Err(format!(
                    "{} is not a prefix length; write a number from 1 to 128, such as 64",
                    echo(text)
                )),
            },
            Shape::Networks | Shape::Words | Shape::Methods => {
                let items = text.split(',').map(str::trim);
                list(kind.shape, items.filter(|_| !text.trim().is_empty()))
            }
        }
    }

    /// Reads a value of the file, in the TOML type that is natural for the kind.
    pub(super) fn from_toml(kind: Kind, value: &DeValue<'_>) -> Result<Self, String> {
        let shape = kind.shape;
        let number = matches!(shape, Shape::Count | Shape::Prefix | Shape::Fraction);
        let boolean = matches!(shape, Shape::Bool | Shape::BoolOrAuto);
        match value {
            DeValue::String(text) if shape == Shape::BoolOrAuto && text == "auto" => Ok(Self::Auto),
            DeValue::String(text) if kind.off && text == "off" => Ok(Self::Off),
            DeValue::String(text) if number || boolean => {
                Self::from_text(kind, text)?;
                Err(format!("{text} is written without quotes"))
            }
            DeValue::String(text) if kind.is_list() => {
                list(shape, [text.as_ref()])?;
                Err("is a list; put brackets around it: [\"...\"]".to_owned())
            }
            DeValue::String(text) => Self::from_text(kind, text),
            DeValue::Integer(digits) if number => {
                match i64::from_str_radix(digits.as_str(), digits.radix()) {
                    Ok(number) => Self::from_text(kind, &number.to_string()),
                    Err(_) => Err("the number is too large".to_owned()),
                }
            }
            DeValue::Float(digits) if number => Self::from_text(kind, digits.as_str()),
            DeValue::Boolean(value) if boolean => Ok(Self::Bool(*value)),
            DeValue::Array(items)
                if kind.is_list() || matches!(shape, Shape::Origins | Shape::ReadyWhen) =>
            {
                let texts: Option<Vec<&str>> =
                    items.iter().map(|item| item.get_ref().as_str()).collect();
                match texts {
                    Some(texts) if shape == Shape::Origins => origins(&texts).map(Self::Origins),
                    Some(texts) if shape == Shape::ReadyWhen => {
                        ready_when(&texts).map(Self::ReadyWhen)
                    }
                    Some(texts) => list(shape, texts),
                    None => Err("every item of the list is a text; put each in quotes".to_owned()),
                }
            }
            DeValue::Integer(digits) => Err(unit_missing(kind, digits.as_str())
                .unwrap_or_else(|| format!("is a number; write {}", example(kind)))),
            DeValue::Boolean(false) if kind.off => {
                Err("false is not valid here; write \"off\"".to_owned())
            }
            other => Err(format!(
                "is of type {}; write {}",
                other.type_str(),
                example(kind)
            )),
        }
    }
}

/// The text in quotes, unless it is long or could hold a secret.
fn echo(text: &str) -> String {
    let secretive = text.contains(['@', '?', '=']) || text.contains("://");
    if secretive || text.chars().count() > 40 {
        "the value".to_owned()
    } else {
        format!("{text:?}")
    }
}

/// Values of the kind, as the file spells them.
fn example(kind: Kind) -> String {
    let (example, or_off) = match kind.shape {
        Shape::Duration | Shape::DurationOrZero => ("\"15s\"", " or \"off\""),
        Shape::DurationOrAuto => ("\"15s\", \"auto\"", " or \"off\""),
        Shape::Count => ("a number such as 100", ", or \"off\""),
        Shape::Size(..) => ("\"64KiB\"", " or \"off\""),
        Shape::Rate => ("\"50/s\"", " or \"off\""),
        Shape::Fraction => ("a number from 0 to 1, such as 0.1", ", or \"off\""),
        Shape::Bool => ("true or false", ", or \"off\""),
        Shape::BoolOrAuto => ("true, false or \"auto\"", ", or \"off\""),
        Shape::Text | Shape::Filled => ("a text in quotes", ", or \"off\""),
        Shape::Path => ("\"/healthz\"", " or \"off\""),
        Shape::Header => ("\"x-user-id\"", " or \"off\""),
        Shape::Secret => ("a text of 16 characters or more in quotes", ", or \"off\""),
        // Of an address that may be off, that of the admin address.
        Shape::Address if kind.off => ("\"127.0.0.1:9090\"", " or \"off\""),
        Shape::Address => ("\"127.0.0.1:8080\"", ""),
        Shape::Url => ("\"http://127.0.0.1:3000\"", " or \"off\""),
        Shape::Networks => ("[\"10.0.0.0/8\"]", " or \"off\""),
        Shape::Words => ("[\"ping\"]", " or \"off\""),
        Shape::Methods => ("[\"GET\"]", " or \"off\""),
        // `off` is among the words.
        Shape::Origins => (
            "\"upstream\", \"*\", \"off\", or a list such as [\"https://app.example\"]",
            "",
        ),
        Shape::ReadyWhen => (
            "\"any\", \"all\", or a list of routes such as [\"/v1\"]",
            ", or \"off\"",
        ),
        Shape::Prefix => ("a number from 1 to 128, such as 64", ", or \"off\""),
        Shape::Choice(words) => return format!("one of \"{}\"", words.join("\", \"")),
    };
    format!("{example}{}", if kind.off { or_off } else { "" })
}

/// The end of a list of correct values.
fn or_off(kind: Kind) -> &'static str {
    if kind.off { ", or \"off\"" } else { "" }
}

/// The problem of a number where a number with a unit belongs.
fn unit_missing(kind: Kind, digits: &str) -> Option<String> {
    let unit = match kind.shape {
        Shape::Duration | Shape::DurationOrZero | Shape::DurationOrAuto => "s",
        Shape::Size(..) => "KiB",
        Shape::Rate => "/s",
        _ => return None,
    };
    let number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    if !number {
        return None;
    }
    if kind.off && digits.bytes().all(|byte| byte == b'0') {
        return Some(format!("{digits} does not mean off; write \"off\""));
    }
    Some(format!("{digits} has no unit; write \"{digits}{unit}\""))
}

fn duration(kind: Kind, text: &str) -> Result<Value, String> {
    if let Some(problem) = unit_missing(kind, text) {
        return Err(problem);
    }
    let or_auto = match kind.shape {
        Shape::DurationOrAuto => ", \"auto\"",
        _ => "",
    };
    let or_off = or_auto.to_owned() + or_off(kind);
    let Ok(duration) = humantime::parse_duration(text) else {
        return Err(format!(
            "{} is not a duration; write a number and a unit, such as \"200ms\", \"15s\", \"10m\" or \"1h\"{or_off}",
            echo(text)
        ));
    };
    if duration.is_zero() {
        return match kind.shape {
            Shape::DurationOrZero => Ok(Value::Duration(duration)),
            _ if kind.off => Err("zero does not mean off; write \"off\"".to_owned()),
            _ => Err("must be above zero, such as \"15s\"".to_owned()),
        };
    }
    if duration < SHORTEST {
        return Err("is too short; the minimum is \"1ms\"".to_owned());
    }
    if duration > LONGEST {
        return Err(format!("is longer than a year; write less{or_off}"));
    }
    Ok(Value::Duration(duration))
}

fn count(kind: Kind, text: &str) -> Result<NonZeroU32, String> {
    let or_off = if kind.off {
        ", or \"off\" for no limit"
    } else {
        ""
    };
    match text.parse::<u32>().map(NonZeroU32::new) {
        Ok(Some(count)) => Ok(count),
        Ok(None) => Err(format!(
            "0 would reject everything; write 1 or more{or_off}"
        )),
        Err(_) => Err(format!(
            "{} is not a count; write a whole number from 1 to {}{or_off}",
            echo(text),
            u32::MAX
        )),
    }
}

fn size(kind: Kind, text: &str, least: u64, most: u64) -> Result<u64, String> {
    if let Some(problem) = unit_missing(kind, text) {
        return Err(problem);
    }
    let or_off = or_off(kind);
    let bytes = SIZES.iter().find_map(|(unit, size)| {
        let number: u64 = text.strip_suffix(unit)?.trim_end().parse().ok()?;
        number.checked_mul(*size)
    });
    let bound = |bytes| format!("\"{}\"", size_text(bytes));
    match bytes {
        Some(bytes) if bytes < least => Err(format!(
            "is too small; the minimum is {}{or_off}",
            bound(least)
        )),
        Some(bytes) if bytes > most => Err(format!(
            "is too large; the maximum is {}{or_off}",
            bound(most)
        )),
        Some(bytes) => Ok(bytes),
        None => Err(format!(
            "{} is not a size; write a number and a unit, such as \"16KiB\" or \"1MiB\"{or_off}",
            echo(text)
        )),
    }
}

/// Its problems do not repeat it.
fn secret(text: &str) -> Result<Value, String> {
    const SHORTEST: usize = 16;
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("has characters that a header cannot contain; write visible ASCII".to_owned());
    }
    if text.len() < SHORTEST {
        return Err(format!(
            "can be guessed; write {SHORTEST} characters or more, such as `openssl rand -hex 16` prints"
        ));
    }
    Ok(Value::Text(text.to_owned()))
}

/// The size in the largest unit that it is a multiple of.
pub(super) fn size_text(bytes: u64) -> String {
    let whole = |(_, size): &&(&str, u64)| bytes.is_multiple_of(*size);
    let (unit, size) = SIZES.iter().find(whole).unwrap_or(&("B", 1));
    format!("{}{unit}", bytes / size)
}

/// A limit, or that there is none, in the spelling of the file without quotes.
pub(super) fn count_or_off(count: Option<NonZeroU32>) -> String {
    count.map_or_else(|| "off".to_owned(), |count| count.to_string())
}

fn rate(kind: Kind, text: &str) -> Result<Rate, String> {
    if let Some(problem) = unit_missing(kind, text) {
        return Err(problem);
    }
    let parsed = text.split_once('/').and_then(|(count, unit)| {
        let per = match unit.trim() {
            "s" => 1,
            "m" => 60,
            "h" => 60 * 60,
            _ => return None,
        };
        let count = count.trim().parse::<NonZeroU32>().ok()?;
        Some(Rate {
            count,
            per: Duration::from_secs(per),
        })
    });
    parsed.ok_or_else(|| {
        format!(
            "{} is not a rate; write a number above zero and a time, such as \"50/s\", \"10/m\" or \"100/h\"{}",
            echo(text),
            or_off(kind)
        )
    })
}

fn fraction(text: &str) -> Result<Value, String> {
    match text.parse::<f64>() {
        // Also refuses what is not a number.
        Ok(number) if (0.0..=1.0).contains(&number) => Ok(Value::Fraction(number)),
        _ => Err(format!(
            "{} is not a share; write a number from 0 (none) to 1 (all), such as 0.1",
            echo(text)
        )),
    }
}

/// Text for the wire: a line break in it would end the field, or the event.
fn line(text: &str, may_be_empty: bool) -> Result<Value, String> {
    if text.contains(['\r', '\n']) {
        return Err(
            "has a line break, which would end the line on the wire; write one line".into(),
        );
    }
    if text.is_empty() && !may_be_empty {
        return Err("is empty, and clients drop an event without data or mistake one without a name; write a text".into());
    }
    Ok(Value::Text(text.to_owned()))
}

fn choice(words: &[&'static str], text: &str) -> Result<Value, String> {
    if words.contains(&text) {
        return Ok(Value::Text(text.to_owned()));
    }
    let hint = match suggest::nearest(text, words.iter().copied()) {
        Some(word) => format!("; did you mean \"{word}\"?"),
        None => String::new(),
    };
    Err(format!(
        "{} is not one of {}{hint}",
        echo(text),
        words.join(", ")
    ))
}

/// An IP address and a port, `:8080` for all addresses of both families, or `localhost:8080`.
///
/// `localhost` is not looked up: it is loopback by RFC 6761, whatever the machine's files contain.
fn address(text: &str) -> Result<SocketAddr, String> {
    let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
    // `u16` takes a sign, too.
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    let port = port.parse::<u16>().ok().filter(|_| digits);
    let named: Option<IpAddr> = match host {
        "" if text.starts_with(':') => Some(Ipv6Addr::UNSPECIFIED.into()),
        _ if host.eq_ignore_ascii_case("localhost") => Some(Ipv4Addr::LOCALHOST.into()),
        _ => None,
    };
    if let Some(address) = named.zip(port) {
        return Ok(address.into());
    }
    text.parse().map_err(|_| {
        let port = port.unwrap_or(8080);
        format!(
            "{} is not an IP address and port; write \"127.0.0.1:{port}\", or \":{port}\" for all interfaces",
            echo(text)
        )
    })
}

/// No problem of a URL repeats it: it may hold a password or a token.
fn url(text: &str) -> Result<Uri, String> {
    const RIGHT: &str = "write one such as \"http://127.0.0.1:3000\"";
    let scheme = text
        .split_once("://")
        .map(|(scheme, _)| scheme.to_ascii_lowercase());
    match scheme.as_deref() {
        Some("http") => {}
        Some("https") => {
            return Err(
                "TLS to the upstream is not supported in this release; use http:// to a server \
                 on a network you trust, or to a TLS tunnel beside this proxy"
                    .to_owned(),
            );
        }
        _ => return Err(format!("is not an http:// URL; {RIGHT}")),
    }
    if text.contains(['?', '#']) {
        return Err("has a query or fragment; write the URL without it".to_owned());
    }
    let uri: Uri = text
        .parse()
        .map_err(|_| format!("is not a valid URL; {RIGHT}"))?;
    let Some(authority) = uri
        .authority()
        .filter(|authority| !authority.host().is_empty())
    else {
        return Err(format!("has no host; {RIGHT}"));
    };
    // Each server would resolve them in its own way, and requests are to stay below this path.
    if path::has_dot_segments(uri.path()) {
        return Err("has a path with dot segments; write the path that they lead to".to_owned());
    }
    if authority.as_str().contains('@') {
        return Err(
            "has a user name or password, which would end up in logs; write the URL without it"
                .to_owned(),
        );
    }
    let has_port = authority.as_str().len() > authority.host().len();
    if has_port && !matches!(authority.port_u16(), Some(1..)) {
        return Err("the port is not a number from 1 to 65535".to_owned());
    }
    Ok(uri)
}

/// What stands in a request line as it is.
fn path(text: &str) -> Result<PathAndQuery, String> {
    const RIGHT: &str = "write one such as \"/healthz\", or \"off\"";
    if !text.starts_with('/') {
        return Err(format!(
            "{} does not begin with a slash; {RIGHT}",
            echo(text)
        ));
    }
    if text.contains('#') {
        return Err("has a fragment, which is never sent; write the path without it".to_owned());
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(
            "has a space or another character that a request line cannot contain; percent-encode \
             it, such as %20"
                .to_owned(),
        );
    }
    text.parse()
        .map_err(|_| format!("{} is not a valid path; {RIGHT}", echo(text)))
}

fn list<'a>(shape: Shape, items: impl IntoIterator<Item = &'a str>) -> Result<Value, String> {
    let items = items.into_iter();
    match shape {
        Shape::Networks => items
            .map(network)
            .collect::<Result<_, _>>()
            .map(Value::Networks),
        Shape::Methods => {
            let methods: Vec<Method> = items.map(method).collect::<Result<_, _>>()?;
            if methods.is_empty() {
                return Err("lists no method; write [\"GET\"]".to_owned());
            }
            Ok(Value::Methods(methods))
        }
        _ => {
            let wrong = |word: &str| word.is_empty() || word.contains(['\r', '\n']);
            let words: Vec<String> = items.map(str::to_owned).collect();
            if words.iter().any(|word| wrong(word)) {
                return Err("has an empty item or one with a line break".to_owned());
            }
            Ok(Value::Words(words))
        }
    }
}

fn origins(items: &[&str]) -> Result<Origins, String> {
    match items {
        [] => Err("lists no origin; write \"off\" for none".to_owned()),
        ["upstream"] => Ok(Origins::Upstream),
        ["*"] => Ok(Origins::Any),
        items => {
            let items = items.iter().map(|item| origin(item));
            items.collect::<Result<_, _>>().map(Origins::List)
        }
    }
}

/// Whether a route has the path is checked once all routes are read.
fn ready_when(items: &[&str]) -> Result<ReadyWhen, String> {
    const WORDS: [&str; 2] = ["any", "all"];
    match items {
        [] => return Err("lists no route; write \"any\" or \"all\"".to_owned()),
        ["any"] => return Ok(ReadyWhen::Any),
        ["all"] => return Ok(ReadyWhen::All),
        _ => {}
    }
    if let Some(item) = items.iter().find(|item| !item.starts_with('/')) {
        if WORDS.contains(item) {
            return Err(format!("{} cannot be combined with others", echo(item)));
        }
        let hint = match suggest::nearest(item, WORDS) {
            Some(word) => format!("; did you mean \"{word}\"?"),
            None => "; write \"any\", \"all\", or paths of routes such as \"/v1\"".to_owned(),
        };
        return Err(format!("{} is not the path of a route{hint}", echo(item)));
    }
    let routes = items.iter().map(|item| (*item).to_owned());
    Ok(ReadyWhen::Routes(routes.collect()))
}

/// As browsers write it ([RFC 6454](https://www.rfc-editor.org/rfc/rfc6454#section-6.2)): in lower case,
/// without a port that is the scheme's own.
fn origin(text: &str) -> Result<String, String> {
    const RIGHT: &str = "write one such as \"https://app.example\" or \"http://localhost:5173\"";
    let text = text.to_ascii_lowercase();
    if text == "null" {
        return Ok(text);
    }
    if ["upstream", "*", "off"].contains(&text.as_str()) {
        return Err(format!("{} cannot be combined with others", echo(&text)));
    }
    let Some((scheme, authority)) = text.split_once("://") else {
        return Err(format!("{} is not an origin; {RIGHT}", echo(&text)));
    };
    if authority.contains(['/', '?', '#', '@', '*']) {
        return Err(format!(
            "an origin consists of scheme, host and port, without a path or a wildcard; {RIGHT}"
        ));
    }
    let parsed: Uri = text
        .parse()
        .map_err(|_| format!("is not an origin; {RIGHT}"))?;
    if parsed.host().is_none_or(str::is_empty) {
        return Err(format!("has no host; {RIGHT}"));
    }
    let port = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => return Ok(text),
    };
    Ok(text.strip_suffix(port).unwrap_or(&text).to_owned())
}

fn network(text: &str) -> Result<IpNet, String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(IpNet::from(address));
    }
    match text.parse::<IpNet>() {
        Ok(network) => Ok(network.trunc()),
        Err(_) => Err(format!(
            "{} is not a network; write one such as \"10.0.0.0/8\" or \"2001:db8::/32\"",
            echo(text)
        )),
    }
}

fn method(text: &str) -> Result<Method, String> {
    // Methods are case-sensitive: `get` would be valid, and match no request.
    if text != text.to_ascii_uppercase() {
        let right = echo(&text.to_ascii_uppercase());
        return Err(format!("methods are in capitals; write {right}"));
    }
    Method::from_bytes(text.as_bytes()).map_err(|_| format!("{} is not an HTTP method", echo(text)))
}

#[cfg(test)]
mod tests;
