//! Counts and times streams, and gives each a `tracing` span.
//!
//! Numbers go to the [`metrics`](https://docs.rs/metrics) facade, so that the application chooses
//! the exporter; install it before the first request. A cheap [`Snapshot`] serves code.
//!
//! | metric | kind | meaning |
//! | --- | --- | --- |
//! | `sse_guard_streams_active` | gauge | streams open now, by `route` |
//! | `sse_guard_streams_total` | counter | requests for a stream, and other requests that got one, by `route` and [`Outcome`] |
//! | `sse_guard_reconnects_total` | counter | streams of clients that reconnect: with a `Last-Event-ID`, or soon after this side has ended their stream where a layer identifies the client, by `route` |
//! | `sse_guard_stream_duration_seconds` | histogram | age at the end, by `route` |
//! | `sse_guard_time_to_head_seconds` | histogram | from the request to the response head of an event stream, by `route` |
//! | `sse_guard_time_to_first_event_seconds` | histogram | from the head to the first event with data, by `route` |
//! | `sse_guard_event_gap_seconds` | histogram | from one chunk with events to the next, by `route` |
//! | `sse_guard_events_total` | counter | events with data from the upstream, by `route` |
//! | `sse_guard_bytes_total` | counter | bytes from the upstream, by `route` |
//! | `sse_guard_dropped_bytes_total` | counter | bytes of unfinished events, dropped when a stream failed or was ended, by `route` |
//! | `sse_guard_heartbeats_total` | counter | heartbeats, of all [`HeartbeatLayer`](crate::heartbeat::HeartbeatLayer)s |
//! | `sse_guard_rejections_total` | counter | by `reason`, of all [`ConnectionLimitLayer`](crate::connection_limit::ConnectionLimitLayer)s |
//! | `sse_guard_ends_total` | counter | by `reason`, an [`EndReason`](crate::EndReason), and `route` where this layer sets it; of `upstream_error` also by `fault`, an [`UpstreamFault`](crate::UpstreamFault) |
//! | `sse_guard_unguarded_total` | counter | responses that look like streams and pass without some or all protections, by `reason`, an [`Unguarded`] |
//! | `sse_guard_early_answers_total` | counter | requests that got a response before their upstream responded, of all [`EarlyLayer`](crate::early::EarlyLayer)s |
//! | `sse_guard_unavailable_total` | counter | responses in place of a 5xx, by `answer`: `retry_later` of all [`UnavailableLayer`](crate::unavailable::UnavailableLayer)s, `wait` of all [`ResumeLayer`](crate::resume::ResumeLayer)s |
//! | `sse_guard_streams_waiting` | gauge | streams without an upstream, by `state`, a [`StreamState`](crate::StreamState) |
//! | `sse_guard_resumes_total` | counter | by `outcome`, a [`ResumeOutcome`](crate::resume::ResumeOutcome) |
//! | `sse_guard_resume_seconds` | histogram | from the loss of an upstream to its return |
//! | `sse_guard_duplicate_events_dropped_total` | counter | events that an upstream has sent again |
//! | `sse_guard_upstream_replacements_total` | counter | upstream connections that were replaced because of their age |
//!
//! Metrics without a `route` are written by the layers that they describe, with or without this one; only
//! `sse_guard_unguarded_total` is of this layer. For each of its reasons, the log warns once a route and names the remedy.
//!
//! The span `stream` has `id`, `route`, `client`, `path` and the `trace_id` of a `traceparent` header; the path without
//! its query, which may contain tokens. Two events in the span log the opening and the end, at level DEBUG unless
//! [`log_level`](MetricsLayer::log_level) raises it: with `age_seconds`, `events`, `bytes`, `heartbeats`,
//! `gap_p99_seconds` and `reason`, and for a failure of the upstream `fault` and `cause`. A [`LogLimit`] bounds the log
//! lines of a flood of streams.
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

