//! An upstream's socket while hyper reads the response's head.
//!
//! hyper reads what it can get, and would hold the start of the body. So it gets no byte past the
//! head until the reader of the body is decided. If that is hyper, the chunks it gets are checked first: it
//! takes a bare LF behind the last one for a part of a trailer field, and would wait for the end of that.

use super::chunked::Chunked;
use super::gate::Gate;
use super::head_scan::{HeadScan, Interim, TooManyInterim};
use super::stream_body::{Pace, read};
use bytes::{Buf, BytesMut};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use sse_guard::serve::Io;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};

/// The socket that hyper gets.
#[derive(Debug)]
pub(super) struct HeadIo {
    socket: TokioIo<Io>,
    gate: Gate,
    scan: HeadScan,
    /// Read, and not given to hyper yet.
    ahead: BytesMut,
    /// Bytes of `ahead` that belong to the head.
    head: usize,
    /// The request was sent before: what hyper writes is dropped.
    is_mute: bool,
    /// The state of a chunked body that hyper reads. A box, as most sockets have none.
    chunked: Option<Box<Chunked>>,
    /// Why a write failed: see `keep_error`.
    error: Option<Box<io::Error>>,
}

impl HeadIo {
    /// `takes_many`: of a hyper that takes more than `MAX_STACK_FIELDS` of them.
    pub(super) fn new(socket: Io, takes_many: bool) -> (Self, Gate) {
        let gate = Gate::default();
        let io = Self {
            socket: TokioIo::new(socket),
            gate: gate.clone(),
            scan: HeadScan::new(takes_many),
            ahead: BytesMut::new(),
            head: 0,
            is_mute: false,
            chunked: None,
            error: None,
        };
        (io, gate)
    }

    /// For a response to a request that was sent before, on a socket that `into_parts` gave back.
    pub(super) fn after_request(
        socket: Io,
        ahead: &[u8],
        interim: Interim,
        takes_many: bool,
    ) -> (Self, Gate) {
        let (mut io, gate) = Self::new(socket, takes_many);
        io.is_mute = true;
        io.gate.0.has_read.store(interim.heads > 0, Relaxed);
        io.scan.interim = interim;
        io.take(ahead);
        (io, gate)
    }

    /// What was read goes to hyper as far as it belongs to the head.
    fn take(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.gate.0.has_read.store(true, Relaxed);
        }
        self.head = self.scan.advance(bytes);
        self.ahead.extend_from_slice(bytes);
    }

    /// The socket, what was read of it behind the head, and what came ahead of the final one.
    pub(super) fn into_parts(self) -> (Io, BytesMut, Interim) {
        (self.socket.into_inner(), self.ahead, self.scan.interim)
    }
}

impl Read for HeadIo {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.is_mute && !this.gate.0.begun.load(Relaxed) {
            // To hyper, input ahead of its request is an error. It writes in this poll.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        loop {
            let open = this.gate.0.open.load(Relaxed);
            if open && this.gate.0.is_chunked.load(Relaxed) && this.chunked.is_none() {
                let ahead = &this.ahead;
                check(this.chunked.insert(Box::default()), ahead)?;
            }
            if open && this.ahead.is_empty() && this.error.is_none() && this.chunked.is_none() {
                return Pin::new(&mut this.socket).poll_read(cx, buf);
            }
            let there = if open { this.ahead.len() } else { this.head };
            if there > 0 {
                let len = there.min(buf.remaining());
                buf.put_slice(&this.ahead[..len]);
                this.ahead.advance(len);
                this.head = this.head.saturating_sub(len);
                return Poll::Ready(Ok(()));
            }
            if this.scan.is_over() && !open {
                // No task is woken: see `Gate::open`.
                return Poll::Pending;
            }
            if this.scan.full {
                // No wake-up: the driver looks for it after each poll of hyper.
                this.gate.0.full.store(true, Relaxed);
                return Poll::Pending;
            }
            let read = read(this.socket.inner_mut(), &mut Pace::default(), cx);
            let quiet = read.is_pending() && this.scan.is_at_start();
            this.gate.0.quiet.store(quiet, Relaxed);
            let bytes = ready!(read)?;
            if bytes.is_empty() {
                return Poll::Ready(this.end());
            }
            if let Some(chunked) = &mut this.chunked {
                check(chunked, &bytes)?;
                let (passed, kept) = bytes.split_at(bytes.len().min(buf.remaining()));
                buf.put_slice(passed);
                this.ahead.extend_from_slice(kept);
                return Poll::Ready(Ok(()));
            }
            this.take(&bytes);
            if this.scan.interim.is_too_much() {
                return Poll::Ready(Err(io::Error::other(TooManyInterim)));
            }
        }
    }
}

