//! The open connections of a server. Idle ones are closed when file descriptors or memory are nearly exhausted.
//!
//! A connection without a request costs its client nothing, and the server a file descriptor. It is *idle* from its
//! start until its first request's head is complete, and again after each response. An idle connection may be closed
//! at any time (RFC 9112 section 9.5); one that serves a request, a stream or a tunnel is not.

mod close_reason;
mod entry;
mod per_client;
mod shares;
#[cfg(test)]
pub(super) mod tests;

pub use close_reason::CloseReason;
pub(super) use entry::{CloseHandle, ConnectionEntry};
pub(super) use per_client::PerClientLimit;
pub use shares::ConnectionShares;

use crate::lock::lock;
use crate::log_limit::{LogLimit, LogLimits};
use entry::{CLOSING, ConnectionRecord};
use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

/// Maximum number of connections that are closed together. A batch shares the cost of the search for the oldest.
const MAX_CLOSE_BATCH: usize = 32;
/// A batch is this part of the idle connections.
const CLOSE_BATCH_DIVISOR: usize = 8;
/// How long to wait for a closed connection to be dropped, which its thread may delay.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(100);
/// Minimum idle time before a connection is closed for lack of file descriptors.
const MIN_IDLE_TIME: Duration = Duration::from_secs(1);
/// Between two log lines about closed connections.
const CLOSE_LOG_INTERVAL: Duration = Duration::from_secs(10);

/// A clone is another handle to the same connections.
#[derive(Clone, Debug)]
pub struct ConnectionRegistry(Arc<RegistryInner>);

#[derive(Debug)]
struct RegistryInner {
    start: Instant,
    /// Above this number, the oldest idle connections are closed.
    max_open: AtomicUsize,
    /// This many idle connections stay open, so that clients have time to send a request.
    min_idle: AtomicUsize,
    /// The reason of `max_open`.
    limit_reason: CloseReason,
    open: AtomicUsize,
    idle: AtomicUsize,
    table: Mutex<ConnectionTable>,
    /// Notified when a connection is dropped.
    dropped: Notify,
    log_limits: LogLimits<CloseReason>,
}

#[derive(Debug, Default)]
struct ConnectionTable {
    connections: HashMap<u64, Arc<ConnectionRecord>>,
    next_id: u64,
    /// Number of connections of each limited address.
    addresses: HashMap<IpAddr, u32>,
}

impl ConnectionTable {
    fn remove(&mut self, record: &ConnectionRecord) {
        self.connections.remove(&record.id);
        shrink(&mut self.connections);
        self.release(*lock(&record.address));
    }

    fn count(&mut self, address: Option<IpAddr>) {
        if let Some(address) = address {
            *self.addresses.entry(address).or_default() += 1;
        }
    }

    fn release(&mut self, address: Option<IpAddr>) {
        let Some(address) = address else {
            return;
        };
        let Some(count) = self.addresses.get_mut(&address) else {
            return;
        };
        *count -= 1;
        if *count == 0 {
            self.addresses.remove(&address);
            shrink(&mut self.addresses);
        }
    }
}

/// Returns the memory of a burst.
fn shrink<K: Eq + Hash, V>(map: &mut HashMap<K, V>) {
    if map.len() < map.capacity() / 4 {
        map.shrink_to(2 * map.len() + 16);
    }
}

impl Default for ConnectionRegistry {
    fn default() -> Self {
        Self::new(usize::MAX, 0, CloseReason::Files)
    }
}

impl ConnectionRegistry {
    /// Creates a registry that closes idle connections above `max_open`, except for the youngest `min_idle`.
    pub fn new(max_open: usize, min_idle: usize, limit_reason: CloseReason) -> Self {
        Self(Arc::new(RegistryInner {
            start: Instant::now(),
            max_open: AtomicUsize::new(max_open),
            min_idle: AtomicUsize::new(min_idle),
            limit_reason,
            open: AtomicUsize::new(0),
            idle: AtomicUsize::new(0),
            table: Mutex::default(),
            dropped: Notify::new(),
            log_limits: LogLimits::new(|| LogLimit::new(NonZeroU32::MIN, CLOSE_LOG_INTERVAL)),
        }))
    }

    /// Returns the number of open connections.
    pub fn open(&self) -> usize {
        self.0.open.load(Relaxed)
    }

