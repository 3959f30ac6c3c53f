//! How the results of attempts change the queue.

use super::{
    AdmissionQueue, AttemptFailure, Lane, LaneHealth, LaneKey, UNREACHABLE_AFTER_FAILURES,
};
use crate::resume::admission::outage::OutageLogLine;
use tokio::time::Instant;

impl AdmissionQueue {
    /// The response is slow, which is not a failure of this lane.
    pub(in crate::resume::admission) fn release_slow(&mut self, key: LaneKey) {
        self.change(key, |lane| {
            if lane.health == LaneHealth::Trial {
                lane.health = LaneHealth::Healthy;
            }
        });
        self.release(key);
    }

    /// The upstream has sent a final response to an attempt of this lane.
    pub(in crate::resume::admission) fn succeeded(
        &mut self,
        key: LaneKey,
        now: Instant,
        lines: &mut Vec<OutageLogLine>,
    ) {
        self.upstream_reachable(now, lines);
        let was_failing = self.lanes.get(&key).is_some_and(Lane::is_failing);
        self.change(key, |lane| {
            if lane.health != LaneHealth::Healthy {
                lane.recover();
            }
        });
        if !was_failing {
            return;
        }
        self.outages.upstream_reachable(now, lines);
        // Its cause may have been that of the others: each failing lane gets one attempt.
        for key in self.keys(|lane| lane.health == LaneHealth::Failing(AttemptFailure::Response)) {
            self.change(key, |lane| lane.health = LaneHealth::Trial);
        }
    }

    /// An attempt of this lane has failed.
    pub(in crate::resume::admission) fn failed(
        &mut self,
        key: LaneKey,
        failure: AttemptFailure,
        now: Instant,
        lines: &mut Vec<OutageLogLine>,
    ) {
        match failure {
            AttemptFailure::Response => self.upstream_reachable(now, lines),
            AttemptFailure::Unreachable => self.connection_failed(now, lines),
        }
        let interval = self.probe_interval(key);
        self.change(key, |lane| {
            if !lane.is_failing() {
                lane.next_probe_at = now + interval;
            }
            lane.health = LaneHealth::Failing(failure);
        });
        self.outages.failed(now, lines);
    }

    /// A connection to the upstream has failed.
    pub(in crate::resume::admission) fn connection_failed(
        &mut self,
        now: Instant,
        lines: &mut Vec<OutageLogLine>,
    ) {
        self.connection_failures = self.connection_failures.saturating_add(1);
        if self.connection_failures != UNREACHABLE_AFTER_FAILURES {
            return;
        }
        self.next_probe_at = now + self.probe_interval_while_unreachable();
        for key in self.keys(|lane| !lane.is_failing()) {
            self.change(key, |lane| {
                lane.health = LaneHealth::Failing(AttemptFailure::Unreachable);
            });
        }
        self.outages.failed(now, lines);
    }

    /// The upstream has sent a response: lanes that failed because it was unreachable continue.
    pub(in crate::resume::admission) fn upstream_reachable(
        &mut self,
        now: Instant,
        lines: &mut Vec<OutageLogLine>,
    ) {
        if !self.has_connection_failures() {
            return;
        }
        self.connection_failures = 0;
        self.next_probe_at = now;
        for key in self.keys(|lane| lane.health != LaneHealth::Failing(AttemptFailure::Response)) {
            self.change(key, Lane::recover);
        }
        self.outages.upstream_reachable(now, lines);
    }

    fn keys(&self, is_match: impl Fn(&Lane) -> bool) -> Vec<LaneKey> {
        let lanes = self.lanes.iter().filter(|(_, lane)| is_match(lane));
        lanes.map(|(key, _)| *key).collect()
    }
}
