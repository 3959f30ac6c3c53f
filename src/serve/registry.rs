//! The open connections of a server, by what they do: those that serve no request are the first to be
//! closed when files or memory run short.
//!
//! A connection without a request costs its client nothing, and a file here. So it is *idle* from its
//! start until its first request's head is complete (silent, or with a head that never ends), and
//! again from the moment its response has left. An idle one may be closed at any time (RFC 9112
//! section 9.5); one that serves a request, a stream or a tunnel never is.

mod share;

pub use share::Shares;

use crate::client_key::ClientKey;
use crate::lock::lock;
use crate::log_limit::{LogLimit, LogLimits};
use ipnet::IpNet;
use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{
    AtomicU64, AtomicUsize,
    Ordering::{AcqRel, Acquire, Relaxed},
};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout};

/// A request is served, or a stream, or a tunnel.
const IN_USE: u64 = u64::MAX;
/// The same, and it never serves another request.
const TUNNEL: u64 = u64::MAX - 1;
/// The request's response is an event stream.
const STREAM: u64 = u64::MAX - 2;
/// It is being closed. Above are those in use, below the idle ones.
const CLOSING: u64 = u64::MAX - 3;

/// Closed together at the most, so that the cost of finding the oldest is shared.
const MAX_BATCH: usize = 32;
/// Share of the idle ones that is closed at once, as a divisor.
const BATCH_DIVISOR: usize = 8;
/// A connection that is closed has gone within this, unless its thread is busy.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(100);
/// A connection is not closed for lack of a file before it has been idle for this long.
const MIN_IDLE_TIME: Duration = Duration::from_secs(1);
/// Between two log lines about connections that were closed.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Why a connection was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// Files run short.
    Files,
    /// Memory runs short.
    Memory,
    /// Its client's address has as many as it may.
    PerClient,
    /// Its listener has as many as it may.
    Total,
    /// Its client holds more than its share, and room is short.
    Share,
}

impl CloseReason {
    /// All values.
    pub const ALL: [Self; 5] = [
        Self::Files,
        Self::Memory,
        Self::PerClient,
        Self::Total,
        Self::Share,
    ];

    /// The value of the label `reason`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Files => "files",
            Self::Memory => "memory",
            Self::PerClient => "per_client",
            Self::Total => "total",
            Self::Share => "share",
        }
    }
}

/// What bounds the connections of one client address.
#[derive(Clone, Debug)]
pub(super) struct PerClient {
    /// Any number if `None`.
    pub(super) max: Option<u32>,
    pub(super) ipv6_prefix: u8,
    /// Not bounded: proxies that carry many clients.
    pub(super) exempt: Arc<[IpNet]>,
}

impl PerClient {
    /// Under which address a peer is counted, if it is.
    fn key(&self, peer: Option<IpAddr>) -> Option<IpAddr> {
        match self.max.and(self.holder(peer))? {
            ClientKey::Ip(network) => Some(network),
            ClientKey::Unix | ClientKey::Name(_) => None,
        }
    }

    /// Which client a peer is, unless it is a proxy that carries many, as those without an address
    /// are: the file of a Unix socket decides which processes connect.
    fn holder(&self, peer: Option<IpAddr>) -> Option<ClientKey> {
        let peer = peer?.to_canonical();
        let is_exempt = self.exempt.iter().any(|network| network.contains(&peer));
        (!is_exempt).then(|| ClientKey::Ip(peer).network(self.ipv6_prefix))
    }
}

/// The open connections of a server. A clone is another handle to the same ones.
#[derive(Clone, Debug)]
pub struct Registry(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    start: Instant,
    /// Above it the oldest idle ones are closed.
    max_open: AtomicUsize,
    /// So many idle ones stay: a client has to have the time to send its request.
    min_idle: AtomicUsize,
    /// Why there is such a bound.
    bounded_by: CloseReason,
    open: AtomicUsize,
    idle: AtomicUsize,
    table: Mutex<Table>,
    /// A connection has gone.
    gone: Notify,
    log: LogLimits<CloseReason>,
}

#[derive(Debug, Default)]
struct Table {
    connections: HashMap<u64, Arc<Record>>,
    next: u64,
    /// How many each address has that is bounded.
    clients: HashMap<IpAddr, u32>,
}

