//! Responses that look like streams and are not fully guarded: counted, and logged once a route with the remedy.

use crate::guard::ResponseInfo;
use crate::head::{is_event_stream, names_event_stream};
use crate::lock::lock;
use crate::request_info::{ResponseKind, has_body};
use crate::stream::{Details, RequestDetails};
use http::header::CONTENT_TYPE;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::time::SystemTime;
use tracing::warn;

/// Why a response that looks like an event stream passes without some or all protections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Unguarded {
    /// It has a content coding: without heartbeats, resume and a clean end.
    Encoded,
    /// It is a range of bytes, a 206: without heartbeats, resume and a clean end.
    Partial,
    /// It has the type of an event stream, and another status than 2xx: it is not handled as a stream.
    Status,
    /// It has another type, or none, and is probably intended as a stream: it is not handled as a stream.
    ContentType,
}

impl Unguarded {
    /// All values.
    pub const ALL: &[Self] = &[
        Self::Encoded,
        Self::Partial,
        Self::Status,
        Self::ContentType,
    ];

    /// The value of the label `reason`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Encoded => "encoded",
            Self::Partial => "partial",
            Self::Status => "status",
            Self::ContentType => "content_type",
        }
    }

    pub(super) fn of(head: &ResponseInfo<'_>) -> Option<Self> {
        match head.kind {
            ResponseKind::Stream => None,
            ResponseKind::Encoded => Some(Self::Encoded),
            ResponseKind::Partial => Some(Self::Partial),
            ResponseKind::Other
                if head.rejected || !has_body(&head.request_info.method, head.status) =>
            {
                None
            }
            ResponseKind::Other if is_event_stream(head.headers) => Some(Self::Status),
            ResponseKind::Other if !head.status.is_success() => None,
            ResponseKind::Other => {
                let is_untyped =
                    head.request_info.accepts_stream && !head.headers.contains_key(CONTENT_TYPE);
                (is_untyped || names_event_stream(head.headers)).then_some(Self::ContentType)
            }
        }
    }

    /// Describes what an operator can change so that such responses are guarded.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Encoded => {
                "the upstream compresses its event stream: no heartbeats are sent, and the stream \
                 is cut where it has to end; disable compression for it, or make the upstream \
                honour `Accept-Encoding: identity`"
            }
            Self::Partial => {
                "the upstream sent a range of an event stream (206): no heartbeats are sent, and \
                 the stream is cut where it has to end; respond with 200 and the whole stream"
            }
            Self::Status => {
                "a response has the Content-Type of an event stream and an error status: it is \
                 not handled as a stream, without limits and heartbeats; respond with 200 if it \
                is a stream, or with another Content-Type if it is an error"
            }
            Self::ContentType => {
                "a response looks like an event stream and has another Content-Type: it is not \
                 handled as a stream, without limits and heartbeats; send `Content-Type: \
                text/event-stream` alone"
            }
        }
    }
}

/// The responses of one route for one reason.
#[derive(Clone, Debug)]
pub struct UnguardedResponses {
    /// Why they were not guarded.
    pub reason: Unguarded,
    /// Their number.
    pub count: u64,
    /// The time of the last one.
    pub at: SystemTime,
    /// The heads of the last one.
    pub details: Details,
}

/// The unguarded responses of one route.
#[derive(Debug, Default)]
pub(super) struct UnguardedLog {
    /// Bits of the reasons that were logged.
    logged: AtomicU8,
    /// If heads are kept: at most one entry for each reason.
    responses: Mutex<Vec<UnguardedResponses>>,
}

impl UnguardedLog {
    /// Counts a response, and logs the first of each reason: the responses of one upstream are alike.
    pub(super) fn record(
        &self,
        unguarded: Unguarded,
        route: &str,
        request: Option<&RequestDetails>,
        head: &ResponseInfo<'_>,
    ) {
        if let Some(request) = request {
            self.keep(unguarded, request, head);
        }
        let reason = unguarded.as_str();
        metrics::counter!("sse_guard_unguarded_total", "reason" => reason).increment(1);
        let bit = 1 << unguarded as u8;
        if self.logged.fetch_or(bit, Relaxed) & bit != 0 {
            return;
        }
        let text = |name| {
            let value = head.headers.get(name)?;
            Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
        };
        warn!(
            route,
            reason,
            status = head.status.as_u16(),
            content_type = text(CONTENT_TYPE),
            content_encoding = text(http::header::CONTENT_ENCODING),
            "{}",
            unguarded.remedy()
        );
    }

    fn keep(&self, reason: Unguarded, request: &RequestDetails, head: &ResponseInfo<'_>) {
        let mut responses = lock(&self.responses);
        let known = responses.iter().position(|known| known.reason == reason);
        let count = known.map_or(0, |at| responses.swap_remove(at).count) + 1;
        responses.push(UnguardedResponses {
            reason,
            count,
            at: SystemTime::now(),
            details: request.with_response(head.status, head.headers),
        });
    }

    pub(super) fn responses(&self) -> Vec<UnguardedResponses> {
        lock(&self.responses).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request_info::RequestInfo;
    use http::{Method, Request, Response};

    fn of(method: Method, accept: &str, status: u16, fields: &[(&str, &str)]) -> Option<Unguarded> {
        let request = Request::builder().method(method).header("accept", accept);
        let request_info = RequestInfo::of(&request.body(()).unwrap());
        let mut response = Response::builder().status(status);
        for (name, value) in fields {
            response = response.header(*name, *value);
        }
        let (head, ()) = response.body(()).unwrap().into_parts();
        Unguarded::of(&ResponseInfo {
            request_info: &request_info,
            status: head.status,
            headers: &head.headers,
            kind: ResponseKind::of(&request_info.method, &head),
            stream: None,
            rejected: false,
        })
    }

    #[test]
    fn unguarded_response_has_a_reason() {
        const TYPE: &str = "content-type";
        let stream = (TYPE, "text/event-stream");
        let get = |status, fields: &[(&str, &str)]| of(Method::GET, "*/*", status, fields);
        assert_eq!(get(200, &[stream]), None);
        assert_eq!(get(201, &[stream]), None);
        let coded = [stream, ("content-encoding", "gzip")];
        assert_eq!(get(200, &coded), Some(Unguarded::Encoded));
        let none = [stream, ("content-encoding", "none")];
        assert_eq!(get(200, &none), None);
        assert_eq!(get(206, &[stream]), Some(Unguarded::Partial));
        for status in [400, 429, 500, 503] {
            assert_eq!(get(status, &[stream]), Some(Unguarded::Status));
        }
        for status in [204, 205, 304] {
            assert_eq!(get(status, &[stream]), None);
        }
        assert_eq!(of(Method::HEAD, "*/*", 200, &[stream]), None);
        for content_type in [
            "text/event-stream, text/html",
            "\"text/event-stream\"",
            "application/Event-Stream",
            "text/event-streams",
        ] {
            let found = get(200, &[(TYPE, content_type)]);
            assert_eq!(found, Some(Unguarded::ContentType), "{content_type}");
            assert_eq!(get(500, &[(TYPE, content_type)]), None);
        }
        for (accept, expected) in [
            ("text/event-stream", Some(Unguarded::ContentType)),
            ("*/*", None),
        ] {
            assert_eq!(of(Method::GET, accept, 200, &[]), expected);
            assert_eq!(of(Method::GET, accept, 200, &[(TYPE, "text/html")]), None);
        }
    }
}
