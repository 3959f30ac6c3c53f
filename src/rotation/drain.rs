//! The live streams, and the word to end them.

use crate::asked::ComesBack;
use crate::jitter::{LONGEST, up_to};
use crate::lock::lock;
use crate::stream::{EndReason, Stream, StreamId};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Ends the streams of the layers that share it: all over a window, or one.
///
/// A clone is another handle to the same streams.
#[derive(Clone, Default)]
pub struct DrainHandle(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    live: Mutex<Live>,
    empty: Notify,
}

#[derive(Debug, Default)]
struct Live {
    streams: HashMap<StreamId, Entry>,
    /// A drain is on, and is to be over by then.
    drained_by: Option<Instant>,
}

#[derive(Clone, Debug)]
struct Entry {
    stream: Stream,
    comes_back: ComesBack,
}

impl Shared {
    fn live(&self) -> MutexGuard<'_, Live> {
        lock(&self.live)
    }
}

impl Entry {
    /// A client that comes back goes at any time before `by`, so that not all come back at once;
    /// an answer in pieces gets all the time there is.
    fn drain(&self, by: Instant) {
        let left = by.saturating_duration_since(Instant::now());
        let at = match self.comes_back.on(&self.stream) {
            true => Instant::now() + up_to(left),
            false => by,
        };
        self.stream.stop_at(at, EndReason::Drained);
    }
}

impl DrainHandle {
    /// One without streams. Give it to layers with
    /// [`RotationLayer::drain`](super::RotationLayer::drain).
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks all streams to end within `window`, at times spread over it; streams that open
    /// later end within it, too, and for good: a drain is not taken back. Each ends at an event boundary, with a `retry:` line. Streams
    /// that rotation does not concern (whose clients do not come back) go on to the end of
    /// the window and are broken off then.
    ///
    /// A stream whose client does not read, or that is inside an event which does not end, can not
    /// end in time: bound the wait for [`finished`](Self::finished).
    pub fn drain(&self, window: Duration) {
        let by = Instant::now() + window.min(LONGEST);
        let mut live = self.0.live();
        live.drained_by = Some(by);
        let entries: Vec<Entry> = live.streams.values().cloned().collect();
        // Whoever is woken may drop its stream at once, which takes the lock.
        drop(live);
        for entry in entries {
            entry.drain(by);
        }
    }

    /// Asks one stream to end at its next event boundary. Tells whether it was there.
    pub fn end(&self, id: StreamId) -> bool {
        let stream = self.stream(id);
        if let Some(stream) = &stream {
            stream.stop_at(Instant::now(), EndReason::Operator);
        }
        stream.is_some()
    }

    /// Asks `most` streams to end at their next event boundary as if they had grown old: for when
    /// room is short. Those without an event for `idle` go first, the oldest ahead, and only streams
    /// that rotation concerns go at all. Tells how many were asked.
    pub fn rotate(&self, most: usize, idle: Duration) -> usize {
        let live = self.0.live();
        let may_go =
            |entry: &&Entry| entry.comes_back.on(&entry.stream) && !entry.stream.is_ending();
        let mut streams: Vec<Stream> = live
            .streams
            .values()
            .filter(may_go)
            .map(|entry| entry.stream.clone())
            .collect();
        drop(live);
        let now = Instant::now();
        let order = |stream: &Stream| {
            let heard = match stream.is_opaque() {
                true => stream.silent_since(),
                false => stream.last_event().unwrap_or(stream.opened()),
            };
            let is_busy = now.saturating_duration_since(heard) < idle;
            (is_busy, stream.opened())
        };
        if most < streams.len() {
            streams.select_nth_unstable_by_key(most, order);
            streams.truncate(most);
        }
        for stream in &streams {
            stream.stop_at(now, EndReason::Rotated);
        }
        streams.len()
    }

    /// How many streams are live.
    pub fn live(&self) -> usize {
        self.0.live().streams.len()
    }

    /// The live stream of this id.
    pub fn stream(&self, id: StreamId) -> Option<Stream> {
        let live = self.0.live();
        live.streams.get(&id).map(|entry| entry.stream.clone())
    }

    /// The live streams.
    pub fn streams(&self) -> Vec<Stream> {
        let live = self.0.live();
        live.streams
            .values()
            .map(|entry| entry.stream.clone())
            .collect()
    }

    /// Waits until no stream is live.
    pub async fn finished(&self) {
        loop {
            let empty = self.0.empty.notified();
            if self.live() == 0 {
                return;
            }
            empty.await;
        }
    }

    /// The process goes without waiting for the rest: notes that as their reason to end.
    #[cfg_attr(
        not(feature = "proxy"),
        allow(dead_code, reason = "the proxy's last step")
    )]
    pub(crate) fn give_up(&self) -> usize {
        let live = self.0.live();
        for entry in live.streams.values() {
            entry.stream.end(EndReason::Shutdown);
        }
        live.streams.len()
    }

    pub(super) fn register(&self, stream: &Stream, comes_back: ComesBack) -> Registered {
        let entry = Entry {
            stream: stream.clone(),
            comes_back,
        };
        let mut live = self.0.live();
        if let Some(by) = live.drained_by {
            entry.drain(by);
        }
        live.streams.insert(stream.id(), entry);
        Registered {
            id: stream.id(),
            shared: self.0.clone(),
        }
    }
}

impl fmt::Debug for DrainHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DrainHandle")
            .field("live", &self.live())
            .finish()
    }
}

/// A stream's place among the live ones, given up on drop.
#[derive(Debug)]
pub(super) struct Registered {
    id: StreamId,
    shared: Arc<Shared>,
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut live = self.shared.live();
        live.streams.remove(&self.id);
        if live.streams.is_empty() {
            // After a burst, give the room back.
            live.streams.shrink_to(64);
            self.shared.empty.notify_waiters();
        }
    }
}