#[derive(Debug)]
struct Record {
    id: u64,
    client: Option<IpAddr>,
    /// Whose request it serves; the peer until that is known. `None` if nothing limits that client.
    holder: Mutex<Option<ClientKey>>,
    /// [`IN_USE`], [`TUNNEL`], [`STREAM`], [`CLOSING`], or since when it is idle, in nanoseconds from the start.
    state: AtomicU64,
    task: Mutex<Option<AbortHandle>>,
}

impl Record {
    fn idle_since(&self) -> Option<u64> {
        let state = self.state.load(Relaxed);
        (state < CLOSING).then_some(state)
    }
}

/// One connection's place in the registry, given up on drop.
#[derive(Debug)]
pub(super) struct ConnectionEntry {
    record: Arc<Record>,
    registry: Arc<Shared>,
}

/// By which a connection is closed once its task is known.
pub(super) struct Closer(Arc<Record>);

impl Closer {
    pub(super) fn task(&self, task: AbortHandle) {
        let mut known = lock(&self.0.task);
        let task = known.get_or_insert(task);
        // It may have been chosen before it was spawned.
        if self.0.state.load(Acquire) == CLOSING {
            task.abort();
        }
    }
}

impl ConnectionEntry {
    /// What closes it.
    pub(super) fn closer(&self) -> Closer {
        Closer(self.record.clone())
    }

    /// A request has come. False if the connection is being closed: the request is not to be served.
    pub(super) fn begin(&self) -> bool {
        let mut state = self.record.state.load(Acquire);
        loop {
            match state {
                CLOSING => return false,
                IN_USE | TUNNEL | STREAM => return true,
                _ => {}
            }
            let changed = self
                .record
                .state
                .compare_exchange(state, IN_USE, AcqRel, Acquire);
            match changed {
                Ok(_) => {
                    self.registry.idle.fetch_sub(1, Relaxed);
                    return true;
                }
                Err(now) => state = now,
            }
        }
    }

    /// It switches protocols, and is in use from then on.
    pub(super) fn tunnel(&self) {
        if self.begin() {
            let state = &self.record.state;
            let _ = state.compare_exchange(IN_USE, TUNNEL, AcqRel, Relaxed);
        }
    }

    /// Its response is an event stream.
    pub(super) fn stream(&self) {
        let state = &self.record.state;
        let _ = state.compare_exchange(IN_USE, STREAM, AcqRel, Relaxed);
    }

    /// It serves no request from now on, unless it is a tunnel.
    pub(super) fn idle(&self) {
        // Counted first: what closes it takes it off the count.
        self.registry.idle.fetch_add(1, Relaxed);
        let now = self.registry.now();
        let from = |state| {
            let cell = &self.record.state;
            cell.compare_exchange(state, now, AcqRel, Relaxed).is_ok()
        };
        if !from(IN_USE) && !from(STREAM) {
            self.registry.idle.fetch_sub(1, Relaxed);
        }
    }
}

impl Drop for ConnectionEntry {
    fn drop(&mut self) {
        let shared = &self.registry;
        if self.record.state.swap(CLOSING, AcqRel) < CLOSING {
            shared.idle.fetch_sub(1, Relaxed);
        }
        let mut table = lock(&shared.table);
        table.connections.remove(&self.record.id);
        if let Some(client) = self.record.client {
            table.leave(client);
        }
        if table.connections.len() < table.connections.capacity() / 4 {
            // After a burst, give the room back.
            let room = 2 * table.connections.len() + 16;
            table.connections.shrink_to(room);
        }
        drop(table);
        shared.open.fetch_sub(1, Relaxed);
        shared.gone.notify_waiters();
    }
}

impl Table {
    fn leave(&mut self, client: IpAddr) {
        let Some(count) = self.clients.get_mut(&client) else {
            return;
        };
        *count -= 1;
        if *count == 0 {
            self.clients.remove(&client);
            if self.clients.len() < self.clients.capacity() / 4 {
                let room = 2 * self.clients.len() + 16;
                self.clients.shrink_to(room);
            }
        }
    }
}

impl Default for Registry {
    fn default() -> Self {
        Self::new(usize::MAX, 0, CloseReason::Files)
    }
}

impl Registry {
    /// One that closes idle connections above `max_open`, but for the youngest `min_idle`.
    pub fn new(max_open: usize, min_idle: usize, bounded_by: CloseReason) -> Self {
        Self(Arc::new(Shared {
            start: Instant::now(),
            max_open: AtomicUsize::new(max_open),
            min_idle: AtomicUsize::new(min_idle),
            bounded_by,
            open: AtomicUsize::new(0),
            idle: AtomicUsize::new(0),
            table: Mutex::default(),
            gone: Notify::new(),
            log: LogLimits::new(|| LogLimit::new(NonZeroU32::MIN, LOG_INTERVAL)),
        }))
    }

