//! `/api/live`: an event stream of what happens, which our own layers guard.

use super::journal::Ended;
use super::{Admin, Shared, TICK, summary};
use crate::SseGuardLayer;
use crate::connection_limit::ConnectionLimitLayer;
use crate::heartbeat::HeartbeatLayer;
use crate::rotation::RotationLayer;
use axum::extract::State;
use axum::response::Sse;
use axum::response::sse::Event;
use futures_util::stream::{self, Stream};
use serde_json::json;
use std::convert::Infallible;
use std::time::Duration;

/// Pages that may watch at once.
const WATCHERS: u32 = 64;
/// Ends that are told of in one second; of more the latest, the rest is in `/api/ends`.
const ENDS: usize = 200;

pub(super) fn guard() -> SseGuardLayer {
    SseGuardLayer::new()
        // Its streams are none that the operator would count.
        .metrics(None)
        .limit(ConnectionLimitLayer::new().total(WATCHERS))
        .rotation(RotationLayer::new().max_age(Duration::from_secs(3600), 0.1))
        .heartbeat(HeartbeatLayer::new(Duration::from_secs(5)))
}

struct Watcher {
    admin: Shared,
    ticks: tokio::time::Interval,
    seen: u64,
}

impl Watcher {
    fn event(&mut self) -> Event {
        let admin: &Admin = &self.admin;
        let (count, ends) = admin.ends_behind(self.seen, ENDS);
        let ends: Vec<_> = ends.iter().map(Ended::row).collect();
        let missed = count - self.seen - ends.len() as u64;
        self.seen = count;
        let data = json!({ "summary": summary::of(admin), "ends": ends, "missed_ends": missed });
        Event::default().event("tick").data(data.to_string())
    }
}

pub(super) async fn live(
    State(admin): State<Shared>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let watcher = Watcher {
        seen: admin.ends_behind(u64::MAX, 0).0,
        admin,
        ticks: tokio::time::interval(TICK),
    };
    Sse::new(stream::unfold(watcher, |mut watcher| async {
        watcher.ticks.tick().await;
        let event = watcher.event();
        Some((Ok(event), watcher))
    }))
}