    /// Returns the number of connections that serve no request.
    pub fn idle(&self) -> usize {
        self.0.idle.load(Relaxed)
    }

    /// Returns the number of idle connections that may be closed.
    pub fn closable(&self) -> usize {
        self.idle().saturating_sub(self.0.min_idle.load(Relaxed))
    }

    /// Changes the limits, and closes idle connections above them.
    pub fn set_limits(&self, max_open: usize, min_idle: usize) {
        self.0.max_open.store(max_open, Relaxed);
        self.0.min_idle.store(min_idle, Relaxed);
        let excess = self.open().saturating_sub(max_open).min(self.closable());
        if excess > 0 {
            self.close_oldest(excess, self.0.limit_reason);
        }
    }

    /// Closes at most `max` idle connections, the oldest first.
    fn close_oldest(&self, max: usize, reason: CloseReason) {
        let closed = self.0.close_oldest(max, u64::MAX, None);
        self.0.record_closed(reason, closed, None);
    }

    /// Closes the oldest part of the idle connections.
    pub fn close_batch(&self, reason: CloseReason) {
        match self.closable() {
            0 => {}
            closable => self.close_oldest(batch_size(closable), reason),
        }
    }

    /// Closes idle connections until another one is below `max_open`, or none may be closed.
    pub(super) async fn make_room(&self) {
        while self.0.open.load(Relaxed) >= self.0.max_open.load(Relaxed) {
            let closable = self.closable();
            let closes = self.close_and_wait(closable, u64::MAX, self.0.limit_reason);
            if closable == 0 || !closes.await {
                return;
            }
        }
    }

    /// Closes a batch of connections that have been idle for [`MIN_IDLE_TIME`], to free a file descriptor. Returns
    /// false if there are none. Younger ones stay: the kernel reports exhausted file descriptors also when no client
    /// waits, and the latest client may be about to send its request.
    pub(super) async fn free_files(&self) -> bool {
        let latest = Instant::now().checked_sub(MIN_IDLE_TIME);
        let latest = latest.and_then(|latest| latest.checked_duration_since(self.0.start));
        match latest {
            Some(latest) => {
                let latest = u64::try_from(latest.as_nanos()).unwrap_or(u64::MAX);
                self.close_and_wait(self.idle(), latest, CloseReason::Files)
                    .await
            }
            None => false,
        }
    }

    /// Closes a batch, of `count` connections, that have been idle since `latest` or longer, and waits until the first
    /// is dropped. Returns false if there are none.
    async fn close_and_wait(&self, count: usize, latest: u64, reason: CloseReason) -> bool {
        let dropped = self.0.dropped.notified();
        let mut dropped = std::pin::pin!(dropped);
        dropped.as_mut().enable();
        let closed = self.0.close_oldest(batch_size(count), latest, None);
        self.0.record_closed(reason, closed, None);
        if closed == 0 {
            return false;
        }
        let _ = timeout(CLOSE_TIMEOUT, dropped).await;
        true
    }

    /// Adds a connection. `None` if its client has reached its limit and has no idle connection that could be closed
    /// for it, or if a listener with a total has reached that.
    pub(super) fn admit(
        &self,
        peer: impl Into<Option<IpAddr>>,
        limit: &PerClientLimit,
    ) -> Option<ConnectionEntry> {
        let peer = peer.into();
        if self.0.limit_reason == CloseReason::Total && self.open() >= self.0.max_open.load(Relaxed)
        {
            self.0.record_closed(CloseReason::Total, 1, peer);
            return None;
        }
        let address = limit.address_of(peer);
        if !self.0.make_room_for(address, peer, limit) {
            return None;
        }
        let mut table = lock(&self.0.table);
        let id = table.next_id;
        table.next_id += 1;
        let record = Arc::new(ConnectionRecord {
            id,
            address: Mutex::new(address),
            client: Mutex::new(limit.client_of(peer)),
            state: AtomicU64::new(self.0.now()),
            task: Mutex::default(),
        });
        table.connections.insert(id, record.clone());
        table.count(address);
        drop(table);
        self.0.open.fetch_add(1, Relaxed);
        self.0.idle.fetch_add(1, Relaxed);
        Some(ConnectionEntry {
            record,
            registry: self.0.clone(),
        })
    }
}

