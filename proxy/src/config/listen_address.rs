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
    /// On the socket with this name or number that the service manager passes.
    Passed(String),
}

impl ListenAddress {
    /// The address over TCP.
    #[must_use]
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(*address),
            Self::Unix(_) | Self::Passed(_) => None,
        }
    }

    /// The path of the socket file.
    #[must_use]
    pub fn unix(&self) -> Option<&Path> {
        match self {
            Self::Unix(path) => Some(path),
            Self::Tcp(_) | Self::Passed(_) => None,
        }
    }

    /// The name or number of a socket of the service manager.
    #[must_use]
    pub fn passed(&self) -> Option<&str> {
        match self {
            Self::Passed(name) => Some(name),
            Self::Tcp(_) | Self::Unix(_) => None,
        }
    }

    /// Whether no two sockets can listen on these addresses.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Tcp(one), Self::Tcp(other)) => overlap(*one, *other),
            (Self::Unix(one), Self::Unix(other)) => one == other,
            (Self::Passed(one), Self::Passed(other)) => one == other,
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
            Self::Passed(name) => write!(f, "fd:{name}"),
        }
    }
}

/// Reads the name or the number of a socket of the service manager.
pub(super) fn passed_socket(text: &str) -> Result<ListenAddress, String> {
    const RIGHT: &str = "write the name of the socket unit's FileDescriptorName=, such as \"fd:web\", or a \
                         number, such as \"fd:3\"";
    if text.is_empty()
        || !text
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b':')
    {
        return Err(format!("has no name of a passed socket; {RIGHT}"));
    }
    if text.parse().is_ok_and(|number: usize| number < 3) {
        return Err(format!("is below the first passed socket, 3; {RIGHT}"));
    }
    Ok(ListenAddress::Passed(text.to_owned()))
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
