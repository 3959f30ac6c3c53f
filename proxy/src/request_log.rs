//! Requests that do not become event streams: one log line each, by option, and their metrics.

use super::config::{LogRequests, RequestsFormat};
use crate::request_context::RequestContext;
use bytes::Bytes;
use http::header::{REFERER, USER_AGENT};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use metrics::{Counter, Histogram, Unit, counter, histogram};
use pin_project_lite::pin_project;
use sse_guard::internal::Rejected;
use sse_guard::internal::seconds;
use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

/// Which requests are logged, and how. From the config.
#[derive(Clone, Copy, Debug)]
pub(super) struct RequestLog {
    pub(super) requests: LogRequests,
    pub(super) format: RequestsFormat,
}

/// nginx's status for a client that went before the response, for logs alone.
const CLIENT_GONE: u16 = 499;

/// The metrics of one route's requests.
#[derive(Default)]
pub(super) struct RouteMetrics {
    route: Box<str>,
    /// Bound to its labels at the first request, when the exporter is there.
    handles: OnceLock<MetricHandles>,
}

struct MetricHandles {
    outcomes: [Counter; OUTCOMES.len()],
    duration: Histogram,
}

/// Values of the label `status`.
const OUTCOMES: [&str; 6] = ["1xx", "2xx", "3xx", "4xx", "5xx", "client_gone"];

impl RouteMetrics {
    pub(super) fn new(route: &str) -> Self {
        Self {
            route: route.into(),
            handles: OnceLock::new(),
        }
    }

    fn record(&self, status: Option<StatusCode>, duration: Duration) {
        let handles = self.handles.get_or_init(|| {
            let route = || self.route.to_string();
            MetricHandles {
                outcomes: OUTCOMES.map(|outcome| {
                    counter!("sse_guard_requests_total", "route" => route(), "status" => outcome)
                }),
                duration: histogram!("sse_guard_request_duration_seconds", "route" => route()),
            }
        });
        let class = status.map(|status| usize::from(status.as_u16() / 100).saturating_sub(1));
        let outcome = class.unwrap_or(usize::MAX).min(OUTCOMES.len() - 1);
        handles.outcomes[outcome].increment(1);
        handles.duration.record(duration);
    }
}

pub(super) fn describe() {
    metrics::describe_counter!(
        "sse_guard_requests_total",
        Unit::Count,
        "Requests that did not become event streams, by route and class of status"
    );
    metrics::describe_histogram!(
        "sse_guard_request_duration_seconds",
        Unit::Seconds,
        "From a request that did not become an event stream to the end of its response"
    );
}

/// One request, until its response has ended. Dropped before, its client went.
pub(super) struct RequestRecord {
    log: RequestLog,
    context: RequestContext,
    metrics: Arc<RouteMetrics>,
    /// Only for the Combined format.
    fields: Option<Box<CombinedFields>>,
    status: Option<StatusCode>,
    bytes: u64,
    is_complete: bool,
    is_rejected: bool,
    /// It became an event stream, which has lines and metrics of its own.
    is_stream: bool,
}

#[derive(Default)]
struct CombinedFields {
    referer: Option<String>,
    user_agent: Option<String>,
}

impl CombinedFields {
    fn of(headers: &HeaderMap) -> Self {
        let field = |name| {
            let value = headers.get(name)?;
            Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
        };
        Self {
            referer: field(REFERER),
            user_agent: field(USER_AGENT),
        }
    }
}

impl RequestRecord {
    pub(super) fn new<B>(
        request: &Request<B>,
        log: RequestLog,
        context: RequestContext,
        metrics: Arc<RouteMetrics>,
    ) -> Self {
        let is_combined =
            log.requests != LogRequests::Off && log.format == RequestsFormat::Combined;
        Self {
            log,
            context,
            metrics,
            fields: is_combined.then(|| Box::new(CombinedFields::of(request.headers()))),
            status: None,
            bytes: 0,
            is_complete: false,
            is_rejected: false,
            is_stream: false,
        }
    }

