//! What a proxy does to heads: hop-by-hop fields go, what we know of the client is added.

use crate::client_key::{ForwardedHeader, ForwardedIp};
use http::header::{
    CONNECTION, FORWARDED, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING,
    UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue};
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The protocol that a message asks or agrees to switch to, RFC 9110 section 7.8, if it is
/// WebSocket. Another, such as h2c, would carry requests past routes and limits.
pub(super) fn upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let names_upgrade = connection_options(headers).any(|option| option == UPGRADE);
    let websocket = |value: &&HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"websocket");
    headers
        .get(UPGRADE)
        .filter(|_| names_upgrade)
        .filter(websocket)
        .cloned()
}

fn connection_options(headers: &HeaderMap) -> impl Iterator<Item = HeaderName> + '_ {
    let values = headers.get_all(CONNECTION).into_iter();
    values
        .flat_map(|value| value.as_bytes().split(|&byte| byte == b','))
        .filter_map(|option| HeaderName::from_bytes(option.trim_ascii()).ok())
}

/// Removes what concerns one connection alone, RFC 9110 section 7.6.1: also what `Connection`
/// names.
pub(super) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    // A field that all recipients need is no connection option (RFC 9110 section 7.6.1).
    let is_for_one_hop = |name: &HeaderName| *name != HOST;
    let named: Vec<_> = connection_options(headers).filter(is_for_one_hop).collect();
    for name in named {
        headers.remove(name);
    }
    for name in [
        CONNECTION,
        KEEP_ALIVE,
        PROXY_CONNECTION,
        PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION,
        TE,
        TRANSFER_ENCODING,
        UPGRADE,
    ] {
        headers.remove(name);
    }
}

/// Whether the body comes in no transfer coding but `chunked`. Of another one the next hop would not
/// know: transfer codings are of one connection alone, RFC 9112 section 6.1.
pub(super) fn is_chunked_at_most(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(TRANSFER_ENCODING).into_iter();
    let first = codings.next();
    first.is_none_or(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked"))
        && codings.next().is_none()
}

/// Says `Connection: upgrade` for this hop.
pub(super) fn set_upgrade(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, protocol);
}

/// Writes who the client is: `Forwarded` (RFC 7239) and the older `X-Forwarded-*`. What came in
/// them is kept in front if a trusted proxy said it, and dropped if not.
pub(super) fn forward(headers: &mut HeaderMap, peer: SocketAddr, trusted: &ForwardedIp) {
    let ip = peer.ip().to_canonical();
    let host = headers.get(HOST).cloned();
    let believed = trusted.is_trusted(ip);
    if !believed {
        let claims = |name: &&HeaderName| {
            **name == FORWARDED
                || name.as_str() == "x-real-ip"
                || name.as_str().starts_with("x-forwarded-")
        };
        for name in headers.keys().filter(claims).cloned().collect::<Vec<_>>() {
            headers.remove(name);
        }
    }
    // A proxy that writes one of the two passes the other on as a stranger sent it.
    match trusted.believed() {
        ForwardedHeader::XForwardedFor => headers.remove(FORWARDED),
        ForwardedHeader::Forwarded => headers.remove(X_FORWARDED_FOR),
    };
    append(headers, X_FORWARDED_FOR, &ip.to_string());
    append(headers, FORWARDED, &forwarded_element(ip, host.as_ref()));
    headers
        .entry(X_FORWARDED_PROTO)
        .or_insert(HeaderValue::from_static("http"));
    if let Some(host) = host {
        headers.entry(X_FORWARDED_HOST).or_insert(host);
    }
}

fn append(headers: &mut HeaderMap, name: HeaderName, element: &str) {
    // One line, since some servers read only the first.
    let mut line = Vec::new();
    for value in headers.get_all(&name) {
        line.extend_from_slice(value.as_bytes());
        line.extend_from_slice(b", ");
    }
    line.extend_from_slice(element.as_bytes());
    if let Ok(line) = HeaderValue::from_bytes(&line) {
        headers.insert(name, line);
    }
}

