//! An endpoint as a route uses it, by the URL in its config.

use super::connect::Connector;
use super::endpoint::Endpoint;
use super::error::Failure;
use super::host::HostField;
use super::http2::Acquire;
use super::pool::RoutePool;
use crate::config::{self, unix_socket};
use crate::fd_limit;
use http::uri::Scheme;
use http::{HeaderMap, Uri};
use sse_guard::client_key::ClientKey;
use sse_guard::serve::Io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// A member of a [`Cluster`](super::cluster::Cluster).
#[derive(Debug)]
pub(super) struct Member {
    /// As it stands in the config, for the log.
    url: Uri,
    endpoint: Arc<Endpoint>,
    /// With the route's time limit.
    connector: Connector,
    scheme: Scheme,
    idle_timeout: Duration,
    /// A connection begins with the address of its client.
    names_client: bool,
    /// Put in front of the request's path; without a slash at its end.
    base: String,
    host: HostField,
}

impl Member {
    pub(super) fn new(config: &config::Upstream, endpoint: Arc<Endpoint>) -> Self {
        let unix = unix_socket(&config.url);
        let base = unix.map_or(config.url.path(), |unix| unix.base);
        Self {
            url: config.url.clone(),
            connector: endpoint.connector().with_timeout(config.connect_timeout),
            scheme: endpoint.connector().scheme(),
            // A connection that carries the address of its client is for no other client.
            idle_timeout: match config.proxy_protocol {
                None => config.idle_timeout,
                Some(_) => Duration::ZERO,
            },
            names_client: config.proxy_protocol.is_some(),
            base: base.trim_end_matches('/').to_owned(),
            host: HostField::of(config),
            endpoint,
        }
    }

    pub(super) fn url(&self) -> &Uri {
        &self.url
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    pub(super) fn base(&self) -> &str {
        &self.base
    }

    pub(super) fn host(&self) -> &HostField {
        &self.host
    }

    /// The pool of the endpoint, by the route's timeout.
    pub(super) fn pool(&self) -> RoutePool<'_> {
        self.endpoint.pool().for_route(self.idle_timeout)
    }

    /// A connection of HTTP/2 for this route's requests.
    pub(super) fn acquire(&self) -> Acquire<'_> {
        Acquire {
            connector: &self.connector,
            idle_timeout: self.idle_timeout,
            http1: self.pool().pool_return(&HeaderMap::new()),
        }
    }

    /// The scheme of requests to it.
    pub(super) fn scheme(&self) -> &Scheme {
        &self.scheme
    }

    pub(super) fn names_client(&self) -> bool {
        self.names_client
    }

    /// Connects for this client.
    pub(super) async fn connect(&self, client: Option<SocketAddr>) -> Result<Io, Failure> {
        if !fd_limit::has_room() {
            return Err(Failure::without_files());
        }
        self.connector.connect_for(client).await
    }

    /// A request got a response.
    pub(super) fn answered(&self) {
        self.endpoint.health().answered(&self.url);
    }

    /// A request of this client failed, by a fault of the upstream.
    pub(super) fn failed(&self, failure: &Failure, client: Option<&ClientKey>) {
        let is_away = failure.is_away();
        let health = self.endpoint.health();
        health.failed(&self.url, &failure.with_cause(), is_away, client);
    }
}
