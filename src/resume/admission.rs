//! Limits the reconnects of all streams of one upstream.

mod lane;
mod outage;
mod queue;
#[cfg(test)]
mod tests;

pub(super) use self::lane::Key;
pub(super) use self::queue::Failure;

use self::outage::{Line, LineLimits};
use self::queue::{Grant, Queue};
use crate::jitter::LONGEST;
use crate::lock::lock;
use crate::log_limit::{LogLimit, LogLimits};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout_at};

/// Lets the streams of an upstream reconnect one after the other, so that they do not overrun it when it
/// is back: limited in rate and in concurrency. A clone is another handle to the same queue.
///
/// Turns go round by client, and by path within a client: streams that fail, hang, are many or come back at
/// once delay those of other clients by one turn in each round. Of a client and a path whose reconnects fail, one stream probes each
/// second, or each half of it where it is alone; the first success lets all of them follow. An upstream
/// that refuses connections is probed so by one stream for all.
#[derive(Clone, Debug)]
pub struct Admission(Arc<Shared>);

/// A handle to an [`Admission`] that does not keep it.
#[doc(hidden)]
#[derive(Clone, Debug)]
pub struct WeakAdmission(Weak<Shared>);

impl WeakAdmission {
    /// The queue, while a layer or a stream uses it.
    pub fn upgrade(&self) -> Option<Admission> {
        self.0.upgrade().map(Admission)
    }
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    lines: LineLimits,
    /// Whether a connection has failed since the last answer, without the lock.
    is_suspect: AtomicBool,
    driver: Mutex<Driver>,
    sooner: Notify,
}

/// The task that gives turns out when their time comes, while there are any to wait for.
#[derive(Debug, Default)]
struct Driver {
    is_running: bool,
    wakes_at: Option<Instant>,
}

impl Default for Admission {
    /// 100 in a second, 32 at once.
    fn default() -> Self {
        Self::new(Duration::from_millis(10), 32)
    }
}

impl Admission {
    /// One reconnect after each `gap`, and at most `at_once` that wait for a quick answer, at least one.
    /// An answer that takes longer than two seconds no longer counts for that.
    pub fn new(gap: Duration, at_once: usize) -> Self {
        Self(Arc::new(Shared {
            queue: Mutex::new(Queue::new(gap.min(LONGEST), at_once.max(1))),
            lines: LogLimits::new(LogLimit::per_kind),
            is_suspect: AtomicBool::new(false),
            driver: Mutex::default(),
            sooner: Notify::new(),
        }))
    }

    /// Returns true while the upstream counts as unreachable: several connections to it failed in a
    /// row.
    pub fn is_broken(&self) -> bool {
        lock(&self.0.queue).is_away()
    }

    /// The upstream has responded to something else than a reconnect, as a plain request or a health check:
    /// streams that wait because it could not be reached reconnect now, within the rate.
    pub fn upstream_is_back(&self) {
        // For each request, so it must cost nothing.
        if self.0.is_suspect.load(Relaxed) {
            self.0.update(|queue, now, lines| queue.back(now, lines));
        }
    }

    /// A connection to the upstream has failed, as that of a plain request: once several have, streams that
    /// wait for it leave it to one of them to find out when it is back.
    pub fn upstream_is_unreachable(&self) {
        self.0
            .update(|queue, now, lines| queue.unreachable(now, lines));
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

    /// A stream is going to reconnect. One that has lost the upstream named here counts as waiting for
    /// it; one that has not gives no name.
    pub(super) fn join(&self, key: Key, lost: Option<Option<&str>>) -> Member {
        self.0.update(|queue, now, lines| {
            queue.join(key);
            if let Some(upstream) = lost {
                queue.outages.lost(upstream, now, lines);
            }
        });
        Member {
            shared: self.0.clone(),
            key,
            has_lost: lost.is_some(),
            is_resumed: false,
        }
    }
}

impl Shared {
    /// Changes the queue, and gives out the turns that are due by that.
    fn update<T>(
        self: &Arc<Self>,
        change: impl FnOnce(&mut Queue, Instant, &mut Vec<Line>) -> T,
    ) -> T {
        let (mut lines, now) = (Vec::new(), Instant::now());
        let mut queue = lock(&self.queue);
        let changed = change(&mut queue, now, &mut lines);
        let (grants, wake_at) = grants(&mut queue, now);
        self.is_suspect.store(queue.is_suspect(), Relaxed);
        drop(queue);
        for line in lines {
            line.log(&self.lines);
        }
        self.give(grants);
        if let Some(at) = wake_at {
            self.drive_at(at);
        }
        changed
    }

    /// Without the lock: who has gone meanwhile gives its turn back.
    fn give(self: &Arc<Self>, grants: Vec<Grant>) {
        for Grant { key, to, was_due } in grants {
            let turn = Turn {
                shared: self.clone(),
                key,
                was_due,
                is_held: true,
            };
            drop(to.send(turn));
        }
    }

