//! An upstream's socket while hyper reads the response's head.
//!
//! hyper reads what it can get, and would hold the start of the body. So it gets no byte past the
//! head until the reader of the body is decided.

use super::body::{Pace, read};
use bytes::{Buf, BytesMut};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use sse_guard::serve::Io;
use std::error::Error;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

/// State shared with a socket that hyper holds.
#[derive(Clone, Debug, Default)]
pub(super) struct Gate(Arc<GateState>);

#[derive(Debug, Default)]
struct GateState {
    open: AtomicBool,
    blocked: AtomicBool,
    /// Something of the request was written.
    begun: AtomicBool,
    /// Nothing is there to read, and nothing of a head has come of which more is missing.
    quiet: AtomicBool,
    /// Something of a response has come.
    has_read: AtomicBool,
    /// The head has more fields than hyper was set up for.
    full: AtomicBool,
    /// A write failed, since the upstream takes no more of the request.
    failed: AtomicBool,
}

impl Gate {
    /// hyper may continue to read. The caller must poll hyper's connection afterwards.
    pub(super) fn open(&self) {
        self.0.open.store(true, Relaxed);
    }

    /// Whether something of the request waits for room in the kernel.
    pub(super) fn is_blocked(&self) -> bool {
        self.0.blocked.load(Relaxed)
    }

    /// Whether hyper has sent all that it had, and nothing has come that it would have to keep.
    pub(super) fn only_waits(&self) -> bool {
        let state = &self.0;
        let is_sent = state.begun.load(Relaxed) && !state.blocked.load(Relaxed);
        is_sent && state.quiet.load(Relaxed) && !self.has_failed()
    }

    /// Whether something of a response has come.
    pub(super) fn has_read(&self) -> bool {
        self.0.has_read.load(Relaxed)
    }

    /// Whether the head has more fields than hyper was set up for. No more of it is handed on.
    pub(super) fn is_full(&self) -> bool {
        self.0.full.load(Relaxed)
    }

    /// Whether the upstream did not take all that hyper wrote: no other request can follow on the
    /// connection.
    pub(super) fn has_failed(&self) -> bool {
        self.0.failed.load(Relaxed)
    }
}

/// The socket that hyper gets.
#[derive(Debug)]
pub(super) struct HeadIo {
    socket: TokioIo<Io>,
    gate: Gate,
    scan: HeadScan,
    /// Read, and not given to hyper yet.
    ahead: BytesMut,
    /// So much of `ahead` belongs to the head.
    head: usize,
    /// The request was sent before: what hyper writes is dropped.
    is_mute: bool,
    /// Why a write failed: see `keep_error`.
    error: Option<Box<io::Error>>,
}

impl HeadIo {
    /// `takes_many`: of a hyper that takes more than `FEW_FIELDS` of them.
    pub(super) fn new(socket: Io, takes_many: bool) -> (Self, Gate) {
        let gate = Gate::default();
        let io = Self {
            socket: TokioIo::new(socket),
            gate: gate.clone(),
            scan: HeadScan {
                takes_many,
                ..HeadScan::default()
            },
            ahead: BytesMut::new(),
            head: 0,
            is_mute: false,
            error: None,
        };
        (io, gate)
    }

