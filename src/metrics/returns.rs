//! Clients that come back after their stream has ended, and why it had.

use crate::client_key::IPV6_PREFIX;
use crate::lock::lock;
use crate::stream::{EndReason, Stream};
use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;
use tokio::time::Instant;

/// A client that opens a stream later than this after an end is not a return.
const WITHIN: Duration = Duration::from_secs(120);
/// Clients that are kept. Of more, the ends are not noted: their returns count by their `Last-Event-ID` alone.
const MAX_CLIENTS: usize = 4096;

/// The latest end of each client, and how many of its streams ended.
#[derive(Debug, Default)]
pub(super) struct Returns(Mutex<HashMap<u64, Ended>>);

#[derive(Debug)]
struct Ended {
    at: Instant,
    reason: EndReason,
    streams: u32,
}

/// What a new stream of a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Return {
    /// It was cut between the client and this process, as far as is known.
    pub(super) was_cut: bool,
}

impl Returns {
    pub(super) fn note_end(&self, stream: &Stream, reason: EndReason) {
        let Some(client) = key(stream) else { return };
        let now = Instant::now();
        let mut clients = lock(&self.0);
        if clients.len() >= MAX_CLIENTS && !clients.contains_key(&client) {
            clients.retain(|_, ended| is_recent(ended, now));
            if clients.len() >= MAX_CLIENTS {
                return;
            }
        }
        let ended = clients.entry(client).or_insert(Ended {
            at: now,
            reason,
            streams: 0,
        });
        if !is_recent(ended, now) {
            ended.streams = 0;
        }
        (ended.at, ended.reason) = (now, reason);
        ended.streams = ended.streams.saturating_add(1);
    }

    /// Whether a new stream is that of a client that comes back. One with a `Last-Event-ID` is. One without is
    /// if its last stream was ended on this side: a client that left may be a page that was opened again.
    pub(super) fn note_open(&self, stream: &Stream, has_id: bool) -> Option<Return> {
        let reason = key(stream).and_then(|client| self.take(client));
        let was_cut = match reason {
            None | Some(EndReason::ClientGone) => has_id.then_some(true),
            Some(_) => Some(false),
        };
        was_cut.map(|was_cut| Return { was_cut })
    }

    fn take(&self, client: u64) -> Option<EndReason> {
        let mut clients = lock(&self.0);
        let ended = clients.get_mut(&client)?;
        let reason = is_recent(ended, Instant::now()).then_some(ended.reason);
        ended.streams -= 1;
        if ended.streams == 0 || reason.is_none() {
            clients.remove(&client);
        }
        reason
    }
}

fn is_recent(ended: &Ended, now: Instant) -> bool {
    now.saturating_duration_since(ended.at) <= WITHIN
}

/// Nothing where nothing names the client, and of clients that do not reconnect by themselves.
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

    const CUT: Option<Return> = Some(Return { was_cut: true });
    const ENDED_HERE: Option<Return> = Some(Return { was_cut: false });

    #[tokio::test(start_paused = true)]
    async fn a_return_is_told_by_its_id_or_by_an_end_on_this_side() {
        for (reason, with_id, without_id) in [
            (None, CUT, None),
            (Some(EndReason::ClientGone), CUT, None),
            (Some(EndReason::UpstreamEnd), ENDED_HERE, ENDED_HERE),
            (Some(EndReason::UpstreamError), ENDED_HERE, ENDED_HERE),
            (Some(EndReason::Rotated), ENDED_HERE, ENDED_HERE),
            (Some(EndReason::ClientStalled), ENDED_HERE, ENDED_HERE),
        ] {
            for (has_id, expected) in [(true, with_id), (false, without_id)] {
                let returns = Returns::default();
                if let Some(reason) = reason {
                    returns.note_end(&stream(1), reason);
                }
                let another = returns.note_open(&stream(2), false);
                assert_eq!(another, None, "an end of another client");
                let found = returns.note_open(&stream(1), has_id);
                assert_eq!(found, expected, "{reason:?} {has_id}");
                // Each end has one return.
                assert_eq!(returns.note_open(&stream(1), false), None);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn clients_behind_one_address_come_back_one_by_one_and_not_much_later() {
        let returns = Returns::default();
        for _ in 0..3 {
            returns.note_end(&stream(1), EndReason::Rotated);
        }
        for _ in 0..3 {
            assert_eq!(returns.note_open(&stream(1), false), ENDED_HERE);
        }
        assert_eq!(returns.note_open(&stream(1), false), None);
        returns.note_end(&stream(1), EndReason::Rotated);
        advance(WITHIN + Duration::from_secs(1)).await;
        assert_eq!(returns.note_open(&stream(1), false), None);
        assert!(lock(&returns.0).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_table_is_bounded_and_makes_room_of_what_is_old() {
        let returns = Returns::default();
        let named = |client: usize| {
            let stream = Stream::open();
            stream.set_client(ClientKey::Name(client.to_string().into()));
            stream.set_family(Family::EventSource, true);
            stream
        };
        for client in 0..MAX_CLIENTS + 10 {
            returns.note_end(&named(client), EndReason::Rotated);
        }
        assert_eq!(lock(&returns.0).len(), MAX_CLIENTS);
        assert_eq!(returns.note_open(&named(0), false), ENDED_HERE);
        advance(WITHIN + Duration::from_secs(1)).await;
        for client in MAX_CLIENTS..2 * MAX_CLIENTS {
            returns.note_end(&named(client), EndReason::Rotated);
        }
        assert_eq!(returns.note_open(&named(MAX_CLIENTS), false), ENDED_HERE);
    }
}
