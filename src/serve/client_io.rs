//! A client's socket, as hyper and the stream writer use it. It detects clients that disconnect and clients that do
//! not read.

mod interim;
mod read;
mod write;

use super::attachment::Attachment;
use super::http1::FieldCase;
use super::io::Io;
use super::registry::ConnectionEntry;
use super::stall::{StallTimeouts, StallTimer};
use crate::lock::lock;
use bytes::BytesMut;
#[cfg(feature = "tls")]
use rustls::pki_types::CertificateDer;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::task::{Context, Poll};
pub(super) use write::WriteStalled;

/// The socket of one client. A clone is another handle to it.
#[derive(Clone)]
pub(super) struct ClientIo(Arc<ClientSocket>);

pub(super) struct ClientSocket {
    socket: Io,
    stall_timeouts: StallTimeouts,
    field_case: FieldCase,
    entry: ConnectionEntry,
    /// The response in progress is an event stream.
    is_stream: AtomicBool,
    /// `TCP_USER_TIMEOUT` is lifted for the response in progress, which the client may leave unread.
    allows_pause: AtomicBool,
    /// Output waits for space in the kernel's send buffer.
    is_blocked: AtomicBool,
    /// hyper has written all responses of the service and reads the next head.
    awaits_head: AtomicBool,
    /// The head that hyper reads has more fields than its connection was built for.
    has_many_fields: AtomicBool,
    /// `stall_timer` is set.
    has_stall_timer: AtomicBool,
    /// Output was not read in time.
    is_stalled: AtomicBool,
    /// The runtime's read readiness was cleared while the kernel may hold input: see `poll_half_closed`.
    readiness_cleared: AtomicBool,
    /// Number of responses of the service since hyper serves the connection.
    responses: AtomicU32,
    /// The last of them switches to another protocol.
    is_switch: AtomicBool,
    /// A read waits for the next of them.
    read_awaits_response: AtomicBool,
    /// Interim heads may be queued: the service is polled for a response, and the client supports them.
    accepts_interim: AtomicBool,
    /// Interim heads are queued.
    has_interim: AtomicBool,
    /// Bytes of a response body that hyper has taken and not written.
    queued_body: AtomicUsize,
    /// Number of open event streams of a connection of HTTP/2.
    #[cfg(feature = "http2")]
    http2_streams: AtomicUsize,
    /// The body is not polled until hyper has written some of it.
    body_waits: AtomicBool,
    state: Mutex<ClientIoState>,
}

#[derive(Default)]
struct ClientIoState {
    /// Input that was read from the socket and not by hyper.
    read_ahead: BytesMut,
    /// A box, because only a client that does not read has one.
    stall_timer: Option<Pin<Box<StallTimer>>>,
    /// A box, because few connections have one.
    attachment: Option<Box<Arc<dyn Attachment>>>,
    /// A box, because few responses have interim heads.
    interim: Option<Box<interim::QueuedInterim>>,
}

impl ClientSocket {
    pub(super) fn entry(&self) -> &ConnectionEntry {
        &self.entry
    }

    #[cfg(feature = "tls")]
    pub(super) fn peer_certificate(&self) -> Option<CertificateDer<'static>> {
        self.socket.peer_certificate()
    }

    pub(super) fn attachment(&self) -> Option<Arc<dyn Attachment>> {
        lock(&self.state).attachment.as_deref().cloned()
    }

    /// Returns the attachment of the connection, made by `make` if there is none.
    pub(super) fn attach(&self, make: impl FnOnce() -> Arc<dyn Attachment>) -> Arc<dyn Attachment> {
        let mut state = lock(&self.state);
        let attachment = state.attachment.get_or_insert_with(|| Box::new(make()));
        Arc::clone(attachment)
    }
}

impl ClientIo {
    pub(super) fn new(
        socket: impl Into<Io>,
        stall_timeouts: StallTimeouts,
        field_case: FieldCase,
        entry: ConnectionEntry,
    ) -> Self {
        Self(Arc::new(ClientSocket {
            socket: socket.into(),
            stall_timeouts,
            field_case,
            entry,
            is_stream: AtomicBool::new(false),
            allows_pause: AtomicBool::new(false),
            is_blocked: AtomicBool::new(false),
            awaits_head: AtomicBool::new(false),
            has_many_fields: AtomicBool::new(false),
            has_stall_timer: AtomicBool::new(false),
            is_stalled: AtomicBool::new(false),
            readiness_cleared: AtomicBool::new(false),
            responses: AtomicU32::new(0),
            is_switch: AtomicBool::new(false),
            read_awaits_response: AtomicBool::new(false),
            accepts_interim: AtomicBool::new(false),
            has_interim: AtomicBool::new(false),
            queued_body: AtomicUsize::new(0),
            #[cfg(feature = "http2")]
            http2_streams: AtomicUsize::new(0),
            body_waits: AtomicBool::new(false),
            state: Mutex::default(),
        }))
    }