mod histogram;
mod instruments;
mod matched_routes;
mod policy;
mod reconnect_tracker;
mod route_metrics;
mod snapshot;
mod stream_log;
#[cfg(test)]
mod tests;
mod unguarded;

pub use crate::log_limit::LogLimit;
pub use histogram::{BUCKETS, Histogram};
pub(crate) use instruments::describe_metrics;
pub use snapshot::{Outcome, Snapshot};
pub use unguarded::Unguarded;

use crate::guard::Guard;
use crate::stream::{Stream, StreamLabels};
use histogram::AtomicHistogram;
use matched_routes::MatchedRoutes;
#[doc(hidden)]
pub use policy::{MeasuredRequest, MetricsPolicy};
use route_metrics::RouteMetrics;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
#[doc(hidden)]
pub use stream_log::{MAX_REQUEST_ID, X_REQUEST_ID};
use tower_layer::Layer;
use tracing::Level;
#[doc(hidden)]
pub use unguarded::UnguardedResponses;

/// Counts and times streams, and logs each. See the [module docs](self). Clones share their numbers.
#[derive(Clone, Debug)]
pub struct MetricsLayer {
    route_metrics: Arc<RouteMetrics>,
    options: Arc<MetricsOptions>,
    matched_routes: Option<Arc<MatchedRoutes>>,
}

/// Options that may change while the numbers are kept.
#[derive(Clone, Debug)]
struct MetricsOptions {
    labels: Arc<StreamLabels>,
    on_end: Option<OnEnd>,
    log_limit: Option<LogLimit>,
    log_level: Level,
    keeps_heads: bool,
}

/// A callback of the user.
#[derive(Clone)]
struct OnEnd(Arc<dyn Fn(&Stream) + Send + Sync>);

impl std::fmt::Debug for OnEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OnEnd")
    }
}

impl Default for MetricsLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl MetricsLayer {
    /// Creates a layer for a route named `default`.
    pub fn new() -> Self {
        let labels = StreamLabels {
            route: "default".into(),
            upstream: None,
            waiting: Arc::default(),
        };
        Self {
            route_metrics: Arc::new(RouteMetrics::new("default")),
            options: Arc::new(MetricsOptions {
                labels: Arc::new(labels),
                on_end: None,
                log_limit: None,
                log_level: Level::DEBUG,
                keeps_heads: false,
            }),
            matched_routes: None,
        }
    }

    fn with(mut self, change: impl FnOnce(&mut MetricsOptions)) -> Self {
        change(Arc::make_mut(&mut self.options));
        self
    }

    /// Sets the label `route`: a name or pattern, never a raw path, so that it has few values. Resets the numbers.
    #[must_use]
    pub fn route(mut self, route: &str) -> Self {
        self.route_metrics = Arc::new(RouteMetrics::new(route));
        self.with(|options| {
            let labels = Arc::make_mut(&mut options.labels);
            labels.route = route.into();
            labels.waiting = Arc::default();
        })
    }

    /// Takes the label `route` of each request from axum's
    /// [`MatchedPath`](axum::extract::MatchedPath), such as `/rooms/{room}/events`; requests that match no
    /// route keep the name that [`route`](Self::route) sets. Call it after the other methods. Up to 1,024
    /// patterns are counted separately.
    ///
    /// Apply the layer by `Router::layer` or `route_layer`, where axum has matched the request, and not around the whole
    /// `Router`.
    #[cfg(feature = "axum")]
    #[must_use]
    pub fn route_by_matched_path(mut self) -> Self {
        use axum::extract::MatchedPath;
        let matched = MatchedRoutes::by(|extensions| extensions.get().map(MatchedPath::as_str));
        self.matched_routes = Some(Arc::new(matched));
        self
    }

    /// Sets the name of the upstream in the records of streams; metrics do not have it as a label.
    #[must_use]
    pub fn upstream(self, upstream: &str) -> Self {
        self.with(|options| Arc::make_mut(&mut options.labels).upstream = Some(upstream.into()))
    }

