//! The live streams of an application: lists, ends, rotates, drains them and sends events into them.

use super::{ClientReconnects, EndReason, Stream, StreamId};
use crate::client_key::ClientKey;
use crate::event::Event;
use crate::jitter::{MAX_DURATION, jittered, up_to};
use crate::lock::lock;
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// Lists the live streams of the layers that share it; ends one or drains all of them; sends events into them.
///
/// A clone is another handle to the same streams. Give it to
/// [`SseGuardLayer::registry`](crate::SseGuardLayer::registry) or
/// [`RotationLayer::registry`](crate::rotation::RotationLayer::registry).
#[derive(Clone, Default)]
pub struct StreamRegistry(Arc<RegistryState>);

#[derive(Debug, Default)]
struct RegistryState {
    live: Mutex<LiveStreams>,
    empty: Notify,
    /// Set with `LiveStreams::drain`; read for each request, without the lock.
    is_draining: AtomicBool,
    drain_started: Notify,
}

#[derive(Debug, Default)]
struct LiveStreams {
    entries: HashMap<StreamId, RegistryEntry>,
    drain: Option<Drain>,
}

/// A drain that has begun.
#[derive(Clone, Copy, Debug)]
struct Drain {
    window: Duration,
    window_ends: Instant,
    /// Streams whose clients do not reconnect are broken off at this time.
    answers_end: Instant,
}

impl Drain {
    /// The reconnection delay of a client: beyond the end of the window, as an earlier reconnect would reach
    /// this process again. All clients wait for that one instant, so their reconnects are spread over another
    /// half of the window.
    fn retry(&self, retry: Duration) -> Duration {
        let left = self.window_ends.saturating_duration_since(Instant::now());
        left.saturating_add(jittered(retry))
            .saturating_add(up_to(self.window / 2))
    }
}

#[derive(Clone, Debug)]
struct RegistryEntry {
    stream: Stream,
    client_reconnects: ClientReconnects,
}

impl RegistryState {
    fn live(&self) -> MutexGuard<'_, LiveStreams> {
        lock(&self.live)
    }

    fn drain(&self) -> Option<Drain> {
        self.live().drain
    }
}

impl RegistryEntry {
    fn client_reconnects(&self) -> bool {
        self.client_reconnects.applies_to(&self.stream)
    }

    /// Streams whose clients reconnect end at random times within the window, so that the reconnects are
    /// spread; a response in pieces gets all the time there is.
    fn drain(&self, drain: &Drain) {
        let left = drain.window_ends.saturating_duration_since(Instant::now());
        let at = match self.client_reconnects() {
            true => Instant::now() + up_to(left),
            false => drain.answers_end,
        };
        self.stream.stop_at(at, EndReason::Drained);
    }
}

impl StreamRegistry {
    /// Creates a registry without streams.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends all streams within `window`, at times spread over it. A drain cannot be cancelled.
    ///
    /// Each stream ends at an event boundary, with a `retry:` line that points beyond the end of the
    /// window, where the next process is. Streams to which rotation does not apply, as their clients do
    /// not reconnect, continue to the end of the window and are broken off then; see
    /// [`drain_with`](Self::drain_with) for more time.
    ///
    /// From now on the layers with this registry admit no request for a new stream: a GET
    /// that accepts an event stream gets an empty one with such a `retry:` line, any other method a 503
    /// with `Retry-After`. The service behind the layer does not get the request. Other requests pass, so
    /// keep the listener open until [`window_over`](Self::window_over). A stream that opens nevertheless,
    /// as its request came before or did not name it, ends within the window, too.
    ///
    /// A stream whose client does not read, or that is inside an event which does not end, cannot
    /// end in time: bound the wait for [`finished`](Self::finished).
    pub fn drain(&self, window: Duration) {
        self.drain_with(window, window);
    }

