//! Changes to message heads: hop-by-hop fields are removed, fields about the client are added.

mod claims;
mod connection;
mod forwarding;

pub(super) use self::claims::remove_field;
pub(super) use self::connection::{
    Options, remove_hop_by_hop, remove_misspelt, requested_upgrade, set_upgrade, upgrade,
};
pub(super) use self::forwarding::forward;

use http::header::{
    AGE, AUTHORIZATION, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE,
    CONTENT_TYPE, DATE, EXPECT, EXPIRES, HOST, LOCATION, MAX_FORWARDS, PRAGMA, RANGE, RETRY_AFTER,
    SET_COOKIE, TRAILER, TRANSFER_ENCODING, VARY, WARNING, WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderName, HeaderValue};

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

/// Whether the body comes in no transfer coding but `chunked`. Of another one the next hop would not
/// know: transfer codings are of one connection alone, RFC 9112 section 6.1.
pub(super) fn is_chunked_at_most(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(TRANSFER_ENCODING).into_iter();
    let first = codings.next();
    first.is_none_or(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked"))
        && codings.next().is_none()
}

/// Whether the request expects nothing but 100 (Continue), which the client's connection answers as soon as the body
/// is read.
pub(super) fn expects_continue_at_most(headers: &HeaderMap) -> bool {
    let mut expected = headers
        .get_all(EXPECT)
        .into_iter()
        .map(HeaderValue::as_bytes);
    expected.all(|value| value.is_empty() || value.eq_ignore_ascii_case(b"100-continue"))
}

/// A `Content-Length` in other digits than this proxy would write: servers that read a leading zero as octal see
/// another length.
pub(super) fn has_leading_zero(length: &HeaderValue) -> bool {
    length.len() > 1 && length.as_bytes()[0] == b'0'
}

/// Removes the fields that must not be trailers: those that frame or route the message, describe
/// its content or its sender, or concern one connection (RFC 9110 section 6.5.1).
pub(super) fn remove_no_trailers(trailers: &mut HeaderMap) {
    remove_hop_by_hop(trailers, Options::All);
    for name in NO_TRAILERS {
        trailers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// These fields.
    pub(super) fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for &(name, value) in lines {
            headers.append(name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn expectation_is_100_continue_or_nothing() {
        for (values, is_known) in [
            (&[][..], true),
            (&["100-continue"], true),
            (&["100-Continue", "100-continue"], true),
            (&[""], true),
            (&["y"], false),
            (&["y 100-continue"], false),
            (&["100-continue, 100-continue"], false),
            (&["100-continue", "y"], false),
        ] {
            let lines: Vec<_> = values.iter().map(|value| ("expect", *value)).collect();
            assert_eq!(
                expects_continue_at_most(&headers(&lines)),
                is_known,
                "{values:?}"
            );
        }
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
        let mut left: Vec<_> = trailers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["server-timing", "x-sum"]);
    }
}
