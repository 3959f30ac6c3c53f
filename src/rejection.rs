//! A request that is rejected before it becomes a stream.

use crate::answer::{OwnResponse, retry_later};
use crate::family::Family;
use crate::retry_after::retry_after_value;
use crate::stream::StreamRegistry;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Why a stream, or another request, was rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RejectReason {
    /// The client has the maximum of streams.
    PerClient,
    /// All clients together have the maximum of streams.
    Total,
    /// The client opens new streams too fast.
    Rate,
    /// The client table is full.
    Clients,
    /// The process is at its memory budget.
    Memory,
    /// The process is at its limit of open files.
    Files,
    /// The client has the maximum of requests in flight.
    Requests,
    /// The process is about to stop.
    Draining,
}

impl RejectReason {
    /// All values.
    pub const ALL: &[Self] = &[
        Self::PerClient,
        Self::Total,
        Self::Rate,
        Self::Clients,
        Self::Memory,
        Self::Files,
        Self::Requests,
        Self::Draining,
    ];

    /// Whether a resource of the process is exhausted, regardless of the client.
    pub(crate) fn is_shortage(self) -> bool {
        matches!(self, Self::Memory | Self::Files)
    }

    /// The value of the label `reason` in metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PerClient => "per_client",
            Self::Total => "total",
            Self::Rate => "rate",
            Self::Clients => "clients",
            Self::Memory => "memory",
            Self::Files => "files",
            Self::Requests => "requests",
            Self::Draining => "draining",
        }
    }

    fn status(self) -> StatusCode {
        match self {
            Self::PerClient | Self::Rate | Self::Requests => StatusCode::TOO_MANY_REQUESTS,
            Self::Total | Self::Clients | Self::Memory | Self::Files | Self::Draining => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::PerClient => "too many event streams from this client",
            Self::Total | Self::Clients => "too many event streams",
            Self::Memory | Self::Files => "no capacity for another event stream",
            Self::Requests => "too many requests in flight from this client",
            Self::Draining => "this server is stopping: retry later",
            Self::Rate => "too many new event streams from this client",
        }
    }
}

/// In the extensions of a response to a rejected request.
#[derive(Clone, Copy, Debug)]
pub struct Rejected(pub RejectReason);

/// Changes this crate's response to a rejected request.
#[derive(Clone)]
pub(crate) struct CustomResponse(
    Arc<dyn Fn(RejectReason, Response<Bytes>) -> Response<Bytes> + Send + Sync>,
);

impl CustomResponse {
    pub(crate) fn new(
        f: impl Fn(RejectReason, Response<Bytes>) -> Response<Bytes> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(f))
    }
}

impl fmt::Debug for CustomResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CustomResponse")
    }
}

/// A rejection, and the form of its response.
#[derive(Clone, Debug)]
pub struct Rejection {
    pub(crate) reason: RejectReason,
    pub(crate) retry_after: Duration,
    /// As a stream that sets `retry:` and ends, since an `EventSource` does not reconnect after any status but 200.
    pub(crate) as_stream: bool,
    pub(crate) custom: Option<CustomResponse>,
}

impl Rejection {
    /// Rejects a request for a new stream while `registry` drains.
    #[doc(hidden)]
    pub fn while_draining(
        registry: &StreamRegistry,
        retry: Duration,
        as_stream: bool,
    ) -> Option<Self> {
        let retry_after = registry.drain_retry(retry)?;
        let reason = RejectReason::Draining;
        metrics::counter!("sse_guard_rejections_total", "reason" => reason.as_str()).increment(1);
        Some(Self {
            reason,
            retry_after,
            as_stream,
            custom: None,
        })
    }

    #[doc(hidden)]
    pub fn response(&self, family: Family) -> Response<Bytes> {
        if self.as_stream {
            let mut response = retry_later(self.retry_after);
            response.extensions_mut().insert(Rejected(self.reason));
            return response;
        }
        let body = format!("sse-guard: {}\n", self.reason.text());
        let mut response = Response::new(Bytes::from(body));
        *response.status_mut() = self.reason.status();
        let headers = response.headers_mut();
        let text = HeaderValue::from_static("text/plain; charset=utf-8");
        headers.insert(CONTENT_TYPE, text);
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(RETRY_AFTER, retry_after_value(self.retry_after, family));
        if let Some(CustomResponse(f)) = &self.custom {
            response = f(self.reason, response);
        }
        // In the custom response as well: layers outside depend on it.
        response.extensions_mut().insert(OwnResponse);
        response.extensions_mut().insert(Rejected(self.reason));
        response
    }
}

pub(crate) fn describe_metrics() {
    for &reason in RejectReason::ALL {
        metrics::counter!("sse_guard_rejections_total", "reason" => reason.as_str()).increment(0);
    }
    metrics::describe_counter!(
        "sse_guard_rejections_total",
        metrics::Unit::Count,
        "Rejected requests, by reason"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(reason: RejectReason, as_stream: bool) -> Response<Bytes> {
        let retry_after = Duration::from_millis(1_500);
        Rejection {
            reason,
            retry_after,
            as_stream,
            custom: None,
        }
        .response(Family::Raw)
    }

    #[test]
    fn status_depends_on_the_exceeded_limit() {
        for (reason, status) in [
            (RejectReason::PerClient, 429),
            (RejectReason::Rate, 429),
            (RejectReason::Requests, 429),
            (RejectReason::Total, 503),
            (RejectReason::Clients, 503),
            (RejectReason::Memory, 503),
            (RejectReason::Files, 503),
            (RejectReason::Draining, 503),
        ] {
            let response = response(reason, false);
            assert_eq!(response.status(), status);
            assert_eq!(response.headers()[RETRY_AFTER], "2");
            assert!(response.body().ends_with(b"\n"));
        }
    }

    #[test]
    fn retry_later_is_a_stream_with_retry_that_ends() {
        let response = response(RejectReason::Total, true);
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()[CONTENT_TYPE], "text/event-stream");
        assert_eq!(response.headers()[CACHE_CONTROL], "no-store");
        assert_eq!(response.headers()["x-accel-buffering"], "no");
        assert_eq!(response.body(), "retry: 1500\n");
    }
}
