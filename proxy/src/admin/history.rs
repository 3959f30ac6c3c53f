//! `/api/history`: the last quarter of an hour, second by second.

use super::SharedAdmin;
use super::time::{millis, since_1970_ms};
use axum::Json;
use axum::extract::State;
use serde::Serialize;
use serde_json::{Map, Value, json};
use sse_guard::EndReason;
use sse_guard::internal::lock;
use sse_guard::metrics::Snapshot;
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};

/// Seconds that are kept: 15 minutes.
const KEPT_SECONDS: usize = 900;

/// What happened in one second.
#[derive(Clone, Debug, Serialize)]
pub(super) struct SecondSummary {
    /// When it ended, in seconds since 1970.
    time: u64,
    active: u64,
    opened: u64,
    rejected: u64,
    events: u64,
    bytes: u64,
    ends: Map<String, Value>,
    gap_p50_ms: Option<f64>,
    gap_p99_ms: Option<f64>,
    first_event_p50_ms: Option<f64>,
    first_event_p99_ms: Option<f64>,
}

#[derive(Debug, Default)]
pub(super) struct History(Mutex<HistoryState>);

#[derive(Debug, Default)]
struct HistoryState {
    last: Option<Snapshot>,
    seconds: VecDeque<SecondSummary>,
}

/// End reasons with their counts, without zeros.
pub(super) fn ends(count: impl Fn(EndReason) -> u64) -> Map<String, Value> {
    let counts = EndReason::ALL.iter();
    let counts = counts.map(|&reason| (reason.as_str().to_owned(), count(reason)));
    let counts = counts.filter(|(_, count)| *count > 0);
    counts
        .map(|(reason, count)| (reason, count.into()))
        .collect()
}

impl History {
    fn past(&self) -> MutexGuard<'_, HistoryState> {
        lock(&self.0)
    }

    /// Notes the sums at the end of a second.
    pub(super) fn note(&self, now: &Snapshot) {
        let mut past = self.past();
        let Some(before) = past.last.replace(now.clone()) else {
            return;
        };
        let new = now.since(&before);
        let second = SecondSummary {
            time: since_1970_ms() / 1000,
            active: new.active,
            opened: new.opened,
            rejected: new.rejected,
            events: new.events,
            bytes: new.bytes,
            ends: ends(|reason| new.ended(reason)),
            gap_p50_ms: new.gaps.quantile(0.5).map(millis),
            gap_p99_ms: new.gaps.quantile(0.99).map(millis),
            first_event_p50_ms: new.first_events.quantile(0.5).map(millis),
            first_event_p99_ms: new.first_events.quantile(0.99).map(millis),
        };
        if past.seconds.len() == KEPT_SECONDS {
            past.seconds.pop_front();
        }
        past.seconds.push_back(second);
    }

    pub(super) fn last(&self) -> Option<SecondSummary> {
        self.past().seconds.back().cloned()
    }

    fn all(&self) -> VecDeque<SecondSummary> {
        self.past().seconds.clone()
    }
}

pub(super) async fn history(State(admin): State<SharedAdmin>) -> Json<Value> {
    Json(json!({ "seconds": admin.history.all() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_is_the_difference_of_two_looks_and_old_ones_go() {
        let history = History::default();
        let at = |events| {
            let mut snapshot = Snapshot::default();
            (snapshot.events, snapshot.active) = (events, 7);
            snapshot
        };
        history.note(&at(10));
        assert!(history.last().is_none());
        history.note(&at(25));
        let second = history.last().unwrap();
        assert_eq!((second.events, second.active), (15, 7));
        for n in 0..KEPT_SECONDS as u64 {
            history.note(&at(25 + n));
        }
        assert_eq!(history.all().len(), KEPT_SECONDS);
        assert_eq!(history.all()[0].events, 0);
    }
}
