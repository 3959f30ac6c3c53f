//! The order in which waiting streams reconnect: a data structure without IO, which gets the time from outside.

mod grants;
mod outcomes;

#[cfg(test)]
pub(super) use self::grants::MAX_PROBE_INTERVAL;

use super::lane::{ClientLanes, Lane, LaneHealth, LaneKey};
use super::outage::OutageTracker;
use super::turn::Turn;
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// Failed connections in a row, without a response between them, after which the upstream counts as unreachable.
pub(super) const UNREACHABLE_AFTER_FAILURES: u32 = 3;

/// Why an attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::resume) enum AttemptFailure {
    /// No request reached the upstream.
    Unreachable,
    /// The upstream responded with a temporary status.
    Response,
}

/// A turn, and the stream that gets it.
pub(super) struct TurnGrant {
    pub(super) key: LaneKey,
    pub(super) to: oneshot::Sender<Turn>,
    /// The stream's own backoff was over.
    pub(super) was_due: bool,
}

/// All streams that wait for one upstream. See [`Admission`](super::Admission).
#[derive(Debug)]
pub(super) struct AdmissionQueue {
    min_interval: Duration,
    max_concurrent: usize,
    /// No attempt before this time.
    next_grant_at: Instant,
    /// No probe before this time.
    next_probe_at: Instant,
    /// The last attempt was a probe: attempts at the full rate come first, if there are any.
    probed_last: bool,
    in_flight: usize,
    connection_failures: u32,
    lanes: HashMap<LaneKey, Lane>,
    clients: HashMap<u64, ClientLanes>,
    /// Attempts in flight by target.
    in_flight_by_target: HashMap<u64, usize>,
    /// Position and key of the clients with a lane in `ready_lanes`: round robin. A client moves to the end after
    /// each of its turns, and starts at the end when it joins or rejoins. It thus waits for one turn of each client
    /// before it, regardless of how many streams they have and how often others join and leave.
    client_rotation: BTreeSet<(u64, u64)>,
    /// Client, position and target of the lanes with a stream that may reconnect at the full rate: round robin
    /// within the client.
    ready_lanes: BTreeSet<(u64, u64, u64)>,
    /// Failing lanes with a stream that may probe, by the time of their next probe.
    failing_lanes: BTreeSet<(Instant, LaneKey)>,
    /// The last position or ticket.
    sequence: u64,
    pub(super) outages: OutageTracker,
}

impl AdmissionQueue {
    pub(super) fn new(min_interval: Duration, max_concurrent: usize) -> Self {
        let now = Instant::now();
        Self {
            min_interval,
            max_concurrent,
            next_grant_at: now,
            next_probe_at: now,
            probed_last: false,
            in_flight: 0,
            connection_failures: 0,
            lanes: HashMap::new(),
            clients: HashMap::new(),
            in_flight_by_target: HashMap::new(),
            client_rotation: BTreeSet::new(),
            ready_lanes: BTreeSet::new(),
            failing_lanes: BTreeSet::new(),
            sequence: 0,
            outages: OutageTracker::default(),
        }
    }

    pub(super) fn is_unreachable(&self) -> bool {
        self.connection_failures >= UNREACHABLE_AFTER_FAILURES
    }

    /// Whether a connection has failed since the last response of the upstream.
    pub(super) fn has_connection_failures(&self) -> bool {
        self.connection_failures > 0
    }

    #[cfg(test)]
    pub(super) fn lanes(&self) -> usize {
        self.lanes.len().max(self.clients.len())
    }

    /// Adds a stream to this lane.
    pub(super) fn join(&mut self, key: LaneKey) {
        let is_new = !self.lanes.contains_key(&key);
        let lane = self.lanes.entry(key).or_insert_with(Lane::new);
        lane.streams += 1;
        if is_new {
            self.clients.entry(key.client).or_default().lane_count += 1;
            if self.is_unreachable() {
                // It need not fail first.
                self.change(key, |lane| {
                    lane.health = LaneHealth::Failing(AttemptFailure::Unreachable);
                });
            }
        }
    }

    /// Removes a stream from this lane. A lane exists only while it has streams or attempts.
    pub(super) fn leave(&mut self, key: LaneKey) {
        if let Some(lane) = self.lanes.get_mut(&key) {
            lane.streams -= 1;
            self.remove_if_empty(key);
        }
    }