    pub(super) fn field_case(&self) -> FieldCase {
        self.0.field_case
    }

    /// The connection's entry in the server's registry.
    pub(super) fn entry(&self) -> &ConnectionEntry {
        &self.0.entry
    }

    fn state(&self) -> MutexGuard<'_, ClientIoState> {
        lock(&self.0.state)
    }

    pub(super) fn downgrade(&self) -> Weak<ClientSocket> {
        Arc::downgrade(&self.0)
    }

    /// Returns true if the attachment forbids another request on this connection.
    pub(super) fn is_closing(&self) -> bool {
        if let Some(attachment) = self.0.attachment() {
            return attachment.is_closing();
        }
        false
    }

    /// Ready when [`is_closing`](Self::is_closing) returns true. An attachment wakes only tasks that have polled
    /// since it was made.
    pub(super) fn poll_closing(&self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(attachment) = self.0.attachment() {
            return attachment.poll_closing(cx);
        }
        Poll::Pending
    }

    /// Returns true if hyper only reads a head: what it writes then is an error response of its own.
    pub(super) fn awaits_head(&self) -> bool {
        self.0.awaits_head.load(Relaxed)
    }

    pub(super) fn set_awaits_head(&self, awaits_head: bool) {
        self.0.awaits_head.store(awaits_head, Relaxed);
    }

    /// Returns true if the head that hyper reads has more fields than its connection was built for.
    pub(super) fn has_many_fields(&self) -> bool {
        self.0.has_many_fields.load(Relaxed)
    }

    pub(super) fn set_has_many_fields(&self) {
        self.0.has_many_fields.store(true, Relaxed);
    }

    /// hyper serves the connection from now on. Returns whether it must accept a head of many fields.
    pub(super) fn begin_hyper(&self) -> bool {
        self.0.responses.store(0, Relaxed);
        self.0.read_awaits_response.store(false, Relaxed);
        self.0.has_many_fields.swap(false, Relaxed)
    }

    /// Records that the response to the next request is known. Returns true if a read waits for it.
    pub(super) fn response_known(&self, is_switch: bool) -> bool {
        self.0.is_switch.store(is_switch, Relaxed);
        self.0.responses.fetch_add(1, Relaxed);
        self.0.read_awaits_response.swap(false, Relaxed)
    }

    /// Returns whether the response to the last request, number `request`, switches to another protocol; `None`
    /// if it is not known yet, and [`response_known`](Self::response_known) then reports that a read waits.
    pub(super) fn is_switch(&self, request: u32) -> Option<bool> {
        if self.0.responses.load(Relaxed) == request {
            return Some(self.0.is_switch.load(Relaxed));
        }
        self.0.read_awaits_response.store(true, Relaxed);
        None
    }

    /// Sets the stall timeout of the next response. `may_pause`: it may exceed the kernel's buffers, so that a
    /// client can pause it.
    pub(super) fn begin_response(&self, is_stream: bool, may_pause: bool) {
        self.0.is_stream.store(is_stream, Relaxed);
        let allows_pause = may_pause && !is_stream && self.0.stall_timeouts.response.is_none();
        if self.0.allows_pause.swap(allows_pause, Relaxed) != allows_pause {
            let timeouts = &self.0.stall_timeouts;
            timeouts.set_allows_pause(&self.0.socket, allows_pause);
        }
    }

    /// Returns true if the handshake of TLS is complete, and ALPN has selected the protocol by which a CA verifies a name.
    pub(super) fn has_negotiated_acme(&self) -> bool {
        #[cfg(feature = "tls")]
        return self.0.socket.has_selected(b"acme-tls/1");
        #[cfg(not(feature = "tls"))]
        false
    }

    /// Returns true if the handshake of TLS is complete, and ALPN has selected HTTP/2.
    #[cfg(feature = "http2")]
    pub(super) fn has_negotiated_http2(&self) -> bool {
        #[cfg(feature = "tls")]
        return self.0.socket.has_selected(b"h2");
        #[cfg(not(feature = "tls"))]
        false
    }

    /// HTTP/2 is served from now on. Its client may pause each response by the flow control of its stream.
    #[cfg(feature = "http2")]
    pub(super) fn begin_http2(&self) {
        self.begin_response(false, true);
    }

    /// The connection serves one more event stream: the stall timeout of streams applies.
    #[cfg(feature = "http2")]
    pub(super) fn add_http2_stream(&self) {
        if self.0.http2_streams.fetch_add(1, Relaxed) == 0 {
            self.entry().set_stream();
            self.begin_response(true, false);
        }
    }

    #[cfg(feature = "http2")]
    pub(super) fn remove_http2_stream(&self) {
        if self.0.http2_streams.fetch_sub(1, Relaxed) == 1 {
            self.begin_http2();
        }
    }
}
