//! What a request asks for and what its response turned out to be: the rules about heads.

use crate::family::Family;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, response};

pub(crate) const EVENT_STREAM: &str = "text/event-stream";

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

    /// Whether the answer is to be a stream, as far as a head can tell: the clients of some APIs say so
    /// in the body alone.
    pub(crate) fn may_stream(&self) -> bool {
        self.accepts_stream || matches!(self.family, Family::OpenAi | Family::Anthropic)
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
        match is_encoded(&head.headers) {
            true => Self::Encoded,
            false => Self::Stream,
        }
    }
}

fn is_encoded(headers: &HeaderMap) -> bool {
    let coding = headers.get(CONTENT_ENCODING);
    coding.is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity"))
}

/// A media type without its parameters.
fn essence(value: &[u8]) -> &[u8] {
    let essence = value.split(|&byte| byte == b';').next().unwrap_or(value);
    essence.trim_ascii()
}

/// Whether a media type (with its parameters) is that of event streams.
fn is_event_stream(value: &HeaderValue) -> bool {
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
