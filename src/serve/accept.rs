//! Accepts connections.

use super::connection::Connection;
use super::group::ConnectionGroup;
use super::io::Io;
use super::listener::Listener;
use super::registry::ConnectionRegistry;
use super::request_body::RequestBody;
use super::workers::Workers;
use crate::client_key::PeerAddr;
use crate::guard::BoxError;
use crate::log_limit::LogLimit;
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tower_service::Service;

/// Delay between two attempts to accept while file descriptors are exhausted.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// The connections of a server, of all its listeners.
pub struct Connections {
    workers: Workers,
    failures: AcceptFailures,
    registry: ConnectionRegistry,
    has_free_file: fn() -> bool,
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

/// A connection of one of several listeners, which may differ in their options and in their service.
pub struct Accepted<'a, S> {
    /// The connection.
    pub io: Io,
    /// Its peer.
    pub peer: PeerAddr,
    /// The service of its requests.
    pub service: &'a S,
    /// The connections that it belongs to.
    pub group: &'a ConnectionGroup,
}

/// Several listeners.
pub trait Listeners<S: 'static> {
    /// Accepts the next connection of any of them.
    ///
    /// Must be cancel safe: dropping the future must not lose a connection.
    fn accept(&self) -> impl Future<Output = io::Result<Accepted<'_, S>>>;
}

/// One listener.
pub(super) struct SingleListener<'a, L, S> {
    pub(super) listener: L,
    pub(super) service: S,
    pub(super) group: &'a ConnectionGroup,
}

impl<L: Listener, S: 'static> Listeners<S> for SingleListener<'_, L, S> {
    async fn accept(&self) -> io::Result<Accepted<'_, S>> {
        let (io, peer) = self.listener.accept().await?;
        Ok(Accepted {
            io: io.into(),
            peer,
            service: &self.service,
            group: self.group,
        })
    }
}

impl Connections {
    pub(super) fn new(
        workers: Workers,
        registry: ConnectionRegistry,
        has_free_file: fn() -> bool,
    ) -> Self {
        Self {
            workers,
            failures: AcceptFailures::new(),
            registry,
            has_free_file,
        }
    }

    /// Accepts connections until the future is dropped.
    pub async fn accept<S, B>(&mut self, listeners: &impl Listeners<S>)
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
            if !(self.has_free_file)() {
                self.wait_for_files(&io::Error::other("the last file descriptors are reserved"))
                    .await;
                continue;
            }
            let accepted = tokio::select! {
                accepted = listeners.accept() => accepted,
                () = self.workers.reap() => continue,
            };
            match accepted {
                Ok(accepted) => {
                    self.failures.reset();
                    self.serve(accepted);
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    self.wait_for_files(&error).await;
                }
            }
        }
    }

    /// Accepts the connections that wait already.
    pub async fn accept_waiting<S, B>(&mut self, listeners: &impl Listeners<S>)
    where
        S: Service<Request<RequestBody>, Response = Response<B>> + Clone + Send + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError> + Send,
    {
        // The runtime learns of them.
        tokio::task::yield_now().await;
        let mut cx = Context::from_waker(Waker::noop());
        loop {
            let accept = pin!(tokio::task::unconstrained(listeners.accept()));
            match accept.poll(&mut cx) {
                Poll::Ready(Ok(accepted)) => self.serve(accepted),
                Poll::Ready(Err(error)) if is_of_one_connection(&error) => {}
                Poll::Ready(Err(_)) | Poll::Pending => return,
            }
        }
    }

    /// Serves a connection, unless its client has reached its limit.
    fn serve<S, B>(&mut self, accepted: Accepted<'_, S>)
    where
        S: Service<Request<RequestBody>, Response = Response<B>> + Clone + Send + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError> + Send,
    {
        let Accepted {
            io,
            peer,
            service,
            group,
        } = accepted;
        let options = group.options();
        let proxy_protocol = options.proxy_protocol.as_ref();
        if proxy_protocol.is_some_and(|protocol| !protocol.accepts(peer)) {
            return;
        }
        let Some(entry) = self.registry.admit(peer.ip(), &options.per_client) else {
            return;
        };
        let close_handle = entry.close_handle();
        let stop = group.subscribe();
        let service = service.clone();
        let connection = move |io| Connection::new(io, entry, peer, service, options, stop);
        if let Err(error) = self.workers.spawn(io, close_handle, connection) {
            tracing::debug!(%error, "a client disconnected before its connection was set up");
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::Server;
    use http_body_util::Full;
    use std::convert::Infallible;
    use std::future::{Ready, ready};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpSocket, TcpStream};

    #[derive(Clone)]
    struct Hello;

    impl Service<Request<RequestBody>> for Hello {
        type Response = Response<Full<Bytes>>;
        type Error = Infallible;
        type Future = Ready<Result<Self::Response, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<RequestBody>) -> Self::Future {
            ready(Ok(Response::new(Full::from("hello"))))
        }
    }

    #[tokio::test]
    async fn connections_that_wait_are_served_after_their_listener_has_closed() {
        let server = Server::new();
        let mut connections = server.connections(&ConnectionRegistry::default()).unwrap();
        let group = server.group();
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let listener = socket.listen(1024).unwrap();
        let address = listener.local_addr().unwrap();
        let mut clients = Vec::new();
        // More than the runtime lets one task accept at a time.
        for _ in 0..140 {
            clients.push(TcpStream::connect(address).await.unwrap());
        }
        let listener = SingleListener {
            listener,
            service: Hello,
            group: &group,
        };
        connections.accept_waiting(&listener).await;
        drop(listener);
        assert_eq!(group.open(), clients.len());
        for client in &mut clients {
            let request = "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
            client.write_all(request.as_bytes()).await.unwrap();
            let mut response = String::new();
            client.read_to_string(&mut response).await.unwrap();
            assert!(response.ends_with("hello"), "{response}");
        }
        group.stop();
        group.closed().await;
        assert_eq!(group.open(), 0);
    }
}
