//! Accepts connections, and ends them.

use super::Server;
use super::connection::Connection;
use super::listener::Listener;
use super::options::ServerOptions;
use super::registry::ConnectionRegistry;
use super::request_body::RequestBody;
use super::stop::StopSender;
use super::workers::Workers;
use crate::guard::BoxError;
use crate::log_limit::LogLimit;
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tower_service::Service;

/// Delay between two attempts to accept while file descriptors are exhausted.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// The connections of a server.
pub struct Connections {
    options: Arc<ServerOptions>,
    workers: Workers,
    stop: StopSender,
    failures: AcceptFailures,
    registry: ConnectionRegistry,
}

/// Failed attempts to accept.
struct AcceptFailures {
    total: u64,
    since_last_success: u64,
    /// The first failure since the last success was logged.
    is_logged: bool,
    /// With connections opening and closing at the limit of file descriptors, failures may begin many times a second.
    log_limit: LogLimit,
}

impl Connections {
    pub(super) fn new(
        workers: Workers,
        options: Arc<ServerOptions>,
        registry: ConnectionRegistry,
    ) -> Self {
        Self {
            registry,
            options,
            workers,
            stop: StopSender::new(),
            failures: AcceptFailures::new(),
        }
    }

    /// Uses the options of this server for new connections.
    pub fn set_options(&mut self, server: &Server) {
        self.options = Arc::new(server.options.clone());
    }

    /// Accepts connections until the future is dropped.
    pub async fn accept<S, B>(&mut self, listener: &impl Listener, service: &S)
    where
        S: Service<Request<RequestBody>, Response = Response<B>> + Clone + Send + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError> + Send,
    {
        loop {
            // Before accepting: an accepted connection would be lost if this future were dropped meanwhile.
            self.registry.make_room().await;
            if !(self.options.has_free_file)() {
                self.wait_for_files(&io::Error::other("the last file descriptors are reserved"))
                    .await;
                continue;
            }
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.workers.reap() => continue,
            };
            match accepted {
                Ok((socket, peer)) => {
                    self.failures.reset();
                    let bounds = &self.options.per_client;
                    let Some(entry) = self.registry.admit(peer.ip(), bounds) else {
                        continue;
                    };
                    let close_handle = entry.close_handle();
                    let stop = self.stop.subscribe();
                    let options = self.options.clone();
                    let service = service.clone();
                    let connection =
                        move |socket| Connection::new(socket, entry, peer, service, options, stop);
                    if let Err(error) = self.workers.spawn(socket.into(), close_handle, connection)
                    {
                        tracing::debug!(%error, "a client disconnected before its connection was set up");
                    }
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    self.wait_for_files(&error).await;
                }
            }
        }
    }

    /// Closes idle connections for lack of file descriptors, or waits if there are none.
    async fn wait_for_files(&mut self, error: &io::Error) {
        self.failures.total += 1;
        if !self.registry.free_files().await {
            self.failures.record_unresolved(error);
            // Clients wait in the backlog meanwhile; a retry at once would be a busy loop.
            tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
        }
    }

    /// Returns the number of failed attempts to accept, most likely for lack of file descriptors.
    pub fn accept_failures(&self) -> u64 {
        self.failures.total
    }

    /// From now on, responses other than streams have `Connection: close`, and their connections close after
    /// them.
    pub fn drain(&self) {
        self.stop.drain();
    }

    /// Closes each connection after its current response, and waits for all. Dropping `self` closes the
    /// remaining ones at once.
    pub async fn finish(&mut self) {
        self.stop.stop();
        self.stop.closed().await;
    }

    /// Closes all connections at once.
    pub async fn abort(self) {
        drop(self.workers);
        self.stop.closed().await;
    }
}

impl AcceptFailures {
    fn new() -> Self {
        Self {
            total: 0,
            since_last_success: 0,
            is_logged: false,
            log_limit: LogLimit::per_kind(),
        }
    }

    /// A failure for which no idle connection could be closed.
    fn record_unresolved(&mut self, error: &io::Error) {
        self.since_last_success += 1;
        // One line for all retries.
        if self.since_last_success == 1 {
            self.is_logged = self.log_limit.write(
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

    fn reset(&mut self) {
        let failed = std::mem::take(&mut self.since_last_success);
        if failed > 0 && self.is_logged {
            tracing::info!(failed, "accepting connections again");
        }
    }
}

/// Returns true if the error concerns a single connection and not the listener.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
    )
}
