//! Streams per client: a bounded table in shards, each under a lock of its own.

use super::{Limits, SeparateCounts};
use crate::client_key::ClientKey;
use crate::lock::lock;
use crate::rejection::RejectReason;
use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::time::Instant;

/// A power of two that keeps the cores off each other's locks.
const SHARDS: usize = 32;
/// Between two sweeps of a full table.
const SWEEP_PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
struct ClientEntry {
    streams: u32,
    /// Requests in flight that are not streams, or not yet.
    requests: u32,
    /// Preflights in flight.
    preflights: u32,
    /// The theoretical arrival time of the next stream: see [`Rate`](crate::rate::Rate).
    rate: Option<Instant>,
}

impl ClientEntry {
    fn in_flight(&mut self, is_preflight: bool) -> &mut u32 {
        match is_preflight {
            true => &mut self.preflights,
            false => &mut self.requests,
        }
    }

    fn is_done(&self) -> bool {
        self.streams == 0 && self.requests == 0 && self.preflights == 0
    }
}

type Shard = HashMap<ClientKey, ClientEntry>;

/// What each client holds, whatever the limits.
#[derive(Debug)]
struct ClientCounts {
    shards: [Mutex<Shard>; SHARDS],
    hasher: RandomState,
    count: AtomicUsize,
    /// Of the rate whose times are written down.
    generation: AtomicUsize,
    /// New ones since those that are done were last swept out.
    unswept: AtomicUsize,
    /// When a full table was last swept.
    swept: Mutex<Option<Instant>>,
}

impl ClientCounts {
    fn new() -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
            count: AtomicUsize::new(0),
            generation: AtomicUsize::new(0),
            unswept: AtomicUsize::new(0),
            swept: Mutex::default(),
        }
    }

    /// Calls `change` with this client's entry, which is made if there is room for one.
    fn change<T>(
        &self,
        key: &ClientKey,
        limits: &Limits,
        change: impl FnOnce(&mut ClientEntry) -> Result<T, SlotRefusal>,
    ) -> Result<T, SlotRefusal> {
        // Without this, rates of clients that went would stay until the table is full.
        if limits.rate.is_some() && self.unswept.load(Relaxed) > 1_024 {
            self.sweep();
        }
        if self.count.load(Relaxed) >= limits.max_clients {
            self.sweep_when_due();
        }
        let mut shard = self.shard(key);
        let client = match shard.get_mut(key) {
            Some(client) => client,
            None if self.count.load(Relaxed) >= limits.max_clients => {
                return Err(RejectReason::Clients.into());
            }
            None => {
                self.count.fetch_add(1, Relaxed);
                self.unswept.fetch_add(1, Relaxed);
                shard.entry(key.clone()).or_default()
            }
        };
        change(client)
    }

    /// One more of what `count` names.
    fn enter(
        &self,
        key: &ClientKey,
        limits: &Limits,
        (most, reason): (Option<u32>, RejectReason),
        count: impl Fn(&mut ClientEntry) -> &mut u32,
    ) -> Result<(), SlotRefusal> {
        self.change(key, limits, |client| {
            let count = count(client);
            if most.is_some_and(|most| *count >= most) {
                return Err(reason.into());
            }
            *count += 1;
            Ok(())
        })
    }

    /// Forgets clients that hold nothing and whose rate is as if they had never come.
    fn sweep(&self) {
        self.unswept.store(0, Relaxed);
        let now = Instant::now();
        for shard in &self.shards {
            self.forget(&mut lock(shard), |client| {
                client.rate.is_some_and(|rate| rate > now)
            });
        }
    }

    /// A sweep visits every client: while the table is full it does not run for each new one.
    fn sweep_when_due(&self) {
        let now = Instant::now();
        let due = {
            let mut last = lock(&self.swept);
            let due = last.is_none_or(|last| now.saturating_duration_since(last) >= SWEEP_PAUSE);
            if due {
                *last = Some(now);
            }
            due
        };
        if due {
            self.sweep();
        }
    }

    /// From now on times of another rate are written down.
    fn forget_rates(&self) {
        self.generation.fetch_add(1, Relaxed);
        for shard in &self.shards {
            let mut shard = lock(shard);
            shard.values_mut().for_each(|client| client.rate = None);
            self.forget(&mut shard, |_| false);
        }
    }

    fn shard(&self, key: &ClientKey) -> MutexGuard<'_, Shard> {
        let hash = self.hasher.hash_one(key);
        let index = usize::try_from(hash % SHARDS as u64).unwrap_or(0);
        lock(&self.shards[index])
    }

    /// One less of what `count` names.
    fn leave(&self, key: &ClientKey, count: impl Fn(&mut ClientEntry) -> &mut u32) {
        let mut shard = self.shard(key);
        let Some(client) = shard.get_mut(key) else {
            return;
        };
        *count(client) -= 1;
        if client.is_done() && client.rate.is_none() {
            shard.remove(key);
            self.count.fetch_sub(1, Relaxed);
            if shard.is_empty() {
                shard.shrink_to(64);
            }
        }
    }

    fn forget(&self, shard: &mut Shard, unless: impl Fn(&ClientEntry) -> bool) {
        let before = shard.len();
        shard.retain(|_, client| !client.is_done() || unless(client));
        self.count.fetch_sub(before - shard.len(), Relaxed);
        // After a burst, give the room back.
        if shard.capacity() > 64 && shard.len() < shard.capacity() / 4 {
            shard.shrink_to(64);
        }
    }
}

