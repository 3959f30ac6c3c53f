//! Fields of one connection, which go no further, and `Connection`, which names them.

use super::claims;
use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Version};
use sse_guard::internal::list;

/// Fields that concern one connection by their definition, RFC 9110 section 7.6.1; the last is of an
/// upgrade to HTTP/2 (RFC 7540 section 3.2.1), which is not forwarded.
static ONE_HOP: [HeaderName; 10] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    PROXY_AUTHENTICATE,
    HeaderName::from_static("proxy-authentication-info"),
    PROXY_AUTHORIZATION,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("http2-settings"),
];

/// Other fields that frame or route a request.
static FRAMING: [HeaderName; 4] = [CONTENT_LENGTH, EXPECT, HOST, TRAILER];

/// What the names of fields begin with that all recipients need.
const END_TO_END_FAMILIES: &[&str] = &[
    "accept",
    "access-control-",
    "content-",
    "if-",
    "mcp-",
    "proxy-status",
    "sec-",
    "signature",
    "trace",
    "x-accel-",
];

/// Such fields without a family. Most are registered as end-to-end; the others route, authenticate
/// or resume requests.
const END_TO_END: &[&str] = &[
    "age",
    "allow",
    "alt-svc",
    "alt-used",
    "api-key",
    "authentication-info",
    "authorization",
    "cache-control",
    "cache-status",
    "cdn-cache-control",
    "cdn-loop",
    "cookie",
    "date",
    "dpop",
    "early-data",
    "etag",
    "expect",
    "expires",
    "from",
    "host",
    "idempotency-key",
    "last-event-id",
    "last-modified",
    "link",
    "location",
    "max-forwards",
    "origin",
    "pragma",
    "prefer",
    "priority",
    "range",
    "referer",
    "retry-after",
    "server",
    "set-cookie",
    "strict-transport-security",
    "trailer",
    "user-agent",
    "vary",
    "via",
    "warning",
    "www-authenticate",
    "x-api-key",
    "x-csrf-token",
    "x-http-method-override",
    "x-request-id",
];

/// Which fields are removed because `Connection` names them.
///
/// RFC 9110 section 7.6.1 has an intermediary remove all. But a proxy in front may forward the field
/// as its client sent it: HAProxy does. So the client of a proxy could have the fields removed by
/// which that proxy reports address, certificate and user (CVE-2022-31813 is of this kind). nginx and
/// HAProxy remove only what they know, and Envoy refuses requests that name a `X-Forwarded-*`. A
/// one-hop field too many does no harm behind a proxy, as it has no meaning without its name in
/// `Connection`; a lost field does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Options {
    /// All but end-to-end fields: the other side has written the whole head itself.
    All,
    /// Only those that are of one connection by their definition: the field may be the work of a
    /// stranger behind the peer.
    Known,
}

/// The protocol that a message offers or accepts to switch to, RFC 9110 section 7.8, if it is
/// WebSocket. Another, such as h2c, would carry requests past routes and limits.
pub(crate) fn upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let names_upgrade = connection_options(headers).any(|option| option == UPGRADE);
    let websocket = |value: &&HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"websocket");
    headers
        .get(UPGRADE)
        .filter(|_| names_upgrade)
        .filter(websocket)
        .cloned()
}

/// The protocol to which a request offers to switch. RFC 9110 section 7.8: it counts in HTTP/1.1 alone.
pub(crate) fn requested_upgrade<B>(request: &Request<B>) -> Option<HeaderValue> {
    match request.version() {
        Version::HTTP_11 => upgrade(request.headers()),
        _ => None,
    }
}

fn connection_options(headers: &HeaderMap) -> impl Iterator<Item = HeaderName> + '_ {
    list(headers, &CONNECTION).filter_map(|option| HeaderName::from_bytes(option).ok())
}

/// Removes the fields of one connection.
pub(crate) fn remove_hop_by_hop(headers: &mut HeaderMap, options: Options) {
    if options == Options::All {
        let named = connection_options(headers).filter(|name| !is_end_to_end(name));
        let named: Vec<_> = named.collect();
        for name in named {
            headers.remove(name);
        }
    }
    // In one pass: most messages have none of them.
    claims::remove_if(headers, |name| ONE_HOP.contains(name));
}

