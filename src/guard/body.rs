//! The body of a guarded response.

use super::{At, BoxError, Breach, Ending, Policy, Rule, StreamError, Verdict};
use crate::stream::{EndReason, LONGEST_ID, Slot, Stream, UpstreamFault};
use crate::wire::{Aligner, RawEvent, Scanner, Seen};
use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep_until};

/// A pause between two polls that is worth the books. Shorter ones are the client taking what it
/// got.
const PAUSE: Duration = Duration::from_millis(10);

pin_project! {
    /// The body of a response that has passed a layer of this crate.
    ///
    /// Of an event stream it hands out whole events, and ours between them. Any other body it
    /// hands out as it is: frames, trailers, size hint and end.
    pub struct Guarded<B, R: Rule> {
        #[pin]
        source: Source<B>,
        #[pin]
        timer: Option<Sleep>,
        // Held to the end: permits and counts hang on it.
        policy: Option<R::Policy>,
        wire: Option<Wire>,
        state: State,
    }

    impl<B, R: Rule> PinnedDrop for Guarded<B, R> {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            if let (Some(wire), State::Open | State::Ending { .. }) = (this.wire, this.state) {
                wire.stream.end(match std::thread::panicking() {
                    true => EndReason::Panicked,
                    false => EndReason::ClientGone,
                });
            }
        }
    }
}

