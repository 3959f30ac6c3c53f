//! Counts and times streams, and gives each a `tracing` span.
//!
//! Numbers go to the [`metrics`](https://docs.rs/metrics) facade, so that the application chooses
//! the exporter; install it before the first request. A cheap [`Snapshot`] serves code.
//!
//! | metric | kind | what |
//! | --- | --- | --- |
//! | `sse_guard_streams_active` | gauge | streams open now, by `route` |
//! | `sse_guard_streams_total` | counter | requests that asked for a stream or got one, by `route` and [`Outcome`] |
//! | `sse_guard_reconnects_total` | counter | streams of clients that come back: with a `Last-Event-ID`, or soon after an end on this side where a layer names the client, by `route` |
//! | `sse_guard_stream_duration_seconds` | histogram | age at the end, by `route` |
//! | `sse_guard_time_to_head_seconds` | histogram | from the request to the response head of an event stream, by `route` |
//! | `sse_guard_time_to_first_event_seconds` | histogram | from the head to the first event with data, by `route` |
//! | `sse_guard_event_gap_seconds` | histogram | from one chunk with events to the next, by `route` |
//! | `sse_guard_events_total` | counter | events with data from the upstream, by `route` |
//! | `sse_guard_bytes_total` | counter | bytes from the upstream, by `route` |
//! | `sse_guard_dropped_bytes_total` | counter | bytes of unfinished events, dropped when a stream failed or was ended, by `route` |
//! | `sse_guard_heartbeats_total` | counter | heartbeats, of all [`HeartbeatLayer`](crate::heartbeat::HeartbeatLayer)s |
//! | `sse_guard_rejections_total` | counter | by `reason`, of all [`ConnectionLimitLayer`](crate::connection_limit::ConnectionLimitLayer)s |
//! | `sse_guard_ends_total` | counter | by `reason`, an [`EndReason`], and `route` where this layer names it; of `upstream_error` also by `fault`, an [`UpstreamFault`](crate::UpstreamFault) |
//! | `sse_guard_unguarded_total` | counter | responses that look like streams and pass without some or all protections, by `reason`, an [`Unguarded`] |
//! | `sse_guard_early_answers_total` | counter | requests answered ahead of their upstream, of all [`EarlyLayer`](crate::early::EarlyLayer)s |
//! | `sse_guard_unavailable_total` | counter | answers in place of a 5xx, by `answer`: `retry_later` of all [`UnavailableLayer`](crate::unavailable::UnavailableLayer)s, `wait` of all [`ResumeLayer`](crate::resume::ResumeLayer)s |
//! | `sse_guard_streams_waiting` | gauge | streams whose upstream is not there, by `state`, a [`StreamState`](crate::StreamState) |
//! | `sse_guard_resumes_total` | counter | by `outcome`, a [`ResumeOutcome`](crate::resume::ResumeOutcome) |
//! | `sse_guard_resume_seconds` | histogram | from the loss of an upstream to its return |
//! | `sse_guard_duplicate_events_dropped_total` | counter | events that an upstream has repeated |
//! | `sse_guard_upstream_replacements_total` | counter | upstream connections that were replaced for their age |
//!
//! Those without a `route` are written by the layers that do the thing, with or without this one, but for
//! `sse_guard_unguarded_total`. The log warns once a route of each of its reasons, and names the remedy.
//!
//! The span `stream` has `id`, `route`, `client`, `path`, never the query, as tokens travel there,
//! and the `trace_id` of a `traceparent` header. In it two events tell of the opening
//! and of the end, at level DEBUG unless [`log_level`](MetricsLayer::log_level) raises it: `age_seconds`, `events`, `bytes`, `heartbeats`, `gap_p99_seconds`, `reason`, and of an upstream's failure `fault`
//! and `cause`. A [`LogLimit`] keeps
//! a flood of streams from becoming a flood of lines.
//!
//! ```
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::{BodyExt, Full};
//! use sse_guard::metrics::MetricsLayer;
//! use std::convert::Infallible;
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let metrics = MetricsLayer::new().route("/feed");
//! let service = ServiceBuilder::new()
//!     .layer(metrics.clone())
//!     .service(service_fn(|_: Request<()>| async {
//!         Ok::<_, Infallible>(
//!             Response::builder()
//!                 .header("content-type", "text/event-stream")
//!                 .body(Full::new(Bytes::from("data: 1\n\ndata: 2\n\n")))
//!                 .unwrap(),
//!         )
//!     }));
//!
//! service.oneshot(Request::new(())).await?.into_body().collect().await?;
//! let snapshot = metrics.snapshot();
//! assert_eq!((snapshot.active, snapshot.opened, snapshot.events), (0, 1, 2));
//! # Ok(())
//! # }
//! ```

