//! Input of a client, and the detection of its end.

use super::ClientIo;
use crate::client_key::PeerAddr;
use bytes::{Buf, BytesMut};
use std::cell::RefCell;
use std::future::Future;
use std::io::{self, Read as _};
use std::pin::pin;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};
use tokio::io::{Interest, Ready};

/// Maximum size of one read; hyper's buffer has this size at first.
const READ_SIZE: usize = 8 * 1024;
/// Maximum size of pipelined input that is read while a response is in progress. It is read to detect the end of the
/// input behind it.
const MAX_READ_AHEAD: usize = 8 * 1024;
/// Maximum size of one read of it.
const MAX_PIECE: usize = 512;

thread_local! {
    /// What one read receives. One for all connections of a thread: a buffer per read would be filled with zeros
    /// each time.
    static READ_BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_SIZE].into());
}

impl ClientIo {
    /// Puts back input that was read and not used.
    pub(in crate::serve) fn unread(&self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let mut state = self.state();
        let mut read_ahead = BytesMut::from(bytes);
        read_ahead.extend_from_slice(&state.read_ahead);
        state.read_ahead = read_ahead;
    }

    /// Keeps input that was read ahead. Returns its length.
    fn keep(&self, bytes: &[u8]) -> usize {
        self.state().read_ahead.extend_from_slice(bytes);
        bytes.len()
    }

    /// Passes at most `max` bytes that were read ahead to `take`, which returns how many it has used. `None` if
    /// there are none.
    pub(in crate::serve) fn take_read_ahead(
        &self,
        max: usize,
        take: impl FnOnce(&mut [u8]) -> usize,
    ) -> Option<usize> {
        let mut state = self.state();
        if state.read_ahead.is_empty() {
            return None;
        }
        let len = state.read_ahead.len().min(max);
        let taken = take(&mut state.read_ahead[..len]);
        state.read_ahead.advance(taken);
        if state.read_ahead.is_empty() {
            state.read_ahead = BytesMut::new();
        }
        Some(taken)
    }

