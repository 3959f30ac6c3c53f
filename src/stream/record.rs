//! The record of one stream, which all layers around it share.

use super::event_rate::EventRate;
use super::inject_queue::{InjectQueue, SendError};
use super::last_id::LastId;
use super::wakers::{WakerSlot, Wakers};
use super::{Details, StreamId, StreamState};
use crate::client_key::ClientKey;
use crate::event::Event;
use crate::family::Family;
use crate::lock::lock;
use crate::wire::LineEnd;
use bytes::Bytes;
use std::fmt;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::Waker;
use std::time::Duration;
use tokio::time::Instant;

/// Means "not yet" in the record's times.
pub(super) const NEVER: u64 = u64::MAX;

/// Unit of the sizes that are kept in 16 bits: they reach up to a megabyte.
const SIZE_UNIT: u64 = 16;

/// Longer event ids are not kept.
pub(crate) const MAX_ID_BYTES: usize = 256;

/// The record of one event stream.
///
/// The innermost layer on a response creates it and puts it into the response's extensions, where
/// the layers around it and the application find it. A clone is another handle to the same record.
/// Counts and times are those of the *upstream*: bytes that layers inject are not included.
#[derive(Clone)]
pub struct Stream(pub(super) Arc<StreamRecord>);

pub(super) struct StreamRecord {
    id: StreamId,
    opened: Instant,
    client: OnceLock<ClientKey>,
    names: OnceLock<StreamNames>,
    /// Names of events that do not count as activity.
    pub(super) pings: OnceLock<Arc<Vec<String>>>,
    pub(super) events: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) dropped: AtomicU32,
    pub(super) heartbeats: AtomicU32,
    pub(super) event_rate: EventRate,
    last_id: Mutex<LastId>,
    /// Bytes that the socket's send buffer had no room for, in units of [`SIZE_UNIT`].
    unsent: AtomicU16,
    /// Bytes of an incomplete event and of what is kept to resume, in units of [`SIZE_UNIT`].
    held: AtomicU16,
    pub(super) inject_queue: InjectQueue,
    /// This time and the next two are in nanoseconds since `opened`.
    pub(super) first_event: AtomicU64,
    pub(super) silent_since: AtomicU64,
    pub(super) eventless_since: AtomicU64,
    /// When to end, and in the lowest bits why: one value, so that both change at once.
    pub(super) stop: AtomicU64,
    pub(super) wakers: Wakers,
    pub(super) end: AtomicU8,
    pub(super) state: AtomicU8,
    pub(super) flags: AtomicU8,
    /// With one more flag, as the other byte has no room.
    pub(super) family: AtomicU8,
}

/// Set by the metrics layer. In one cell: a second one would not fit into the record's size class.
struct StreamNames {
    labels: Arc<StreamLabels>,
    /// For operators.
    details: Option<Details>,
}

impl StreamRecord {
    pub(super) fn labels(&self) -> Option<&Arc<StreamLabels>> {
        self.names.get().map(|names| &names.labels)
    }
}

/// Labels that all streams of a metrics layer share.
#[derive(Clone, Debug, Default)]
pub struct StreamLabels {
    /// The path of the route.
    pub route: Box<str>,
    /// The URL of the upstream.
    pub upstream: Option<Box<str>>,
    /// Streams of the route that have lost their upstream; clones count together.
    pub(crate) waiting: Arc<AtomicU64>,
}

/// Rounded up: a single byte must not count as none.
fn size_units(bytes: usize) -> u16 {
    let units = (bytes as u64).div_ceil(SIZE_UNIT);
    u16::try_from(units).unwrap_or(u16::MAX)
}

