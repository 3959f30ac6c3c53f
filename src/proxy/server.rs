//! Serves until told to stop, and stops in good order.

use super::router::{Handler, Router};
use crate::serve::Server;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;
use tokio::time::Instant;

/// Behind the drain window: for ends on their way out and requests that are no streams.
const GRACE: Duration = Duration::from_secs(5);

/// The signals that stop the proxy.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// Caught, since it would kill the process; there is no reload yet.
    _hangup: Signal,
}

impl Signals {
    /// From here on they no longer kill the process.
    pub(super) fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            _hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Serves until a signal or the operator's word, then drains: no new connections, streams end spread over `window`. Back
/// when all is done, at the latest a few seconds behind the window, at once on a second signal.
/// Fails if it can not begin.
pub(super) async fn run(
    listener: TcpListener,
    server: &Server,
    router: &Arc<Router>,
    window: Duration,
    mut signals: Signals,
    operator: &Notify,
) -> std::io::Result<()> {
    let mut connections = server.connections()?;
    let handler = Handler::new(router);
    tokio::select! {
        () = connections.accept(&listener, &handler) => {}
        () = signals.next() => {}
        () = operator.notified() => {}
    }
    drop(listener);
    router.stop();
    tracing::info!(
        streams = router.drain().live(),
        ?window,
        "stopping: no new connections, streams end over the window; a second signal ends at once"
    );
    let stopped_at = Instant::now();
    router.drain().drain(window);
    let done = async {
        connections.finish().await;
        // Nobody can end a foreign protocol in good order: tunnels get the window to end by themselves.
        router.tunnels().close();
        let _ = tokio::time::timeout_at(stopped_at + window, router.tunnels().wait()).await;
    };
    tokio::select! {
        () = done => {}
        () = tokio::time::sleep(window + GRACE) => {}
        () = signals.next() => {}
    }
    let accept_failures = connections.accept_failures();
    let left = router.drain().give_up();
    connections.cut_off().await;
    let sums = router.snapshot();
    tracing::info!(
        cut_off = left,
        accept_failures,
        active = sums.active,
        slots = router.slots(),
        opened = sums.opened,
        rejected = sums.rejected,
        events = sums.events,
        heartbeats = sums.heartbeats,
        "stopped"
    );
    Ok(())
}
