//! `/api/ends`: streams that have ended.

use super::answer::Refusal;
use super::heads::Heads;
use super::select::{Names, is};
use super::time::{millis, since_1970_ms};
use super::{Admin, Shared};
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use serde::Deserialize;
use serde_json::{Value, json};
use sse_guard::client_key::ClientKey;
use sse_guard::family::Family;
use sse_guard::internal::lock;
use sse_guard::internal::{Details, StreamLabels};
use sse_guard::{EndReason, Stream, UpstreamFault};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// Ends that are kept.
const KEPT: usize = 1000;

/// The latest ends.
#[derive(Debug, Default)]
pub(crate) struct Journal(Mutex<Ends>);

#[derive(Debug, Default)]
struct Ends {
    /// Of all there were.
    count: u64,
    latest: VecDeque<Ended>,
}

/// A stream that has ended. Its texts are formatted on request; keeping its record itself would
/// retain a page of memory.
#[derive(Clone, Debug)]
pub(super) struct Ended {
    /// Counts ends from 1.
    seq: u64,
    at_ms: u64,
    id: u64,
    reason: EndReason,
    labels: Option<Arc<StreamLabels>>,
    client: Option<ClientKey>,
    details: Option<Details>,
    age: Duration,
    events: u64,
    bytes: u64,
    heartbeats: u64,
    first_event: Option<Duration>,
    gap_p99: Option<Duration>,
    last_event_id: Option<String>,
    family: Family,
    fault: Option<UpstreamFault>,
    dropped_bytes: u64,
}

impl Ended {
    fn of(stream: &Stream, seq: u64) -> Self {
        Self {
            seq,
            at_ms: since_1970_ms(),
            id: stream.id().as_u64(),
            reason: stream.end_reason().unwrap_or(EndReason::ClientGone),
            labels: stream.labels().cloned(),
            client: stream.client().cloned(),
            details: stream.details().cloned(),
            age: stream.age(),
            events: stream.events(),
            bytes: stream.bytes(),
            heartbeats: stream.heartbeats(),
            first_event: stream.time_to_first_event(),
            gap_p99: stream.gap_p99(),
            last_event_id: stream.last_event_id(),
            family: stream.family(),
            fault: stream.upstream_fault(),
            dropped_bytes: stream.dropped_bytes(),
        }
    }

    fn names(&self) -> Names<'_> {
        let labels = self.labels.as_ref();
        Names {
            id: self.id,
            route: labels.map(|labels| &*labels.route),
            client: self.client.as_ref(),
            user: self.details.as_ref().and_then(Details::user),
            upstream: labels.and_then(|labels| labels.upstream.as_deref()),
            path: self.details.as_ref().map(Details::path),
        }
    }

    pub(super) fn row(&self) -> Value {
        let names = self.names();
        let heads = self.details.as_ref().map(Heads::of);
        let heads = json!(heads);
        json!({
            "seq": self.seq,
            "id": names.id,
            "ended_ms": self.at_ms,
            "reason": self.reason.as_str(),
            "route": names.route,
            "client": names.client.map(ToString::to_string),
            "user": names.user,
            "upstream": names.upstream,
            "age_ms": millis(self.age),
            "events": self.events,
            "bytes": self.bytes,
            "heartbeats": self.heartbeats,
            "first_event_ms": self.first_event.map(millis),
            "gap_p99_ms": self.gap_p99.map(millis),
            "last_event_id": self.last_event_id,
            "path": names.path,
            "family": self.family.as_str(),
            "fault": self.fault.map(UpstreamFault::as_str),
            "cause": self.fault.map(UpstreamFault::cause),
            "dropped_bytes": self.dropped_bytes,
            "request": heads["request"],
            "response": heads["response"],
        })
    }
}

impl Journal {
    fn ends(&self) -> MutexGuard<'_, Ends> {
        lock(&self.0)
    }

    pub(crate) fn note(&self, stream: &Stream) {
        let mut ends = self.ends();
        ends.count += 1;
        let ended = Ended::of(stream, ends.count);
        if ends.latest.len() == KEPT {
            ends.latest.pop_front();
        }
        ends.latest.push_back(ended);
    }

    /// The number of all ends, and the kept ones after `seq`, the oldest first; at most the latest
    /// `most`.
    fn behind(&self, seq: u64, most: usize) -> (u64, Vec<Ended>) {
        let ends = self.ends();
        let start = ends.latest.partition_point(|ended| ended.seq <= seq);
        let start = start.max(ends.latest.len().saturating_sub(most));
        (ends.count, ends.latest.range(start..).cloned().collect())
    }
}

impl Admin {
    /// Like `behind` of the journal, which exists whenever the admin address does.
    pub(super) fn ends_behind(&self, seq: u64, most: usize) -> (u64, Vec<Ended>) {
        let journal = self.running.common.journal();
        journal.map_or((0, Vec::new()), |journal| journal.behind(seq, most))
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// Text that is in one of its fields.
    q: Option<String>,
    reason: Option<String>,
    route: Option<String>,
    client: Option<String>,
    limit: Option<usize>,
}

impl Wanted {
    fn matches(&self, ended: &Ended) -> bool {
        let (names, reason) = (ended.names(), ended.reason.as_str());
        is(&self.reason, Some(reason))
            && is(&self.route, names.route)
            && names.client_is(&self.client)
            && (self.q.as_deref() == Some(reason) || names.mention(&self.q))
    }
}

pub(super) async fn ends(
    State(admin): State<Shared>,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Result<Json<Value>, Refusal> {
    let Query(wanted) = wanted.map_err(|error| Refusal::bad(error.body_text()))?;
    let (count, kept) = admin.ends_behind(0, KEPT);
    let latest = kept.iter().rev().filter(|ended| wanted.matches(ended));
    let latest = latest.take(wanted.limit.unwrap_or(100));
    let latest: Vec<_> = latest.map(Ended::row).collect();
    Ok(Json(json!({ "count": count, "ends": latest })))
}
