//! The response body: reconnects to the upstream behind a live stream.

use super::reconnect::{PendingReconnect, Reconnect, ReconnectOutcome, ReconnectSchedule};
use super::state::{Lost, ResumeState};
use super::successor::{ConnectedSuccessor, Progress, Successor};
use super::{ResumeError, ResumeOutcome};
use crate::guard::{BoxError, StreamError};
use crate::stream::{EndReason, StreamState, UpstreamFault};
use crate::wire::{Aligner, Scanner};
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep_until};

/// A connection that is lost within this time, without a new event, doubles the backoff of the next ones.
const FLAP_TIME: Duration = Duration::from_secs(5);

pin_project! {
    /// The body of a response that has passed a [`ResumeLayer`](super::ResumeLayer).
    pub struct ResumeBody<B> {
        #[pin]
        inner: Inner<B>,
    }
}

pin_project! {
    #[project = InnerProj]
    enum Inner<B> {
        Pass { #[pin] body: B },
        Empty,
        Resumable { resumable: Pin<Box<Resumable<B>>> },
    }
}

pin_project! {
    struct Resumable<B> {
        #[pin]
        source: Source<B>,
        // A newer connection that is about to replace the current one.
        successor: Option<Successor<B>>,
        #[pin]
        timer: Option<Sleep>,
        aligner: Aligner,
        scanner: Scanner,
        state: ResumeState<B>,
    }
}

pin_project! {
    #[project = SourceProj]
    #[project_replace = SourceOwn]
    enum Source<B> {
        Live { #[pin] body: B },
        // Took over from an older connection.
        Replaced { body: Pin<Box<B>> },
        Reconnecting { outcome: PendingReconnect<B> },
        // The first request failed. The reconnect starts at the first poll, when the layers outside have
        // set the client.
        NotStarted { error: Option<BoxError> },
        // A last event, if there is one, then the trailers.
        Ending { event: Option<Bytes>, trailers: Option<HeaderMap> },
        Failing { error: Option<BoxError> },
        Done,
    }
}

/// The deadline that expired while the upstream was silent.
enum Due {
    Idle,
    Replace,
    Switch,
}

/// An empty body, for layers that respond in place of the service.
impl<B> Default for ResumeBody<B> {
    fn default() -> Self {
        Self {
            inner: Inner::Empty,
        }
    }
}

impl<B> ResumeBody<B> {
    /// Returns the body that the upstream sends at present; `None` while there is none.
    pub fn get_ref(&self) -> Option<&B> {
        match &self.inner {
            Inner::Pass { body } => Some(body),
            Inner::Empty => None,
            Inner::Resumable { resumable } => match &resumable.source {
                Source::Live { body } => Some(body),
                Source::Replaced { body } => Some(&**body),
                _ => None,
            },
        }
    }

    pub(super) fn pass(body: B) -> Self {
        Self {
            inner: Inner::Pass { body },
        }
    }

    /// `last_id` is the `Last-Event-ID` of the request.
    pub(super) fn resumable(body: B, reconnect: Reconnect<B>, last_id: Option<&[u8]>) -> Self {
        Self::with_source(Source::Live { body }, ResumeState::new(reconnect, last_id))
    }

    /// A body whose first request failed. The first attempt comes no earlier than `min_delay`.
    pub(super) fn waiting(
        reconnect: Reconnect<B>,
        last_id: Option<&[u8]>,
        error: BoxError,
        min_delay: Duration,
    ) -> Self {
        reconnect.stream.set_state(StreamState::Resuming);
        let mut state = ResumeState::new(reconnect, last_id);
        state.min_delay = min_delay;
        Self::with_source(Source::NotStarted { error: Some(error) }, state)
    }

    fn with_source(source: Source<B>, state: ResumeState<B>) -> Self {
        let resumable = Resumable {
            source,
            successor: None,
            timer: None,
            aligner: Aligner::new(),
            scanner: Scanner::default(),
            state,
        };
        Self {
            inner: Inner::Resumable {
                resumable: Box::pin(resumable),
            },
        }
    }
}

impl<B> Body for ResumeBody<B>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.project().inner.project() {
            InnerProj::Pass { body } => body.poll_frame(cx).map_err(Into::into),
            InnerProj::Empty => Poll::Ready(None),
            InnerProj::Resumable { resumable } => resumable.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.inner {
            Inner::Pass { body } => body.is_end_stream(),
            Inner::Empty => true,
            Inner::Resumable { resumable } => matches!(resumable.source, Source::Done),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Inner::Pass { body } => body.size_hint(),
            Inner::Empty => SizeHint::with_exact(0),
            Inner::Resumable { .. } => SizeHint::default(),
        }
    }
}

impl<B> Resumable<B>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let now = self.as_mut().project().state.exclude_pause();
        loop {
            let mut this = self.as_mut().project();
            while let Some(piece) = this.aligner.pop() {
                let whole = this.aligner.at_boundary();
                match this.state.process(this.scanner, piece, whole) {
                    Ok(piece) if piece.is_empty() => {}
                    Ok(piece) => {
                        this.state.returned_data = true;
                        return Poll::Ready(Some(Ok(Frame::data(piece))));
                    }
                    Err(error) => {
                        this.aligner.discard();
                        this.source.as_mut().set(failing(error));
                    }
                }
            }
            let frame = match this.source.as_mut().project() {
                SourceProj::Live { body } => Some(body.poll_frame(cx)),
                SourceProj::Replaced { body } => Some(body.as_mut().poll_frame(cx)),
                _ => None,
            };
            match this.source.as_mut().project() {
                SourceProj::Live { .. } | SourceProj::Replaced { .. } => {
                    match frame.unwrap_or(Poll::Pending) {
                        Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                            Ok(chunk) => {
                                this.state.last_byte = now;
                                this.aligner.push(chunk);
                            }
                            Err(frame) => self.as_mut().on_end(frame.into_trailers().ok()),
                        },
                        Poll::Ready(Some(Err(error))) => self.as_mut().on_loss(error.into()),
                        Poll::Ready(None) => self.as_mut().on_end(None),
                        Poll::Pending => {
                            if self.as_mut().poll_successor(cx) {
                                continue;
                            }
                            match ready!(self.as_mut().wait(cx)) {
                                Due::Replace => self.as_mut().start_replacement(),
                                Due::Switch => self.as_mut().switch_or_cancel(),
                                Due::Idle => {
                                    let idle = StreamError::Ended(EndReason::UpstreamIdle);
                                    self.as_mut().on_loss(idle.into());
                                }
                            }
                        }
                    }
                }
                SourceProj::Reconnecting { outcome } => {
                    let outcome = ready!(Pin::new(outcome).poll(cx));
                    self.as_mut().on_outcome(outcome);
                }
                SourceProj::NotStarted { error } => {
                    let error = error.take().unwrap_or_else(|| ResumeError::Ended.into());
                    self.as_mut().reconnect(error);
                    // The `Retry-After` of the failed response holds for the first attempt only.
                    self.as_mut().project().state.min_delay = Duration::ZERO;
                }
                SourceProj::Ending { event, trailers } => {
                    if let Some(event) = event.take() {
                        return Poll::Ready(Some(Ok(Frame::data(event))));
                    }
                    let trailers = trailers.take();
                    this.source.set(Source::Done);
                    return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
                }
                SourceProj::Failing { error } => {
                    let error = error.take();
                    this.source.set(Source::Done);
                    return Poll::Ready(error.map(Err));
                }
                SourceProj::Done => return Poll::Ready(None),
            }
        }
    }

    /// Waits for the next deadline while the upstream is silent.
    ///
    /// The timer is not reset with each byte. It fires at the deadline it was set to, and is set again if
    /// the deadline has moved since.
    fn wait(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Due> {
        let mut this = self.project();
        let buffered = match this.successor {
            Some(Successor::Connected(connected)) => connected.memory(),
            Some(Successor::Connecting(_)) | None => 0,
        };
        let held = this.aligner.held() + this.state.memory() + buffered;
        this.state.reconnect.stream.set_held(held);
        loop {
            let idle = this.state.idle_at().map(|at| (at, Due::Idle));
            let old = this.state.replace_at.filter(|_| this.successor.is_none());
            let old = old.map(|at| (at, Due::Replace));
            let switch = match this.successor {
                Some(Successor::Connected(connected)) if this.state.at_boundary(this.aligner) => {
                    Some((connected.switch_at(), Due::Switch))
                }
                _ => None,
            };
            let first = [idle, old, switch].into_iter().flatten();
            let Some((at, due)) = first.min_by_key(|(at, _)| *at) else {
                return Poll::Pending;
            };
            if at <= this.state.polled_at {
                return Poll::Ready(due);
            }
            match this.timer.as_mut().as_pin_mut() {
                None => this.timer.set(Some(sleep_until(at))),
                Some(sleep) if sleep.is_elapsed() || sleep.deadline() > at => sleep.reset(at),
                Some(_) => {}
            }
            if let Some(sleep) = this.timer.as_mut().as_pin_mut() {
                ready!(sleep.poll(cx));
            }
            this.state.polled_at = Instant::now();
        }
    }

    /// The upstream ended its response properly.
    fn on_end(mut self: Pin<&mut Self>, trailers: Option<HeaderMap>) {
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
        this.source.set(Source::Ending { event, trailers });
    }

    /// The upstream was lost.
    fn on_loss(mut self: Pin<&mut Self>, error: BoxError) {
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
        this.source.set(Source::Failing { error: Some(error) });
    }

    /// Starts to reconnect.
    fn reconnect(self: Pin<&mut Self>, error: BoxError) {
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
        state.lost = Some(Lost { at, error });
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
        this.source.set(Source::Reconnecting { outcome });
    }

    fn on_outcome(self: Pin<&mut Self>, outcome: ReconnectOutcome<B>) {
        let result = match outcome {
            ReconnectOutcome::Connected(body, attempts) => {
                self.connect_to(Source::Live { body }, attempts);
                ResumeOutcome::Resumed
            }
            ReconnectOutcome::Over => {
                self.project().source.set(Source::Ending {
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
                this.source.set(Source::Failing { error });
                ResumeOutcome::GaveUp
            }
        };
        metrics::counter!("sse_guard_resumes_total", "outcome" => result.as_str()).increment(1);
    }

    /// Continues the stream in this body.
    fn connect_to(self: Pin<&mut Self>, source: Source<B>, attempts: u32) {
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
            Some(event) => Source::Ending {
                event: Some(event),
                trailers: None,
            },
            None => failing(error),
        });
    }

    /// Opens a new connection while the old one continues, as that has reached its maximum age.
    fn start_replacement(mut self: Pin<&mut Self>) {
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
    fn poll_successor(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> bool {
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
            Progress::Waiting => return false,
            Progress::Ended => {
                self.cancel_replacement();
                return false;
            }
            Progress::Ready => {}
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
    fn switch(mut self: Pin<&mut Self>) -> bool {
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
        self.as_mut().connect_to(Source::Replaced { body }, 0);
        self.project().aligner.push(read.freeze());
        true
    }

    /// The overlap is over: switches to the new connection, unless it lacks events that the old one has
    /// delivered meanwhile.
    fn switch_or_cancel(mut self: Pin<&mut Self>) {
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

fn failing<B>(error: ResumeError) -> Source<B> {
    Source::Failing {
        error: Some(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::testing::Script;

    #[test]
    fn resumable_body_takes_at_most_768_bytes() {
        let cost = size_of::<Resumable<Script>>() - size_of::<Script>();
        assert!(cost <= 768, "{cost}");
    }
}
