//! Reachability of an upstream's address: from requests, from connection attempts after failures, and from
//! health checks.
//!
//! Requests and checks are judged separately, and either can mark the upstream as unreachable:
//! successful requests do not outweigh failed checks, because an upstream may respond and still take
//! itself out of service.
//!
//! What requests show is about the address, whatever path below it they were sent to. Checks may be about one
//! URL alone: two applications behind one address each have a path to check. A check whose settings are equal for
//! several URLs is made once, and its result counts for each of them.

mod check;
mod reachability;
mod schedule;
mod streak;
#[cfg(test)]
mod tests;

pub(crate) use check::ActiveCheck;
pub(crate) use reachability::UpstreamState;

use super::address::Address;
use super::connect::{Connector, SocketOptions};
use super::error::FailureLimits;
use check::CheckError;
use http::Uri;
use reachability::{MonitoredUpstream, Reachability, ReachabilityChange};
use schedule::CheckSchedule;
use sse_guard::client_key::ClientKey;
use sse_guard::internal::LogLimits;
use sse_guard::internal::lock;
use sse_guard::metrics::LogLimit;
use sse_guard::resume::{Admission, WeakAdmission};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;
use streak::{FAILURE_THRESHOLD, Streak};
use tokio::time::Instant;

/// Interval of connection attempts.
const PROBE_INTERVAL: Duration = Duration::from_secs(2);
/// An upstream that did not respond is tried again after this long.
const RETRY_AFTER: Duration = Duration::from_secs(30);
/// Time limit of a connection attempt.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// The reachability of one address; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Health(Arc<SharedHealth>);

#[derive(Debug)]
struct SharedHealth {
    address: Address,
    /// Without the socket options of requests.
    connector: Connector,
    reachability: Mutex<Reachability>,
    checks: Mutex<CheckSchedule>,
    /// Where streams wait for it.
    queues: RwLock<Vec<WeakAdmission>>,
    failure_limits: FailureLimits,
}

impl Health {
    pub(super) fn new(address: &Address, options: SocketOptions) -> Self {
        Self(Arc::new(SharedHealth {
            address: address.clone(),
            connector: Connector::new(address, options.for_checks()),
            reachability: Mutex::default(),
            checks: Mutex::default(),
            queues: RwLock::default(),
            failure_limits: LogLimits::new(LogLimit::per_kind),
        }))
    }

    pub(super) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub(super) fn failure_limits(&self) -> &FailureLimits {
        &self.0.failure_limits
    }

    /// Writes what was left out of the log so far.
    pub(super) fn summarize_log(&self) {
        self.0.failure_limits.summarize();
        let state = self.lock();
        let limits = state.upstreams.iter();
        let limits: Vec<_> = limits
            .map(|upstream| upstream.change_limit.clone())
            .collect();
        // A summary reads the state.
        drop(state);
        limits.iter().for_each(LogLimit::summarize);
    }

    /// Logs a change of reachability; the summary has the final state.
    fn log_change(
        &self,
        ReachabilityChange { url, limit }: ReachabilityChange,
        line: impl FnOnce(&Uri),
    ) {
        let (shared, upstream) = (Arc::downgrade(&self.0), url.clone());
        limit.write(
            || line(&url),
            move |not_logged| {
                let Some(shared) = shared.upgrade() else {
                    return;
                };
                let reachable = lock(&shared.reachability)
                    .upstream(&upstream)
                    .state
                    .is_reachable;
                tracing::warn!(
                    %upstream,
                    not_logged,
                    reachable,
                    "the upstream became unreachable or reachable more often than was logged"
                );
            },
        );
    }

