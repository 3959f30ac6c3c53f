//! Writes an event stream from its layered body to the client's socket.
//!
//! hyper would keep its buffers while a stream is quiet, and does not report clients that stop reading. Here a quiet
//! stream holds no buffer, and pieces of the body that are ready together are written at once, as one chunk.

use super::encode::{self, CRLF, ChunkSize, Framing, LAST_CHUNK};
use super::request_options::RequestOptions;
use crate::guard::BoxError;
use crate::head::list_has;
use crate::serve::client_io::{ClientIo, WriteStalled};
use crate::stream::{EndReason, Stream, WakerSlot};
use bytes::Bytes;
use http::Response;
use http::header::CONNECTION;
use http_body::Body;
use pin_project_lite::pin_project;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// A batch of this size is written without waiting for more pieces.
const BATCH_SIZE: usize = 8 * 1024;
/// Maximum number of pieces of a body in one chunk.
const MAX_PIECES: usize = 4;
/// Maximum number of writes in one poll, so that a client that reads everything at once does not delay others.
const MAX_WRITES_PER_POLL: usize = 32;
/// Output up to this size is copied into one buffer: for the kernel, several slices cost more.
const MAX_JOINED_SIZE: usize = 1024;
/// Slices of one write: a head, a chunk size, the pieces, their CRLF and the last chunk.
const MAX_SLICES: usize = MAX_PIECES + 4;

pin_project! {
    /// Resolves to true if the connection can serve another request.
    pub(in crate::serve) struct StreamWriter<B> {
        io: ClientIo,
        #[pin]
        body: Option<B>,
        stream: Option<Stream>,
        // Set once output had to wait for the client.
        waker_slot: Option<WakerSlot>,
        framing: Framing,
        keep_alive: bool,
        sends_trailers: bool,
        state: WriterState,
        // A box, because a quiet stream has none.
        unwritten: Option<Box<Unwritten>>,
    }

    impl<B> PinnedDrop for StreamWriter<B> {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            let is_complete = matches!(this.state, WriterState::Complete) && this.unwritten.is_none();
            // Without chunks, the end of the connection marks the end of the stream, and must not do so for a truncated
            // one.
            if *this.framing == Framing::Close && !is_complete {
                this.io.reset_on_close();
            }
        }
    }
}

enum WriterState {
    /// The head, in `unwritten`, is written together with the first batch.
    Head,
    Open,
    /// The end of the stream is written, or in `unwritten`.
    Complete,
    /// The stream must not end properly.
    Broken,
}

/// Output that waits for space in the kernel.
struct Unwritten {
    bytes: Vec<u8>,
    /// How many of them are written.
    written: usize,
}

impl Unwritten {
    /// `None` for an empty buffer.
    fn of(bytes: Vec<u8>) -> Option<Box<Self>> {
        (!bytes.is_empty()).then(|| Box::new(Self { bytes, written: 0 }))
    }
}

/// The pieces of the next write.
#[derive(Default)]
struct Batch {
    pieces: [Bytes; MAX_PIECES],
    count: usize,
    len: usize,
    end: Option<BatchEnd>,
}

enum BatchEnd {
    Complete,
    Trailers(Vec<u8>),
    Broken,
}

impl Batch {
    fn push(&mut self, piece: Bytes) {
        self.len += piece.len();
        self.pieces[self.count] = piece;
        self.count += 1;
    }

    fn is_full(&self) -> bool {
        self.end.is_some() || self.count == MAX_PIECES || self.len >= BATCH_SIZE
    }

    fn is_empty(&self) -> bool {
        self.len == 0 && self.end.is_none()
    }
}

