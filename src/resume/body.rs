//! The body of a stream that outlives its upstream.

use super::again::{Again, Answer, Asking, Schedule};
use super::books::{Books, Lost};
use super::successor::{Opened, Progress, Successor};
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

/// A connection that is lost within this time, and had nothing new to tell, was good for nothing: the waits
/// before the next ones double.
const FLAP: Duration = Duration::from_secs(5);

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
        Kept { kept: Pin<Box<Kept<B>>> },
    }
}

pin_project! {
    struct Kept<B> {
        #[pin]
        source: Source<B>,
        // In place of the upstream's connection, which has grown old.
        successor: Option<Successor<B>>,
        #[pin]
        timer: Option<Sleep>,
        aligner: Aligner,
        scanner: Scanner,
        books: Books<B>,
    }
}

pin_project! {
    #[project = SourceProj]
    #[project_replace = SourceOwn]
    enum Source<B> {
        Live { #[pin] body: B },
        // In place of a connection that had grown old.
        Replaced { body: Pin<Box<B>> },
        Asking { answer: Asking<B> },
        // The first request failed: the upstream is asked again when the stream is polled, as the layers
        // outside have named its client by then.
        Unasked { error: Option<BoxError> },
        // The last event, if there is one, then the trailers.
        Ending { event: Option<Bytes>, trailers: Option<HeaderMap> },
        Failing { error: Option<BoxError> },
        Over,
    }
}

/// What is due while the upstream has nothing to say.
enum Due {
    Idle,
    Old,
    Switch,
}

/// An empty body, for layers that answer in place of the service.
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
            Inner::Kept { kept } => match &kept.source {
                Source::Live { body } => Some(body),
                Source::Replaced { body } => Some(body),
                _ => None,
            },
        }
    }

    pub(super) fn pass(body: B) -> Self {
        Self {
            inner: Inner::Pass { body },
        }
    }

    /// `last_id` is what the client has asked with.
    pub(super) fn kept(body: B, again: Again<B>, last_id: Option<&[u8]>) -> Self {
        Self::starting(Source::Live { body }, Books::new(again, last_id))
    }

    /// One whose first request failed, of an upstream that wants to be left alone for `least`.
    pub(super) fn waiting(
        again: Again<B>,
        last_id: Option<&[u8]>,
        error: BoxError,
        least: Duration,
    ) -> Self {
        again.stream.set_state(StreamState::Resuming);
        let mut books = Books::new(again, last_id);
        books.least = least;
        Self::starting(Source::Unasked { error: Some(error) }, books)
    }

    fn starting(source: Source<B>, books: Books<B>) -> Self {
        let kept = Kept {
            source,
            successor: None,
            timer: None,
            aligner: Aligner::new(),
            scanner: Scanner::default(),
            books,
        };
        Self {
            inner: Inner::Kept {
                kept: Box::pin(kept),
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
            InnerProj::Kept { kept } => kept.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.inner {
            Inner::Pass { body } => body.is_end_stream(),
            Inner::Empty => true,
            Inner::Kept { kept } => matches!(kept.source, Source::Over),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Inner::Pass { body } => body.size_hint(),
            Inner::Empty => SizeHint::with_exact(0),
            Inner::Kept { .. } => SizeHint::default(),
        }
    }
}

impl<B> Kept<B>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let now = self.as_mut().project().books.wake_up();
        loop {
            let mut this = self.as_mut().project();
            while let Some(piece) = this.aligner.pop() {
                let whole = this.aligner.at_boundary();
                match this.books.take(this.scanner, piece, whole) {
                    Ok(piece) if piece.is_empty() => {}
                    Ok(piece) => {
                        this.books.handed_out = true;
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
                                this.books.heard = now;
                                this.aligner.push(chunk);
                            }
                            Err(frame) => self.as_mut().ended(frame.into_trailers().ok()),
                        },
                        Poll::Ready(Some(Err(error))) => self.as_mut().broke(error.into()),
                        Poll::Ready(None) => self.as_mut().ended(None),
                        Poll::Pending => {
                            if self.as_mut().poll_successor(cx) {
                                continue;
                            }
                            match ready!(self.as_mut().wait(cx)) {
                                Due::Old => self.as_mut().replace(),
                                Due::Switch => self.as_mut().switch_or_stay(),
                                Due::Idle => {
                                    let idle = StreamError::Ended(EndReason::UpstreamIdle);
                                    self.as_mut().broke(idle.into());
                                }
                            }
                        }
                    }
                }
                SourceProj::Asking { answer } => {
                    let answer = ready!(Pin::new(answer).poll(cx));
                    self.as_mut().answered(answer);
                }
                SourceProj::Unasked { error } => {
                    let error = error.take().unwrap_or_else(|| ResumeError::Ended.into());
                    self.as_mut().go_on(error);
                    // What the failed answer wanted is no wish of the stream.
                    self.as_mut().project().books.least = Duration::ZERO;
                }
                SourceProj::Ending { event, trailers } => {
                    if let Some(event) = event.take() {
                        return Poll::Ready(Some(Ok(Frame::data(event))));
                    }
                    let trailers = trailers.take();
                    this.source.set(Source::Over);
                    return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
                }
                SourceProj::Failing { error } => {
                    let error = error.take();
                    this.source.set(Source::Over);
                    return Poll::Ready(error.map(Err));
                }
                SourceProj::Over => return Poll::Ready(None),
            }
        }
    }

    /// The upstream has nothing to say for now: waits until that takes too long, or has gone on for
    /// long enough.
    ///
    /// The timer is not moved with each byte. It fires at the deadline it was set to, and is set anew
    /// if that has moved away meanwhile.
    fn wait(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Due> {
        let mut this = self.project();
        let ahead = match this.successor {
            Some(Successor::Open(opened)) => opened.memory(),
            Some(Successor::Asking(_)) | None => 0,
        };
        let held = this.aligner.held() + this.books.memory() + ahead;
        this.books.again.stream.set_held(held);
        loop {
            let idle = this.books.idle_at().map(|at| (at, Due::Idle));
            let old = this.books.old_at.filter(|_| this.successor.is_none());
            let old = old.map(|at| (at, Due::Old));
            let switch = match this.successor {
                Some(Successor::Open(opened)) if this.books.at_boundary(this.aligner) => {
                    Some((opened.due(), Due::Switch))
                }
                _ => None,
            };
            let first = [idle, old, switch].into_iter().flatten();
            let Some((at, due)) = first.min_by_key(|(at, _)| *at) else {
                return Poll::Pending;
            };
            if at <= this.books.polled {
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
            this.books.polled = Instant::now();
        }
    }

    /// The upstream has ended its response properly.
    fn ended(mut self: Pin<&mut Self>, trailers: Option<HeaderMap>) {
        // An upstream that serves one connection of a client ends the old one when the new one comes.
        if self.as_mut().switch() {
            return;
        }
        let books = &self.books;
        if books.config().on_end && books.may_go_on(&self.aligner) {
            return self.go_on(ResumeError::Ended.into());
        }
        let mut this = self.project();
        // What it is worth is the client's business.
        let event = this.aligner.finish();
        *this.successor = None;
        this.source.set(Source::Ending { event, trailers });
    }

    /// The upstream has gone.
    fn broke(mut self: Pin<&mut Self>, error: BoxError) {
        if self.as_mut().switch() {
            return;
        }
        if self.books.may_go_on(&self.aligner) {
            return self.go_on(error);
        }
        let mut this = self.project();
        let dropped = this.books.discard(this.aligner);
        this.books.again.stream.add_dropped(dropped);
        *this.successor = None;
        this.source.set(Source::Failing { error: Some(error) });
    }

    /// Asks the upstream to go on.
    fn go_on(self: Pin<&mut Self>, error: BoxError) {
        let mut this = self.project();
        let books = this.books;
        let dropped = books.discard(this.aligner);
        let stream = &books.again.stream;
        stream.set_state(StreamState::Resuming);
        stream.add_dropped(dropped);
        stream.set_held(books.cursor.memory());
        tracing::debug!(stream = %stream.id(), error, "the upstream was lost: reconnecting");
        let at = books.polled;
        let lived = at.saturating_duration_since(books.up);
        let is_flap = books.away_since.is_some() && lived < FLAP;
        books.flaps = if is_flap {
            books.flaps.saturating_add(1)
        } else {
            0
        };
        if lived >= books.config().stable {
            books.tries = 0;
            books.away_since = None;
        }
        books.lost = Some(Lost { at, error });
        let since = *books.away_since.get_or_insert(at);
        // It was asked to go on from further back.
        *this.successor = None;
        books.cursor.no_overlap();
        let until = since + books.config().give_up;
        let schedule = Schedule {
            tries: books.tries,
            flaps: books.flaps,
            least: books.least,
            until,
            is_replacement: false,
        };
        let answer = books.again.clone().ask(books.cursor.last_id(), schedule);
        this.source.set(Source::Asking { answer });
    }

    fn answered(self: Pin<&mut Self>, answer: Answer<B>) {
        let outcome = match answer {
            Answer::Open(body, tries) => {
                self.open(Source::Live { body }, tries);
                ResumeOutcome::Resumed
            }
            Answer::Over => {
                self.project().source.set(Source::Ending {
                    event: None,
                    trailers: None,
                });
                ResumeOutcome::Over
            }
            Answer::Refused(status) => {
                self.refused(status);
                ResumeOutcome::Refused
            }
            Answer::GaveUp => {
                let mut this = self.project();
                let error = this.books.lost.take().map(|lost| lost.error);
                this.source.set(Source::Failing { error });
                ResumeOutcome::GaveUp
            }
        };
        metrics::counter!("sse_guard_resumes_total", "outcome" => outcome.as_str()).increment(1);
    }

    /// The stream goes on in this body.
    fn open(self: Pin<&mut Self>, source: Source<B>, tries: u32) {
        let mut this = self.project();
        let books = this.books;
        let now = Instant::now();
        if let Some(lost) = books.lost.take() {
            let took = now.saturating_duration_since(lost.at);
            metrics::histogram!("sse_guard_resume_seconds").record(took);
        }
        books.again.stream.set_state(StreamState::Open);
        books.cursor.check_overlap();
        books.tries = tries;
        (books.heard, books.lived, books.up) = (now, now, now);
        books.old_at = books.config().old_at(now);
        *this.scanner = Scanner::default();
        *this.aligner = Aligner::new();
        // What a mark at the start of it would stand behind.
        this.aligner.injected();
        this.source.set(source);
    }

    /// The upstream does not want the stream to go on, which the client is told.
    fn refused(self: Pin<&mut Self>, status: StatusCode) {
        let mut this = self.project();
        let error = ResumeError::Refused(status);
        this.books.again.stream.end_by_fault(UpstreamFault::Refused);
        let event = {
            let family = this.books.again.request_info.family;
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

    /// The upstream's connection is old: another one is asked for while it goes on.
    fn replace(mut self: Pin<&mut Self>) {
        let this = self.as_mut().project();
        let books = this.books;
        // Tried again later, whatever comes of it.
        books.old_at = books.config().old_at(books.polled);
        if !books.config().lossy && !books.cursor.is_known() {
            return;
        }
        books.ahead = 0;
        books.cursor.overlap();
        let until = books.polled + books.config().give_up;
        let schedule = Schedule {
            tries: 0,
            flaps: 0,
            least: Duration::ZERO,
            until,
            is_replacement: true,
        };
        let again = books.again.clone();
        let asking = again.ask(books.cursor.last_id(), schedule);
        *this.successor = Some(Successor::Asking(asking));
    }

    /// The old connection has nothing for now: whether it is to be read again, or another one has taken over.
    fn poll_successor(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> bool {
        let this = self.as_mut().project();
        let books = this.books;
        if let Some(Successor::Asking(asking)) = this.successor {
            let Poll::Ready(answer) = Pin::new(asking).poll(cx) else {
                return false;
            };
            *this.successor = match answer {
                Answer::Open(body, _) => {
                    let opened = Opened::new(body, books.ahead, Instant::now());
                    Some(Successor::Open(Box::new(opened)))
                }
                // The old one is still good.
                Answer::Over | Answer::Refused(_) | Answer::GaveUp => {
                    books.cursor.no_overlap();
                    None
                }
            };
        }
        let Some(Successor::Open(opened)) = this.successor else {
            return false;
        };
        match opened.poll(cx, |event| books.mark(event).hash_news()) {
            Progress::Waiting => return false,
            Progress::Ended => {
                self.stay();
                return false;
            }
            Progress::Ready => {}
        }
        // What the old one has sent ahead of that comes first.
        if !std::mem::replace(&mut opened.is_old_read, true) {
            return true;
        }
        // Where no id tells, the same event has to have come on both: the old one may be a little behind.
        let is_told = books.cursor.last_id().is_some()
            || opened
                .first()
                .is_none_or(|first| books.cursor.has_both(first));
        is_told && self.switch()
    }

    /// The new connection takes over, if there is one, and the client has no half of an event. It repeats no
    /// more than can be told apart, or it is not taken.
    fn switch(mut self: Pin<&mut Self>) -> bool {
        let this = self.as_mut().project();
        let books = this.books;
        let is_open = matches!(this.successor, Some(Successor::Open(_)));
        if !is_open || !books.at_boundary(this.aligner) {
            return false;
        }
        let Some(Successor::Open(opened)) = this.successor.take() else {
            return false;
        };
        if books.ahead > books.config().look_back {
            self.stay();
            return false;
        }
        let dropped = books.discard(this.aligner);
        books.again.stream.add_dropped(dropped);
        metrics::counter!("sse_guard_upstream_replacements_total").increment(1);
        let Opened { body, read, .. } = *opened;
        self.as_mut().open(Source::Replaced { body }, 0);
        self.project().aligner.push(read.freeze());
        true
    }

    /// Both have been read for long enough: the new one is taken, unless it is silent about what the old one
    /// has delivered meanwhile.
    fn switch_or_stay(mut self: Pin<&mut Self>) {
        let is_behind = |opened: &Opened<B>| {
            opened.first().is_none() && opened.read.is_empty() && opened.ahead < self.books.ahead
        };
        let is_taken = match &self.successor {
            Some(Successor::Open(opened)) => !is_behind(opened),
            _ => false,
        };
        if !is_taken || !self.as_mut().switch() {
            self.stay();
        }
    }

    /// The old connection goes on, until the next one is due.
    fn stay(self: Pin<&mut Self>) {
        let this = self.project();
        *this.successor = None;
        this.books.cursor.no_overlap();
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
    fn a_stream_stays_small() {
        let cost = size_of::<Kept<Script>>() - size_of::<Script>();
        assert!(cost <= 768, "{cost}");
    }
}
