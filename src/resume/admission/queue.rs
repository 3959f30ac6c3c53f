//! The order in which waiting streams reconnect: a pure data structure, which is given the time.

use super::lane::{Key, Lane, Share, State};
use super::outage::{Line, Outages};
use crate::jitter::{LONGEST, up_to};
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// Failed connections in a row, without an answer in between, from which the upstream counts as away.
pub(super) const AWAY_AFTER: u32 = 3;
/// Longest time between two probes of a failing lane, or of an upstream that is away.
pub(super) const PROBE_GAP: Duration = Duration::from_secs(1);
/// The same where one stream alone waits.
const LONE_PROBE_GAP: Duration = Duration::from_millis(500);
/// Shortest time between probes of any two failing lanes.
const PROBE_SPACING: Duration = Duration::from_millis(100);

/// Half of `longest` to all of it: several proxies must not probe in step.
fn spread(longest: Duration) -> Duration {
    longest / 2 + up_to(longest / 2)
}

/// Why an attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::resume) enum Failure {
    /// No request reached the upstream.
    Unreachable,
    /// The upstream answered with a status that may change.
    Answered,
}

/// What a stream gets with its turn: whether its own backoff was over.
pub(super) struct Grant {
    pub(super) key: Key,
    pub(super) to: oneshot::Sender<super::Turn>,
    pub(super) was_due: bool,
}

/// All streams that wait for one upstream. See [`Admission`](super::Admission).
#[derive(Debug)]
pub(super) struct Queue {
    gap: Duration,
    concurrent: usize,
    /// No attempt before then.
    next: Instant,
    /// No probe before then.
    next_probe: Instant,
    /// The last attempt was a probe: others go first, if there are any.
    probed_last: bool,
    in_flight: usize,
    unreachable: u32,
    lanes: HashMap<Key, Lane>,
    clients: HashMap<u64, Share>,
    /// Attempts in flight by path.
    paths: HashMap<u64, usize>,
    /// Clients with a lane in `ready`, by their place: round robin. A client goes to the end after each of
    /// its turns, and starts at the end when it comes or comes back. So it waits for one turn of each client
    /// ahead of it, however many streams they have, and however often others come and go.
    rotation: BTreeSet<(u64, u64)>,
    /// Client, place and path of the lanes with a stream that may reconnect at the full rate: round robin
    /// as well, within the client.
    ready: BTreeSet<(u64, u64, u64)>,
    /// Failing lanes with a stream that may probe, by the time of their next probe.
    failing: BTreeSet<(Instant, Key)>,
    /// The last place, or number of a ticket.
    sequence: u64,
    pub(super) outages: Outages,
}

impl Queue {
    pub(super) fn new(gap: Duration, concurrent: usize) -> Self {
        let now = Instant::now();
        Self {
            gap,
            concurrent,
            next: now,
            next_probe: now,
            probed_last: false,
            in_flight: 0,
            unreachable: 0,
            lanes: HashMap::new(),
            clients: HashMap::new(),
            paths: HashMap::new(),
            rotation: BTreeSet::new(),
            ready: BTreeSet::new(),
            failing: BTreeSet::new(),
            sequence: 0,
            outages: Outages::default(),
        }
    }

    pub(super) fn is_away(&self) -> bool {
        self.unreachable >= AWAY_AFTER
    }

    /// Whether any failed connection is on record since the upstream last answered.
    pub(super) fn is_suspect(&self) -> bool {
        self.unreachable > 0
    }

    /// How many attempts one client, or one path, may have in flight: a quarter is left to others.
    fn share(&self) -> usize {
        self.concurrent - self.concurrent / 4
    }

    #[cfg(test)]
    pub(super) fn lanes(&self) -> usize {
        self.lanes.len().max(self.clients.len())
    }

