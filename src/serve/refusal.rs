//! The text of a response with which hyper refuses a request itself.

use super::request_scan::Fault;
use crate::log_limit::LogLimit;
use std::sync::LazyLock;

/// Any peer can cause these lines, before it belongs to a route.
static LIMIT: LazyLock<LogLimit> = LazyLock::new(LogLimit::per_kind);

/// Logs why a request was refused as malformed, at a bounded rate.
pub fn log(status: &str, reason: &str) {
    LIMIT.write(
        || tracing::info!(status, "request refused: {reason}"),
        |not_logged| {
            tracing::info!(not_logged, "more requests were refused than were logged");
        },
    );
}

/// A head of hyper's without a body, and the same response with the reason as its body. None where `head` is
/// something else.
pub(super) fn explained(head: &[u8], fault: Option<Fault>) -> Option<Vec<u8>> {
    const EMPTY: &str = "content-length: 0\r\n";
    let head = std::str::from_utf8(head).ok()?;
    let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?;
    let reason = match (status, fault) {
        ("400", Some(fault)) => fault.to_string(),
        ("400", None) => "the request head is not valid HTTP/1.1 (RFC 9112)".to_owned(),
        ("414", _) => "the request target is too long".to_owned(),
        ("431", _) => "the request head is too large".to_owned(),
        _ => return None,
    };
    // Names may be in title case.
    let at = head.to_ascii_lowercase().find(EMPTY)?;
    let (first, rest) = (&head[..at], &head[at + EMPTY.len()..]);
    if !rest.ends_with("\r\n") {
        return None;
    }
    log(status, &reason);
    let body = format!("sse-guard: {reason}\n");
    let len = body.len();
    let (kind, length) = match head[at..].starts_with('C') {
        true => ("Content-Type", "Content-Length"),
        false => ("content-type", "content-length"),
    };
    let text =
        format!("{first}{kind}: text/plain; charset=utf-8\r\n{length}: {len}\r\n{rest}{body}");
    Some(text.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(head: &str, fault: Option<Fault>) -> Option<String> {
        explained(head.as_bytes(), fault).map(|text| String::from_utf8(text).unwrap())
    }

    #[test]
    fn a_refusal_has_its_reason_for_a_body() {
        let head =
            "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\ndate: x\r\n\r\n";
        let expected = "HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\
            content-type: text/plain; charset=utf-8\r\ncontent-length: 60\r\ndate: x\r\n\r\n\
            sse-guard: the request target has a raw '<'; send it as %3C\n";
        assert_eq!(
            text(head, Some(Fault::Raw(b'<'))).as_deref(),
            Some(expected)
        );
    }

    #[test]
    fn what_is_not_such_a_response_stays_as_it_is() {
        for head in [
            "HTTP/1.1 400 Bad Request\r\ncontent-length: 3\r\n\r\n",
            "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\nHTTP",
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 100 Continue\r\n\r\n",
            "",
        ] {
            assert_eq!(text(head, None), None, "{head}");
        }
    }
}
