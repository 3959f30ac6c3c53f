//! A client's socket: what hyper and the pump read and write, with an eye on clients that go and
//! clients that stall.

mod interim;

use super::attachment::Attachment;
use super::encode::Case;
use super::patience::Patience;
use super::refusal;
use super::registry::ConnectionEntry;
use super::request_scan::RequestScan;
use super::stalls::Stalls;
use super::transport::Io;
use crate::lock::lock;
use bytes::{Buf, BytesMut};
use hyper::rt::{Read, ReadBufCursor, Write};
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::Weak;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{Interest, Ready};

/// Bytes that one read takes at the most; hyper's own buffer starts at as much.
const READ: usize = 8 * 1024;
/// Bytes that are read ahead of a request's turn, to see the end of the input behind them.
const AHEAD: usize = 8 * 1024;

/// Why a read fails behind a request that hyper has to refuse.
#[derive(Debug, thiserror::Error)]
#[error("input after an invalid request is discarded")]
struct Refused;

/// Bytes of a body that hyper may hold before it has written some. It takes 16 pieces otherwise, of any
/// size, for a client that does not read.
const MAX_QUEUED: usize = 32 * 1024;

/// Why a write fails when the guard has run out of patience.
#[derive(Debug, thiserror::Error)]
#[error("the client did not read the waiting output within {0:?}")]
pub(super) struct Stalled(Duration);

impl Stalled {
    pub(super) fn is_why(error: &io::Error) -> bool {
        error.get_ref().is_some_and(|error| error.is::<Self>())
    }
}

/// One client's socket. A clone is another handle to it.
#[derive(Clone)]
pub(super) struct ClientIo(Arc<Shared>);

pub(super) struct Shared {
    socket: Io,
    stalls: Stalls,
    case: Case,
    /// The response under way is an event stream.
    is_stream: AtomicBool,
    /// The kernel does not bound how long the client may leave its data in the buffer.
    is_patient: AtomicBool,
    /// Bytes wait for room in the kernel.
    blocked: AtomicBool,
    /// hyper has written all responses of the service, and has no other request for it.
    awaits_head: AtomicBool,
    /// A head has more fields than hyper was set up for.
    has_many_fields: AtomicBool,
    /// There is a `patience`.
    is_timed: AtomicBool,
    /// The kernel may hold input that the runtime no longer reports: see `poll_hung_up`.
    masked: AtomicBool,
    /// The responses of the service since hyper has the connection.
    answers: AtomicU32,
    /// The last of them switches to another protocol.
    is_switch: AtomicBool,
    /// A read waits for one of them.
    is_awaited: AtomicBool,
    /// The service is polled for a response to a client that interim heads may be written to.
    takes_interim: AtomicBool,
    /// Interim heads are queued.
    has_interim: AtomicBool,
    /// Bytes of a response's body that hyper holds.
    queued: AtomicUsize,
    /// A body waits until hyper holds less.
    body_waits: AtomicBool,
    state: Mutex<State>,
    entry: ConnectionEntry,
}

#[derive(Default)]
struct State {
    /// Read, and not asked for yet.
    ahead: BytesMut,
    /// A box, as only a client that does not read has one.
    patience: Option<Pin<Box<Patience>>>,
    /// A box, since few connections have one.
    attachment: Option<Box<Arc<dyn Attachment>>>,
    /// A box, since few responses have interim heads.
    interim: Option<Box<interim::Interim>>,
}

impl Shared {
    pub(super) fn entry(&self) -> &ConnectionEntry {
        &self.entry
    }

    pub(super) fn attachment(&self) -> Option<Arc<dyn Attachment>> {
        lock(&self.state).attachment.as_deref().cloned()
    }

    /// The one that there is, or else this.
    pub(super) fn attach(&self, make: impl FnOnce() -> Arc<dyn Attachment>) -> Arc<dyn Attachment> {
        let mut state = lock(&self.state);
        let attachment = state.attachment.get_or_insert_with(|| Box::new(make()));
        Arc::clone(attachment)
    }
}