    fn lock(&self) -> MutexGuard<'_, Reachability> {
        lock(&self.0.reachability)
    }

    /// The state of the upstream with this URL.
    pub(super) fn state(&self, url: &Uri) -> UpstreamState {
        self.lock().upstream(url).state.clone()
    }

    /// Streams wait in this queue when they have lost the upstream: they reconnect once it is back.
    pub(super) fn wakes(&self, queue: &Admission) {
        let mut queues = self
            .0
            .queues
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        // Those of previous configs are kept by their streams alone.
        let mut is_known = false;
        queues.retain(|known| {
            let known = known.upgrade();
            is_known |= known.as_ref().is_some_and(|known| known.is_same(queue));
            known.is_some()
        });
        if !is_known {
            queues.push(queue.downgrade());
        }
    }

    fn for_queues(&self, call: fn(&Admission)) {
        let queues = self.0.queues.read().unwrap_or_else(PoisonError::into_inner);
        let queues = queues.iter().filter_map(WeakAdmission::upgrade);
        queues.for_each(|queue| call(&queue));
    }

    fn wake_streams(&self) {
        self.for_queues(Admission::upstream_is_back);
    }

    /// A request to this URL got a response.
    pub(super) fn answered(&self, url: &Uri) {
        self.wake_streams();
        let mut state = self.lock();
        state.upstream(url).state.answered += 1;
        state.requests = Streak::default();
        self.welcome(state, "the upstream is back");
    }

    /// Logs the reason of those that are reachable again.
    fn welcome(&self, mut state: MutexGuard<'_, Reachability>, why: &str) {
        let back = state.settle();
        drop(state);
        for changed in back {
            self.log_change(changed, |upstream| tracing::info!(%upstream, "{why}"));
        }
    }

    /// A request to this URL got no response. `is_away` if the address could not even be connected to. Else it
    /// counts when requests of more than one client fail.
    pub(super) fn failed(
        &self,
        url: &Uri,
        failure: &impl ToString,
        is_away: bool,
        client: Option<&ClientKey>,
    ) {
        if is_away {
            self.for_queues(Admission::upstream_is_unreachable);
        }
        let failure = failure.to_string();
        let mut state = self.lock();
        state.upstream(url).state.failed += 1;
        state.is_away = is_away;
        for upstream in &mut state.upstreams {
            upstream.state.last_failure = Some(failure.clone());
        }
        let is_turn = match is_away {
            true => state.requests.grow(),
            false => state.requests.grow_by(client),
        };
        state.settle();
        if !is_turn {
            return;
        }
        let failing: Vec<_> = state
            .upstreams
            .iter()
            .map(MonitoredUpstream::changed)
            .collect();
        drop(state);
        for changed in failing {
            self.log_change(changed, |upstream| {
                tracing::warn!(
                    %upstream,
                    failure,
                    "the upstream has failed {FAILURE_THRESHOLD} requests in a row: it counts as \
                     unreachable until it responds or accepts a connection, or for {RETRY_AFTER:?}"
                );
            });
        }
    }

    fn checked(&self, check: &ActiveCheck, found: Result<(), CheckError>) {
        let error = match found {
            Ok(()) => return self.passed(check),
            Err(error) => error,
        };
        let failure = error.to_string();
        tracing::debug!(address = %self.0.address, "{failure}");
        if !error.is_upstreams() {
            return;
        }
        let mut state = self.lock();
        let mut failing = Vec::new();
        for upstream in &mut state.upstreams {
            if upstream.check.as_ref() == Some(check) {
                upstream.state.last_failure = Some(failure.clone());
                if upstream.checks.grow() {
                    failing.push(upstream.changed());
                }
            }
        }
        state.settle();
        drop(state);
        for changed in failing {
            self.log_change(changed, |upstream| {
                tracing::warn!(
                    %upstream,
                    failure,
                    "the upstream has failed {FAILURE_THRESHOLD} checks in a row \
                     (health_check.interval): it counts as unreachable until it passes one"
                );
            });
        }
    }

    fn passed(&self, check: &ActiveCheck) {
        self.wake_streams();
        let mut state = self.lock();
        for upstream in &mut state.upstreams {
            if upstream.check.as_ref() == Some(check) {
                upstream.checks = Streak::default();
            }
        }
        // An upstream that accepts connections without responding passes a check that only
        // connects. Below the threshold, failures of requests stay counted: they may be spread over
        // two checks.
        if state.requests.is_failing() && (check.requires_response() || state.is_away) {
            state.requests = Streak::default();
        }
        self.welcome(state, "the upstream passes its check again");
    }

    /// To be called each second or so, with the URLs at this address and how they are checked: runs the checks
    /// that are due, and tries to connect once requests have found it away.
    pub(super) fn probe<'a>(
        &self,
        upstreams: impl Iterator<Item = (&'a Uri, Option<&'a ActiveCheck>)> + Clone,
    ) {
        self.try_again();
        self.follow(upstreams);
        lock(&self.0.checks).start_due(Instant::now(), |check| {
            // A check keeps nothing of an upstream that has left the config, and so ends with it.
            let (health, connector) = (Arc::downgrade(&self.0), self.0.connector.clone());
            async move {
                let found = check.run(&connector).await;
                if let Some(shared) = health.upgrade() {
                    Self(shared).checked(&check, found);
                }
            }
        });
    }

    /// Forgets other URLs, and uses these settings of checks from now on.
    fn follow<'a>(
        &self,
        upstreams: impl Iterator<Item = (&'a Uri, Option<&'a ActiveCheck>)> + Clone,
    ) {
        let checks = upstreams.clone().filter_map(|(_, check)| check);
        lock(&self.0.checks).follow(checks);
        let mut state = self.lock();
        state
            .upstreams
            .retain(|known| upstreams.clone().any(|(url, _)| *url == known.url));
        for (url, check) in upstreams {
            let known = state.upstream(url);
            if known.check.as_ref() != check {
                known.check = check.cloned();
                if check.is_none() {
                    known.checks = Streak::default();
                }
            }
        }
        self.welcome(
            state,
            "health checks of the upstream are off: it counts as reachable",
        );
    }

    /// Tries to connect if requests found it unreachable: a load balancer that uses our readiness
    /// sends no request that would show that it is back.
    fn try_again(&self) {
        let mut state = self.lock();
        let is_due = state.tried.is_none_or(|at| at.elapsed() >= PROBE_INTERVAL);
        let Some(since) = state.requests.failing_since.filter(|_| is_due) else {
            return;
        };
        if !state.is_away {
            // It accepts connections without responding: only a request can show that it responds again.
            if since.elapsed() >= RETRY_AFTER {
                state.requests = Streak::default();
                self.welcome(
                    state,
                    "the upstream counts as reachable until the next failures",
                );
            }
            return;
        }
        state.tried = Some(Instant::now());
        drop(state);
        let health = self.clone();
        tokio::spawn(async move {
            let connector = health.0.connector.with_timeout(PROBE_TIMEOUT);
            let connect = connector.establish();
            if let Ok(Ok(_)) = tokio::time::timeout(PROBE_TIMEOUT, connect).await {
                health.wake_streams();
                let mut state = health.lock();
                state.requests = Streak::default();
                health.welcome(state, "the upstream accepts connections again");
            }
        });
    }
}
