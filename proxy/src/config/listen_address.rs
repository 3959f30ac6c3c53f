//! Addresses to accept clients on.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

/// Where to accept clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// Over TCP.
    Tcp(SocketAddr),
    /// On the socket file at this path.
    Unix(PathBuf),
}

impl ListenAddress {
    /// The address over TCP.
    #[must_use]
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }

    /// The path of the socket file.
    #[must_use]
    pub fn unix(&self) -> Option<&Path> {
        match self {
            Self::Tcp(_) => None,
            Self::Unix(path) => Some(path),
        }
    }

    /// Whether no two sockets can listen on these addresses.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Tcp(one), Self::Tcp(other)) => overlap(*one, *other),
            (Self::Unix(one), Self::Unix(other)) => one == other,
            _ => false,
        }
    }
}

/// As in the config.
impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Whether no two sockets can listen on these addresses.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    // Port 0 is another one each time.
    if one.port() != other.port() || one.port() == 0 {
        return false;
    }
    let covers = |all: SocketAddr, one: SocketAddr| match all.ip() {
        IpAddr::V4(ip) => ip.is_unspecified() && one.is_ipv4(),
        // A socket for both families.
        IpAddr::V6(ip) => ip.is_unspecified(),
    };
    let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), one.port());
    let (one, other) = (canonical(one), canonical(other));
    one.ip() == other.ip() || covers(one, other) || covers(other, one)
}
