//! The address that stands for all interfaces.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

/// All addresses are those of IPv4 where the kernel has no IPv6 (`ipv6.disable=1`, some containers).
///
/// Returns the address of the last attempt with its result.
pub(super) fn with_fallback<T>(
    address: SocketAddr,
    bind: impl Fn(SocketAddr) -> io::Result<T>,
) -> (SocketAddr, io::Result<T>) {
    let error = match bind(address) {
        Err(error) if is_unspecified(address) => error,
        result => return (address, result),
    };
    // These are about the port.
    let of_port = [io::ErrorKind::AddrInUse, io::ErrorKind::PermissionDenied];
    if of_port.contains(&error.kind()) {
        return (address, Err(error));
    }
    let v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port()));
    let result = bind(v4);
    if result.is_ok() {
        tracing::info!("IPv6 is not available ({error}): listening on {v4} instead of {address}");
    }
    (v4, result)
}

/// Whether the address is that of a socket for both families.
pub(super) fn is_unspecified(address: SocketAddr) -> bool {
    address.ip() == Ipv6Addr::UNSPECIFIED
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unspecified_address_is_that_of_ipv4_without_ipv6() {
        let all = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 80));
        let v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 80));
        let loopback = SocketAddr::from((Ipv6Addr::LOCALHOST, 80));
        // EAFNOSUPPORT has no kind of its own.
        let other = io::ErrorKind::Other;
        for (address, error, used, is_bound) in [
            (all, other, v4, true),
            (all, io::ErrorKind::AddrNotAvailable, v4, true),
            (all, io::ErrorKind::AddrInUse, all, false),
            (all, io::ErrorKind::PermissionDenied, all, false),
            (loopback, other, loopback, false),
            (v4, other, v4, true),
        ] {
            let (last, result) = with_fallback(address, |address| match address {
                SocketAddr::V4(_) => Ok(()),
                SocketAddr::V6(_) => Err(error.into()),
            });
            assert_eq!(
                (last, result.is_ok()),
                (used, is_bound),
                "{address} {error}"
            );
        }
    }
}
