//! The loss of an upstream, and its outcome.

use super::{FLAP_TIME, Resumable, ResumeSource, failing};
use crate::guard::BoxError;
use crate::resume::reconnect::{ReconnectOutcome, ReconnectSchedule};
use crate::resume::state::UpstreamLoss;
use crate::resume::{ResumeError, ResumeOutcome};
use crate::stream::{StreamState, UpstreamFault};
use crate::wire::{Aligner, Scanner};
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body::Body;
use std::pin::Pin;
use tokio::time::Instant;

impl<B> Resumable<B>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    /// The upstream ended its response properly.
    pub(super) fn on_end(mut self: Pin<&mut Self>, trailers: Option<HeaderMap>) {
        // An upstream that allows one connection for each client ends the old one when the new one opens.
        if self.as_mut().switch() {
            return;
        }
        let state = &self.state;
        if state.config().on_end && state.may_resume(&self.aligner) {
            return self.reconnect(ResumeError::Ended.into());
        }
        let mut this = self.project();
        let event = this.aligner.finish();
        *this.successor = None;
        this.source.set(ResumeSource::Ending { event, trailers });
    }

    /// The upstream was lost.
    pub(super) fn on_loss(mut self: Pin<&mut Self>, error: BoxError) {
        if self.as_mut().switch() {
            return;
        }
        if self.state.may_resume(&self.aligner) {
            return self.reconnect(error);
        }
        let mut this = self.project();
        let dropped = this.state.discard(this.aligner);
        this.state.reconnect.stream.add_dropped(dropped);
        *this.successor = None;
        this.source
            .set(ResumeSource::Failing { error: Some(error) });
    }

    /// Starts to reconnect.
    pub(super) fn reconnect(self: Pin<&mut Self>, error: BoxError) {
        let mut this = self.project();
        let state = this.state;
        let dropped = state.discard(this.aligner);
        let stream = &state.reconnect.stream;
        stream.set_state(StreamState::Resuming);
        stream.add_dropped(dropped);
        stream.set_held(state.cursor.memory());
        tracing::debug!(stream = %stream.id(), error, "the upstream was lost: reconnecting");
        let at = state.polled_at;
        let uptime = at.saturating_duration_since(state.connected_at);
        let is_flap = state.outage_since.is_some() && uptime < FLAP_TIME;
        state.flaps = if is_flap {
            state.flaps.saturating_add(1)
        } else {
            0
        };
        if uptime >= state.config().reset_after {
            state.attempts = 0;
            state.outage_since = None;
        }
        state.lost = Some(UpstreamLoss { at, error });
        let since = *state.outage_since.get_or_insert(at);
        // A pending replacement would continue further back.
        *this.successor = None;
        state.cursor.cancel_overlap();
        let deadline = since + state.config().give_up;
        let schedule = ReconnectSchedule {
            attempts: state.attempts,
            flaps: state.flaps,
            min_delay: state.min_delay,
            deadline,
            is_replacement: false,
        };
        let outcome = state
            .reconnect
            .clone()
            .start(state.cursor.last_id(), schedule);
        this.source.set(ResumeSource::Reconnecting { outcome });
    }

    pub(super) fn on_outcome(self: Pin<&mut Self>, outcome: ReconnectOutcome<B>) {
        let result = match outcome {
            ReconnectOutcome::Connected(body, attempts) => {
                self.connect_to(ResumeSource::Live { body }, attempts);
                ResumeOutcome::Resumed
            }
            ReconnectOutcome::Over => {
                self.project().source.set(ResumeSource::Ending {
                    event: None,
                    trailers: None,
                });
                ResumeOutcome::Over
            }
            ReconnectOutcome::Refused(status) => {
                self.on_refused(status);
                ResumeOutcome::Refused
            }
            ReconnectOutcome::GaveUp => {
                let mut this = self.project();
                let error = this.state.lost.take().map(|lost| lost.error);
                this.source.set(ResumeSource::Failing { error });
                ResumeOutcome::GaveUp
            }
        };
        metrics::counter!("sse_guard_resumes_total", "outcome" => result.as_str()).increment(1);
    }

    /// Continues the stream in this body.
    pub(super) fn connect_to(self: Pin<&mut Self>, source: ResumeSource<B>, attempts: u32) {
        let mut this = self.project();
        let state = this.state;
        let now = Instant::now();
        if let Some(lost) = state.lost.take() {
            let took = now.saturating_duration_since(lost.at);
            metrics::histogram!("sse_guard_resume_seconds").record(took);
        }
        state.reconnect.stream.set_state(StreamState::Open);
        state.cursor.switch_connection();
        state.attempts = attempts;
        (state.last_byte, state.last_event, state.connected_at) = (now, now, now);
        state.replace_at = state.config().replace_at(now);
        *this.scanner = Scanner::default();
        *this.aligner = Aligner::new();
        // The client has bytes already, so a byte order mark at the start must be dropped.
        this.aligner.injected();
        this.source.set(source);
    }

    /// The upstream rejected the reconnect: ends the stream with an error event, in families that have one.
    fn on_refused(self: Pin<&mut Self>, status: StatusCode) {
        let mut this = self.project();
        let error = ResumeError::Refused(status);
        this.state
            .reconnect
            .stream
            .end_by_fault(UpstreamFault::Refused);
        let event = {
            let family = this.state.reconnect.request_info.family;
            family.error_in(status, &error.to_string(), this.aligner.line_end())
        };
        this.source.set(match event {
            Some(event) => ResumeSource::Ending {
                event: Some(event),
                trailers: None,
            },
            None => failing(error),
        });
    }
}