    /// Limits the rate at which streams are logged; `None`, the default, logs all.
    #[must_use]
    pub fn log_limit(self, limit: impl Into<Option<LogLimit>>) -> Self {
        let limit = limit.into();
        self.with(|options| options.log_limit = limit)
    }

    /// Sets the level of the span of each stream and of the lines about its opening and end: `INFO`, or
    /// `DEBUG` for any other value and by default.
    #[must_use]
    pub fn log_level(self, level: Level) -> Self {
        self.with(|options| options.log_level = level)
    }

    /// Keeps a part of each stream's heads in its record, for operators.
    #[doc(hidden)]
    pub fn keep_heads(self) -> Self {
        self.with(|options| options.keeps_heads = true)
    }

    /// Returns the responses that look like streams and were not guarded, by reason.
    #[doc(hidden)]
    pub fn unguarded(&self) -> Vec<UnguardedResponses> {
        self.route_metrics.unguarded.responses()
    }

    /// Calls `f` with each stream that has ended, once its record is final.
    ///
    /// `f` runs in the task of the stream, and must not block.
    #[must_use]
    pub fn on_end(self, f: impl Fn(&Stream) + Send + Sync + 'static) -> Self {
        self.with(|options| options.on_end = Some(OnEnd(Arc::new(f))))
    }

    /// ReconnectTracker true if a service, a stream or another layer counts in these numbers, too.
    #[doc(hidden)]
    pub fn is_in_use(&self) -> bool {
        Arc::strong_count(&self.route_metrics) > 1
    }

    /// ReconnectTracker the current numbers of each route.
    pub fn routes(&self) -> Vec<(String, Snapshot)> {
        let own = (self.route_metrics.route.to_string(), self.own_snapshot());
        let matched = self
            .matched_routes
            .iter()
            .flat_map(|routes| routes.layers());
        let matched = matched.map(|(name, layer)| (name.into(), layer.own_snapshot()));
        std::iter::once(own).chain(matched).collect()
    }

    /// ReconnectTracker the current numbers of all routes together.
    pub fn snapshot(&self) -> Snapshot {
        let own = self.own_snapshot();
        let matched = self
            .matched_routes
            .iter()
            .flat_map(|routes| routes.layers());
        matched.fold(own, |sum, (_, layer)| sum + layer.own_snapshot())
    }

    fn own_snapshot(&self) -> Snapshot {
        let metrics = &self.route_metrics;
        let outcome = |outcome: Outcome| metrics.outcomes[outcome as usize].load(Relaxed);
        Snapshot {
            active: metrics.active.load(Relaxed),
            waiting: self.options.labels.waiting.load(Relaxed),
            opened: outcome(Outcome::Opened),
            reconnects: metrics.reconnects.load(Relaxed),
            reconnects_after_cut: metrics.reconnects_after_cut.load(Relaxed),
            rejected: outcome(Outcome::Rejected),
            failed: outcome(Outcome::Failed),
            failed_others: metrics.failed_others.load(Relaxed),
            events: metrics.events.load(Relaxed),
            bytes: metrics.bytes.load(Relaxed),
            heartbeats: metrics.heartbeats.load(Relaxed),
            gaps: metrics.gaps.snapshot(),
            first_events: metrics.first_events.snapshot(),
            upstream_ends: metrics.upstream_ends.snapshot(),
            cut_short: metrics.cut_short.load(Relaxed),
            ends: std::array::from_fn(|reason| metrics.ends[reason].load(Relaxed)),
        }
    }
}

/// The service of a [`MetricsLayer`].
pub type Metrics<S> = Guard<S, MetricsLayer>;

impl<S> Layer<S> for MetricsLayer {
    type Service = Metrics<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Guard::new(inner, self.clone())
    }
}