/// Why a slot is not granted, and the least time until one may be.
#[derive(Debug)]
pub(super) struct SlotRefusal {
    pub(super) reason: RejectReason,
    pub(super) wait: Duration,
}

impl From<RejectReason> for SlotRefusal {
    fn from(reason: RejectReason) -> Self {
        Self {
            reason,
            wait: Duration::ZERO,
        }
    }
}

/// The streams of all clients, and limits for new ones.
///
/// Each part may be counted together with other tables.
#[derive(Debug)]
pub(super) struct LimitTable {
    limits: Limits,
    /// Streams in all.
    active: Arc<AtomicU64>,
    /// Where streams, requests and rates of each client are counted: one table, unless a part is shared.
    streams: Arc<ClientCounts>,
    requests: Arc<ClientCounts>,
    rates: Arc<ClientCounts>,
    /// Of its rate. What a table whose rate was replaced still finds out is not written down.
    generation: usize,
}

impl LimitTable {
    pub(super) fn new(limits: Limits) -> Self {
        let clients = Arc::new(ClientCounts::new());
        Self {
            limits,
            active: Arc::default(),
            streams: clients.clone(),
            requests: clients.clone(),
            generation: clients.generation.load(Relaxed),
            rates: clients,
        }
    }

    /// Other limits for the same streams.
    pub(super) fn with(&self, limits: Limits) -> Self {
        if limits.rate != self.limits.rate {
            self.rates.forget_rates();
        }
        Self {
            limits,
            generation: self.rates.generation.load(Relaxed),
            ..self.shared()
        }
    }

    /// The limits of this table, and the counts of `other` but for those that are `separate`.
    pub(super) fn sharing(&self, other: &Self, separate: SeparateCounts) -> Self {
        let of = |is_own| if is_own { self } else { other };
        Self {
            limits: self.limits,
            active: of(separate.total).active.clone(),
            streams: of(separate.per_client).streams.clone(),
            requests: of(separate.requests).requests.clone(),
            rates: of(separate.rate).rates.clone(),
            generation: of(separate.rate).generation,
        }
    }

    fn shared(&self) -> Self {
        self.sharing(self, SeparateCounts::default())
    }

    /// Whether another table counts in a part of this one.
    pub(super) fn is_in_use(&self) -> bool {
        let parts = [&self.streams, &self.requests, &self.rates];
        let own = |part| parts.iter().filter(|own| Arc::ptr_eq(own, part)).count();
        Arc::strong_count(&self.active) > 1
            || parts.iter().any(|part| Arc::strong_count(part) > own(part))
    }

    pub(super) fn active(&self) -> u64 {
        self.active.load(Relaxed)
    }

