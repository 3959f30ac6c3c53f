//! The record of one stream, which all layers around it share.

use crate::client_key::ClientKey;
use atomic_waker::AtomicWaker;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::task::Waker;
use std::time::Duration;
use tokio::time::Instant;

/// Stands for "not yet" in the record's times.
const NEVER: u64 = u64::MAX;

/// Room for an [`EndReason`]; what is left of 64 bits of nanoseconds are 36 years.
const REASON_BITS: u32 = 4;
const REASON_MASK: u64 = (1 << REASON_BITS) - 1;

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// Names a stream among all of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(u64);

impl StreamId {
    /// The id that [`Display`](fmt::Display) has written.
    pub fn from_u64(id: u64) -> Self {
        Self(id)
    }

    /// As a number.
    pub fn as_u64(self) -> u64 {
        self.0
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why a stream ended. What is noticed first stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EndReason {
    /// The upstream ended it properly.
    UpstreamEnd,
    /// The upstream's body failed.
    UpstreamError,
    /// The upstream was silent for longer than the idle timeout.
    UpstreamIdle,
    /// The client went.
    ClientGone,
    /// The client stopped reading.
    ClientStalled,
    /// It had reached its maximum age.
    Rotated,
    /// All streams were asked to end.
    Drained,
    /// An operator ended it.
    Operator,
    /// The process stopped without waiting for it.
    Shutdown,
}

impl EndReason {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::UpstreamEnd,
        Self::UpstreamError,
        Self::UpstreamIdle,
        Self::ClientGone,
        Self::ClientStalled,
        Self::Rotated,
        Self::Drained,
        Self::Operator,
        Self::Shutdown,
    ];

    /// The value of the label `reason` in metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UpstreamEnd => "upstream_end",
            Self::UpstreamError => "upstream_error",
            Self::UpstreamIdle => "upstream_idle",
            Self::ClientGone => "client_gone",
            Self::ClientStalled => "client_stalled",
            Self::Rotated => "rotated",
            Self::Drained => "drained",
            Self::Operator => "operator",
            Self::Shutdown => "shutdown",
        }
    }
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One event stream: what it is and what has passed.
///
/// The innermost layer on a response makes it and puts it into the response's extensions, where
/// the layers around it and code of yours find it. A clone is another handle to the same record.
/// Of the upstream it tells what the *upstream* sent; what layers say themselves never counts.
#[derive(Clone)]
pub struct Stream(Arc<Record>);

struct Record {
    id: StreamId,
    opened: Instant,
    client: OnceLock<ClientKey>,
    route: OnceLock<Arc<str>>,
    /// Names of events that are no sign of life.
    pings: OnceLock<Arc<[String]>>,
    /// A layer inside cuts it at event boundaries already.
    aligned: AtomicBool,
    events: AtomicU64,
    bytes: AtomicU64,
    dropped: AtomicU64,
    heartbeats: AtomicU64,
    /// Times are in nanoseconds since `opened`.
    first_event: AtomicU64,
    silent_since: AtomicU64,
    eventless_since: AtomicU64,
    /// When it is asked to end, and in the lowest bits why: one value, so that both change at once.
    stop: AtomicU64,
    stop_waker: AtomicWaker,
    end: AtomicU8,
}

/// The record's counts have one writer, the body: no need for an atomic addition.
fn add(count: &AtomicU64, more: u64) {
    count.store(count.load(Relaxed) + more, Relaxed);
}

impl Stream {
    pub(crate) fn open() -> Self {
        Self(Arc::new(Record {
            id: StreamId(NEXT_ID.fetch_add(1, Relaxed)),
            opened: Instant::now(),
            client: OnceLock::new(),
            route: OnceLock::new(),
            pings: OnceLock::new(),
            aligned: AtomicBool::new(false),
            events: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            heartbeats: AtomicU64::new(0),
            first_event: AtomicU64::new(NEVER),
            silent_since: AtomicU64::new(0),
            eventless_since: AtomicU64::new(0),
            stop: AtomicU64::new(NEVER),
            stop_waker: AtomicWaker::new(),
            end: AtomicU8::new(u8::MAX),
        }))
    }

    /// Its id.
    pub fn id(&self) -> StreamId {
        self.0.id
    }

    /// When its response head came.
    pub fn opened(&self) -> Instant {
        self.0.opened
    }

    /// How long ago that was.
    pub fn age(&self) -> Duration {
        self.0.opened.elapsed()
    }

    /// Whom the connection limit counts it for, if there is one.
    pub fn client(&self) -> Option<&ClientKey> {
        self.0.client.get()
    }

    /// The route that the metrics layer names, if there is one.
    pub fn route(&self) -> Option<&str> {
        self.0.route.get().map(|route| &**route)
    }

    /// Events with data that the upstream sent.
    pub fn events(&self) -> u64 {
        self.0.events.load(Relaxed)
    }

    /// Bytes that the upstream sent.
    pub fn bytes(&self) -> u64 {
        self.0.bytes.load(Relaxed)
    }

    /// Bytes of unfinished events that were dropped when the stream failed or was ended.
    pub fn dropped_bytes(&self) -> u64 {
        self.0.dropped.load(Relaxed)
    }

    /// Heartbeats that were put in.
    pub fn heartbeats(&self) -> u64 {
        self.0.heartbeats.load(Relaxed)
    }

