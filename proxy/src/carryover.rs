//! What outlives a reload: open streams and connections, their numbers and limits, and the queues in which
//! they reconnect. Endpoints of upstreams pass from router to router: see [`Endpoints`](super::upstream::Endpoints).
//!
//! New streams use the current config, open ones keep the config that they opened with. Both share this:
//! one drain, one count of each limit, one set of numbers.

use super::acme::HttpChallenges;
use super::client_keys::ClientKeys;
use super::config::{self, Rate};
use super::ended::EndedStreams;
use super::overload::{Budgets, Holders};
use super::phase::Phases;
use super::upstream::Tunnels;
use http::Uri;
use sse_guard::StreamRegistry;
use sse_guard::connection_limit::{ConnectionLimitLayer, RejectReason};
use sse_guard::internal::LogLimits;
use sse_guard::internal::lock;
use sse_guard::internal::{ConnectionGroup, ConnectionRegistry};
use sse_guard::metrics::{LogLimit, MetricsLayer, Snapshot};
use sse_guard::resume::{Admission, WeakAdmission};
use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard};

/// The limits of a route.
pub(super) type RouteLimit = ConnectionLimitLayer<ClientKeys>;

/// The rate of reconnects, and how many may be under way at once.
type ReconnectPace = (Option<Rate>, NonZeroU32);

/// What outlives a reload.
#[derive(Default)]
pub(super) struct Carryover {
    pub(super) drain: StreamRegistry,
    /// Of clients.
    pub(super) connections: ConnectionRegistry,
    pub(super) budgets: Budgets,
    /// Connections that have switched protocols.
    pub(super) tunnels: Tunnels,
    /// Only with an admin address, which reads it.
    ended: Option<Arc<EndedStreams>>,
    numbers: Mutex<RouteMetricsLayers>,
    /// The counts of each path that has some of its own, and those that routes share.
    limits: Mutex<Vec<(Option<String>, RouteLimit)>>,
    /// Where streams wait to reconnect, at the rate of a config. Routes and streams keep them.
    queues: Mutex<Vec<(Uri, ReconnectPace, WeakAdmission)>>,
    /// The connections of each listener by its name, also of those that are closed.
    groups: Mutex<Vec<(Arc<str>, Arc<ConnectionGroup>)>>,
    log_limit: Mutex<Option<(Rate, LogLimit)>>,
    /// For lines about rejected requests.
    pub(super) rejections: Arc<LogLimits<RejectReason>>,
    phases: Phases,
    /// Of orders of certificates.
    pub(super) http_challenges: Arc<HttpChallenges>,
}

/// The numbers of routes.
#[derive(Debug, Default)]
struct RouteMetricsLayers {
    by_path: Vec<(String, MetricsLayer)>,
    /// The sums of routes that are gone.
    gone: Snapshot,
}

impl Carryover {
    pub(super) fn new(ended: Option<Arc<EndedStreams>>) -> Self {
        Self {
            ended,
            ..Self::default()
        }
    }

    /// These are the listeners from now on.
    pub(super) fn set_listeners(
        &self,
        current: impl IntoIterator<Item = (Arc<str>, Arc<ConnectionGroup>)>,
    ) {
        let current: Vec<_> = current.into_iter().collect();
        let mut groups = lock(&self.groups);
        groups.retain(|(_, group)| {
            let stays = current.iter().any(|(_, other)| Arc::ptr_eq(group, other));
            !stays && group.open() > 0
        });
        groups.extend(current);
    }

    /// The open connections of each listener, by its name. A closed one is among them until its last connection
    /// ends.
    pub(super) fn connections_by_listener(&self) -> BTreeMap<Arc<str>, usize> {
        let mut counts = BTreeMap::new();
        for (name, group) in lock(&self.groups).iter() {
            *counts.entry(name.clone()).or_default() += group.open();
        }
        counts
    }