impl ClientIo {
    pub(super) fn new(
        socket: impl Into<Io>,
        stalls: Stalls,
        case: Case,
        entry: ConnectionEntry,
    ) -> Self {
        Self(Arc::new(Shared {
            socket: socket.into(),
            stalls,
            case,
            is_stream: AtomicBool::new(false),
            is_patient: AtomicBool::new(false),
            blocked: AtomicBool::new(false),
            awaits_head: AtomicBool::new(false),
            has_many_fields: AtomicBool::new(false),
            is_timed: AtomicBool::new(false),
            masked: AtomicBool::new(false),
            answers: AtomicU32::new(0),
            is_switch: AtomicBool::new(false),
            is_awaited: AtomicBool::new(false),
            takes_interim: AtomicBool::new(false),
            has_interim: AtomicBool::new(false),
            queued: AtomicUsize::new(0),
            body_waits: AtomicBool::new(false),
            state: Mutex::default(),
            entry,
        }))
    }

    /// How names of fields are written to it.
    pub(super) fn case(&self) -> Case {
        self.0.case
    }

    /// Its place among the connections of the server.
    pub(super) fn entry(&self) -> &ConnectionEntry {
        &self.0.entry
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0.state)
    }

    pub(super) fn downgrade(&self) -> Weak<Shared> {
        Arc::downgrade(&self.0)
    }

    /// Whether the connection must not serve another request, by what is attached to it.
    pub(super) fn is_closing(&self) -> bool {
        if let Some(attachment) = self.0.attachment() {
            return attachment.is_closing();
        }
        false
    }

    /// Ready when that is so. An attachment wakes only a task that has polled since it was made.
    pub(super) fn poll_closing(&self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(attachment) = self.0.attachment() {
            return attachment.poll_closing(cx);
        }
        Poll::Pending
    }

    /// Whether hyper only waits for a head. What it writes then is a refusal of its own.
    pub(super) fn set_awaits_head(&self, awaits_head: bool) {
        self.0.awaits_head.store(awaits_head, Relaxed);
    }

    /// Whether the request that hyper reads has more fields than it was set up for.
    pub(super) fn has_many_fields(&self) -> bool {
        self.0.has_many_fields.load(Relaxed)
    }

    /// hyper gets no more. No wake-up: the driver looks for this after each poll of hyper.
    fn poll_many_fields<T>(&self) -> Poll<T> {
        self.0.has_many_fields.store(true, Relaxed);
        Poll::Pending
    }

    /// Whether something that was to be written waits still.
    pub(super) fn is_blocked(&self) -> bool {
        self.0.blocked.load(Relaxed)
    }

    /// Notes that the response to the next request is known. Whether a read waits for it.
    pub(super) fn answered(&self, is_switch: bool) -> bool {
        self.0.is_switch.store(is_switch, Relaxed);
        self.0.answers.fetch_add(1, Relaxed);
        self.0.is_awaited.swap(false, Relaxed)
    }

    /// Whether the last request, the one of this number, gets a response that switches to another
    /// protocol, if that is known.
    fn is_switch(&self, request: u32) -> Option<bool> {
        let is_known = self.0.answers.load(Relaxed) == request;
        is_known.then(|| self.0.is_switch.load(Relaxed))
    }

    /// How long the client of the response under way may leave it unread.
    fn stall(&self) -> Option<Duration> {
        match self.0.is_stream.load(Relaxed) {
            true => self.0.stalls.stream,
            false => self.0.stalls.response,
        }
    }

    /// The next response is an event stream, or another one that the client may pause, as it does not fit
    /// into the kernel's buffers for sure.
    pub(super) fn respond(&self, is_stream: bool, may_pause: bool) {
        self.0.is_stream.store(is_stream, Relaxed);
        let is_patient = may_pause && !is_stream && self.0.stalls.response.is_none();
        if self.0.is_patient.swap(is_patient, Relaxed) != is_patient {
            self.0.stalls.set_patient(&self.0.socket, is_patient);
        }
    }

    /// hyper gets another body. Had it dropped a part of the last one, that would never leave.
    pub(super) fn start_body(&self) {
        self.0.queued.store(0, Relaxed);
    }

    /// hyper has taken so many bytes of a body.
    pub(super) fn queue(&self, bytes: usize) {
        self.0.queued.fetch_add(bytes, Relaxed);
    }

    /// Whether hyper holds so much of a body that it is to write before it gets more. The next write
    /// wakes the task then.
    pub(super) fn is_full(&self) -> bool {
        let is_full = self.0.queued.load(Relaxed) >= MAX_QUEUED;
        if is_full {
            self.0.body_waits.store(true, Relaxed);
        }
        is_full
    }

    /// So many bytes have left. Those of heads and of framing count, too: the bound is no exact one.
    fn wrote(&self, bytes: usize, cx: &Context<'_>) {
        let queued = self.0.queued.load(Relaxed);
        self.0.queued.store(queued.saturating_sub(bytes), Relaxed);
        if self.0.is_timed.load(Relaxed) {
            let mut state = self.state();
            let patience = state.patience.as_mut();
            if patience.is_none_or(|patience| patience.as_mut().is_satisfied(bytes)) {
                state.patience = None;
                self.0.is_timed.store(false, Relaxed);
            }
        }
        if self.0.body_waits.swap(false, Relaxed) {
            // hyper polls the body before it writes, and not again behind that.
            cx.waker().wake_by_ref();
        }
    }

    /// Puts back what was read and not used.
    pub(super) fn unread(&self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let mut state = self.state();
        let mut ahead = BytesMut::from(bytes);
        ahead.extend_from_slice(&state.ahead);
        state.ahead = ahead;
    }

    /// Until there is something of the client's to read: false if that is its end, or the end of its
    /// connection.
    pub(super) fn poll_come(&self, cx: &mut Context<'_>) -> Poll<bool> {
        loop {
            if self.skip_empty_lines() {
                return Poll::Ready(true);
            }
            if ready!(self.poll_readable(cx)).is_err() {
                return Poll::Ready(false);
            }
            let mut bytes = [0; READ];
            match self.try_read(&mut bytes) {
                Ok(0) => return Poll::Ready(false),
                Ok(read) => self.state().ahead.extend_from_slice(&bytes[..read]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Poll::Ready(false),
            }
        }
    }

    /// RFC 9112 section 2.2: empty lines ahead of a request line are ignored. Old clients send one
    /// behind a body. Whether anything else is there.
    fn skip_empty_lines(&self) -> bool {
        let mut state = self.state();
        let ahead = &mut state.ahead;
        while let Some(len) = match ahead[..] {
            [b'\r', b'\n', ..] => Some(2),
            [b'\n', ..] => Some(1),
            _ => None,
        } {
            ahead.advance(len);
        }
        if ahead.is_empty() {
            *ahead = BytesMut::new();
        }
        // The rest of this line may still come.
        !ahead.is_empty() && ahead[..] != *b"\r"
    }

    /// Until the client has closed its side, in a state that expects no input. Bytes of the next
    /// request are kept for their turn; too many of them stay in the kernel.
    ///
    /// A client that has closed its side alone cannot be told from one that went.
    pub(super) fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut bytes = [0; 512];
        loop {
            let mut state = self.state();
            if state.ahead.len() >= AHEAD {
                drop(state);
                return self.poll_hung_up(cx);
            }
            if ready!(self.poll_readable(cx)).is_err() {
                return Poll::Ready(());
            }
            match self.try_read(&mut bytes) {
                Ok(0) => return Poll::Ready(()),
                Ok(read) => state.ahead.extend_from_slice(&bytes[..read]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Poll::Ready(()),
            }
        }
    }

    /// The same without a read: whatever has come stays where it is.
    pub(super) fn poll_hung_up(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_closed(cx).map(|_| ())
    }

    /// Until the client has closed both sides, while it may still send: behind the end of its side alone
    /// there can be input that is not read yet.
    pub(super) fn poll_reset(&self, cx: &mut Context<'_>) -> Poll<()> {
        match self.poll_closed(cx) {
            Poll::Ready(state) if state.is_none_or(Ready::is_write_closed) => Poll::Ready(()),
            _ => Poll::Pending,
        }
    }

    /// Until the client has closed its side; how the socket is then, if that can be told.
    fn poll_closed(&self, cx: &mut Context<'_>) -> Poll<Option<Ready>> {
        let socket = &self.0.socket;
        loop {
            if ready!(socket.poll_read_ready(cx)).is_err() {
                return Poll::Ready(None);
            }
            match pin!(socket.ready(Interest::READABLE | Interest::WRITABLE)).poll(cx) {
                Poll::Ready(Ok(state)) if !state.is_read_closed() => {}
                Poll::Ready(state) => return Poll::Ready(state.ok()),
                Poll::Pending => {}
            }
            // There is input. The runtime has to forget it: it wakes nobody for the end of the input
            // while it takes the socket for readable.
            self.0.masked.store(true, Relaxed);
            let blocked = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
            let _ = socket.try_io(Interest::READABLE, blocked);
        }
    }

    /// Until `try_read` is worth a call.
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.0.masked.load(Relaxed) {
            true => Poll::Ready(Ok(())),
            false => self.0.socket.poll_read_ready(cx),
        }
    }

    fn try_read(&self, bytes: &mut [u8]) -> io::Result<usize> {
        if !self.0.masked.load(Relaxed) {
            return self.0.socket.try_read(bytes);
        }
        // Past the runtime, which believes that nothing is there. It is right again once nothing is.
        let read = self.0.socket.read_now(bytes);
        if let Err(error) = &read
            && error.kind() == io::ErrorKind::WouldBlock
        {
            self.0.masked.store(false, Relaxed);
        }
        read
    }

    /// Writes what the kernel has room for. Fails when what waited for room did not leave in time, and the
    /// connection is to be reset then: its client would never learn of a proper end.
    pub(super) fn poll_write(
        &self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // They came ahead of this.
        ready!(self.poll_interim(cx))?;
        self.poll_write_now(cx, bufs)
    }

    fn poll_write_now(
        &self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            match self.0.socket.try_write(bufs) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => {
                    self.0.blocked.store(false, Relaxed);
                    if let Ok(bytes) = &result {
                        self.wrote(*bytes, cx);
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

    /// The client has no more time to read: as if it had stalled for too long.
    pub(super) fn give_up(&self) -> io::Error {
        self.reset_on_close();
        let stall = self.stall().unwrap_or_default();
        io::Error::new(io::ErrorKind::TimedOut, Stalled(stall))
    }

    fn poll_stalled(&self, cx: &mut Context<'_>, waiting: usize) -> Poll<io::Error> {
        self.0.blocked.store(true, Relaxed);
        let Some(stall) = self.stall() else {
            return Poll::Pending;
        };
        let mut state = self.state();
        let patience = state.patience.get_or_insert_with(|| {
            self.0.is_timed.store(true, Relaxed);
            Box::pin(Patience::new(stall, waiting))
        });
        ready!(patience.as_mut().poll_over(cx));
        Poll::Ready(self.give_up())
    }

    /// From now on to close is to reset: what the kernel still holds is dropped, and the client
    /// learns that this is no proper end. A Unix socket has no reset: there chunks alone show the end.
    pub(super) fn reset_on_close(&self) {
        self.linger(Some(Duration::ZERO));
    }

    /// To close is no reset any more.
    pub(super) fn end_on_close(&self) {
        self.linger(None);
    }

    fn linger(&self, linger: Option<Duration>) {
        if let Err(error) = self.0.socket.socket().set_linger(linger) {
            tracing::debug!(%error, "cannot set how a connection closes");
        }
    }

    /// Tells the client that no more will come.
    pub(super) fn shutdown(&self) -> io::Result<()> {
        match self.0.socket.socket().shutdown(std::net::Shutdown::Write) {
            Err(error) if error.kind() != io::ErrorKind::NotConnected => Err(error),
            _ => Ok(()),
        }
    }
}

/// The same socket as hyper gets it, from the start of a request on.
pub(super) struct HyperIo {
    io: ClientIo,
    scan: RequestScan,
    /// Bytes that are written in place of hyper's refusal, and how many have left.
    refusal: Option<Box<(Vec<u8>, usize)>>,
}

impl HyperIo {
    pub(super) fn new(io: ClientIo) -> Self {
        io.0.answers.store(0, Relaxed);
        io.0.is_awaited.store(false, Relaxed);
        let scan = match io.0.has_many_fields.swap(false, Relaxed) {
            true => RequestScan::of_many_fields(),
            false => RequestScan::default(),
        };
        Self {
            io,
            scan,
            refusal: None,
        }
    }

    fn write(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if self.refusal.is_none() && self.io.0.awaits_head.load(Relaxed) {
            // hyper has no way to set what it answers itself.
            let head: Vec<u8> = bufs.iter().flat_map(|buf| buf.iter().copied()).collect();
            let text = refusal::explained(&head, self.scan.fault());
            self.refusal = text.map(|text| Box::new((text, 0)));
        }
        let Some(refusal) = &mut self.refusal else {
            return self.io.poll_write(cx, bufs);
        };
        let (text, sent) = &mut **refusal;
        while *sent < text.len() {
            *sent += ready!(self.io.poll_write(cx, &[IoSlice::new(&text[*sent..])]))?;
        }
        self.refusal = None;
        self.io.set_awaits_head(false);
        Poll::Ready(Ok(bufs.iter().map(|buf| buf.len()).sum()))
    }
}

impl Read for HyperIo {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { io, scan, .. } = self.get_mut();
        if let Some(request) = scan.awaits() {
            let Some(is_switch) = io.is_switch(request) else {
                io.0.is_awaited.store(true, Relaxed);
                return io.poll_gone(cx).map(Ok);
            };
            scan.answered(is_switch);
        }
        if scan.has_many_fields() {
            return io.poll_many_fields();
        }
        if scan.is_refused() {
            let refused = io::Error::new(io::ErrorKind::InvalidData, Refused);
            return Poll::Ready(Err(refused));
        }
        let mut state = io.state();
        if !state.ahead.is_empty() {
            let len = state.ahead.len().min(buf.remaining());
            let len = scan.check(&mut state.ahead[..len]);
            if len == 0 && scan.has_many_fields() {
                drop(state);
                return io.poll_many_fields();
            }
            buf.put_slice(&state.ahead[..len]);
            state.ahead.advance(len);
            if state.ahead.is_empty() {
                state.ahead = BytesMut::new();
            }
            return Poll::Ready(Ok(()));
        }
        drop(state);
        let room = buf.remaining().min(READ);
        loop {
            ready!(io.poll_readable(cx))?;
            // Filled with zeros, so not before there is something to read.
            let mut bytes = [0; READ];
            match io.try_read(&mut bytes[..room]) {
                Ok(read) => {
                    let len = scan.check(&mut bytes[..read]);
                    let (handed, kept) = bytes[..read].split_at(len);
                    buf.put_slice(handed);
                    io.unread(kept);
                    if handed.is_empty() && scan.has_many_fields() {
                        return io.poll_many_fields();
                    }
                    return Poll::Ready(Ok(()));
                }
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
