//! Reconnect admission: limits the reconnects of all streams of one upstream.
//!
//! [`AdmissionQueue`](queue::AdmissionQueue) decides whose turn it is, and gets the time from outside. This module
//! puts it behind a lock and sends the turns that it grants; [`timer`] does so when time has to pass first.

mod lane;
mod outage;
mod queue;
#[cfg(test)]
mod tests;
mod timer;
mod turn;

pub(super) use self::lane::LaneKey;
pub(super) use self::queue::AttemptFailure;
pub(super) use self::turn::{QueuedStream, Turn};

use self::outage::{OutageLogLimits, OutageLogLine};
use self::queue::{AdmissionQueue, TurnGrant};
use self::timer::GrantTimer;
use crate::jitter::MAX_DURATION;
use crate::lock::lock;
use crate::log_limit::{LogLimit, LogLimits};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;
use tokio::time::Instant;

/// Lets the streams of an upstream reconnect one after the other, so that they do not overrun it when it
/// is back: limited in rate and in concurrency. A clone is another handle to the same queue.
///
/// Turns rotate by client, and by target within a client: streams that fail, hang, are numerous or reconnect
/// immediately delay those of other clients by one turn in each round. Where the reconnects of a client and target
/// fail, one of its streams probes each second, or each half second if it is the only one; the first success lets
/// all of them follow. An upstream that refuses connections is probed likewise by one stream for all.
#[derive(Clone, Debug)]
pub struct Admission(Arc<AdmissionState>);

/// A handle to an [`Admission`] that does not keep it.
#[doc(hidden)]
#[derive(Clone, Debug)]
pub struct WeakAdmission(Weak<AdmissionState>);

impl WeakAdmission {
    /// The queue, while a layer or a stream uses it.
    pub fn upgrade(&self) -> Option<Admission> {
        self.0.upgrade().map(Admission)
    }
}

#[derive(Debug)]
struct AdmissionState {
    queue: Mutex<AdmissionQueue>,
    log_limits: OutageLogLimits,
    /// Whether a connection has failed since the last response. Read without the lock.
    has_connection_failures: AtomicBool,
    timer: GrantTimer,
}

impl Default for Admission {
    /// 100 per second, 32 at once.
    fn default() -> Self {
        Self::new(Duration::from_millis(10), 32)
    }
}

impl Admission {
    /// Admits one reconnect per `interval`, and at most `max_concurrent`, at least one, that wait for a response.
    /// One without a response for two seconds no longer counts as concurrent.
    pub fn new(interval: Duration, max_concurrent: usize) -> Self {
        let queue = AdmissionQueue::new(interval.min(MAX_DURATION), max_concurrent.max(1));
        Self(Arc::new(AdmissionState {
            queue: Mutex::new(queue),
            log_limits: LogLimits::new(LogLimit::per_kind),
            has_connection_failures: AtomicBool::new(false),
            timer: GrantTimer::default(),
        }))
    }

    /// Returns true while the upstream counts as unreachable: several connections to it failed in a
    /// row.
    pub fn is_broken(&self) -> bool {
        lock(&self.0.queue).is_unreachable()
    }

    /// Records that the upstream has responded to a request other than a reconnect, such as a plain request or a
    /// health check: streams that wait because it was unreachable reconnect now, within the rate.
    pub fn upstream_is_back(&self) {
        // Called for each request: without failures it takes no lock.
        if self.0.has_connection_failures.load(Relaxed) {
            self.0
                .update(|queue, now, lines| queue.upstream_reachable(now, lines));
        }
    }

    /// Records that a connection to the upstream has failed, such as that of a plain request. After several of them
    /// only one of the waiting streams probes the upstream.
    pub fn upstream_is_unreachable(&self) {
        self.0
            .update(|queue, now, lines| queue.connection_failed(now, lines));
    }

    /// A handle that does not keep the queue.
    #[doc(hidden)]
    pub fn downgrade(&self) -> WeakAdmission {
        WeakAdmission(Arc::downgrade(&self.0))
    }

    /// Whether both are handles to one queue.
    #[doc(hidden)]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Adds a stream that is about to reconnect. One that has lost the upstream `lost` is counted in the outage;
    /// one with `None` has not lost its upstream.
    pub(super) fn join(&self, key: LaneKey, lost: Option<Option<&str>>) -> QueuedStream {
        self.0.update(|queue, now, lines| {
            queue.join(key);
            if let Some(upstream) = lost {
                queue.outages.lost(upstream, now, lines);
            }
        });
        QueuedStream::new(self.0.clone(), key, lost.is_some())
    }
}

impl AdmissionState {
    /// Changes the queue, and grants the turns that are due after the change.
    fn update<T>(
        self: &Arc<Self>,
        change: impl FnOnce(&mut AdmissionQueue, Instant, &mut Vec<OutageLogLine>) -> T,
    ) -> T {
        let (mut lines, now) = (Vec::new(), Instant::now());
        let mut queue = lock(&self.queue);
        let changed = change(&mut queue, now, &mut lines);
        let (grants, next_at) = queue.grants(now);
        let has_failures = queue.has_connection_failures();
        self.has_connection_failures.store(has_failures, Relaxed);
        drop(queue);
        for line in lines {
            line.log(&self.log_limits);
        }
        self.send_grants(grants);
        if let Some(at) = next_at {
            self.wake_timer_at(at);
        }
        changed
    }

    /// Must be called without the queue's lock: a turn that its stream does not receive locks it to return itself.
    fn send_grants(self: &Arc<Self>, grants: Vec<TurnGrant>) {
        for TurnGrant { key, to, was_due } in grants {
            let turn = Turn::granted(self.clone(), key, was_due);
            drop(to.send(turn));
        }
    }
}
