//! A client's socket as hyper reads and writes it.

use super::error_response;
use super::request_scan::RequestScan;
use crate::serve::client_io::ClientIo;
use hyper::rt::{Read, ReadBufCursor, Write};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// Why a read fails after a request that hyper must reject.
#[derive(Debug, thiserror::Error)]
#[error("input after an invalid request is discarded")]
struct InputDiscarded;

/// Scans requests on their way to hyper, and completes hyper's own error responses. Made at the start of a request.
pub(super) struct HyperIo {
    io: ClientIo,
    scan: RequestScan,
    /// Written in place of hyper's own error response.
    error_response: Option<Box<ErrorResponse>>,
}

struct ErrorResponse {
    bytes: Vec<u8>,
    written: usize,
}

impl HyperIo {
    pub(super) fn new(io: ClientIo) -> Self {
        let scan = match io.begin_hyper() {
            true => RequestScan::with_many_fields(),
            false => RequestScan::default(),
        };
        Self {
            io,
            scan,
            error_response: None,
        }
    }

    fn write(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if self.error_response.is_none() && self.io.awaits_head() {
            // hyper has no option for the text of its own error responses.
            let head: Vec<u8> = bufs.iter().flat_map(|buf| buf.iter().copied()).collect();
            let bytes = error_response::with_reason(&head, self.scan.error());
            let response = bytes.map(|bytes| ErrorResponse { bytes, written: 0 });
            self.error_response = response.map(Box::new);
        }
        let Some(response) = &mut self.error_response else {
            return self.io.poll_write(cx, bufs);
        };
        while response.written < response.bytes.len() {
            let rest = IoSlice::new(&response.bytes[response.written..]);
            response.written += ready!(self.io.poll_write(cx, &[rest]))?;
        }
        self.error_response = None;
        self.io.set_awaits_head(false);
        Poll::Ready(Ok(bufs.iter().map(|buf| buf.len()).sum()))
    }

    /// hyper gets no more input. No wake-up: the driver checks for this after each poll of hyper.
    fn poll_many_fields<T>(&self) -> Poll<T> {
        self.io.set_has_many_fields();
        Poll::Pending
    }
}

impl Read for HyperIo {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(request) = this.scan.awaits_response_to() {
            let Some(is_switch) = this.io.is_switch(request) else {
                return this.io.poll_disconnect(cx).map(Ok);
            };
            this.scan.response_known(is_switch);
        }
        if this.scan.has_many_fields() {
            return this.poll_many_fields();
        }
        if this.scan.take_cut_head() {
            buf.put_slice(b"\n\n");
            return Poll::Ready(Ok(()));
        }
        if this.scan.is_invalid() {
            let error = io::Error::new(io::ErrorKind::InvalidData, InputDiscarded);
            return Poll::Ready(Err(error));
        }
        let scan = &mut this.scan;
        let taken = this.io.take_read_ahead(buf.remaining(), |bytes| {
            let len = scan.check(bytes);
            buf.put_slice(&bytes[..len]);
            len
        });
        if let Some(taken) = taken {
            if taken == 0 && this.scan.has_many_fields() {
                return this.poll_many_fields();
            }
            return Poll::Ready(Ok(()));
        }
        loop {
            ready!(this.io.poll_readable(cx))?;
            let read = this.io.try_read(buf.remaining(), |bytes| {
                let len = this.scan.check(bytes);
                let (passed, kept) = bytes.split_at(len);
                buf.put_slice(passed);
                this.io.unread(kept);
                len
            });
            match read {
                Ok(0) if this.scan.has_many_fields() => return this.poll_many_fields(),
                Ok(_) => return Poll::Ready(Ok(())),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl Write for HyperIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.write(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.write(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.io.shutdown())
    }
}
