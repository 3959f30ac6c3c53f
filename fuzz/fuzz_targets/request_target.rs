//! Any bytes as the target of a request line: the route that is chosen is the one that a server behind the proxy
//! sees, whatever it decodes and resolves, and what is forwarded stays below the base path of its upstream.
//!
//! The input: a byte that selects `path.normalize` and a route, then the target.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sse_guard_proxy::config::{Normalize, RoutePath};
use sse_guard_proxy::resolve_target;
use std::sync::LazyLock;

/// All but the first are below a base path of their upstream.
static ROUTES: LazyLock<Vec<RoutePath>> = LazyLock::new(|| {
    let routes = ["/admin", "/app", "/v1/*/events", "/a/b:c", "/x;y"];
    routes.map(|path| RoutePath::parse(path).unwrap()).into()
});

const BASE: &str = "/base";

fn route_of(path: &str) -> Option<usize> {
    ROUTES.iter().position(|route| route.matches(path))
}

fn is_bounded(route: &Option<usize>) -> bool {
    route.is_some_and(|route| route > 0)
}

fuzz_target!(|input: &[u8]| {
    let Some((&choice, target)) = input.split_first() else {
        return;
    };
    let normalize = match choice % 3 {
        0 => Normalize::Match,
        1 => Normalize::Rewrite,
        _ => Normalize::Off,
    };
    let Some((route, forwarded)) = resolve_target(target, normalize, route_of, is_bounded) else {
        return;
    };
    assert!(forwarded.starts_with('/') || forwarded == "*", "{forwarded}");
    assert!(forwarded.bytes().all(is_of_a_uri), "{forwarded}");
    if forwarded == "*" {
        return;
    }
    // It is in its final form.
    let again = resolve_target(forwarded.as_bytes(), normalize, route_of, is_bounded);
    assert_eq!(again, Some((route, forwarded.clone())));

    let path = forwarded.split('?').next().unwrap();
    if is_bounded(&route) {
        for reading in readings(&format!("{BASE}{path}")) {
            let reading = reading.unwrap_or_else(|| panic!("above the root: {forwarded}"));
            let rest = reading.strip_prefix(BASE);
            let is_below = rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
            assert!(is_below, "{forwarded}: {reading}");
        }
    }
    if normalize != Normalize::Off {
        for reading in readings(path) {
            let reading = reading.unwrap_or_else(|| panic!("above the root: {forwarded}"));
            assert_eq!(route_of(&reading), route, "{forwarded}: {reading}");
        }
    }
});

/// RFC 3986, and the brackets that browsers send as they are.
fn is_of_a_uri(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~:/?[]@!$&'()*+,;=%".contains(&byte)
}

/// What servers make of a path, written without the code under test: as it is, with its dot segments resolved, and
/// as nginx reads it. `None` where it leaves the root.
fn readings(path: &str) -> [Option<String>; 4] {
    let decoded = decode(path);
    [
        Some(path.to_owned()),
        resolve(path, false),
        resolve(path, true),
        resolve(&decoded, true),
    ]
}

/// All escapes once. Bytes beyond ASCII stand for themselves, as no route has any.
fn decode(path: &str) -> String {
    let mut decoded = String::new();
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        let escaped = (byte == b'%').then(|| {
            let mut digit = || char::from(bytes.next().unwrap()).to_digit(16).unwrap();
            let high = digit();
            high << 4 | digit()
        });
        let code = escaped.unwrap_or(u32::from(byte));
        decoded.push(char::from_u32(code).unwrap());
    }
    decoded
}

fn resolve(path: &str, merges: bool) -> Option<String> {
    let mut resolved: Vec<&str> = Vec::new();
    let segments: Vec<_> = path.split('/').skip(1).collect();
    for (nth, segment) in segments.iter().enumerate() {
        let is_last = nth + 1 == segments.len();
        match *segment {
            "" if merges && !is_last => continue,
            "." => {}
            ".." => drop(resolved.pop()?),
            segment => {
                resolved.push(segment);
                continue;
            }
        }
        if is_last {
            resolved.push("");
        }
    }
    let mut path = String::new();
    for segment in resolved {
        path.push('/');
        path.push_str(segment);
    }
    Some(path)
}