    /// As [`drain`](Self::drain), but streams whose clients do not reconnect, such as the answer of a
    /// model to a POST, continue for `answers` before they are broken off. At least for `window`.
    pub fn drain_with(&self, window: Duration, answers: Duration) {
        let (now, window) = (Instant::now(), window.min(MAX_DURATION));
        let drain = Drain {
            window,
            window_ends: now + window,
            answers_end: now + answers.min(MAX_DURATION).max(window),
        };
        let mut live = self.0.live();
        live.drain = Some(drain);
        self.0.is_draining.store(true, Relaxed);
        let entries: Vec<RegistryEntry> = live.entries.values().cloned().collect();
        // A stream that is woken may be dropped at once, which takes the lock.
        drop(live);
        self.0.drain_started.notify_waiters();
        for entry in entries {
            entry.drain(&drain);
        }
    }

    /// Returns true once a drain has begun.
    pub fn is_draining(&self) -> bool {
        self.0.is_draining.load(Relaxed)
    }

    /// Completes when a drain begins.
    pub async fn drain_started(&self) {
        let started = self.0.drain_started.notified();
        if !self.is_draining() {
            started.await;
        }
    }

    /// Completes when a drain has begun and its window is over: no client is expected after that, and
    /// the listener can close.
    pub async fn window_over(&self) {
        self.drain_started().await;
        if let Some(drain) = self.0.drain() {
            sleep_until(drain.window_ends).await;
        }
    }

    /// The reconnection delay of a request for a new stream, if a drain has begun.
    pub(crate) fn drain_retry(&self, retry: Duration) -> Option<Duration> {
        if !self.is_draining() {
            return None;
        }
        self.0.drain().map(|drain| drain.retry(retry))
    }

    /// Sends an event into all live streams that accept one, see [`Stream::send`]. Returns how many did.
    pub fn send(&self, event: &Event) -> usize {
        let streams = self.streams();
        let sent = streams.iter().filter(|stream| stream.send(event).is_ok());
        sent.count()
    }

    /// Ends one stream at its next event boundary. Returns false if it is not live.
    pub fn end(&self, id: StreamId) -> bool {
        let stream = self.stream(id);
        if let Some(stream) = &stream {
            stream.stop_at(Instant::now(), EndReason::Operator);
        }
        stream.is_some()
    }

    /// Ends up to `max_streams` streams at their next event boundary as if they had reached their maximum
    /// age, to make room. Those without an event for `idle` go first, the oldest of them ahead, those that wait for
    /// their upstream last, and only streams that are subject to rotation. Returns how many will end.
    pub fn rotate(&self, max_streams: usize, idle: Duration) -> usize {
        self.rotate_matching(max_streams, idle, RegistryEntry::client_reconnects)
    }

    /// As [`rotate`](Self::rotate), but only streams of one client, of IPv6 those of its network of that
    /// length. Streams whose clients do not reconnect are included: they are broken off.
    #[doc(hidden)]
    pub fn rotate_of(
        &self,
        (network, ipv6_prefix): (&ClientKey, u8),
        max_streams: usize,
        idle: Duration,
    ) -> usize {
        self.rotate_matching(max_streams, idle, |entry| {
            let of_stream = entry.stream.client().cloned();
            of_stream.is_some_and(|client| client.network(ipv6_prefix) == *network)
        })
    }

    fn rotate_matching(
        &self,
        max_streams: usize,
        idle: Duration,
        matches: impl Fn(&RegistryEntry) -> bool,
    ) -> usize {
        let live = self.0.live();
        let may_end = |entry: &&RegistryEntry| matches(entry) && !entry.stream.is_ending();
        let mut streams: Vec<Stream> = live
            .entries
            .values()
            .filter(may_end)
            .map(|entry| entry.stream.clone())
            .collect();
        drop(live);
        let now = Instant::now();
        let order = |stream: &Stream| {
            let active_at = match stream.is_opaque() {
                true => stream.silent_since(),
                false => stream.last_event().unwrap_or(stream.opened()),
            };
            let is_busy = now.saturating_duration_since(active_at) < idle;
            // A client that reconnects while the upstream is away gets nothing there.
            (stream.state().has_lost_upstream(), is_busy, stream.opened())
        };
        if max_streams < streams.len() {
            streams.select_nth_unstable_by_key(max_streams, order);
            streams.truncate(max_streams);
        }
        for stream in &streams {
            stream.stop_at(now, EndReason::Rotated);
        }
        streams.len()
    }

