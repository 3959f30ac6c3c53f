//! Streams that wait for the same thing: those of one client for one path.

use super::Turn;
use super::queue::Failure;
use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::LazyLock;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// What a stream's attempts are accounted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::resume) struct Key {
    pub(super) client: u64,
    pub(super) path: u64,
}

impl Key {
    /// Hashes: what is waited for may be long, and two that collide share a lane, no more.
    pub(in crate::resume) fn new(client: impl Hash, path: impl Hash) -> Self {
        Self {
            client: hash(client),
            path: hash(path),
        }
    }
}

/// Random for each process: nobody outside can compute which clients or paths collide.
static HASHES: LazyLock<RandomState> = LazyLock::new(RandomState::new);

fn hash(value: impl Hash) -> u64 {
    HASHES.hash_one(value)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Nothing is known against it: its streams reconnect at the full rate.
    Good,
    /// It failed, and may have recovered: one attempt tells.
    Trial,
    /// Its last attempt failed: now and then one of its streams probes.
    Failing(Failure),
}

type Waiting = BTreeMap<u64, oneshot::Sender<Turn>>;

/// The streams of one [`Key`], each by the number of its ticket.
#[derive(Debug)]
pub(super) struct Lane {
    /// Streams that wait, between two attempts too.
    pub(super) members: usize,
    pub(super) in_flight: usize,
    pub(super) state: State,
    /// Their own backoff is over.
    pub(super) due: Waiting,
    /// Their own backoff is not over, but they may probe.
    pub(super) early: Waiting,
    /// Their own backoff is not over.
    pub(super) resting: Waiting,
    /// Its place among the ready ones of its client.
    pub(super) place: Option<u64>,
    /// Its place among the failing ones.
    pub(super) probe_at: Option<Instant>,
    pub(super) next_probe: Instant,
}

impl Lane {
    pub(super) fn new() -> Self {
        Self {
            members: 0,
            in_flight: 0,
            state: State::Good,
            due: Waiting::new(),
            early: Waiting::new(),
            resting: Waiting::new(),
            place: None,
            probe_at: None,
            next_probe: Instant::now(),
        }
    }

    pub(super) fn is_failing(&self) -> bool {
        matches!(self.state, State::Failing(_))
    }

    /// All its streams may reconnect: no backoff is worth waiting for.
    pub(super) fn recover(&mut self) {
        self.state = State::Good;
        self.due.append(&mut self.early);
        self.due.append(&mut self.resting);
    }

    /// The stream whose turn it is, and whether its own backoff was over.
    pub(super) fn take(&mut self) -> Option<(oneshot::Sender<Turn>, bool)> {
        if let Some((_, to)) = self.due.pop_first() {
            return Some((to, true));
        }
        self.early.pop_first().map(|(_, to)| (to, false))
    }
}

/// What one client has in the queue.
#[derive(Debug, Default)]
pub(super) struct Share {
    pub(super) lanes: usize,
    pub(super) failing: usize,
    pub(super) in_flight: usize,
    /// Lanes with a stream that may reconnect at the full rate.
    pub(super) ready: usize,
    /// Its place among the clients that have such a lane.
    pub(super) place: Option<u64>,
}
