//! What the connections of one listener have in common: their options, and their end.

use super::Server;
use super::options::ServerOptions;
use super::stop::{StopSender, StopSignal};
use crate::lock::lock;
use std::sync::{Arc, Mutex};

/// The connections of one listener. Dropping it closes each after its current response.
pub struct ConnectionGroup {
    options: Mutex<Arc<ServerOptions>>,
    stop: StopSender,
}

impl ConnectionGroup {
    pub(super) fn new(options: Arc<ServerOptions>) -> Self {
        Self {
            options: Mutex::new(options),
            stop: StopSender::new(),
        }
    }

    /// Those of new connections.
    pub(super) fn options(&self) -> Arc<ServerOptions> {
        lock(&self.options).clone()
    }

    pub(super) fn subscribe(&self) -> StopSignal {
        self.stop.subscribe()
    }

    /// Uses the options of this server for new connections.
    pub fn set_options(&self, server: &Server) {
        *lock(&self.options) = Arc::new(server.options.clone());
    }

    /// Returns the number of open connections.
    pub fn open(&self) -> usize {
        self.stop.subscribers()
    }

    /// From now on, responses other than streams have `Connection: close`, and their connections close after
    /// them.
    pub fn drain(&self) {
        self.stop.drain();
    }

    /// Closes each connection after its current response, and idle ones at once.
    pub fn stop(&self) {
        self.stop.stop();
    }

    /// Waits until all connections have closed.
    pub async fn closed(&self) {
        self.stop.closed().await;
    }
}
