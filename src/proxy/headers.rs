//! What a proxy does to heads: hop-by-hop fields go, what we know of the client is added.

mod claims;
mod forwarding;

pub(super) use self::claims::remove_field;
pub(super) use self::forwarding::forward;

use http::header::{
    AGE, AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE,
    CONTENT_TYPE, DATE, EXPECT, EXPIRES, HOST, LOCATION, MAX_FORWARDS, PRAGMA, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, RANGE, RETRY_AFTER, SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
    VARY, WARNING, WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderName, HeaderValue};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

const NO_TRAILERS: [HeaderName; 21] = [
    AGE,
    AUTHORIZATION,
    CACHE_CONTROL,
    CONTENT_ENCODING,
    CONTENT_LENGTH,
    CONTENT_RANGE,
    CONTENT_TYPE,
    DATE,
    EXPECT,
    EXPIRES,
    HOST,
    LOCATION,
    MAX_FORWARDS,
    PRAGMA,
    RANGE,
    RETRY_AFTER,
    SET_COOKIE,
    TRAILER,
    VARY,
    WARNING,
    WWW_AUTHENTICATE,
];

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
    // What all recipients need is no connection option (RFC 9110 section 7.6.1).
    let is_for_one_hop = |name: &HeaderName| *name != HOST && !claims::is_written(name);
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

/// Removes the fields that may not come behind a message: those that frame or route it, tell of its
/// content or of who sent it, or concern one connection (RFC 9110 section 6.5.1).
pub(super) fn remove_no_trailers(trailers: &mut HeaderMap) {
    remove_hop_by_hop(trailers);
    for name in NO_TRAILERS {
        trailers.remove(name);
    }
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
    fn what_the_upstream_needs_is_no_connection_option() {
        let needed = [
            ("host", "a"),
            ("forwarded", "for=192.0.2.1"),
            ("x-forwarded-for", "192.0.2.1"),
        ];
        let mut kept = headers(&needed);
        let options = "Host, Forwarded, X-Forwarded-For";
        kept.insert(CONNECTION, HeaderValue::from_static(options));
        remove_hop_by_hop(&mut kept);
        assert_eq!(kept, headers(&needed));
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
    fn what_frames_routes_or_authenticates_is_no_trailer() {
        let mut trailers = headers(&[
            ("content-length", "1"),
            ("transfer-encoding", "chunked"),
            ("trailer", "x"),
            ("host", "a"),
            ("connection", "x-hop"),
            ("x-hop", "1"),
            ("set-cookie", "a=b"),
            ("content-type", "text/html"),
            ("x-sum", "7"),
            ("server-timing", "a;dur=1"),
        ]);
        remove_no_trailers(&mut trailers);
        let left: Vec<_> = trailers.keys().map(HeaderName::as_str).collect();
        assert_eq!(left, ["x-sum", "server-timing"]);
    }
}
