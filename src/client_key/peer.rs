//! The peer of a connection.

use super::ClientKey;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// The peer of a connection, an extension that a server adds to each request.
///
/// Insert it into the extensions of each request where the connection is known. It must be the address
/// of the socket (or of a PROXY protocol header from your own load balancer), never that of a header of
/// the request: all trust depends on it.
///
/// ```
/// use sse_guard::client_key::PeerAddr;
/// use std::net::SocketAddr;
///
/// let peer = PeerAddr::from(SocketAddr::from(([192, 0, 2, 1], 49152)));
/// assert_eq!(peer.ip(), Some([192, 0, 2, 1].into()));
/// assert_eq!(PeerAddr::unix().ip(), None);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerAddr(Option<SocketAddr>);

impl PeerAddr {
    /// A process of this machine, connected to a Unix socket: it has no address.
    #[must_use]
    pub const fn unix() -> Self {
        Self(None)
    }

    /// The IP address, if the peer has one.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        self.0.map(|address| address.ip())
    }

    /// The IP address and the port, if the peer has them.
    #[must_use]
    pub fn socket_addr(&self) -> Option<SocketAddr> {
        self.0
    }

    /// The key of a client that connects directly.
    pub(crate) fn key(self) -> ClientKey {
        match self.ip() {
            Some(ip) => ClientKey::Ip(ip.to_canonical()),
            None => ClientKey::Unix,
        }
    }
}

impl From<SocketAddr> for PeerAddr {
    fn from(address: SocketAddr) -> Self {
        Self(Some(address))
    }
}

/// The address and the port, or `unix:`.
impl fmt::Display for PeerAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(address) => address.fmt(f),
            None => f.write_str(UNIX),
        }
    }
}

/// The text in place of an address for a peer on a Unix socket.
pub(super) const UNIX: &str = "unix:";