pin_project! {
    #[project = SourceProj]
    enum Source<B> {
        Inner { #[pin] body: B },
        Words { words: Option<Bytes> },
        Trailers { trailers: Option<HeaderMap> },
        Gone,
    }
}

enum State {
    Open,
    /// Nothing more is taken in; what is ready leaves, then this.
    Ending {
        // A box, as there is one of these in each stream.
        failure: Option<Box<StreamError>>,
    },
    Done,
}

/// What a stream needs beyond what passes through.
struct Wire {
    aligner: Aligner,
    /// Only where somebody wants to know of events.
    scanner: Option<Scanner>,
    /// Only the innermost guard keeps the stream's books.
    keeps_books: bool,
    stream: Stream,
    /// Where its waker is kept, if the policy wants to be woken.
    slot: Option<Slot>,
    /// The time of the last poll.
    now: Instant,
    /// The last poll handed something out, so that nobody waits for the upstream since.
    idle: bool,
    /// A deadline passed while bytes kept coming.
    overdue: bool,
    /// What is handed out next begins at a boundary.
    fresh: bool,
}

/// The last id in a piece, which may hold hundreds of events: the record is not to be locked for each.
struct LastId {
    came: bool,
    len: usize,
    bytes: [u8; LONGEST_ID],
}

impl Default for LastId {
    fn default() -> Self {
        Self {
            came: false,
            len: 0,
            bytes: [0; LONGEST_ID],
        }
    }
}

impl LastId {
    /// One that is too long leaves none.
    fn take(&mut self, id: Option<&[u8]>) {
        let Some(id) = id else { return };
        self.came = true;
        self.len = 0;
        if let Some(room) = self.bytes.get_mut(..id.len()) {
            room.copy_from_slice(id);
            self.len = id.len();
        }
    }
}

impl Wire {
    fn at(&self) -> At<'_> {
        At {
            now: self.now,
            stream: &self.stream,
            boundary: self.aligner.at_boundary(),
            line_end: self.aligner.line_end(),
        }
    }

    /// Whether just what comes leaves, and all of it has left.
    fn is_untouched(&self) -> bool {
        self.stream.is_opaque() && self.aligner.is_empty()
    }

    /// Whether the last poll handed something out.
    fn wake_up(&mut self) -> bool {
        let now = Instant::now();
        let pause = now.saturating_duration_since(self.now);
        let idle = std::mem::take(&mut self.idle);
        if idle && self.keeps_books && pause > PAUSE {
            self.stream.not_asked_for(pause);
        }
        self.now = now;
        idle
    }

    /// Whether what passes is the upstream's: behind an end that a layer inside has noted come that
    /// layer's last words.
    fn counts(&self) -> bool {
        self.keeps_books && self.stream.end_reason().is_none()
    }

    fn take_in(&mut self, chunk: Bytes) {
        if self.counts() && !chunk.is_empty() {
            self.stream.came(chunk.len(), self.now);
        }
        self.aligner.push(chunk);
    }

    fn hand_out(&mut self, piece: Bytes, policy: &mut impl Policy) -> Frame<Bytes> {
        let (counts, hears) = (self.counts(), policy.hears());
        if let Some(scanner) = &mut self.scanner
            && (counts || hears)
        {
            let (mut events, mut has_life) = (0, false);
            let mut id = LastId::default();
            let stream = &self.stream;
            let is_new = counts && stream.time_to_first_event().is_none();
            let tells_pings = is_new || stream.has_event_clock();
            scanner.scan_parts(&piece, |seen| match seen {
                Seen::Event(event) => {
                    id.take(event.id);
                    if event.has_data {
                        events += 1;
                        // Of many events in a piece, one that is life is enough.
                        let is_ping = !has_life && tells_pings && stream.is_ping(&event);
                        if !has_life && !is_ping {
                            has_life = true;
                            if is_new {
                                stream.learn(&event);
                            }
                        }
                    }
                    if hears {
                        policy.heard(stream, &event);
                    }
                }
                Seen::Part { bytes, is_first } => {
                    if is_new && is_first && !has_life {
                        stream.learn(&RawEvent::begun(bytes));
                    }
                    if hears {
                        policy.heard_part(stream, bytes, is_first);
                    }
                }
            });
            if counts {
                stream.came_events(events, has_life, self.now);
                if id.came {
                    stream.set_last_id(&id.bytes[..id.len]);
                }
            }
        }
        let piece = self.with_what_goes_ahead(piece, policy);
        self.sent(piece, policy)
    }

    fn with_what_goes_ahead(&mut self, piece: Bytes, policy: &mut impl Policy) -> Bytes {
        // Ahead of a comment it would stand alone, and a mark has to be the first of all.
        let is_event = !matches!(piece.first(), None | Some(b':' | b'\r' | b'\n' | 0xEF));
        let is_fresh = is_event && self.fresh;
        self.fresh = self.aligner.is_empty() && self.aligner.at_boundary();
        match is_fresh.then(|| policy.ahead(&self.stream, self.aligner.line_end())) {
            Some(Some(ahead)) => [ahead, piece].concat().into(),
            _ => piece,
        }
    }

    fn sent(&mut self, piece: Bytes, policy: &mut impl Policy) -> Frame<Bytes> {
        self.idle = true;
        policy.sent(&self.stream, self.now);
        self.overdue = policy
            .deadline(&self.at())
            .is_some_and(|deadline| deadline <= self.now);
        Frame::data(piece)
    }

    /// How to end: `ending`, but honest about an event of which the client has a part.
    fn end(
        &mut self,
        ending: Ending,
        policy: &mut impl Policy,
    ) -> (Option<Bytes>, Option<StreamError>) {
        let Ending {
            reason,
            last_words,
            abort,
        } = ending;
        let last_words = match last_words {
            None if abort => policy.parting(&self.at(), Breach::Broken(reason)),
            last_words => last_words,
        };
        let (last_words, torn) = self.stop(reason, last_words);
        let failure = (abort || torn).then_some(StreamError::Ended(reason));
        (last_words, failure)
    }

    /// The body inside has failed: what leaves yet, and how it ends.
    fn fail(
        &mut self,
        error: StreamError,
        policy: &mut impl Policy,
    ) -> (Option<Bytes>, Option<StreamError>) {
        let reason = error.reason();
        if reason == EndReason::UpstreamError {
            self.stream.end_by_fault(error.fault());
        }
        match policy.instead(&self.at(), reason) {
            Some(ending) => self.end(ending, policy),
            None => (self.break_off(Breach::Broken(reason), policy), Some(error)),
        }
    }

    /// What the client of a stream that breaks is told.
    fn break_off(&mut self, why: Breach, policy: &mut impl Policy) -> Option<Bytes> {
        let last_words = policy.parting(&self.at(), why);
        self.stop(why.reason(), last_words).0
    }

    /// The last words, which nobody hears in an event of which the client has a part, and whether it
    /// has.
    fn stop(&mut self, reason: EndReason, last_words: Option<Bytes>) -> (Option<Bytes>, bool) {
        let torn = !self.aligner.at_boundary();
        self.stream.end(reason);
        self.stream.dropped(self.aligner.discard());
        (last_words.filter(|_| !torn), torn)
    }

    /// The upstream has ended properly: what leaves yet, and then.
    fn close(&mut self, policy: &mut impl Policy) -> (Option<Bytes>, State) {
        if policy.is_short(&self.stream, self.aligner.tail()) {
            self.stream.end_by_fault(UpstreamFault::NoLastEvent);
            let words = self.break_off(Breach::Short, policy);
            let failure = Some(Box::new(StreamError::Ended(Breach::Short.reason())));
            return (words, State::Ending { failure });
        }
        self.stream.end(EndReason::UpstreamEnd);
        (self.aligner.finish(), State::Ending { failure: None })
    }
}