    /// A stream of this lane waits from now on, or is about to.
    pub(super) fn join(&mut self, key: Key) {
        let is_new = !self.lanes.contains_key(&key);
        let lane = self.lanes.entry(key).or_insert_with(Lane::new);
        lane.members += 1;
        if is_new {
            self.clients.entry(key.client).or_default().lanes += 1;
            if self.is_away() {
                // It need not find out by itself.
                self.change(key, |lane| {
                    lane.state = State::Failing(Failure::Unreachable);
                });
            }
        }
    }

    /// A stream of this lane waits no more. A lane lives as long as its streams wait, which bounds them.
    pub(super) fn leave(&mut self, key: Key) {
        if let Some(lane) = self.lanes.get_mut(&key) {
            lane.members -= 1;
            self.forget(key);
        }
    }

    fn forget(&mut self, key: Key) {
        let is_over = |lane: &Lane| lane.members == 0 && lane.in_flight == 0;
        if !self.lanes.get(&key).is_some_and(is_over) {
            return;
        }
        self.change(key, |lane| lane.state = State::Good);
        self.lanes.remove(&key);
        if let Some(client) = self.clients.get_mut(&key.client) {
            client.lanes -= 1;
            if client.lanes == 0 {
                self.clients.remove(&key.client);
            }
        }
    }

    /// A stream waits for its turn; its ticket is the number to take it out by. It may probe ahead of
    /// its own backoff if `may_probe`.
    pub(super) fn push(
        &mut self,
        key: Key,
        to: oneshot::Sender<super::Turn>,
        is_due: bool,
        may_probe: bool,
    ) -> u64 {
        self.sequence += 1;
        let ticket = self.sequence;
        self.change(key, |lane| match (is_due, may_probe) {
            (true, _) => drop(lane.due.insert(ticket, to)),
            (false, true) => drop(lane.early.insert(ticket, to)),
            (false, false) => drop(lane.resting.insert(ticket, to)),
        });
        ticket
    }

    /// Its own backoff is over.
    pub(super) fn due(&mut self, key: Key, ticket: u64) {
        self.change(key, |lane| {
            let early = lane.early.remove(&ticket);
            if let Some(to) = early.or_else(|| lane.resting.remove(&ticket)) {
                lane.due.insert(ticket, to);
            }
        });
    }

    /// It does not wait any more. What it is sent to is given back, to be dropped without the lock.
    pub(super) fn remove(&mut self, key: Key, ticket: u64) -> Option<oneshot::Sender<super::Turn>> {
        let mut removed = None;
        self.change(key, |lane| {
            removed = lane
                .due
                .remove(&ticket)
                .or_else(|| lane.early.remove(&ticket))
                .or_else(|| lane.resting.remove(&ticket));
        });
        removed
    }

    /// Changes a lane, and puts it where it belongs by that.
    fn change(&mut self, key: Key, change: impl FnOnce(&mut Lane)) {
        let Some(lane) = self.lanes.get_mut(&key) else {
            return;
        };
        let place = lane.place.take();
        if let Some(place) = place {
            self.ready.remove(&(key.client, place, key.path));
        }
        if let Some(at) = lane.probe_at.take() {
            self.failing.remove(&(at, key));
        }
        let (was_failing, in_flight) = (lane.is_failing(), lane.in_flight);
        change(lane);
        let is_failing = lane.is_failing();
        let Some(client) = self.clients.get_mut(&key.client) else {
            return;
        };
        client.failing += usize::from(is_failing);
        client.failing -= usize::from(was_failing);
        if is_failing && !(lane.due.is_empty() && lane.early.is_empty()) {
            lane.probe_at = Some(lane.next_probe);
            self.failing.insert((lane.next_probe, key));
        }
        // Until it has a turn, a place is kept.
        let has_had_turn = place.is_some() && lane.in_flight != in_flight;
        if !is_failing && !lane.due.is_empty() {
            let kept = place.filter(|_| !has_had_turn);
            let place = kept.unwrap_or_else(|| {
                self.sequence += 1;
                self.sequence
            });
            lane.place = Some(place);
            self.ready.insert((key.client, place, key.path));
        }
        client.ready += usize::from(lane.place.is_some());
        client.ready -= usize::from(place.is_some());
        if (has_had_turn || client.ready == 0)
            && let Some(place) = client.place.take()
        {
            self.rotation.remove(&(place, key.client));
        }
        if client.ready > 0 && client.place.is_none() {
            self.sequence += 1;
            client.place = Some(self.sequence);
            self.rotation.insert((self.sequence, key.client));
        }
    }

