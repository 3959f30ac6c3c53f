//! What the upstream sent into a stream, and when.

use super::Stream;
use super::record::NEVER;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::time::Instant;

/// The body is the only writer of these counts, so no atomic read-modify-write is needed.
fn add(count: &AtomicU64, more: u64) {
    count.store(count.load(Relaxed) + more, Relaxed);
}

impl Stream {
    /// Returns the number of events with data that the upstream sent.
    pub fn events(&self) -> u64 {
        self.0.events.load(Relaxed)
    }

    /// Returns the number of bytes that the upstream sent.
    pub fn bytes(&self) -> u64 {
        self.0.bytes.load(Relaxed)
    }

    /// Returns the bytes of incomplete events that were dropped when the stream failed or was ended.
    pub fn dropped_bytes(&self) -> u64 {
        self.0.dropped.load(Relaxed).into()
    }

    /// Returns the number of heartbeats that were sent.
    pub fn heartbeats(&self) -> u64 {
        self.0.heartbeats.load(Relaxed).into()
    }

    /// Returns the rate of events with data, a mean over about ten seconds.
    pub fn events_per_second(&self) -> f32 {
        self.0.event_rate.per_second(self.nanos(Instant::now()))
    }

    /// Returns the time of the last event with data.
    pub fn last_event(&self) -> Option<Instant> {
        self.0
            .event_rate
            .last_event()
            .map(|nanos| self.instant(nanos))
    }

    /// Returns the 99th percentile of the gaps between events, to a factor of two; `None` before the second
    /// event.
    pub fn gap_p99(&self) -> Option<Duration> {
        self.0.event_rate.gap_p99()
    }

    /// Returns the time from [opening](Self::opened) to the first event with data that is not a ping.
    pub fn time_to_first_event(&self) -> Option<Duration> {
        match self.0.first_event.load(Relaxed) {
            NEVER => None,
            nanos => Some(Duration::from_nanos(nanos)),
        }
    }

    #[doc(hidden)]
    pub fn record_bytes(&self, bytes: usize, now: Instant) {
        add(&self.0.bytes, bytes as u64);
        self.0.silent_since.store(self.nanos(now), Relaxed);
    }

    /// Counts events with data. Pings alone do not restart the time without events.
    #[doc(hidden)]
    pub fn record_events(&self, events: u64, has_non_ping: bool, now: Instant) {
        if events == 0 {
            return;
        }
        let now = self.nanos(now);
        add(&self.0.events, events);
        self.0.event_rate.record(events, now);
        if !has_non_ping {
            return;
        }
        self.0.eventless_since.store(now, Relaxed);
        if self.0.first_event.load(Relaxed) == NEVER {
            self.0.first_event.store(now, Relaxed);
        }
    }

    /// Time in which the body was not polled, as the client did not read, is not silence of the upstream.
    pub(crate) fn exclude_pause(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(0);
        add(&self.0.silent_since, nanos);
        add(&self.0.eventless_since, nanos);
    }

    /// Start of the time without bytes, not counting [excluded](Self::exclude_pause) time.
    #[doc(hidden)]
    pub fn silent_since(&self) -> Instant {
        self.instant(self.0.silent_since.load(Relaxed))
    }

    /// Start of the time without events other than pings, not counting [excluded](Self::exclude_pause) time.
    pub(crate) fn eventless_since(&self) -> Instant {
        self.instant(self.0.eventless_since.load(Relaxed))
    }

    pub(crate) fn add_heartbeat(&self) {
        self.0.heartbeats.fetch_add(1, Relaxed);
    }

    pub(crate) fn add_dropped(&self, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.0.dropped.fetch_add(bytes, Relaxed);
    }
}