mod distribution;
mod instruments;
mod lines;
mod matched;
mod returns;
mod snapshot;
#[cfg(test)]
mod tests;
mod unguarded;

pub use crate::log_limit::LogLimit;
pub use distribution::{BUCKETS, Distribution};
pub(crate) use instruments::describe_metrics;
pub use snapshot::{Outcome, Snapshot};
pub use unguarded::Unguarded;

use crate::client_key::ClientKey;
use crate::guard::{
    Guard, Interests, NotOpened, Notice, Policy, PolicyContext, Reaction, ResponseInfo, StreamLayer,
};
use crate::last_event_id;
use crate::rejection::Rejection;
use crate::request_info::{RequestInfo, ResponseKind};
use crate::stream::{EndReason, RequestDetails, Stream, StreamLabels};
use distribution::Times;
use http::Request;
use instruments::Instruments;
use lines::{Lines, Noted};
#[doc(hidden)]
pub use lines::{MAX_REQUEST_ID, X_REQUEST_ID};
use matched::Matched;
use returns::Returns;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::time::Instant;
use tower_layer::Layer;
use tracing::Level;
#[doc(hidden)]
pub use unguarded::UnguardedResponses;
use unguarded::Warned;

/// Counts and times streams, and logs each. See the [module docs](self). Clones share their numbers.
#[derive(Clone, Debug)]
pub struct MetricsLayer {
    shared: Arc<Shared>,
    setup: Arc<Setup>,
    matched: Option<Arc<Matched>>,
}

/// What may change while the numbers go on.
#[derive(Clone, Debug)]
struct Setup {
    labels: Arc<StreamLabels>,
    on_end: Option<OnEnd>,
    log_limit: Option<LogLimit>,
    log_level: Level,
    keeps_heads: bool,
}

/// The numbers of a route.
#[derive(Debug)]
struct Shared {
    route: Box<str>,
    active: AtomicU64,
    events: AtomicU64,
    bytes: AtomicU64,
    heartbeats: AtomicU64,
    gaps: Times,
    first_events: Times,
    upstream_ends: Times,
    reconnects: AtomicU64,
    reconnects_after_cut: AtomicU64,
    returns: Returns,
    outcomes: [AtomicU64; Outcome::ALL.len()],
    /// Names whose request failed last, and counts those that were another client's.
    last_failed: AtomicU64,
    failed_others: AtomicU64,
    ends: [AtomicU64; EndReason::ALL.len()],
    cut_short: AtomicU64,
    warned: Warned,
    /// Of lines about panics in streams that are not logged else.
    panic_limit: LogLimit,
    /// Bound to their labels at the first request, when the exporter is there.
    instruments: OnceLock<Instruments>,
}

/// What somebody wants to be called with.
#[derive(Clone)]
struct OnEnd(Arc<dyn Fn(&Stream) + Send + Sync>);

impl std::fmt::Debug for OnEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OnEnd")
    }
}

impl Shared {
    fn new(route: &str) -> Self {
        Self {
            route: route.into(),
            active: AtomicU64::new(0),
            events: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            heartbeats: AtomicU64::new(0),
            gaps: Times::default(),
            first_events: Times::default(),
            upstream_ends: Times::default(),
            reconnects: AtomicU64::new(0),
            reconnects_after_cut: AtomicU64::new(0),
            returns: Returns::default(),
            outcomes: Default::default(),
            last_failed: AtomicU64::new(0),
            failed_others: AtomicU64::new(0),
            ends: Default::default(),
            cut_short: AtomicU64::new(0),
            warned: Warned::default(),
            panic_limit: LogLimit::per_kind(),
            instruments: OnceLock::new(),
        }
    }

    fn instruments(&self) -> &Instruments {
        self.instruments
            .get_or_init(|| Instruments::new(&self.route))
    }

    fn failed(&self, client: Option<u64>) {
        let is_other = client.is_none_or(|client| self.last_failed.swap(client, Relaxed) != client);
        if is_other {
            self.failed_others.fetch_add(1, Relaxed);
        }
    }

    fn outcome(&self, outcome: Outcome) {
        self.outcomes[outcome as usize].fetch_add(1, Relaxed);
        self.instruments().outcomes[outcome as usize].increment(1);
    }
}