    /// It became an event stream.
    pub(super) fn dismiss_for_stream(mut self) {
        self.is_stream = true;
    }

    /// The response, at whose end this one is written.
    pub(super) fn follow<B: Body>(mut self, response: Response<B>) -> Response<LoggedBody<B>> {
        self.status = Some(response.status());
        self.is_rejected = response.extensions().get::<Rejected>().is_some();
        response.map(|body| LoggedBody { body, record: self })
    }

    fn is_logged(&self) -> bool {
        match self.log.requests {
            LogRequests::Off => false,
            // Rejections have lines of their own, at a bounded rate.
            LogRequests::Errors => {
                let is_error = self.status.is_some_and(|status| status.as_u16() >= 400);
                is_error && !self.is_rejected
            }
            LogRequests::All => true,
        }
    }

    fn write(&self, duration: Duration) {
        let context = &self.context;
        let status = self.status.map_or(CLIENT_GONE, |status| status.as_u16());
        match self.log.format {
            RequestsFormat::Log => tracing::info!(
                request_id = %context.id(),
                client = context.client().map(tracing::field::display),
                user = context.user().map(|user| &**user),
                method = context.method().as_str(),
                path = context.path(),
                route = context.route(),
                listener = context.listener().map(|name| &**name),
                status,
                bytes = self.bytes,
                duration_seconds = seconds(duration),
                complete = self.is_complete,
                "request"
            ),
            RequestsFormat::Combined => {
                let line = self.combined(status, SystemTime::now());
                // Without a reader there is nothing else to do with it.
                let _ = std::io::stdout().lock().write_all(line.as_bytes());
            }
        }
    }

    /// A line in the Combined Log Format of Apache and nginx. Queries are left out, of the Referer, too.
    fn combined(&self, status: u16, at: SystemTime) -> String {
        let context = &self.context;
        let mut line = String::new();
        let client = context.client().map(ToString::to_string);
        let fields = self.fields.as_deref();
        let referer = fields.and_then(|fields| fields.referer.as_deref());
        let referer = referer.map(|url| {
            let end = url.find(['?', '#']).unwrap_or(url.len());
            &url[..end]
        });
        let user_agent = fields.and_then(|fields| fields.user_agent.as_deref());
        // Writing to a string does not fail.
        let _ = writeln!(
            line,
            "{} - {} [{}] \"{} {} {:?}\" {status} {} \"{}\" \"{}\"",
            client.as_deref().unwrap_or("-"),
            // A space would end the field.
            Escaped(context.user().map_or("-", |user| user))
                .to_string()
                .replace(' ', "\\x20"),
            common_date(at),
            context.method(),
            Escaped(context.path()),
            context.version(),
            self.bytes,
            Escaped(referer.unwrap_or("-")),
            Escaped(user_agent.unwrap_or("-")),
        );
        line
    }
}

impl Drop for RequestRecord {
    fn drop(&mut self) {
        if self.is_stream {
            return;
        }
        let duration = self.context.started().elapsed();
        // Those that were rejected are in `sse_guard_rejections_total`.
        if !self.is_rejected {
            self.metrics.record(self.status, duration);
        }
        if self.is_logged() {
            self.write(duration);
        }
    }
}

pin_project! {
    /// A body that counts its bytes for a [`RequestRecord`].
    pub(super) struct LoggedBody<B: Body> {
        #[pin]
        body: B,
        record: RequestRecord,
    }

    impl<B: Body> PinnedDrop for LoggedBody<B> {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            // The server does not poll a body whose length it knows to its end.
            this.record.is_complete |= this.body.is_end_stream();
        }
    }
}

