//! The PROXY header that connections to an upstream begin with, by option.

use crate::config::ProxyVersion;
use sse_guard::client_key::{ClientKey, PeerAddr};
use sse_guard::internal::ProxyHeader;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// The address of the client that limits count. Its port is known if it is the peer.
pub(super) fn source(client: Option<&ClientKey>, peer: Option<&PeerAddr>) -> Option<SocketAddr> {
    let Some(ClientKey::Ip(client)) = client else {
        return None;
    };
    let peer = peer.and_then(PeerAddr::socket_addr);
    let peer = peer.filter(|peer| peer.ip().to_canonical() == *client);
    Some(SocketAddr::new(*client, peer.map_or(0, |peer| peer.port())))
}

/// The header for this client. `None`: a connection of the proxy's own, or a client without an address.
pub(super) fn encode(
    version: ProxyVersion,
    source: Option<SocketAddr>,
    destination: Option<SocketAddr>,
) -> Vec<u8> {
    let pair = source.map(|source| of_one_family(source, destination));
    match version {
        ProxyVersion::V1 => match pair {
            None => b"PROXY UNKNOWN\r\n".to_vec(),
            Some((source, destination)) => {
                let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
                let addresses = format!("{} {}", source.ip(), destination.ip());
                let ports = format!("{} {}", source.port(), destination.port());
                format!("PROXY {family} {addresses} {ports}\r\n").into_bytes()
            }
        },
        ProxyVersion::V2 => {
            // PROXY with an unspecified family: LOCAL is for connections without a client.
            let (family, len) = match pair {
                None => (0x00, 0),
                Some((SocketAddr::V4(_), _)) => (0x11, 12),
                Some((SocketAddr::V6(_), _)) => (0x21, 36),
            };
            let mut header = [ProxyHeader::V2_SIGNATURE, &[0x21, family, 0, len]].concat();
            if let Some((source, destination)) = pair {
                for ip in [source.ip(), destination.ip()] {
                    match ip {
                        IpAddr::V4(ip) => header.extend(ip.octets()),
                        IpAddr::V6(ip) => header.extend(ip.octets()),
                    }
                }
                for port in [source.port(), destination.port()] {
                    header.extend(port.to_be_bytes());
                }
            }
            header
        }
    }
}

/// Both in IPv6 if they differ. A destination that has no address, as a Unix socket, is unspecified.
fn of_one_family(source: SocketAddr, destination: Option<SocketAddr>) -> (SocketAddr, SocketAddr) {
    let unspecified = || SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 0);
    match (source, destination) {
        (SocketAddr::V4(_), Some(destination @ SocketAddr::V4(_)))
        | (SocketAddr::V6(_), Some(destination @ SocketAddr::V6(_))) => (source, destination),
        (SocketAddr::V4(_), None) => (source, SocketAddr::from(([0, 0, 0, 0], 0))),
        (source, destination) => {
            let mapped = |address: SocketAddr| match address.ip() {
                IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
                IpAddr::V6(_) => address,
            };
            (
                mapped(source),
                mapped(destination.unwrap_or_else(unspecified)),
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxy_header_names_the_client_in_each_version() {
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        for (source, destination, expected) in [
            (
                Some("192.0.2.1:49152"),
                Some("198.51.100.1:80"),
                "192.0.2.1:49152",
            ),
            (
                Some("[2001:db8::1]:1"),
                Some("[2001:db8::2]:80"),
                "[2001:db8::1]:1",
            ),
            (
                Some("192.0.2.1:1"),
                Some("[2001:db8::2]:80"),
                "[::ffff:192.0.2.1]:1",
            ),
            (
                Some("[2001:db8::1]:1"),
                Some("198.51.100.1:80"),
                "[2001:db8::1]:1",
            ),
            (Some("192.0.2.1:1"), None, "192.0.2.1:1"),
            (Some("[2001:db8::1]:1"), None, "[2001:db8::1]:1"),
            (None, Some("198.51.100.1:80"), ""),
        ] {
            for version in [ProxyVersion::V1, ProxyVersion::V2] {
                let header = encode(version, source.map(address), destination.map(address));
                let Ok(ProxyHeader::Complete { len, source }) = ProxyHeader::parse(&header) else {
                    panic!("{header:?}");
                };
                assert_eq!(len, header.len());
                let source = source.map(|source| source.to_string());
                assert_eq!(source.unwrap_or_default(), expected, "{version:?}");
            }
        }
        let v1 = encode(
            ProxyVersion::V1,
            Some(address("1.1.1.1:1")),
            Some(address("2.2.2.2:2")),
        );
        assert_eq!(v1, b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n");
    }

    #[test]
    fn proxy_header_has_the_port_of_a_client_that_is_the_peer() {
        let peer = PeerAddr::from(SocketAddr::from(([192, 0, 2, 1], 49152)));
        let client = |last: u8| ClientKey::Ip([192, 0, 2, last].into());
        let of = |client: Option<ClientKey>| {
            source(client.as_ref(), Some(&peer)).map(|source| source.to_string())
        };
        assert_eq!(of(Some(client(1))).as_deref(), Some("192.0.2.1:49152"));
        assert_eq!(of(Some(client(2))).as_deref(), Some("192.0.2.2:0"));
        assert_eq!(of(Some(ClientKey::Unix)), None);
        assert_eq!(of(None), None);
    }
}