    /// How many connections are open.
    pub fn open(&self) -> usize {
        self.0.open.load(Relaxed)
    }

    /// How many of them serve no request.
    pub fn idle(&self) -> usize {
        self.0.idle.load(Relaxed)
    }

    /// How many idle ones there are to be closed.
    pub fn closable(&self) -> usize {
        self.idle().saturating_sub(self.0.min_idle.load(Relaxed))
    }

    /// Other bounds from now on, which hold at once.
    pub fn set_bounds(&self, max_open: usize, min_idle: usize) {
        self.0.max_open.store(max_open, Relaxed);
        self.0.min_idle.store(min_idle, Relaxed);
        let excess = self.open().saturating_sub(max_open).min(self.closable());
        if excess > 0 {
            self.close_oldest(excess, self.0.bounded_by);
        }
    }

    /// Has at most `most` idle connections closed, the oldest first.
    fn close_oldest(&self, most: usize, reason: CloseReason) {
        let closed = self.0.close_oldest(most, u64::MAX, None);
        self.0.note(reason, closed, None);
    }

    /// Closes some idle connections: as many as make it worth the while to look for the oldest.
    pub fn close_some(&self, reason: CloseReason) {
        match self.closable() {
            0 => {}
            closable => self.close_oldest(batch(closable), reason),
        }
    }

    /// Until there is room for another connection, or no idle one to make some.
    pub(super) async fn make_room(&self) {
        while self.0.open.load(Relaxed) >= self.0.max_open.load(Relaxed) {
            let closable = self.closable();
            let closes = self.close_and_wait(closable, u64::MAX, self.0.bounded_by);
            if closable == 0 || !closes.await {
                return;
            }
        }
    }

    /// There is no file for another connection: closes some that have been idle for a while. False if
    /// there are none. Not the young ones: the kernel reports the want of a file also when no client
    /// waits, and the last that came may be about to send its request.
    pub(super) async fn free_files(&self) -> bool {
        let by = Instant::now().checked_sub(MIN_IDLE_TIME);
        let by = by.and_then(|by| by.checked_duration_since(self.0.start));
        match by {
            Some(by) => {
                let by = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
                self.close_and_wait(self.idle(), by, CloseReason::Files)
                    .await
            }
            None => false,
        }
    }

    /// Closes some of these that have been idle since `by`, and waits for the first to be gone. False
    /// if there are none.
    async fn close_and_wait(&self, of: usize, by: u64, reason: CloseReason) -> bool {
        let gone = self.0.gone.notified();
        let mut gone = std::pin::pin!(gone);
        gone.as_mut().enable();
        let closed = self.0.close_oldest(batch(of), by, None);
        self.0.note(reason, closed, None);
        if closed == 0 {
            return false;
        }
        let _ = timeout(CLOSE_TIMEOUT, gone).await;
        true
    }

    /// The place of a new connection, unless its client has as many as it may, none of which is idle.
    pub(super) fn admit(
        &self,
        peer: impl Into<Option<IpAddr>>,
        bounds: &PerClient,
    ) -> Option<ConnectionEntry> {
        let peer = peer.into();
        if self.0.bounded_by == CloseReason::Total && self.open() >= self.0.max_open.load(Relaxed) {
            self.0.note(CloseReason::Total, 1, peer);
            return None;
        }
        let client = bounds.key(peer);
        if let (Some(client), Some(max)) = (client, bounds.max)
            && self.0.connections_of(client) >= max
        {
            // Those that are closed still count until they are gone; the new one takes their place.
            let idle = self.0.close_oldest(batch_of(max), u64::MAX, Some(client));
            self.0.note(CloseReason::PerClient, idle.max(1), peer);
            if idle == 0 {
                return None;
            }
        }
        let mut table = lock(&self.0.table);
        let id = table.next;
        table.next += 1;
        let record = Arc::new(Record {
            id,
            client,
            holder: Mutex::new(bounds.holder(peer)),
            state: AtomicU64::new(self.0.now()),
            task: Mutex::default(),
        });
        table.connections.insert(id, record.clone());
        if let Some(client) = client {
            *table.clients.entry(client).or_default() += 1;
        }
        drop(table);
        self.0.open.fetch_add(1, Relaxed);
        self.0.idle.fetch_add(1, Relaxed);
        Some(ConnectionEntry {
            record,
            registry: self.0.clone(),
        })
    }
}

