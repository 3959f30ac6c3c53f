//! State that a service attaches to a client's connection.

use super::client_io::{ClientIo, ClientSocket};
#[cfg(feature = "http2")]
use super::http2::InterimHeads;
use crate::client_key::{ClientKey, PeerAddr};
use http::{Extensions, HeaderMap, StatusCode};
#[cfg(feature = "tls")]
use rustls::pki_types::CertificateDer;
use std::any::Any;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use tokio::task::AbortHandle;

/// State of a service for one client's connection, dropped with it.
pub trait Attachment: Any + Send + Sync {
    /// Ready when the connection must not serve another request.
    fn poll_closing(&self, cx: &mut Context<'_>) -> Poll<()>;

    /// Returns true if the connection must not serve another request.
    fn is_closing(&self) -> bool;
}

/// Extension of a request: a weak handle to the connection that it was received on.
#[derive(Clone, Debug)]
pub struct ClientConnection {
    socket: Weak<ClientSocket>,
    /// Where the interim heads of a request over HTTP/2 go.
    #[cfg(feature = "http2")]
    http2: Option<Weak<InterimHeads>>,
}

impl ClientConnection {
    pub(super) fn of(io: &ClientIo) -> Self {
        Self {
            socket: io.downgrade(),
            #[cfg(feature = "http2")]
            http2: None,
        }
    }

    /// Of a request over HTTP/2.
    #[cfg(feature = "http2")]
    pub(super) fn with_interim_heads(mut self, heads: &Arc<InterimHeads>) -> Self {
        self.http2 = Some(Arc::downgrade(heads));
        self
    }

    /// Adds the extensions that each request of the connection has.
    pub(super) fn insert_into(self, extensions: &mut Extensions, peer: PeerAddr) {
        extensions.insert(peer);
        extensions.insert(self);
        #[cfg(feature = "axum")]
        if let Some(address) = peer.socket_addr() {
            extensions.insert(axum::extract::ConnectInfo(address));
        }
    }

    /// Returns true if the connection carries the responses to several requests at a time: what is read for this one
    /// is written with theirs.
    pub fn is_shared(&self) -> bool {
        #[cfg(feature = "http2")]
        return self.http2.is_some();
        #[cfg(not(feature = "http2"))]
        false
    }

    /// The socket, if this request has the whole connection: a connection of HTTP/2 has other requests at any time.
    fn exclusive_socket(&self) -> Option<Arc<ClientSocket>> {
        if self.is_shared() {
            return None;
        }
        self.socket.upgrade()
    }

    /// Returns the certificate that the client has proved to have in the handshake of TLS: that of the connection, and
    /// so of each of its requests.
    #[cfg(feature = "tls")]
    pub fn client_certificate(&self) -> Option<CertificateDer<'static>> {
        self.socket.upgrade()?.peer_certificate()
    }

    /// Sets the client of the connection's request; `None` if no limit applies to it.
    pub(crate) fn set_client(&self, client: Option<ClientKey>) {
        if let Some(socket) = self.socket.upgrade() {
            socket.entry().set_client(client);
        }
    }

    /// Sets the task that runs the connection after it has switched protocols.
    pub fn set_task(&self, task: AbortHandle) {
        if let Some(socket) = self.exclusive_socket() {
            socket.entry().set_task(task);
        }
    }

    /// Sends an interim head, or drops it: if the response is known, if the client's HTTP version has no interim
    /// heads, or if the client does not read.
    pub fn send_interim(&self, status: StatusCode, headers: &HeaderMap) {
        #[cfg(feature = "http2")]
        if let Some(heads) = &self.http2 {
            if let Some(heads) = heads.upgrade() {
                heads.push(status, headers);
            }
            return;
        }
        if let Some(socket) = self.socket.upgrade() {
            socket.push_interim(status, headers);
        }
    }

    /// Returns the attachment of the connection; `None` for a request over HTTP/2.
    pub fn attached<T: Attachment>(&self) -> Option<Arc<T>> {
        downcast(self.exclusive_socket()?.attachment()?)
    }

    /// Returns the attachment, made if there is none; `None` if the connection has ended, and for a request over HTTP/2.
    pub fn attach<T: Attachment + Default>(&self) -> Option<Arc<T>> {
        let socket = self.exclusive_socket()?;
        downcast(socket.attach(|| Arc::new(T::default())))
    }
}

fn downcast<T: Attachment>(attachment: Arc<dyn Attachment>) -> Option<Arc<T>> {
    let any: Arc<dyn Any + Send + Sync> = attachment;
    any.downcast().ok()
}