impl<B> StreamWriter<B> {
    pub(super) fn new(io: ClientIo, response: Response<B>, options: RequestOptions) -> Self {
        let (parts, body) = response.into_parts();
        let framing = Framing::of(options.version);
        let case = io.field_case();
        let has_close = options.has_close || list_has(&parts.headers, &CONNECTION, b"close");
        Self {
            io,
            body: Some(body),
            stream: parts.extensions.get::<Stream>().cloned(),
            waker_slot: None,
            framing,
            keep_alive: framing == Framing::Chunked && !has_close,
            sends_trailers: options.accepts_trailers,
            state: WriterState::Head,
            unwritten: Unwritten::of(encode::head(parts.status, &parts.headers, framing, case)),
        }
    }
}

impl<B> Future for StreamWriter<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Output = bool;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<bool> {
        let mut this = self.project();
        if this.io.poll_disconnect(cx).is_ready() {
            // The body's drop records the reason.
            this.body.set(None);
            return Poll::Ready(false);
        }
        for _ in 0..MAX_WRITES_PER_POLL {
            while let (false, Some(unwritten)) = (
                matches!(this.state, WriterState::Head),
                this.unwritten.as_deref_mut(),
            ) {
                let rest = [IoSlice::new(&unwritten.bytes[unwritten.written..])];
                let mut wrote = this.io.poll_write(cx, &rest);
                if let (Poll::Pending, Some(stream)) = (&wrote, this.stream.as_ref()) {
                    // The body is not polled meanwhile, and so registers no waker.
                    let slot = this.waker_slot.get_or_insert_with(|| stream.waker_slot());
                    stream.register_waker(*slot, cx.waker());
                    if stream.is_shed() {
                        wrote = Poll::Ready(Err(this.io.stall_error()));
                    }
                }
                match ready!(wrote) {
                    Ok(wrote @ 1..) => {
                        unwritten.written += wrote;
                        let unsent = unwritten.bytes.len() - unwritten.written;
                        set_unsent(this.stream.as_ref(), unsent);
                        if unsent == 0 {
                            *this.unwritten = None;
                        }
                    }
                    result => {
                        log_write_error(result, this.stream.as_ref());
                        this.body.set(None);
                        return Poll::Ready(false);
                    }
                }
            }
            match this.state {
                WriterState::Head | WriterState::Open => {}
                WriterState::Complete => {
                    if *this.keep_alive && !this.io.is_closing() {
                        return Poll::Ready(true);
                    }
                    let _ = this.io.shutdown();
                    return Poll::Ready(false);
                }
                WriterState::Broken => return Poll::Ready(false),
            }
            let mut batch = Batch::default();
            let mut is_body_pending = false;
            while !batch.is_full() {
                let Some(body) = this.body.as_mut().as_pin_mut() else {
                    break;
                };
                match body.poll_frame(cx) {
                    Poll::Pending => {
                        is_body_pending = true;
                        break;
                    }
                    Poll::Ready(None) => batch.end = Some(BatchEnd::Complete),
                    Poll::Ready(Some(Err(error))) => {
                        tracing::debug!(error = error.into(), "an event stream is broken off");
                        batch.end = Some(BatchEnd::Broken);
                    }
                    Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                        Ok(piece) => batch.push(piece),
                        Err(frame) => {
                            if let (true, Ok(trailers)) =
                                (*this.sends_trailers, frame.into_trailers())
                            {
                                batch.end = Some(BatchEnd::Trailers(encode::trailers(
                                    &trailers,
                                    this.io.field_case(),
                                )));
                            }
                        }
                    },
                }
            }
            let head = match std::mem::replace(this.state, WriterState::Open) {
                WriterState::Head => this
                    .unwritten
                    .take()
                    .map_or_else(Vec::new, |head| head.bytes),
                _ if batch.is_empty() => return Poll::Pending,
                _ => Vec::new(),
            };
            match &batch.end {
                None => {}
                Some(BatchEnd::Broken) => *this.state = WriterState::Broken,
                Some(BatchEnd::Complete | BatchEnd::Trailers(_)) => {
                    *this.state = WriterState::Complete;
                }
            }
            if batch.end.is_some() {
                // Permits and counts end with the stream, not when its last byte is written.
                this.body.set(None);
            }
            match write_batch(this.io, cx, &head, &batch, *this.framing) {
                Ok(rest) if rest.is_empty() => {
                    // The body has registered its waker.
                    if is_body_pending {
                        return Poll::Pending;
                    }
                }
                Ok(rest) => {
                    set_unsent(this.stream.as_ref(), rest.len());
                    *this.unwritten = Unwritten::of(rest);
                }
                Err(error) => {
                    log_write_error(Err(error), this.stream.as_ref());
                    this.body.set(None);
                    return Poll::Ready(false);
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Writes as much as the kernel takes, and returns a copy of the rest: the pieces are parts of larger buffers, which must
/// not be kept for a slow client.
fn write_batch(
    io: &ClientIo,
    cx: &mut Context<'_>,
    head: &[u8],
    batch: &Batch,
    framing: Framing,
) -> io::Result<Vec<u8>> {
    let size = ChunkSize::new(batch.len);
    let mut slices = [IoSlice::new(&[]); MAX_SLICES];
    let mut count = 0;
    let mut add = |bytes| {
        slices[count] = IoSlice::new(bytes);
        count += 1;
    };
    if !head.is_empty() {
        add(head);
    }
    let chunked = framing == Framing::Chunked;
    if batch.len > 0 {
        if chunked {
            add(size.as_bytes());
        }
        for piece in &batch.pieces[..batch.count] {
            add(piece);
        }
        if chunked {
            add(CRLF);
        }
    }
    match &batch.end {
        Some(BatchEnd::Complete) if chunked => add(LAST_CHUNK),
        Some(BatchEnd::Trailers(section)) if chunked => add(section),
        _ => {}
    }
    let mut joined = [0; MAX_JOINED_SIZE];
    if let Some(len) = join(&slices[..count], &mut joined) {
        (slices[0], count) = (IoSlice::new(&joined[..len]), 1);
    }
    let mut slices = &mut slices[..count];
    while !slices.is_empty() {
        match io.poll_write(cx, slices) {
            Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
            Poll::Ready(Ok(wrote)) => IoSlice::advance_slices(&mut slices, wrote),
            Poll::Ready(Err(error)) => return Err(error),
            Poll::Pending => {
                let mut rest = Vec::with_capacity(slices.iter().map(|slice| slice.len()).sum());
                for slice in slices {
                    rest.extend_from_slice(slice);
                }
                return Ok(rest);
            }
        }
    }
    Ok(Vec::new())
}

/// Copies the slices into the buffer and returns their total length; `None` if the buffer is too small.
fn join(slices: &[IoSlice<'_>], buffer: &mut [u8]) -> Option<usize> {
    let len = slices.iter().map(|slice| slice.len()).sum();
    let mut buffer = buffer.get_mut(..len)?;
    for slice in slices {
        let (start, rest) = buffer.split_at_mut(slice.len());
        start.copy_from_slice(slice);
        buffer = rest;
    }
    Some(len)
}

fn set_unsent(stream: Option<&Stream>, bytes: usize) {
    if let Some(stream) = stream {
        stream.set_unsent(bytes);
    }
}

fn log_write_error(result: io::Result<usize>, stream: Option<&Stream>) {
    let Err(error) = result else { return };
    tracing::debug!(%error, "cannot write to a client");
    if let (true, Some(stream)) = (WriteStalled::is_cause_of(&error), stream) {
        stream.end(EndReason::ClientStalled);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_joined_only_if_the_buffer_is_large_enough() {
        let slices = [
            IoSlice::new(b"4\r\n"),
            IoSlice::new(b"data"),
            IoSlice::new(b"\r\n"),
        ];
        let mut buffer = [0; 9];
        assert_eq!(join(&slices, &mut buffer), Some(9));
        assert_eq!(&buffer, b"4\r\ndata\r\n");
        assert_eq!(join(&slices, &mut buffer[..8]), None);
    }
}