impl<B, R: Rule> Guarded<B, R> {
    fn new(source: Source<B>, policy: Option<R::Policy>, wire: Option<Wire>) -> Self {
        Self {
            source,
            timer: None,
            policy,
            wire,
            state: State::Open,
        }
    }

    /// Passed as it is, while the policy is held.
    pub(crate) fn carry(body: B, policy: Option<R::Policy>) -> Self {
        Self::new(Source::Inner { body }, policy, None)
    }

    /// An answer of our own.
    pub(crate) fn words(words: Bytes) -> Self {
        Self::new(Source::Words { words: Some(words) }, None, None)
    }

    /// An event stream.
    pub(crate) fn stream(
        body: B,
        policy: Option<R::Policy>,
        stream: Stream,
        keeps_books: bool,
        aligner: Aligner,
    ) -> Self {
        let hears = policy.as_ref().is_some_and(Policy::hears);
        let is_readable = !stream.is_opaque();
        let wire = Wire {
            aligner,
            scanner: (is_readable && (keeps_books || hears)).then(Scanner::default),
            keeps_books,
            now: stream.opened(),
            slot: policy
                .as_ref()
                .filter(|policy| policy.heeds())
                .map(|_| stream.slot()),
            stream,
            idle: true,
            overdue: false,
            fresh: is_readable,
        };
        Self::new(Source::Inner { body }, policy, Some(wire))
    }
}

/// An empty body, for layers that answer in place of the service, such as tower-http's `CorsLayer` and
/// `TimeoutLayer`.
impl<B, R: Rule> Default for Guarded<B, R> {
    fn default() -> Self {
        Self::new(Source::Gone, None, None)
    }
}

impl<B> Source<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    fn poll(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        match self.project() {
            SourceProj::Inner { body } => {
                let frame = ready!(body.poll_frame(cx));
                Poll::Ready(frame.map(|frame| frame.map_err(StreamError::from_inner)))
            }
            SourceProj::Words { words } => {
                Poll::Ready(words.take().map(|words| Ok(Frame::data(words))))
            }
            SourceProj::Trailers { trailers } => Poll::Ready(
                trailers
                    .take()
                    .map(|trailers| Ok(Frame::trailers(trailers))),
            ),
            SourceProj::Gone => Poll::Ready(None),
        }
    }

    /// The upstream has said that nothing follows.
    fn is_over(&self) -> bool {
        matches!(self, Self::Inner { body } if body.is_end_stream())
    }
}