    /// Ends up to `max_streams` streams that hold `min_bytes` [bytes](Stream::held_bytes) or more, the largest
    /// first, to free memory: at their next event boundary if they are subject to rotation, at once if
    /// their client does not read, which discards its unsent bytes. Returns how many.
    pub fn shed(&self, max_streams: usize, min_bytes: u64) -> usize {
        let entries: Vec<RegistryEntry> = self.0.live().entries.values().cloned().collect();
        let mut streams: Vec<(u64, Stream)> = entries
            .into_iter()
            .filter(|entry| {
                let has_unsent = entry.stream.unsent_bytes() > 0;
                has_unsent || (entry.client_reconnects() && !entry.stream.is_ending())
            })
            .map(|entry| (entry.stream.held_bytes(), entry.stream))
            .filter(|(held, _)| *held >= min_bytes)
            .collect();
        streams.sort_unstable_by_key(|(held, _)| std::cmp::Reverse(*held));
        streams.truncate(max_streams);
        for (_, stream) in &streams {
            stream.shed();
        }
        streams.len()
    }

    /// Returns the number of live streams.
    pub fn live(&self) -> usize {
        self.0.live().entries.len()
    }

    /// Returns the live stream with this id.
    pub fn stream(&self, id: StreamId) -> Option<Stream> {
        let live = self.0.live();
        live.entries.get(&id).map(|entry| entry.stream.clone())
    }

    /// Returns the live streams.
    pub fn streams(&self) -> Vec<Stream> {
        let live = self.0.live();
        live.entries
            .values()
            .map(|entry| entry.stream.clone())
            .collect()
    }

    /// Completes when no stream is live.
    pub async fn finished(&self) {
        loop {
            let empty = self.0.empty.notified();
            if self.live() == 0 {
                return;
            }
            empty.await;
        }
    }

    /// Records [`EndReason::Shutdown`] for the streams that are still live, as the process exits without
    /// waiting for them. Returns how many.
    #[doc(hidden)]
    pub fn abandon(&self) -> usize {
        let live = self.0.live();
        for entry in live.entries.values() {
            entry.stream.end(EndReason::Shutdown);
        }
        live.entries.len()
    }

    pub(crate) fn register(
        &self,
        stream: &Stream,
        client_reconnects: ClientReconnects,
    ) -> RegisteredStream {
        let entry = RegistryEntry {
            stream: stream.clone(),
            client_reconnects,
        };
        let mut live = self.0.live();
        if let Some(drain) = &live.drain {
            entry.drain(drain);
        }
        live.entries.insert(stream.id(), entry);
        RegisteredStream {
            id: stream.id(),
            registry: self.0.clone(),
        }
    }
}

impl fmt::Debug for StreamRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamRegistry")
            .field("live", &self.live())
            .finish()
    }
}

/// A stream's entry in the registry, removed on drop.
#[derive(Debug)]
pub(crate) struct RegisteredStream {
    id: StreamId,
    registry: Arc<RegistryState>,
}

impl RegisteredStream {
    /// The reconnection delay of a drained stream's client.
    pub(crate) fn retry(&self, retry: Duration) -> Duration {
        let drain = self.registry.drain();
        drain.map_or_else(|| jittered(retry), |drain| drain.retry(retry))
    }
}

impl Drop for RegisteredStream {
    fn drop(&mut self) {
        let mut live = self.registry.live();
        live.entries.remove(&self.id);
        if live.entries.is_empty() {
            // Frees the memory of a burst.
            live.entries.shrink_to(64);
            self.registry.empty.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests;