impl Default for MetricsLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl MetricsLayer {
    /// Creates a layer whose route is called `default`.
    pub fn new() -> Self {
        let labels = StreamLabels {
            route: "default".into(),
            upstream: None,
            waiting: Arc::default(),
        };
        Self {
            shared: Arc::new(Shared::new("default")),
            setup: Arc::new(Setup {
                labels: Arc::new(labels),
                on_end: None,
                log_limit: None,
                log_level: Level::DEBUG,
                keeps_heads: false,
            }),
            matched: None,
        }
    }

    fn with(mut self, change: impl FnOnce(&mut Setup)) -> Self {
        change(Arc::make_mut(&mut self.setup));
        self
    }

    /// Sets the label `route`: a name or pattern, never a raw path, so that its values are few. Its
    /// numbers start anew.
    #[must_use]
    pub fn route(mut self, route: &str) -> Self {
        self.shared = Arc::new(Shared::new(route));
        self.with(|setup| {
            let labels = Arc::make_mut(&mut setup.labels);
            labels.route = route.into();
            labels.waiting = Arc::default();
        })
    }

    /// Takes the label `route` of each request from axum's
    /// [`MatchedPath`](axum::extract::MatchedPath), such as `/rooms/{room}/events`; requests that match no
    /// route keep the name that [`route`](Self::route) sets. Call it after the other methods; up to 1,024
    /// patterns are counted apart.
    ///
    /// The layer must stand where axum has matched the request, by `Router::layer` or `route_layer`, not
    /// around the whole `Router`.
    #[cfg(feature = "axum")]
    #[must_use]
    pub fn route_by_matched_path(mut self) -> Self {
        use axum::extract::MatchedPath;
        let matched = Matched::by(|extensions| extensions.get().map(MatchedPath::as_str));
        self.matched = Some(Arc::new(matched));
        self
    }

    /// Names the upstream in the records of streams; no metric has it as a label.
    #[must_use]
    pub fn upstream(self, upstream: &str) -> Self {
        self.with(|setup| Arc::make_mut(&mut setup.labels).upstream = Some(upstream.into()))
    }

    /// Limits the rate at which streams are logged; `None`, the default, logs all.
    #[must_use]
    pub fn log_limit(self, limit: impl Into<Option<LogLimit>>) -> Self {
        let limit = limit.into();
        self.with(|setup| setup.log_limit = limit)
    }

    /// Sets the level of the span of each stream and of the lines about its opening and end: `INFO`, or
    /// `DEBUG` for any other value and by default.
    #[must_use]
    pub fn log_level(self, level: Level) -> Self {
        self.with(|setup| setup.log_level = level)
    }

    /// Keeps a part of each stream's heads in its record, for an operator to look at.
    #[doc(hidden)]
    pub fn keep_heads(self) -> Self {
        self.with(|setup| setup.keeps_heads = true)
    }

    /// Responses that look like streams and were not guarded, by reason.
    #[doc(hidden)]
    pub fn unguarded(&self) -> Vec<UnguardedResponses> {
        self.shared.warned.seen()
    }

    /// Calls `f` with each stream that has ended, once its record is final.
    ///
    /// It runs where the stream did, so it should not block.
    #[must_use]
    pub fn on_end(self, f: impl Fn(&Stream) + Send + Sync + 'static) -> Self {
        self.with(|setup| setup.on_end = Some(OnEnd(Arc::new(f))))
    }

    /// Returns true if a service, a stream or another layer counts in these numbers, too.
    #[doc(hidden)]
    pub fn is_in_use(&self) -> bool {
        Arc::strong_count(&self.shared) > 1
    }

    /// Returns the current numbers of each route.
    pub fn routes(&self) -> Vec<(String, Snapshot)> {
        let own = (self.shared.route.to_string(), self.own_snapshot());
        let matched = self.matched.iter().flat_map(|matched| matched.layers());
        let matched = matched.map(|(name, layer)| (name.into(), layer.own_snapshot()));
        std::iter::once(own).chain(matched).collect()
    }

    /// Returns the current numbers of all routes together.
    pub fn snapshot(&self) -> Snapshot {
        let own = self.own_snapshot();
        let matched = self.matched.iter().flat_map(|matched| matched.layers());
        matched.fold(own, |sum, (_, layer)| sum + layer.own_snapshot())
    }