    fn remove_if_empty(&mut self, key: LaneKey) {
        let is_empty = |lane: &Lane| lane.streams == 0 && lane.in_flight == 0;
        if !self.lanes.get(&key).is_some_and(is_empty) {
            return;
        }
        self.change(key, |lane| lane.health = LaneHealth::Healthy);
        self.lanes.remove(&key);
        if let Some(client) = self.clients.get_mut(&key.client) {
            client.lane_count -= 1;
            if client.lane_count == 0 {
                self.clients.remove(&key.client);
            }
        }
    }

    /// Queues a stream for its turn. Returns the ticket by which it is [removed](Self::remove). With `may_probe` it
    /// may get a turn before its own backoff is over.
    pub(super) fn push(
        &mut self,
        key: LaneKey,
        to: oneshot::Sender<Turn>,
        is_due: bool,
        may_probe: bool,
    ) -> u64 {
        self.sequence += 1;
        let ticket = self.sequence;
        self.change(key, |lane| match (is_due, may_probe) {
            (true, _) => drop(lane.due.insert(ticket, to)),
            (false, true) => drop(lane.probing.insert(ticket, to)),
            (false, false) => drop(lane.in_backoff.insert(ticket, to)),
        });
        ticket
    }

    /// The stream's own backoff is over.
    pub(super) fn end_backoff(&mut self, key: LaneKey, ticket: u64) {
        self.change(key, |lane| {
            let probing = lane.probing.remove(&ticket);
            if let Some(to) = probing.or_else(|| lane.in_backoff.remove(&ticket)) {
                lane.due.insert(ticket, to);
            }
        });
    }

    /// Removes a stream that no longer waits. Returns its sender, to be dropped without the lock.
    pub(super) fn remove(&mut self, key: LaneKey, ticket: u64) -> Option<oneshot::Sender<Turn>> {
        let mut removed = None;
        self.change(key, |lane| {
            removed = lane
                .due
                .remove(&ticket)
                .or_else(|| lane.probing.remove(&ticket))
                .or_else(|| lane.in_backoff.remove(&ticket));
        });
        removed
    }

    /// Changes a lane, and updates the indexes by it.
    fn change(&mut self, key: LaneKey, change: impl FnOnce(&mut Lane)) {
        let Some(lane) = self.lanes.get_mut(&key) else {
            return;
        };
        let position = lane.position.take();
        if let Some(position) = position {
            self.ready_lanes.remove(&(key.client, position, key.target));
        }
        if let Some(at) = lane.probe_at.take() {
            self.failing_lanes.remove(&(at, key));
        }
        let (was_failing, in_flight) = (lane.is_failing(), lane.in_flight);
        change(lane);
        let is_failing = lane.is_failing();
        let Some(client) = self.clients.get_mut(&key.client) else {
            return;
        };
        client.failing += usize::from(is_failing);
        client.failing -= usize::from(was_failing);
        if is_failing && !(lane.due.is_empty() && lane.probing.is_empty()) {
            lane.probe_at = Some(lane.next_probe_at);
            self.failing_lanes.insert((lane.next_probe_at, key));
        }
        // A position is kept until the lane's turn.
        let has_had_turn = position.is_some() && lane.in_flight != in_flight;
        if !is_failing && !lane.due.is_empty() {
            let kept = position.filter(|_| !has_had_turn);
            let position = kept.unwrap_or_else(|| {
                self.sequence += 1;
                self.sequence
            });
            lane.position = Some(position);
            self.ready_lanes.insert((key.client, position, key.target));
        }
        client.ready += usize::from(lane.position.is_some());
        client.ready -= usize::from(position.is_some());
        if (has_had_turn || client.ready == 0)
            && let Some(position) = client.position.take()
        {
            self.client_rotation.remove(&(position, key.client));
        }
        if client.ready > 0 && client.position.is_none() {
            self.sequence += 1;
            client.position = Some(self.sequence);
            self.client_rotation.insert((self.sequence, key.client));
        }
    }

    /// An attempt no longer counts as in flight.
    pub(super) fn release(&mut self, key: LaneKey) {
        self.in_flight -= 1;
        if let Some(count) = self.in_flight_by_target.get_mut(&key.target) {
            *count -= 1;
            if *count == 0 {
                self.in_flight_by_target.remove(&key.target);
            }
        }
        if let Some(client) = self.clients.get_mut(&key.client) {
            client.in_flight -= 1;
        }
        if let Some(lane) = self.lanes.get_mut(&key) {
            lane.in_flight -= 1;
        }
        self.remove_if_empty(key);
    }
}
