//! The requests of one connection.

use super::response::{RequestEnd, ResponseTask};
use crate::guard::BoxError;
use crate::serve::client_io::ClientIo;
use crate::serve::options::ServerOptions;
use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, Stream};
use http_body::Body;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};

/// Maximum number of requests that are polled before the connection writes: `h2` keeps the memory of all frames that
/// were queued at a time for as long as the connection lives.
const MAX_POLLS_PER_ROUND: u32 = 16;
/// Maximum number of bytes that are sent before the connection writes, beside what one request sends: the buffers that
/// they were read into are needed for the next reads.
const MAX_SENT_PER_ROUND: usize = 64 * 1024;

/// The requests that are being served. The connection's task polls them, without a task each, as tasks take three
/// times the memory, and what several requests send at a time leaves in one write. Dropping it cancels them.
pub(super) struct Requests<B> {
    tasks: FuturesUnordered<ResponseTask<B>>,
    state: Arc<ConnectionState>,
}

/// What the requests of a connection share.
pub(super) struct ConnectionState {
    pub(super) io: ClientIo,
    pub(super) options: Arc<ServerOptions>,
    /// Counts the times at which the connection wrote.
    round: AtomicU32,
    /// Number of requests that were polled in this round.
    polls: AtomicU32,
    /// Number of bytes that were sent in this round.
    sent: AtomicUsize,
}

impl ConnectionState {
    /// The connection has written what was sent before, as far as the client reads, once this has changed.
    pub(super) fn round(&self) -> u32 {
        self.round.load(Relaxed)
    }

    /// Returns false if a request has to wait for the next round.
    pub(super) fn may_poll(&self) -> bool {
        self.polls.fetch_add(1, Relaxed) < MAX_POLLS_PER_ROUND
            && self.sent.load(Relaxed) < MAX_SENT_PER_ROUND
    }

    pub(super) fn add_sent(&self, len: usize) {
        self.sent.fetch_add(len, Relaxed);
    }
}

impl<B> Requests<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    pub(super) fn new(io: ClientIo, options: Arc<ServerOptions>) -> Self {
        Self {
            tasks: FuturesUnordered::new(),
            state: Arc::new(ConnectionState {
                io,
                options,
                round: AtomicU32::default(),
                polls: AtomicU32::default(),
                sent: AtomicUsize::default(),
            }),
        }
    }

    pub(super) fn state(&self) -> &Arc<ConnectionState> {
        &self.state
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    pub(super) fn push(&mut self, task: ResponseTask<B>) {
        self.tasks.push(task);
    }

    /// Begins a round: the connection has written.
    pub(super) fn begin_round(&self) {
        self.state.round.fetch_add(1, Relaxed);
        self.state.polls.store(0, Relaxed);
        self.state.sent.store(0, Relaxed);
    }

    /// Polls those that are ready. Returns how one has ended; pending if none has.
    pub(super) fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<RequestEnd> {
        match Pin::new(&mut self.tasks).poll_next(cx) {
            Poll::Ready(Some(end)) => Poll::Ready(end),
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }
}