/// Removes the fields of a request that CGI and its successors take for another one that frames or routes it or
/// concerns one connection, such as `Content_Length`: a server that reads fields by CGI's names would see another
/// request than this proxy.
pub(crate) fn remove_misspelt(headers: &mut HeaderMap) {
    claims::remove_if(headers, |name| {
        let mut usual = ONE_HOP.iter().chain(&FRAMING);
        claims::is_unusual(name.as_str()) && usual.any(|usual| claims::is_spelling_of(name, usual))
    });
}

/// Whether the field is for all recipients, and so is never a connection option (RFC 9110 section
/// 7.6.1).
fn is_end_to_end(name: &HeaderName) -> bool {
    let text = name.as_str();
    claims::is_claim(name)
        || END_TO_END.contains(&text)
        || END_TO_END_FAMILIES
            .iter()
            .any(|family| text.starts_with(family))
}

/// Sets `Connection: upgrade` for this hop.
pub(crate) fn set_upgrade(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, protocol);
}

#[cfg(test)]
mod tests {
    use super::super::tests::headers;
    use super::*;

    #[test]
    fn hop_by_hop_fields_go_also_those_that_connection_names() {
        let lines = [
            ("connection", "keep-alive, X-Secret"),
            ("connection", "close"),
            ("x-secret", "1"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("http2-settings", "AAMAAABk"),
            ("accept", "text/event-stream"),
        ];
        for (options, left) in [
            (Options::All, &["accept"][..]),
            (Options::Known, &["accept", "x-secret"]),
        ] {
            let mut headers = headers(&lines);
            remove_hop_by_hop(&mut headers, options);
            let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
            names.sort_unstable();
            assert_eq!(names, left, "{options:?}");
        }
    }

    #[test]
    fn what_all_recipients_need_is_no_connection_option() {
        for name in [
            "accept",
            "accept-encoding",
            "access-control-request-method",
            "authorization",
            "cache-control",
            "client-cert",
            "content-encoding",
            "content-length",
            "content-type",
            "cookie",
            "forwarded",
            "host",
            "if-match",
            "if-none-match",
            "last-event-id",
            "mcp-session-id",
            "origin",
            "range",
            "referer",
            "sec-fetch-site",
            "set-cookie",
            "traceparent",
            "true-client-ip",
            "via",
            "x-api-key",
            "x-forwarded-for",
            "x-real-ip",
            "x-remote-user",
            "x-ssl-client-verify",
            "x-url-scheme",
        ] {
            let needed = headers(&[(name, "1")]);
            for options in [Options::All, Options::Known] {
                let mut kept = needed.clone();
                kept.insert(CONNECTION, HeaderValue::from_static(name));
                remove_hop_by_hop(&mut kept, options);
                assert_eq!(kept, needed, "{name} {options:?}");
            }
        }
    }

    #[test]
    fn misspelt_fields_of_framing_are_removed() {
        let mut headers = headers(&[
            ("content-length", "1"),
            ("content_length", "2"),
            ("content.length", "3"),
            ("http_content_length", "4"),
            ("transfer_encoding", "chunked"),
            ("transfer-encoding", "chunked"),
            ("http_host", "a"),
            ("host", "a"),
            ("keep_alive", "timeout=5"),
            ("x_custom", "1"),
            ("hos_t", "1"),
        ]);
        remove_misspelt(&mut headers);
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        let left = [
            "content-length",
            "hos_t",
            "host",
            "transfer-encoding",
            "x_custom",
        ];
        assert_eq!(names, left);
    }

    #[test]
    fn upgrade_of_http_1_0_does_not_count() {
        for (version, counts) in [(Version::HTTP_11, true), (Version::HTTP_10, false)] {
            let request = Request::builder()
                .version(version)
                .header(CONNECTION, "upgrade")
                .header(UPGRADE, "websocket");
            let request = request.body(()).unwrap();
            assert_eq!(requested_upgrade(&request).is_some(), counts, "{version:?}");
        }
    }

    #[test]
    fn upgrade_is_one_that_connection_names() {
        let asked = headers(&[
            ("connection", "Keep-Alive, Upgrade"),
            ("upgrade", "websocket"),
        ]);
        assert_eq!(upgrade(&asked).unwrap(), "websocket");
        assert_eq!(upgrade(&headers(&[("upgrade", "websocket")])), None);
        let h2c = headers(&[("connection", "upgrade"), ("upgrade", "h2c")]);
        assert_eq!(upgrade(&h2c), None);
    }
}
