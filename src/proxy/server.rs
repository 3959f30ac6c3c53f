//! Accepts connections, drives each, and stops in good order.
//!
//! The one place that knows how a connection is driven: hyper does it for its whole life.

mod io;

use super::router::Router;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioTimer;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Mutex, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// A client has so long for its request head, and a connection to be idle between two: longer than
/// load balancers keep theirs, which must be the ones to close.
const HEAD_READ_TIMEOUT: Duration = Duration::from_secs(75);
/// Behind the drain window: for ends on their way out and requests that are no streams.
const GRACE: Duration = Duration::from_secs(5);
/// Between two tries to accept when files are exhausted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

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

/// Serves until a signal, then drains: no new connections, streams end spread over `window`. Back
/// when all is done, at the latest a few seconds behind the window, at once on a second signal.
pub(super) async fn run(
    listener: TcpListener,
    router: Router,
    window: Duration,
    mut signals: Signals,
) {
    let router = Arc::new(router);
    let (stop, stopping) = watch::channel(());
    let mut connections = JoinSet::new();
    tokio::select! {
        () = accept(&listener, &router, &stopping, &mut connections) => {}
        () = signals.next() => {}
    }
    drop((listener, stopping));
    tracing::info!(
        streams = router.drain().live(),
        ?window,
        "stopping: no new connections, streams end over the window; a second signal ends at once"
    );
    let stopped_at = Instant::now();
    router.drain().drain(window);
    // Connections end with the response they are at.
    drop(stop);
    let done = async {
        while connections.join_next().await.is_some() {}
        // Nobody can end a foreign protocol in good order: tunnels get the window to end by themselves.
        router.tunnels().close();
        let _ = tokio::time::timeout_at(stopped_at + window, router.tunnels().wait()).await;
    };
    tokio::select! {
        () = done => {}
        () = tokio::time::sleep(window + GRACE) => {}
        () = signals.next() => {}
    }
    let left = router.drain().give_up();
    connections.shutdown().await;
    let sums = router.snapshot();
    tracing::info!(
        cut_off = left,
        active = sums.active,
        slots = router.slots(),
        opened = sums.opened,
        rejected = sums.rejected,
        events = sums.events,
        heartbeats = sums.heartbeats,
        "stopped"
    );
}

async fn accept(
    listener: &TcpListener,
    router: &Arc<Router>,
    stopping: &watch::Receiver<()>,
    connections: &mut JoinSet<()>,
) {
    loop {
        // Those that ended would else be kept to the end of the process.
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, peer)) => {
                let (router, stopping) = (router.clone(), stopping.clone());
                connections.spawn(drive(stream, peer, router, stopping));
            }
            Err(error) if of_one_connection(&error) => {}
            Err(error) => {
                tracing::error!(
                    %error,
                    "can not accept connections: if files are exhausted, raise the limit (ulimit -n)"
                );
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// The error is about the connection that was to be accepted, not about the listener.
fn of_one_connection(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        std::io::ErrorKind::ConnectionAborted
            | std::io::ErrorKind::ConnectionReset
            | std::io::ErrorKind::ConnectionRefused
    )
}

async fn drive(
    stream: TcpStream,
    peer: SocketAddr,
    router: Arc<Router>,
    mut stopping: watch::Receiver<()>,
) {
    // Events are small and must not wait for each other.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a client went at once");
        return;
    }
    let (client, watch) = io::watched(stream);
    let awaiting_head = Arc::new(Mutex::new(()));
    let service = service_fn({
        let awaiting_head = awaiting_head.clone();
        move |request: Request<Incoming>| {
            let (router, awaiting_head) = (router.clone(), awaiting_head.clone());
            async move {
                let _awaiting = awaiting_head.lock().await;
                Ok::<_, Infallible>(router.answer(peer, request).await)
            }
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_READ_TIMEOUT)
        .serve_connection(client, service)
        .with_upgrades();
    let mut connection = pin!(connection);
    let stop = async {
        // Nothing is ever sent: an error tells that the sender is gone.
        let _ = stopping.changed().await;
        // A head that is written from now on says `Connection: close`, with which some clients
        // take a truncated stream for a whole one. So the one under way goes out first.
        let _ = awaiting_head.lock().await;
    };
    let connection = async {
        tokio::select! {
            biased;
            result = connection.as_mut() => result,
            () = stop => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        }
    };
    let result = tokio::select! {
        biased;
        result = connection => result,
        () = watch.gone() => Ok(()),
    };
    if let Err(error) = result {
        // Clients that go are no fault; what ended a stream is in the stream's own line.
        tracing::debug!(%peer, %error, "connection ended");
    }
}
