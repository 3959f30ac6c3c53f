//! A stream in the queue, and its turns.

use super::AdmissionState;
use super::lane::LaneKey;
use super::queue::AttemptFailure;
use std::sync::Arc;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

/// A stream that is about to reconnect, until it has reconnected or is dropped.
pub(in crate::resume) struct QueuedStream {
    admission: Arc<AdmissionState>,
    key: LaneKey,
    has_lost_upstream: bool,
    is_resumed: bool,
}

impl QueuedStream {
    pub(super) fn new(
        admission: Arc<AdmissionState>,
        key: LaneKey,
        has_lost_upstream: bool,
    ) -> Self {
        Self {
            admission,
            key,
            has_lost_upstream,
            is_resumed: false,
        }
    }

    /// Waits for its turn. Its own backoff ends at `due`; with `may_probe` its turn may come before that, to probe
    /// the upstream. A stream that leaves the queue leaves no gap.
    pub(in crate::resume) async fn turn(&self, due: Instant, may_probe: bool) -> Turn {
        let (to, mut turn) = oneshot::channel();
        let is_due = due <= Instant::now();
        let entry = QueueEntry {
            stream: self,
            ticket: self
                .admission
                .update(|queue, _, _| queue.push(self.key, to, is_due, may_probe)),
        };
        let mut granted = None;
        if !is_due {
            match timeout_at(due, &mut turn).await {
                Ok(turn) => granted = Some(turn),
                Err(_) => self
                    .admission
                    .update(|queue, _, _| queue.end_backoff(self.key, entry.ticket)),
            }
        }
        let granted = match granted {
            Some(granted) => granted,
            None => turn.await,
        };
        // The sender stays in the queue until it sends a turn, so this is not reached.
        granted.unwrap_or_else(|_| Turn {
            admission: self.admission.clone(),
            key: self.key,
            was_due: true,
            counts_in_flight: false,
        })
    }

    /// The upstream has accepted the stream: it leaves the queue as resumed.
    pub(in crate::resume) fn resumed(mut self) {
        self.is_resumed = true;
    }
}

impl Drop for QueuedStream {
    fn drop(&mut self) {
        self.admission.update(|queue, now, lines| {
            queue.leave(self.key);
            if self.has_lost_upstream {
                queue.outages.settled(self.is_resumed, now, lines);
            }
        });
    }
}

/// Removes a stream that no longer waits for a turn.
struct QueueEntry<'a> {
    stream: &'a QueuedStream,
    ticket: u64,
}

impl Drop for QueueEntry<'_> {
    fn drop(&mut self) {
        let (admission, key) = (&self.stream.admission, self.stream.key);
        let sender = admission.update(|queue, _, _| queue.remove(key, self.ticket));
        drop(sender);
    }
}

/// The right to make one attempt.
#[derive(Debug)]
pub(in crate::resume) struct Turn {
    admission: Arc<AdmissionState>,
    key: LaneKey,
    was_due: bool,
    counts_in_flight: bool,
}

impl Turn {
    pub(super) fn granted(admission: Arc<AdmissionState>, key: LaneKey, was_due: bool) -> Self {
        Self {
            admission,
            key,
            was_due,
            counts_in_flight: true,
        }
    }

    /// Whether the stream's own backoff was over. If not, the attempt is a probe.
    pub(in crate::resume) fn was_due(&self) -> bool {
        self.was_due
    }

    /// The response is slow: the attempt no longer counts as in flight.
    pub(in crate::resume) fn release_slow(&mut self) {
        if std::mem::take(&mut self.counts_in_flight) {
            self.admission
                .update(|queue, _, _| queue.release_slow(self.key));
        }
    }

    /// The upstream has sent a final response.
    pub(in crate::resume) fn succeeded(self) {
        self.admission
            .update(|queue, now, lines| queue.succeeded(self.key, now, lines));
    }

    /// Another attempt is needed.
    pub(in crate::resume) fn failed(self, failure: AttemptFailure) {
        self.admission
            .update(|queue, now, lines| queue.failed(self.key, failure, now, lines));
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if self.counts_in_flight {
            self.admission.update(|queue, _, _| queue.release(self.key));
        }
    }
}
