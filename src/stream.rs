//! The record of one stream, which all layers around it share.

mod details;
mod end_reason;
mod fault;
mod last_id;
mod mail;
mod pace;
mod state;
mod wakers;

pub use details::{Details, RequestDetails, RequestHead, ResponseHead, User};
pub use end_reason::EndReason;
pub use fault::UpstreamFault;
pub use mail::{Message, SendError};
pub use state::StreamState;
pub(crate) use wakers::Slot;

use crate::client_key::ClientKey;
use crate::family::{Family, is_keepalive};
use crate::lock::lock;
use crate::wire::{LineEnd, RawEvent};
use bytes::Bytes;
use last_id::LastId;
use mail::Mailbox;
use metrics::{Counter, Label};
use pace::Pace;
use std::fmt;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::Waker;
use std::time::Duration;
use tokio::time::Instant;
use wakers::Wakers;

/// A longer id of an event is not kept.
pub(crate) const LONGEST_ID: usize = 256;

/// Stands for "not yet" in the record's times.
const NEVER: u64 = u64::MAX;

/// Room for an [`EndReason`]; what is left of 64 bits of nanoseconds are 36 years.
const REASON_BITS: u32 = 4;
const REASON_MASK: u64 = (1 << REASON_BITS) - 1;

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// Identifies a stream within this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(u64);

impl StreamId {
    /// Converts from the number that [`Display`](fmt::Display) prints.
    pub fn from_u64(id: u64) -> Self {
        Self(id)
    }