    /// For a response to a request that was sent before, on a socket that `into_parts` gave back.
    pub(super) fn asked_before(
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
            // hyper takes what comes ahead of its request for a fault. It writes in the same poll.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        loop {
            let open = this.gate.0.open.load(Relaxed);
            if open && this.ahead.is_empty() && this.error.is_none() {
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
            this.take(&bytes);
            if this.scan.interim.is_too_much() {
                return Poll::Ready(Err(io::Error::other(TooManyInterim)));
            }
        }
    }
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
                let result = match bufs {
                    // Which is a cheaper call.
                    [all] => socket.poll_write(cx, all),
                    _ => socket.poll_write_vectored(cx, bufs),
                };
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

/// Interim responses ahead of the final one. An upstream sends one or two, or one for each step of
/// long work; hyper would read them without end.
const MAX_INTERIM: u32 = 32;
/// Bytes of all of them; hyper allows as many for one head.
const MAX_INTERIM_BYTES: usize = 408 * 1024;

/// Why a read fails when the final response's head does not come.
#[derive(Debug, thiserror::Error)]
#[error("more than {MAX_INTERIM} interim (1xx) heads or {MAX_INTERIM_BYTES} bytes of them came")]
pub(super) struct TooManyInterim;

impl TooManyInterim {
    pub(super) fn is_why(error: &(dyn Error + 'static)) -> bool {
        error
            .downcast_ref()
            .and_then(io::Error::get_ref)
            .is_some_and(|error| error.is::<Self>())
    }
}

/// What has come of interim heads.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Interim {
    heads: u32,
    bytes: usize,
}

impl Interim {
    fn is_too_much(self) -> bool {
        self.heads > MAX_INTERIM || self.bytes > MAX_INTERIM_BYTES
    }
}

/// Fields of a head that hyper takes without a heap allocation for each head.
const FEW_FIELDS: usize = 100;

/// Bytes of a status line that show whether it is an interim one: `HTTP/1.1 1`.
const STATUS: usize = 12;

/// Looks for the end of the final response's head.
#[derive(Debug, Default)]
struct HeadScan {
    /// The start of the status line.
    status: [u8; STATUS],
    seen: usize,
    at_line_start: bool,
    over: bool,
    /// Lines that are over, the status line among them.
    lines: usize,
    takes_many: bool,
    /// The next byte is of a field that hyper has no room for.
    full: bool,
    interim: Interim,
}

impl HeadScan {
    /// How many of `bytes` belong to heads.
    fn advance(&mut self, bytes: &[u8]) -> usize {
        for (index, &byte) in bytes.iter().enumerate() {
            match byte {
                // Empty lines ahead of a status line are none of its business.
                b'\r' | b'\n' if self.seen == 0 => {}
                b'\n' if self.at_line_start => {
                    if !self.is_interim() {
                        self.over = true;
                        return index + 1;
                    }
                    let Interim { heads, bytes } = self.interim;
                    let interim = Interim {
                        heads: heads.saturating_add(1),
                        bytes: bytes.saturating_add(self.seen),
                    };
                    *self = Self {
                        interim,
                        takes_many: self.takes_many,
                        ..Self::default()
                    };
                }
                b'\n' => {
                    self.at_line_start = true;
                    self.lines += 1;
                }
                b'\r' => {}
                _ if self.at_line_start && self.lines > FEW_FIELDS && !self.takes_many => {
                    self.full = true;
                    return index;
                }
                _ => {
                    if let Some(place) = self.status.get_mut(self.seen) {
                        *place = byte;
                    }
                    self.seen += 1;
                    self.at_line_start = false;
                }
            }
        }
        bytes.len()
    }

    /// RFC 9110 section 15.2: another head follows, but for a switch of protocols.
    fn is_interim(&self) -> bool {
        let code = &self.status[STATUS - 3..];
        self.status.starts_with(b"HTTP/1.") && code[0] == b'1' && code != b"101"
    }

    fn is_over(&self) -> bool {
        self.over
    }

