//! From a layered body to a socket: an event stream's connection while it runs.
//!
//! hyper would keep its buffers for as long, and blind us to clients that stop reading. Here an
//! idle stream holds no buffer at all; what is ready at once leaves in one write, as one chunk.

use super::client::Client;
use super::encode::{self, CRLF, ChunkSize, Framing, LAST_CHUNK};
use super::io::{ClientIo, Stalled};
use crate::guard::BoxError;
use crate::head::list_has;
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

/// No more is gathered for one write once there is so much.
const ENOUGH: usize = 8 * 1024;
/// Pieces of a body that leave as one chunk at the most.
const PIECES: usize = 4;
/// Writes in one poll at the most, so that a client that takes all at once leaves time to others.
const ROUNDS: usize = 32;
/// So few bytes are copied together for a write: to the kernel, slices cost more.
const SMALL: usize = 1024;
/// Slices of one write: a head, a size, the pieces, and what comes behind them.
const SLICES: usize = PIECES + 4;

pin_project! {
    /// Resolves to the socket if it can serve another request.
    pub(super) struct Pump<B> {
        io: ClientIo,
        #[pin]
        body: Option<B>,
        stream: Option<Stream>,
        // Where its waker is kept, once a client has not taken all.
        slot: Option<WakerSlot>,
        framing: Framing,
        keep_alive: bool,
        wants_trailers: bool,
        state: State,
        // A box, as a quiet stream has none.
        left: Option<Box<Left>>,
    }

    impl<B> PinnedDrop for Pump<B> {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            let is_whole = matches!(this.state, State::Over) && this.left.is_none();
            // However it is cut, the end of the connection must not say that this was all. Behind
            // chunks it does not.
            if *this.framing == Framing::Close && !is_whole {
                this.io.reset_on_close();
            }
        }
    }
}

enum State {
    /// The head, which is in `left`, is to go out with whatever is there by then.
    Head,
    Open,
    /// The last of the message is written, or waits in `left`.
    Over,
    /// The message is not to end properly.
    Broken,
}

/// What waits to be written.
struct Left {
    bytes: Vec<u8>,
    /// So many of them have left.
    sent: usize,
}

impl Left {
    /// Nothing if there are no bytes.
    fn of(bytes: Vec<u8>) -> Option<Box<Self>> {
        (!bytes.is_empty()).then(|| Box::new(Self { bytes, sent: 0 }))
    }
}

/// What the next write is made of.
#[derive(Default)]
struct Batch {
    pieces: [Bytes; PIECES],
    count: usize,
    len: usize,
    end: Option<End>,
}

enum End {
    Proper,
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
        self.end.is_some() || self.count == PIECES || self.len >= ENOUGH
    }

    fn is_empty(&self) -> bool {
        self.len == 0 && self.end.is_none()
    }
}

impl<B> Pump<B> {
    pub(super) fn new(io: ClientIo, response: Response<B>, client: Client) -> Self {
        let (parts, body) = response.into_parts();
        let framing = Framing::of(client.version);
        let case = io.case();
        let closes = client.closes || list_has(&parts.headers, &CONNECTION, b"close");
        Self {
            io,
            body: Some(body),
            stream: parts.extensions.get::<Stream>().cloned(),
            slot: None,
            framing,
            keep_alive: framing == Framing::Chunked && !closes,
            wants_trailers: client.takes_trailers,
            state: State::Head,
            left: Left::of(encode::head(parts.status, &parts.headers, framing, case)),
        }
    }
}

