//! One address that requests are sent to, and what they share there.
//!
//! | shared | by all routes with equal |
//! | --- | --- |
//! | reachability by requests, connection attempts | address: scheme, host and port with `upstream.tls`, or Unix socket; `upstream.proxy_protocol`; `upstream.http2` |
//! | active checks | address, and settings of the check (`Host` among them) |
//! | the pool, and the connections of HTTP/2 | address, and [`SocketOptions`]: what a socket has from its start to its end |
//! | the queue of streams that reconnect | URL, `resume.rate` and `resume.max_concurrent` |
//! | nothing: applied for each connection | `upstream.connect_timeout` |
//! | nothing: applied when a connection is taken from the pool and returned to it | `upstream.idle_timeout` |
//! | nothing: applied to each request | base path, `Host`, time limits, `upstream.max_pending`, `upstream.max_body`, head options |
//!
//! `upstream.max_pending` counts the requests of each route alone: a route with a low bound would otherwise get a
//! 503 for what others wait for. Connections that carry a client's login are in no pool: see [`pins`](super::pins).
//!
//! The pool holds connections for one request at a time. Those of HTTP/2 stand beside it in [`Endpoint`]: a request
//! takes a stream of one: see [`http2`](super::http2). Requests that HTTP/2 has no form for use the pool.

use super::address::Address;
use super::connect::{Connector, SocketOptions};
use super::health::Health;
use super::http2::Connections;
use super::pool::Pool;

/// An address with the pool of one set of socket options.
#[derive(Debug)]
pub(super) struct Endpoint {
    address: Address,
    options: SocketOptions,
    /// Without a time limit, which is the route's.
    connector: Connector,
    pool: Pool,
    /// None if HTTP/2 is never used.
    http2: Option<Connections>,
    /// Of the address, whatever the socket options.
    health: Health,
}

impl Endpoint {
    pub(super) fn new(address: Address, options: SocketOptions, health: Health) -> Self {
        Self {
            connector: Connector::new(&address, options),
            http2: options.http2().map(Connections::new),
            address,
            options,
            pool: Pool::default(),
            health,
        }
    }

    /// Whether it is the endpoint for connections with these options.
    pub(super) fn is_for(&self, address: &Address, options: SocketOptions) -> bool {
        self.address == *address && self.options == options
    }

    /// Whether checks of this address with these options are checks of this endpoint.
    pub(super) fn is_checked_as(&self, address: &Address, options: SocketOptions) -> bool {
        self.address == *address && self.options.for_checks() == options.for_checks()
    }

    pub(super) fn address(&self) -> &Address {
        &self.address
    }

    pub(super) fn connector(&self) -> &Connector {
        &self.connector
    }

    pub(super) fn pool(&self) -> &Pool {
        &self.pool
    }

    pub(super) fn http2(&self) -> Option<&Connections> {
        self.http2.as_ref()
    }

    /// Closes connections that serve no request.
    pub(super) fn close_idle_connections(&self) {
        self.pool.clear();
        if let Some(http2) = &self.http2 {
            http2.close_idle();
        }
    }

    pub(super) fn health(&self) -> &Health {
        &self.health
    }
}
