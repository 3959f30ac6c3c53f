//! The PROXY protocol: a load balancer that forwards connections names their clients in a header before the first
//! byte of each.
//!
//! The header counts from trusted peers alone; others could claim any address. It is read with the socket itself,
//! below TLS, and never beyond its end, so that what follows it is where the connection expects it.

mod header;

pub use header::{ProxyHeader, ProxyHeaderError};

use super::client_io::ClientIo;
use super::idle::IdleWait;
use crate::client_key::{ForwardedIp, PeerAddr};
use crate::log_limit::LogLimits;
use pin_project_lite::pin_project;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::time::Instant;

/// Which peers send a header, as each connection of the listener needs one.
#[derive(Clone, Debug)]
pub(super) struct ProxyProtocol {
    trusted: ForwardedIp,
    log_limits: Arc<LogLimits<RefusedHeader>>,
}

/// Why a connection has no header that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusedHeader {
    /// Its peer is not trusted.
    Untrusted,
    /// What it begins with is not a header, or not one that is accepted.
    Invalid,
    /// The header is not complete within the time limit.
    Timeout,
}

impl RefusedHeader {
    /// All values.
    pub const ALL: &[Self] = &[Self::Untrusted, Self::Invalid, Self::Timeout];

    /// The value of the label `reason`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Untrusted => "untrusted",
            Self::Invalid => "invalid",
            Self::Timeout => "timeout",
        }
    }
}

impl ProxyProtocol {
    pub(super) fn new(trusted: ForwardedIp) -> Self {
        Self {
            trusted,
            log_limits: Arc::new(LogLimits::default()),
        }
    }

    /// Returns true if the header of this peer counts. Otherwise the connection must close.
    pub(super) fn accepts(&self, peer: PeerAddr) -> bool {
        let is_trusted = self.trusted.is_trusted_peer(peer);
        if !is_trusted {
            self.refuse(RefusedHeader::Untrusted, peer, None);
        }
        is_trusted
    }

    fn refuse(&self, reason: RefusedHeader, peer: PeerAddr, error: Option<ProxyHeaderError>) {
        let label = reason.as_str();
        metrics::counter!("sse_guard_proxy_headers_refused_total", "reason" => label).increment(1);
        self.log_limits.of(reason).write(
            || {
                let error = error.map(tracing::field::display);
                tracing::warn!(
                    %peer, reason = label, error,
                    "closing a connection without a PROXY header that counts"
                );
            },
            move |not_logged| {
                tracing::warn!(
                    reason = label,
                    not_logged,
                    "more connections without a PROXY header were closed than were logged"
                );
            },
        );
    }
}

pin_project! {
    /// Reads the header of a connection.
    pub(super) struct HeaderReader {
        #[pin]
        wait: IdleWait,
        bytes: Vec<u8>,
    }
}

impl HeaderReader {
    pub(super) fn new(wait: IdleWait) -> Self {
        let bytes = Vec::new();
        Self { wait, bytes }
    }

    /// The time limit, which is also that of the first request's head.
    pub(super) fn deadline(&self) -> Instant {
        self.wait.deadline()
    }

    /// Ready with the peer that the header names, which is the connection's own if it names none; with `None` if the
    /// connection must close.
    pub(super) fn poll_peer(
        self: Pin<&mut Self>,
        io: &ClientIo,
        own: PeerAddr,
        protocol: &ProxyProtocol,
        cx: &mut Context<'_>,
    ) -> Poll<Option<PeerAddr>> {
        let this = self.project();
        let bytes = this.bytes;
        loop {
            let missing = match ProxyHeader::parse(bytes) {
                Ok(ProxyHeader::Incomplete(missing)) => missing,
                Ok(ProxyHeader::Complete { source, .. }) => {
                    return Poll::Ready(Some(source.map_or(own, Into::into)));
                }
                Err(error) => {
                    protocol.refuse(RefusedHeader::Invalid, own, Some(error));
                    return Poll::Ready(None);
                }
            };
            let start = bytes.len();
            bytes.resize(start + missing, 0);
            let read = io.poll_read_socket(cx, &mut bytes[start..]);
            let len = match read {
                Poll::Ready(Ok(len)) => len,
                _ => 0,
            };
            bytes.truncate(start + len);
            match read {
                // A health check that only connects, or a client that has gone.
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(None),
                Poll::Ready(Ok(_)) => {}
                Poll::Pending => {
                    if ready!(this.wait.poll_deadline(cx)) {
                        protocol.refuse(RefusedHeader::Timeout, own, None);
                    }
                    return Poll::Ready(None);
                }
            }
        }
    }
}
