//! Connections to an upstream: one way for requests, health checks and connection attempts.
//!
//! A connection is ready for HTTP: its TLS handshake is over, and the upstream's settings of HTTP/2 have come.

use super::address::{Address, Transport};
use super::dns::Resolver;
use super::error::Failure;
use super::http2::{self, Handshake, Http2Options};
use super::proxy_header;
use crate::config::{self, ProxyVersion};
use crate::tls::{ClientTls, TlsFailure};
use http::Uri;
use http::uri::Scheme;
use hyper_util::client::legacy::connect::HttpConnector;
use rustls::ClientConfig;
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
    http2: Option<Http2Options>,
}

impl SocketOptions {
    /// The options of connections for requests. They do not apply to a Unix socket.
    pub(super) fn of(config: &config::Upstream, address: &Address) -> Self {
        match address.transport() {
            Transport::Unix(_) => Self {
                proxy_protocol: config.proxy_protocol,
                http2: Http2Options::of(config),
                ..Self::default()
            },
            Transport::Tcp(..) => Self {
                keepalive: config.keepalive,
                user_timeout: config.user_timeout,
                receive_buffer: config.receive_buffer,
                proxy_protocol: config.proxy_protocol,
                http2: Http2Options::of(config),
            },
        }
    }

    /// The options of connections for checks, which the upstream has to accept.
    pub(super) fn for_checks(self) -> Self {
        Self {
            proxy_protocol: self.proxy_protocol,
            http2: self.http2.map(Http2Options::for_checks),
            ..Self::default()
        }
    }

    pub(super) fn http2(&self) -> Option<Http2Options> {
        self.http2
    }
}

/// A connection by the protocol that it has.
pub(super) enum Established {
    Http1(Io),
    Http2(Box<Handshake>),
}

/// Connects to one address.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    transport: Connect,
    keepalive: KeepaliveOptions,
    proxy_protocol: Option<ProxyVersion>,
    http2: Option<Http2Options>,
    /// Of each step.
    limit: Option<Duration>,
}

#[derive(Clone, Debug)]
enum Connect {
    Tcp {
        connector: HttpConnector<Resolver>,
        url: Uri,
        tls: Option<Tls>,
    },
    Unix(Arc<Path>),
}

/// A handshake that follows.
#[derive(Clone, Debug)]
struct Tls {
    settings: ClientTls,
    /// With the protocols that are offered where HTTP/2 may be used.
    http2: Option<Arc<ClientConfig>>,
}

impl Connector {
    /// Without a time limit.
    pub(super) fn new(address: &Address, options: SocketOptions) -> Self {
        let transport = match address.transport() {
            Transport::Unix(socket) => Connect::Unix(socket.clone()),
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
                        http2: options.http2.map(|http2| {
                            let mut config = ClientConfig::clone(settings.config());
                            config.alpn_protocols = http2.protocols();
                            Arc::new(config)
                        }),
                        settings,
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
            http2: options.http2,
            limit: None,
        }
    }

    fn is_tls(&self) -> bool {
        matches!(&self.transport, Connect::Tcp { tls: Some(_), .. })
    }

    /// The scheme of the requests.
    pub(super) fn scheme(&self) -> Scheme {
        match self.is_tls() {
            true => Scheme::HTTPS,
            false => Scheme::HTTP,
        }
    }

    /// A connector with this time limit. It is divided among the addresses of a name, so that one that does not respond
    /// does not use up the time of the others; the lookup is not part of it. A handshake of TLS has this time once more,
    /// and so have the settings of HTTP/2.
    pub(super) fn with_timeout(&self, limit: Duration) -> Self {
        let mut this = self.clone();
        this.limit = Some(limit);
        if let Connect::Tcp { connector, .. } = &mut this.transport {
            connector.set_connect_timeout(Some(limit));
        }
        this
    }

    /// Connects for HTTP/1.1, and for a client, whose address the connection begins with by option.
    pub(super) fn connect_for(
        &self,
        client: Option<SocketAddr>,
    ) -> impl Future<Output = Result<Io, Failure>> + Send + '_ {
        self.connect(client, false)
    }

    /// Connects without a client, by the protocol that the options and the upstream select.
    pub(super) async fn establish(&self) -> Result<Established, Failure> {
        let socket = self.connect(None, self.http2.is_some()).await?;
        let Some(http2) = self.http2 else {
            return Ok(Established::Http1(socket));
        };
        if self.is_tls() && !http2::is_selected(&socket) {
            return match http2.is_required() {
                true => Err(Failure::Handshake(TlsFailure::without_http2())),
                false => Ok(Established::Http1(socket)),
            };
        }
        let handshake = Handshake::new(socket, http2, self.limit);
        Ok(Established::Http2(Box::new(handshake.await?)))
    }

    async fn connect(&self, client: Option<SocketAddr>, is_http2: bool) -> Result<Io, Failure> {
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
            Connect::Unix(socket) => {
                // It waits only while the upstream's queue is full.
                let connect = UnixStream::connect(socket);
                let connected = match self.limit {
                    Some(limit) => timeout(limit, connect)
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
            Connect::Tcp { tls: Some(tls), .. } => {
                Box::pin(tls.handshake(socket, is_http2, self.limit)).await
            }
            _ => Ok(socket),
        }
    }

    /// Connects without a client, with a time limit that covers the lookup, too.
    pub(super) async fn establish_within(&self, limit: Duration) -> Result<Established, Failure> {
        let steps = 1 + u32::from(self.is_tls()) + u32::from(self.http2.is_some());
        timeout(
            limit * steps + LOOKUP_TIMEOUT,
            self.with_timeout(limit).establish(),
        )
        .await
        .map_err(|late| Failure::Connect(late.into()))?
    }
}

impl Tls {
    async fn handshake(
        &self,
        socket: Io,
        is_http2: bool,
        limit: Option<Duration>,
    ) -> Result<Io, Failure> {
        let http2 = self.http2.as_ref().filter(|_| is_http2);
        let config = http2.unwrap_or(self.settings.config()).clone();
        let name = self.settings.name().clone();
        let connect = socket.connect_tls(config, name);
        let connected = match limit {
            Some(limit) => timeout(limit, connect)
                .await
                .map_err(|_| Failure::Handshake(TlsFailure::timeout()))?,
            None => connect.await,
        };
        let offers_http2_alone = http2.is_some_and(|config| config.alpn_protocols.len() == 1);
        connected.map_err(|error| {
            Failure::Handshake(match offers_http2_alone && TlsFailure::is_of_alpn(&error) {
                true => TlsFailure::without_http2(),
                false => TlsFailure::of_handshake(&error),
            })
        })
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
        let failure = connector.connect_for(None).await.unwrap_err();
        assert!(matches!(failure, Failure::Connect(_)), "{failure}");
        let listener = UnixListener::bind(&path).unwrap();
        let (connected, accepted) = tokio::join!(connector.connect_for(None), listener.accept());
        assert!(connected.unwrap().tcp().is_none());
        accepted.unwrap();
    }
}
