//! What a request asks for, and what its response turned out to be.

use crate::family::Family;
use crate::head::{accepts_event_stream, is_encoded, is_event_stream};
use http::header::CONTENT_TYPE;
use http::{Method, Request, StatusCode, response};

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::EVENT_STREAM;
    use http::header::CONTENT_ENCODING;
    use http::{HeaderName, Response};

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
}
