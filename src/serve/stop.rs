//! The signal to stop, from a server to its connections.

use std::sync::Arc;
use tokio::sync::futures::OwnedNotified;
use tokio::sync::{Notify, watch};

/// Sends the signal, and waits until every connection has closed.
pub(super) struct StopSender(watch::Sender<StopState>);

/// A connection's side. The server waits until all are dropped.
#[derive(Clone)]
pub(super) struct StopSignal(watch::Receiver<StopState>);

/// The signal is sent when the channel reports a change.
#[derive(Default)]
struct StopState {
    notify: Arc<Notify>,
    /// Connections close after their current response; the signal follows later.
    is_draining: bool,
    /// Notified then.
    #[cfg(feature = "http2")]
    drain: Arc<Notify>,
}

impl StopSender {
    pub(super) fn new() -> Self {
        Self(watch::Sender::default())
    }

    pub(super) fn subscribe(&self) -> StopSignal {
        StopSignal(self.0.subscribe())
    }

    /// From now on, connections close after each response.
    pub(super) fn drain(&self) {
        // No connection of HTTP/1.1 must be woken for it.
        self.0.send_if_modified(|state| {
            state.is_draining = true;
            false
        });
        #[cfg(feature = "http2")]
        self.0.borrow().drain.notify_waiters();
    }

    pub(super) fn stop(&self) {
        // First for those that begin to wait, then for those that wait.
        self.0.send_modify(|_| {});
        self.0.borrow().notify.notify_waiters();
    }

    /// Returns the number of connections.
    pub(super) fn subscribers(&self) -> usize {
        self.0.receiver_count()
    }

    pub(super) async fn closed(&self) {
        self.0.closed().await;
    }
}

impl StopSignal {
    /// Returns true if connections close after their responses.
    pub(super) fn is_closing(&self) -> bool {
        // Without a sender, the server is dropped.
        self.0.borrow().is_draining || self.0.has_changed().unwrap_or(true)
    }

    /// Resolves when connections begin to close after their responses; `None` if they do so already.
    #[cfg(feature = "http2")]
    pub(super) fn drained(&self) -> Option<OwnedNotified> {
        let notified = self.0.borrow().drain.clone().notified_owned();
        (!self.is_closing()).then_some(notified)
    }

    /// Resolves when the signal is sent; `None` if it was sent before.
    pub(super) fn notified(&self) -> Option<OwnedNotified> {
        let notified = self.0.borrow().notify.clone().notified_owned();
        // Without a sender, the server is dropped.
        let is_stopping = self.0.has_changed().unwrap_or(true);
        (!is_stopping).then_some(notified)
    }
}