fn check(chunked: &mut Chunked, bytes: &[u8]) -> io::Result<()> {
    let checked = chunked.check(bytes);
    checked.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

impl HeadIo {
    /// An upstream that refuses a request may close its side before it has read all of it. Its response
    /// has been received by then or is about to be, but hyper drops it for the error of the write. So
    /// that error is kept, the bytes count as written, and reading shows whether a response is there.
    fn keep_error(&mut self, result: io::Result<usize>, len: usize) -> io::Result<usize> {
        let error = match result {
            Err(error) if is_of_a_closed_connection(&error) => error,
            result => return result,
        };
        tracing::debug!(%error, "the upstream does not read the rest of a request");
        self.gate.0.failed.store(true, Relaxed);
        self.error = Some(Box::new(error));
        Ok(len)
    }

    /// The input has ended. The system reports a reset once; when a write has had it, a read finds an end
    /// that looks like a proper one, and a body without a length would seem whole. A broken pipe is what
    /// writes find behind the proper end.
    fn end(&mut self) -> io::Result<()> {
        match self.error.take() {
            Some(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(*error),
            error => {
                self.error = error;
                Ok(())
            }
        }
    }

    fn write(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let len = bufs.iter().map(|buf| buf.len()).sum();
        let result = match self.is_mute || self.gate.has_failed() {
            true => Poll::Ready(Ok(len)),
            false => {
                let socket = Pin::new(&mut self.socket);
                let result = socket.poll_write_vectored(cx, bufs);
                result.map(|result| self.keep_error(result, len))
            }
        };
        let state = &self.gate.0;
        state.blocked.store(result.is_pending(), Relaxed);
        if result.is_ready() {
            state.begun.store(true, Relaxed);
        }
        result
    }
}

fn is_of_a_closed_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
    matches!(
        error.kind(),
        BrokenPipe | ConnectionAborted | ConnectionReset
    )
}

impl Write for HeadIo {
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

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::rt::ReadBuf;
    use socket2::SockRef;
    use std::future::poll_fn;
    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpListener, TcpStream};

    /// What can be read of `refusal` behind which the upstream has reset the connection, when a write has
    /// found that first; and how it ends.
    async fn read_after_write_error(
        refusal: &str,
        is_ended: bool,
    ) -> (String, Option<io::ErrorKind>, Gate) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap());
        let (ours, theirs) = tokio::join!(ours, listener.accept());
        let (mut theirs, _) = theirs.unwrap();
        theirs.write_all(refusal.as_bytes()).await.unwrap();
        if is_ended {
            theirs.shutdown().await.unwrap();
        }
        SockRef::from(&theirs)
            .set_linger(Some(std::time::Duration::ZERO))
            .unwrap();
        drop(theirs);
        let (mut io, gate) = HeadIo::new(ours.unwrap().into(), false);
        // Loopback delivers before the calls return.
        for _ in 0..2 {
            let wrote = poll_fn(|cx| Pin::new(&mut io).poll_write(cx, b"rest")).await;
            assert_eq!(wrote.unwrap(), 4);
        }
        gate.open(false);
        let mut seen = String::new();
        let error = loop {
            let mut bytes = [0; 16];
            let mut buf = ReadBuf::new(&mut bytes);
            let read = poll_fn(|cx| Pin::new(&mut io).poll_read(cx, buf.unfilled())).await;
            match read {
                Err(error) => break Some(error.kind()),
                Ok(()) if buf.filled().is_empty() => break None,
                Ok(()) => seen.push_str(std::str::from_utf8(buf.filled()).unwrap()),
            }
        };
        (seen, error, gate)
    }

    #[tokio::test]
    async fn response_is_read_though_a_write_has_failed() {
        let refusal = "HTTP/1.1 413 Content Too Large\r\n\r\ntoo large";
        let (seen, error, gate) = read_after_write_error(refusal, false).await;
        assert_eq!(seen, refusal);
        // A body without a length must not seem whole.
        assert_eq!(error, Some(io::ErrorKind::ConnectionReset));
        assert!(gate.has_failed() && !gate.only_waits());
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn reset_behind_the_proper_end_is_not_an_error() {
        let refusal = "HTTP/1.1 413 Content Too Large\r\n\r\ntoo large";
        let (seen, error, _) = read_after_write_error(refusal, true).await;
        assert_eq!((seen.as_str(), error), (refusal, None));
    }

    #[tokio::test]
    async fn write_error_is_reported_if_there_is_no_response() {
        let (seen, error, _) = read_after_write_error("", false).await;
        assert_eq!(
            (seen.as_str(), error),
            ("", Some(io::ErrorKind::ConnectionReset))
        );
    }
}
