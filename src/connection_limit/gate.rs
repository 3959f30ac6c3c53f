//! Rejects all new streams while set, regardless of the counts.

use crate::client_key::ClientKey;
use crate::lock::lock;
use crate::rejection::RejectReason;
use std::collections::HashSet;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

/// Stands for "open".
const OPEN: u8 = u8::MAX;

/// Rejects all new streams while it is closed, for when memory or files are short. Give it to layers
/// with [`ConnectionLimitLayer::gate`](super::ConnectionLimitLayer::gate).
///
/// A clone is another handle to the same gate. Streams that are open stay so.
#[derive(Clone, Debug)]
pub struct Gate(Arc<GateState>);

#[derive(Debug)]
struct GateState {
    reason: AtomicU8,
    /// Clients that hold more than their share.
    over: Mutex<HashSet<ClientKey>>,
}

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}

impl Gate {
    /// Creates an open gate.
    pub fn new() -> Self {
        Self(Arc::new(GateState {
            reason: AtomicU8::new(OPEN),
            over: Mutex::default(),
        }))
    }

    /// Closes the gate with the reason that rejections report.
    pub fn close(&self, reason: RejectReason) {
        self.0.reason.store(reason as u8, Relaxed);
    }

    /// Opens the gate.
    pub fn open(&self) {
        self.0.reason.store(OPEN, Relaxed);
    }

    /// Returns why the gate is closed, if it is.
    pub fn closed(&self) -> Option<RejectReason> {
        RejectReason::ALL
            .get(usize::from(self.0.reason.load(Relaxed)))
            .copied()
    }

    /// While it is closed, these clients get no other request served, either.
    #[doc(hidden)]
    pub fn close_to(&self, clients: HashSet<ClientKey>) {
        *lock(&self.0.over) = clients;
    }

    /// Why a request of this client is rejected, stream or not, if it is.
    pub(super) fn closed_to(&self, client: Option<&ClientKey>) -> Option<RejectReason> {
        let reason = self.closed()?;
        lock(&self.0.over).contains(client?).then_some(reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gate_reports_the_reason_of_its_closing() {
        let gate = Gate::new();
        assert_eq!(gate.closed(), None);
        for &reason in RejectReason::ALL {
            gate.clone().close(reason);
            assert_eq!(gate.closed(), Some(reason));
        }
        gate.open();
        assert_eq!(gate.closed(), None);
    }
}
