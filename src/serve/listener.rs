//! Sources of connections.

mod tcp;
#[cfg(feature = "tls")]
mod tls;
#[cfg(unix)]
mod unix;

#[cfg(feature = "tls")]
pub use tls::TlsListener;

use super::io::Io;
use crate::client_key::PeerAddr;
use std::future::Future;
use std::io;

/// A source of connections for a [`Server`](super::Server).
///
/// Implemented for the listeners of tokio. A custom listener may accept from several of them, or limit what it
/// accepts:
///
/// ```
/// use sse_guard::client_key::PeerAddr;
/// use sse_guard::serve::{Io, Listener};
/// use tokio::net::{TcpListener, UnixListener};
///
/// /// Clients of the network and processes of this machine.
/// struct Both(TcpListener, UnixListener);
///
/// impl Listener for Both {
///     type Io = Io;
///
///     async fn accept(&self) -> std::io::Result<(Io, PeerAddr)> {
///         tokio::select! {
///             accepted = Listener::accept(&self.0) => accepted.map(|(io, peer)| (io.into(), peer)),
///             accepted = Listener::accept(&self.1) => accepted.map(|(io, peer)| (io.into(), peer)),
///         }
///     }
/// }
/// ```
pub trait Listener: Send + Sync {
    /// The type of an accepted connection.
    type Io: Into<Io> + Send;

    /// Accepts the next connection.
    ///
    /// Must be cancel safe: dropping the future must not lose a connection.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Io, PeerAddr)>> + Send;
}