/// Also for tests of the proxy.
impl ConnectionRegistry {
    /// Adds an idle connection until the result is dropped.
    pub fn admit_for_test(&self) -> impl Sized + use<> {
        let limit = PerClientLimit {
            max: None,
            ipv6_prefix: 64,
            exempt: Arc::new([]),
        };
        self.admit(IpAddr::from([192, 0, 2, 1]), &limit)
    }
}

fn batch_size(idle: usize) -> usize {
    (idle / CLOSE_BATCH_DIVISOR).clamp(1, MAX_CLOSE_BATCH)
}

impl RegistryInner {
    fn now(&self) -> u64 {
        let nanos = u64::try_from(self.start.elapsed().as_nanos());
        nanos.map_or(CLOSING - 1, |nanos| nanos.min(CLOSING - 1))
    }

    fn remove(&self, record: &ConnectionRecord) {
        lock(&self.table).remove(record);
        self.open.fetch_sub(1, Relaxed);
        self.dropped.notify_waiters();
    }

    /// Returns false if an address has reached its limit and has no idle connection that could be closed for a new one.
    fn make_room_for(
        &self,
        address: Option<IpAddr>,
        peer: Option<IpAddr>,
        limit: &PerClientLimit,
    ) -> bool {
        let (Some(address), Some(max)) = (address, limit.max) else {
            return true;
        };
        if self.connections_of(address) < max {
            return true;
        }
        // Closed connections count until they are dropped; the new one replaces them.
        let max = usize::try_from(max).unwrap_or(usize::MAX);
        let closed = self.close_oldest(batch_size(max), u64::MAX, Some(address));
        self.record_closed(CloseReason::PerClient, closed.max(1), peer);
        closed > 0
    }

    /// Counts a connection under the address of its client, which was not known when it was admitted. Returns false if
    /// that address has reached its limit.
    fn set_peer(
        &self,
        record: &ConnectionRecord,
        peer: Option<IpAddr>,
        limit: &PerClientLimit,
    ) -> bool {
        let address = limit.address_of(peer);
        if !self.make_room_for(address, peer, limit) {
            return false;
        }
        let mut table = lock(&self.table);
        let before = std::mem::replace(&mut *lock(&record.address), address);
        table.release(before);
        table.count(address);
        drop(table);
        *lock(&record.client) = limit.client_of(peer);
        true
    }

    fn connections_of(&self, address: IpAddr) -> u32 {
        let table = lock(&self.table);
        table.addresses.get(&address).copied().unwrap_or_default()
    }

    /// Closes at most `max` connections that have been idle since `latest` or longer, of one address or of all. Returns
    /// how many.
    fn close_oldest(&self, max: usize, latest: u64, address: Option<IpAddr>) -> usize {
        let table = lock(&self.table);
        let is_eligible = |record: &&Arc<ConnectionRecord>| {
            address.is_none() || *lock(&record.address) == address
        };
        let records = table.connections.values().filter(is_eligible);
        let mut idle: Vec<(u64, Arc<ConnectionRecord>)> = records
            .filter_map(|record| {
                let since = record.idle_since().filter(|since| *since <= latest)?;
                Some((since, record.clone()))
            })
            .collect();
        drop(table);
        if max < idle.len() {
            idle.select_nth_unstable_by_key(max, |(since, _)| *since);
            idle.truncate(max);
        }
        // Those that have begun a request meanwhile stay open.
        idle.retain(|(since, record)| {
            let is_closed = record.close_from(*since);
            if is_closed {
                self.idle.fetch_sub(1, Relaxed);
            }
            is_closed
        });
        idle.len()
    }

    fn record_closed(&self, reason: CloseReason, count: usize, peer: Option<IpAddr>) {
        if count == 0 {
            return;
        }
        metrics::counter!("sse_guard_connections_closed_total", "reason" => reason.as_str())
            .increment(count as u64);
        let limit = self.log_limits.of(reason);
        match limit.admit() {
            true => reason.log(count, peer),
            false => limit.suppress(count as u64, move |closed| {
                tracing::warn!(
                    closed,
                    reason = reason.as_str(),
                    "more connections were closed than were logged"
                );
            }),
        }
    }
}
