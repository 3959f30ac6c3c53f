//! The lock that shows which process an address belongs to.

use super::unspecified::is_unspecified;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};

/// Held by the process that an address belongs to.
#[derive(Debug)]
pub(super) struct Lock {
    #[cfg(target_os = "linux")]
    _socket: std::os::unix::net::UnixDatagram,
}

impl Lock {
    pub(super) fn take(address: SocketAddr) -> io::Result<Self> {
        // One name for all addresses, as one process has the port of both families.
        let address = match is_unspecified(address) {
            true => SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port())),
            false => address,
        };
        Self::named(&format!("listen/{address}"))
    }

    #[cfg(target_os = "linux")]
    pub(super) fn named(name: &str) -> io::Result<Self> {
        use std::os::linux::net::SocketAddrExt;
        use std::os::unix::net::{SocketAddr as UnixAddr, UnixDatagram};
        let name = UnixAddr::from_abstract_name(format!("sse-guard/{name}"))?;
        Ok(Self {
            _socket: UnixDatagram::bind_addr(&name)?,
        })
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) fn named(_: &str) -> io::Result<Self> {
        Ok(Self {})
    }

    /// Whether another process holds it.
    pub(super) fn is_held(name: &str) -> bool {
        Self::named(name).is_err()
    }
}
