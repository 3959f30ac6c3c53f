//! The order to stop, as the connections of a server get it.

use std::sync::Arc;
use tokio::sync::futures::OwnedNotified;
use tokio::sync::{Notify, watch};

/// Gives the order, and waits until every connection has ended.
pub(super) struct Stopper(watch::Sender<Order>);

/// A connection's side. The server waits for it as long as it is there.
#[derive(Clone)]
pub(super) struct Stop(watch::Receiver<Order>);

/// Given when the channel says that it has changed.
#[derive(Default)]
struct Order {
    notify: Arc<Notify>,
    /// It will be given, and connections should close where they can.
    is_near: bool,
}

impl Stopper {
    pub(super) fn new() -> Self {
        Self(watch::Sender::default())
    }

    pub(super) fn subscribe(&self) -> Stop {
        Stop(self.0.subscribe())
    }

    /// Connections close behind the responses that they send from now on.
    pub(super) fn drain(&self) {
        // None of them has to be woken for it.
        self.0.send_if_modified(|order| {
            order.is_near = true;
            false
        });
    }

    pub(super) fn stop(&self) {
        // First what those see who begin to wait, then the news to those who do.
        self.0.send_modify(|_| {});
        self.0.borrow().notify.notify_waiters();
    }

    pub(super) async fn closed(&self) {
        self.0.closed().await;
    }
}

impl Stop {
    /// Whether connections are to close behind their responses.
    pub(super) fn is_closing(&self) -> bool {
        // If the sender is gone, so is the server.
        self.0.borrow().is_near || self.0.has_changed().unwrap_or(true)
    }

    /// Nothing if the order has been given; else it will be notified.
    pub(super) fn wait(&self) -> Option<OwnedNotified> {
        let notified = self.0.borrow().notify.clone().notified_owned();
        // If the sender is gone, so is the server.
        let is_stopping = self.0.has_changed().unwrap_or(true);
        (!is_stopping).then_some(notified)
    }
}