/// For tests of the proxy, too.
impl Registry {
    /// An idle connection, until it is dropped.
    pub fn admit_for_test(&self) -> impl Sized + use<> {
        let bounds = PerClient {
            max: None,
            ipv6_prefix: 64,
            exempt: Arc::new([]),
        };
        self.admit(IpAddr::from([192, 0, 2, 1]), &bounds)
    }
}

fn batch(idle: usize) -> usize {
    (idle / BATCH_DIVISOR).clamp(1, MAX_BATCH)
}

fn batch_of(max: u32) -> usize {
    batch(usize::try_from(max).unwrap_or(usize::MAX))
}

impl Shared {
    fn now(&self) -> u64 {
        let nanos = u64::try_from(self.start.elapsed().as_nanos());
        nanos.map_or(CLOSING - 1, |nanos| nanos.min(CLOSING - 1))
    }

    fn connections_of(&self, client: IpAddr) -> u32 {
        let table = lock(&self.table);
        table.clients.get(&client).copied().unwrap_or_default()
    }

    /// Of those that have been idle since `by` or longer, of one client or of all.
    fn close_oldest(&self, most: usize, by: u64, of: Option<IpAddr>) -> usize {
        let table = lock(&self.table);
        let is_wanted = |entry: &&Arc<Record>| of.is_none() || entry.client == of;
        let idle = table.connections.values().filter(is_wanted);
        let mut idle: Vec<(u64, Arc<Record>)> = idle
            .filter_map(|entry| {
                Some((
                    entry.idle_since().filter(|since| *since <= by)?,
                    entry.clone(),
                ))
            })
            .collect();
        drop(table);
        if most < idle.len() {
            idle.select_nth_unstable_by_key(most, |(since, _)| *since);
            idle.truncate(most);
        }
        idle.retain(|(since, entry)| self.close(*since, entry));
        idle.len()
    }

    /// Whether it was idle since then up to now, and is closed.
    fn close(&self, since: u64, entry: &Record) -> bool {
        let changed = entry
            .state
            .compare_exchange(since, CLOSING, AcqRel, Relaxed)
            .is_ok();
        if changed {
            self.idle.fetch_sub(1, Relaxed);
            if let Some(task) = &*lock(&entry.task) {
                task.abort();
            }
        }
        changed
    }

