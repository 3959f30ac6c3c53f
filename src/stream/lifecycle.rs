//! State and end of a stream, with their metrics.

use super::record::{NEVER, StreamRecord};
use super::{EndReason, Stream, StreamState, UpstreamFault};
use metrics::{Counter, Label};
use std::sync::atomic::Ordering::Relaxed;
use tokio::time::Instant;

/// Bits of an [`EndReason`]. The other 60 bits of nanoseconds are 36 years.
const REASON_BITS: u32 = 4;
const REASON_MASK: u64 = (1 << REASON_BITS) - 1;

impl Stream {
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

    /// A stream that has ended stays closed: a task that reports its state late must not count it as waiting.
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
            add_to_gauge(*before, -1.0);
            let (before, now) = (before.has_lost_upstream(), state.has_lost_upstream());
            self.0.count_waiting(before, now);
        }
        add_to_gauge(state, 1.0);
    }

    /// Returns why the stream ended, if it has.
    pub fn end_reason(&self) -> Option<EndReason> {
        let end = self.0.end.load(Relaxed) & REASON_MASK as u8;
        EndReason::ALL.get(usize::from(end)).copied()
    }

    /// Returns how its upstream failed, if it ended by [`EndReason::UpstreamError`].
    pub fn upstream_fault(&self) -> Option<UpstreamFault> {
        let fault = usize::from(self.0.end.load(Relaxed) >> REASON_BITS);
        UpstreamFault::ALL.get(fault.checked_sub(1)?).copied()
    }

    /// Returns true if the upstream ended the message properly before the answer was complete.
    pub(crate) fn is_incomplete(&self) -> bool {
        self.upstream_fault() == Some(UpstreamFault::NoLastEvent)
    }

    /// Returns true once an end of the stream is scheduled.
    pub fn is_ending(&self) -> bool {
        self.0.stop.load(Relaxed) != NEVER
    }

    /// Ends the stream to free its memory: at its next event boundary, or at once if its client does not read.
    pub(crate) fn shed(&self) {
        self.set_shed();
        self.stop_at(Instant::now(), EndReason::Rotated);
    }

    /// Schedules the end for the first event boundary from `at` on. The earliest request wins.
    pub(crate) fn stop_at(&self, at: Instant, reason: EndReason) {
        let stop = self.nanos(at) << REASON_BITS | reason as u64;
        self.0.stop.fetch_min(stop, Relaxed);
        self.0.wakers.wake();
    }

    pub(crate) fn stop_requested(&self) -> Option<(Instant, EndReason)> {
        match self.0.stop.load(Relaxed) {
            NEVER => None,
            stop => {
                let reason = EndReason::ALL.get((stop & REASON_MASK) as usize)?;
                Some((self.instant(stop >> REASON_BITS), *reason))
            }
        }
    }

    /// Records the reason of the end, unless there is one, and counts the stream.
    pub(crate) fn end(&self, reason: EndReason) {
        self.end_with(reason, None);
    }

    /// Records a failed upstream as the reason of the end.
    pub(crate) fn end_by_fault(&self, fault: UpstreamFault) {
        self.end_with(EndReason::UpstreamError, Some(fault));
    }

    fn end_with(&self, reason: EndReason, fault: Option<UpstreamFault>) {
        // The reason in the low bits; above it the fault plus one, as 0 means none.
        let end = reason as u8 | fault.map_or(0, |fault| (fault as u8 + 1) << REASON_BITS);
        let first = self.0.end.compare_exchange(u8::MAX, end, Relaxed, Relaxed);
        if first.is_err() {
            return;
        }
        ends_counter(self.route(), reason, fault).increment(1);
        self.set_state(StreamState::Closed);
    }
}

pub(crate) fn ends_counter(
    route: Option<&str>,
    reason: EndReason,
    fault: Option<UpstreamFault>,
) -> Counter {
    let mut labels = vec![Label::new("reason", reason.as_str())];
    labels.extend(fault.map(|fault| Label::new("fault", fault.as_str())));
    labels.extend(route.map(|route| Label::new("route", route.to_owned())));
    metrics::counter!("sse_guard_ends_total", labels)
}

fn add_to_gauge(state: StreamState, change: f64) {
    if state.is_waiting() {
        metrics::gauge!("sse_guard_streams_waiting", "state" => state.as_str()).increment(change);
    }
}

impl StreamRecord {
    pub(super) fn count_waiting(&self, before: bool, now: bool) {
        let Some(labels) = self.labels() else {
            return;
        };
        match (before, now) {
            (false, true) => labels.waiting.fetch_add(1, Relaxed),
            (true, false) => labels.waiting.fetch_sub(1, Relaxed),
            _ => return,
        };
    }
}

impl Drop for StreamRecord {
    fn drop(&mut self) {
        if let Some(state) = StreamState::ALL.get(usize::from(*self.state.get_mut())) {
            add_to_gauge(*state, -1.0);
            self.count_waiting(state.has_lost_upstream(), false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::StreamLabels;
    use super::*;
    use metrics_util::debugging::{DebugValue, DebuggingRecorder};
    use std::sync::Arc;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn first_end_reason_wins() {
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
    async fn earliest_stop_request_wins() {
        let stream = Stream::open();
        let at = |secs| stream.opened() + Duration::from_secs(secs);
        stream.stop_at(at(5), EndReason::Drained);
        stream.stop_at(at(3), EndReason::Operator);
        stream.stop_at(at(4), EndReason::Drained);
        assert_eq!(stream.stop_requested(), Some((at(3), EndReason::Operator)));
    }

    #[tokio::test(start_paused = true)]
    async fn state_is_closed_after_an_end_from_any_state() {
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
    fn waiting_gauge_counts_a_stream_until_it_opens_ends_or_drops() {
        let recorder = DebuggingRecorder::new();
        let mut count = 0.0;
        // Each snapshot resets the recorder.
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
            for &state in StreamState::ALL.iter().filter(|state| state.is_waiting()) {
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
                // A task may set the state after the end, while another still holds the record.
                stream.end(EndReason::ClientGone);
                assert_eq!(waiting(), 0.0);
                stream.set_state(state);
                drop(stream);
                assert_eq!(waiting(), 0.0);
            }
        });
    }

    #[test]
    fn waiting_streams_of_a_route_are_counted_whenever_labels_are_set() {
        let labels = Arc::new(StreamLabels {
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
}
