//! Clients that connect over TLS.

use super::Listener;
use crate::client_key::PeerAddr;
use crate::serve::Io;
use rustls::ServerConfig;
use std::io;
use std::sync::Arc;

/// A listener whose clients connect over TLS 1.2 or 1.3, by rustls.
///
/// The handshake is a part of the wait for the first request: [`Server::head_timeout`](crate::serve::Server::head_timeout)
/// bounds it, and no client holds up another. While nothing is sent, a connection holds no buffer.
///
/// The protocols to offer in [`ServerConfig::alpn_protocols`] are `http/1.1`, and before it `h2` if the server accepts
/// HTTP/2 (feature `http2`). To replace certificates while the server runs, implement
/// [`ResolvesServerCert`](rustls::server::ResolvesServerCert). Early data (0-RTT) is never accepted, as it can be
/// replayed.
///
/// ```no_run
/// use rustls::pki_types::pem::PemObject;
/// use rustls::pki_types::{CertificateDer, PrivateKeyDer};
/// use sse_guard::serve::{Server, TlsListener};
/// use std::sync::Arc;
/// # async fn run(app: axum::Router) -> Result<(), Box<dyn std::error::Error>> {
/// let chain = CertificateDer::pem_file_iter("chain.pem")?.collect::<Result<_, _>>()?;
/// let key = PrivateKeyDer::from_pem_file("key.pem")?;
/// let mut config = rustls::ServerConfig::builder()
///     .with_no_client_auth()
///     .with_single_cert(chain, key)?;
/// config.alpn_protocols = vec![b"http/1.1".to_vec()];
///
/// let listener = tokio::net::TcpListener::bind("0.0.0.0:443").await?;
/// Server::new().serve(TlsListener::new(listener, Arc::new(config)), app).await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct TlsListener<L> {
    inner: L,
    config: Arc<ServerConfig>,
}

impl<L> TlsListener<L> {
    /// TLS for the connections of `inner`.
    pub fn new(inner: L, config: Arc<ServerConfig>) -> Self {
        Self { inner, config }
    }

    /// The listener below TLS.
    pub fn get_ref(&self) -> &L {
        &self.inner
    }

    /// The listener below TLS.
    pub fn into_inner(self) -> L {
        self.inner
    }
}

impl<L: Listener> Listener for TlsListener<L> {
    type Io = Io;

    async fn accept(&self) -> io::Result<(Io, PeerAddr)> {
        let (io, peer) = self.inner.accept().await?;
        let io = io.into().accept_tls(self.config.clone());
        Ok((io.map_err(io::Error::other)?, peer))
    }
}