    fn note(&self, reason: CloseReason, count: usize, peer: Option<IpAddr>) {
        if count == 0 {
            return;
        }
        metrics::counter!("sse_guard_connections_closed_total", "reason" => reason.as_str())
            .increment(count as u64);
        let limit = self.log.of(reason);
        match limit.admit() {
            true => log_closed(reason, count, peer),
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

fn log_closed(reason: CloseReason, closed: usize, peer: Option<IpAddr>) {
    let peer = peer.map(tracing::field::display);
    match reason {
        CloseReason::PerClient => tracing::warn!(
            closed,
            peer,
            "closing connections of an address that has reached client.max_connections, the \
             oldest idle ones first"
        ),
        CloseReason::Files | CloseReason::Memory => tracing::warn!(
            closed,
            reason = reason.as_str(),
            "closing idle connections, the oldest first: {} run short",
            reason.as_str()
        ),
        CloseReason::Total => tracing::warn!(
            closed,
            peer,
            "closing connections of a listener that has reached its limit, the oldest idle ones first"
        ),
        // Its own line names the client.
        CloseReason::Share => {}
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn bounds(max: Option<u32>) -> PerClient {
        PerClient {
            max,
            ipv6_prefix: 64,
            exempt: Arc::new(["10.0.0.0/8".parse().unwrap()]),
        }
    }

    pub(super) fn admit(registry: &Registry, peer: &str, max: u32) -> Option<ConnectionEntry> {
        let connection = registry.admit(peer.parse::<IpAddr>().unwrap(), &bounds(Some(max)));
        if let Some(connection) = &connection {
            // Never to be told by time alone which is older.
            connection.begin();
            connection.idle();
        }
        connection
    }

    fn is_closing(connection: &ConnectionEntry) -> bool {
        connection.record.state.load(Relaxed) == CLOSING
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_idle_ones_go_and_none_that_serves() {
        let registry = Registry::default();
        let mut all = Vec::new();
        for _ in 0..5 {
            all.push(admit(&registry, "192.0.2.1", 100).unwrap());
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert!(all[0].begin());
        assert_eq!(registry.idle(), 4);
        assert_eq!(registry.0.close_oldest(2, u64::MAX, None), 2);
        let closing: Vec<bool> = all.iter().map(is_closing).collect();
        assert_eq!(closing, [false, true, true, false, false]);
        assert!(!all[1].begin(), "a request on a connection that is closed");
        // Idle again, it is the youngest.
        assert_eq!(registry.idle(), 2);
        all[0].idle();
        assert_eq!(registry.0.close_oldest(2, u64::MAX, None), 2);
        let closing: Vec<bool> = all.iter().map(is_closing).collect();
        assert_eq!(closing, [false, true, true, true, true]);
        assert_eq!(registry.0.close_oldest(9, u64::MAX, None), 1);
        drop(all);
        assert_eq!((registry.0.open.load(Relaxed), registry.idle()), (0, 0));
        assert!(lock(&registry.0.table).clients.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_tunnel_is_never_idle() {
        let registry = Registry::default();
        let connection = admit(&registry, "192.0.2.1", 1).unwrap();
        connection.tunnel();
        connection.idle();
        assert_eq!(registry.idle(), 0);
        assert_eq!(registry.0.close_oldest(1, u64::MAX, None), 0);
        assert!(connection.begin());
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_has_so_many_and_its_oldest_idle_one_goes_for_a_new_one() {
        let registry = Registry::default();
        let first = admit(&registry, "2001:db8::1", 2).unwrap();
        tokio::time::advance(Duration::from_millis(1)).await;
        let second = admit(&registry, "2001:db8::2", 2).unwrap();
        // Another network, another address, and a proxy that is not bounded.
        let _others = [
            "2001:db8:0:1::1",
            "192.0.2.1",
            "10.0.0.1",
            "10.0.0.1",
            "10.0.0.1",
        ]
        .map(|peer| admit(&registry, peer, 2).unwrap());
        let third = admit(&registry, "2001:db8::3", 2).unwrap();
        assert!(is_closing(&first) && !is_closing(&second));
        drop(first);
        assert!(second.begin() && third.begin());
        assert!(admit(&registry, "2001:db8::4", 2).is_none());
        drop(second);
        assert!(admit(&registry, "2001:db8::4", 2).is_some());
    }

    #[tokio::test]
    async fn room_is_made_by_closing_tasks_and_not_waited_for_when_all_serve() {
        let registry = Registry::new(2, 0, CloseReason::Total);
        for _ in 0..2 {
            let connection = admit(&registry, "192.0.2.1", 100).unwrap();
            let closer = connection.closer();
            let task = tokio::spawn(async move {
                let _connection = connection;
                std::future::pending::<()>().await;
            });
            closer.task(task.abort_handle());
        }
        registry.make_room().await;
        assert_eq!(registry.0.open.load(Relaxed), 1);
        let serving = admit(&registry, "192.0.2.1", 100).unwrap();
        serving.begin();
        registry.make_room().await;
        assert_eq!(registry.0.open.load(Relaxed), 1);
        let other = admit(&registry, "192.0.2.1", 100).unwrap();
        other.begin();
        registry.make_room().await;
        assert_eq!(registry.0.open.load(Relaxed), 2);
    }

    #[test]
    fn a_listener_with_a_total_refuses_above_it() {
        let registry = Registry::new(2, 1, CloseReason::Total);
        let all = [1, 2].map(|_| admit(&registry, "192.0.2.1", 100).unwrap());
        assert!(admit(&registry, "192.0.2.1", 100).is_none());
        drop(all);
        assert!(admit(&registry, "192.0.2.1", 100).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn the_youngest_stay_while_others_take_the_room() {
        let registry = Registry::new(2, 1, CloseReason::Files);
        let mut all: Vec<_> = (0..3)
            .map(|_| admit(&registry, "192.0.2.1", 100).unwrap())
            .collect();
        assert!(all[0].begin() && all[1].begin());
        // Over the bound; the one that could go may be about to send its request.
        registry.make_room().await;
        assert!(!is_closing(&all[2]));
        tokio::time::advance(Duration::from_millis(1)).await;
        all.push(admit(&registry, "192.0.2.1", 100).unwrap());
        assert_eq!(registry.closable(), 1);
        registry.0.close_oldest(registry.closable(), u64::MAX, None);
        assert!(is_closing(&all[2]) && !is_closing(&all[3]));
    }
}
