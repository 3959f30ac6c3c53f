//! The response body: reconnects to the upstream behind a live stream.

mod loss;
mod replacement;

use super::ResumeError;
use super::reconnect::{PendingReconnect, Reconnect};
use super::state::ResumeState;
use super::successor::Successor;
use crate::guard::{BoxError, StreamError};
use crate::stream::{EndReason, StreamState};
use crate::wire::{Aligner, Scanner};
use bytes::Bytes;
use http::HeaderMap;
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
        inner: ResumeBodyKind<B>,
    }
}

pin_project! {
    #[project = ResumeBodyKindProj]
    enum ResumeBodyKind<B> {
        Pass { #[pin] body: B },
        Empty,
        Resumable { resumable: Pin<Box<Resumable<B>>> },
    }
}

pin_project! {
    struct Resumable<B> {
        #[pin]
        source: ResumeSource<B>,
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
    #[project = ResumeSourceProj]
    #[project_replace = ResumeSourceOwn]
    enum ResumeSource<B> {
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
enum ResumeDeadline {
    Idle,
    Replace,
    Switch,
}

/// An empty body, for layers that respond in place of the service.
impl<B> Default for ResumeBody<B> {
    fn default() -> Self {
        Self {
            inner: ResumeBodyKind::Empty,
        }
    }
}

impl<B> ResumeBody<B> {
    /// Returns the body that the upstream sends at present; `None` while there is none.
    pub fn get_ref(&self) -> Option<&B> {
        match &self.inner {
            ResumeBodyKind::Pass { body } => Some(body),
            ResumeBodyKind::Empty => None,
            ResumeBodyKind::Resumable { resumable } => match &resumable.source {
                ResumeSource::Live { body } => Some(body),
                ResumeSource::Replaced { body } => Some(&**body),
                _ => None,
            },
        }
    }

    pub(super) fn pass(body: B) -> Self {
        Self {
            inner: ResumeBodyKind::Pass { body },
        }
    }

    /// `last_id` is the `Last-Event-ID` of the request.
    pub(super) fn resumable(body: B, reconnect: Reconnect<B>, last_id: Option<&[u8]>) -> Self {
        Self::with_source(
            ResumeSource::Live { body },
            ResumeState::new(reconnect, last_id),
        )
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
        Self::with_source(ResumeSource::NotStarted { error: Some(error) }, state)
    }

    fn with_source(source: ResumeSource<B>, state: ResumeState<B>) -> Self {
        let resumable = Resumable {
            source,
            successor: None,
            timer: None,
            aligner: Aligner::new(),
            scanner: Scanner::default(),
            state,
        };
        Self {
            inner: ResumeBodyKind::Resumable {
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
            ResumeBodyKindProj::Pass { body } => body.poll_frame(cx).map_err(Into::into),
            ResumeBodyKindProj::Empty => Poll::Ready(None),
            ResumeBodyKindProj::Resumable { resumable } => resumable.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.inner {
            ResumeBodyKind::Pass { body } => body.is_end_stream(),
            ResumeBodyKind::Empty => true,
            ResumeBodyKind::Resumable { resumable } => {
                matches!(resumable.source, ResumeSource::Done)
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            ResumeBodyKind::Pass { body } => body.size_hint(),
            ResumeBodyKind::Empty => SizeHint::with_exact(0),
            ResumeBodyKind::Resumable { .. } => SizeHint::default(),
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
                ResumeSourceProj::Live { body } => Some(body.poll_frame(cx)),
                ResumeSourceProj::Replaced { body } => Some(body.as_mut().poll_frame(cx)),
                _ => None,
            };
            match this.source.as_mut().project() {
                ResumeSourceProj::Live { .. } | ResumeSourceProj::Replaced { .. } => {
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
                                ResumeDeadline::Replace => self.as_mut().start_replacement(),
                                ResumeDeadline::Switch => self.as_mut().switch_or_cancel(),
                                ResumeDeadline::Idle => {
                                    let idle = StreamError::Ended(EndReason::UpstreamIdle);
                                    self.as_mut().on_loss(idle.into());
                                }
                            }
                        }
                    }
                }
                ResumeSourceProj::Reconnecting { outcome } => {
                    let outcome = ready!(Pin::new(outcome).poll(cx));
                    self.as_mut().on_outcome(outcome);
                }
                ResumeSourceProj::NotStarted { error } => {
                    let error = error.take().unwrap_or_else(|| ResumeError::Ended.into());
                    self.as_mut().reconnect(error);
                    // The `Retry-After` of the failed response holds for the first attempt only.
                    self.as_mut().project().state.min_delay = Duration::ZERO;
                }
                ResumeSourceProj::Ending { event, trailers } => {
                    if let Some(event) = event.take() {
                        return Poll::Ready(Some(Ok(Frame::data(event))));
                    }
                    let trailers = trailers.take();
                    this.source.set(ResumeSource::Done);
                    return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
                }
                ResumeSourceProj::Failing { error } => {
                    let error = error.take();
                    this.source.set(ResumeSource::Done);
                    return Poll::Ready(error.map(Err));
                }
                ResumeSourceProj::Done => return Poll::Ready(None),
            }
        }
    }

    /// Waits for the next deadline while the upstream is silent.
    ///
    /// The timer is not reset with each byte. It fires at the deadline it was set to, and is set again if
    /// the deadline has moved since.
    fn wait(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<ResumeDeadline> {
        let mut this = self.project();
        let buffered = match this.successor {
            Some(Successor::Connected(connected)) => connected.memory(),
            Some(Successor::Connecting(_)) | None => 0,
        };
        let held = this.aligner.held() + this.state.memory() + buffered;
        this.state.reconnect.stream.set_held(held);
        loop {
            let idle = this.state.idle_at().map(|at| (at, ResumeDeadline::Idle));
            let old = this.state.replace_at.filter(|_| this.successor.is_none());
            let old = old.map(|at| (at, ResumeDeadline::Replace));
            let switch = match this.successor {
                Some(Successor::Connected(connected)) if this.state.at_boundary(this.aligner) => {
                    Some((connected.switch_at(), ResumeDeadline::Switch))
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
}

fn failing<B>(error: ResumeError) -> ResumeSource<B> {
    ResumeSource::Failing {
        error: Some(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::testing::ScriptedBody;

    #[test]
    fn resumable_body_takes_at_most_768_bytes() {
        let cost = size_of::<Resumable<ScriptedBody>>() - size_of::<ScriptedBody>();
        assert!(cost <= 768, "{cost}");
    }
}
