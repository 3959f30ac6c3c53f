//! Measures one request and its stream.

use super::reconnect_tracker::ReconnectKind;
use super::route_metrics::RouteMetrics;
use super::stream_log::{LoggedRequest, StreamLog};
use super::unguarded::Unguarded;
use super::{MetricsLayer, MetricsOptions, OnEnd, Outcome};
use crate::client_key::ClientKey;
use crate::guard::{
    Interests, NotOpened, Notice, Policy, PolicyContext, Reaction, ResponseInfo, StreamLayer,
};
use crate::last_event_id;
use crate::rejection::Rejection;
use crate::request_info::{RequestInfo, ResponseKind};
use crate::stream::{EndReason, RequestDetails, Stream};
use http::Request;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::time::Instant;

/// A request without a response head. If it is dropped before, the client has disconnected.
#[doc(hidden)]
#[derive(Debug)]
pub struct MeasuredRequest {
    /// `None` for a request that does not accept a stream, and once its outcome is recorded.
    route_metrics: Option<Arc<RouteMetrics>>,
    /// The layer of the request's matched route.
    layer: Option<Arc<MetricsLayer>>,
    received_at: Instant,
    has_event_id: bool,
    logged_request: Option<LoggedRequest>,
    details: Option<RequestDetails>,
    /// A hash of the client's key, if an outer layer has identified the client.
    client: Option<u64>,
}

impl MeasuredRequest {
    fn record_outcome(&mut self, outcome: Outcome) {
        if let Some(metrics) = self.route_metrics.take() {
            if outcome == Outcome::Failed {
                metrics.record_failure(self.client);
            }
            metrics.record_outcome(outcome);
        }
    }
}

impl Drop for MeasuredRequest {
    fn drop(&mut self) {
        self.record_outcome(Outcome::ClientGone);
    }
}

impl StreamLayer for MetricsLayer {
    type Admitted = MeasuredRequest;
    type Policy = MetricsPolicy;
    const OBSERVES: bool = true;
    const INJECTS: bool = false;

    fn admit<B>(
        &self,
        request: &Request<B>,
        request_info: &RequestInfo,
    ) -> Result<MeasuredRequest, Rejection> {
        let routes = self.matched_routes.as_ref();
        let layer = routes.and_then(|routes| routes.layer(request.extensions(), self));
        let metrics = &layer.as_deref().unwrap_or(self).route_metrics;
        Ok(MeasuredRequest {
            route_metrics: request_info.accepts_stream.then(|| metrics.clone()),
            layer,
            received_at: Instant::now(),
            has_event_id: last_event_id::of(request.headers(), request.uri()).is_some(),
            logged_request: LoggedRequest::of(request, self.options.log_level),
            details: self
                .options
                .keeps_heads
                .then(|| RequestDetails::of(request)),
            client: request.extensions().get().map(ClientKey::hash_value),
        })
    }

    fn open(
        &self,
        mut admitted: MeasuredRequest,
        head: &ResponseInfo<'_>,
    ) -> Result<Option<MetricsPolicy>, Rejection> {
        if let Some(layer) = admitted.layer.take() {
            return layer.open(admitted, head);
        }
        admitted.record_outcome(match head.kind {
            _ if head.rejected => Outcome::Rejected,
            // The stream waits for its upstream in place of an error response.
            ResponseKind::Stream if head.status.is_server_error() => Outcome::Failed,
            ResponseKind::Stream => Outcome::Opened,
            ResponseKind::Encoded | ResponseKind::Partial => Outcome::Encoded,
            ResponseKind::Other if head.status.is_server_error() => Outcome::Failed,
            ResponseKind::Other => Outcome::Other,
        });
        if let Some(unguarded) = Unguarded::of(head) {
            let request = admitted.details.as_ref();
            let (log, route) = (&self.route_metrics.unguarded, &self.route_metrics.route);
            log.record(unguarded, route, request, head);
        }
        let Some(stream) = head.stream else {
            return Ok(None);
        };
        // The request did not accept a stream explicitly.
        if !head.request_info.accepts_stream {
            self.route_metrics
                .record_outcome(match head.kind.is_opaque() {
                    true => Outcome::Encoded,
                    false => Outcome::Opened,
                });
        }
        let has_event_id = admitted.has_event_id;
        if let Some(kind) = self
            .route_metrics
            .reconnect_tracker
            .opened(stream, has_event_id)
        {
            self.route_metrics.reconnects.fetch_add(1, Relaxed);
            self.route_metrics.instruments().reconnects.increment(1);
            let after_cut = u64::from(kind == ReconnectKind::AfterCut);
            self.route_metrics
                .reconnects_after_cut
                .fetch_add(after_cut, Relaxed);
        }
        let request = admitted.details.take();
        let details = request.map(|request| request.with_response(head.status, head.headers));
        stream.set_names(&self.options.labels, details);
        let time_to_head = stream
            .opened()
            .saturating_duration_since(admitted.received_at);
        self.route_metrics.instruments().head.record(time_to_head);
        self.route_metrics.active.fetch_add(1, Relaxed);
        self.route_metrics.instruments().active.increment(1);
        let (request, limit) = (
            admitted.logged_request.take(),
            self.options.log_limit.as_ref(),
        );
        let route = &self.route_metrics.route;
        let level = self.options.log_level;
        let log = StreamLog::open(stream, route, request.as_ref(), limit, level);
        Ok(Some(MetricsPolicy {
            route_metrics: self.route_metrics.clone(),
            options: self.options.clone(),
            stream: stream.clone(),
            log,
            events: 0,
            bytes: 0,
            last_event: NO_EVENT,
        }))
    }

