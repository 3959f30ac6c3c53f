//! Interim (1xx) heads of an upstream.

use crate::headers::{Options, remove_hop_by_hop};
use http::header::{ALT_SVC, CONTENT_LENGTH};
use http::{HeaderMap, Request, StatusCode};
use sse_guard::internal::ClientConnection;

/// Has hyper forward the interim heads that come ahead of the response to `request`. Their number is bounded by
/// that of heads that are read: see `head_scan`.
pub(super) fn forward<B>(request: &mut Request<B>, client: &ClientConnection) {
    let client = client.clone();
    hyper::ext::on_informational(request, move |head| {
        if is_forwarded(head.status()) {
            client.send_interim(head.status(), &end_to_end(head.headers()));
        }
    });
}

/// RFC 9110 section 15.2: a proxy forwards all of them, unknown ones too, but for those that it caused itself.
/// 100 is such a one: `Expect` is answered on the client's connection as soon as the body is read, and a client
/// without it does not wait for one. 101 is final for its connection, and comes as the response.
pub(in crate::upstream) fn is_forwarded(status: StatusCode) -> bool {
    let is_own = [StatusCode::CONTINUE, StatusCode::SWITCHING_PROTOCOLS].contains(&status);
    status.is_informational() && !is_own
}

/// The fields of an interim head that are forwarded.
pub(in crate::upstream) fn end_to_end(headers: &HeaderMap) -> HeaderMap {
    let mut headers = headers.clone();
    remove_hop_by_hop(&mut headers, Options::All);
    // RFC 9110 section 8.6 forbids it here. A client that takes the head for the final one would wait for a body.
    headers.remove(CONTENT_LENGTH);
    // As of a final head.
    headers.remove(ALT_SVC);
    headers
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn interim_heads_but_100_and_101_are_forwarded() {
        for (code, is) in [
            (100, false),
            (101, false),
            (102, true),
            (103, true),
            (199, true),
            (200, false),
        ] {
            assert_eq!(
                is_forwarded(StatusCode::from_u16(code).unwrap()),
                is,
                "{code}"
            );
        }
    }

    #[test]
    fn interim_head_loses_fields_of_one_connection_and_of_framing() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "x-hop"),
            ("x-hop", "1"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("content-length", "5"),
            ("alt-svc", "h3=\":443\""),
            ("link", "</a.css>; rel=preload"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        let left = end_to_end(&headers);
        let left: Vec<_> = left.keys().map(|name| name.as_str()).collect();
        assert_eq!(left, ["link"]);
    }
}
