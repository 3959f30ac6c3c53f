//! Streams that are not guarded, or not in full: counted, and logged once a route with what helps.

use crate::guard::ResponseInfo;
use crate::head::{is_event_stream, names_event_stream};
use crate::lock::lock;
use crate::request_info::ResponseKind;
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
    /// It is in a content coding: no heartbeats, no resume, no clean end.
    Encoded,
    /// It is a range of bytes, a 206: the same.
    Partial,
    /// It has the type of an event stream, and a status that is no 2xx: it is taken for no stream.
    Status,
    /// It has another type, or none, and seems to be meant for a stream: it is taken for no stream.
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
            ResponseKind::Other if head.rejected || !head.request_info.has_body(head.status) => {
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

    /// How an operator gets such responses guarded.
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

/// The responses of a route and a reason.
#[derive(Clone, Debug)]
pub struct UnguardedResponses {
    /// Why they were not guarded.
    pub reason: Unguarded,
    /// How many there were.
    pub count: u64,
    /// Of the last one.
    pub at: SystemTime,
    /// Of the last one.
    pub details: Details,
}

/// What a route has been warned of.
#[derive(Debug, Default)]
pub(super) struct Warned {
    reasons: AtomicU8,
    /// Where heads are kept: at most one entry for each reason.
    seen: Mutex<Vec<UnguardedResponses>>,
}

impl Warned {
    /// Counts it, and warns of the first of its kind: an upstream does so with each stream.
    pub(super) fn note(
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
        if self.reasons.fetch_or(bit, Relaxed) & bit != 0 {
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
        let mut seen = lock(&self.seen);
        let known = seen.iter().position(|known| known.reason == reason);
        let count = known.map_or(0, |at| seen.swap_remove(at).count) + 1;
        seen.push(UnguardedResponses {
            reason,
            count,
            at: SystemTime::now(),
            details: request.with_response(head.status, head.headers),
        });
    }

    pub(super) fn seen(&self) -> Vec<UnguardedResponses> {
        lock(&self.seen).clone()
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
            kind: ResponseKind::of(&request_info, &head),
            stream: None,
            rejected: false,
        })
    }

    #[test]
    fn what_looks_like_a_stream_and_is_not_guarded_has_a_reason() {
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
