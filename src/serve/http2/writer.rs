//! Writes the body of a response.

use super::requests::ConnectionState;
use crate::guard::BoxError;
use crate::serve::stall::StallTimer;
use crate::stream::{EndReason, Stream, WakerSlot};
use bytes::{Bytes, BytesMut};
use h2::{Reason, SendStream};
use http::HeaderMap;
use http_body::Body;
use pin_project_lite::pin_project;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

/// Pieces are joined up to this size: a larger one costs more to copy than a frame of its own. The stream sends the next
/// batch of this size once the connection has written.
const LARGE_BATCH: usize = 4 * 1024;
/// Maximum number of batches in one poll, so that a client that reads everything at once does not delay others.
const MAX_BATCHES_PER_POLL: usize = 16;

pin_project! {
    /// Resolves when the stream has ended.
    pub(super) struct BodyWriter<B> {
        #[pin]
        body: Option<B>,
        send: SendStream<Bytes>,
        connection: StreamConnection,
        // The round of the connection in which the last large batch was sent.
        large_batch_in: u32,
        stream: Option<Stream>,
        // Set once output had to wait for the client.
        waker_slot: Option<WakerSlot>,
        // The part of a batch for which the client has no window.
        unsent: Bytes,
        end: Option<BodyEnd>,
        stall_timeout: Option<Duration>,
        // A box, because only a client that does not read has one.
        stall_timer: Option<Pin<Box<StallTimer>>>,
    }

    impl<B> PinnedDrop for BodyWriter<B> {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            // The drop of the body would end the stream as `ClientGone`.
            if let Some(stream) = &*this.stream
                && this.connection.is_event_stream
                && this.connection.state.io.is_stalled()
            {
                stream.end(EndReason::ClientStalled);
            }
        }
    }
}

enum BodyEnd {
    Complete,
    // A box, because few responses have trailers.
    Trailers(Box<HeaderMap>),
    /// The stream must not end properly.
    Broken,
    /// The same; the end was reached in this round of the connection.
    BrokenIn(u32),
}

/// The connection of a stream. Counts it as an event stream while it lives, if it is one.
pub(super) struct StreamConnection {
    state: Arc<ConnectionState>,
    is_event_stream: bool,
}

impl StreamConnection {
    pub(super) fn new(state: Arc<ConnectionState>, is_event_stream: bool) -> Self {
        if is_event_stream {
            state.io.add_http2_stream();
        }
        Self {
            state,
            is_event_stream,
        }
    }
}

impl Drop for StreamConnection {
    fn drop(&mut self) {
        if self.is_event_stream {
            self.state.io.remove_http2_stream();
        }
    }
}

/// The client has reset the stream, or the connection has ended.
struct Gone;

impl<B> BodyWriter<B> {
    pub(super) fn new(
        body: B,
        send: SendStream<Bytes>,
        connection: StreamConnection,
        stream: Option<Stream>,
        stall_timeout: Option<Duration>,
    ) -> Self {
        Self {
            body: Some(body),
            send,
            connection,
            large_batch_in: 0,
            stream,
            waker_slot: None,
            unsent: Bytes::new(),
            end: None,
            stall_timeout,
            stall_timer: None,
        }
    }
}