impl Stream {
    #[doc(hidden)]
    pub fn open() -> Self {
        Self(Arc::new(StreamRecord {
            id: StreamId::next(),
            opened: Instant::now(),
            client: OnceLock::new(),
            names: OnceLock::new(),
            pings: OnceLock::new(),
            events: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            dropped: AtomicU32::new(0),
            heartbeats: AtomicU32::new(0),
            event_rate: EventRate::default(),
            last_id: Mutex::default(),
            unsent: AtomicU16::new(0),
            held: AtomicU16::new(0),
            inject_queue: InjectQueue::default(),
            first_event: AtomicU64::new(NEVER),
            silent_since: AtomicU64::new(0),
            eventless_since: AtomicU64::new(0),
            stop: AtomicU64::new(NEVER),
            wakers: Wakers::default(),
            end: AtomicU8::new(u8::MAX),
            state: AtomicU8::new(StreamState::Open as u8),
            flags: AtomicU8::new(0),
            family: AtomicU8::new(Family::Raw as u8),
        }))
    }

    /// Returns the id.
    pub fn id(&self) -> StreamId {
        self.0.id
    }

    /// Returns the time of the response head; with an [early answer](crate::early), that of the request.
    pub fn opened(&self) -> Instant {
        self.0.opened
    }

    /// Returns the time since the stream [opened](Self::opened).
    pub fn age(&self) -> Duration {
        self.0.opened.elapsed()
    }

    /// Returns the client by which the connection limit counts the stream, if there is one: its address,
    /// also where the limit counts networks.
    pub fn client(&self) -> Option<&ClientKey> {
        self.0.client.get()
    }

    /// Returns the route that the metrics layer names, if one does.
    pub fn route(&self) -> Option<&str> {
        self.labels().map(|labels| &*labels.route)
    }

    /// Returns the upstream that the metrics layer names, if one does.
    pub fn upstream(&self) -> Option<&str> {
        self.labels()?.upstream.as_deref()
    }

    /// Returns the user of the stream, by the header `admin.user_header`.
    pub fn user(&self) -> Option<&str> {
        self.details()?.user()
    }

    /// Returns the bytes that are queued because the client does not read, rounded up to a multiple of 16.
    /// Known where the server of the feature `serve` writes the stream.
    pub fn unsent_bytes(&self) -> u64 {
        u64::from(self.0.unsent.load(Relaxed)) * SIZE_UNIT
    }

    /// Returns the bytes that are held for the stream: [unsent](Self::unsent_bytes), of an incomplete event, of
    /// queued events of the application, and of the state to resume it.
    pub fn held_bytes(&self) -> u64 {
        let held = u64::from(self.0.held.load(Relaxed)) * SIZE_UNIT;
        self.unsent_bytes() + held + self.0.inject_queue.bytes() as u64
    }

    /// Returns the id of the last event that had one, which the client's `Last-Event-ID` would be. `None` if it
    /// is longer than 256 bytes.
    pub fn last_event_id(&self) -> Option<String> {
        let last = lock(&self.0.last_id);
        let id = last.as_bytes();
        (!id.is_empty()).then(|| String::from_utf8_lossy(id).into_owned())
    }

    /// Stores the value of an `id` field; an empty one removes the id.
    pub(crate) fn set_last_id(&self, id: &[u8]) {
        lock(&self.0.last_id).set(id);
    }

    /// Queues an event of the application, which is sent at the stream's next event boundary. It is lost if
    /// the upstream ends first.
    ///
    /// # Errors
    ///
    /// If the stream has ended, has no [`InjectLayer`](crate::inject::InjectLayer), or 16 events
    /// are queued in it already.
    pub fn send(&self, event: &Event) -> Result<(), SendError> {
        if self.end_reason().is_some() {
            return Err(SendError::Ended);
        }
        self.0.inject_queue.push(event)?;
        self.0.wakers.wake();
        Ok(())
    }

    pub(crate) fn set_client(&self, client: ClientKey) {
        // With one limit inside another, the inner one has set it.
        let _ = self.0.client.set(client);
    }

