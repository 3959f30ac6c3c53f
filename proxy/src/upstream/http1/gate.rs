//! What a socket that hyper holds shows to the driver of its connection, and when hyper may read past the head.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// State shared with a socket that hyper holds.
#[derive(Clone, Debug, Default)]
pub(super) struct Gate(pub(super) Arc<GateState>);

#[derive(Debug, Default)]
pub(super) struct GateState {
    pub(super) open: AtomicBool,
    /// What follows the head is the chunked coding.
    pub(super) is_chunked: AtomicBool,
    pub(super) blocked: AtomicBool,
    /// Something of the request was written.
    pub(super) begun: AtomicBool,
    /// Nothing is there to read, and nothing of a head has come of which more is missing.
    pub(super) quiet: AtomicBool,
    /// Something of a response has come.
    pub(super) has_read: AtomicBool,
    /// The head has more fields than hyper was set up for.
    pub(super) full: AtomicBool,
    /// A write failed, since the upstream takes no more of the request.
    pub(super) failed: AtomicBool,
}

impl Gate {
    /// hyper may continue to read the body, which is chunked or not. The caller must poll hyper's connection
    /// afterwards.
    pub(super) fn open(&self, is_chunked: bool) {
        self.0.is_chunked.store(is_chunked, Relaxed);
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
