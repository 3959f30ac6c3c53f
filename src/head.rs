//! What heads say, and are made to say.

use http::header::{
    ACCEPT, ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE,
};
use http::{HeaderMap, HeaderName, HeaderValue};

pub(crate) const EVENT_STREAM: &str = "text/event-stream";

pub(crate) const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

pub(crate) fn is_encoded(headers: &HeaderMap) -> bool {
    let coding = headers.get(CONTENT_ENCODING);
    coding.is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity"))
}

/// A media type without its parameters.
fn essence(value: &[u8]) -> &[u8] {
    let essence = value.split(|&byte| byte == b';').next().unwrap_or(value);
    essence.trim_ascii()
}

/// Whether a media type (with its parameters) is that of event streams.
pub(crate) fn is_event_stream(value: &HeaderValue) -> bool {
    is_of_type(value.as_bytes(), EVENT_STREAM)
}

/// Whether it is this media type, whatever its parameters.
fn is_of_type(value: &[u8], media_type: &str) -> bool {
    essence(value).eq_ignore_ascii_case(media_type.as_bytes())
}

/// Whether a body is one that can be shown to a person: text, JSON or XML, as it is.
pub(crate) fn is_text(headers: &HeaderMap) -> bool {
    let Some(content_type) = headers.get(CONTENT_TYPE) else {
        return false;
    };
    let content_type = essence(content_type.as_bytes()).to_ascii_lowercase();
    let ends: [&[u8]; 4] = [b"/json", b"+json", b"/xml", b"+xml"];
    let is_text =
        content_type.starts_with(b"text/") || ends.iter().any(|end| content_type.ends_with(end));
    is_text && !is_encoded(headers)
}

/// Whether `Accept` names event streams; `*/*` does not.
pub(crate) fn accepts_event_stream(headers: &HeaderMap) -> bool {
    accepts(headers, EVENT_STREAM)
}

/// Whether `Accept` names JSON; `*/*` does not.
pub(crate) fn accepts_json(headers: &HeaderMap) -> bool {
    accepts(headers, "application/json")
}

fn accepts(headers: &HeaderMap, media_type: &str) -> bool {
    headers.get_all(ACCEPT).iter().any(|value| {
        let mut ranges = value.as_bytes().split(|&byte| byte == b',');
        ranges.any(|range| is_of_type(range, media_type))
    })
}

/// Asks for bytes that we can read.
pub(crate) fn ask_for_identity(headers: &mut HeaderMap) {
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
}

/// Makes the head of a stream say what caches, compressors and buffering proxies need to hear.
pub(crate) fn harden(headers: &mut HeaderMap) {
    headers.remove(CONTENT_LENGTH);
    headers.insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
    let says = |directive: &[u8]| {
        headers.get_all(CACHE_CONTROL).iter().any(|value| {
            let mut directives = value.as_bytes().split(|&byte| byte == b',');
            directives.any(|said| said.trim_ascii().eq_ignore_ascii_case(directive))
        })
    };
    if !says(b"no-store") {
        let value = match says(b"private") {
            true => "private, no-cache, no-transform",
            false => "no-cache, no-transform",
        };
        headers.insert(CACHE_CONTROL, HeaderValue::from_static(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_can_be_shown_when_it_is_text_in_no_coding() {
        for (content_type, expected) in [
            ("text/plain; charset=utf-8", true),
            ("Application/JSON", true),
            ("application/problem+json", true),
            ("application/xml", true),
            ("application/octet-stream", false),
            ("image/png", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            assert!(!is_text(&headers));
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
            assert_eq!(is_text(&headers), expected, "{content_type}");
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            assert!(!is_text(&headers));
        }
    }

    #[test]
    fn a_request_accepts_streams_when_it_names_them() {
        for (accept, expected) in [
            ("text/event-stream", true),
            ("application/json, Text/Event-Stream;q=0.9", true),
            ("*/*", false),
            ("text/*", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, HeaderValue::from_static(accept));
            assert_eq!(accepts_event_stream(&headers), expected, "{accept}");
        }
    }

    #[test]
    fn the_head_forbids_to_buffer_and_to_transform() {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("7"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("max-age=60"));
        harden(&mut headers);
        assert_eq!(headers[CACHE_CONTROL], "no-cache, no-transform");
        assert_eq!(headers[X_ACCEL_BUFFERING], "no");
        assert!(!headers.contains_key(CONTENT_LENGTH));
    }

    #[test]
    fn what_is_private_stays_so() {
        let mut headers = HeaderMap::new();
        headers.insert(
            CACHE_CONTROL,
            HeaderValue::from_static("max-age=60, Private"),
        );
        harden(&mut headers);
        assert_eq!(headers[CACHE_CONTROL], "private, no-cache, no-transform");
    }

    #[test]
    fn no_store_is_stricter_and_stays() {
        let mut headers = HeaderMap::new();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, No-Store"));
        harden(&mut headers);
        assert_eq!(headers[CACHE_CONTROL], "private, No-Store");
    }
}
