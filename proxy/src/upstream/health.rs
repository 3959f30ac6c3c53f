//! Reachability of an upstream: from requests, from connection attempts after failures, and from
//! health checks.
//!
//! Requests and checks are judged separately, and either can mark the upstream as unreachable:
//! successful requests do not outweigh failed checks, because an upstream may respond and still take
//! itself out of service.

mod check;

pub(crate) use check::Check;

use super::connect::Connector;
use super::error::FailureLimits;
use check::{CheckError, Checks};
use http::Uri;
use sse_guard::client_key::ClientKey;
use sse_guard::internal::LogLimits;
use sse_guard::internal::lock;
use sse_guard::metrics::LogLimit;
use sse_guard::resume::{Admission, WeakAdmission};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;
use tokio::time::Instant;

/// Failures in a row that mark the upstream as unreachable.
const ENOUGH: u32 = 3;
/// Interval of connection attempts.
const PROBE_EVERY: Duration = Duration::from_secs(2);
/// An upstream that did not respond is tried again after this long.
const DOUBT: Duration = Duration::from_secs(30);
/// Time limit of a connection attempt.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// The state of one upstream; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Health(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    url: Uri,
    state: Mutex<State>,
    checks: Mutex<Checks>,
    /// Where streams wait for it.
    queues: RwLock<Vec<WeakAdmission>>,
    failure_limits: FailureLimits,
    /// Of lines about its becoming unreachable and reachable, which two clients can cause at will.
    change_limit: LogLimit,
}

/// The state of an upstream.
#[derive(Clone, Debug)]
pub(crate) struct State {
    /// Nothing has failed so far.
    pub(crate) is_reachable: bool,
    pub(crate) since: std::time::Instant,
    /// Requests that got a response, with any status.
    pub(crate) answered: u64,
    /// Requests that it did not answer.
    pub(crate) failed: u64,
    /// Of a request or a check.
    pub(crate) last_failure: Option<String>,
    requests: Streak,
    checks: Streak,
    /// It cannot be connected to, which is found out without a request.
    is_away: bool,
    tried: Option<Instant>,
}

/// Failures in a row.
#[derive(Clone, Debug, Default)]
struct Streak {
    /// That the upstream fails everybody with: it takes no connection, or fails a check.
    general: u32,
    /// Of single requests, which may be those requests' fault.
    of_requests: u32,
    clients: Clients,
    enough_since: Option<Instant>,
}

/// Clients with failed requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Clients {
    #[default]
    None,
    One(Option<ClientKey>),
    Several,
}

impl Streak {
    fn is_enough(&self) -> bool {
        self.enough_since.is_some()
    }

    /// Counts a failure that only the upstream can cause. Returns whether the threshold is reached.
    fn grow(&mut self) -> bool {
        self.general += 1;
        self.settle()
    }

    /// One more request of this client's.
    fn grow_by(&mut self, client: Option<&ClientKey>) -> bool {
        self.of_requests += 1;
        self.clients = match std::mem::take(&mut self.clients) {
            Clients::None => Clients::One(client.cloned()),
            Clients::One(known) if known.as_ref() == client => Clients::One(known),
            Clients::One(_) | Clients::Several => Clients::Several,
        };
        self.settle()
    }

    /// One client may send only requests that hang or fail: failures of one client alone are weak
    /// evidence against the upstream.
    fn settle(&mut self) -> bool {
        let of_requests = match self.clients {
            Clients::Several => self.of_requests,
            Clients::None | Clients::One(_) => 0,
        };
        let is_turn = self.general + of_requests >= ENOUGH && !self.is_enough();
        if is_turn {
            self.enough_since = Some(Instant::now());
        }
        is_turn
    }
}

impl State {
    /// Updates the state from the current rows. Returns whether it has become reachable again.
    fn settle(&mut self) -> bool {
        let is_reachable = !self.requests.is_enough() && !self.checks.is_enough();
        if is_reachable == self.is_reachable {
            return false;
        }
        self.is_reachable = is_reachable;
        self.since = std::time::Instant::now();
        is_reachable
    }
}

impl Health {
    pub(crate) fn of(url: &Uri) -> Self {
        Self(Arc::new(Shared {
            url: url.clone(),
            state: Mutex::new(State {
                is_reachable: true,
                since: std::time::Instant::now(),
                answered: 0,
                failed: 0,
                last_failure: None,
                requests: Streak::default(),
                checks: Streak::default(),
                is_away: false,
                tried: None,
            }),
            checks: Mutex::default(),
            queues: RwLock::default(),
            failure_limits: LogLimits::new(LogLimit::per_kind),
            change_limit: LogLimit::per_kind(),
        }))
    }

    pub(crate) fn url(&self) -> &Uri {
        &self.0.url
    }

    pub(super) fn failure_limits(&self) -> &FailureLimits {
        &self.0.failure_limits
    }

    /// Writes what was left out of the log so far.
    pub(crate) fn summarize_log(&self) {
        self.0.failure_limits.summarize();
        self.0.change_limit.summarize();
    }