    /// How long after the head the first event with data came.
    pub fn time_to_first_event(&self) -> Option<Duration> {
        match self.0.first_event.load(Relaxed) {
            NEVER => None,
            nanos => Some(Duration::from_nanos(nanos)),
        }
    }

    /// Why it ended, if it has.
    pub fn end_reason(&self) -> Option<EndReason> {
        let end = usize::from(self.0.end.load(Relaxed));
        EndReason::ALL.get(end).copied()
    }

    pub(crate) fn set_client(&self, client: &ClientKey) {
        // One limit inside another: the inner one has said it.
        let _ = self.0.client.set(client.clone());
    }

    pub(crate) fn set_route(&self, route: &Arc<str>) {
        let _ = self.0.route.set(route.clone());
    }

    pub(crate) fn set_pings(&self, pings: &Arc<[String]>) {
        let _ = self.0.pings.set(pings.clone());
    }

    pub(crate) fn is_ping(&self, name: Option<&[u8]>) -> bool {
        match (self.0.pings.get(), name) {
            (Some(pings), Some(name)) => pings.iter().any(|ping| ping.as_bytes() == name),
            _ => false,
        }
    }

    /// Tells whether a layer had aligned it before, and that one does from now on.
    pub(crate) fn align(&self) -> bool {
        self.0.aligned.swap(true, Relaxed)
    }

    fn nanos(&self, at: Instant) -> u64 {
        let nanos = at.saturating_duration_since(self.0.opened).as_nanos();
        u64::try_from(nanos).unwrap_or(NEVER - 1)
    }

    fn instant(&self, nanos: u64) -> Instant {
        self.0.opened + Duration::from_nanos(nanos)
    }

    pub(crate) fn came(&self, bytes: usize, now: Instant) {
        add(&self.0.bytes, bytes as u64);
        self.0.silent_since.store(self.nanos(now), Relaxed);
    }

    /// `events` with data have come, `life` of which are no pings.
    pub(crate) fn came_events(&self, events: u64, life: u64, now: Instant) {
        if events == 0 {
            return;
        }
        let now = self.nanos(now);
        add(&self.0.events, events);
        if life > 0 {
            self.0.eventless_since.store(now, Relaxed);
        }
        if self.0.first_event.load(Relaxed) == NEVER {
            self.0.first_event.store(now, Relaxed);
        }
    }

    /// Nobody asked the upstream for so long: that time is not its silence.
    pub(crate) fn not_asked_for(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(0);
        add(&self.0.silent_since, nanos);
        add(&self.0.eventless_since, nanos);
    }

    /// Since when the upstream has sent no byte though asked.
    pub(crate) fn silent_since(&self) -> Instant {
        self.instant(self.0.silent_since.load(Relaxed))
    }

    /// Since when the upstream has sent no event with data but pings, though asked.
    pub(crate) fn eventless_since(&self) -> Instant {
        self.instant(self.0.eventless_since.load(Relaxed))
    }

    pub(crate) fn heartbeat(&self) {
        add(&self.0.heartbeats, 1);
    }

    pub(crate) fn dropped(&self, bytes: usize) {
        add(&self.0.dropped, bytes as u64);
    }

    /// Asks it to end at its next event boundary from `at` on. The earliest such wish stands.
    pub(crate) fn stop_at(&self, at: Instant, reason: EndReason) {
        let stop = self.nanos(at) << REASON_BITS | reason as u64;
        self.0.stop.fetch_min(stop, Relaxed);
        self.0.stop_waker.wake();
    }

    pub(crate) fn listen_for_stop(&self, waker: &Waker) {
        self.0.stop_waker.register(waker);
    }

    pub(crate) fn asked_to_stop(&self) -> Option<(Instant, EndReason)> {
        match self.0.stop.load(Relaxed) {
            NEVER => None,
            stop => {
                let reason = EndReason::ALL.get((stop & REASON_MASK) as usize)?;
                Some((self.instant(stop >> REASON_BITS), *reason))
            }
        }
    }

    /// Notes why it ends, unless that is known, and counts it.
    pub(crate) fn end(&self, reason: EndReason) {
        let first = self
            .0
            .end
            .compare_exchange(u8::MAX, reason as u8, Relaxed, Relaxed);
        if first.is_ok() {
            metrics::counter!("sse_guard_ends_total", "reason" => reason.as_str()).increment(1);
        }
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream")
            .field("id", &self.0.id)
            .field("client", &self.client())
            .field("route", &self.route())
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

    #[tokio::test(start_paused = true)]
    async fn the_first_reason_to_end_stands() {
        let stream = Stream::open();
        assert_eq!(stream.end_reason(), None);
        for reason in EndReason::ALL {
            stream.end(reason);
            assert_eq!(stream.end_reason(), Some(EndReason::UpstreamEnd));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_earliest_wish_to_stop_stands() {
        let stream = Stream::open();
        let at = |secs| stream.opened() + Duration::from_secs(secs);
        stream.stop_at(at(5), EndReason::Drained);
        stream.stop_at(at(3), EndReason::Operator);
        stream.stop_at(at(4), EndReason::Drained);
        assert_eq!(stream.asked_to_stop(), Some((at(3), EndReason::Operator)));
    }

    #[test]
    fn a_record_stays_small() {
        assert!(size_of::<Record>() <= 320, "{}", size_of::<Record>());
    }
}
