//! A server whose event streams cost next to nothing while they are quiet.
//!
//! hyper reads requests and answers all that is no event stream. The connection of an event stream
//! is taken from it: head and chunks are written here, from the same layered body, so that a quiet
//! stream holds no buffers, a busy one leaves in one write per read, and a client that stops
//! reading is seen (see [`write_stall`](Server::write_stall)). When the stream ends, the
//! connection goes back.
//!
//! The rule of the whole crate tells what an event stream is: a 2xx response with a body and the media
//! type `text/event-stream`. One of known length, and the answer to a request whose body is still coming,
//! stay with hyper.
//!
//! # Threads
//!
//! An event's way through costs little beside waking another thread for it. So with
//! [`threads`](Server::threads) a connection stays where it was put, sockets, timers, memory and all,
//! and one that comes goes to the thread with the fewest. Beside a runtime that shares its work among
//! threads, on as many cores, that took 7 % less CPU time for an event, and half of the time to
//! deliver it. A listener for each thread (`SO_REUSEPORT`) would spread connections by chance, which
//! evens out for requests, not for streams of hours; and what waits at one of them is lost when it
//! closes.
//!
//! # Connections without a request
//!
//! A silent client, one whose head never ends, and one that keeps its connection for a next request
//! cost a file each. When there is no file for a new connection the oldest of these are closed;
//! a connection that serves a request never is. [`max_connections_per_client`](Server::max_connections_per_client)
//! bounds what one address may hold.
//!
//! # Requests that are refused
//!
//! hyper cuts a fragment off a request target, and removes a `Content-Length` beside a
//! `Transfer-Encoding`, so that a service cannot refuse such a request. Both get a 400 here, and their
//! connection closes. What follows a request with `Upgrade`, or a `CONNECT`, is read when its response has
//! come, which says whether it is HTTP.
//!
//! # Memory
//!
//! What a quiet stream keeps is its two tasks' state and its layers', some 2 KB. A connection that waits for a request keeps less than 1 KB, and one whose response
//! does not come what the service keeps for it. What the process
//! holds depends on the allocator as much: connections that come all at once leave the room of their
//! requests' parsing between what stays. The proxy's binary has mimalloc, told to give back at once.
//!
//! ```no_run
//! # #[cfg(feature = "axum")]
//! # async fn run() -> std::io::Result<()> {
//! use sse_guard::SseGuardLayer;
//! use sse_guard::serve::Server;
//!
//! let app = axum::Router::new()
//!     .route("/events", axum::routing::get(|| async {}))
//!     .layer(SseGuardLayer::new());
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
//! Server::new().serve(listener, app).await
//! # }
//! ```

mod accept;
mod attachment;
mod body;
mod call;
mod client;
mod connection;
mod encode;
mod idle;
mod io;
mod listener;
mod liveness;
mod patience;
mod pump;
mod refusal;
mod registry;
mod request_scan;
mod stalls;
mod stop;
mod talk;
mod transport;
mod workers;
mod written;

pub use body::RequestBody;
pub use listener::Listener;
pub use transport::Io;

/// See [`crate::internal`].
#[doc(hidden)]
pub mod internal {
    pub use super::accept::Connections;
    pub use super::attachment::{Attachment, ClientConnection};
    pub use super::body::Upload;
    pub use super::liveness::Liveness;
    pub use super::refusal::log as log_refusal;
    pub use super::registry::{CloseReason, Registry, Shares};
    pub use super::talk::LINGER;
    pub use super::transport::DetachedIo;
}

use accept::Connections;
pub(crate) use attachment::ClientConnection;
use liveness::Liveness;
use registry::Registry;

use crate::guard::BoxError;
use crate::stream::StreamRegistry;
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use ipnet::IpNet;
use registry::PerClient;
use stalls::Stalls;
use std::future::Future;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;
use tower_service::Service;
use workers::Workers;

/// An HTTP/1.1 server for any tower service. See the [module docs](self).
#[derive(Clone, Debug)]
pub struct Server {
    settings: Settings,
    threads: Option<NonZeroUsize>,
    release_memory: fn(),
}

impl Default for Server {
    fn default() -> Self {
        Self {
            settings: Settings::default(),
            threads: None,
            release_memory: || {},
        }
    }
}

#[derive(Clone, Debug)]
struct Settings {
    head_timeout: Duration,
    max_head: usize,
    title_case_headers: bool,
    write_stall: Option<Duration>,
    response_stall: Option<Duration>,
    unsent: Option<u32>,
    send_buffer: Option<usize>,
    liveness: Liveness,
    per_client: PerClient,
    /// Whether there is a file for another connection, beside those that are kept for others.
    has_file: fn() -> bool,
}

impl Settings {
    fn case(&self) -> encode::Case {
        match self.title_case_headers {
            true => encode::Case::Title,
            false => encode::Case::Lower,
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            head_timeout: Duration::from_secs(75),
            max_head: 64 * 1024,
            title_case_headers: false,
            write_stall: Some(Duration::from_secs(30)),
            response_stall: None,
            unsent: Some(16 * 1024),
            send_buffer: None,
            liveness: Liveness {
                keepalive: Some(Duration::from_secs(60)),
                user_timeout: Some(Duration::from_secs(60)),
            },
            per_client: PerClient {
                max: None,
                ipv6_prefix: crate::client_key::IPV6_PREFIX,
                exempt: Arc::new([]),
            },
            has_file: || true,
        }
    }
}

