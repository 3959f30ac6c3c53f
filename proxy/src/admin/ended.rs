//! `/api/ends`: streams that have ended.

use super::error::ApiError;
use super::filter::{StreamIdentity, is};
use super::heads::Heads;
use super::time::{millis, since_1970_of};
use super::{Admin, SharedAdmin};
use crate::ended::{Ended, MAX_ENDED};
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use serde::Deserialize;
use serde_json::{Value, json};
use sse_guard::UpstreamFault;
use sse_guard::internal::Details;

impl<'a> From<&'a Ended> for StreamIdentity<'a> {
    fn from(ended: &'a Ended) -> Self {
        let labels = ended.labels.as_ref();
        Self {
            id: ended.id,
            route: labels.map(|labels| &*labels.route),
            client: ended.client.as_ref(),
            user: ended.details.as_ref().and_then(Details::user),
            upstream: labels.and_then(|labels| labels.upstream.as_deref()),
            path: ended.details.as_ref().map(Details::path),
        }
    }
}

/// As the API shows it.
pub(super) fn row(ended: &Ended) -> Value {
    let identity = StreamIdentity::from(ended);
    let heads = ended.details.as_ref().map(Heads::of);
    let heads = json!(heads);
    json!({
        "seq": ended.seq,
        "id": identity.id,
        "ended_ms": since_1970_of(ended.at),
        "reason": ended.reason.as_str(),
        "route": identity.route,
        "client": identity.client.map(ToString::to_string),
        "user": identity.user,
        "upstream": identity.upstream,
        "age_ms": millis(ended.age),
        "events": ended.events,
        "bytes": ended.bytes,
        "heartbeats": ended.heartbeats,
        "first_event_ms": ended.first_event.map(millis),
        "gap_p99_ms": ended.gap_p99.map(millis),
        "last_event_id": ended.last_event_id,
        "path": identity.path,
        "family": ended.family.as_str(),
        "fault": ended.fault.map(UpstreamFault::as_str),
        "cause": ended.fault.map(UpstreamFault::cause),
        "dropped_bytes": ended.dropped_bytes,
        "request": heads["request"],
        "response": heads["response"],
    })
}

impl Admin {
    /// Like [`EndedStreams::after`](crate::ended::EndedStreams::after); the records exist whenever the
    /// admin address does.
    pub(super) fn ended_after(&self, seq: u64, max: usize) -> (u64, Vec<Ended>) {
        let ended = self.state.carryover.ended();
        ended.map_or((0, Vec::new()), |ended| ended.after(seq, max))
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EndedFilter {
    /// Text that is in one of its fields.
    q: Option<String>,
    reason: Option<String>,
    route: Option<String>,
    client: Option<String>,
    limit: Option<usize>,
}

impl EndedFilter {
    fn matches(&self, ended: &Ended) -> bool {
        let (identity, reason) = (StreamIdentity::from(ended), ended.reason.as_str());
        is(&self.reason, Some(reason))
            && is(&self.route, identity.route)
            && identity.client_is(&self.client)
            && (self.q.as_deref() == Some(reason) || identity.mention(&self.q))
    }
}

pub(super) async fn ends(
    State(admin): State<SharedAdmin>,
    filter: Result<Query<EndedFilter>, QueryRejection>,
) -> Result<Json<Value>, ApiError> {
    let Query(filter) = filter.map_err(|error| ApiError::bad(error.body_text()))?;
    let (count, kept) = admin.ended_after(0, MAX_ENDED);
    let latest = kept.iter().rev().filter(|ended| filter.matches(ended));
    let latest = latest.take(filter.limit.unwrap_or(100));
    let latest: Vec<_> = latest.map(row).collect();
    Ok(Json(json!({ "count": count, "ends": latest })))
}
