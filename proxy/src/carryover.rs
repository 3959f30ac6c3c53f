//! What outlives a reload: open streams and connections, their numbers and limits, and the queues in which
//! they reconnect.
//!
//! New streams use the current config, open ones keep the config that they opened with. Both share this:
//! one drain, one count of each limit, one set of numbers.

use super::config::{self, Rate};
use super::ended::EndedStreams;
use super::overload::{Budgets, Holders};
use super::phase::Phases;
use super::upstream::Tunnels;
use http::Uri;
use sse_guard::StreamRegistry;
use sse_guard::client_key::ForwardedIp;
use sse_guard::connection_limit::{ConnectionLimitLayer, RejectReason};
use sse_guard::internal::LogLimits;
use sse_guard::internal::Registry;
use sse_guard::internal::lock;
use sse_guard::metrics::{LogLimit, MetricsLayer, Snapshot};
use sse_guard::resume::Admission;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard};

/// The limits of a route.
pub(super) type Limit = ConnectionLimitLayer<ForwardedIp>;

/// How fast, and how many at once.
type Pace = (Option<Rate>, NonZeroU32);

/// What outlives a reload.
#[derive(Default)]
pub(super) struct Carryover {
    pub(super) drain: StreamRegistry,
    /// Of clients.
    pub(super) connections: Registry,
    pub(super) budgets: Budgets,
    /// Connections that have switched protocols.
    pub(super) tunnels: Tunnels,
    /// Only with an admin address, which reads it.
    ended: Option<Arc<EndedStreams>>,
    /// The numbers of each path that has been a route.
    books: Mutex<Vec<(String, MetricsLayer)>>,
    /// The counts of each path that has some of its own, and those that routes share.
    limits: Mutex<Vec<(Option<String>, Limit)>>,
    /// Where streams wait to reconnect, at the rate of a config.
    queues: Mutex<Vec<(Uri, Pace, Admission)>>,
    log_limit: Mutex<Option<(Rate, LogLimit)>>,
    /// For lines about rejected requests.
    pub(super) rejections: Arc<LogLimits<RejectReason>>,
    phases: Phases,
}

impl Carryover {
    pub(super) fn new(ended: Option<Arc<EndedStreams>>) -> Self {
        Self {
            ended,
            ..Self::default()
        }
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

    fn books(&self) -> MutexGuard<'_, Vec<(String, MetricsLayer)>> {
        lock(&self.books)
    }

    /// The layer that has counted this route's streams so far, or a new one.
    pub(super) fn metrics(&self, path: &str) -> MetricsLayer {
        let mut books = self.books();
        if let Some((_, layer)) = books.iter().find(|(known, _)| known == path) {
            return layer.clone();
        }
        let mut layer = MetricsLayer::new().route(path);
        if let Some(ended) = self.ended.clone() {
            layer = layer.keep_heads().on_end(move |stream| ended.add(stream));
        }
        books.push((path.to_owned(), layer.clone()));
        layer
    }

    /// These limits, counting on where those of this path have counted.
    pub(super) fn limit(&self, path: Option<&str>, limit: Limit) -> Limit {
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
        if let Some((_, _, queue)) = known {
            return queue.clone();
        }
        let gap = resume.rate.map(|rate| rate.per / rate.count.get());
        let at_once = usize::try_from(resume.max_concurrent.get()).unwrap_or(usize::MAX);
        let queue = Admission::new(gap.unwrap_or_default(), at_once);
        queues.push((upstream.clone(), pace, queue.clone()));
        queue
    }

    /// Streams that hold a slot.
    pub(super) fn slots(&self) -> u64 {
        let limits = lock(&self.limits);
        limits.iter().map(|(_, limit)| limit.active()).sum()
    }

    /// The same for as long as the rate is.
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
        let books = self.books();
        let all = books.iter().map(|(_, layer)| layer.snapshot());
        all.fold(Snapshot::default(), |sum, route| sum + route)
    }

    pub(super) fn phases(&self) -> &Phases {
        &self.phases
    }
}
