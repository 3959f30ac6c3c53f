//! The server and its options.

use super::accept::{Connections, SingleListener};
use super::group::ConnectionGroup;
use super::listener::Listener;
use super::options::ServerOptions;
use super::proxy_protocol::ProxyProtocol;
use super::registry::ConnectionRegistry;
use super::request_body::RequestBody;
use super::workers::Workers;
use crate::client_key::ForwardedIp;
use crate::guard::BoxError;
use crate::stream::StreamRegistry;
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use ipnet::IpNet;
use std::future::Future;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;
use tower_service::Service;

/// An HTTP server for any tower service. See the [module docs](super).
#[derive(Clone, Debug)]
pub struct Server {
    pub(super) options: ServerOptions,
    threads: Option<NonZeroUsize>,
    release_memory: fn(),
}

impl Default for Server {
    fn default() -> Self {
        Self {
            options: ServerOptions::default(),
            threads: None,
            release_memory: || {},
        }
    }
}

impl Server {
    /// Creates a server with the defaults that its methods name.
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs connections on this many threads of the server's own, each with its own runtime. A connection stays on its
    /// thread; one thread for each core costs least. By default, connections run on the runtime that calls the server.
    ///
    /// Tasks that the service spawns run on those threads, too.
    #[must_use]
    pub fn threads(mut self, count: impl Into<Option<NonZeroUsize>>) -> Self {
        self.threads = count.into();
        self
    }

    /// Calls `release` on each of the server's own [`threads`](Self::threads), at most once a second, after connections
    /// have closed or a burst of new ones is over.
    ///
    /// An allocator with a heap for each thread keeps freed memory until the thread allocates again, which it does not do
    /// after a burst of connections. `release` may return that memory to the system, as `mi_collect` of mimalloc does.
    /// Does nothing by default.
    #[must_use]
    pub fn release_memory(mut self, release: fn()) -> Self {
        self.release_memory = release;
        self
    }

    /// Sets the timeout for a request's head, and for a connection between two requests. 75 s by default: longer than
    /// the idle timeouts of load balancers, which must be the first to close.
    #[must_use]
    pub fn head_timeout(mut self, timeout: Duration) -> Self {
        self.options.head_timeout = timeout;
        self
    }

    /// Sets the maximum size of a request's head in bytes; a larger one gets a 431. 64 KiB by default,
    /// at least 8 KiB.
    #[must_use]
    pub fn max_head(mut self, bytes: usize) -> Self {
        self.options.max_head = bytes.max(8 * 1024);
        self
    }

    /// Writes field names as `Content-Type`, for clients that compare them byte by byte. Off by default.
    #[must_use]
    pub fn title_case_headers(mut self, enabled: bool) -> Self {
        self.options.title_case_headers = enabled;
        self
    }

    /// Resets the client of an event stream that does not read its waiting output, or 8 KiB of it, within this time; the
    /// stream ends as [`ClientStalled`](crate::EndReason::ClientStalled). 30 s by default, `None` for no limit.
    ///
    /// The kernel reports free space only once there is a certain amount: to count as reading, a client must read about
    /// half of [`notsent_lowat`](Self::notsent_lowat) within this time.
    #[must_use]
    pub fn write_stall(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.options.write_stall = timeout.into();
        self
    }

    /// Resets the client of any other response that reads nothing for this long while output is waiting. `None`, the
    /// default, for no limit: a client may pause a download, and the [user timeout](Self::user_timeout) is lifted while a
    /// response of more than 64 KiB is sent. Set it where clients are not trusted: each paused download keeps a
    /// connection.
    #[must_use]
    pub fn response_stall(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.options.response_stall = timeout.into();
        self
    }

    /// Sets how many unsent bytes the kernel accepts (`TCP_NOTSENT_LOWAT`, where it exists), so that the events of a slow
    /// client do not age there. 16 KiB by default; `None` for the kernel's default.
    #[must_use]
    pub fn notsent_lowat(mut self, bytes: impl Into<Option<u32>>) -> Self {
        self.options.notsent_lowat = bytes.into();
        self
    }