impl Server {
    /// Creates a server with the defaults that its methods name.
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs connections on this many threads of the server's own, each with its own runtime. A
    /// connection stays on its thread, which costs least with one thread for each core. By default,
    /// connections run on the runtime that calls the server.
    ///
    /// Whatever the service spawns runs on those threads, too.
    #[must_use]
    pub fn threads(mut self, count: impl Into<Option<NonZeroUsize>>) -> Self {
        self.threads = count.into();
        self
    }

    /// Calls `release` on each of the server's own [`threads`](Self::threads), at most once a second,
    /// after connections have closed or a burst of new ones is over.
    ///
    /// An allocator with a heap for each thread keeps what is freed there until the thread allocates
    /// again, which after a burst of connections it does not. `release` may return that to the
    /// system, as `mi_collect` of mimalloc does. Does nothing by default.
    #[must_use]
    pub fn release_memory(mut self, release: fn()) -> Self {
        self.release_memory = release;
        self
    }

    /// Sets the time for a request's head, and for a connection to be idle between two requests. 75 s
    /// by default: longer than load balancers keep theirs, which must be the ones to close.
    #[must_use]
    pub fn head_timeout(mut self, timeout: Duration) -> Self {
        self.settings.head_timeout = timeout;
        self
    }

    /// Sets the maximum size of a request's head in bytes; a larger one gets a 431. 64 KiB by default,
    /// at least 8 KiB.
    #[must_use]
    pub fn max_head(mut self, bytes: usize) -> Self {
        self.settings.max_head = bytes.max(8 * 1024);
        self
    }

    /// Writes names of fields as `Content-Type`, for clients that compare them byte by byte. Off by default.
    #[must_use]
    pub fn title_case_headers(mut self, enabled: bool) -> Self {
        self.settings.title_case_headers = enabled;
        self
    }

    /// Resets the client of an event stream that does not take the output that waits for it, or 8 KiB of
    /// it, within this time; the stream ends as [`ClientStalled`](crate::EndReason::ClientStalled). 30 s by
    /// default, `None` for no limit.
    ///
    /// A kernel tells of room when there is some worth the while: a client must take about half of
    /// what is [unsent](Self::unsent) in this time to count as reading.
    #[must_use]
    pub fn write_stall(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.settings.write_stall = timeout.into();
        self
    }

    /// Resets the client of any other response that takes nothing for this long while output is waiting
    /// for it. `None`, the default, for no limit: a client may pause a download, which also lifts the
    /// [user timeout](Self::user_timeout) while a response of more than 64 KiB is sent. Set it where
    /// clients are not trusted; each paused download keeps a connection.
    #[must_use]
    pub fn response_stall(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.settings.response_stall = timeout.into();
        self
    }

    /// Sets how many bytes may wait in the kernel before they are sent (`TCP_NOTSENT_LOWAT`, where it
    /// exists), so that the events of a slow client do not age there. 16 KiB by default; `None` for the
    /// kernel's choice.
    #[must_use]
    pub fn unsent(mut self, bytes: impl Into<Option<u32>>) -> Self {
        self.settings.unsent = bytes.into();
        self
    }

    /// Sets the kernel's send buffer in bytes (`SO_SNDBUF`), which bounds what is sent and not
    /// acknowledged. The kernel's choice by default, which grows with the connection.
    #[must_use]
    pub fn send_buffer(mut self, bytes: impl Into<Option<usize>>) -> Self {
        self.settings.send_buffer = bytes.into();
        self
    }

    /// Sets TCP keepalive: the kernel probes a client that has been idle for this long, and again at
    /// quarters of this interval. A client that does not respond is disconnected after three probes, or,
    /// on Linux, at the [user timeout](Self::user_timeout) if one is set. 60 s by default, at least 1
    /// s.
    #[must_use]
    pub fn keepalive(mut self, after: impl Into<Option<Duration>>) -> Self {
        self.settings.liveness.keepalive = after.into();
        self
    }