impl<B> Future for BodyWriter<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let connection = &self.connection.state;
        if !connection.may_poll() || connection.round() == self.large_batch_in {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        // The body's drop records the reason.
        if self.as_mut().project().send.poll_reset(cx).is_ready() {
            self.as_mut().project().body.set(None);
            return Poll::Ready(());
        }
        for _ in 0..MAX_BATCHES_PER_POLL {
            match ready!(self.as_mut().poll_unsent(cx)) {
                Ok(()) => {}
                Err(Gone) => {
                    self.as_mut().project().body.set(None);
                    return Poll::Ready(());
                }
            }
            if self.end.is_some() {
                return Poll::Ready(());
            }
            if self.large_batch_in == self.connection.state.round() {
                break;
            }
            let is_body_pending = self.as_mut().poll_body(cx);
            if self.unsent.is_empty() && self.end.is_none() && is_body_pending {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<B> BodyWriter<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    /// Takes what is ready from the body. Returns true if the body is pending.
    fn poll_body(self: Pin<&mut Self>, cx: &mut Context<'_>) -> bool {
        let mut this = self.project();
        let mut batch = Batch::default();
        let mut is_pending = false;
        while this.end.is_none() && batch.len() < LARGE_BATCH {
            let Some(body) = this.body.as_mut().as_pin_mut() else {
                break;
            };
            match body.poll_frame(cx) {
                Poll::Pending => {
                    is_pending = true;
                    break;
                }
                Poll::Ready(None) => *this.end = Some(BodyEnd::Complete),
                Poll::Ready(Some(Err(error))) => {
                    tracing::debug!(error = error.into(), "a response is broken off");
                    *this.end = Some(BodyEnd::Broken);
                }
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(piece) => batch.push(piece),
                    Err(frame) => {
                        if let Ok(trailers) = frame.into_trailers() {
                            *this.end = Some(BodyEnd::Trailers(Box::new(trailers)));
                        }
                    }
                },
            }
        }
        if this.end.is_none()
            && this
                .body
                .as_ref()
                .as_pin_ref()
                .is_some_and(|body| body.is_end_stream())
        {
            *this.end = Some(BodyEnd::Complete);
        }
        if this.end.is_some() {
            // Permits and counts end with the stream, not when its last byte is written.
            this.body.set(None);
        }
        *this.unsent = batch.into_bytes();
        is_pending
    }

    /// Sends what is unsent, and the end after it, as far as the client's window allows.
    fn poll_unsent(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        let this = self.project();
        while !this.unsent.is_empty() {
            let mut capacity = this.send.capacity();
            if capacity == 0 {
                this.send.reserve_capacity(this.unsent.len());
                capacity = this.send.capacity();
            }
            if capacity == 0 {
                match this.send.poll_capacity(cx) {
                    Poll::Ready(Some(Ok(granted))) => capacity = granted,
                    Poll::Ready(_) => return Poll::Ready(Err(Gone)),
                    Poll::Pending => {
                        if this.stall_timer.is_none() {
                            // A piece may be a part of a larger buffer, which must not be kept for a slow client.
                            *this.unsent = Bytes::copy_from_slice(this.unsent);
                        }
                        ready!(poll_stalled(
                            this.stall_timer,
                            *this.stall_timeout,
                            this.unsent.len(),
                            this.stream.as_ref(),
                            this.waker_slot,
                            cx
                        ));
                        tracing::debug!("a client does not read a stream, which is reset");
                        if let Some(stream) = &*this.stream {
                            stream.end(EndReason::ClientStalled);
                        }
                        this.send.send_reset(Reason::CANCEL);
                        return Poll::Ready(Err(Gone));
                    }
                }
            }
            let len = capacity.min(this.unsent.len());
            this.connection.state.add_sent(len);
            if len >= LARGE_BATCH {
                *this.large_batch_in = this.connection.state.round();
            }
            let data = this.unsent.split_to(len);
            let is_last = this.unsent.is_empty() && matches!(this.end, Some(BodyEnd::Complete));
            if this.send.send_data(data, is_last).is_err() {
                return Poll::Ready(Err(Gone));
            }
            if is_last {
                return Poll::Ready(Ok(()));
            }
            if let Some(timer) = this.stall_timer
                && timer.as_mut().is_satisfied_by(len)
            {
                *this.stall_timer = None;
            }
            if this.waker_slot.is_some()
                && let Some(stream) = &*this.stream
            {
                stream.set_unsent(this.unsent.len());
            }
        }
        // A reset discards what the connection has not written, be it the head.
        let round = this.connection.state.round();
        if matches!(this.end, Some(BodyEnd::Broken)) {
            *this.end = Some(BodyEnd::BrokenIn(round));
        }
        if matches!(this.end, Some(BodyEnd::BrokenIn(reached)) if *reached == round) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        // Fails only if the stream has ended.
        let _ = match this.end.take() {
            None => return Poll::Ready(Ok(())),
            Some(BodyEnd::Complete) => this.send.send_data(Bytes::new(), true),
            Some(BodyEnd::Trailers(trailers)) => this.send.send_trailers(*trailers),
            Some(BodyEnd::Broken | BodyEnd::BrokenIn(_)) => {
                this.send.send_reset(Reason::INTERNAL_ERROR);
                Ok(())
            }
        };
        *this.end = Some(BodyEnd::Complete);
        Poll::Ready(Ok(()))
    }
}

/// Ready when the client has not read in time, or the stream is shed. Waits for a window that is closed.
fn poll_stalled(
    timer: &mut Option<Pin<Box<StallTimer>>>,
    timeout: Option<Duration>,
    waiting: usize,
    stream: Option<&Stream>,
    waker_slot: &mut Option<WakerSlot>,
    cx: &mut Context<'_>,
) -> Poll<()> {
    if let Some(stream) = stream {
        // The body is not polled meanwhile, and so registers no waker.
        let slot = waker_slot.get_or_insert_with(|| stream.waker_slot());
        stream.register_waker(*slot, cx.waker());
        stream.set_unsent(waiting);
        if stream.is_shed() {
            return Poll::Ready(());
        }
    }
    let Some(timeout) = timeout else {
        return Poll::Pending;
    };
    let timer = timer.get_or_insert_with(|| Box::pin(StallTimer::new(timeout, waiting)));
    timer.as_mut().poll_expired(cx)
}

/// Pieces of a body that leave in one frame.
#[derive(Default)]
struct Batch {
    first: Bytes,
    /// All pieces, if there are several.
    joined: BytesMut,
}

impl Batch {
    fn len(&self) -> usize {
        self.first.len().max(self.joined.len())
    }

    fn push(&mut self, piece: Bytes) {
        if self.len() == 0 {
            self.first = piece;
            return;
        }
        if self.joined.is_empty() {
            self.joined
                .reserve(LARGE_BATCH.max(self.first.len() + piece.len()));
            self.joined.extend_from_slice(&self.first);
        }
        self.joined.extend_from_slice(&piece);
    }

    fn into_bytes(self) -> Bytes {
        match self.joined.is_empty() {
            true => self.first,
            false => self.joined.freeze(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batch_joins_pieces_and_copies_no_single_one() {
        let mut batch = Batch::default();
        let piece = Bytes::from(vec![1; 10]);
        batch.push(Bytes::new());
        batch.push(piece.clone());
        assert_eq!(batch.len(), 10);
        assert_eq!(batch.into_bytes().as_ptr(), piece.as_ptr());
        let mut batch = Batch::default();
        for piece in ["a", "bc", "", "d"] {
            batch.push(piece.into());
        }
        assert_eq!((batch.len(), batch.into_bytes()), (4, "abcd".into()));
    }
}