    /// Sets the kernel's send buffer in bytes (`SO_SNDBUF`), which bounds the data that is sent and not acknowledged. By
    /// default, the kernel sizes the buffer.
    #[must_use]
    pub fn send_buffer(mut self, bytes: impl Into<Option<usize>>) -> Self {
        self.options.send_buffer = bytes.into();
        self
    }

    /// Sets TCP keepalive: the kernel probes a client that has been idle for this long, and again at
    /// quarters of this interval. A client that does not respond is disconnected after three probes, or, on Linux, at the
    /// [user timeout](Self::user_timeout) if one is set. 60 s by default, at least 1 s.
    #[must_use]
    pub fn keepalive(mut self, after: impl Into<Option<Duration>>) -> Self {
        self.options.keepalive.idle_time = after.into();
        self
    }

    /// Disconnects a client that acknowledges no data for this long (`TCP_USER_TIMEOUT`, on Linux). 60 s by default.
    #[must_use]
    pub fn user_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.options.keepalive.user_timeout = timeout.into();
        self
    }

    /// Requires a header of the PROXY protocol, version 1 or 2, at the start of each connection, in which a load balancer
    /// that forwards TCP connections names their clients. The client then is the
    /// [peer](crate::client_key::PeerAddr) of requests and for
    /// [`max_connections_per_client`](Self::max_connections_per_client). Off by default.
    ///
    /// A connection of a peer that `trusted` does not trust is closed, and so is one with an invalid header or without a
    /// complete one within [`head_timeout`](Self::head_timeout). If the header names no TCP client, as that of the load
    /// balancer's own health checks, the peer stays the load balancer.
    #[must_use]
    pub fn proxy_protocol(mut self, trusted: impl Into<Option<ForwardedIp>>) -> Self {
        self.options.proxy_protocol = trusted.into().map(ProxyProtocol::new);
        self
    }

    /// Limits the connections of one client address. Above the limit, the address's oldest idle
    /// connection is closed for a new one; if none is idle, the new one is closed, before anything is allocated for it.
    /// `None`, the default, for no limit: behind a load balancer all connections come from its address.
    #[must_use]
    pub fn max_connections_per_client(mut self, connections: impl Into<Option<u32>>) -> Self {
        self.options.per_client.max = connections.into();
        self
    }

    /// Exempts networks from [`max_connections_per_client`](Self::max_connections_per_client), such as those of proxies,
    /// which carry many clients. None by default.
    #[must_use]
    pub fn unbounded_clients(mut self, networks: impl IntoIterator<Item = IpNet>) -> Self {
        self.options.per_client.exempt = networks.into_iter().collect();
        self
    }

    /// Sets how many leading bits of an IPv6 address identify a client. 64 by default.
    #[must_use]
    pub fn ipv6_prefix(mut self, bits: u8) -> Self {
        self.options.per_client.ipv6_prefix = bits;
        self
    }

    /// Accepts HTTP/2 from clients that begin it with prior knowledge, RFC 9113 section 3.3; all others get HTTP/1.1. Off by
    /// default. Clients that negotiate `h2` by ALPN get HTTP/2 in any case: see `TlsListener`.
    ///
    /// A connection is closed after [`head_timeout`](Self::head_timeout) without a stream, and a stream whose client
    /// leaves its window closed is reset after [`write_stall`](Self::write_stall) or
    /// [`response_stall`](Self::response_stall). A client that resets most of its requests is disconnected. Requests and
    /// responses with an authentication scheme of connections, such as NTLM, are reset with `HTTP_1_1_REQUIRED`.
    #[cfg(feature = "http2")]
    #[must_use]
    pub fn http2(mut self, enabled: bool) -> Self {
        self.options.http2.enabled = enabled;
        self
    }

    /// Limits the streams that a client of HTTP/2 opens at a time. 250 by default: each event stream is one, and a
    /// browser opens one connection for all its pages.
    #[cfg(feature = "http2")]
    #[must_use]
    pub fn http2_max_streams(mut self, streams: u32) -> Self {
        self.options.http2.max_streams = streams;
        self
    }

    /// Sends a PING on each connection of HTTP/2 that has streams in this interval, and closes one whose client does not
    /// respond within 20 s. 60 s by default; `None` for no PING.
    #[cfg(feature = "http2")]
    #[must_use]
    pub fn http2_ping_interval(mut self, interval: impl Into<Option<Duration>>) -> Self {
        self.options.http2.ping_interval = interval.into();
        self
    }

    /// Sets the check before a connection is accepted: it returns true if a file descriptor is free, besides those that
    /// are reserved.
    #[doc(hidden)]
    pub fn has_free_file(mut self, has_free_file: fn() -> bool) -> Self {
        self.options.has_free_file = has_free_file;
        self
    }

    /// Serves until the future is dropped; returns early only if [`threads`](Self::threads) cannot be started. Each
    /// request has a [`PeerAddr`](crate::client_key::PeerAddr) as an extension (with the feature `axum` also a
    /// `ConnectInfo`).
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

    /// Serves until `stop` completes, then accepts no more connections and waits until each has sent its current
    /// response. Streams do not end by themselves: see [`serve_until_drained`](Self::serve_until_drained), or bound the
    /// wait.
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
        self.serve_in(&ConnectionRegistry::default(), listener, service, stop)
            .await
    }

    /// Serves until `registry` begins to drain and its window is over, then waits until each connection has sent its
    /// current response.
    ///
    /// During the window the listener stays open, so that no request fails while load balancers remove this server.
    /// Responses other than streams have `Connection: close`. Idle connections are closed at the end of the window,
    /// because a request may be in transit. New streams are rejected by a
    /// [`RotationLayer`](crate::rotation::RotationLayer) with this registry. Answers that
    /// [`drain_with`](StreamRegistry::drain_with) grants more time continue after the window.
    ///
    /// Bound the wait, because a client may take any time to read a long response.
    pub async fn serve_until_drained<S, B>(
        self,
        listener: impl Listener,
        service: S,
        registry: &StreamRegistry,
    ) -> std::io::Result<()>
    where
        S: Service<Request<RequestBody>, Response = Response<B>> + Clone + Send + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError> + Send,
    {
        let mut connections = self.connections(&ConnectionRegistry::default())?;
        let group = self.group();
        let listener = SingleListener {
            listener,
            service,
            group: &group,
        };
        tokio::select! {
            () = connections.accept(&listener) => {}
            () = registry.drain_started() => {}
        }
        group.drain();
        tokio::select! {
            () = connections.accept(&listener) => {}
            () = registry.window_over() => {}
        }
        drop(listener);
        group.stop();
        group.closed().await;
        Ok(())
    }
}

impl Server {
    /// Like [`serve_until`](Self::serve_until), with connections that are listed in `registry`.
    #[doc(hidden)]
    pub async fn serve_in<S, B>(
        &self,
        registry: &ConnectionRegistry,
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
        let group = self.group();
        let listener = SingleListener {
            listener,
            service,
            group: &group,
        };
        tokio::select! {
            () = connections.accept(&listener) => {}
            () = stop => {}
        }
        drop(listener);
        group.stop();
        group.closed().await;
        Ok(())
    }

    #[doc(hidden)]
    pub fn connections(&self, registry: &ConnectionRegistry) -> std::io::Result<Connections> {
        let workers = match self.threads {
            Some(count) => Workers::start(count, self.release_memory)?,
            None => Workers::current_runtime(),
        };
        let has_free_file = self.options.has_free_file;
        Ok(Connections::new(workers, registry.clone(), has_free_file))
    }

    /// The connections of one listener, with the options of this server.
    #[doc(hidden)]
    pub fn group(&self) -> ConnectionGroup {
        ConnectionGroup::new(Arc::new(self.options.clone()))
    }
}