    /// A turn is used: it does not count as in flight any more.
    pub(super) fn release(&mut self, key: Key) {
        self.in_flight -= 1;
        if let Some(count) = self.paths.get_mut(&key.path) {
            *count -= 1;
            if *count == 0 {
                self.paths.remove(&key.path);
            }
        }
        if let Some(client) = self.clients.get_mut(&key.client) {
            client.in_flight -= 1;
        }
        if let Some(lane) = self.lanes.get_mut(&key) {
            lane.in_flight -= 1;
        }
        self.forget(key);
    }

    /// The upstream takes its time to answer: nothing is known against this lane.
    pub(super) fn hangs(&mut self, key: Key) {
        self.change(key, |lane| {
            if lane.state == State::Trial {
                lane.state = State::Good;
            }
        });
        self.release(key);
    }

    /// The upstream has settled an attempt of this lane.
    pub(super) fn succeeded(&mut self, key: Key, now: Instant, lines: &mut Vec<Line>) {
        self.back(now, lines);
        let was_failing = self.lanes.get(&key).is_some_and(Lane::is_failing);
        self.change(key, |lane| {
            if lane.state != State::Good {
                lane.recover();
            }
        });
        if !was_failing {
            return;
        }
        self.outages.back(now, lines);
        // What was wrong may have been wrong with all: each lane that fails gets one attempt.
        for key in self.keys(|lane| lane.state == State::Failing(Failure::Answered)) {
            self.change(key, |lane| lane.state = State::Trial);
        }
    }

    /// An attempt of this lane has failed.
    pub(super) fn failed(
        &mut self,
        key: Key,
        failure: Failure,
        now: Instant,
        lines: &mut Vec<Line>,
    ) {
        match failure {
            Failure::Answered => self.back(now, lines),
            Failure::Unreachable => self.unreachable(now, lines),
        }
        let gap = self.probe_gap(key);
        self.change(key, |lane| {
            if !lane.is_failing() {
                lane.next_probe = now + gap;
            }
            lane.state = State::Failing(failure);
        });
        self.outages.failed(now, lines);
    }

    /// A connection to the upstream has failed.
    pub(super) fn unreachable(&mut self, now: Instant, lines: &mut Vec<Line>) {
        self.unreachable = self.unreachable.saturating_add(1);
        if self.unreachable != AWAY_AFTER {
            return;
        }
        self.next_probe = now + self.probe_gap_while_away();
        for key in self.keys(|lane| !lane.is_failing()) {
            self.change(key, |lane| {
                lane.state = State::Failing(Failure::Unreachable);
            });
        }
        self.outages.failed(now, lines);
    }

    /// The upstream has answered somebody: what failed because it could not be reached may go on.
    pub(super) fn back(&mut self, now: Instant, lines: &mut Vec<Line>) {
        if !self.is_suspect() {
            return;
        }
        self.unreachable = 0;
        self.next_probe = now;
        for key in self.keys(|lane| lane.state != State::Failing(Failure::Answered)) {
            self.change(key, Lane::recover);
        }
        self.outages.back(now, lines);
    }

    fn keys(&self, is_one: impl Fn(&Lane) -> bool) -> Vec<Key> {
        let lanes = self.lanes.iter().filter(|(_, lane)| is_one(lane));
        lanes.map(|(key, _)| *key).collect()
    }

