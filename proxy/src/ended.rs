//! Streams that have ended, the latest of them: for the admin API, from the metrics layer of each route.

use sse_guard::client_key::ClientKey;
use sse_guard::family::Family;
use sse_guard::internal::lock;
use sse_guard::internal::{Details, StreamLabels};
use sse_guard::{EndReason, Stream, UpstreamFault};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

/// Records that are kept.
pub(super) const MAX_ENDED: usize = 1000;

/// The latest streams that have ended.
#[derive(Debug, Default)]
pub(super) struct EndedStreams(Mutex<Latest>);

#[derive(Debug, Default)]
struct Latest {
    /// Of all streams that have ended.
    count: u64,
    records: VecDeque<Ended>,
}

/// A stream that has ended. Its texts are formatted on request; keeping the stream's own record would
/// retain a page of memory.
#[derive(Clone, Debug)]
pub(super) struct Ended {
    /// Counts ends from 1.
    pub(super) seq: u64,
    pub(super) at: SystemTime,
    pub(super) id: u64,
    pub(super) reason: EndReason,
    pub(super) labels: Option<Arc<StreamLabels>>,
    pub(super) client: Option<ClientKey>,
    pub(super) details: Option<Details>,
    pub(super) age: Duration,
    pub(super) events: u64,
    pub(super) bytes: u64,
    pub(super) heartbeats: u64,
    pub(super) first_event: Option<Duration>,
    pub(super) gap_p99: Option<Duration>,
    pub(super) last_event_id: Option<String>,
    pub(super) family: Family,
    pub(super) fault: Option<UpstreamFault>,
    pub(super) dropped_bytes: u64,
}

impl Ended {
    fn of(stream: &Stream, seq: u64) -> Self {
        Self {
            seq,
            at: SystemTime::now(),
            id: stream.id().as_u64(),
            reason: stream.end_reason().unwrap_or(EndReason::ClientGone),
            labels: stream.labels().cloned(),
            client: stream.client().cloned(),
            details: stream.details().cloned(),
            age: stream.age(),
            events: stream.events(),
            bytes: stream.bytes(),
            heartbeats: stream.heartbeats(),
            first_event: stream.time_to_first_event(),
            gap_p99: stream.gap_p99(),
            last_event_id: stream.last_event_id(),
            family: stream.family(),
            fault: stream.upstream_fault(),
            dropped_bytes: stream.dropped_bytes(),
        }
    }
}

impl EndedStreams {
    fn latest(&self) -> MutexGuard<'_, Latest> {
        lock(&self.0)
    }

    /// Adds a stream that has ended.
    pub(super) fn add(&self, stream: &Stream) {
        let mut latest = self.latest();
        latest.count += 1;
        let ended = Ended::of(stream, latest.count);
        if latest.records.len() == MAX_ENDED {
            latest.records.pop_front();
        }
        latest.records.push_back(ended);
    }

    /// The number of all streams that have ended, and the kept records after `seq`, the oldest first; at
    /// most the latest `max`.
    pub(super) fn after(&self, seq: u64, max: usize) -> (u64, Vec<Ended>) {
        let latest = self.latest();
        let start = latest.records.partition_point(|ended| ended.seq <= seq);
        let start = start.max(latest.records.len().saturating_sub(max));
        (
            latest.count,
            latest.records.range(start..).cloned().collect(),
        )
    }
}
