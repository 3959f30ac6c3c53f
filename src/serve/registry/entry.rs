//! The entry of one connection in the registry, and its state.

use super::{PerClientLimit, RegistryInner};
use crate::client_key::ClientKey;
use crate::lock::lock;
use std::net::IpAddr;
use std::sync::atomic::{
    AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed},
};
use std::sync::{Arc, Mutex};
use tokio::task::AbortHandle;

/// Serves a request.
pub(super) const IN_USE: u64 = u64::MAX;
/// Has switched protocols, and serves no other request.
pub(super) const TUNNEL: u64 = u64::MAX - 1;
/// Serves an event stream.
pub(super) const STREAM: u64 = u64::MAX - 2;
/// Is being closed. Greater states are in use, lower ones are idle.
pub(super) const CLOSING: u64 = u64::MAX - 3;

#[derive(Debug)]
pub(super) struct ConnectionRecord {
    pub(super) id: u64,
    /// The address under which the connection counts, if it is limited.
    pub(super) address: Mutex<Option<IpAddr>>,
    /// The client of its request; the peer until that is known. `None` if no limit applies to it.
    pub(super) client: Mutex<Option<ClientKey>>,
    /// [`IN_USE`], [`TUNNEL`], [`STREAM`], [`CLOSING`], or the start of its idle time, in nanoseconds from the start of
    /// the registry.
    pub(super) state: AtomicU64,
    pub(super) task: Mutex<Option<AbortHandle>>,
}

impl ConnectionRecord {
    pub(super) fn idle_since(&self) -> Option<u64> {
        let state = self.state.load(Relaxed);
        (state < CLOSING).then_some(state)
    }

    /// Changes the state to `CLOSING` and aborts the task, if the state is `from`.
    pub(super) fn close_from(&self, from: u64) -> bool {
        let is_changed = self.change(from, CLOSING);
        if is_changed && let Some(task) = &*lock(&self.task) {
            task.abort();
        }
        is_changed
    }

    fn change(&self, from: u64, to: u64) -> bool {
        self.state
            .compare_exchange(from, to, AcqRel, Relaxed)
            .is_ok()
    }
}

/// One connection's entry in the registry, removed on drop.
#[derive(Debug)]
pub(in crate::serve) struct ConnectionEntry {
    pub(super) record: Arc<ConnectionRecord>,
    pub(super) registry: Arc<RegistryInner>,
}

/// Sets the task that the registry aborts to close the connection.
pub(in crate::serve) struct CloseHandle(Arc<ConnectionRecord>);

impl CloseHandle {
    pub(in crate::serve) fn set_task(&self, task: AbortHandle) {
        let mut known = lock(&self.0.task);
        let task = known.get_or_insert(task);
        // The registry may have closed the connection before its task was spawned.
        if self.0.state.load(Acquire) == CLOSING {
            task.abort();
        }
    }
}

impl ConnectionEntry {
    pub(in crate::serve) fn close_handle(&self) -> CloseHandle {
        CloseHandle(self.record.clone())
    }

    /// A request was received. Returns false if the connection is being closed, and the request must not be served.
    pub(in crate::serve) fn begin_request(&self) -> bool {
        let mut state = self.record.state.load(Acquire);
        loop {
            match state {
                CLOSING => return false,
                IN_USE | TUNNEL | STREAM => return true,
                _ => {}
            }
            let changed = self
                .record
                .state
                .compare_exchange(state, IN_USE, AcqRel, Acquire);
            match changed {
                Ok(_) => {
                    self.registry.idle.fetch_sub(1, Relaxed);
                    return true;
                }
                Err(current) => state = current,
            }
        }
    }

    /// The connection switches protocols, and is in use from now on.
    pub(in crate::serve) fn set_tunnel(&self) {
        if self.begin_request() {
            self.record.change(IN_USE, TUNNEL);
        }
    }

    /// The response is an event stream.
    pub(in crate::serve) fn set_stream(&self) {
        self.record.change(IN_USE, STREAM);
    }

    /// The connection serves no request from now on, unless it is a tunnel.
    pub(in crate::serve) fn set_idle(&self) {
        // Counted first: closing an idle connection decrements the count.
        self.registry.idle.fetch_add(1, Relaxed);
        let now = self.registry.now();
        if !self.record.change(IN_USE, now) && !self.record.change(STREAM, now) {
            self.registry.idle.fetch_sub(1, Relaxed);
        }
    }

    /// Sets the peer, which was not known when the connection was admitted. Returns false if it has reached its limit of
    /// connections: this one must close.
    pub(in crate::serve) fn set_peer(&self, peer: Option<IpAddr>, limit: &PerClientLimit) -> bool {
        self.registry.set_peer(&self.record, peer, limit)
    }

    /// Sets the client of the request; `None` if no limit applies to it.
    pub(in crate::serve) fn set_client(&self, client: Option<ClientKey>) {
        *lock(&self.record.client) = client;
    }

    /// Replaces the task that the registry aborts to close the connection.
    pub(in crate::serve) fn set_task(&self, task: AbortHandle) {
        *lock(&self.record.task) = Some(task);
    }
}

impl Drop for ConnectionEntry {
    fn drop(&mut self) {
        if self.record.state.swap(CLOSING, AcqRel) < CLOSING {
            self.registry.idle.fetch_sub(1, Relaxed);
        }
        self.registry.remove(&self.record);
    }
}