impl<B, R> Body for Guarded<B, R>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
    R: Rule,
{
    type Data = Bytes;
    type Error = StreamError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        let mut this = self.project();
        let Some(wire) = this.wire else {
            let frame = ready!(this.source.as_mut().poll(cx));
            if !matches!(frame, Some(Ok(_))) {
                this.source.set(Source::Gone);
                *this.policy = None;
            }
            return Poll::Ready(frame);
        };
        let handed_out = wire.wake_up();
        loop {
            if let Some(piece) = wire.aligner.pop() {
                let frame = wire.hand_out(piece, this.policy);
                let is_over = wire.aligner.is_empty() && this.source.is_over();
                if is_over && !this.policy.is_short(&wire.stream, &[]) {
                    // Whoever knows its length drops the body here, without asking for its end.
                    wire.stream.end(EndReason::UpstreamEnd);
                }
                return Poll::Ready(Some(Ok(frame)));
            }
            match this.state {
                State::Open => {}
                State::Ending { failure: Some(_) } if handed_out => {
                    // hyper drops what it has not flushed when a body fails, and flushes when
                    // a body has nothing.
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                State::Ending { failure } => {
                    let failure = failure.take();
                    if let (None, SourceProj::Trailers { trailers }) =
                        (&failure, this.source.as_mut().project())
                        && let Some(trailers) = trailers.take()
                    {
                        return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                    }
                    *this.state = State::Done;
                    *this.policy = None;
                    this.timer.set(None);
                    return Poll::Ready(failure.map(|failure| Err(*failure)));
                }
                State::Done => return Poll::Ready(None),
            }
            let verdict = if std::mem::take(&mut wire.overdue) {
                this.policy.check(&wire.at())
            } else {
                Verdict::Wait
            };
            let verdict = match verdict {
                Verdict::Wait => {
                    match poll_noting_panics(&wire.stream, || this.source.as_mut().poll(cx)) {
                        Poll::Ready(Some(Ok(frame))) => {
                            match frame.into_data() {
                                Ok(chunk) => wire.take_in(chunk),
                                Err(frame) => {
                                    let trailers = frame.into_trailers().ok();
                                    this.source.set(Source::Trailers { trailers });
                                    let (tail, state) = wire.close(this.policy);
                                    *this.state = state;
                                    if let Some(tail) = tail {
                                        return Poll::Ready(Some(Ok(wire.sent(tail, this.policy))));
                                    }
                                }
                            }
                            continue;
                        }
                        Poll::Ready(None) => {
                            this.source.set(Source::Gone);
                            let (tail, state) = wire.close(this.policy);
                            *this.state = state;
                            if let Some(tail) = tail {
                                return Poll::Ready(Some(Ok(wire.sent(tail, this.policy))));
                            }
                            continue;
                        }
                        Poll::Ready(Some(Err(error))) => {
                            this.source.set(Source::Gone);
                            let (words, failure) = wire.fail(error, this.policy);
                            let failure = failure.map(Box::new);
                            *this.state = State::Ending { failure };
                            if let Some(words) = words {
                                return Poll::Ready(Some(Ok(wire.sent(words, this.policy))));
                            }
                            continue;
                        }
                        Poll::Pending => ready!(wait(wire, this.policy, this.timer.as_mut(), cx)),
                    }
                }
                verdict => verdict,
            };
            match verdict {
                Verdict::Wait => {}
                Verdict::Speak(words) => {
                    wire.aligner.injected();
                    return Poll::Ready(Some(Ok(wire.sent(words, this.policy))));
                }
                Verdict::End(ending) => {
                    let (last_words, failure) = wire.end(ending, this.policy);
                    let failure = failure.map(Box::new);
                    this.source.set(Source::Gone);
                    *this.state = State::Ending { failure };
                    if let Some(words) = last_words {
                        return Poll::Ready(Some(Ok(wire.sent(words, this.policy))));
                    }
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match (&self.wire, &self.source) {
            // We may have something to say where the upstream has not.
            (Some(_), _) => matches!(self.state, State::Done),
            (None, Source::Inner { body }) => body.is_end_stream(),
            (None, Source::Words { words }) => words.is_none(),
            (None, Source::Trailers { .. }) => false,
            (None, Source::Gone) => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.wire, &self.source) {
            // As its head may say: nothing is put into it.
            (Some(wire), Source::Inner { body }) if wire.is_untouched() => body.size_hint(),
            (Some(_), _) => SizeHint::default(),
            (None, Source::Inner { body }) => body.size_hint(),
            (None, Source::Words { words }) => {
                SizeHint::with_exact(words.as_ref().map_or(0, |words| words.len() as u64))
            }
            (None, Source::Trailers { .. } | Source::Gone) => SizeHint::with_exact(0),
        }
    }
}

/// Notes a panic as the reason to end, whatever catches it, or drops the body, further outside.
fn poll_noting_panics<T>(stream: &Stream, poll: impl FnOnce() -> T) -> T {
    struct OnPanic<'a>(&'a Stream);

    impl Drop for OnPanic<'_> {
        fn drop(&mut self) {
            self.0.end(EndReason::Panicked);
        }
    }

    let on_panic = OnPanic(stream);
    let polled = poll();
    std::mem::forget(on_panic);
    polled
}

/// The upstream has nothing: waits for what the policy wants next.
///
/// The timer is not moved with each byte. It fires at the deadline it was set to, and is set anew
/// if that has moved away meanwhile.
fn wait<P: Policy>(
    wire: &mut Wire,
    policy: &mut P,
    mut timer: Pin<&mut Option<Sleep>>,
    cx: &mut Context<'_>,
) -> Poll<Verdict> {
    if let Some(slot) = wire.slot {
        wire.stream.listen(slot, cx.waker());
    }
    // Else a layer inside does, which knows what it holds.
    if wire.aligner.holds_back() {
        wire.stream.set_held(wire.aligner.held());
    }
    loop {
        let Some(deadline) = policy.deadline(&wire.at()) else {
            return Poll::Pending;
        };
        if deadline <= wire.now {
            return match policy.check(&wire.at()) {
                // Nothing to be done now in spite of its word: the next byte asks again.
                Verdict::Wait => Poll::Pending,
                verdict => Poll::Ready(verdict),
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
        wire.now = Instant::now();
    }
}
