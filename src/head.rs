//! What a request asks for and what its response turned out to be: the rules about heads.

use crate::family::Family;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, response};

const EVENT_STREAM: &str = "text/event-stream";

pub(crate) const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// What of the request matters once the response is there.
#[derive(Clone, Debug)]
pub struct Asked {
    pub(crate) method: Method,
    pub(crate) accepts_stream: bool,
    pub(crate) family: Family,
}

impl Asked {
    pub(crate) fn of<B>(request: &Request<B>) -> Self {
        Self {
            method: request.method().clone(),
            accepts_stream: accepts_event_stream(request.headers()),
            family: Family::of(request),
        }
    }

    pub(crate) fn is_get(&self) -> bool {
        self.method == Method::GET
    }

    /// Whether its client comes back when a stream has ended: by its method if somebody has said
    /// which ones do, else by its family.
    pub(crate) fn comes_back(&self, methods: Option<&[Method]>) -> bool {
        match methods {
            Some(methods) => methods.contains(&self.method),
            None => self.family.comes_back(),
        }
    }
}

/// What a response is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An event stream whose bytes we can read.
    Stream,
    /// An event stream in a content coding: nothing can be put into it.
    Encoded,
    /// Not an event stream.
    Other,
}

impl Kind {
    pub(crate) fn of(asked: &Asked, head: &response::Parts) -> Self {
        let content_type = head.headers.get(CONTENT_TYPE);
        if head.status != StatusCode::OK
            || asked.method == Method::HEAD
            || !content_type.is_some_and(is_event_stream)
        {
            return Self::Other;
        }
        let identity = |coding: &HeaderValue| coding.as_bytes().eq_ignore_ascii_case(b"identity");
        match head.headers.get(CONTENT_ENCODING) {
            Some(coding) if !identity(coding) => Self::Encoded,
            _ => Self::Stream,
        }
    }
}

/// Whether a media type (with its parameters) is that of event streams.
fn is_event_stream(value: &HeaderValue) -> bool {
    is_of_type(value.as_bytes(), EVENT_STREAM)
}

/// Whether it is this media type, whatever its parameters.
fn is_of_type(value: &[u8], media_type: &str) -> bool {
    let essence = value.split(|&byte| byte == b';').next().unwrap_or(value);
    essence
        .trim_ascii()
        .eq_ignore_ascii_case(media_type.as_bytes())
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
    use http::Response;

    fn kind(method: Method, status: u16, headers: &[(HeaderName, &str)]) -> Kind {
        let asked = Asked {
            method,
            accepts_stream: true,
            family: Family::Raw,
        };
        let mut response = Response::builder().status(status);
        for (name, value) in headers {
            response = response.header(name, *value);
        }
        Kind::of(&asked, &response.body(()).unwrap().into_parts().0)
    }

    #[test]
    fn a_stream_is_a_200_of_the_type_that_nobody_asked_the_head_of() {
        for content_type in [
            "text/event-stream",
            "Text/Event-Stream; charset=utf-8",
            "text/event-stream ;x=y",
        ] {
            let typed = [(CONTENT_TYPE, content_type)];
            assert_eq!(kind(Method::GET, 200, &typed), Kind::Stream);
            assert_eq!(kind(Method::POST, 200, &typed), Kind::Stream);
            assert_eq!(kind(Method::HEAD, 200, &typed), Kind::Other);
            for status in [201, 204, 206, 304, 404, 429, 500] {
                assert_eq!(kind(Method::GET, status, &typed), Kind::Other);
            }
        }
        for content_type in ["text/event-streams", "text/plain", "application/json", ""] {
            assert_eq!(
                kind(Method::GET, 200, &[(CONTENT_TYPE, content_type)]),
                Kind::Other
            );
        }
        assert_eq!(kind(Method::GET, 200, &[]), Kind::Other);
    }

    #[test]
    fn a_coded_stream_is_not_to_be_read() {
        for (coding, expected) in [
            ("gzip", Kind::Encoded),
            ("br", Kind::Encoded),
            ("Identity", Kind::Stream),
        ] {
            let headers = [(CONTENT_TYPE, EVENT_STREAM), (CONTENT_ENCODING, coding)];
            assert_eq!(kind(Method::GET, 200, &headers), expected);
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
            let request = Request::get("/").header(ACCEPT, accept).body(()).unwrap();
            assert_eq!(Asked::of(&request).accepts_stream, expected, "{accept}");
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
