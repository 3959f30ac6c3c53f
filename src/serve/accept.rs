//! Takes connections from a listener, and has them end.

use super::Server;
use super::connection::Connection;
use super::listener::Listener;
use super::registry::Registry;
use super::stop::Stopper;
use super::workers::Workers;
use super::{RequestBody, Settings};
use crate::guard::BoxError;
use crate::log_limit::LogLimit;
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tower_service::Service;

/// Between two tries to accept when files are exhausted.
const PAUSE: Duration = Duration::from_millis(100);

/// The connections of a server, and the word to end them.
pub struct Connections {
    settings: Arc<Settings>,
    workers: Workers,
    stop: Stopper,
    failures: Failures,
    registry: Registry,
}

/// Tries to accept that failed.
struct Failures {
    all: u64,
    /// Without a success since.
    running: u64,
    /// The first of them was logged.
    is_logged: bool,
    /// Clients that come and go at the limit of files may start them anew many times a second.
    log: LogLimit,
}

impl Connections {
    pub(super) fn new(workers: Workers, settings: Arc<Settings>, registry: Registry) -> Self {
        Self {
            registry,
            settings,
            workers,
            stop: Stopper::new(),
            failures: Failures::new(),
        }
    }

    /// New connections keep to the settings of this server.
    pub fn retune(&mut self, server: &Server) {
        self.settings = Arc::new(server.settings.clone());
    }

    /// Accepts connections until it is dropped.
    pub async fn accept<S, B>(&mut self, listener: &impl Listener, service: &S)
    where
        S: Service<Request<RequestBody>, Response = Response<B>> + Clone + Send + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError> + Send,
    {
        loop {
            // Before, as a connection that was accepted would be lost if this were stopped meanwhile.
            self.registry.make_room().await;
            if !(self.settings.has_file)() {
                self.wait_for_files(&io::Error::other("the last files are kept for others"))
                    .await;
                continue;
            }
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.workers.reap() => continue,
            };
            match accepted {
                Ok((socket, peer)) => {
                    self.failures.over();
                    let bounds = &self.settings.per_client;
                    let Some(entry) = self.registry.admit(peer.ip(), bounds) else {
                        continue;
                    };
                    let closer = entry.closer();
                    let stop = self.stop.subscribe();
                    let settings = self.settings.clone();
                    let service = service.clone();
                    let connection =
                        move |socket| Connection::new(socket, entry, peer, service, settings, stop);
                    if let Err(error) = self.workers.spawn(socket.into(), closer, connection) {
                        tracing::debug!(%error, "a client disconnected at once");
                    }
                }
                Err(error) if of_one_connection(&error) => {}
                Err(error) => {
                    self.wait_for_files(&error).await;
                }
            }
        }
    }

    /// Closes idle connections for lack of files, or waits if there are none.
    async fn wait_for_files(&mut self, error: &io::Error) {
        self.failures.all += 1;
        if !self.registry.free_files().await {
            self.failures.one(error);
            // Clients wait in the kernel meanwhile; to try at once would be to spin.
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// How many tries to accept have failed, for lack of files most likely.
    pub fn accept_failures(&self) -> u64 {
        self.failures.all
    }

    /// From now on responses other than streams have `Connection: close`, and their connections close
    /// behind them.
    pub fn drain(&self) {
        self.stop.drain();
    }

    /// Connections end with the response they are at. Waits for the last; to stop waiting is to cut
    /// off the rest, when this is dropped.
    pub async fn finish(&mut self) {
        self.stop.stop();
        self.stop.closed().await;
    }

    /// Cuts off what is left, and waits until it is gone.
    pub async fn cut_off(self) {
        drop(self.workers);
        self.stop.closed().await;
    }
}

impl Failures {
    fn new() -> Self {
        Self {
            all: 0,
            running: 0,
            is_logged: false,
            log: LogLimit::per_kind(),
        }
    }

    /// One that nothing could be done about.
    fn one(&mut self, error: &io::Error) {
        self.running += 1;
        // A try each pause; one line tells of them all.
        if self.running == 1 {
            self.is_logged = self.log.write(
                || {
                    tracing::error!(
                        %error,
                        "cannot accept connections: if files are exhausted, raise the limit (ulimit -n)"
                    );
                },
                |not_logged| {
                    tracing::error!(
                        not_logged,
                        "connections could not be accepted at more times than were logged"
                    );
                },
            );
        }
    }

    fn over(&mut self) {
        let failed = std::mem::take(&mut self.running);
        if failed > 0 && self.is_logged {
            tracing::info!(failed, "accepting connections again");
        }
    }
}

/// The error is about the connection that was to be accepted, not about the listener.
fn of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
    )
}
