//! The log lines of a stream, at its opening and at its end, in its span.

use super::LogLimit;
use crate::log_limit::seconds;
use crate::stream::{EndReason, Stream, UpstreamFault, listener_name};
use http::{HeaderMap, HeaderName, Request};
use std::time::Duration;
use tracing::{Level, Span, debug, debug_span, error, info, info_span};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// Not registered, but sent by most proxies and frameworks.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longer ids are ignored.
pub const MAX_REQUEST_ID: usize = 128;

/// Properties of a request that only the log needs.
#[derive(Debug)]
pub(super) struct LoggedRequest {
    /// Without the query, which may contain tokens.
    path: Box<str>,
    trace_id: Option<Box<str>>,
    request_id: Option<Box<str>>,
    listener: Option<Box<str>>,
}

impl LoggedRequest {
    /// `None` if the level is disabled: it costs an allocation.
    pub(super) fn of<B>(request: &Request<B>, level: Level) -> Option<Self> {
        let is_enabled = match level {
            Level::INFO => tracing::enabled!(Level::INFO),
            _ => tracing::enabled!(Level::DEBUG),
        };
        is_enabled.then(|| Self {
            path: request.uri().path().into(),
            trace_id: trace_id(request.headers()).map(Box::from),
            request_id: request_id(request.headers()).map(Box::from),
            listener: listener_name(request).map(Box::from),
        })
    }
}

/// The trace of the request, by
/// [W3C trace context](https://www.w3.org/TR/trace-context/#traceparent-header).
fn trace_id(headers: &HeaderMap) -> Option<&str> {
    let mut parts = headers.get(TRACEPARENT)?.to_str().ok()?.split('-');
    let (version, id) = (parts.next()?, parts.next()?);
    let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    let is_id = id.len() == 32 && id.bytes().all(hex) && id.bytes().any(|byte| byte != b'0');
    (version.len() == 2 && version != "ff" && is_id).then_some(id)
}

/// The id of the request in other logs, as outer layers have passed it on.
fn request_id(headers: &HeaderMap) -> Option<&str> {
    let id = headers.get(X_REQUEST_ID)?.to_str().ok()?;
    (1..=MAX_REQUEST_ID).contains(&id.len()).then_some(id)
}

/// Logs at INFO or DEBUG: a level must be constant where a line is written.
macro_rules! at {
    ($level:expr, $($line:tt)*) => {
        match $level {
            Level::INFO => info!($($line)*),
            _ => debug!($($line)*),
        }
    };
}

/// The log of one stream.
#[derive(Debug)]
pub(super) struct StreamLog {
    /// `None` for a stream that opened above the limit.
    span: Option<Span>,
}

impl StreamLog {
    pub(super) fn open(
        stream: &Stream,
        route: &str,
        request: Option<&LoggedRequest>,
        limit: Option<&LogLimit>,
        level: Level,
    ) -> Self {
        if let Some(limit) = limit.filter(|limit| !limit.admit()) {
            limit.suppress(1, move |left_out| {
                at!(level, left_out, "more streams opened than were logged");
            });
            return Self { span: None };
        }
        macro_rules! span {
            ($span:ident) => {
                $span!(
                    "stream",
                    id = stream.id().as_u64(),
                    route,
                    client = stream.client().map(display),
                    path = request.map(|request| display(&request.path)),
                    trace_id = request.and_then(|request| request.trace_id.as_deref()),
                    request_id = request.and_then(|request| request.request_id.as_deref()),
                    listener = request.and_then(|request| request.listener.as_deref()),
                )
            };
        }
        let span = match level {
            Level::INFO => span!(info_span),
            _ => span!(debug_span),
        };
        span.in_scope(|| at!(level, "stream opened"));
        Self { span: Some(span) }
    }

