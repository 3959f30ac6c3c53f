//! Output to a client, with a bound on what waits for it and for how long.

use super::ClientIo;
use crate::serve::stall::StallTimer;
use std::io::{self, IoSlice};
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};
use std::time::Duration;

/// Maximum size of a body that hyper may hold before it has written some. Without this bound hyper takes 16 pieces of
/// any size for a client that does not read.
const MAX_QUEUED_BODY: usize = 32 * 1024;

/// The client did not read in time, so that the connection must be reset.
#[derive(Debug, thiserror::Error)]
#[error("the client did not read the waiting output within {0:?}")]
pub(in crate::serve) struct WriteStalled(Duration);

impl WriteStalled {
    pub(in crate::serve) fn is_cause_of(error: &io::Error) -> bool {
        error.get_ref().is_some_and(|error| error.is::<Self>())
    }
}

impl ClientIo {
    /// Returns true if output waits for space in the kernel.
    pub(in crate::serve) fn is_blocked(&self) -> bool {
        self.0.is_blocked.load(Relaxed)
    }

    /// Returns true if the connection ends because the client did not read.
    #[cfg(feature = "http2")]
    pub(in crate::serve) fn is_stalled(&self) -> bool {
        self.0.is_stalled.load(Relaxed)
    }

    /// How long the client of the response in progress may leave it unread.
    fn stall_timeout(&self) -> Option<Duration> {
        match self.0.is_stream.load(Relaxed) {
            true => self.0.stall_timeouts.stream,
            false => self.0.stall_timeouts.response,
        }
    }

    /// A new body begins. If hyper has dropped a part of the previous one, that part is never written.
    pub(in crate::serve) fn reset_queued_body(&self) {
        self.0.queued_body.store(0, Relaxed);
    }

    /// hyper has taken this many bytes of the body.
    pub(in crate::serve) fn add_queued_body(&self, bytes: usize) {
        self.0.queued_body.fetch_add(bytes, Relaxed);
    }

    /// Returns true if hyper must write some of the body before it gets more. The next write then wakes the task.
    pub(in crate::serve) fn is_body_queue_full(&self) -> bool {
        let is_full = self.0.queued_body.load(Relaxed) >= MAX_QUEUED_BODY;
        if is_full {
            self.0.body_waits.store(true, Relaxed);
        }
        is_full
    }

    /// Accounts for bytes that the kernel has taken. Heads and framing count, too: the bound of the body is not exact.
    fn on_written(&self, bytes: usize, cx: &Context<'_>) {
        let queued = self.0.queued_body.load(Relaxed);
        let queued = queued.saturating_sub(bytes);
        self.0.queued_body.store(queued, Relaxed);
        if self.0.has_stall_timer.load(Relaxed) {
            let mut state = self.state();
            let timer = state.stall_timer.as_mut();
            if timer.is_none_or(|timer| timer.as_mut().is_satisfied_by(bytes)) {
                state.stall_timer = None;
                self.0.has_stall_timer.store(false, Relaxed);
            }
        }
        if self.0.body_waits.swap(false, Relaxed) {
            // hyper polls the body before it writes, and not again after it has written.
            cx.waker().wake_by_ref();
        }
    }

    /// Writes as much as the kernel takes. Fails when waiting output was not written in time; the connection must
    /// then be reset, because its client would never receive a proper end.
    pub(in crate::serve) fn poll_write(
        &self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // They were queued before this output.
        ready!(self.poll_interim(cx))?;
        self.poll_write_now(cx, bufs)
    }

    pub(super) fn poll_write_now(
        &self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            match self.0.socket.try_write(bufs) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => {
                    self.0.is_blocked.store(false, Relaxed);
                    if let Ok(bytes) = &result {
                        self.on_written(*bytes, cx);
                    }
                    return Poll::Ready(result);
                }
            }
            match self.0.socket.poll_write_ready(cx) {
                Poll::Ready(result) => result?,
                Poll::Pending => {
                    let waiting = bufs.iter().map(|buf| buf.len()).sum();
                    return self.poll_stalled(cx, waiting).map(Err);
                }
            }
        }
    }

    /// Resets the connection on close, and returns the error of a client that does not read.
    pub(in crate::serve) fn stall_error(&self) -> io::Error {
        self.0.is_stalled.store(true, Relaxed);
        self.reset_on_close();
        let timeout = self.stall_timeout().unwrap_or_default();
        io::Error::new(io::ErrorKind::TimedOut, WriteStalled(timeout))
    }

    fn poll_stalled(&self, cx: &mut Context<'_>, waiting: usize) -> Poll<io::Error> {
        self.0.is_blocked.store(true, Relaxed);
        let Some(timeout) = self.stall_timeout() else {
            return Poll::Pending;
        };
        let mut state = self.state();
        let timer = state.stall_timer.get_or_insert_with(|| {
            self.0.has_stall_timer.store(true, Relaxed);
            Box::pin(StallTimer::new(timeout, waiting))
        });
        ready!(timer.as_mut().poll_expired(cx));
        Poll::Ready(self.stall_error())
    }

    /// From now on, closing resets the connection: the kernel drops its output, and the client detects an improper
    /// end. A Unix socket has no reset: there only chunks show the end.
    pub(in crate::serve) fn reset_on_close(&self) {
        self.set_linger(Some(Duration::ZERO));
    }

    /// From now on, closing is a proper end again.
    pub(in crate::serve) fn end_on_close(&self) {
        self.set_linger(None);
    }

    fn set_linger(&self, linger: Option<Duration>) {
        if let Err(error) = self.0.socket.socket().set_linger(linger) {
            tracing::debug!(%error, "cannot set how a connection closes");
        }
    }

    /// Closes the server's side.
    pub(in crate::serve) fn shutdown(&self) -> io::Result<()> {
        self.0.socket.shutdown()
    }
}
