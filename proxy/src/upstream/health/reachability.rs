//! The reachability of an address, and of the upstreams there.

use super::check::ActiveCheck;
use super::streak::Streak;
use http::Uri;
use sse_guard::metrics::LogLimit;
use tokio::time::Instant;

/// What requests show of an address, and what checks show of each upstream there.
#[derive(Debug, Default)]
pub(super) struct Reachability {
    pub(super) requests: Streak,
    /// It cannot be connected to, which is found out without a request.
    pub(super) is_away: bool,
    pub(super) tried: Option<Instant>,
    /// The URLs at this address.
    pub(super) upstreams: Vec<MonitoredUpstream>,
}

/// One URL of the config.
#[derive(Debug)]
pub(super) struct MonitoredUpstream {
    pub(super) url: Uri,
    pub(super) state: UpstreamState,
    pub(super) check: Option<ActiveCheck>,
    pub(super) checks: Streak,
    /// Of lines about its becoming unreachable and reachable, which two clients can cause at will.
    pub(super) change_limit: LogLimit,
}

/// The state of an upstream as the config names it, by its URL.
#[derive(Clone, Debug)]
pub(crate) struct UpstreamState {
    /// Nothing has failed so far.
    pub(crate) is_reachable: bool,
    pub(crate) since: std::time::Instant,
    /// Requests that got a response, with any status.
    pub(crate) answered: u64,
    /// Requests that it did not answer.
    pub(crate) failed: u64,
    /// Of a request to its address, or of a check.
    pub(crate) last_failure: Option<String>,
}

/// An upstream whose reachability has changed.
pub(super) struct ReachabilityChange {
    pub(super) url: Uri,
    pub(super) limit: LogLimit,
}

impl MonitoredUpstream {
    fn new(url: &Uri, is_reachable: bool) -> Self {
        Self {
            url: url.clone(),
            state: UpstreamState {
                is_reachable,
                since: std::time::Instant::now(),
                answered: 0,
                failed: 0,
                last_failure: None,
            },
            check: None,
            checks: Streak::default(),
            change_limit: LogLimit::per_kind(),
        }
    }

    pub(super) fn changed(&self) -> ReachabilityChange {
        ReachabilityChange {
            url: self.url.clone(),
            limit: self.change_limit.clone(),
        }
    }
}

impl Reachability {
    pub(super) fn upstream(&mut self, url: &Uri) -> &mut MonitoredUpstream {
        let is_reachable = !self.requests.is_failing();
        let upstreams = &mut self.upstreams;
        let known = upstreams.iter().position(|known| known.url == *url);
        let index = known.unwrap_or_else(|| {
            upstreams.push(MonitoredUpstream::new(url, is_reachable));
            upstreams.len() - 1
        });
        &mut upstreams[index]
    }

    /// Updates the states from the current streaks. Returns those that have become reachable again.
    pub(super) fn settle(&mut self) -> Vec<ReachabilityChange> {
        let is_failing = self.requests.is_failing();
        let mut back = Vec::new();
        for upstream in &mut self.upstreams {
            let is_reachable = !is_failing && !upstream.checks.is_failing();
            if is_reachable == upstream.state.is_reachable {
                continue;
            }
            upstream.state.is_reachable = is_reachable;
            upstream.state.since = std::time::Instant::now();
            if is_reachable {
                back.push(upstream.changed());
            }
        }
        back
    }
}
