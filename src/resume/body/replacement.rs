//! Replaces a connection that has reached its maximum age.

use super::{Resumable, ResumeSource};
use crate::guard::BoxError;
use crate::resume::reconnect::{ReconnectOutcome, ReconnectSchedule};
use crate::resume::successor::{ConnectedSuccessor, Successor, SwitchState};
use bytes::Bytes;
use http_body::Body;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Instant;

impl<B> Resumable<B>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    /// Opens a new connection while the old one continues, as that has reached its maximum age.
    pub(super) fn start_replacement(mut self: Pin<&mut Self>) {
        let this = self.as_mut().project();
        let state = this.state;
        // Also if this replacement fails.
        state.replace_at = state.config().replace_at(state.polled_at);
        if !state.config().lossy && !state.cursor.is_known() {
            return;
        }
        state.events_since_overlap = 0;
        state.cursor.start_overlap();
        let deadline = state.polled_at + state.config().give_up;
        let schedule = ReconnectSchedule {
            attempts: 0,
            flaps: 0,
            min_delay: Duration::ZERO,
            deadline,
            is_replacement: true,
        };
        let reconnect = state.reconnect.clone();
        let pending = reconnect.start(state.cursor.last_id(), schedule);
        *this.successor = Some(Successor::Connecting(pending));
    }

    /// Polls the replacement while the old connection is pending. Returns true if the source is to be polled again:
    /// the old connection once more, or the new one.
    pub(super) fn poll_successor(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> bool {
        let this = self.as_mut().project();
        let state = this.state;
        if let Some(Successor::Connecting(pending)) = this.successor {
            let Poll::Ready(outcome) = Pin::new(pending).poll(cx) else {
                return false;
            };
            *this.successor = match outcome {
                ReconnectOutcome::Connected(body, _) => {
                    let connected =
                        ConnectedSuccessor::new(body, state.events_since_overlap, Instant::now());
                    Some(Successor::Connected(Box::new(connected)))
                }
                // The old connection still works.
                ReconnectOutcome::Over
                | ReconnectOutcome::Refused(_)
                | ReconnectOutcome::GaveUp => {
                    state.cursor.cancel_overlap();
                    None
                }
            };
        }
        let Some(Successor::Connected(connected)) = this.successor else {
            return false;
        };
        match connected.poll(cx, |event| state.event_key(event).hash_content()) {
            SwitchState::Waiting => return false,
            SwitchState::Ended => {
                self.cancel_replacement();
                return false;
            }
            SwitchState::Ready => {}
        }
        // Events that the old connection sent before must be delivered first.
        if !std::mem::replace(&mut connected.is_old_read, true) {
            return true;
        }
        // Without ids the position is known once the same event came on both: the old one may lag a little.
        let is_distinguishable = state.cursor.last_id().is_some()
            || connected
                .first()
                .is_none_or(|first| state.cursor.is_in_overlap(first));
        is_distinguishable && self.switch()
    }

    /// Switches to the new connection, if there is one and the stream is at an event boundary. Returns false, and
    /// cancels the replacement, if it may repeat more events than can be recognised.
    pub(super) fn switch(mut self: Pin<&mut Self>) -> bool {
        let this = self.as_mut().project();
        let state = this.state;
        let is_open = matches!(this.successor, Some(Successor::Connected(_)));
        if !is_open || !state.at_boundary(this.aligner) {
            return false;
        }
        let Some(Successor::Connected(connected)) = this.successor.take() else {
            return false;
        };
        if state.events_since_overlap > state.config().dedup_window {
            self.cancel_replacement();
            return false;
        }
        let dropped = state.discard(this.aligner);
        state.reconnect.stream.add_dropped(dropped);
        metrics::counter!("sse_guard_upstream_replacements_total").increment(1);
        let ConnectedSuccessor { body, read, .. } = *connected;
        self.as_mut().connect_to(ResumeSource::Replaced { body }, 0);
        self.project().aligner.push(read.freeze());
        true
    }

    /// The overlap is over: switches to the new connection, unless it lacks events that the old one has
    /// delivered meanwhile.
    pub(super) fn switch_or_cancel(mut self: Pin<&mut Self>) {
        let is_behind = |connected: &ConnectedSuccessor<B>| {
            connected.first().is_none()
                && connected.read.is_empty()
                && connected.events_before < self.state.events_since_overlap
        };
        let is_taken = match &self.successor {
            Some(Successor::Connected(connected)) => !is_behind(connected),
            _ => false,
        };
        if !is_taken || !self.as_mut().switch() {
            self.cancel_replacement();
        }
    }

    /// Keeps the old connection until the next replacement is due.
    fn cancel_replacement(self: Pin<&mut Self>) {
        let this = self.project();
        *this.successor = None;
        this.state.cursor.cancel_overlap();
    }
}
