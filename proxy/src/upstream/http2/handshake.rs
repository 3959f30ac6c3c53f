//! The start of a connection: both sides send their settings, RFC 9113 section 3.4.
//!
//! The settings of the upstream are waited for. They have its limit of streams, and show that it has HTTP/2 at all: no
//! request is lost to a server of HTTP/1.1.

use super::super::error::Failure;
use super::error::Http2Error;
use super::io::{Http2Io, TlsEnd};
use super::{H2, Http2Options};
use bytes::Bytes;
use h2::client::{Builder, Connection, SendRequest};
use sse_guard::serve::Io;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;
use tokio::time::timeout;

/// What a stream may have received and not delivered to its client yet. It is what streams begin with by default, so that
/// it holds before the upstream has our settings, too.
const STREAM_WINDOW: u32 = 64 * 1024 - 1;
const MAX_WINDOW: u32 = (1 << 31) - 1;
/// What a stream may queue for the socket.
const MAX_SEND_BUFFER: usize = 16 * 1024;
/// How many small DATA frames a stream may have received and not delivered, counted over all streams of a connection: the
/// crate closes it beyond that. One event a frame is usual, and clients that do not read must not end the others' streams.
const SMALL_FRAMES_PER_STREAM: usize = 2048;
/// Of a connection with few streams.
const MIN_SMALL_FRAMES: usize = 256 * 1024;
/// What the crate counts for one of them.
const SMALL_FRAME_COST: usize = 256;
/// Frames of streams that were reset are ignored for this long: they were sent before the reset had arrived.
const RESET_MEMORY: Duration = Duration::from_secs(5);
const MAX_RESET_MEMORY: usize = 4096;
/// Frames of streams that are forgotten by then, and other errors of single streams, until the connection is closed.
const MAX_STREAM_ERRORS: usize = 10_000;
/// The crate counts 32 bytes more for a field than HTTP/1.1 sends, and refuses a longer head without its reason.
const HEAD_SLACK: usize = 3;
/// Until the settings of the upstream have come: what it does not send as its limit, which has 32 bits.
const UNKNOWN_LIMIT: usize = usize::MAX - 1;

/// A connection that is ready for requests, and not driven by a task yet.
#[derive(Debug)]
pub(in crate::upstream) struct Handshake {
    pub(super) sender: SendRequest<Bytes>,
    pub(super) connection: Connection<Http2Io, Bytes>,
    pub(super) options: Http2Options,
    pub(super) tls_end: TlsEnd,
}

/// Whether ALPN has selected HTTP/2 for this connection.
pub(in crate::upstream) fn is_selected(io: &Io) -> bool {
    let info = io.tls_info();
    info.is_some_and(|info| info.alpn.as_deref() == Some(H2))
}

impl Handshake {
    /// Begins HTTP/2 on a new connection. `limit` is that of the wait for the upstream's settings.
    pub(in crate::upstream) async fn new(
        io: Io,
        options: Http2Options,
        limit: Option<Duration>,
    ) -> Result<Self, Failure> {
        let (io, tls_end) = Http2Io::new(io);
        let begun = async {
            let handshake = builder(options).handshake(io).await;
            let (sender, mut connection) = handshake.map_err(Http2Error::Protocol)?;
            poll_fn(|cx| match Pin::new(&mut connection).poll(cx) {
                Poll::Ready(Ok(())) => Poll::Ready(Err(Http2Error::Closed)),
                Poll::Ready(Err(error)) => Poll::Ready(Err(Http2Error::Protocol(error))),
                Poll::Pending if sender.current_max_send_streams() == UNKNOWN_LIMIT => {
                    Poll::Pending
                }
                Poll::Pending => Poll::Ready(Ok(())),
            })
            .await?;
            match sender.current_max_send_streams() {
                0 => Err(Http2Error::NoStreams),
                _ => Ok((sender, connection)),
            }
        };
        let begun = match limit {
            Some(limit) => timeout(limit, begun).await,
            None => Ok(begun.await),
        };
        let begun = begun.unwrap_or(Err(Http2Error::NoSettings));
        match begun {
            Ok((sender, connection)) => Ok(Self {
                sender,
                connection,
                options,
                tls_end,
            }),
            Err(error) => Err(match tls_end.take() {
                Some(failure) => Failure::Tls(failure),
                None => Failure::NoHttp2(Box::new(error)),
            }),
        }
    }
}

fn builder(options: Http2Options) -> Builder {
    let streams = options.max_streams as usize;
    let small_frames = streams.saturating_mul(SMALL_FRAMES_PER_STREAM);
    let small_frames = small_frames.max(MIN_SMALL_FRAMES);
    let connection_window = STREAM_WINDOW.saturating_mul(options.max_streams);
    let max_head = options.max_head.saturating_mul(HEAD_SLACK);
    let mut builder = Builder::new();
    builder
        .enable_push(false)
        .initial_max_send_streams(UNKNOWN_LIMIT)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(connection_window.min(MAX_WINDOW))
        .max_header_list_size(u32::try_from(max_head).unwrap_or(u32::MAX))
        .max_send_buffer_size(MAX_SEND_BUFFER)
        .data_frame_budget(small_frames.saturating_mul(SMALL_FRAME_COST))
        .reset_stream_duration(RESET_MEMORY)
        .max_concurrent_reset_streams(MAX_RESET_MEMORY)
        .max_local_error_reset_streams(Some(MAX_STREAM_ERRORS));
    builder
}