fn forwarded_element(ip: IpAddr, host: Option<&HeaderValue>) -> String {
    let mut element = match ip {
        IpAddr::V4(ip) => format!("for={ip}"),
        IpAddr::V6(ip) => format!("for=\"[{ip}]\""),
    };
    let plain = |host: &&str| !host.contains(['"', '\\']);
    if let Some(host) = host.and_then(|host| host.to_str().ok()).filter(plain) {
        // Writing to a string can not fail.
        let _ = write!(element, ";host=\"{host}\"");
    }
    element.push_str(";proto=http");
    element
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for &(name, value) in lines {
            headers.append(name, HeaderValue::from_static(value));
        }
        headers
    }

    fn forwarded(lines: &[(&'static str, &'static str)], peer: &str) -> HeaderMap {
        let mut headers = headers(lines);
        let trusted = ForwardedIp::new(["10.0.0.0/8".parse().unwrap()]);
        forward(&mut headers, peer.parse().unwrap(), &trusted);
        headers
    }

    #[test]
    fn hop_by_hop_fields_go_also_those_that_connection_names() {
        let mut headers = headers(&[
            ("connection", "keep-alive, X-Secret"),
            ("connection", "close"),
            ("x-secret", "1"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("accept", "text/event-stream"),
        ]);
        remove_hop_by_hop(&mut headers);
        assert_eq!(headers.len(), 1);
        assert_eq!(headers["accept"], "text/event-stream");
    }

    #[test]
    fn an_upgrade_is_one_that_connection_names() {
        let asked = headers(&[
            ("connection", "Keep-Alive, Upgrade"),
            ("upgrade", "websocket"),
        ]);
        assert_eq!(upgrade(&asked).unwrap(), "websocket");
        assert_eq!(upgrade(&headers(&[("upgrade", "websocket")])), None);
        let h2c = headers(&[("connection", "upgrade"), ("upgrade", "h2c")]);
        assert_eq!(upgrade(&h2c), None);
    }

    #[test]
    fn what_a_stranger_says_of_the_client_is_dropped() {
        let headers = forwarded(
            &[
                ("host", "example.com"),
                ("x-forwarded-for", "1.2.3.4"),
                ("x-forwarded-proto", "https"),
                ("x-forwarded-host", "evil"),
                ("x-forwarded-prefix", "/evil"),
                ("x-real-ip", "1.2.3.4"),
                ("forwarded", "for=1.2.3.4"),
            ],
            "192.0.2.1:5000",
        );
        assert_eq!(headers["x-forwarded-for"], "192.0.2.1");
        assert_eq!(headers["x-forwarded-proto"], "http");
        assert_eq!(headers["x-forwarded-host"], "example.com");
        assert!(!headers.contains_key("x-real-ip") && !headers.contains_key("x-forwarded-prefix"));
        assert_eq!(
            headers["forwarded"],
            "for=192.0.2.1;host=\"example.com\";proto=http"
        );
    }

    #[test]
    fn what_a_trusted_proxy_says_stays_in_front() {
        let headers = forwarded(
            &[
                ("x-forwarded-for", "1.2.3.4"),
                ("x-forwarded-for", "5.6.7.8"),
                ("x-forwarded-proto", "https"),
                ("forwarded", "for=1.2.3.4"),
            ],
            "[::ffff:10.0.0.1]:5000",
        );
        assert_eq!(headers["x-forwarded-for"], "1.2.3.4, 5.6.7.8, 10.0.0.1");
        assert_eq!(headers["x-forwarded-proto"], "https");
        assert_eq!(headers["forwarded"], "for=10.0.0.1;proto=http");
    }

    #[test]
    fn an_ipv6_client_is_quoted() {
        let headers = forwarded(&[], "[2001:db8::1]:5000");
        assert_eq!(headers["forwarded"], "for=\"[2001:db8::1]\";proto=http");
    }
}