impl<B: Body<Data = Bytes>> Body for LoggedBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        let frame = this.body.poll_frame(cx);
        match &frame {
            Poll::Ready(Some(Ok(frame))) => {
                let len = frame.data_ref().map_or(0, Bytes::len);
                this.record.bytes += len as u64;
            }
            Poll::Ready(None) => this.record.is_complete = true,
            Poll::Ready(Some(Err(_))) | Poll::Pending => {}
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// As nginx writes values from requests: bytes that could end the field or the line as `\xNN`.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for char in self.0.chars() {
            match char {
                '"' | '\\' => write!(f, "\\x{:02X}", u32::from(char))?,
                char if char.is_control() => write!(f, "\\x{:02X}", u32::from(char))?,
                char => f.write_char(char)?,
            }
        }
        Ok(())
    }
}

/// `26/Nov/2026:12:00:00 +0000`, out of `2026-11-26T12:00:00Z`.
fn common_date(at: SystemTime) -> String {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let text = humantime::format_rfc3339_seconds(at).to_string();
    let part = |range| text.get(range).unwrap_or_default();
    let month: usize = part(5..7).parse().unwrap_or(1);
    let month = MONTHS.get(month.saturating_sub(1)).unwrap_or(&MONTHS[0]);
    format!(
        "{}/{month}/{}:{} +0000",
        part(8..10),
        part(0..4),
        part(11..19)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request_context::RequestId;
    use sse_guard::client_key::ClientKey;
    use std::time::UNIX_EPOCH;

    fn record(uri: &str, user_agent: &[u8]) -> RequestRecord {
        let request = Request::post(uri)
            .header(REFERER, "https://a.example/page?token=secret#x")
            .header(USER_AGENT, user_agent)
            .body(())
            .unwrap();
        let id = RequestId::Given("id".into());
        let client = ClientKey::Ip([192, 0, 2, 1].into());
        let context = RequestContext::new(&request, id, Some(client));
        let log = RequestLog {
            requests: LogRequests::All,
            format: RequestsFormat::Combined,
        };
        RequestRecord::new(&request, log, context, Arc::new(RouteMetrics::new("/")))
    }

    #[test]
    fn combined_lines_have_no_queries_and_cannot_be_broken_out_of() {
        let mut record = record("/a\"b?token=secret", b"x\" \xff 404 \t\\");
        record.bytes = 12;
        let at = UNIX_EPOCH + Duration::from_secs(1_795_694_400);
        let line = record.combined(200, at);
        assert_eq!(
            line,
            "192.0.2.1 - - [26/Nov/2026:12:00:00 +0000] \"POST /a\\x22b HTTP/1.1\" 200 12 \
             \"https://a.example/page\" \"x\\x22 \u{fffd} 404 \\x09\\x5C\"\n"
        );
        record.dismiss_for_stream();
    }

    #[test]
    fn combined_line_has_the_user_as_one_field() {
        let id = RequestId::Given("id".into());
        let mut context = RequestContext::new(&Request::new(()), id, None);
        context.set_identity(Some("CN=ann,O=a \"b\"".into()), None);
        let log = RequestLog {
            requests: LogRequests::All,
            format: RequestsFormat::Combined,
        };
        let record = RequestRecord::new(&Request::new(()), log, context, Arc::default());
        let line = record.combined(200, UNIX_EPOCH);
        assert!(
            line.starts_with("- - CN=ann,O=a\\x20\\x22b\\x22 [01/Jan/1970:"),
            "{line}"
        );
        record.dismiss_for_stream();
    }

    #[test]
    fn dates_are_those_of_the_common_log_format() {
        for (secs, date) in [
            (0, "01/Jan/1970:00:00:00 +0000"),
            (1_709_209_845, "29/Feb/2024:12:30:45 +0000"),
            (4_102_444_799, "31/Dec/2099:23:59:59 +0000"),
        ] {
            assert_eq!(common_date(UNIX_EPOCH + Duration::from_secs(secs)), date);
        }
    }
}
