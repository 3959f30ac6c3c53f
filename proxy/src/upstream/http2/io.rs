//! An upstream's socket as the `h2` crate reads and writes it.
//!
//! The crate keeps of an error of the socket its kind and its text alone. The cause of a failed TLS connection is kept
//! here: with TLS 1.3 a server rejects the client's certificate behind the handshake.

use crate::tls::TlsFailure;
use sse_guard::internal::lock;
use sse_guard::serve::Io;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// By which error of TLS a socket has failed; clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct TlsEnd(Arc<Mutex<Option<TlsFailure>>>);

impl TlsEnd {
    pub(super) fn take(&self) -> Option<TlsFailure> {
        lock(&self.0).take()
    }

    fn note<T>(&self, result: &io::Result<T>) {
        if let Err(error) = result
            && let Some(failure) = TlsFailure::of(error)
        {
            *lock(&self.0) = Some(failure);
        }
    }
}

#[derive(Debug)]
pub(super) struct Http2Io {
    io: Io,
    tls_end: TlsEnd,
}

impl Http2Io {
    pub(super) fn new(io: Io) -> (Self, TlsEnd) {
        let tls_end = TlsEnd::default();
        let this = Self {
            io,
            tls_end: tls_end.clone(),
        };
        (this, tls_end)
    }
}

impl AsyncRead for Http2Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let result = ready!(Pin::new(&mut self.io).poll_read(cx, buf));
        self.tls_end.note(&result);
        Poll::Ready(result)
    }
}

impl AsyncWrite for Http2Io {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
