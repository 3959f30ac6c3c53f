//! `/api/ends`: streams that have ended.

use super::Shared;
use super::answer::Refusal;
use super::history::millis;
use crate::stream::{EndReason, Stream};
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// Ends that are kept.
const KEPT: usize = 2000;

/// The latest ends.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Journal(Mutex<Ends>);

#[derive(Debug, Default)]
struct Ends {
    /// Of all there were.
    count: u64,
    latest: VecDeque<Ended>,
}

/// A stream that has ended.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Ended {
    /// Counts ends from 1.
    seq: u64,
    id: u64,
    /// When, in milliseconds since 1970.
    ended_ms: u64,
    reason: &'static str,
    route: Option<String>,
    client: Option<String>,
    user: Option<String>,
    upstream: Option<String>,
    age_ms: f64,
    events: u64,
    bytes: u64,
    heartbeats: u64,
    first_event_ms: Option<f64>,
    gap_p99_ms: Option<f64>,
    last_event_id: Option<String>,
}

pub(super) fn since_1970_ms() -> u64 {
    let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    time.map_or(0, |time| {
        u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
    })
}

impl Ended {
    fn of(stream: &Stream) -> Self {
        Self {
            seq: 0,
            id: stream.id().as_u64(),
            ended_ms: since_1970_ms(),
            reason: stream
                .end_reason()
                .unwrap_or(EndReason::ClientGone)
                .as_str(),
            route: stream.route().map(str::to_owned),
            client: stream.client().map(ToString::to_string),
            user: stream.user().map(str::to_owned),
            upstream: stream.upstream().map(str::to_owned),
            age_ms: millis(stream.age()),
            events: stream.events(),
            bytes: stream.bytes(),
            heartbeats: stream.heartbeats(),
            first_event_ms: stream.time_to_first_event().map(millis),
            gap_p99_ms: stream.gap_p99().map(millis),
            last_event_id: stream.last_event_id(),
        }
    }

    fn mentions(&self, text: &str) -> bool {
        let texts = [&self.route, &self.client, &self.user, &self.upstream];
        self.reason.contains(text)
            || self.id.to_string() == text
            || texts.into_iter().flatten().any(|part| part.contains(text))
    }
}

impl Journal {
    fn ends(&self) -> MutexGuard<'_, Ends> {
        // Nothing under the lock can leave the list half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(in crate::proxy) fn note(&self, stream: &Stream) {
        let mut ended = Ended::of(stream);
        let mut ends = self.ends();
        ends.count += 1;
        ended.seq = ends.count;
        if ends.latest.len() == KEPT {
            ends.latest.pop_front();
        }
        ends.latest.push_back(ended);
    }

    /// How many there were.
    pub(super) fn count(&self) -> u64 {
        self.ends().count
    }

    /// How many there were, and those behind the one of this number, the oldest first, as far as
    /// they are kept; of more than `most` the latest.
    pub(super) fn behind(&self, seq: u64, most: usize) -> (u64, Vec<Ended>) {
        let ends = self.ends();
        let start = ends.latest.partition_point(|ended| ended.seq <= seq);
        let start = start.max(ends.latest.len().saturating_sub(most));
        (ends.count, ends.latest.range(start..).cloned().collect())
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
        let is = |wanted: &Option<String>, there: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| there == Some(wanted))
        };
        self.q.as_deref().is_none_or(|text| ended.mentions(text))
            && is(&self.reason, Some(ended.reason))
            && is(&self.route, ended.route.as_deref())
            && is(&self.client, ended.client.as_deref())
    }
}

pub(super) async fn ends(
    State(admin): State<Shared>,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Result<Json<Value>, Refusal> {
    let Query(wanted) = wanted.map_err(|error| Refusal::bad(error.body_text()))?;
    let (count, kept) = admin.journal.behind(0, KEPT);
    let latest = kept.iter().rev().filter(|ended| wanted.matches(ended));
    let latest: Vec<_> = latest.take(wanted.limit.unwrap_or(100)).collect();
    Ok(Json(json!({ "count": count, "ends": latest })))
}
