//! `/api/live`: an event stream of summaries and ends, behind the layers of this crate.

use super::SharedAdmin;
use super::ended::row;
use axum::extract::State;
use axum::response::Sse;
use axum::response::sse::Event;
use futures_util::stream::{self, Stream};
use serde_json::json;
use sse_guard::SseGuardLayer;
use sse_guard::connection_limit::ConnectionLimitLayer;
use sse_guard::heartbeat::HeartbeatLayer;
use sse_guard::rotation::RotationLayer;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Pages that may watch at once.
const MAX_FEEDS: u32 = 64;
/// Maximum ends sent per second: the latest ones; the rest is in `/api/ends`.
const MAX_ENDS_PER_SECOND: usize = 200;

pub(super) fn guard() -> SseGuardLayer {
    SseGuardLayer::new()
        // Its streams are none that the operator would count.
        .metrics(None)
        .limit(ConnectionLimitLayer::new().total(MAX_FEEDS))
        .rotation(RotationLayer::new().max_age(Duration::from_secs(3600), 0.1))
        .heartbeat(HeartbeatLayer::new(Duration::from_secs(5)))
}

struct Watcher {
    admin: SharedAdmin,
    /// What the feed was opened with.
    token: Option<String>,
    summaries: watch::Receiver<Arc<str>>,
    seen: u64,
}

impl Watcher {
    /// What happens in the next second; nothing when there is none, or the token has changed since
    /// the feed was opened.
    async fn event(&mut self) -> Option<Event> {
        self.summaries.changed().await.ok()?;
        if self.admin.state.active().config().admin.token != self.token {
            return None;
        }
        let summary = self.summaries.borrow_and_update().clone();
        let (count, ends) = self.admin.ended_after(self.seen, MAX_ENDS_PER_SECOND);
        let missed = count - self.seen - ends.len() as u64;
        let ends: Vec<_> = ends.iter().map(row).collect();
        self.seen = count;
        let (ends, missed) = (json!(ends), json!(missed));
        let data = format!(r#"{{"summary":{summary},"ends":{ends},"missed_ends":{missed}}}"#);
        Some(Event::default().event("tick").data(data))
    }
}

pub(super) async fn live(
    State(admin): State<SharedAdmin>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let watcher = Watcher {
        seen: admin.ended_after(u64::MAX, 0).0,
        token: admin.state.active().config().admin.token.clone(),
        summaries: admin.summaries.subscribe(),
        admin,
    };
    Sse::new(stream::unfold(watcher, |mut watcher| async {
        let event = watcher.event().await?;
        Some((Ok(event), watcher))
    }))
}
