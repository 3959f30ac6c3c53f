//! Writes the body of a response.

use crate::guard::BoxError;
use crate::serve::client_io::ClientIo;
use crate::serve::stall::StallTimer;
use crate::stream::{EndReason, Stream, WakerSlot};
use bytes::{Bytes, BytesMut};
use h2::{Reason, SendStream};
use http::HeaderMap;
use http_body::Body;
use pin_project_lite::pin_project;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

/// A batch of this size is written without waiting for more pieces. The size of a DATA frame, RFC 9113 section 4.2.
const BATCH_SIZE: usize = 16 * 1024;
/// Maximum number of batches in one poll, so that a client that reads everything at once does not delay others.
const MAX_BATCHES_PER_POLL: usize = 16;

pin_project! {
    /// Resolves when the stream has ended.
    pub(super) struct BodyWriter<B> {
        #[pin]
        body: Option<B>,
        send: SendStream<Bytes>,
        stream: Option<Stream>,
        // Set once output had to wait for the client.
        waker_slot: Option<WakerSlot>,
        // The part of a batch for which the client has no window.
        unsent: Bytes,
        end: Option<BodyEnd>,
        stall_timeout: Option<Duration>,
        // A box, because only a client that does not read has one.
        stall_timer: Option<Pin<Box<StallTimer>>>,
        // Dropped with the body's writer.
        event_stream: Option<EventStream>,
    }

    impl<B> PinnedDrop for BodyWriter<B> {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            // The drop of the body would end the stream as `ClientGone`.
            if let (Some(stream), Some(event_stream)) = (&*this.stream, &*this.event_stream)
                && event_stream.io.is_stalled()
            {
                stream.end(EndReason::ClientStalled);
            }
        }
    }
}

enum BodyEnd {
    Complete,
    Trailers(HeaderMap),
    /// The stream must not end properly.
    Broken,
    /// As `Broken`, and what was sent before has been written as far as the client takes it.
    Flushed,
}

/// Counts the event streams of a connection while it lives.
pub(super) struct EventStream {
    io: ClientIo,
}

impl EventStream {
    pub(super) fn new(io: &ClientIo) -> Self {
        io.add_http2_stream();
        Self { io: io.clone() }
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        self.io.remove_http2_stream();
    }
}

/// The client has reset the stream, or the connection has ended.
struct Gone;

impl<B> BodyWriter<B> {
    pub(super) fn new(
        body: B,
        send: SendStream<Bytes>,
        stream: Option<Stream>,
        event_stream: Option<EventStream>,
        stall_timeout: Option<Duration>,
    ) -> Self {
        Self {
            body: Some(body),
            send,
            stream,
            waker_slot: None,
            unsent: Bytes::new(),
            end: None,
            stall_timeout,
            stall_timer: None,
            event_stream,
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
        while this.end.is_none() && batch.len() < BATCH_SIZE {
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
                            *this.end = Some(BodyEnd::Trailers(trailers));
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
        if let Some(end @ BodyEnd::Broken) = this.end {
            // A reset discards what the connection has not written, be it the head: it writes before this task is polled
            // again.
            *end = BodyEnd::Flushed;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        // Fails only if the stream has ended.
        let _ = match this.end.take() {
            None => return Poll::Ready(Ok(())),
            Some(BodyEnd::Complete) => this.send.send_data(Bytes::new(), true),
            Some(BodyEnd::Trailers(trailers)) => this.send.send_trailers(trailers),
            Some(BodyEnd::Broken | BodyEnd::Flushed) => {
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
                .reserve(BATCH_SIZE.max(self.first.len() + piece.len()));
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