    /// Returns the id as a number.
    pub fn as_u64(self) -> u64 {
        self.0
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The record of one event stream.
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
    names: OnceLock<Names>,
    /// Names of events that are no sign of life.
    pings: OnceLock<Arc<Vec<String>>>,
    events: AtomicU64,
    bytes: AtomicU64,
    dropped: AtomicU32,
    heartbeats: AtomicU32,
    pace: Pace,
    last_id: Mutex<LastId>,
    /// What waits for room in the kernel, in units of [`HELD_UNIT`].
    unsent: AtomicU16,
    /// What layers keep of it, in the same: of an event that is not whole, or to go on after
    /// a loss.
    held: AtomicU16,
    mail: Mailbox,
    /// Times are in nanoseconds since `opened`.
    first_event: AtomicU64,
    silent_since: AtomicU64,
    eventless_since: AtomicU64,
    /// When it is asked to end, and in the lowest bits why: one value, so that both change at once.
    stop: AtomicU64,
    /// Of the tasks that poll it, for an end or a message.
    wakers: Wakers,
    end: AtomicU8,
    state: AtomicU8,
    /// What holds for the whole of it, a bit each.
    flags: AtomicU8,
    /// And [`SHED`].
    family: AtomicU8,
}

/// A layer inside cuts it at event boundaries already.
const ALIGNED: u8 = 1;
/// Bytes that are held are counted in these, of which 16 bits make a megabyte.
const HELD_UNIT: u64 = 16;
/// A layer inside watches for its upstream's silence.
const WATCHED: u8 = 1 << 1;
/// Its bytes tell nothing of events.
const OPAQUE: u8 = 1 << 2;
/// Its family is as somebody has said, whatever comes.
const FAMILY_SAID: u8 = 1 << 3;
/// A layer goes by its events.
const EVENT_CLOCK: u8 = 1 << 4;
/// The bits above count the slots of wakers that are taken.
const FLAG_BITS: u32 = 5;
const _: () =
    assert!(ALIGNED | WATCHED | OPAQUE | FAMILY_SAID | EVENT_CLOCK == (1 << FLAG_BITS) - 1);
/// Its memory is needed: it is not to wait for its client any longer. A bit of the family's byte.
const SHED: u8 = 1 << 7;

/// What the metrics layer sets. In one cell: a second one would not fit into the record's size class.
struct Names {
    labels: Arc<Labels>,
    /// For operators.
    details: Option<Details>,
}

/// What all streams of a metrics layer have in common.
#[derive(Clone, Debug, Default)]
pub struct Labels {
    /// The route's path.
    pub route: Box<str>,
    /// Its upstream's URL.
    pub upstream: Option<Box<str>>,
    /// Streams of the route that have lost their upstream; clones count together.
    pub(crate) waiting: Arc<AtomicU64>,
}

/// Rounded up, so that something is not nothing.
fn held_units(bytes: usize) -> u16 {
    let units = (bytes as u64).div_ceil(HELD_UNIT);
    u16::try_from(units).unwrap_or(u16::MAX)
}

/// The record's counts have one writer, the body: no need for an atomic addition.
fn add(count: &AtomicU64, more: u64) {
    count.store(count.load(Relaxed) + more, Relaxed);
}

impl Stream {
    #[doc(hidden)]
    pub fn open() -> Self {
        Self(Arc::new(Record {
            id: StreamId(NEXT_ID.fetch_add(1, Relaxed)),
            opened: Instant::now(),
            client: OnceLock::new(),
            names: OnceLock::new(),
            pings: OnceLock::new(),
            events: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            dropped: AtomicU32::new(0),
            heartbeats: AtomicU32::new(0),
            pace: Pace::default(),
            last_id: Mutex::default(),
            unsent: AtomicU16::new(0),
            held: AtomicU16::new(0),
            mail: Mailbox::default(),
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

    /// Returns when the response head came; with an [early answer](crate::early), when the request
    /// came.
    pub fn opened(&self) -> Instant {
        self.0.opened
    }

    /// Returns the time since the stream [opened](Self::opened).
    pub fn age(&self) -> Duration {
        self.0.opened.elapsed()
    }

    /// Its client as the connection limit knows it, if there is one: by its address, also where the limit
    /// counts networks.
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

    /// The user of the stream, by the header `admin.user_header`.
    pub fn user(&self) -> Option<&str> {
        self.details()?.user()
    }

    /// Returns the number of events with data that the upstream sent.
    pub fn events(&self) -> u64 {
        self.0.events.load(Relaxed)
    }

    /// Returns the number of bytes that the upstream sent.
    pub fn bytes(&self) -> u64 {
        self.0.bytes.load(Relaxed)
    }

    /// Bytes of unfinished events that were dropped when the stream failed or was ended.
    pub fn dropped_bytes(&self) -> u64 {
        self.0.dropped.load(Relaxed).into()
    }

    /// Returns the number of heartbeats that were sent.
    pub fn heartbeats(&self) -> u64 {
        self.0.heartbeats.load(Relaxed).into()
    }

    /// Events with data that came in a second, about the mean of the last ten.
    pub fn events_per_second(&self) -> f32 {
        self.0.pace.per_second(self.nanos(Instant::now()))
    }

    /// Returns when the last event with data came.
    pub fn last_event(&self) -> Option<Instant> {
        self.0.pace.last_event().map(|nanos| self.instant(nanos))
    }

    /// The time that 99 % of the pauses between events were not longer than, to a factor of two;
    /// nothing before the second event.
    pub fn gap_p99(&self) -> Option<Duration> {
        self.0.pace.gap_p99()
    }

    /// The id of the last event that had one, with which its client would come back. Nothing if it
    /// is longer than 256 bytes.
    pub fn last_event_id(&self) -> Option<String> {
        let last = lock(&self.0.last_id);
        let id = last.as_bytes();
        (!id.is_empty()).then(|| String::from_utf8_lossy(id).into_owned())
    }

    /// Bytes that wait because its client does not read, rounded up to a multiple of 16, where the server of the feature `serve`
    /// writes them.
    pub fn unsent_bytes(&self) -> u64 {
        u64::from(self.0.unsent.load(Relaxed)) * HELD_UNIT
    }

    /// Bytes that are held for it: [unsent](Self::unsent_bytes), of an event that is not whole yet, of
    /// events that wait to be put in, and what is remembered to resume it.
    pub fn held_bytes(&self) -> u64 {
        let held = u64::from(self.0.held.load(Relaxed)) * HELD_UNIT;
        self.unsent_bytes() + held + self.0.mail.bytes() as u64
    }

    /// Returns true once the stream has been ordered to end.
    pub fn is_ending(&self) -> bool {
        self.0.stop.load(Relaxed) != NEVER
    }

    /// Sends an event of the application into the stream, at its next event boundary. It is not there
    /// yet when this is back, and is lost if the upstream ends first.
    ///
    /// # Errors
    ///
    /// If the stream has ended, has no [`InjectLayer`](crate::inject::InjectLayer), or 16 events
    /// wait in it already.
    pub fn send(&self, message: &Message) -> Result<(), SendError> {
        if self.end_reason().is_some() {
            return Err(SendError::Ended);
        }
        self.0.mail.put(message)?;
        self.0.wakers.wake();
        Ok(())
    }

    /// How long after it [opened](Self::opened) the first event with data came that is more than a sign
    /// of life.
    pub fn time_to_first_event(&self) -> Option<Duration> {
        match self.0.first_event.load(Relaxed) {
            NEVER => None,
            nanos => Some(Duration::from_nanos(nanos)),
        }
    }

    /// Returns the state between client and upstream.
    pub fn state(&self) -> StreamState {
        if self.end_reason().is_some() {
            return StreamState::Closed;
        }
        let state = usize::from(self.0.state.load(Relaxed));
        StreamState::ALL
            .get(state)
            .copied()
            .unwrap_or(StreamState::Open)
    }

    /// Streams that wait for their upstream are counted, all others pass by this for free. One that has
    /// ended waits no more.
    pub(crate) fn set_state(&self, state: StreamState) {
        let state = match self.end_reason() {
            Some(_) => StreamState::Closed,
            None => state,
        };
        let before = self.0.state.swap(state as u8, Relaxed);
        if before == state as u8 {
            return;
        }
        if let Some(before) = StreamState::ALL.get(usize::from(before)) {
            count(*before, -1.0);
            let (before, now) = (before.has_lost_upstream(), state.has_lost_upstream());
            self.0.count_waiting(before, now);
        }
        count(state, 1.0);
    }

    /// Returns why the stream ended, if it has.
    pub fn end_reason(&self) -> Option<EndReason> {
        let end = self.0.end.load(Relaxed) & REASON_MASK as u8;
        EndReason::ALL.get(usize::from(end)).copied()
    }

    /// How its upstream failed, if it ended by [`EndReason::UpstreamError`].
    pub fn upstream_fault(&self) -> Option<UpstreamFault> {
        let fault = usize::from(self.0.end.load(Relaxed) >> REASON_BITS);
        UpstreamFault::ALL.get(fault.checked_sub(1)?).copied()
    }

    pub(crate) fn set_client(&self, client: ClientKey) {
        // One limit inside another: the inner one has set it.
        let _ = self.0.client.set(client);
    }

    /// To be called before the stream is polled, where no other thread changes its state. The first call counts.
    #[doc(hidden)]
    pub fn set_names(&self, labels: &Arc<Labels>, details: Option<Details>) {
        let labels = labels.clone();
        if self.0.names.set(Names { labels, details }).is_ok() {
            self.0
                .count_waiting(false, self.state().has_lost_upstream());
        }
    }

    #[doc(hidden)]
    pub fn labels(&self) -> Option<&Arc<Labels>> {
        self.0.names.get().map(|names| &names.labels)
    }

    #[doc(hidden)]
    pub fn details(&self) -> Option<&Details> {
        self.0.names.get()?.details.as_ref()
    }

    #[cfg(feature = "serve")]
    pub(crate) fn set_unsent(&self, bytes: usize) {
        self.0.unsent.store(held_units(bytes), Relaxed);
    }

    /// To be called while it waits for more: costs nothing if it is as it was.
    pub(crate) fn set_held(&self, bytes: usize) {
        let units = held_units(bytes);
        if self.0.held.load(Relaxed) != units {
            self.0.held.store(units, Relaxed);
        }
    }

    /// Ends it to free its memory: at its next event boundary, or at once if its client does not read.
    pub(crate) fn shed(&self) {
        self.0.family.fetch_or(SHED, Relaxed);
        self.stop_at(Instant::now(), EndReason::Rotated);
    }

    /// Whether it is to end though its client does not read.
    #[cfg(feature = "serve")]
    pub(crate) fn is_shed(&self) -> bool {
        self.0.family.load(Relaxed) & SHED != 0
    }

    /// An `id` field has come, perhaps to take the id away.
    pub(crate) fn set_last_id(&self, id: &[u8]) {
        lock(&self.0.last_id).set(id);
    }

    /// From now on messages are taken.
    pub(crate) fn take_mail(&self) {
        self.0.mail.open();
    }

    pub(crate) fn has_mail(&self) -> bool {
        self.0.mail.is_waiting()
    }

    pub(crate) fn next_mail(&self, line_end: LineEnd) -> Option<Bytes> {
        self.0.mail.next(line_end)
    }

    pub(crate) fn set_pings(&self, pings: &Arc<Vec<String>>) {
        let _ = self.0.pings.set(pings.clone());
    }

    /// Whether an event just says that the upstream is there.
    pub(crate) fn is_ping(&self, event: &RawEvent<'_>) -> bool {
        let is_named = match (self.0.pings.get(), event.name) {
            (Some(pings), Some(name)) => pings.iter().any(|ping| ping.as_bytes() == name),
            _ => false,
        };
        is_named || is_keepalive(event, self.family())
    }

    /// The family of the stream: by its request, until its first event shows more.
    pub fn family(&self) -> Family {
        let family = usize::from(self.0.family.load(Relaxed) & !SHED);
        Family::ALL.get(family).copied().unwrap_or(Family::Raw)
    }

    #[doc(hidden)]
    pub fn set_family(&self, family: Family, is_said: bool) {
        self.store_family(family);
        if is_said {
            self.set(FAMILY_SAID);
        }
    }

    /// The first event with data has come.
    pub(crate) fn learn(&self, event: &RawEvent<'_>) {
        if self.is(FAMILY_SAID) || !event.has_data {
            return;
        }
        if let Some(family) = self.family().learnt_from(event) {
            self.store_family(family);
        }
    }

    /// A layer goes by the time since the last event that is more than a sign of life.
    pub(crate) fn set_event_clock(&self) {
        self.set(EVENT_CLOCK);
    }

    /// Whether a layer goes by that time, as one may for any answer of a model. Else there is no need to
    /// look at each event.
    pub(crate) fn has_event_clock(&self) -> bool {
        self.is(EVENT_CLOCK) || self.family().is_model_api()
    }

    /// Its upstream has ended it properly before it was complete.
    pub(crate) fn is_cut_short(&self) -> bool {
        self.upstream_fault() == Some(UpstreamFault::NoLastEvent)
    }

    /// Tells whether it was set before.
    fn set(&self, flag: u8) -> bool {
        self.0.flags.fetch_or(flag, Relaxed) & flag != 0
    }

    fn is(&self, flag: u8) -> bool {
        self.0.flags.load(Relaxed) & flag != 0
    }

    fn store_family(&self, family: Family) {
        let keep_shed = |byte: u8| Some((byte & SHED) | family as u8);
        // It always has a value to store.
        let _ = self.0.family.fetch_update(Relaxed, Relaxed, keep_shed);
    }

    /// From now on its upstream's silence is the business of a layer inside.
    pub(crate) fn set_watched(&self) {
        self.set(WATCHED);
    }

    pub(crate) fn is_watched(&self) -> bool {
        self.is(WATCHED)
    }

    #[doc(hidden)]
    pub fn set_opaque(&self) {
        self.set(OPAQUE);
    }

    /// Whether its events are not readable: it is in a content coding, or a range of bytes. Such a
    /// stream passes as it is. It has no events that are counted, and no event boundary; where a layer
    /// has to end it, it breaks off.
    pub fn is_opaque(&self) -> bool {
        self.is(OPAQUE)
    }

    /// Tells whether a layer had aligned it before, and that one does from now on.
    pub(crate) fn align(&self) -> bool {
        self.set(ALIGNED)
    }

    /// Nanoseconds from its opening to `at`.
    pub(crate) fn nanos(&self, at: Instant) -> u64 {
        let nanos = at.saturating_duration_since(self.0.opened).as_nanos();
        u64::try_from(nanos).unwrap_or(NEVER - 1)
    }

    fn instant(&self, nanos: u64) -> Instant {
        self.0.opened + Duration::from_nanos(nanos)
    }

    #[doc(hidden)]
    pub fn came(&self, bytes: usize, now: Instant) {
        add(&self.0.bytes, bytes as u64);
        self.0.silent_since.store(self.nanos(now), Relaxed);
    }

    /// Counts events with data. `has_life`: at least one is not a ping.
    #[doc(hidden)]
    pub fn came_events(&self, events: u64, has_life: bool, now: Instant) {
        if events == 0 {
            return;
        }
        let now = self.nanos(now);
        add(&self.0.events, events);
        self.0.pace.note(events, now);
        if !has_life {
            return;
        }
        self.0.eventless_since.store(now, Relaxed);
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

    /// Since when the upstream has sent no byte although more was polled for.
    #[doc(hidden)]
    pub fn silent_since(&self) -> Instant {
        self.instant(self.0.silent_since.load(Relaxed))
    }

    /// Since when the upstream has sent no event with data but pings, though asked.
    pub(crate) fn eventless_since(&self) -> Instant {
        self.instant(self.0.eventless_since.load(Relaxed))
    }

    pub(crate) fn heartbeat(&self) {
        self.0.heartbeats.fetch_add(1, Relaxed);
    }

    pub(crate) fn dropped(&self, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.0.dropped.fetch_add(bytes, Relaxed);
    }

    /// Asks it to end at its next event boundary from `at` on. The earliest such wish stands.
    pub(crate) fn stop_at(&self, at: Instant, reason: EndReason) {
        let stop = self.nanos(at) << REASON_BITS | reason as u64;
        self.0.stop.fetch_min(stop, Relaxed);
        self.0.wakers.wake();
    }

    /// A slot for a guard that wants to be woken by [`send`](Self::send) and [`stop_at`](Self::stop_at).
    pub(crate) fn slot(&self) -> Slot {
        Slot::next(&self.0.flags)
    }

    pub(crate) fn listen(&self, slot: Slot, waker: &Waker) {
        self.0.wakers.register(slot, waker);
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
        self.end_with(reason, None);
    }

    /// Notes that its upstream has failed, and how.
    pub(crate) fn end_by_fault(&self, fault: UpstreamFault) {
        self.end_with(EndReason::UpstreamError, Some(fault));
    }

    fn end_with(&self, reason: EndReason, fault: Option<UpstreamFault>) {
        // The reason below, the fault above it, from 1 on.
        let end = reason as u8 | fault.map_or(0, |fault| (fault as u8 + 1) << REASON_BITS);
        let first = self.0.end.compare_exchange(u8::MAX, end, Relaxed, Relaxed);
        if first.is_err() {
            return;
        }
        ends(self.route(), reason, fault).increment(1);
        self.set_state(StreamState::Closed);
    }
}

/// The counter of the streams that ended for this reason.
pub(crate) fn ends(
    route: Option<&str>,
    reason: EndReason,
    fault: Option<UpstreamFault>,
) -> Counter {
    let mut labels = vec![Label::new("reason", reason.as_str())];
    labels.extend(fault.map(|fault| Label::new("fault", fault.as_str())));
    labels.extend(route.map(|route| Label::new("route", route.to_owned())));
    metrics::counter!("sse_guard_ends_total", labels)
}

fn count(state: StreamState, change: f64) {
    if state.waits() {
        metrics::gauge!("sse_guard_streams_waiting", "state" => state.as_str()).increment(change);
    }
}

impl Record {
    fn count_waiting(&self, before: bool, now: bool) {
        let Some(Names { labels, .. }) = self.names.get() else {
            return;
        };
        match (before, now) {
            (false, true) => labels.waiting.fetch_add(1, Relaxed),
            (true, false) => labels.waiting.fetch_sub(1, Relaxed),
            _ => return,
        };
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if let Some(state) = StreamState::ALL.get(usize::from(*self.state.get_mut())) {
            count(*state, -1.0);
            self.count_waiting(state.has_lost_upstream(), false);
        }
    }
}

/// The record of a stream whose client was answered, or asked for, further inside: for the guard outside,
/// which keeps its books. In the extensions of a response; of a request, for those inside.
#[derive(Clone)]
pub(crate) struct Begun(pub(crate) Stream);

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
    use metrics_util::debugging::{DebugValue, DebuggingRecorder};

    #[tokio::test(start_paused = true)]
    async fn the_first_reason_to_end_stands() {
        let stream = Stream::open();
        assert_eq!(stream.end_reason(), None);
        for &reason in EndReason::ALL {
            stream.end(reason);
            assert_eq!(stream.end_reason(), Some(EndReason::UpstreamEnd));
            assert_eq!(stream.upstream_fault(), None);
        }
        for &fault in UpstreamFault::ALL {
            let stream = Stream::open();
            stream.end_by_fault(fault);
            stream.end(EndReason::ClientGone);
            assert_eq!(stream.end_reason(), Some(EndReason::UpstreamError));
            assert_eq!(stream.upstream_fault(), Some(fault));
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

    #[tokio::test(start_paused = true)]
    async fn it_is_closed_when_it_has_ended_wherever_it_stood() {
        let stream = Stream::open();
        for state in [
            StreamState::Open,
            StreamState::Resuming,
            StreamState::Degraded,
        ] {
            stream.set_state(state);
            assert_eq!(stream.state(), state);
        }
        stream.end_by_fault(UpstreamFault::Truncated);
        assert_eq!(stream.state(), StreamState::Closed);
    }

    #[test]
    fn it_counts_as_waiting_until_it_is_answered_ends_or_goes() {
        let recorder = DebuggingRecorder::new();
        let mut count = 0.0;
        // A snapshot takes what it tells.
        let mut waiting = || {
            for (key, _, _, value) in recorder.snapshotter().snapshot().into_vec() {
                if let ("sse_guard_streams_waiting", DebugValue::Gauge(change)) =
                    (key.key().name(), value)
                {
                    count += change.0;
                }
            }
            count
        };
        metrics::with_local_recorder(&recorder, || {
            for &state in StreamState::ALL.iter().filter(|state| state.waits()) {
                let stream = Stream::open();
                stream.set_state(state);
                stream.set_state(state);
                assert_eq!(waiting(), 1.0);
                stream.set_state(StreamState::Open);
                assert_eq!(waiting(), 0.0);
                stream.set_state(state);
                drop(stream);
                assert_eq!(waiting(), 0.0);
                let stream = Stream::open();
                stream.set_state(state);
                // Somebody may hold the record of one that has ended, or come too late.
                stream.end(EndReason::ClientGone);
                assert_eq!(waiting(), 0.0);
                stream.set_state(state);
                drop(stream);
                assert_eq!(waiting(), 0.0);
            }
        });
    }

    #[test]
    fn those_of_a_route_that_wait_are_counted_whenever_it_is_named() {
        let labels = Arc::new(Labels {
            route: "/feed".into(),
            upstream: None,
            waiting: Arc::default(),
        });
        let waiting = || labels.waiting.load(Relaxed);
        let early = Stream::open();
        early.set_state(StreamState::Connecting);
        early.set_state(StreamState::Resuming);
        early.set_names(&labels, None);
        early.set_names(&labels, None);
        assert_eq!(waiting(), 1);
        let late = Stream::open();
        late.set_names(&labels, None);
        late.set_state(StreamState::Resuming);
        late.set_state(StreamState::Degraded);
        assert_eq!(waiting(), 2);
        late.set_state(StreamState::Open);
        assert_eq!(waiting(), 1);
        late.set_state(StreamState::Resuming);
        drop(late);
        assert_eq!(waiting(), 1);
        early.end(EndReason::ClientGone);
        assert_eq!(waiting(), 0);
        drop(early);
        assert_eq!(waiting(), 0);
    }

    #[test]
    fn what_is_held_adds_up() {
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
        stream.take_mail();
        let message = Message::data(&"x".repeat(1_000)).unwrap();
        stream.send(&message).unwrap();
        assert!(stream.held_bytes() > 3_000, "{}", stream.held_bytes());
    }

    #[cfg(feature = "serve")]
    #[tokio::test(start_paused = true)]
    async fn slots_and_the_family_leave_alone_whether_it_is_shed() {
        let stream = Stream::open();
        for _ in 0..9 {
            let _slot = stream.slot();
        }
        assert!(!stream.is_shed() && !stream.is_opaque());
        stream.shed();
        stream.store_family(Family::OpenAi);
        assert!(stream.is_shed());
        assert_eq!(stream.family(), Family::OpenAi);
    }

    #[test]
    fn a_record_stays_small() {
        assert!(size_of::<Record>() <= 304, "{}", size_of::<Record>());
    }
}
