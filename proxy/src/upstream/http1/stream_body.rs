//! The body of an event stream, read from the upstream's socket without hyper.
//!
//! hyper makes a frame of each chunk. Here all chunks of one read are one frame, and a stream that
//! is quiet holds no buffer: there is one per thread, shared by all its reads.

use super::super::pool::PoolReturn;
use super::body_length::BodyLength;
use super::chunked::BadChunk;
use crate::headers;
use bytes::{BufMut, Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use sse_guard::serve::Io;
use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio_util::io::poll_read_buf;

/// Bytes that one read takes at the most: what a client has no room for is kept for it, and many
/// clients may be slow.
const READ_BYTES: usize = 16 * 1024;
/// Bytes that one read takes of a stream that has come and was taken at full speed for long enough. It costs
/// half as much then.
const FAST_READ_BYTES: usize = 128 * 1024;
/// After this many reads in a row of at least half as much, the size is large enough: together they
/// exceed what a client that does not read is sent.
const RUN_UP_READS: u8 = 24;

/// Buffers of a thread. One is enough where what was read is written at once; the connections of HTTP/2 clients write
/// what several streams have read.
const BUFFERS: usize = 8;

thread_local! {
    static READ_BUFFERS: RefCell<[BytesMut; BUFFERS]> = RefCell::default();
}

/// The read size of a connection.
#[derive(Debug)]
pub(super) enum Pace {
    /// Adapted to its speed: the number of large reads in a row.
    Adaptive(u8),
    /// Small, because the client's connection does not take more of one stream at a time.
    Steady,
}

impl Default for Pace {
    fn default() -> Self {
        Self::Adaptive(0)
    }
}

impl Pace {
    fn most(&self) -> usize {
        match self {
            Self::Adaptive(RUN_UP_READS) => FAST_READ_BYTES,
            _ => READ_BYTES,
        }
    }

    fn note(&mut self, read: usize) {
        if let Self::Adaptive(large) = self {
            *large = match read >= READ_BYTES / 2 {
                true => RUN_UP_READS.min(*large + 1),
                false => 0,
            };
        }
    }
}

/// Reads what is there into a buffer of the thread; nothing at the end of the input.
///
/// The buffer is reused once earlier data is dropped: to keep data for long, copy it.
pub(super) fn read(
    socket: &mut Io,
    pace: &mut Pace,
    cx: &mut Context<'_>,
) -> Poll<io::Result<BytesMut>> {
    READ_BUFFERS.with_borrow_mut(|buffers| {
        let most = pace.most();
        let is_free = |buffer: &mut BytesMut| buffer.capacity() >= most || buffer.try_reclaim(most);
        let free = buffers.iter_mut().position(is_free).unwrap_or(0);
        let buffer = &mut buffers[free];
        buffer.reserve(most);
        let mut room = (&mut *buffer).limit(most);
        let read = ready!(poll_read_buf(Pin::new(socket), cx, &mut room))?;
        pace.note(read);
        Poll::Ready(Ok(buffer.split()))
    })
}

/// Why a body is incomplete.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("the upstream broke off")]
    Broken,
    #[error("the upstream's connection failed")]
    Io(#[from] io::Error),
    #[error("the upstream's chunks are malformed")]
    Chunk(#[from] BadChunk),
    #[error("the upstream's trailers are malformed")]
    Trailers,
}

/// The kind distinguishes how the upstream failed: see [`UpstreamFault`](sse_guard::UpstreamFault).
impl From<BodyError> for io::Error {
    fn from(error: BodyError) -> Self {
        match error {
            // By TLS: HTTP has errors of its own.
            BodyError::Io(error) if error.kind() == io::ErrorKind::InvalidData => {
                Self::new(io::ErrorKind::ConnectionAborted, error)
            }
            BodyError::Io(error) => error,
            BodyError::Broken => Self::new(io::ErrorKind::UnexpectedEof, error),
            BodyError::Chunk(_) | BodyError::Trailers => {
                Self::new(io::ErrorKind::InvalidData, error)
            }
        }
    }
}

/// The body of an event stream.
#[derive(Debug)]
pub(crate) struct StreamBody {
    /// Until the end.
    socket: Option<Io>,
    /// Where the socket goes then.
    pool_return: Option<PoolReturn>,
    /// What came with the head. A box, as it is empty while the stream is quiet.
    ahead: Option<Box<BytesMut>>,
    pace: Pace,
    length: BodyLength,
}

impl StreamBody {
    pub(super) fn new(
        socket: Io,
        pool_return: Option<PoolReturn>,
        ahead: BytesMut,
        length: BodyLength,
        pace: Pace,
    ) -> Self {
        Self {
            socket: Some(socket),
            pool_return,
            ahead: (!ahead.is_empty()).then(|| Box::new(ahead)),
            pace,
            length,
        }
    }

    fn take(&mut self, bytes: &mut BytesMut) -> Result<bool, BodyError> {
        let (payload, used, over) = match &mut self.length {
            BodyLength::Chunked(chunked) => {
                let decoded = chunked.decode(bytes)?;
                (decoded.payload, decoded.used, chunked.is_done())
            }
            BodyLength::Length(left) => {
                let there = bytes.len();
                let take = usize::try_from(*left).map_or(there, |left| left.min(there));
                *left -= take as u64;
                (take, take, *left == 0)
            }
            BodyLength::Close => (bytes.len(), bytes.len(), false),
        };
        if over {
            let socket = self.socket.take();
            // Bytes behind the message are a response without a request.
            if let (Some(socket), Some(pool_return), true) =
                (socket, self.pool_return.take(), used == bytes.len())
            {
                pool_return.put(socket);
            }
        }
        bytes.truncate(payload);
        Ok(over)
    }

    /// The input has ended.
    fn end(&mut self) -> Result<(), BodyError> {
        self.socket = None;
        match self.length {
            BodyLength::Close | BodyLength::Length(0) => Ok(()),
            BodyLength::Chunked(_) | BodyLength::Length(_) => Err(BodyError::Broken),
        }
    }

    fn trailers(&mut self) -> Option<Result<Frame<Bytes>, BodyError>> {
        let BodyLength::Chunked(chunked) = &self.length else {
            return None;
        };
        if chunked.trailers().is_empty() {
            return None;
        }
        let mut fields = chunked.fields().ok_or(BodyError::Trailers);
        if let Ok(fields) = &mut fields {
            headers::remove_no_trailers(fields);
        }
        self.length = BodyLength::Close;
        Some(fields.map(Frame::trailers))
    }

    fn next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            let Some(socket) = &mut self.socket else {
                return Poll::Ready(self.trailers());
            };
            let mut bytes = match self.ahead.take() {
                None => ready!(read(socket, &mut self.pace, cx))?,
                Some(ahead) => *ahead,
            };
            if bytes.is_empty() {
                self.end()?;
                continue;
            }
            self.take(&mut bytes)?;
            if !bytes.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(bytes.freeze()))));
            }
        }
    }
}

impl Body for StreamBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let frame = ready!(self.next(cx));
        if matches!(frame, Some(Err(_))) {
            self.socket = None;
            self.length = BodyLength::Close;
        }
        Poll::Ready(frame.map(|frame| frame.map_err(io::Error::from)))
    }

    fn is_end_stream(&self) -> bool {
        self.socket.is_none()
            && !matches!(&self.length, BodyLength::Chunked(chunked) if !chunked.trailers().is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