    /// Has the driver look again at this time, or before.
    fn drive_at(self: &Arc<Self>, at: Instant) {
        let mut driver = lock(&self.driver);
        if driver.is_running {
            if driver.wakes_at.is_none_or(|wakes_at| at < wakes_at) {
                driver.wakes_at = Some(at);
                self.sooner.notify_one();
            }
            return;
        }
        // Without a runtime nobody waits either.
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        driver.is_running = true;
        driver.wakes_at = Some(at);
        drop(driver);
        runtime.spawn(drive(Running {
            shared: self.clone(),
            is_over: false,
        }));
    }
}

fn grants(queue: &mut Queue, now: Instant) -> (Vec<Grant>, Option<Instant>) {
    let mut grants = Vec::new();
    loop {
        match queue.next(now) {
            Ok(grant) => grants.push(grant),
            Err(wake_at) => return (grants, wake_at),
        }
    }
}

/// Notes that the driver has stopped when its runtime goes ahead of its end.
struct Running {
    shared: Arc<Shared>,
    is_over: bool,
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.is_over {
            *lock(&self.shared.driver) = Driver::default();
        }
    }
}

async fn drive(mut running: Running) {
    let shared = running.shared.clone();
    loop {
        let wakes_at = lock(&shared.driver).wakes_at;
        // It is set for as long as this runs.
        let at = wakes_at.unwrap_or_else(Instant::now);
        if timeout_at(at, shared.sooner.notified()).await.is_ok() {
            continue;
        }
        let mut queue = lock(&shared.queue);
        let (grants, wake_at) = grants(&mut queue, Instant::now());
        // Under the queue's lock: what changes it next finds the driver running, or gone.
        let mut driver = lock(&shared.driver);
        driver.wakes_at = wake_at;
        driver.is_running = wake_at.is_some();
        running.is_over = !driver.is_running;
        drop((driver, queue));
        shared.give(grants);
        if running.is_over {
            return;
        }
    }
}

/// A stream that is going to reconnect, for as long as it takes.
pub(super) struct Member {
    shared: Arc<Shared>,
    key: Key,
    has_lost: bool,
    is_resumed: bool,
}

impl Member {
    /// Waits for its turn. Its own backoff is over at `due`, but if `may_probe` its turn may come before
    /// that, to find out whether the upstream is back. A stream that gives up leaves no gap.
    pub(super) async fn turn(&self, due: Instant, may_probe: bool) -> Turn {
        let (to, mut turn) = oneshot::channel();
        let is_due = due <= Instant::now();
        let ticket = Ticket {
            member: self,
            number: self
                .shared
                .update(|queue, _, _| queue.push(self.key, to, is_due, may_probe)),
        };
        let mut granted = None;
        if !is_due {
            match timeout_at(due, &mut turn).await {
                Ok(turn) => granted = Some(turn),
                Err(_) => self
                    .shared
                    .update(|queue, _, _| queue.due(self.key, ticket.number)),
            }
        }
        let granted = match granted {
            Some(granted) => granted,
            None => turn.await,
        };
        // The other end stays in the queue until it has a turn to send.
        granted.unwrap_or_else(|_| Turn {
            shared: self.shared.clone(),
            key: self.key,
            was_due: true,
            is_held: false,
        })
    }

    /// Its upstream has answered: it leaves as one of those that were resumed.
    pub(super) fn resumed(mut self) {
        self.is_resumed = true;
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.shared.update(|queue, now, lines| {
            queue.leave(self.key);
            if self.has_lost {
                queue.outages.settled(self.is_resumed, now, lines);
            }
        });
    }
}

/// A place in the queue.
struct Ticket<'a> {
    member: &'a Member,
    number: u64,
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let (shared, key) = (&self.member.shared, self.member.key);
        let sender = shared.update(|queue, _, _| queue.remove(key, self.number));
        drop(sender);
    }
}

/// The right to make one attempt.
#[derive(Debug)]
pub(super) struct Turn {
    shared: Arc<Shared>,
    key: Key,
    was_due: bool,
    /// It counts as in flight.
    is_held: bool,
}

impl Turn {
    /// Whether the stream's own backoff was over. If not, it probes for all.
    pub(super) fn was_due(&self) -> bool {
        self.was_due
    }

    /// The answer takes so long that the turn is another's.
    pub(super) fn hangs(&mut self) {
        if std::mem::take(&mut self.is_held) {
            self.shared.update(|queue, _, _| queue.hangs(self.key));
        }
    }

    /// The upstream has given an answer that settles it.
    pub(super) fn succeeded(self) {
        self.shared
            .update(|queue, now, lines| queue.succeeded(self.key, now, lines));
    }

    /// It is to be tried again.
    pub(super) fn failed(self, failure: Failure) {
        self.shared
            .update(|queue, now, lines| queue.failed(self.key, failure, now, lines));
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if self.is_held {
            self.shared.update(|queue, _, _| queue.release(self.key));
        }
    }
}