    fn own_snapshot(&self) -> Snapshot {
        let shared = &self.shared;
        let outcome = |outcome: Outcome| shared.outcomes[outcome as usize].load(Relaxed);
        Snapshot {
            active: shared.active.load(Relaxed),
            waiting: self.setup.labels.waiting.load(Relaxed),
            opened: outcome(Outcome::Opened),
            reconnects: shared.reconnects.load(Relaxed),
            reconnects_after_cut: shared.reconnects_after_cut.load(Relaxed),
            rejected: outcome(Outcome::Rejected),
            failed: outcome(Outcome::Failed),
            failed_others: shared.failed_others.load(Relaxed),
            events: shared.events.load(Relaxed),
            bytes: shared.bytes.load(Relaxed),
            heartbeats: shared.heartbeats.load(Relaxed),
            gaps: shared.gaps.snapshot(),
            first_events: shared.first_events.snapshot(),
            upstream_ends: shared.upstream_ends.snapshot(),
            cut_short: shared.cut_short.load(Relaxed),
            ends: std::array::from_fn(|reason| shared.ends[reason].load(Relaxed)),
        }
    }
}

/// The service that [`MetricsLayer`] makes.
pub type Metrics<S> = Guard<S, MetricsLayer>;

impl<S> Layer<S> for MetricsLayer {
    type Service = Metrics<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Guard::new(inner, self.clone())
    }
}

/// A request that waits for its head. Dropped before, its client went.
#[doc(hidden)]
#[derive(Debug)]
pub struct Ticket {
    shared: Option<Arc<Shared>>,
    /// Of the request's route, if that is not the layer itself.
    layer: Option<Arc<MetricsLayer>>,
    came: Instant,
    has_event_id: bool,
    noted: Option<Noted>,
    details: Option<RequestDetails>,
    /// A hash of its client's key, where something outside names it.
    client: Option<u64>,
}

impl Ticket {
    fn resolve(&mut self, outcome: Outcome) {
        if let Some(shared) = self.shared.take() {
            if outcome == Outcome::Failed {
                shared.failed(self.client);
            }
            shared.outcome(outcome);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.resolve(Outcome::ClientGone);
    }
}

impl StreamLayer for MetricsLayer {
    type Ticket = Ticket;
    type Policy = MetricsPolicy;
    const OBSERVES: bool = true;
    const INJECTS: bool = false;

    fn admit<B>(
        &self,
        request: &Request<B>,
        request_info: &RequestInfo,
    ) -> Result<Ticket, Rejection> {
        let matched = self.matched.as_ref();
        let layer = matched.and_then(|matched| matched.layer(request.extensions(), self));
        let shared = &layer.as_deref().unwrap_or(self).shared;
        Ok(Ticket {
            shared: request_info.accepts_stream.then(|| shared.clone()),
            layer,
            came: Instant::now(),
            has_event_id: last_event_id::of(request.headers(), request.uri()).is_some(),
            noted: Noted::of(request, self.setup.log_level),
            details: self.setup.keeps_heads.then(|| RequestDetails::of(request)),
            client: request.extensions().get().map(ClientKey::hash_value),
        })
    }

    fn open(
        &self,
        mut ticket: Ticket,
        head: &ResponseInfo<'_>,
    ) -> Result<Option<MetricsPolicy>, Rejection> {
        if let Some(layer) = ticket.layer.take() {
            return layer.open(ticket, head);
        }
        ticket.resolve(match head.kind {
            _ if head.rejected => Outcome::Rejected,
            // It waits for its upstream in place of a failure.
            ResponseKind::Stream if head.status.is_server_error() => Outcome::Failed,
            ResponseKind::Stream => Outcome::Opened,
            ResponseKind::Encoded | ResponseKind::Partial => Outcome::Encoded,
            ResponseKind::Other if head.status.is_server_error() => Outcome::Failed,
            ResponseKind::Other => Outcome::Other,
        });
        if let Some(unguarded) = Unguarded::of(head) {
            let request = ticket.details.as_ref();
            let (warned, route) = (&self.shared.warned, &self.shared.route);
            warned.note(unguarded, route, request, head);
        }
        let Some(stream) = head.stream else {
            return Ok(None);
        };
        // A stream that nobody had asked for by name.
        if !head.request_info.accepts_stream {
            self.shared.outcome(match head.kind.is_opaque() {
                true => Outcome::Encoded,
                false => Outcome::Opened,
            });
        }
        if let Some(back) = self.shared.returns.note_open(stream, ticket.has_event_id) {
            self.shared.reconnects.fetch_add(1, Relaxed);
            self.shared.instruments().reconnects.increment(1);
            let after_cut = u64::from(back.was_cut);
            self.shared
                .reconnects_after_cut
                .fetch_add(after_cut, Relaxed);
        }
        let request = ticket.details.take();
        let details = request.map(|request| request.with_response(head.status, head.headers));
        stream.set_names(&self.setup.labels, details);
        let took = stream.opened().saturating_duration_since(ticket.came);
        self.shared.instruments().head.record(took);
        self.shared.active.fetch_add(1, Relaxed);
        self.shared.instruments().active.increment(1);
        let (noted, limit) = (ticket.noted.take(), self.setup.log_limit.as_ref());
        let route = &self.shared.route;
        let level = self.setup.log_level;
        let lines = Lines::open(stream, route, noted.as_ref(), limit, level);
        Ok(Some(MetricsPolicy {
            shared: self.shared.clone(),
            setup: self.setup.clone(),
            stream: stream.clone(),
            lines,
            events: 0,
            bytes: 0,
            last_event: NO_EVENT,
        }))
    }

