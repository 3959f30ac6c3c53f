//! Who holds how many streams: a bounded table in shards, each under a lock of its own.

use super::Limits;
use crate::client_key::ClientKey;
use crate::clock::{Moment, TokioClock};
use crate::lock::lock;
use crate::rejection::RejectReason;
use governor::RateLimiter;
use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::StateStore;
use governor::state::keyed::ShrinkableKeyedStateStore;
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
struct Client {
    streams: u32,
    /// Requests in flight that are no streams, or not yet.
    requests: u32,
    /// Preflights in flight.
    preflights: u32,
    /// The rate limiter's cell: the theoretical arrival time of the next stream.
    rate: Option<Nanos>,
}

impl Client {
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

type Shard = HashMap<ClientKey, Client>;

/// Streams of all clients, whatever the limits.
#[derive(Debug)]
struct Clients {
    /// Streams in all.
    active: AtomicU64,
    shards: [Mutex<Shard>; SHARDS],
    hasher: RandomState,
    count: AtomicUsize,
    /// Of the limiter whose times are written down.
    generation: AtomicUsize,
    /// New ones since those that are done were last swept out.
    unswept: AtomicUsize,
    /// When a full table was last swept.
    swept: Mutex<Option<Instant>>,
}

impl Clients {
    fn shard(&self, key: &ClientKey) -> MutexGuard<'_, Shard> {
        let hash = self.hasher.hash_one(key);
        let index = usize::try_from(hash % SHARDS as u64).unwrap_or(0);
        lock(&self.shards[index])
    }

    /// One less of what `count` names.
    fn leave(&self, key: &ClientKey, count: impl Fn(&mut Client) -> &mut u32) {
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

    fn forget(&self, shard: &mut Shard, unless: impl Fn(&Client) -> bool) {
        let before = shard.len();
        shard.retain(|_, client| !client.is_done() || unless(client));
        self.count.fetch_sub(before - shard.len(), Relaxed);
        // After a burst, give the room back.
        if shard.capacity() > 64 && shard.len() < shard.capacity() / 4 {
            shard.shrink_to(64);
        }
    }
}

/// Rates live beside the counts, so that one bound holds for both.
///
/// A limiter's times count from its own start, which another one cannot know: what one that has
/// been replaced still finds out is not written down.
#[derive(Debug)]
struct Rates {
    clients: Arc<Clients>,
    generation: usize,
}

impl StateStore for Rates {
    type Key = ClientKey;

    fn measure_and_replace<T, F, E>(&self, key: &ClientKey, f: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let mut shard = self.clients.shard(key);
        let is_replaced = self.clients.generation.load(Relaxed) != self.generation;
        let known = shard.get_mut(key).filter(|_| !is_replaced);
        let (outcome, rate) = f(known.as_ref().and_then(|client| client.rate))?;
        if let Some(client) = known {
            client.rate = Some(rate);
        }
        Ok(outcome)
    }
}

impl ShrinkableKeyedStateStore<ClientKey> for Rates {
    fn retain_recent(&self, drop_below: Nanos) {
        for shard in &self.clients.shards {
            self.clients.forget(&mut lock(shard), |client| {
                client.rate.is_some_and(|rate| rate > drop_below)
            });
        }
    }

    fn len(&self) -> usize {
        self.clients.count.load(Relaxed)
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Why there is no slot, and how long there will be none at the least.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) reason: RejectReason,
    pub(super) wait: Duration,
}

impl From<RejectReason> for Refused {
    fn from(reason: RejectReason) -> Self {
        Self {
            reason,
            wait: Duration::ZERO,
        }
    }
}

type Rate = RateLimiter<ClientKey, Rates, TokioClock, NoOpMiddleware<Moment>>;

/// The streams of all clients, and limits for new ones.
#[derive(Debug)]
pub(super) struct Table {
    limits: Limits,
    clients: Arc<Clients>,
    rate: Option<Arc<Rate>>,
    /// Of that limiter.
    generation: usize,
}

impl Table {
    pub(super) fn new(limits: Limits) -> Self {
        let clients = Arc::new(Clients {
            active: AtomicU64::new(0),
            shards: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
            count: AtomicUsize::new(0),
            generation: AtomicUsize::new(0),
            unswept: AtomicUsize::new(0),
            swept: Mutex::default(),
        });
        Self::of(clients, limits)
    }

    fn of(clients: Arc<Clients>, limits: Limits) -> Self {
        let generation = clients.generation.load(Relaxed);
        let rates = |quota| {
            let rates = Rates {
                clients: clients.clone(),
                generation,
            };
            RateLimiter::new(quota, rates, TokioClock)
        };
        Self {
            rate: limits.rate.map(|quota| Arc::new(rates(quota))),
            generation,
            clients,
            limits,
        }
    }

    /// Other limits for the same streams.
    pub(super) fn with(&self, limits: Limits) -> Self {
        if limits.rate == self.limits.rate {
            return Self {
                limits,
                clients: self.clients.clone(),
                rate: self.rate.clone(),
                generation: self.generation,
            };
        }
        self.clients.generation.fetch_add(1, Relaxed);
        for shard in &self.clients.shards {
            let mut shard = lock(shard);
            shard.values_mut().for_each(|client| client.rate = None);
            self.clients.forget(&mut shard, |_| false);
        }
        Self::of(self.clients.clone(), limits)
    }