    /// Until the next probe of this lane. All failing lanes of a client share its probes.
    fn probe_gap(&self, key: Key) -> Duration {
        let members = self.lanes.get(&key).map_or(0, |lane| lane.members);
        let client = self.clients.get(&key.client);
        let failing = client.map_or(1, |client| client.failing.max(1));
        let longest = match members <= 1 && failing == 1 {
            true => LONE_PROBE_GAP,
            false => PROBE_GAP,
        };
        let failing = u32::try_from(failing).unwrap_or(u32::MAX);
        let gap = spread(longest).max(self.gap);
        gap.saturating_mul(failing).min(LONGEST)
    }

    /// Until the next probe of any lane, while the upstream is away.
    fn probe_gap_while_away(&self) -> Duration {
        let members: usize = self.lanes.values().map(|lane| lane.members).take(2).sum();
        let longest = match members <= 1 {
            true => LONE_PROBE_GAP,
            false => PROBE_GAP,
        };
        spread(longest).max(self.gap)
    }

    fn has_room(&self, key: Key) -> bool {
        let share = self.share();
        let used = |count: Option<usize>| count.unwrap_or(0);
        let client = self.clients.get(&key.client);
        let waits_for_trial = |lane: &Lane| lane.state == State::Trial && lane.in_flight > 0;
        used(client.map(|client| client.in_flight)) < share
            && used(self.paths.get(&key.path).copied()) < share
            && !self.lanes.get(&key).is_some_and(waits_for_trial)
    }

    fn first_ready(&self) -> Option<Key> {
        self.rotation.iter().find_map(|(_, client)| {
            let lanes = (*client, u64::MIN, u64::MIN)..=(*client, u64::MAX, u64::MAX);
            let mut lanes = self.ready.range(lanes);
            lanes.find_map(|(client, _, path)| {
                let (client, path) = (*client, *path);
                let key = Key { client, path };
                self.has_room(key).then_some(key)
            })
        })
    }

    fn first_probe(&self) -> Option<(Instant, Key)> {
        let mut failing = self.failing.iter().copied();
        failing.find(|(_, key)| self.has_room(*key))
    }

    /// The next turn, or when to look again; neither if nobody waits, or all depends on others.
    pub(super) fn next(&mut self, now: Instant) -> Result<Grant, Option<Instant>> {
        if self.in_flight >= self.concurrent {
            return Err(None);
        }
        let (ready, probe) = (self.first_ready(), self.first_probe());
        let (at, key, is_probe) = if self.is_away() {
            let key = ready.or(probe.map(|(_, key)| key)).ok_or(None)?;
            (self.next_probe, key, true)
        } else {
            let probe = probe.map(|(at, key)| (at.max(self.next_probe), key, true));
            let is_due = probe.is_some_and(|(at, ..)| at <= now) && !self.probed_last;
            let ready = ready.map(|key| (now, key, false));
            match is_due {
                true => probe.or(ready),
                false => ready.or(probe),
            }
            .ok_or(None)?
        };
        let at = at.max(self.next);
        if at > now {
            return Err(Some(at));
        }
        self.take(key, is_probe, now).ok_or(None)
    }

    fn take(&mut self, key: Key, is_probe: bool, now: Instant) -> Option<Grant> {
        self.next = now + self.gap;
        self.probed_last = is_probe;
        let gap = self.probe_gap(key);
        if is_probe {
            self.next_probe = now
                + match self.is_away() {
                    true => self.probe_gap_while_away(),
                    false => PROBE_SPACING,
                };
        }
        let mut taken = None;
        self.change(key, |lane| {
            taken = lane.take();
            lane.in_flight += 1;
            lane.next_probe = now + gap;
        });
        *self.paths.entry(key.path).or_default() += 1;
        self.in_flight += 1;
        if let Some(client) = self.clients.get_mut(&key.client) {
            client.in_flight += 1;
        }
        let (to, was_due) = taken?;
        Some(Grant { key, to, was_due })
    }
}
