//! Connections to an upstream: one way for requests and for health checks.

use super::dns::Resolver;
use super::error::Failure;
use crate::config::{self, unix_socket};
use http::{HeaderValue, Uri};
use hyper_util::client::legacy::connect::HttpConnector;
use sse_guard::serve::Io;
use std::future::poll_fn;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::time::timeout;
use tower_service::Service;

/// A name server has no time limit of its own.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// Connects to one upstream.
#[derive(Clone, Debug)]
pub(super) enum Connector {
    Tcp {
        connector: HttpConnector<Resolver>,
        url: Uri,
    },
    Unix {
        socket: Arc<Path>,
        timeout: Duration,
    },
}

impl Connector {
    pub(super) fn new(url: &Uri, timeout: Duration) -> Self {
        if let Some(unix) = unix_socket(url) {
            return Self::Unix {
                socket: Path::new(unix.socket).into(),
                timeout,
            };
        }
        let mut connector = HttpConnector::new_with_resolver(Resolver::new());
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(timeout));
        Self::Tcp {
            connector,
            url: url.clone(),
        }
    }

    /// With the socket options of requests.
    pub(super) fn of(config: &config::Upstream) -> Self {
        let mut this = Self::new(&config.url, config.connect_timeout);
        if let Self::Tcp { connector, .. } = &mut this {
            connector.set_recv_buffer_size(config.receive_buffer);
        }
        this
    }

    pub(super) async fn connect(&self) -> Result<Io, Failure> {
        match self {
            Self::Tcp { connector, url } => {
                let mut connector = connector.clone();
                poll_fn(|cx| connector.poll_ready(cx))
                    .await
                    .map_err(Failure::of_connecting)?;
                let connected = connector.call(url.clone()).await;
                let socket = connected.map_err(Failure::of_connecting)?.into_inner();
                Ok(socket.into())
            }
            Self::Unix {
                socket,
                timeout: limit,
            } => {
                // It waits only while the upstream's queue is full.
                let connected = timeout(*limit, UnixStream::connect(socket)).await;
                let connected = connected.map_err(|late| Failure::Connect(late.into()))?;
                Ok(connected.map_err(Failure::of_connecting)?.into())
            }
        }
    }

    /// Connects for a check, which has a time limit in all.
    pub(super) async fn connect_within(&self, limit: Duration) -> Result<Io, Failure> {
        timeout(limit + LOOKUP_TIMEOUT, self.connect())
            .await
            .map_err(|late| Failure::Connect(late.into()))?
    }
}

/// The upstream's own name, as `Host` has it. One on a Unix socket has none.
pub(super) fn host(url: &Uri) -> Option<HeaderValue> {
    if unix_socket(url).is_some() {
        return Some(HeaderValue::from_static("localhost"));
    }
    HeaderValue::from_str(url.authority()?.as_str()).ok()
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
        let connector = Connector::new(&url, Duration::from_secs(5));
        let failure = connector.connect().await.unwrap_err();
        assert!(matches!(failure, Failure::Connect(_)), "{failure}");
        let listener = UnixListener::bind(&path).unwrap();
        let (connected, accepted) = tokio::join!(connector.connect(), listener.accept());
        assert!(connected.unwrap().tcp().is_none());
        accepted.unwrap();
        assert_eq!(host(&url).unwrap(), "localhost");
    }
}
