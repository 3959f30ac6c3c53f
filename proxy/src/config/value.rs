//! Values: from text or TOML to a [`Kind`], with problems that name a correct value.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::{NonZeroU16, NonZeroU32};
use std::time::Duration;

use http::uri::PathAndQuery;
use http::{HeaderName, Method, Uri};
use ipnet::IpNet;
use toml::de::DeValue;

use super::super::path;
use super::super::request_target::check_authority;
use super::super::tls;
use super::kind::{Kind, Shape};
use super::listen_address::{ListenAddress, passed_socket};
use super::suggest;
use super::unix::{self, FileMode, TrustedProxies};

mod from_value;
mod origins;
mod quantity;
mod ready_when;

pub(super) use from_value::{Choice, FromValue, choice};
pub use origins::Origins;
use origins::origins;
pub use quantity::Rate;
use quantity::{count, duration, rate, size, unit_missing};
pub(super) use quantity::{count_or_off, size_text};
pub use ready_when::ReadyWhen;
use ready_when::ready_when;

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
    Listen(ListenAddress),
    ListenAll(Vec<ListenAddress>),
    Files(Vec<String>),
    Mode(FileMode),
    Url(Uri),
    Path(PathAndQuery),
    Networks(Vec<IpNet>),
    Proxies(TrustedProxies),
    Words(Vec<String>),
    Methods(Vec<Method>),
    Origins(Origins),
    ReadyWhen(ReadyWhen),
    Prefix(u8),
    Port(NonZeroU16),
}

