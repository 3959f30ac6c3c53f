//! A server that needs little memory for quiet event streams.
//!
//! hyper reads HTTP/1.1 requests and writes all responses that are not event streams. The connection of an event stream
//! leaves hyper: this module writes its head and chunks from the same layered body. A quiet stream then holds no
//! buffers, ready events are written with one system call, and a client that stops reading is detected (see
//! [`write_stall`](Server::write_stall)). After the stream, hyper serves the connection again.
//!
//! An event stream is defined as in the whole crate: a 2xx response with a body and the media type
//! `text/event-stream`. One of known length, and the response to a request whose body has not ended, stay with hyper.
//!
//! # Threads
//!
//! To wake another thread costs more than to forward an event. With [`threads`](Server::threads) a connection stays on
//! one thread with its sockets, timers and memory, and a new one is given to the thread with the fewest. Compared with
//! a work-stealing runtime on as many cores, this took 7 % less CPU time for an event, and half the time to deliver
//! it. A listener for each thread (`SO_REUSEPORT`) would distribute connections at random, which evens out for
//! requests and not for streams of hours; and a closed listener loses the connections in its backlog.
//!
//! # Connections without a request
//!
//! A silent client, one whose head never ends, and one that keeps its connection for another request cost a file
//! descriptor each. When none is left for a new connection, the oldest of these are closed; a connection that serves a
//! request is not. [`max_connections_per_client`](Server::max_connections_per_client) limits the connections of one
//! address.
//!
//! # HTTP/2
//!
//! With the feature `http2` a client may begin HTTP/2 with prior knowledge, if that is enabled, or by the ALPN of TLS. The
//! `h2` crate frames it. A request has the form of HTTP/1.1 for the service: `:authority` is `Host`, the target is a path,
//! cookies are one field. Bounds are set on streams, windows, header lists, resets, and the time without a stream or an
//! answer to a PING.
//!
//! # Invalid requests
//!
//! hyper cuts a fragment off a request target, and removes a `Content-Length` beside a `Transfer-Encoding`, so that a
//! service cannot reject such a request. Here both get a 400, and their connection closes. What follows a request with
//! `Upgrade`, or a `CONNECT`, is read once its response is known, which determines whether it is HTTP.
//!
//! # Memory
//!
//! A quiet stream keeps the state of its two tasks and of its layers, about 2 KB. A connection that waits for a request
//! keeps less than 1 KB, and one that waits for a response keeps what the service needs for it. The size of the process
//! depends on the allocator as well: a burst of connections leaves the freed buffers of their requests between
//! allocations that stay. The proxy's binary uses mimalloc, configured to return memory at once.
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
mod client_io;
mod connection;
mod group;
mod http1;
#[cfg(feature = "http2")]
mod http2;
mod idle;
mod io;
mod keepalive;
mod listener;
mod oneshot;
mod options;
mod proxy_protocol;
mod registry;
mod request_body;
mod server;
mod stall;
mod stop;
mod workers;

pub(crate) use attachment::ClientConnection;
pub use io::Io;
#[cfg(feature = "tls")]
pub use io::TlsInfo;
pub use listener::Listener;
#[cfg(feature = "tls")]
pub use listener::TlsListener;
pub use request_body::{RequestBody, RequestBodyError};
pub use server::Server;

/// See [`crate::internal`].
#[doc(hidden)]
pub mod internal {
    pub use super::accept::{Accepted, Connections, Listeners};
    pub use super::attachment::{Attachment, ClientConnection};
    pub use super::group::ConnectionGroup;
    pub use super::http1::{HYPER_IDLE_TIMEOUT, log_invalid_request};
    #[cfg(feature = "http2")]
    pub use super::http2::PingTimer;
    pub use super::io::DetachedIo;
    pub use super::keepalive::KeepaliveOptions;
    pub use super::proxy_protocol::{ProxyHeader, ProxyHeaderError, RefusedHeader};
    pub use super::registry::{CloseReason, ConnectionRegistry, ConnectionShares};
    pub use super::request_body::Upload;
}
