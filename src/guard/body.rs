//! The body of a guarded response.

use super::events::Events;
use super::source::{GuardedSource, GuardedSourceProj};
use super::{BoxError, Policy, Reaction, StreamError, StreamLayer};
use crate::stream::{EndReason, Stream};
use crate::wire::Aligner;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::time::{Instant, Sleep, sleep_until};

pin_project! {
    /// The body of a response that has passed a layer of this crate.
    ///
    /// For an event stream it returns whole events, and injected ones between them. Any other body passes
    /// unchanged: frames, trailers, size hint and end.
    pub struct Guarded<B, L: StreamLayer> {
        #[pin]
        source: GuardedSource<B>,
        #[pin]
        timer: Option<Sleep>,
        // Held to the end: permits and counts depend on it.
        policy: Option<L::Policy>,
        // Of an event stream only.
        events: Option<Events>,
        state: GuardedState,
    }

    impl<B, L: StreamLayer> PinnedDrop for Guarded<B, L> {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            if let (Some(events), GuardedState::Open | GuardedState::Ending { .. }) = (this.events, this.state) {
                events.stream.end(match std::thread::panicking() {
                    true => EndReason::Panicked,
                    false => EndReason::ClientGone,
                });
            }
        }
    }
}

enum GuardedState {
    Open,
    /// The source is not read again. Complete pieces are returned, then the error, or a proper end.
    Ending {
        // Boxed to keep a stream small.
        error: Option<Box<StreamError>>,
    },
    Done,
}

impl<B, L: StreamLayer> Guarded<B, L> {
    /// Returns the body inside; `None` once it is over, and for a response of this crate.
    ///
    /// It cannot be changed or taken: held parts of an event would be lost.
    pub fn get_ref(&self) -> Option<&B> {
        match &self.source {
            GuardedSource::Inner { body } => Some(body),
            GuardedSource::Fixed { .. } | GuardedSource::Trailers { .. } | GuardedSource::Done => {
                None
            }
        }
    }

    fn new(source: GuardedSource<B>, policy: Option<L::Policy>, events: Option<Events>) -> Self {
        Self {
            source,
            timer: None,
            policy,
            events,
            state: GuardedState::Open,
        }
    }

    /// Passes `body` as it is, and holds the policy until its end.
    pub(crate) fn carry(body: B, policy: Option<L::Policy>) -> Self {
        Self::new(GuardedSource::Inner { body }, policy, None)
    }

    /// The body of a response of this crate.
    pub(crate) fn fixed(bytes: Bytes) -> Self {
        Self::new(GuardedSource::Fixed { bytes: Some(bytes) }, None, None)
    }

    /// An event stream. `is_recorder`: this guard is the innermost one, and writes the record.
    pub(crate) fn stream(
        body: B,
        policy: Option<L::Policy>,
        stream: Stream,
        is_recorder: bool,
        aligner: Aligner,
    ) -> Self {
        let events = Events::new(policy.as_ref(), stream, is_recorder, aligner);
        Self::new(GuardedSource::Inner { body }, policy, Some(events))
    }
}

/// An empty body, for layers that respond in place of the service, such as tower-http's `CorsLayer` and
/// `TimeoutLayer`.
impl<B, L: StreamLayer> Default for Guarded<B, L> {
    fn default() -> Self {
        Self::new(GuardedSource::Done, None, None)
    }
}