    /// Call it before the stream is polled, while no other thread changes its state. Only the first call has an
    /// effect.
    #[doc(hidden)]
    pub fn set_names(&self, labels: &Arc<StreamLabels>, details: Option<Details>) {
        let labels = labels.clone();
        if self.0.names.set(StreamNames { labels, details }).is_ok() {
            self.0
                .count_waiting(false, self.state().has_lost_upstream());
        }
    }

    #[doc(hidden)]
    pub fn labels(&self) -> Option<&Arc<StreamLabels>> {
        self.0.labels()
    }

    #[doc(hidden)]
    pub fn details(&self) -> Option<&Details> {
        self.0.names.get()?.details.as_ref()
    }

    #[cfg(feature = "serve")]
    pub(crate) fn set_unsent(&self, bytes: usize) {
        self.0.unsent.store(size_units(bytes), Relaxed);
    }

    /// Called whenever the body is pending, so an unchanged size must cost no write.
    pub(crate) fn set_held(&self, bytes: usize) {
        let units = size_units(bytes);
        if self.0.held.load(Relaxed) != units {
            self.0.held.store(units, Relaxed);
        }
    }

    /// Lets [`send`](Self::send) succeed from now on.
    pub(crate) fn accept_injected(&self) {
        self.0.inject_queue.open();
    }

    pub(crate) fn has_injected(&self) -> bool {
        self.0.inject_queue.has_queued()
    }

    pub(crate) fn next_injected(&self, line_end: LineEnd) -> Option<Bytes> {
        self.0.inject_queue.pop(line_end)
    }

    /// Nanoseconds since the stream opened.
    pub(crate) fn nanos(&self, at: Instant) -> u64 {
        let nanos = at.saturating_duration_since(self.0.opened).as_nanos();
        u64::try_from(nanos).unwrap_or(NEVER - 1)
    }

    pub(super) fn instant(&self, nanos: u64) -> Instant {
        self.0.opened + Duration::from_nanos(nanos)
    }

    /// A slot for the task of one guard, which [`send`](Self::send) and [`stop_at`](Self::stop_at) wake.
    pub(crate) fn waker_slot(&self) -> WakerSlot {
        WakerSlot::next(&self.0.flags)
    }

    pub(crate) fn register_waker(&self, slot: WakerSlot, waker: &Waker) {
        self.0.wakers.register(slot, waker);
    }
}

/// The record of a stream that was created before its response head: by a layer inside that sends an early
/// head, for the guards around it (in the response's extensions), or by a layer outside for those inside
/// (in the request's).
#[derive(Clone)]
pub(crate) struct EarlyStream(pub(crate) Stream);

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream")
            .field("id", &self.0.id)
            .field("client", &self.client())
            .field("route", &self.route())
            .field("family", &self.family())
            .field("age", &self.age())
            .field("events", &self.events())
            .field("bytes", &self.bytes())
            .field("end_reason", &self.end_reason())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn held_bytes_are_the_sum_of_all_buffers() {
        let stream = Stream::open();
        assert_eq!(stream.held_bytes(), 0);
        stream.set_held(1);
        assert_eq!(stream.held_bytes(), 16);
        #[cfg(feature = "serve")]
        {
            stream.set_unsent(17);
            assert_eq!((stream.unsent_bytes(), stream.held_bytes()), (32, 48));
            stream.set_unsent(0);
        }
        stream.set_held(usize::MAX);
        assert_eq!(stream.held_bytes(), 16 * 0xFFFF);
        stream.set_held(0);
        stream.accept_injected();
        let event = Event::new(None, &"x".repeat(1_000)).unwrap();
        stream.send(&event).unwrap();
        assert!(stream.held_bytes() > 3_000, "{}", stream.held_bytes());
    }

    #[test]
    fn record_takes_at_most_304_bytes() {
        assert!(
            size_of::<StreamRecord>() <= 304,
            "{}",
            size_of::<StreamRecord>()
        );
    }
}