    /// A panic is also logged for a stream that is not, within a limit of its own.
    pub(super) fn end(
        &self,
        stream: &Stream,
        route: &str,
        reason: EndReason,
        age: Duration,
        panics: &LogLimit,
        level: Level,
    ) {
        let is_panic = reason == EndReason::Panicked;
        // In a disabled span, the line of a panic would not identify the stream.
        let span = self.span.as_ref().filter(|span| !span.is_disabled());
        let Some(span) = span else {
            if is_panic {
                let id = stream.id().as_u64();
                let name: Box<str> = route.into();
                panics.write(
                    || error!(id, route, %reason, "stream ended: the service panicked"),
                    move |not_logged| {
                        error!(
                            route = &*name,
                            not_logged, "the service panicked in more streams"
                        );
                    },
                );
            }
            return;
        };
        let (age_seconds, gap_p99_seconds) = (seconds(age), stream.gap_p99().map(seconds));
        let (events, bytes, heartbeats) = (stream.events(), stream.bytes(), stream.heartbeats());
        span.in_scope(|| match is_panic {
            true => error!(
                age_seconds,
                events,
                bytes,
                heartbeats,
                gap_p99_seconds,
                %reason,
                "stream ended: the service panicked"
            ),
            false => at!(
                level,
                age_seconds,
                events,
                bytes,
                heartbeats,
                gap_p99_seconds,
                %reason,
                fault = stream.upstream_fault().map(UpstreamFault::as_str),
                cause = stream.upstream_fault().map(UpstreamFault::cause),
                "stream ended"
            ),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn trace_id_is_taken_only_from_a_well_formed_header() {
        let id = "4bf92f3577b34da6a3ce929d0e0e4736";
        for (header, expected) in [
            (format!("00-{id}-00f067aa0ba902b7-01"), Some(id)),
            (format!("cc-{id}-00f067aa0ba902b7-01-more"), Some(id)),
            (format!("ff-{id}-00f067aa0ba902b7-01"), None),
            (
                format!("00-{}-00f067aa0ba902b7-01", id.to_uppercase()),
                None,
            ),
            (format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)), None),
            ("00-4bf9-00f067aa0ba902b7-01".to_owned(), None),
            (String::new(), None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(TRACEPARENT, HeaderValue::try_from(&header).unwrap());
            assert_eq!(trace_id(&headers), expected, "{header}");
        }
        assert_eq!(trace_id(&HeaderMap::new()), None);
    }

    #[tokio::test]
    async fn streams_are_logged_at_debug_unless_the_level_is_raised_and_panics_always() {
        use crate::guard::testing::{ScriptedUpstream, get};
        use crate::log_limit::captured::Log;
        use crate::metrics::MetricsLayer;
        // It captures INFO and above.
        let (log, _logging) = Log::start();
        let layer = MetricsLayer::new().route("/quiet");
        let response = get(layer, ScriptedUpstream::new().send("data: 1\n\n")).await;
        response.read().await.1.unwrap();
        assert_eq!(log.text(), "");

        let layer = MetricsLayer::new().route("/loud").log_level(Level::INFO);
        let response = get(layer, ScriptedUpstream::new().send("data: 1\n\n")).await;
        response.read().await.1.unwrap();
        let text = log.text();
        for line in ["stream opened", "stream ended"] {
            assert_eq!(log.count(line), 1, "{text}");
        }
        assert_eq!(text.matches("/loud").count(), 2, "{text}");

        let (stream, panics) = (Stream::open(), LogLimit::per_kind());
        let stream_log = StreamLog::open(&stream, "/broken", None, None, Level::DEBUG);
        stream_log.end(
            &stream,
            "/broken",
            EndReason::Panicked,
            Duration::ZERO,
            &panics,
            Level::DEBUG,
        );
        assert_eq!(log.count("the service panicked"), 1, "{}", log.text());
        assert_eq!(log.count("route=\"/broken\""), 1, "{}", log.text());
    }

    #[tokio::test(start_paused = true)]
    async fn log_lines_of_many_streams_and_panics_are_bounded_and_counted() {
        use crate::log_limit::captured::Log;
        use std::num::NonZeroU32;
        let (log, _logging) = Log::start();
        let limit = LogLimit::new(NonZeroU32::MIN, Duration::from_secs(3600));
        let panics = LogLimit::per_kind();
        for _ in 0..30 {
            let stream = Stream::open();
            let stream_log = StreamLog::open(&stream, "/", None, Some(&limit), Level::INFO);
            stream_log.end(
                &stream,
                "/",
                EndReason::Panicked,
                Duration::ZERO,
                &panics,
                Level::DEBUG,
            );
        }
        tokio::time::sleep(Duration::from_secs(20)).await;
        let text = log.text();
        assert_eq!(log.count("stream opened"), 1, "{text}");
        let summary = "more streams opened than were logged left_out=29";
        assert_eq!(log.count(summary), 1, "{text}");
        // The first is that of the stream that is logged.
        let line = "stream ended: the service panicked";
        assert_eq!(log.count(line), 11, "{text}");
        let summary = "the service panicked in more streams route=\"/\" not_logged=19";
        assert_eq!(log.count(summary), 1, "{text}");
        assert_eq!(text.lines().count(), 14, "{text}");
    }
}