    pub(super) fn active(&self) -> u64 {
        self.clients.active.load(Relaxed)
    }

    pub(super) fn clients(&self) -> usize {
        self.sweep();
        self.clients.count.load(Relaxed)
    }

    fn sweep(&self) {
        self.clients.unswept.store(0, Relaxed);
        if let Some(rate) = &self.rate {
            rate.retain_recent();
        }
    }

    /// A sweep looks at every client: while the table is full, not for each that comes.
    fn sweep_when_due(&self) {
        let now = Instant::now();
        let due = {
            let mut last = lock(&self.clients.swept);
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

    pub(super) fn take(&self, key: Option<ClientKey>) -> Result<Slot, Refused> {
        let active = self.clients.active.fetch_add(1, Relaxed) + 1;
        // From here on what was taken is given back by drop, whatever the outcome.
        let mut slot = Slot {
            clients: self.clients.clone(),
            client: None,
            counted: false,
        };
        if self
            .limits
            .total
            .is_some_and(|total| active > u64::from(total))
        {
            return Err(RejectReason::Total.into());
        }
        // Without a limit of its own no client needs to be known.
        let per_client = self.limits.per_client.is_some() || self.rate.is_some();
        if key.is_some() && self.limits.per_client == Some(0) {
            return Err(RejectReason::PerClient.into());
        }
        if let Some(key) = key {
            if per_client {
                let most = self.limits.per_client;
                self.count(&key, most, RejectReason::PerClient, |client| {
                    &mut client.streams
                })?;
            }
            slot.counted = per_client;
            slot.client = Some(key);
        }
        if let (Some(rate), Some(key)) = (&self.rate, &slot.client) {
            rate.check_key(key).map_err(|until| Refused {
                reason: RejectReason::Rate,
                wait: until.wait_time_from(TokioClock.now()),
            })?;
        }
        Ok(slot)
    }

    /// Gives back what `slot` has used up of its client's rate.
    pub(super) fn refund(&self, slot: &Slot) {
        let (Some(quota), Some(key)) = (self.limits.rate, &slot.client) else {
            return;
        };
        let mut shard = self.clients.shard(key);
        if self.clients.generation.load(Relaxed) != self.generation {
            return;
        }
        if let Some(client) = shard.get_mut(key) {
            let cost = Nanos::from(quota.replenish_interval());
            client.rate = client.rate.map(|rate| rate.saturating_sub(cost));
        }
    }

    /// A request's place among its client's, if these are limited. Preflights have as many places of their
    /// own.
    pub(super) fn take_request(
        &self,
        key: Option<&ClientKey>,
        is_preflight: bool,
    ) -> Result<Option<Request>, Refused> {
        let (Some(key), Some(most)) = (key, self.limits.requests) else {
            return Ok(None);
        };
        self.count(key, Some(most), RejectReason::Requests, |client| {
            client.in_flight(is_preflight)
        })?;
        Ok(Some(Request {
            is_preflight,
            clients: self.clients.clone(),
            client: key.clone(),
        }))
    }

    /// One more of what `count` names.
    fn count(
        &self,
        key: &ClientKey,
        most: Option<u32>,
        reason: RejectReason,
        count: impl Fn(&mut Client) -> &mut u32,
    ) -> Result<(), Refused> {
        // Without this, rates of clients that went would stay until the table is full.
        if self.rate.is_some() && self.clients.unswept.load(Relaxed) > 1_024 {
            self.sweep();
        }
        if self.clients.count.load(Relaxed) >= self.limits.max_clients {
            self.sweep_when_due();
        }
        let mut shard = self.clients.shard(key);
        let client = match shard.get_mut(key) {
            Some(client) => client,
            None if self.clients.count.load(Relaxed) >= self.limits.max_clients => {
                return Err(RejectReason::Clients.into());
            }
            None => {
                self.clients.count.fetch_add(1, Relaxed);
                self.clients.unswept.fetch_add(1, Relaxed);
                shard.entry(key.clone()).or_default()
            }
        };
        let count = count(client);
        if most.is_some_and(|most| *count >= most) {
            return Err(reason.into());
        }
        *count += 1;
        Ok(())
    }
}

/// One request's place among its client's, given back on drop.
#[derive(Debug)]
pub(super) struct Request {
    clients: Arc<Clients>,
    client: ClientKey,
    is_preflight: bool,
}

impl Drop for Request {
    fn drop(&mut self) {
        self.clients
            .leave(&self.client, |client| client.in_flight(self.is_preflight));
    }
}

/// One stream's place in the table, given back on drop.
#[derive(Debug)]
pub struct Slot {
    clients: Arc<Clients>,
    client: Option<ClientKey>,
    counted: bool,
}

impl Slot {
    pub(super) fn client(&self) -> Option<&ClientKey> {
        self.client.as_ref()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.clients.active.fetch_sub(1, Relaxed);
        let Some(key) = self.client.as_ref().filter(|_| self.counted) else {
            return;
        };
        self.clients.leave(key, |client| &mut client.streams);
    }
}