    fn not_opened(&self, mut admitted: MeasuredRequest, reason: &NotOpened) {
        if let Some(layer) = admitted.layer.take() {
            return layer.not_opened(admitted, reason);
        }
        // Rejected at the response head: a stream for a request that did not accept one.
        if admitted.route_metrics.is_none() && matches!(reason, NotOpened::Rejected) {
            self.route_metrics.record_outcome(Outcome::Rejected);
        }
        admitted.record_outcome(match reason {
            NotOpened::Rejected => Outcome::Rejected,
            NotOpened::ServiceError => Outcome::Failed,
        });
    }
}

/// Measures one stream.
#[doc(hidden)]
#[derive(Debug)]
pub struct MetricsPolicy {
    route_metrics: Arc<RouteMetrics>,
    options: Arc<MetricsOptions>,
    stream: Stream,
    log: StreamLog,
    /// The counts that are already in the sums of the route.
    events: u64,
    bytes: u64,
    /// Nanoseconds from the opening of the stream to its last event, or [`NO_EVENT`].
    last_event: u64,
}

const NO_EVENT: u64 = u64::MAX;

impl MetricsPolicy {
    /// Adds new counts to the sums of the route, and returns the number of new events.
    fn flush_counts(&mut self) -> u64 {
        let (events, bytes) = (self.stream.events(), self.stream.bytes());
        let (new_events, new_bytes) = (events - self.events, bytes - self.bytes);
        (self.events, self.bytes) = (events, bytes);
        self.route_metrics.events.fetch_add(new_events, Relaxed);
        self.route_metrics.bytes.fetch_add(new_bytes, Relaxed);
        let instruments = self.route_metrics.instruments();
        instruments.events.increment(new_events);
        instruments.bytes.increment(new_bytes);
        new_events
    }

    fn sent(&mut self, stream: &Stream, now: Instant) {
        if self.flush_counts() == 0 {
            return;
        }
        let instruments = self.route_metrics.instruments();
        let now = stream.nanos(now);
        match std::mem::replace(&mut self.last_event, now) {
            NO_EVENT => match stream.time_to_first_event() {
                Some(time) => {
                    self.route_metrics.first_events.record(time);
                    instruments.first_event.record(time);
                }
                // Events without data do not count.
                None => self.last_event = NO_EVENT,
            },
            last => {
                let gap = Duration::from_nanos(now.saturating_sub(last));
                self.route_metrics.gaps.record(gap);
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
        self.flush_counts();
        let stream = &self.stream;
        let reason = stream.end_reason().unwrap_or(EndReason::ClientGone);
        let age = stream.age();
        self.route_metrics.active.fetch_sub(1, Relaxed);
        self.route_metrics.ends[reason as usize].fetch_add(1, Relaxed);
        self.route_metrics.reconnect_tracker.ended(stream, reason);
        if stream.is_incomplete() {
            self.route_metrics.cut_short.fetch_add(1, Relaxed);
        }
        self.route_metrics
            .heartbeats
            .fetch_add(stream.heartbeats(), Relaxed);
        // Answers of other families end when they are complete.
        if stream.family().client_reconnects() && reason.is_upstreams() {
            self.route_metrics.upstream_ends.record(age);
        }
        let instruments = self.route_metrics.instruments();
        instruments.active.decrement(1);
        instruments.duration.record(age);
        instruments.dropped.increment(stream.dropped_bytes());
        let (route, panics) = (&self.route_metrics.route, &self.route_metrics.panic_limit);
        let level = self.options.log_level;
        self.log.end(stream, route, reason, age, panics, level);
        if let Some(OnEnd(f)) = &self.options.on_end {
            f(stream);
        }
    }
}