impl<B, L> Body for Guarded<B, L>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
    L: StreamLayer,
{
    type Data = Bytes;
    type Error = StreamError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        let mut this = self.project();
        let Some(events) = this.events else {
            let frame = ready!(this.source.as_mut().poll(cx));
            if !matches!(frame, Some(Ok(_))) {
                this.source.set(GuardedSource::Done);
                *this.policy = None;
            }
            return Poll::Ready(frame);
        };
        let handed_out = events.begin_poll();
        'frames: loop {
            if let Some(piece) = events.aligner.pop() {
                let frame = events.hand_out(piece, this.policy);
                if events.aligner.is_empty() && this.source.is_over() {
                    events.note_end(this.policy);
                }
                return Poll::Ready(Some(Ok(frame)));
            }
            match this.state {
                GuardedState::Open => {}
                GuardedState::Ending { error: Some(_) } if handed_out => {
                    // hyper drops what it has not flushed when a body fails, and flushes when
                    // a body is pending.
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                GuardedState::Ending { error } => {
                    let error = error.take();
                    if let (None, GuardedSourceProj::Trailers { trailers }) =
                        (&error, this.source.as_mut().project())
                        && let Some(trailers) = trailers.take()
                    {
                        return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                    }
                    *this.state = GuardedState::Done;
                    *this.policy = None;
                    this.timer.set(None);
                    return Poll::Ready(error.map(|error| Err(*error)));
                }
                GuardedState::Done => return Poll::Ready(None),
            }
            let (closing, error) = 'end: {
                let reaction = match std::mem::take(&mut events.overdue) {
                    true => this.policy.check(&events.context()),
                    false => Reaction::Pass,
                };
                let reaction = match reaction {
                    Reaction::Pass => {
                        match poll_noting_panics(&events.stream, || this.source.as_mut().poll(cx)) {
                            Poll::Pending => {
                                ready!(wait(events, this.policy, this.timer.as_mut(), cx))
                            }
                            Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                                Ok(chunk) => {
                                    events.push(chunk);
                                    continue 'frames;
                                }
                                Err(frame) => {
                                    let trailers = frame.into_trailers().ok();
                                    this.source.set(GuardedSource::Trailers { trailers });
                                    break 'end events.close(this.policy);
                                }
                            },
                            Poll::Ready(Some(Err(error))) => {
                                this.source.set(GuardedSource::Done);
                                break 'end events.fail(error, this.policy);
                            }
                            Poll::Ready(None) => {
                                this.source.set(GuardedSource::Done);
                                break 'end events.close(this.policy);
                            }
                        }
                    }
                    reaction => reaction,
                };
                match reaction {
                    Reaction::Inject(bytes) => {
                        events.aligner.injected();
                        return Poll::Ready(Some(Ok(events.sent(bytes, this.policy))));
                    }
                    Reaction::End(ending) => {
                        let end = events.end(ending, this.policy);
                        // Only after the end is recorded: a guard inside treats its drop as a lost client.
                        this.source.set(GuardedSource::Done);
                        end
                    }
                    Reaction::Pass | Reaction::Truncated => continue 'frames,
                }
            };
            let error = error.map(Box::new);
            *this.state = GuardedState::Ending { error };
            if let Some(closing) = closing {
                return Poll::Ready(Some(Ok(events.sent(closing, this.policy))));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match (&self.events, &self.source) {
            // A policy may inject after the upstream's last event.
            (Some(_), _) => matches!(self.state, GuardedState::Done),
            (None, GuardedSource::Inner { body }) => body.is_end_stream(),
            (None, GuardedSource::Fixed { bytes }) => bytes.is_none(),
            (None, GuardedSource::Trailers { .. }) => false,
            (None, GuardedSource::Done) => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.events, &self.source) {
            // Its head may have a length: nothing is injected.
            (Some(events), GuardedSource::Inner { body }) if events.is_untouched() => {
                body.size_hint()
            }
            (Some(_), _) => SizeHint::default(),
            (None, GuardedSource::Inner { body }) => body.size_hint(),
            (None, GuardedSource::Fixed { bytes }) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            (None, GuardedSource::Trailers { .. } | GuardedSource::Done) => SizeHint::with_exact(0),
        }
    }
}

/// Records a panic as the end reason, before a layer outside catches it or drops the body.
fn poll_noting_panics<T>(stream: &Stream, poll: impl FnOnce() -> T) -> T {
    struct EndOnPanic<'a>(&'a Stream);

    impl Drop for EndOnPanic<'_> {
        fn drop(&mut self) {
            self.0.end(EndReason::Panicked);
        }
    }

    let on_panic = EndOnPanic(stream);
    let polled = poll();
    std::mem::forget(on_panic);
    polled
}

/// The upstream is pending: waits for the policy's deadline.
///
/// The timer is not reset with each byte. It fires at the deadline it was set to, and is set again if
/// the deadline has moved since.
fn wait<P: Policy>(
    events: &mut Events,
    policy: &mut P,
    mut timer: Pin<&mut Option<Sleep>>,
    cx: &mut Context<'_>,
) -> Poll<Reaction> {
    events.park(cx.waker());
    loop {
        let Some(deadline) = policy.deadline(&events.context()) else {
            return Poll::Pending;
        };
        if deadline <= events.now {
            return match policy.check(&events.context()) {
                // The policy does not act at its deadline: the next byte leads to the next check.
                Reaction::Pass => Poll::Pending,
                reaction => Poll::Ready(reaction),
            };
        }
        match timer.as_mut().as_pin_mut() {
            None => timer.set(Some(sleep_until(deadline))),
            Some(sleep) if sleep.is_elapsed() || sleep.deadline() > deadline => {
                sleep.reset(deadline);
            }
            Some(_) => {}
        }
        if let Some(sleep) = timer.as_mut().as_pin_mut() {
            ready!(sleep.poll(cx));
        }
        events.now = Instant::now();
    }
}