impl<B> Future for Pump<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Output = Option<ClientIo>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<ClientIo>> {
        let mut this = self.project();
        if this.io.poll_gone(cx).is_ready() {
            // The body's drop notes why.
            this.body.set(None);
            return Poll::Ready(None);
        }
        for _ in 0..ROUNDS {
            while let (false, Some(left)) =
                (matches!(this.state, State::Head), this.left.as_deref_mut())
            {
                let rest = [IoSlice::new(&left.bytes[left.sent..])];
                let mut wrote = this.io.poll_write(cx, &rest);
                if let (Poll::Pending, Some(stream)) = (&wrote, this.stream.as_ref()) {
                    // The body, which would, is not polled meanwhile.
                    let slot = this.slot.get_or_insert_with(|| stream.waker_slot());
                    stream.register_waker(*slot, cx.waker());
                    if stream.is_shed() {
                        wrote = Poll::Ready(Err(this.io.give_up()));
                    }
                }
                match ready!(wrote) {
                    Ok(wrote @ 1..) => {
                        left.sent += wrote;
                        let unsent = left.bytes.len() - left.sent;
                        note_unsent(this.stream.as_ref(), unsent);
                        if unsent == 0 {
                            *this.left = None;
                        }
                    }
                    result => {
                        failed(result, this.stream.as_ref());
                        this.body.set(None);
                        return Poll::Ready(None);
                    }
                }
            }
            match this.state {
                State::Head | State::Open => {}
                State::Over => {
                    if *this.keep_alive && !this.io.is_closing() {
                        return Poll::Ready(Some(this.io.clone()));
                    }
                    let _ = this.io.shutdown();
                    return Poll::Ready(None);
                }
                State::Broken => return Poll::Ready(None),
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
                    Poll::Ready(None) => batch.end = Some(End::Proper),
                    Poll::Ready(Some(Err(error))) => {
                        tracing::debug!(error = error.into(), "a stream is broken off");
                        batch.end = Some(End::Broken);
                    }
                    Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                        Ok(piece) => batch.push(piece),
                        Err(frame) => {
                            if let (true, Ok(trailers)) =
                                (*this.wants_trailers, frame.into_trailers())
                            {
                                batch.end = Some(End::Trailers(encode::trailers(
                                    &trailers,
                                    this.io.case(),
                                )));
                            }
                        }
                    },
                }
            }
            let head = match std::mem::replace(this.state, State::Open) {
                State::Head => this.left.take().map_or_else(Vec::new, |head| head.bytes),
                _ if batch.is_empty() => return Poll::Pending,
                _ => Vec::new(),
            };
            match &batch.end {
                None => {}
                Some(End::Broken) => *this.state = State::Broken,
                Some(End::Proper | End::Trailers(_)) => *this.state = State::Over,
            }
            if batch.end.is_some() {
                // Permits and counts end with the stream, not with its last byte's way out.
                this.body.set(None);
            }
            match write(this.io, cx, &head, &batch, *this.framing) {
                Ok(left) if left.is_empty() => {
                    // It has registered its waker: another poll would only find the same.
                    if is_body_pending {
                        return Poll::Pending;
                    }
                }
                Ok(left) => {
                    note_unsent(this.stream.as_ref(), left.len());
                    *this.left = Left::of(left);
                }
                Err(error) => {
                    failed(Err(error), this.stream.as_ref());
                    this.body.set(None);
                    return Poll::Ready(None);
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Writes what the kernel has room for, and gives back a copy of the rest: the pieces themselves
/// are parts of larger buffers, which are not to wait for a slow client.
fn write(
    io: &ClientIo,
    cx: &mut Context<'_>,
    head: &[u8],
    batch: &Batch,
    framing: Framing,
) -> io::Result<Vec<u8>> {
    let size = ChunkSize::new(batch.len);
    let mut slices = [IoSlice::new(&[]); SLICES];
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
        Some(End::Proper) if chunked => add(LAST_CHUNK),
        Some(End::Trailers(section)) if chunked => add(section),
        _ => {}
    }
    let mut joined = [0; SMALL];
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
                let mut left = Vec::with_capacity(slices.iter().map(|slice| slice.len()).sum());
                for slice in slices {
                    left.extend_from_slice(slice);
                }
                return Ok(left);
            }
        }
    }
    Ok(Vec::new())
}

/// Copies the slices behind one another, if they have room; their length in all.
fn join(slices: &[IoSlice<'_>], room: &mut [u8]) -> Option<usize> {
    let len = slices.iter().map(|slice| slice.len()).sum();
    let mut room = room.get_mut(..len)?;
    for slice in slices {
        let (start, rest) = room.split_at_mut(slice.len());
        start.copy_from_slice(slice);
        room = rest;
    }
    Some(len)
}

fn note_unsent(stream: Option<&Stream>, bytes: usize) {
    if let Some(stream) = stream {
        stream.set_unsent(bytes);
    }
}

fn failed(result: io::Result<usize>, stream: Option<&Stream>) {
    let Err(error) = result else { return };
    tracing::debug!(%error, "cannot write to a client");
    if let (true, Some(stream)) = (Stalled::is_why(&error), stream) {
        stream.end(EndReason::ClientStalled);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_room_is_joined_and_nothing_else() {
        let slices = [
            IoSlice::new(b"4\r\n"),
            IoSlice::new(b"data"),
            IoSlice::new(b"\r\n"),
        ];
        let mut room = [0; 9];
        assert_eq!(join(&slices, &mut room), Some(9));
        assert_eq!(&room, b"4\r\ndata\r\n");
        assert_eq!(join(&slices, &mut room[..8]), None);
    }
}
