//! Recognizes clients that reconnect, by the recent ends of their streams.

use crate::client_key::IPV6_PREFIX;
use crate::lock::lock;
use crate::stream::{EndReason, Stream};
use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;
use tokio::time::Instant;

/// A client that opens a stream later than this after an end does not reconnect.
const RECONNECT_WINDOW: Duration = Duration::from_secs(120);
/// Maximum number of tracked clients. Further ones count as reconnecting only by their `Last-Event-ID`.
const MAX_TRACKED_CLIENTS: usize = 4096;

/// Recent ends by client.
#[derive(Debug, Default)]
pub(super) struct ReconnectTracker(Mutex<HashMap<u64, RecentEnds>>);

#[derive(Debug)]
struct RecentEnds {
    /// The time and the reason of the latest.
    at: Instant,
    reason: EndReason,
    count: u32,
}

/// Why a client reconnects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReconnectKind {
    /// The stream was probably cut between the client and this process.
    AfterCut,
    /// This side or the upstream ended the stream.
    AfterEnd,
}

impl ReconnectTracker {
    pub(super) fn ended(&self, stream: &Stream, reason: EndReason) {
        let Some(client) = key(stream) else { return };
        let now = Instant::now();
        let mut clients = lock(&self.0);
        if clients.len() >= MAX_TRACKED_CLIENTS && !clients.contains_key(&client) {
            clients.retain(|_, ended| is_recent(ended, now));
            if clients.len() >= MAX_TRACKED_CLIENTS {
                return;
            }
        }
        let ended = clients.entry(client).or_insert(RecentEnds {
            at: now,
            reason,
            count: 0,
        });
        if !is_recent(ended, now) {
            ended.count = 0;
        }
        (ended.at, ended.reason) = (now, reason);
        ended.count = ended.count.saturating_add(1);
    }

    /// Returns why the client of a new stream reconnects, if it does: with a `Last-Event-ID`, or without one if its last
    /// stream was ended on this side. A client that disconnected may be a page that was opened again.
    pub(super) fn opened(&self, stream: &Stream, has_id: bool) -> Option<ReconnectKind> {
        let reason = key(stream).and_then(|client| self.take(client));
        match reason {
            None | Some(EndReason::ClientGone) => has_id.then_some(ReconnectKind::AfterCut),
            Some(_) => Some(ReconnectKind::AfterEnd),
        }
    }

    fn take(&self, client: u64) -> Option<EndReason> {
        let mut clients = lock(&self.0);
        let ended = clients.get_mut(&client)?;
        let reason = is_recent(ended, Instant::now()).then_some(ended.reason);
        ended.count -= 1;
        if ended.count == 0 || reason.is_none() {
            clients.remove(&client);
        }
        reason
    }
}

fn is_recent(ended: &RecentEnds, now: Instant) -> bool {
    now.saturating_duration_since(ended.at) <= RECONNECT_WINDOW
}

/// `None` if the client is not identified, or does not reconnect by itself.
fn key(stream: &Stream) -> Option<u64> {
    let client = stream
        .client()
        .filter(|_| stream.family().client_reconnects())?;
    Some(client.clone().network(IPV6_PREFIX).hash_value())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client_key::ClientKey;
    use crate::family::Family;
    use tokio::time::advance;

    fn stream(client: u8) -> Stream {
        let stream = Stream::open();
        stream.set_client(ClientKey::Ip([192, 0, 2, client].into()));
        stream.set_family(Family::EventSource, true);
        stream
    }

    const CUT: Option<ReconnectKind> = Some(ReconnectKind::AfterCut);
    const ENDED_HERE: Option<ReconnectKind> = Some(ReconnectKind::AfterEnd);

    #[tokio::test(start_paused = true)]
    async fn reconnect_is_recognized_by_an_event_id_or_an_end_on_this_side() {
        for (reason, with_id, without_id) in [
            (None, CUT, None),
            (Some(EndReason::ClientGone), CUT, None),
            (Some(EndReason::UpstreamEnd), ENDED_HERE, ENDED_HERE),
            (Some(EndReason::UpstreamError), ENDED_HERE, ENDED_HERE),
            (Some(EndReason::Rotated), ENDED_HERE, ENDED_HERE),
            (Some(EndReason::ClientStalled), ENDED_HERE, ENDED_HERE),
        ] {
            for (has_id, expected) in [(true, with_id), (false, without_id)] {
                let tracker = ReconnectTracker::default();
                if let Some(reason) = reason {
                    tracker.ended(&stream(1), reason);
                }
                let another = tracker.opened(&stream(2), false);
                assert_eq!(another, None, "an end of another client");
                let found = tracker.opened(&stream(1), has_id);
                assert_eq!(found, expected, "{reason:?} {has_id}");
                // Each end has one reconnect.
                assert_eq!(tracker.opened(&stream(1), false), None);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn reconnects_of_one_address_count_once_for_each_end_within_the_window() {
        let tracker = ReconnectTracker::default();
        for _ in 0..3 {
            tracker.ended(&stream(1), EndReason::Rotated);
        }
        for _ in 0..3 {
            assert_eq!(tracker.opened(&stream(1), false), ENDED_HERE);
        }
        assert_eq!(tracker.opened(&stream(1), false), None);
        tracker.ended(&stream(1), EndReason::Rotated);
        advance(RECONNECT_WINDOW + Duration::from_secs(1)).await;
        assert_eq!(tracker.opened(&stream(1), false), None);
        assert!(lock(&tracker.0).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn tracker_is_bounded_and_drops_old_ends() {
        let tracker = ReconnectTracker::default();
        let named = |client: usize| {
            let stream = Stream::open();
            stream.set_client(ClientKey::Name(client.to_string().into()));
            stream.set_family(Family::EventSource, true);
            stream
        };
        for client in 0..MAX_TRACKED_CLIENTS + 10 {
            tracker.ended(&named(client), EndReason::Rotated);
        }
        assert_eq!(lock(&tracker.0).len(), MAX_TRACKED_CLIENTS);
        assert_eq!(tracker.opened(&named(0), false), ENDED_HERE);
        advance(RECONNECT_WINDOW + Duration::from_secs(1)).await;
        for client in MAX_TRACKED_CLIENTS..2 * MAX_TRACKED_CLIENTS {
            tracker.ended(&named(client), EndReason::Rotated);
        }
        assert_eq!(
            tracker.opened(&named(MAX_TRACKED_CLIENTS), false),
            ENDED_HERE
        );
    }
}