    /// Whether the input is at the start of a head.
    fn is_at_start(&self) -> bool {
        self.seen == 0
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

    /// What of `bytes` belongs to heads, whatever the cut.
    fn head(bytes: &str) -> &str {
        let mut lens = Vec::new();
        for cut in 0..=bytes.len() {
            let mut scan = HeadScan::default();
            let first = scan.advance(&bytes.as_bytes()[..cut]);
            let second = match scan.is_over() {
                true => 0,
                false => scan.advance(&bytes.as_bytes()[cut..]),
            };
            lens.push(first + second);
        }
        assert!(lens.iter().all(|len| *len == lens[0]), "{lens:?}");
        &bytes[..lens[0]]
    }

    #[test]
    fn the_head_ends_at_the_first_empty_line() {
        for end in ["\r\n", "\n"] {
            let whole = format!("HTTP/1.1 200 OK{end}A: b{end}{end}");
            assert_eq!(head(&format!("{whole}data: 1\n\n")), whole);
        }
        assert_eq!(
            head("\r\nHTTP/1.1 200\r\n\r\nx"),
            "\r\nHTTP/1.1 200\r\n\r\n"
        );
    }

    #[test]
    fn interim_heads_are_not_the_last() {
        let heads = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nA: b\r\n\r\nHTTP/1.1 200 OK\r\n\r\n";
        assert_eq!(head(&format!("{heads}body")), heads);
        let switch = "HTTP/1.1 101 Switching Protocols\r\n\r\n";
        assert_eq!(head(&format!("{switch}frames")), switch);
    }

    #[test]
    fn a_head_of_many_fields_is_handed_on_as_far_as_there_is_room() {
        let few = "HTTP/1.1 200 OK\r\n".to_owned() + &"a: b\r\n".repeat(100);
        assert_eq!(head(&format!("{few}\r\nbody")), format!("{few}\r\n"));
        let many = format!("{few}c: d\r\n\r\n");
        let interim = many.replace("200 OK", "103 Early Hints");
        for (takes_many, len) in [(false, few.len()), (true, many.len())] {
            for (before, len) in [("", len), ("HTTP/1.1 103 Early Hints\r\n\r\n", len + 28)] {
                let mut scan = HeadScan {
                    takes_many,
                    ..HeadScan::default()
                };
                assert_eq!(scan.advance(format!("{before}{many}").as_bytes()), len);
                assert_eq!((scan.full, scan.over), (!takes_many, takes_many));
            }
        }
        let mut scan = HeadScan::default();
        scan.advance(interim.as_bytes());
        assert!(scan.full);
    }

    #[test]
    fn interim_heads_are_bounded_in_number_and_length() {
        let final_head = "HTTP/1.1 200 OK\r\n\r\n";
        let many = "HTTP/1.1 103 Early Hints\r\n\r\n";
        let long = format!("HTTP/1.1 103 E\r\nA: {}\r\n\r\n", "b".repeat(100 * 1024));
        for (interim, most) in [(many, 32), (&long, 4)] {
            for (count, is_too_much) in [(most, false), (most + 1, true)] {
                let mut scan = HeadScan::default();
                let bytes = format!("{}{final_head}", interim.repeat(count));
                for bytes in bytes.as_bytes().chunks(1000) {
                    scan.advance(bytes);
                }
                assert!(scan.is_over());
                assert_eq!(scan.interim.is_too_much(), is_too_much, "{count}");
            }
        }
    }

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
        gate.open();
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
    async fn a_refusal_is_read_though_a_write_has_failed() {
        let refusal = "HTTP/1.1 413 Content Too Large\r\n\r\ntoo large";
        let (seen, error, gate) = read_after_write_error(refusal, false).await;
        assert_eq!(seen, refusal);
        // A body without a length must not seem whole.
        assert_eq!(error, Some(io::ErrorKind::ConnectionReset));
        assert!(gate.has_failed() && !gate.only_waits());
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_reset_behind_the_proper_end_is_no_error() {
        let refusal = "HTTP/1.1 413 Content Too Large\r\n\r\ntoo large";
        let (seen, error, _) = read_after_write_error(refusal, true).await;
        assert_eq!((seen.as_str(), error), (refusal, None));
    }

    #[tokio::test]
    async fn without_a_response_the_error_of_the_write_remains() {
        let (seen, error, _) = read_after_write_error("", false).await;
        assert_eq!(
            (seen.as_str(), error),
            ("", Some(io::ErrorKind::ConnectionReset))
        );
    }
}
