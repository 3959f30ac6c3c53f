//! A lane: the waiting streams of one client for one target.

use super::queue::AttemptFailure;
use super::turn::Turn;
use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::LazyLock;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// The client and target that a stream's attempts are counted for, as hashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::resume) struct LaneKey {
    pub(super) client: u64,
    pub(super) target: u64,
}

impl LaneKey {
    /// A target may be long, hence the hashes. Two keys that collide share a lane, which is harmless.
    pub(in crate::resume) fn new(client: impl Hash, target: impl Hash) -> Self {
        Self {
            client: hash(client),
            target: hash(target),
        }
    }
}

/// Random for each process: a client cannot compute which keys collide.
static HASH_KEYS: LazyLock<RandomState> = LazyLock::new(RandomState::new);

fn hash(value: impl Hash) -> u64 {
    HASH_KEYS.hash_one(value)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LaneHealth {
    /// Its streams reconnect at the full rate.
    Healthy,
    /// It failed, and may have recovered: its next attempt decides.
    Trial,
    /// Its last attempt failed: one of its streams probes from time to time.
    Failing(AttemptFailure),
}

/// By ticket.
type WaitingStreams = BTreeMap<u64, oneshot::Sender<Turn>>;

/// The streams of one [`LaneKey`].
#[derive(Debug)]
pub(super) struct Lane {
    /// Streams in the queue, including those between two attempts.
    pub(super) streams: usize,
    pub(super) in_flight: usize,
    pub(super) health: LaneHealth,
    /// Their own backoff is over.
    pub(super) due: WaitingStreams,
    /// Their own backoff is not over, but they may probe.
    pub(super) probing: WaitingStreams,
    /// Their own backoff is not over.
    pub(super) in_backoff: WaitingStreams,
    /// Its position among the ready lanes of its client.
    pub(super) position: Option<u64>,
    /// Its key among the failing lanes.
    pub(super) probe_at: Option<Instant>,
    pub(super) next_probe_at: Instant,
}

impl Lane {
    pub(super) fn new() -> Self {
        Self {
            streams: 0,
            in_flight: 0,
            health: LaneHealth::Healthy,
            due: WaitingStreams::new(),
            probing: WaitingStreams::new(),
            in_backoff: WaitingStreams::new(),
            position: None,
            probe_at: None,
            next_probe_at: Instant::now(),
        }
    }

    pub(super) fn is_failing(&self) -> bool {
        matches!(self.health, LaneHealth::Failing(_))
    }

    /// Lets all its streams reconnect without waiting for their backoff.
    pub(super) fn recover(&mut self) {
        self.health = LaneHealth::Healthy;
        self.due.append(&mut self.probing);
        self.due.append(&mut self.in_backoff);
    }

    /// Removes the stream whose turn it is. Returns whether its own backoff was over.
    pub(super) fn take(&mut self) -> Option<(oneshot::Sender<Turn>, bool)> {
        if let Some((_, to)) = self.due.pop_first() {
            return Some((to, true));
        }
        self.probing.pop_first().map(|(_, to)| (to, false))
    }
}

/// The lanes of one client.
#[derive(Debug, Default)]
pub(super) struct ClientLanes {
    pub(super) lane_count: usize,
    pub(super) failing: usize,
    pub(super) in_flight: usize,
    /// Lanes with a stream that may reconnect at the full rate.
    pub(super) ready: usize,
    /// Its position among the clients with a ready lane.
    pub(super) position: Option<u64>,
}