    /// What gives way when room is short.
    pub(super) fn holders(&self, ipv6_prefix: u8) -> Holders<'_> {
        Holders {
            connections: &self.connections,
            tunnels: &self.tunnels,
            streams: &self.drain,
            ipv6_prefix,
        }
    }

    fn numbers(&self) -> MutexGuard<'_, RouteMetricsLayers> {
        lock(&self.numbers)
    }

    /// Forgets what neither a route nor a stream uses any more; the numbers of routes that are gone stay in the
    /// sums. Call it after a reload, once the config before is dropped.
    pub(super) fn prune(&self) {
        let mut numbers = self.numbers();
        let RouteMetricsLayers { by_path, gone } = &mut *numbers;
        for (_, layer) in by_path.extract_if(.., |(_, layer)| !layer.is_in_use()) {
            *gone = std::mem::take(gone) + layer.snapshot();
        }
        drop(numbers);
        lock(&self.limits).retain(|(path, limit)| path.is_none() || limit.is_in_use());
        lock(&self.queues).retain(|(_, _, queue)| queue.upgrade().is_some());
    }

    /// The layer that has counted this route's streams so far, or a new one.
    pub(super) fn metrics(&self, path: &str) -> MetricsLayer {
        let by_path = &mut self.numbers().by_path;
        if let Some((_, layer)) = by_path.iter().find(|(known, _)| known == path) {
            return layer.clone();
        }
        let mut layer = MetricsLayer::new().route(path);
        if let Some(ended) = self.ended.clone() {
            layer = layer.keep_heads().on_end(move |stream| ended.add(stream));
        }
        by_path.push((path.to_owned(), layer.clone()));
        layer
    }

    /// These limits, counting on where those of this path have counted.
    pub(super) fn limit(&self, path: Option<&str>, limit: RouteLimit) -> RouteLimit {
        let mut limits = lock(&self.limits);
        let known = limits
            .iter_mut()
            .find(|(known, _)| known.as_deref() == path);
        match known {
            Some((_, known)) => {
                *known = limit.counting_with(known);
                known.clone()
            }
            None => {
                limits.push((path.map(str::to_owned), limit.clone()));
                limit
            }
        }
    }

    /// The queue of all streams that have lost this upstream.
    pub(super) fn queue(&self, upstream: &Uri, resume: &config::Resume) -> Admission {
        let pace = (resume.rate, resume.max_concurrent);
        let mut queues = lock(&self.queues);
        let known = queues
            .iter()
            .find(|(url, known, _)| url == upstream && *known == pace);
        if let Some(queue) = known.and_then(|(_, _, queue)| queue.upgrade()) {
            return queue;
        }
        let gap = resume.rate.map(|rate| rate.per / rate.count.get());
        let at_once = usize::try_from(resume.max_concurrent.get()).unwrap_or(usize::MAX);
        let queue = Admission::new(gap.unwrap_or_default(), at_once);
        queues.push((upstream.clone(), pace, queue.downgrade()));
        queue
    }

    /// How many routes have metrics, how many have counts, and how many queues there are.
    #[cfg(test)]
    pub(super) fn entries(&self) -> [usize; 3] {
        [
            self.numbers().by_path.len(),
            lock(&self.limits).len(),
            lock(&self.queues).len(),
        ]
    }

    /// Streams that hold a slot.
    pub(super) fn slots(&self) -> u64 {
        let limits = lock(&self.limits);
        limits.iter().map(|(_, limit)| limit.active()).sum()
    }

    /// One limit for as long as the rate stays.
    pub(super) fn log_limit(&self, rate: Option<Rate>) -> Option<LogLimit> {
        let rate = rate?;
        let mut known = lock(&self.log_limit);
        if let Some((_, limit)) = known.as_ref().filter(|(known, _)| *known == rate) {
            return Some(limit.clone());
        }
        let limit = LogLimit::new(rate.count, rate.per);
        *known = Some((rate, limit.clone()));
        Some(limit)
    }

    pub(super) fn ended(&self) -> Option<&Arc<EndedStreams>> {
        self.ended.as_ref()
    }

    /// The numbers of all routes that there have been.
    pub(super) fn snapshot(&self) -> Snapshot {
        let numbers = self.numbers();
        let all = numbers.by_path.iter().map(|(_, layer)| layer.snapshot());
        all.fold(numbers.gone.clone(), |sum, route| sum + route)
    }

    pub(super) fn phases(&self) -> &Phases {
        &self.phases
    }
}