    pub(super) fn clients(&self) -> usize {
        let mut all = vec![&self.streams];
        for clients in [&self.requests, &self.rates] {
            if !all.iter().any(|known| Arc::ptr_eq(known, clients)) {
                all.push(clients);
            }
        }
        let counts = all.into_iter().map(|clients| {
            clients.sweep();
            clients.count.load(Relaxed)
        });
        counts.sum()
    }

    pub(super) fn take(
        self: &Arc<Self>,
        key: Option<ClientKey>,
    ) -> Result<StreamSlot, SlotRefusal> {
        let active = self.active.fetch_add(1, Relaxed) + 1;
        // From here on what was taken is given back by drop, whatever the outcome.
        let mut slot = StreamSlot {
            table: self.clone(),
            client: None,
            counted: false,
        };
        let limits = &self.limits;
        if limits.total.is_some_and(|total| active > u64::from(total)) {
            return Err(RejectReason::Total.into());
        }
        let Some(key) = key else {
            return Ok(slot);
        };
        if limits.per_client == Some(0) {
            return Err(RejectReason::PerClient.into());
        }
        // Without a limit of its own no client needs to be known.
        if limits.per_client.is_some() || limits.rate.is_some() {
            let bound = (limits.per_client, RejectReason::PerClient);
            let streams = &self.streams;
            streams.enter(&key, limits, bound, |client| &mut client.streams)?;
            slot.counted = true;
        }
        self.take_of_rate(slot.client.insert(key))?;
        Ok(slot)
    }

    fn take_of_rate(&self, key: &ClientKey) -> Result<(), SlotRefusal> {
        let Some(rate) = self.limits.rate else {
            return Ok(());
        };
        self.rates.change(key, &self.limits, |client| {
            let is_replaced = self.rates.generation.load(Relaxed) != self.generation;
            let known = client.rate.filter(|_| !is_replaced);
            let taken = rate.take(known, Instant::now());
            let next = taken.map_err(|wait| SlotRefusal {
                reason: RejectReason::Rate,
                wait,
            })?;
            if !is_replaced {
                client.rate = Some(next);
            }
            Ok(())
        })
    }

    /// Gives back what `slot` has used up of its client's rate.
    pub(super) fn refund(&self, slot: &StreamSlot) {
        let (Some(rate), Some(key)) = (self.limits.rate, &slot.client) else {
            return;
        };
        let mut shard = self.rates.shard(key);
        if self.rates.generation.load(Relaxed) != self.generation {
            return;
        }
        if let Some(client) = shard.get_mut(key) {
            client.rate = client.rate.and_then(|cell| rate.give_back(cell));
        }
    }

    /// A request's place among its client's, if these are limited. Preflights have as many places of their
    /// own.
    pub(super) fn take_request(
        &self,
        key: Option<&ClientKey>,
        is_preflight: bool,
    ) -> Result<Option<RequestSlot>, SlotRefusal> {
        let (Some(key), Some(most)) = (key, self.limits.requests) else {
            return Ok(None);
        };
        let bound = (Some(most), RejectReason::Requests);
        self.requests.enter(key, &self.limits, bound, |client| {
            client.in_flight(is_preflight)
        })?;
        Ok(Some(RequestSlot {
            is_preflight,
            clients: self.requests.clone(),
            client: key.clone(),
        }))
    }
}

/// One request's place among its client's, given back on drop.
#[derive(Debug)]
pub(super) struct RequestSlot {
    clients: Arc<ClientCounts>,
    client: ClientKey,
    is_preflight: bool,
}

impl Drop for RequestSlot {
    fn drop(&mut self) {
        self.clients
            .leave(&self.client, |client| client.in_flight(self.is_preflight));
    }
}

/// One stream's place in the table, given back on drop.
#[derive(Debug)]
pub struct StreamSlot {
    table: Arc<LimitTable>,
    client: Option<ClientKey>,
    counted: bool,
}

impl Drop for StreamSlot {
    fn drop(&mut self) {
        self.table.active.fetch_sub(1, Relaxed);
        let Some(key) = self.client.as_ref().filter(|_| self.counted) else {
            return;
        };
        self.table.streams.leave(key, |client| &mut client.streams);
    }
}
