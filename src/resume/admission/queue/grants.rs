//! Which stream gets the next turn, and when.

use super::{AdmissionQueue, Lane, LaneHealth, LaneKey, TurnGrant};
use crate::jitter::{MAX_DURATION, up_to};
use std::time::Duration;
use tokio::time::Instant;

/// Maximum time between two probes of a failing lane, or of an unreachable upstream.
pub(in crate::resume::admission) const MAX_PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// Maximum time between two probes if only one stream waits.
const MAX_SOLE_PROBE_INTERVAL: Duration = Duration::from_millis(500);
/// Minimum time between probes of any two failing lanes.
const MIN_PROBE_SPACING: Duration = Duration::from_millis(100);

/// A random time from half of `max` to all of it: several proxies must not probe in step.
fn spread(max: Duration) -> Duration {
    max / 2 + up_to(max / 2)
}

impl AdmissionQueue {
    /// All turns that are due, and the time of the next one: `None` if no stream waits, or each waits for the end
    /// of another attempt.
    pub(in crate::resume::admission) fn grants(
        &mut self,
        now: Instant,
    ) -> (Vec<TurnGrant>, Option<Instant>) {
        let mut grants = Vec::new();
        loop {
            match self.next_grant(now) {
                Ok(grant) => grants.push(grant),
                Err(next_at) => return (grants, next_at),
            }
        }
    }

    /// The next turn, or its time.
    fn next_grant(&mut self, now: Instant) -> Result<TurnGrant, Option<Instant>> {
        if self.in_flight >= self.max_concurrent {
            return Err(None);
        }
        let (ready, probe) = (self.first_ready(), self.first_probe());
        let (at, key, is_probe) = if self.is_unreachable() {
            let key = ready.or(probe.map(|(_, key)| key)).ok_or(None)?;
            (self.next_probe_at, key, true)
        } else {
            let probe = probe.map(|(at, key)| (at.max(self.next_probe_at), key, true));
            let is_due = probe.is_some_and(|(at, ..)| at <= now) && !self.probed_last;
            let ready = ready.map(|key| (now, key, false));
            match is_due {
                true => probe.or(ready),
                false => ready.or(probe),
            }
            .ok_or(None)?
        };
        let at = at.max(self.next_grant_at);
        if at > now {
            return Err(Some(at));
        }
        self.grant(key, is_probe, now).ok_or(None)
    }

    fn grant(&mut self, key: LaneKey, is_probe: bool, now: Instant) -> Option<TurnGrant> {
        self.next_grant_at = now + self.min_interval;
        self.probed_last = is_probe;
        let interval = self.probe_interval(key);
        if is_probe {
            self.next_probe_at = now
                + match self.is_unreachable() {
                    true => self.probe_interval_while_unreachable(),
                    false => MIN_PROBE_SPACING,
                };
        }
        let mut taken = None;
        self.change(key, |lane| {
            taken = lane.take();
            lane.in_flight += 1;
            lane.next_probe_at = now + interval;
        });
        *self.in_flight_by_target.entry(key.target).or_default() += 1;
        self.in_flight += 1;
        if let Some(client) = self.clients.get_mut(&key.client) {
            client.in_flight += 1;
        }
        let (to, was_due) = taken?;
        Some(TurnGrant { key, to, was_due })
    }

    /// Maximum attempts in flight of one client, or for one target: a quarter is left to others.
    fn max_in_flight_per_key(&self) -> usize {
        self.max_concurrent - self.max_concurrent / 4
    }

    /// Time until the next probe of this lane. All failing lanes of a client share its probes.
    pub(super) fn probe_interval(&self, key: LaneKey) -> Duration {
        let streams = self.lanes.get(&key).map_or(0, |lane| lane.streams);
        let client = self.clients.get(&key.client);
        let failing = client.map_or(1, |client| client.failing.max(1));
        let max = match streams <= 1 && failing == 1 {
            true => MAX_SOLE_PROBE_INTERVAL,
            false => MAX_PROBE_INTERVAL,
        };
        let failing = u32::try_from(failing).unwrap_or(u32::MAX);
        let interval = spread(max).max(self.min_interval);
        interval.saturating_mul(failing).min(MAX_DURATION)
    }

    /// Time until the next probe of any lane while the upstream is unreachable.
    pub(super) fn probe_interval_while_unreachable(&self) -> Duration {
        let streams: usize = self.lanes.values().map(|lane| lane.streams).take(2).sum();
        let max = match streams <= 1 {
            true => MAX_SOLE_PROBE_INTERVAL,
            false => MAX_PROBE_INTERVAL,
        };
        spread(max).max(self.min_interval)
    }

    fn has_room(&self, key: LaneKey) -> bool {
        let max = self.max_in_flight_per_key();
        let used = |count: Option<usize>| count.unwrap_or(0);
        let client = self.clients.get(&key.client);
        let waits_for_trial = |lane: &Lane| lane.health == LaneHealth::Trial && lane.in_flight > 0;
        used(client.map(|client| client.in_flight)) < max
            && used(self.in_flight_by_target.get(&key.target).copied()) < max
            && !self.lanes.get(&key).is_some_and(waits_for_trial)
    }

    fn first_ready(&self) -> Option<LaneKey> {
        self.client_rotation.iter().find_map(|(_, client)| {
            let lanes = (*client, u64::MIN, u64::MIN)..=(*client, u64::MAX, u64::MAX);
            let mut lanes = self.ready_lanes.range(lanes);
            lanes.find_map(|(client, _, target)| {
                let (client, target) = (*client, *target);
                let key = LaneKey { client, target };
                self.has_room(key).then_some(key)
            })
        })
    }

    fn first_probe(&self) -> Option<(Instant, LaneKey)> {
        let mut failing = self.failing_lanes.iter().copied();
        failing.find(|(_, key)| self.has_room(*key))
    }
}
