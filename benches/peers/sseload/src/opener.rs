//! Opens streams, each on a connection of its own or several on one.

use crate::client::{Dialer, Failure, get};
use crate::stream::Stream;
use crate::transport::{Protocol, Transport};
use bytes::Bytes;
use h2::client::SendRequest;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use tokio::sync::OnceCell;
use tokio_rustls::TlsConnector;

/// The windows of browsers, in which a sender waits for no client that reads.
const STREAM_WINDOW: u32 = 6 << 20;
const CONNECTION_WINDOW: u32 = 15 << 20;

type Session = Arc<OnceCell<SendRequest<Bytes>>>;

/// Opens streams for one path of a target. Connections of HTTP/2 end with it and their streams.
pub struct Opener {
    dialer: Dialer,
    protocol: Protocol,
    connector: Option<TlsConnector>,
    path: String,
    /// Streams on a connection of HTTP/2.
    per_connection: usize,
    /// By their number.
    sessions: Mutex<HashMap<usize, Session>>,
}

impl Opener {
    /// Opens streams for `path`.
    pub fn new(dialer: Dialer, protocol: Protocol, per_connection: usize, path: &str) -> Self {
        Self {
            dialer,
            protocol,
            connector: protocol.connector(false),
            path: path.to_owned(),
            per_connection: per_connection.max(1),
            sessions: Mutex::default(),
        }
    }

    /// Makes the connection of stream `i` alone, as far as it needs no request.
    pub async fn connect(self: &Arc<Self>, i: usize) -> Result<Connected, Failure> {
        let to = if self.protocol.is_http2() {
            Connection::Http2(self.shared_session(i).await?)
        } else {
            Connection::Http1(self.transport(i).await?)
        };
        Ok(Connected { opener: self.clone(), to })
    }

    async fn transport(&self, i: usize) -> Result<Transport, Failure> {
        Transport::over(self.dialer.dial(i).await?, self.connector.as_ref()).await
    }

    /// The connection of stream `i`, which its first stream makes.
    async fn shared_session(&self, i: usize) -> Result<SendRequest<Bytes>, Failure> {
        if self.per_connection == 1 {
            return self.session(i).await;
        }
        let number = i / self.per_connection;
        let session = self.sessions.lock().expect("no panic inside").entry(number).or_default().clone();
        session.get_or_try_init(|| self.session(number)).await.cloned()
    }

    async fn session(&self, i: usize) -> Result<SendRequest<Bytes>, Failure> {
        let transport = self.transport(i).await?;
        let (requests, connection) = h2::client::Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .enable_push(false)
            .handshake(transport)
            .await
            .map_err(Failure::Http2)?;
        tokio::spawn(connection);
        Ok(requests)
    }
}

/// A connection that waits for a stream's request.
pub struct Connected {
    opener: Arc<Opener>,
    to: Connection,
}

enum Connection {
    Http1(Transport),
    Http2(SendRequest<Bytes>),
}

impl Connected {
    /// Sends the request.
    pub async fn start(self) -> Result<Stream, Failure> {
        let Opener { dialer, path, .. } = &*self.opener;
        match self.to {
            Connection::Http1(transport) => Stream::start(transport, &get(dialer.addr, path)).await,
            Connection::Http2(requests) => {
                let request = http::Request::get(format!("http://{}{path}", dialer.addr))
                    .header("accept", "text/event-stream")
                    .header("user-agent", "sseload")
                    .body(())
                    .expect("a request");
                let mut requests = requests.ready().await.map_err(Failure::Http2)?;
                let (response, _) = requests.send_request(request, true).map_err(Failure::Http2)?;
                Ok(Stream::of_http2(response))
            }
        }
    }
}