/// The problem of a URL with `..` in its path.
const DOT_SEGMENTS: &str = "has a path with dot segments; write the path that they lead to";

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
            Shape::BoolOrPort => bool_or_port(text),
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
            Shape::UpstreamHost => upstream_host(text),
            Shape::File | Shape::Folder => file(text),
            Shape::Files => {
                let items = text.split(',').map(|item| file_name(item.trim()));
                items.collect::<Result<_, _>>().map(Self::Files)
            }
            Shape::ServerName => server_name(text),
            Shape::Secret => secret(text),
            Shape::Address => address(text).map(Self::Address),
            Shape::Listen => listen_address(text).map(Self::Listen),
            Shape::ListenAll => {
                let items = text.split(',').map(|item| listen_address(item.trim()));
                items.collect::<Result<_, _>>().map(Self::ListenAll)
            }
            Shape::Mode => unix::file_mode(text).map(Self::Mode),
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
            Shape::Networks | Shape::Proxies | Shape::Words | Shape::Methods => {
                let items = text.split(',').map(str::trim);
                list(kind.shape, items.filter(|_| !text.trim().is_empty()))
            }
        }
    }

    /// Reads a value of the file, in the TOML type that is natural for the kind.
    pub(super) fn from_toml(kind: Kind, value: &DeValue<'_>) -> Result<Self, String> {
        let shape = kind.shape;
        let is_port = shape == Shape::BoolOrPort;
        let number = is_port || matches!(shape, Shape::Count | Shape::Prefix | Shape::Fraction);
        let boolean = is_port || matches!(shape, Shape::Bool | Shape::BoolOrAuto);
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
            DeValue::String(text) if shape == Shape::ListenAll => {
                listen_address(text).map(|address| Self::ListenAll(vec![address]))
            }
            DeValue::String(text) if shape == Shape::Files => {
                file_name(text).map(|file| Self::Files(vec![file]))
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
                if kind.is_list()
                    || matches!(
                        shape,
                        Shape::Origins | Shape::ReadyWhen | Shape::ListenAll | Shape::Files
                    ) =>
            {
                let texts: Option<Vec<&str>> =
                    items.iter().map(|item| item.get_ref().as_str()).collect();
                match texts {
                    Some(texts) if shape == Shape::Origins => origins(&texts).map(Self::Origins),
                    Some(texts) if shape == Shape::ReadyWhen => {
                        ready_when(&texts).map(Self::ReadyWhen)
                    }
                    Some(texts) if shape == Shape::ListenAll => {
                        if texts.is_empty() {
                            return Err(format!("lists no address; write {}", example(kind)));
                        }
                        let addresses = texts.into_iter().map(listen_address);
                        addresses.collect::<Result<_, _>>().map(Self::ListenAll)
                    }
                    Some(texts) if shape == Shape::Files => {
                        if texts.is_empty() {
                            return Err(format!("lists no file; write {}", example(kind)));
                        }
                        let files = texts.into_iter().map(file_name);
                        files.collect::<Result<_, _>>().map(Self::Files)
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
        Shape::BoolOrPort => ("true, false or a port such as 8443", ""),
        Shape::Text | Shape::Filled => ("a text in quotes", ", or \"off\""),
        Shape::Path => ("\"/healthz\"", " or \"off\""),
        Shape::Header => ("\"x-user-id\"", " or \"off\""),
        Shape::UpstreamHost => (
            "\"auto\", \"pass\", \"upstream\" or a host such as \"app.example\"",
            "",
        ),
        Shape::File => ("the path of a file in quotes", ", or \"off\""),
        Shape::Folder => ("the path of a folder in quotes", ", or \"off\""),
        Shape::Files => ("the path of a file in quotes, or a list of them", ""),
        Shape::ServerName => ("\"app.example\"", " or \"off\""),
        Shape::Secret => ("a text of 16 characters or more in quotes", ", or \"off\""),
        // Of an address that may be off, that of the admin address.
        Shape::Address if kind.off => ("\"127.0.0.1:9090\"", " or \"off\""),
        Shape::Address => ("\"127.0.0.1:8080\"", ""),
        Shape::Listen | Shape::ListenAll => {
            ("\"127.0.0.1:8080\" or \"unix:/run/sse-guard.sock\"", "")
        }
        Shape::Mode => ("\"660\"", " or \"off\""),
        Shape::Url => ("\"http://127.0.0.1:3000\"", " or \"off\""),
        Shape::Networks => ("[\"10.0.0.0/8\"]", " or \"off\""),
        Shape::Proxies => ("[\"10.0.0.0/8\", \"unix\"]", " or \"off\""),
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

fn bool_or_port(text: &str) -> Result<Value, String> {
    match (text, text.parse()) {
        ("true", _) => Ok(Value::Bool(true)),
        ("false", _) => Ok(Value::Bool(false)),
        // The parser takes a sign, too.
        (_, Ok(port)) if text.bytes().all(|byte| byte.is_ascii_digit()) => Ok(Value::Port(port)),
        _ => Err(format!(
            "{} is neither a port from 1 to 65535, nor true, nor false",
            echo(text)
        )),
    }
}

/// A word, or what `Host` can contain.
fn upstream_host(text: &str) -> Result<Value, String> {
    const RIGHT: &str = "write \"auto\", \"pass\", \"upstream\", or a host such as \"app.example\" or \"app.example:8080\"";
    if text == "off" {
        return Err(format!("\"off\" is not valid here; {RIGHT}"));
    }
    match check_authority(text.as_bytes()) {
        Ok(()) => Ok(Value::Text(text.to_owned())),
        Err(error) => Err(format!("{} is not a host: {error}; {RIGHT}", echo(text))),
    }
}

fn file(text: &str) -> Result<Value, String> {
    file_name(text).map(Value::Text)
}

fn file_name(text: &str) -> Result<String, String> {
    if text.is_empty() || text.contains(char::is_control) {
        return Err("is not the path of a file".to_owned());
    }
    Ok(text.to_owned())
}

fn server_name(text: &str) -> Result<Value, String> {
    match tls::server_name(text) {
        Some(_) => Ok(Value::Text(text.to_owned())),
        None => Err(format!(
            "{} is not a name or an address; write one such as \"app.example\", without a port",
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

/// An address, or the path of a Unix socket.
fn listen_address(text: &str) -> Result<ListenAddress, String> {
    if let Some(name) = text.strip_prefix("fd:") {
        return passed_socket(name);
    }
    match text.strip_prefix("unix:") {
        Some(path) => unix::socket_path(path).map(ListenAddress::Unix),
        None => address(text).map(ListenAddress::Tcp),
    }
}

/// No problem of a URL repeats it: it may hold a password or a token.
fn url(text: &str) -> Result<Uri, String> {
    const RIGHT: &str = "write one such as \"http://127.0.0.1:3000\"";
    if let Some(url) = unix::upstream_url(text) {
        let url = url?;
        return match path::has_dot_segments(url.path()) {
            true => Err(DOT_SEGMENTS.to_owned()),
            false => Ok(url),
        };
    }
    let scheme = text
        .split_once("://")
        .map(|(scheme, _)| scheme.to_ascii_lowercase());
    if !matches!(scheme.as_deref(), Some("http" | "https")) {
        return Err(format!("is not an http:// or https:// URL; {RIGHT}"));
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
        return Err(DOT_SEGMENTS.to_owned());
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
        Shape::Proxies => {
            let (unix, networks): (Vec<_>, Vec<_>) = items.partition(|item| *item == "unix");
            let networks = networks.into_iter().map(network);
            Ok(Value::Proxies(TrustedProxies {
                networks: networks.collect::<Result<_, _>>()?,
                unix: !unix.is_empty(),
            }))
        }
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
