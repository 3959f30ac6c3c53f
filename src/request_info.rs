//! Properties of a request, and the kind of its response.

use crate::family::Family;
use crate::head::CacheControl;
use crate::head::{accepts_event_stream, is_encoded, is_event_stream};
use crate::stream::ClientReconnects;
use http::{Method, Request, StatusCode, Version, response};

/// What is kept of the head of a request until its response is there.
#[derive(Clone, Debug)]
pub struct RequestInfo {
    pub(crate) method: Method,
    pub(crate) accepts_stream: bool,
    /// By HTTP/2 or later.
    pub(crate) is_multiplexed: bool,
    pub(crate) family: Family,
    /// The application has set the family: neither headers nor events change it.
    pub(crate) is_family_fixed: bool,
    /// What happens to the `Cache-Control` of its stream.
    pub(crate) cache_control: CacheControl,
}

impl RequestInfo {
    /// Reads it from the head.
    pub fn of<B>(request: &Request<B>) -> Self {
        Self {
            method: request.method().clone(),
            // A preflight does not request a stream, even if it accepts one.
            accepts_stream: request.method() != Method::OPTIONS
                && accepts_event_stream(request.headers()),
            is_multiplexed: request.version() >= Version::HTTP_2,
            family: Family::of(request),
            is_family_fixed: request.extensions().get::<Family>().is_some(),
            cache_control: CacheControl::of(request.extensions()).unwrap_or_default(),
        }
    }

    /// Whether the response is that of a HEAD whose GET would open a stream: by RFC 9110 section 9.3.2 both have
    /// the same fields.
    pub(crate) fn is_head_of_stream(&self, head: &response::Parts) -> bool {
        self.method == Method::HEAD && ResponseKind::of(&Method::GET, head) == ResponseKind::Stream
    }

    pub(crate) fn is_get(&self) -> bool {
        self.method == Method::GET
    }

    /// Whether the response may be a stream: clients of some APIs request one in the body only.
    pub(crate) fn may_stream(&self) -> bool {
        self.accepts_stream || self.family.is_model_api()
    }

    /// Whether the client reconnects after an empty stream with `retry:`, but not after an error status: an
    /// `EventSource` never does, clients of MCP's GET stream try twice. All other clients take an empty stream for a
    /// complete answer.
    pub(crate) fn takes_retry_later(&self) -> bool {
        let is_feed = self.family.is_feed();
        self.is_get() && self.accepts_stream && is_feed
    }

    /// Whether the client reconnects: by the configured methods, if there are any.
    pub(crate) fn client_reconnects(&self, methods: Option<&[Method]>) -> ClientReconnects {
        ClientReconnects::configured(methods.map(|methods| methods.contains(&self.method)))
    }
}

/// Whether the response of this status to a request of this method has a body, RFC 9112 section 6.3. That of a 205
/// is empty.
pub(crate) fn has_body(method: &Method, status: StatusCode) -> bool {
    let is_tunnel = *method == Method::CONNECT && status.is_success();
    let is_empty = matches!(
        status,
        StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED
    );
    *method != Method::HEAD && !is_tunnel && !is_empty && !status.is_informational()
}

/// The kind of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseKind {
    /// A readable event stream.
    Stream,
    /// An event stream in a content coding, into which nothing can be injected.
    Encoded,
    /// A range of bytes of an event stream, RFC 9110 section 15.3.7: it may begin and end anywhere, and an
    /// injection would move its bytes.
    Partial,
    /// Not an event stream.
    Other,
}

impl ResponseKind {
    /// A stream is a 2xx with a body of its type, for any method: an `EventSource` accepts 200 only, other clients
    /// accept all of them.
    pub fn of(method: &Method, head: &response::Parts) -> Self {
        if !has_body(method, head.status)
            || !head.status.is_success()
            || !is_event_stream(&head.headers)
        {
            return Self::Other;
        }
        match head.status {
            StatusCode::PARTIAL_CONTENT => Self::Partial,
            _ if is_encoded(&head.headers) => Self::Encoded,
            _ => Self::Stream,
        }
    }

    /// Whether its bytes are not readable, so that it passes unchanged.
    pub(crate) fn is_opaque(self) -> bool {
        matches!(self, Self::Encoded | Self::Partial)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::EVENT_STREAM;
    use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
    use http::{HeaderName, Response};

    fn kind(method: &Method, status: u16, headers: &[(HeaderName, &str)]) -> ResponseKind {
        let mut response = Response::builder().status(status);
        for (name, value) in headers {
            response = response.header(name, *value);
        }
        ResponseKind::of(method, &response.body(()).unwrap().into_parts().0)
    }

    #[test]
    fn response_kind_is_stream_for_a_2xx_of_the_type_with_a_body() {
        for content_type in [
            "text/event-stream",
            "Text/Event-Stream; charset=utf-8",
            "text/event-stream ;x=y",
            "text/event-stream, charset=utf-8",
        ] {
            let typed = [(CONTENT_TYPE, content_type)];
            for status in [200, 201, 202, 203, 226, 299] {
                assert_eq!(kind(&Method::GET, status, &typed), ResponseKind::Stream);
                assert_eq!(kind(&Method::POST, status, &typed), ResponseKind::Stream);
                assert_eq!(kind(&Method::HEAD, status, &typed), ResponseKind::Other);
                assert_eq!(kind(&Method::CONNECT, status, &typed), ResponseKind::Other);
            }
            assert_eq!(kind(&Method::GET, 206, &typed), ResponseKind::Partial);
            for status in [101, 204, 205, 301, 304, 404, 429, 500] {
                assert_eq!(kind(&Method::GET, status, &typed), ResponseKind::Other);
            }
        }
        for content_type in ["text/event-streams", "text/plain", "application/json", ""] {
            assert_eq!(
                kind(&Method::GET, 200, &[(CONTENT_TYPE, content_type)]),
                ResponseKind::Other
            );
        }
        assert_eq!(kind(&Method::GET, 200, &[]), ResponseKind::Other);
    }

    #[test]
    fn response_kind_is_encoded_for_a_content_coding() {
        for (coding, expected) in [
            ("gzip", ResponseKind::Encoded),
            ("br", ResponseKind::Encoded),
            ("identity, br", ResponseKind::Encoded),
            ("Identity", ResponseKind::Stream),
            ("none", ResponseKind::Stream),
        ] {
            let headers = [(CONTENT_TYPE, EVENT_STREAM), (CONTENT_ENCODING, coding)];
            assert_eq!(kind(&Method::GET, 200, &headers), expected);
        }
    }
}
