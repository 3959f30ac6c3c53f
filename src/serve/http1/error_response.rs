//! The text of hyper's own error responses to requests that it rejects.

use super::request_scan::RequestError;
use crate::log_limit::LogLimit;
use std::sync::LazyLock;

/// Any peer can cause these lines, without a route that could limit them.
static LOG_LIMIT: LazyLock<LogLimit> = LazyLock::new(LogLimit::per_kind);

/// Logs why a request was rejected as malformed, at a bounded rate.
pub fn log_invalid_request(status: &str, reason: &str) {
    LOG_LIMIT.write(
        || tracing::info!(status, "request refused: {reason}"),
        |not_logged| {
            tracing::info!(not_logged, "more requests were refused than were logged");
        },
    );
}

/// Adds the reason as the body of hyper's error response, which is a head without a body. `None` if `head` is something
/// else.
pub(super) fn with_reason(head: &[u8], error: Option<RequestError>) -> Option<Vec<u8>> {
    const EMPTY: &str = "content-length: 0\r\n";
    let head = std::str::from_utf8(head).ok()?;
    let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?;
    let reason = match (status, error) {
        ("400", Some(error)) => error.to_string(),
        ("400", None) => "the request head is not valid HTTP/1.1 (RFC 9112)".to_owned(),
        ("414", _) => "the request target is too long".to_owned(),
        ("431", _) => "the request head is too large".to_owned(),
        _ => return None,
    };
    // Field names may be in title case.
    let at = head.to_ascii_lowercase().find(EMPTY)?;
    let (first, rest) = (&head[..at], &head[at + EMPTY.len()..]);
    if !rest.ends_with("\r\n") {
        return None;
    }
    log_invalid_request(status, &reason);
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

    fn text(head: &str, error: Option<RequestError>) -> Option<String> {
        with_reason(head.as_bytes(), error).map(|text| String::from_utf8(text).unwrap())
    }

    #[test]
    fn error_response_of_hyper_gets_the_reason_as_its_body() {
        let head =
            "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\ndate: x\r\n\r\n";
        let expected = "HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\
            content-type: text/plain; charset=utf-8\r\ncontent-length: 60\r\ndate: x\r\n\r\n\
            sse-guard: the request target has a raw '<'; send it as %3C\n";
        assert_eq!(
            text(head, Some(RequestError::RawByte(b'<'))).as_deref(),
            Some(expected)
        );
    }

    #[test]
    fn other_responses_than_errors_without_a_body_stay_unchanged() {
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