    /// Logs a change of reachability; the summary has the final state.
    fn log_change(&self, line: impl FnOnce()) {
        let shared = Arc::downgrade(&self.0);
        self.0.change_limit.write(line, move |not_logged| {
            let Some(shared) = shared.upgrade() else {
                return;
            };
            let reachable = lock(&shared.state).is_reachable;
            tracing::warn!(
                upstream = %shared.url,
                not_logged,
                reachable,
                "the upstream became unreachable or reachable more often than was logged"
            );
        });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.0.state)
    }

    pub(crate) fn state(&self) -> State {
        self.lock().clone()
    }

    /// Streams wait in this queue when they have lost the upstream: they reconnect once it is back.
    pub(crate) fn wakes(&self, queue: &Admission) {
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

    pub(super) fn answered(&self) {
        self.wake_streams();
        let mut state = self.lock();
        state.answered += 1;
        state.requests = Streak::default();
        self.welcome(state, "the upstream is back");
    }

    /// Returns the reason if it is reachable again.
    fn welcome(&self, mut state: MutexGuard<'_, State>, why: &str) {
        let is_back = state.settle();
        drop(state);
        if is_back {
            self.log_change(|| tracing::info!(upstream = %self.0.url, "{why}"));
        }
    }

    /// `is_away` if it could not even be connected to. Else it counts when requests of more than one
    /// client fail.
    pub(super) fn failed(
        &self,
        failure: &impl ToString,
        is_away: bool,
        client: Option<&ClientKey>,
    ) {
        if is_away {
            self.for_queues(Admission::upstream_is_unreachable);
        }
        let failure = failure.to_string();
        let mut state = self.lock();
        state.failed += 1;
        state.is_away = is_away;
        state.last_failure = Some(failure.clone());
        let is_turn = match is_away {
            true => state.requests.grow(),
            false => state.requests.grow_by(client),
        };
        state.settle();
        drop(state);
        if is_turn {
            self.log_change(|| {
                tracing::warn!(
                    upstream = %self.0.url,
                    failure,
                    "the upstream has failed {ENOUGH} requests in a row: it counts as unreachable \
                     until it responds or accepts a connection, or for {DOUBT:?}"
                );
            });
        }
    }

    /// `has_answered`: passing required a response, not only a connection.
    fn checked(&self, found: Result<(), CheckError>, has_answered: bool) {
        let error = match found {
            Ok(()) => return self.passed(has_answered),
            Err(error) => error,
        };
        let failure = error.to_string();
        tracing::debug!(upstream = %self.0.url, "{failure}");
        if !error.is_upstreams() {
            return;
        }
        let mut state = self.lock();
        state.last_failure = Some(failure.clone());
        let is_turn = state.checks.grow();
        state.settle();
        drop(state);
        if is_turn {
            self.log_change(|| {
                tracing::warn!(
                upstream = %self.0.url,
                failure,
                "the upstream has failed {ENOUGH} checks in a row (health_check.interval): it counts as \
                 unreachable until it passes one"
            );
            });
        }
    }

    fn passed(&self, has_answered: bool) {
        self.wake_streams();
        let mut state = self.lock();
        state.checks = Streak::default();
        // An upstream that accepts connections without responding passes a check that only
        // connects. Below the threshold, failures of requests stay counted: they may be spread over
        // two checks.
        if state.requests.is_enough() && (has_answered || state.is_away) {
            state.requests = Streak::default();
        }
        self.welcome(state, "the upstream passes its check again");
    }

    /// To be called each second or so: checks it by `check` when that is due, and tries to connect
    /// once requests have found it away.
    pub(crate) fn probe(&self, check: Option<&Check>) {
        self.try_again();
        let mut checks = lock(&self.0.checks);
        if checks.follow(check) {
            let mut state = self.lock();
            state.checks = Streak::default();
            self.welcome(
                state,
                "health checks of the upstream are off: it counts as reachable",
            );
        }
        let Some(check) = checks.next(Instant::now()) else {
            return;
        };
        // A check keeps nothing of an upstream that has left the config, and so ends with it.
        let (health, url) = (Arc::downgrade(&self.0), self.0.url.clone());
        checks.start(async move {
            let found = check.run(&url).await;
            if let Some(shared) = health.upgrade() {
                Self(shared).checked(found, check.wants_an_answer());
            }
        });
    }

    /// Tries to connect if requests found it unreachable: a load balancer that uses our readiness
    /// sends no request that would show that it is back.
    fn try_again(&self) {
        let mut state = self.lock();
        let is_due = state.tried.is_none_or(|at| at.elapsed() >= PROBE_EVERY);
        let Some(since) = state.requests.enough_since.filter(|_| is_due) else {
            return;
        };
        if !state.is_away {
            // It accepts connections without responding: only a request can show that it responds again.
            if since.elapsed() >= DOUBT {
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
            let connector = Connector::new(&health.0.url, PROBE_TIMEOUT);
            let connect = connector.connect();
            if let Ok(Ok(_)) = tokio::time::timeout(PROBE_TIMEOUT, connect).await {
                health.wake_streams();
                let mut state = health.lock();
                state.requests = Streak::default();
                health.welcome(state, "the upstream accepts connections again");
            }
        });
    }
}

#[cfg(test)]
mod tests;