    /// Disconnects a client that acknowledges no data for this long (`TCP_USER_TIMEOUT`, on Linux). 60
    /// s by default.
    #[must_use]
    pub fn user_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.settings.liveness.user_timeout = timeout.into();
        self
    }

    /// Limits the connections of one client address. Above the limit, the address's oldest idle
    /// connection is closed for a new one; if none is idle, the new one is closed. Counted before
    /// anything is allocated for a connection. `None`, the default, for no limit: behind a load
    /// balancer all connections come from its address.
    #[must_use]
    pub fn max_connections_per_client(mut self, connections: impl Into<Option<u32>>) -> Self {
        self.settings.per_client.max = connections.into();
        self
    }

    /// Exempts networks from [`max_connections_per_client`](Self::max_connections_per_client): those of
    /// proxies, which carry many clients. None by default.
    #[must_use]
    pub fn unbounded_clients(mut self, networks: impl IntoIterator<Item = IpNet>) -> Self {
        self.settings.per_client.exempt = networks.into_iter().collect();
        self
    }

    /// Sets how many leading bits of an IPv6 address identify a client. 64 by default.
    #[must_use]
    pub fn ipv6_prefix(mut self, bits: u8) -> Self {
        self.settings.per_client.ipv6_prefix = bits;
        self
    }

    /// Sets the check before a connection is accepted: whether there is a file for it, beside those
    /// that are kept for others.
    #[doc(hidden)]
    pub fn has_file(mut self, has_file: fn() -> bool) -> Self {
        self.settings.has_file = has_file;
        self
    }

    /// Serves until the task is dropped; returns early only if [`threads`](Self::threads) cannot be
    /// started. Each request carries a [`PeerAddr`](crate::client_key::PeerAddr) (with the feature
    /// `axum` a `ConnectInfo`, too).
    pub async fn serve<S, B>(self, listener: impl Listener, service: S) -> std::io::Result<()>
    where
        S: Service<Request<RequestBody>, Response = Response<B>> + Clone + Send + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError> + Send,
    {
        self.serve_until(listener, service, std::future::pending())
            .await
    }

    /// Serves until `stop` completes, then accepts no more connections and waits until each has sent
    /// the response that is under way. Streams do not end by themselves: see
    /// [`serve_until_drained`](Self::serve_until_drained), or bound the wait.
    pub async fn serve_until<S, B>(
        self,
        listener: impl Listener,
        service: S,
        stop: impl Future<Output = ()>,
    ) -> std::io::Result<()>
    where
        S: Service<Request<RequestBody>, Response = Response<B>> + Clone + Send + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError> + Send,
    {
        self.serve_in(&Registry::default(), listener, service, stop)
            .await
    }

    /// Serves until `drain` begins and its window is over, then waits until each connection has sent
    /// the response that is under way.
    ///
    /// During the window the listener stays open, so that no request is refused while load balancers
    /// take this server out. Responses say `Connection: close`, but for streams; idle connections are
    /// closed at the end of the window, as a request may be on its way. New streams are for a
    /// [`RotationLayer`](crate::rotation::RotationLayer) with this handle to turn away. Answers that
    /// [`drain_with`](StreamRegistry::drain_with) gives more time go on behind the window.
    ///
    /// Bound the wait, as a client may take any time to read a long response.
    pub async fn serve_until_drained<S, B>(
        self,
        listener: impl Listener,
        service: S,
        drain: &StreamRegistry,
    ) -> std::io::Result<()>
    where
        S: Service<Request<RequestBody>, Response = Response<B>> + Clone + Send + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError> + Send,
    {
        let mut connections = self.connections(&Registry::default())?;
        tokio::select! {
            () = connections.accept(&listener, &service) => {}
            () = drain.drain_started() => {}
        }
        connections.drain();
        tokio::select! {
            () = connections.accept(&listener, &service) => {}
            () = drain.window_over() => {}
        }
        drop(listener);
        connections.finish().await;
        Ok(())
    }
}

impl Server {
    /// The same, with connections that are listed in `registry`.
    #[doc(hidden)]
    pub async fn serve_in<S, B>(
        &self,
        registry: &Registry,
        listener: impl Listener,
        service: S,
        stop: impl Future<Output = ()>,
    ) -> std::io::Result<()>
    where
        S: Service<Request<RequestBody>, Response = Response<B>> + Clone + Send + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError> + Send,
    {
        let mut connections = self.connections(registry)?;
        tokio::select! {
            () = connections.accept(&listener, &service) => {}
            () = stop => {}
        }
        drop(listener);
        connections.finish().await;
        Ok(())
    }

    #[doc(hidden)]
    pub fn connections(&self, registry: &Registry) -> std::io::Result<Connections> {
        let workers = match self.threads {
            Some(count) => Workers::start(count, self.release_memory)?,
            None => Workers::here(),
        };
        let settings = Arc::new(self.settings.clone());
        Ok(Connections::new(workers, settings, registry.clone()))
    }
}

impl Settings {
    fn stalls(&self) -> Stalls {
        Stalls {
            stream: self.write_stall,
            response: self.response_stall,
            liveness: self.liveness,
        }
    }
}

fn tune(io: &Io, settings: &Settings) -> std::io::Result<()> {
    settings.liveness.watch(io)?;
    if let Some(bytes) = settings.send_buffer {
        io.socket().set_send_buffer_size(bytes)?;
    }
    // A Unix socket sends at once, and what its peer has not read counts as its send buffer.
    let Some(socket) = io.tcp() else {
        return Ok(());
    };
    // Events are small and must not wait for each other.
    socket.set_tcp_nodelay(true)?;
    #[cfg(target_os = "linux")]
    if let Some(bytes) = settings.unsent {
        socket.set_tcp_notsent_lowat(bytes)?;
    }
    Ok(())
}