    /// Ready with true when a request may have begun, which is known once `has_begun` returns true for the input; with
    /// false if the client has closed its side, or the connection has failed.
    pub(in crate::serve) fn poll_request_start(
        &self,
        peer: PeerAddr,
        cx: &mut Context<'_>,
        has_begun: impl Fn(&[u8]) -> bool,
    ) -> Poll<bool> {
        loop {
            if self.skip_empty_lines() && has_begun(&self.state().read_ahead) {
                return Poll::Ready(true);
            }
            if ready!(self.poll_readable(cx)).is_err() {
                return Poll::Ready(false);
            }
            match self.try_read(READ_SIZE, |bytes| self.keep(bytes)) {
                Ok(0) => return Poll::Ready(false),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    // Of TLS: most likely of the handshake.
                    if error.kind() == io::ErrorKind::InvalidData {
                        tracing::debug!(%peer, %error, "a client's TLS connection failed");
                    }
                    return Poll::Ready(false);
                }
            }
        }
    }

    /// Calls `f` with the input that was read ahead.
    #[cfg(feature = "http2")]
    pub(in crate::serve) fn peek<T>(&self, f: impl FnOnce(&[u8]) -> T) -> T {
        f(&self.state().read_ahead)
    }

    /// RFC 9112 section 2.2: empty lines before a request line are ignored. Old clients send one after a body.
    /// Returns true if anything else was received.
    fn skip_empty_lines(&self) -> bool {
        let mut state = self.state();
        let read_ahead = &mut state.read_ahead;
        while read_ahead.starts_with(b"\r\n") {
            read_ahead.advance(2);
        }
        if read_ahead.is_empty() {
            *read_ahead = BytesMut::new();
        }
        // A single CR may be the start of an empty line.
        !read_ahead.is_empty() && read_ahead[..] != *b"\r"
    }

    /// Ready when the client has closed its side, in a state that expects no input. Up to
    /// [`MAX_READ_AHEAD`] bytes of the next request are read and kept; the rest stays in the kernel.
    ///
    /// A client that has closed only its side cannot be distinguished from one that has disconnected.
    pub(in crate::serve) fn poll_disconnect(&self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.state().read_ahead.len() >= MAX_READ_AHEAD {
                return self.poll_half_closed(cx);
            }
            if ready!(self.poll_readable(cx)).is_err() {
                return Poll::Ready(());
            }
            match self.try_read(MAX_PIECE, |bytes| self.keep(bytes)) {
                Ok(0) => return Poll::Ready(()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Poll::Ready(()),
            }
        }
    }

    /// Like [`poll_disconnect`](Self::poll_disconnect), but leaves all input in the kernel.
    pub(in crate::serve) fn poll_half_closed(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_read_closed(cx).map(|_| ())
    }

    /// Ready when the client has closed both sides. For a client that may still send: if it has closed its own side
    /// alone, there can be input before that end.
    pub(in crate::serve) fn poll_fully_closed(&self, cx: &mut Context<'_>) -> Poll<()> {
        match self.poll_read_closed(cx) {
            Poll::Ready(state) if state.is_none_or(Ready::is_write_closed) => Poll::Ready(()),
            _ => Poll::Pending,
        }
    }

    /// Ready when the client has closed its side, with the state of the socket if it is known.
    fn poll_read_closed(&self, cx: &mut Context<'_>) -> Poll<Option<Ready>> {
        let socket = &self.0.socket;
        loop {
            if ready!(socket.poll_socket_readable(cx)).is_err() {
                return Poll::Ready(None);
            }
            match pin!(socket.ready(Interest::READABLE | Interest::WRITABLE)).poll(cx) {
                Poll::Ready(Ok(state)) if !state.is_read_closed() => {}
                Poll::Ready(state) => return Poll::Ready(state.ok()),
                Poll::Pending => {}
            }
            // There is input. The runtime's readiness must be cleared: while it is set, the end of the input wakes no
            // task.
            self.0.readiness_cleared.store(true, Relaxed);
            let blocked = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
            let _ = socket.try_io(Interest::READABLE, blocked);
        }
    }

    /// Reads from the socket itself, below TLS.
    pub(in crate::serve) fn poll_read_socket(
        &self,
        cx: &mut Context<'_>,
        bytes: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let socket = &self.0.socket;
        loop {
            ready!(socket.poll_socket_readable(cx))?;
            let read = socket.try_io(Interest::READABLE, || (&*socket.socket()).read(bytes));
            match read {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return Poll::Ready(read),
            }
        }
    }

    /// Ready when [`try_read`](Self::try_read) may succeed.
    pub(in crate::serve) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.0.readiness_cleared.load(Relaxed) {
            true => Poll::Ready(Ok(())),
            false => self.0.socket.poll_read_ready(cx),
        }
    }

    /// Reads at most `max` and at most [`READ_SIZE`] bytes and passes them to `take`, which must not read itself.
    /// Returns the result of `take`.
    pub(in crate::serve) fn try_read<T>(
        &self,
        max: usize,
        take: impl FnOnce(&mut [u8]) -> T,
    ) -> io::Result<T> {
        READ_BUFFER.with_borrow_mut(|buffer| {
            let read = self.try_read_into(&mut buffer[..max.min(READ_SIZE)])?;
            Ok(take(&mut buffer[..read]))
        })
    }

    fn try_read_into(&self, bytes: &mut [u8]) -> io::Result<usize> {
        if !self.0.readiness_cleared.load(Relaxed) {
            return self.0.socket.try_read(bytes);
        }
        // Not through the runtime, whose readiness does not cover this input. It is correct again once the kernel has
        // no more.
        let read = self.0.socket.read_now(bytes);
        if let Err(error) = &read
            && error.kind() == io::ErrorKind::WouldBlock
        {
            self.0.readiness_cleared.store(false, Relaxed);
        }
        read
    }
}
