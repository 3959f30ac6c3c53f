//! The listener of the admin address, which a reload may replace.

use super::Admin;
use crate::listen::{Handover, Listener};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// The admin address, if there is one.
pub(crate) struct AdminServer {
    admin: Option<Arc<Admin>>,
    /// Of the current listener.
    stop: CancellationToken,
    handover: Handover,
}

impl AdminServer {
    pub(crate) fn new(admin: Option<Arc<Admin>>, listener: Option<Listener>) -> Self {
        let mut server = Self {
            admin,
            stop: CancellationToken::new(),
            handover: Handover::default(),
        };
        server.listen(listener);
        server
    }

    /// Replaces the listener. Connections of the old one get a moment to end, because the request
    /// for this came by one of them.
    pub(crate) fn listen(&mut self, listener: Option<Listener>) {
        std::mem::take(&mut self.stop).cancel();
        self.handover = Handover::default();
        let (Some(admin), Some(listener)) = (&self.admin, listener) else {
            return;
        };
        let Listener { socket, handover } = listener;
        if let Ok(address) = socket.local_addr() {
            tracing::info!("metrics, health and stream table on http://{address}");
        }
        self.handover = handover;
        tokio::spawn(admin.clone().serve(socket, self.stop.clone()));
    }

    /// From now on another process may listen at the admin address, too.
    pub(crate) fn begin_handover(&mut self) {
        self.handover.begin();
    }
}