    fn not_opened(&self, mut ticket: Ticket, reason: &NotOpened) {
        if let Some(layer) = ticket.layer.take() {
            return layer.not_opened(ticket, reason);
        }
        // Turned away at the head: its response was a stream though it had not asked for one.
        if ticket.shared.is_none() && matches!(reason, NotOpened::Rejected) {
            self.shared.outcome(Outcome::Rejected);
        }
        ticket.resolve(match reason {
            NotOpened::Rejected => Outcome::Rejected,
            NotOpened::ServiceError => Outcome::Failed,
        });
    }
}

/// Books of one stream.
#[doc(hidden)]
#[derive(Debug)]
pub struct MetricsPolicy {
    shared: Arc<Shared>,
    setup: Arc<Setup>,
    stream: Stream,
    lines: Lines,
    /// How much of the record is in the sums.
    events: u64,
    bytes: u64,
    /// Nanoseconds from the opening of the stream to its last event, or [`NO_EVENT`].
    last_event: u64,
}

const NO_EVENT: u64 = u64::MAX;

impl MetricsPolicy {
    fn add_up(&mut self) -> u64 {
        let (events, bytes) = (self.stream.events(), self.stream.bytes());
        let (new_events, new_bytes) = (events - self.events, bytes - self.bytes);
        (self.events, self.bytes) = (events, bytes);
        self.shared.events.fetch_add(new_events, Relaxed);
        self.shared.bytes.fetch_add(new_bytes, Relaxed);
        let instruments = self.shared.instruments();
        instruments.events.increment(new_events);
        instruments.bytes.increment(new_bytes);
        new_events
    }
}

impl MetricsPolicy {
    fn sent(&mut self, stream: &Stream, now: Instant) {
        if self.add_up() == 0 {
            return;
        }
        let instruments = self.shared.instruments();
        let now = stream.nanos(now);
        match std::mem::replace(&mut self.last_event, now) {
            NO_EVENT => match stream.time_to_first_event() {
                Some(time) => {
                    self.shared.first_events.record(time);
                    instruments.first_event.record(time);
                }
                // Signs of life are no first event.
                None => self.last_event = NO_EVENT,
            },
            last => {
                let gap = Duration::from_nanos(now.saturating_sub(last));
                self.shared.gaps.record(gap);
                instruments.gap.record(gap);
            }
        }
    }
}

impl Policy for MetricsPolicy {
    #[inline]
    fn interests(&self) -> Interests {
        Interests::default()
    }

    fn deadline(&self, _: &PolicyContext<'_>) -> Option<Instant> {
        None
    }

    fn check(&mut self, _: &PolicyContext<'_>) -> Reaction {
        Reaction::Pass
    }

    #[inline]
    fn on(&mut self, context: &PolicyContext<'_>, notice: Notice<'_>) -> Reaction {
        if let Notice::Sent = notice {
            self.sent(context.stream, context.now);
        }
        Reaction::Pass
    }
}

impl Drop for MetricsPolicy {
    fn drop(&mut self) {
        self.add_up();
        let stream = &self.stream;
        let reason = stream.end_reason().unwrap_or(EndReason::ClientGone);
        let age = stream.age();
        self.shared.active.fetch_sub(1, Relaxed);
        self.shared.ends[reason as usize].fetch_add(1, Relaxed);
        self.shared.returns.note_end(stream, reason);
        if stream.is_incomplete() {
            self.shared.cut_short.fetch_add(1, Relaxed);
        }
        self.shared
            .heartbeats
            .fetch_add(stream.heartbeats(), Relaxed);
        // Any other's answer ends when it is complete.
        if stream.family().client_reconnects() && reason.is_upstreams() {
            self.shared.upstream_ends.record(age);
        }
        let instruments = self.shared.instruments();
        instruments.active.decrement(1);
        instruments.duration.record(age);
        instruments.dropped.increment(stream.dropped_bytes());
        let (route, panics) = (&self.shared.route, &self.shared.panic_limit);
        let level = self.setup.log_level;
        self.lines.end(stream, route, reason, age, panics, level);
        if let Some(OnEnd(f)) = &self.setup.on_end {
            f(stream);
        }
    }
}
