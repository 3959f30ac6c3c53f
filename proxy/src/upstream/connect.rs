//! Connections to an upstream: one way for requests, health checks and connection attempts.
//!
//! A connection is ready for HTTP: its TLS handshake is over. What ALPN has selected is part of the [`Io`].

use super::address::{Address, Transport};
use super::dns::Resolver;
use super::error::Failure;
use super::proxy_header;
use crate::config::{self, ProxyVersion};
use crate::tls::{ClientTls, TlsFailure};
use http::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use sse_guard::internal::KeepaliveOptions;
use sse_guard::serve::Io;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::time::timeout;
use tower_service::Service;

/// A name server has no time limit of its own.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// What a connection has from its start to its end, beside its address: routes that differ in it cannot share
/// connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SocketOptions {
    keepalive: Option<Duration>,
    user_timeout: Option<Duration>,
    receive_buffer: Option<usize>,
    proxy_protocol: Option<ProxyVersion>,
}

impl SocketOptions {
    /// The options of connections for requests. They do not apply to a Unix socket.
    pub(super) fn of(config: &config::Upstream, address: &Address) -> Self {
        match address.transport() {
            Transport::Unix(_) => Self {
                proxy_protocol: config.proxy_protocol,
                ..Self::default()
            },
            Transport::Tcp(..) => Self {
                keepalive: config.keepalive,
                user_timeout: config.user_timeout,
                receive_buffer: config.receive_buffer,
                proxy_protocol: config.proxy_protocol,
            },
        }
    }

    /// The options of connections for checks, which the upstream has to accept.
    pub(super) fn for_checks(self) -> Self {
        Self {
            proxy_protocol: self.proxy_protocol,
            ..Self::default()
        }
    }
}

/// Connects to one address.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    transport: Connect,
    keepalive: KeepaliveOptions,
    proxy_protocol: Option<ProxyVersion>,
}

#[derive(Clone, Debug)]
enum Connect {
    Tcp {
        connector: HttpConnector<Resolver>,
        url: Uri,
        tls: Option<Tls>,
    },
    Unix {
        socket: Arc<Path>,
        timeout: Option<Duration>,
    },
}

/// A handshake that follows.
#[derive(Clone, Debug)]
struct Tls {
    settings: ClientTls,
    timeout: Option<Duration>,
}

impl Connector {
    /// Without a time limit.
    pub(super) fn new(address: &Address, options: SocketOptions) -> Self {
        let transport = match address.transport() {
            Transport::Unix(socket) => Connect::Unix {
                socket: socket.clone(),
                timeout: None,
            },
            Transport::Tcp(url, tls) => {
                let mut connector = HttpConnector::new_with_resolver(Resolver::new());
                // The scheme selects the port alone.
                connector.enforce_http(false);
                connector.set_nodelay(true);
                connector.set_recv_buffer_size(options.receive_buffer);
                Connect::Tcp {
                    connector,
                    url: url.clone(),
                    tls: tls.clone().map(|settings| Tls {
                        settings,
                        timeout: None,
                    }),
                }
            }
        };
        let keepalive = KeepaliveOptions {
            idle_time: options.keepalive,
            user_timeout: options.user_timeout,
        };
        Self {
            transport,
            keepalive,
            proxy_protocol: options.proxy_protocol,
        }
    }

    /// A connector with this time limit. It is divided among the addresses of a name, so that one that does not respond
    /// does not use up the time of the others; the lookup is not part of it. A handshake has this time once more.
    pub(super) fn with_timeout(&self, limit: Duration) -> Self {
        let mut this = self.clone();
        match &mut this.transport {
            Connect::Tcp { connector, tls, .. } => {
                connector.set_connect_timeout(Some(limit));
                if let Some(tls) = tls {
                    tls.timeout = Some(limit);
                }
            }
            Connect::Unix { timeout, .. } => *timeout = Some(limit),
        }
        this
    }

    /// Connects without a client.
    pub(super) async fn connect(&self) -> Result<Io, Failure> {
        self.connect_for(None).await
    }

    /// Connects for a client, whose address the connection begins with by option.
    pub(super) async fn connect_for(&self, client: Option<SocketAddr>) -> Result<Io, Failure> {
        let mut socket: Io = match &self.transport {
            Connect::Tcp { connector, url, .. } => {
                let mut connector = connector.clone();
                poll_fn(|cx| connector.poll_ready(cx))
                    .await
                    .map_err(Failure::of_connecting)?;
                let connected = connector.call(url.clone()).await;
                connected
                    .map_err(Failure::of_connecting)?
                    .into_inner()
                    .into()
            }
            Connect::Unix {
                socket,
                timeout: limit,
            } => {
                // It waits only while the upstream's queue is full.
                let connect = UnixStream::connect(socket);
                let connected = match limit {
                    Some(limit) => timeout(*limit, connect)
                        .await
                        .map_err(|late| Failure::Connect(late.into()))?,
                    None => connect.await,
                };
                connected.map_err(Failure::of_connecting)?.into()
            }
        };
        if let Err(error) = self.keepalive.apply(&socket) {
            // Its use will show whether it still works.
            tracing::debug!(%error, "an upstream's connection is not watched");
        }
        if let Some(version) = self.proxy_protocol {
            // Before TLS, as the specification requires. A new socket has room for it.
            let destination = socket.socket().peer_addr();
            let destination = destination.ok().and_then(|address| address.as_socket());
            let header = proxy_header::encode(version, client, destination);
            let written = Box::pin(async { socket.write_all(&header).await }).await;
            written.map_err(|error| Failure::Connect(error.into()))?;
        }
        match &self.transport {
            // A box, as few connections are made at any time, and futures are as large as all that they await.
            Connect::Tcp { tls: Some(tls), .. } => Box::pin(tls.handshake(socket)).await,
            _ => Ok(socket),
        }
    }

    /// Connects with a time limit that covers the lookup, too.
    pub(super) async fn connect_within(&self, limit: Duration) -> Result<Io, Failure> {
        let handshake = match &self.transport {
            Connect::Tcp { tls: Some(_), .. } => limit,
            _ => Duration::ZERO,
        };
        timeout(
            limit + handshake + LOOKUP_TIMEOUT,
            self.with_timeout(limit).connect(),
        )
        .await
        .map_err(|late| Failure::Connect(late.into()))?
    }
}

impl Tls {
    async fn handshake(&self, socket: Io) -> Result<Io, Failure> {
        let (config, name) = (self.settings.config().clone(), self.settings.name().clone());
        let connect = socket.connect_tls(config, name);
        let connected = match self.timeout {
            Some(limit) => timeout(limit, connect)
                .await
                .map_err(|_| Failure::Handshake(TlsFailure::timeout()))?,
            None => connect.await,
        };
        connected.map_err(|error| Failure::Handshake(TlsFailure::of_handshake(&error)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UnixListener;

    #[tokio::test]
    async fn unix_connector_reports_why_a_socket_cannot_be_connected_to() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.sock");
        let url: Uri = format!("http://unix:{}", path.display()).parse().unwrap();
        let connector = Connector::new(&Address::of(&url, None), SocketOptions::default());
        let connector = connector.with_timeout(Duration::from_secs(5));
        let failure = connector.connect().await.unwrap_err();
        assert!(matches!(failure, Failure::Connect(_)), "{failure}");
        let listener = UnixListener::bind(&path).unwrap();
        let (connected, accepted) = tokio::join!(connector.connect(), listener.accept());
        assert!(connected.unwrap().tcp().is_none());
        accepted.unwrap();
    }
}
