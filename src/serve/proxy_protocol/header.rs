//! The PROXY header, versions 1 and 2, by
//! [the specification](https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt).
//!
//! A function of bytes: the same bytes have one meaning, however they were cut into packets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const V1_START: &[u8] = b"PROXY ";
/// With its CRLF, by the specification.
const V1_MAX_LEN: usize = 107;
/// `PROXY UNKNOWN` and CRLF.
const MIN_LEN: usize = 15;
/// A port with all its digits.
const MAX_PORT_DIGITS: usize = 5;

/// Up to and with the length of what follows.
const V2_FIXED_LEN: usize = 16;
/// In all. Load balancers send less than 600 bytes, also with a certificate's name.
const V2_MAX_LEN: usize = 4096;
/// Type of a checksum (CRC-32C) over the header, in which it is zero.
const TLV_CRC32C: u8 = 3;

/// A header, or how much of it is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyHeader {
    /// At least this many more bytes belong to the header.
    Incomplete(usize),
    /// The header is complete.
    Complete {
        /// Its length. What follows it belongs to the connection.
        len: usize,
        /// The client. `None` if the connection is the own one of the sender, if it does not know the client, or if the client has
        /// no address.
        source: Option<SocketAddr>,
    },
}

/// Why bytes are not a PROXY header that is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyHeaderError {
    /// Neither version begins like this.
    #[error("no PROXY header")]
    Missing,
    /// A line of version 1 that does not follow its syntax.
    #[error("a malformed line of version 1")]
    Line,
    /// Longer than the limit.
    #[error("longer than {V1_MAX_LEN} bytes in version 1, or {V2_MAX_LEN} in version 2")]
    TooLong,
    /// A version, a command or an address family that does not exist.
    #[error("an unknown version, command or address family")]
    Unknown,
    /// Datagrams.
    #[error("a protocol other than a stream")]
    Datagram,
    /// The length does not fit the addresses, or that of a TLV the header.
    #[error("a length that does not match its content")]
    Length,
    /// The checksum does not match.
    #[error("a wrong checksum")]
    Checksum,
}

impl ProxyHeader {
    /// What a header of version 2 begins with.
    pub const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

    /// Parses the header at the start of `bytes`.
    ///
    /// # Errors
    ///
    /// As soon as the bytes cannot be the start of a header that is accepted.
    pub fn parse(bytes: &[u8]) -> Result<Self, ProxyHeaderError> {
        let begins = |start: &[u8]| {
            let len = start.len().min(bytes.len());
            bytes[..len] == start[..len]
        };
        if begins(V1_START) {
            parse_v1(bytes)
        } else if begins(ProxyHeader::V2_SIGNATURE) {
            parse_v2(bytes)
        } else {
            Err(ProxyHeaderError::Missing)
        }
    }
}

fn parse_v1(bytes: &[u8]) -> Result<ProxyHeader, ProxyHeaderError> {
    let head = &bytes[..bytes.len().min(V1_MAX_LEN)];
    let Some(end) = head.iter().position(|byte| matches!(byte, b'\r' | b'\n')) else {
        return match head.len() {
            V1_MAX_LEN => Err(ProxyHeaderError::TooLong),
            len => Ok(ProxyHeader::Incomplete(
                missing_in_line(head).max(MIN_LEN.saturating_sub(len)),
            )),
        };
    };
    match head[end..] {
        [b'\r', b'\n', ..] => {}
        [b'\r'] if head.len() == V1_MAX_LEN => return Err(ProxyHeaderError::TooLong),
        [b'\r'] => return Ok(ProxyHeader::Incomplete(1)),
        _ => return Err(ProxyHeaderError::Line),
    }
    let line = &head[V1_START.len()..end];
    Ok(ProxyHeader::Complete {
        len: end + 2,
        source: source_of_line(line).ok_or(ProxyHeaderError::Line)?,
    })
}

/// The least that a line without its end lacks: CRLF, and a blank and a digit for each address and port.
fn missing_in_line(line: &[u8]) -> usize {
    let fields = line.get(V1_START.len()..).unwrap_or_default();
    let is_tcp = fields.starts_with(b"TCP");
    let blanks = fields.iter().filter(|byte| **byte == b' ').count();
    let missing = if is_tcp {
        4_usize.saturating_sub(blanks)
    } else {
        0
    };
    2 * missing + 2
}

/// The client in a line between `PROXY ` and its end; `None` if the line is malformed.
fn source_of_line(line: &[u8]) -> Option<Option<SocketAddr>> {
    let mut fields = str::from_utf8(line).ok()?.split(' ');
    let family = fields.next()?;
    if family == "UNKNOWN" {
        // What stands behind it is to be ignored.
        return Some(None);
    }
    let address = |text: &str| -> Option<IpAddr> {
        match family {
            "TCP4" => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
            "TCP6" => text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
            _ => None,
        }
    };
    let (source, _) = (address(fields.next()?)?, address(fields.next()?)?);
    let (port, _) = (port(fields.next()?)?, port(fields.next()?)?);
    fields
        .next()
        .is_none()
        .then(|| Some(SocketAddr::new(source, port)))
}

/// Decimal, without a sign and without leading zeros.
fn port(text: &str) -> Option<u16> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit()) && text.len() <= MAX_PORT_DIGITS;
    let is_canonical = text == "0" || !text.starts_with('0');
    text.parse().ok().filter(|_| is_number && is_canonical)
}

fn parse_v2(bytes: &[u8]) -> Result<ProxyHeader, ProxyHeaderError> {
    let [version_and_command, family_and_protocol, high, low] = match bytes.get(12..V2_FIXED_LEN) {
        Some(&[a, b, c, d]) => [a, b, c, d],
        _ => {
            // Bad ones are reported as soon as they are there.
            check_v2(bytes.get(12), bytes.get(13))?;
            return Ok(ProxyHeader::Incomplete(
                V2_FIXED_LEN.saturating_sub(bytes.len()),
            ));
        }
    };
    let has_address = check_v2(Some(&version_and_command), Some(&family_and_protocol))?;
    let len = V2_FIXED_LEN + usize::from(u16::from_be_bytes([high, low]));
    if len > V2_MAX_LEN {
        return Err(ProxyHeaderError::TooLong);
    }
    let address_len = match (has_address, family_and_protocol >> 4) {
        (true, 1) => 2 * (4 + 2),
        (true, 2) => 2 * (16 + 2),
        (true, 3) => 2 * 108,
        _ => 0,
    };
    if len < V2_FIXED_LEN + address_len {
        return Err(ProxyHeaderError::Length);
    }
    let Some(header) = bytes.get(..len) else {
        return Ok(ProxyHeader::Incomplete(len - bytes.len()));
    };
    let (addresses, tlvs) = header[V2_FIXED_LEN..].split_at(address_len);
    if has_address {
        check_tlvs(header, tlvs)?;
    }
    let source = match *addresses {
        [a, b, c, d, _, _, _, _, high, low, _, _] => Some(SocketAddr::from((
            [a, b, c, d],
            u16::from_be_bytes([high, low]),
        ))),
        _ if address_len == 36 => {
            let address = <[u8; 16]>::try_from(&addresses[..16]).unwrap_or_default();
            let port = u16::from_be_bytes([addresses[32], addresses[33]]);
            Some(SocketAddr::from((address, port)))
        }
        // A Unix socket of the sender's machine.
        _ => None,
    };
    Ok(ProxyHeader::Complete { len, source })
}

/// Checks the bytes that are there. Returns whether an address follows.
fn check_v2(
    version_and_command: Option<&u8>,
    family_and_protocol: Option<&u8>,
) -> Result<bool, ProxyHeaderError> {
    let is_local = match version_and_command {
        None | Some(0x21) => false,
        Some(0x20) => true,
        Some(_) => return Err(ProxyHeaderError::Unknown),
    };
    match family_and_protocol {
        // The connection is the sender's own: a health check.
        _ if is_local => Ok(false),
        None => Ok(false),
        Some(both) => match (both >> 4, both & 0xF) {
            (0..=3, 2) => Err(ProxyHeaderError::Datagram),
            (0, 0..=1) | (1..=3, 0) => Ok(false),
            (1..=3, 1) => Ok(true),
            _ => Err(ProxyHeaderError::Unknown),
        },
    }
}

/// Skips all but a checksum.
fn check_tlvs(header: &[u8], mut tlvs: &[u8]) -> Result<(), ProxyHeaderError> {
    while let [kind, high, low, rest @ ..] = tlvs {
        let len = usize::from(u16::from_be_bytes([*high, *low]));
        let value = rest.get(..len).ok_or(ProxyHeaderError::Length)?;
        tlvs = &rest[len..];
        if *kind != TLV_CRC32C {
            continue;
        }
        let expected = <[u8; 4]>::try_from(value).map_err(|_| ProxyHeaderError::Length)?;
        let end = header.len() - tlvs.len();
        let covered = [&header[..end - 4], &[0; 4], &header[end..]];
        if crc32c(covered.into_iter().flatten()) != u32::from_be_bytes(expected) {
            return Err(ProxyHeaderError::Checksum);
        }
    }
    match tlvs {
        [] => Ok(()),
        _ => Err(ProxyHeaderError::Length),
    }
}

/// CRC-32C (Castagnoli, RFC 3720 appendix B.4), bit by bit: few senders have one, and once a connection.
fn crc32c<'a>(bytes: impl Iterator<Item = &'a u8>) -> u32 {
    const POLYNOMIAL: u32 = 0x82F6_3B78;
    !bytes.fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (POLYNOMIAL * (crc & 1))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header of version 2 with these addresses and TLVs.
    fn v2(version_and_command: u8, family: u8, content: &[u8]) -> Vec<u8> {
        let len = u16::try_from(content.len()).unwrap().to_be_bytes();
        let fixed = [&[version_and_command, family][..], &len].concat();
        [ProxyHeader::V2_SIGNATURE, &fixed, content].concat()
    }

    const IPV4: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 1, 0xC0, 0x00, 0x01, 0xBB];

    fn ipv6() -> Vec<u8> {
        let address = |text: &str| text.parse::<Ipv6Addr>().unwrap().octets();
        let (source, destination) = (address("2001:db8::1"), address("2001:db8::2"));
        [&source[..], &destination, &[0xC0, 0, 1, 0xBB]].concat()
    }

    fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
        let len = u16::try_from(value.len()).unwrap().to_be_bytes();
        [&[kind][..], &len, value].concat()
    }

    /// The result for the header at the start of a connection, byte by byte: the sender that it names.
    fn source(header: &[u8]) -> Result<Option<String>, ProxyHeaderError> {
        let connection = [header, b"GET / HTTP/1.1\r\n"].concat();
        let mut result = None;
        for end in 0..=connection.len() {
            match ProxyHeader::parse(&connection[..end]) {
                Ok(ProxyHeader::Incomplete(missing)) => {
                    assert!(result.is_none(), "a result does not change");
                    assert!(
                        missing > 0 && end + missing <= header.len(),
                        "{end} {missing}"
                    );
                }
                Ok(ProxyHeader::Complete { len, source }) => {
                    assert_eq!(len, header.len());
                    assert!(end >= len);
                    let source = Ok(source.map(|source| source.to_string()));
                    assert_eq!(*result.get_or_insert(source.clone()), source);
                }
                Err(error) => assert_eq!(*result.get_or_insert(Err(error)), Err(error)),
            }
        }
        result.unwrap()
    }

    #[test]
    fn header_of_version_1_names_the_client_of_a_tcp_connection() {
        for (line, expected) in [
            (
                "PROXY TCP4 192.0.2.1 198.51.100.1 49152 443",
                Some("192.0.2.1:49152"),
            ),
            ("PROXY TCP4 1.1.1.1 2.2.2.2 0 1", Some("1.1.1.1:0")),
            (
                "PROXY TCP6 2001:db8::1 2001:db8::2 65535 443",
                Some("[2001:db8::1]:65535"),
            ),
            (
                "PROXY TCP6 ::ffff:192.0.2.1 ::1 1 1",
                Some("[::ffff:192.0.2.1]:1"),
            ),
            ("PROXY UNKNOWN", None),
            ("PROXY UNKNOWN ffff::1 ffff::2 65535 65535", None),
        ] {
            let found = source(format!("{line}\r\n").as_bytes());
            assert_eq!(found, Ok(expected.map(str::to_owned)), "{line}");
        }
        let longest = format!("PROXY UNKNOWN {}\r\n", "x".repeat(V1_MAX_LEN - 16));
        assert_eq!(longest.len(), V1_MAX_LEN);
        assert_eq!(source(longest.as_bytes()), Ok(None));
    }

    #[test]
    fn header_of_version_1_with_another_syntax_is_refused() {
        use ProxyHeaderError::{Line, Missing, TooLong};
        let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(V1_MAX_LEN - 15));
        for (bytes, error) in [
            ("GET / HTTP/1.1\r\n\r\n", Missing),
            ("proxy TCP4 1.1.1.1 2.2.2.2 1 1\r\n", Missing),
            ("PROXY  TCP4 1.1.1.1 2.2.2.2 1 1\r\n", Line),
            ("PROXY TCP4 1.1.1.1 2.2.2.2 1 1\n", Line),
            ("PROXY TCP4 1.1.1.1 2.2.2.2 1 1\r \n", Line),
            ("PROXY TCP4 1.1.1.1 2.2.2.2 1\r\n", Line),
            ("PROXY TCP4 1.1.1.1 2.2.2.2 1 1 1\r\n", Line),
            ("PROXY TCP4 1.1.1.1 2.2.2.2 1 1 \r\n", Line),
            ("PROXY TCP4 1.1.1.1 2.2.2.2 01 1\r\n", Line),
            ("PROXY TCP4 1.1.1.1 2.2.2.2 +1 1\r\n", Line),
            ("PROXY TCP4 1.1.1.1 2.2.2.2 65536 1\r\n", Line),
            ("PROXY TCP4 1.1.1.01 2.2.2.2 1 1\r\n", Line),
            ("PROXY TCP4 ::1 ::2 1 1\r\n", Line),
            ("PROXY TCP6 1.1.1.1 2.2.2.2 1 1\r\n", Line),
            ("PROXY TCP6 fe80::1%eth0 ::1 1 1\r\n", Line),
            ("PROXY UDP4 1.1.1.1 2.2.2.2 1 1\r\n", Line),
            ("PROXY tcp4 1.1.1.1 2.2.2.2 1 1\r\n", Line),
            ("PROXY \r\n", Line),
            (&long, TooLong),
        ] {
            let found = ProxyHeader::parse(bytes.as_bytes());
            assert_eq!(found, Err(error), "{bytes:?}");
        }
    }

    #[test]
    fn header_of_version_2_names_the_client_of_a_stream() {
        let first = Some("192.0.2.1:49152".to_owned());
        assert_eq!(source(&v2(0x21, 0x11, &IPV4)), Ok(first.clone()));
        let second = Some("[2001:db8::1]:49152".to_owned());
        assert_eq!(source(&v2(0x21, 0x21, &ipv6())), Ok(second));
        // TLVs: the name of a host, and one of a type that does not exist yet.
        let more = [&IPV4[..], &tlv(2, b"example.org"), &tlv(0xEE, b"")].concat();
        assert_eq!(source(&v2(0x21, 0x11, &more)), Ok(first));
        for (command, family, content) in [
            // Health checks, whatever else the header contains.
            (0x20, 0x00, &[][..]),
            (0x20, 0x11, &IPV4),
            (0x20, 0xFF, &[1, 2, 3]),
            // Clients without an address.
            (0x21, 0x00, &[]),
            (0x21, 0x00, &[9; 20]),
            (0x21, 0x31, &[b'/'; 216]),
        ] {
            assert_eq!(source(&v2(command, family, content)), Ok(None));
        }
    }

    #[test]
    fn header_of_version_2_that_is_not_that_of_a_stream_is_refused() {
        use ProxyHeaderError::{Datagram, Length, TooLong, Unknown};
        let over = [&IPV4[..], &[2, 0, 9, 1]].concat();
        let rest = [&IPV4[..], &[2, 0]].concat();
        let long = vec![0; V2_MAX_LEN - V2_FIXED_LEN + 1];
        for (command, family, content, error) in [
            (0x11, 0x11, &IPV4[..], Unknown),
            (0x22, 0x11, &IPV4, Unknown),
            (0x21, 0x12, &IPV4, Datagram),
            (0x21, 0x22, &IPV4, Datagram),
            (0x21, 0x32, &IPV4, Datagram),
            (0x21, 0x41, &IPV4, Unknown),
            (0x21, 0x13, &IPV4, Unknown),
            (0x21, 0x11, &IPV4[..11], Length),
            (0x21, 0x21, &IPV4, Length),
            (0x21, 0x11, &over, Length),
            (0x21, 0x11, &rest, Length),
            (0x21, 0x11, &long, TooLong),
        ] {
            assert_eq!(
                ProxyHeader::parse(&v2(command, family, content)),
                Err(error),
                "{command:x} {family:x}"
            );
        }
        let longest = [&IPV4[..], &tlv(4, &vec![0; V2_MAX_LEN - 16 - 12 - 3])].concat();
        assert!(source(&v2(0x21, 0x11, &longest)).is_ok());
    }

    #[test]
    fn checksum_of_a_header_is_verified() {
        // The check value of the algorithm.
        assert_eq!(crc32c(b"123456789".iter()), 0xE306_9283);
        for behind in [&[][..], &tlv(2, b"example.org")] {
            let with = |checksum: u32| {
                let content = [&IPV4[..], &tlv(TLV_CRC32C, &checksum.to_be_bytes()), behind];
                v2(0x21, 0x11, &content.concat())
            };
            let checksum = crc32c(with(0).iter());
            assert!(source(&with(checksum)).unwrap().is_some());
            let error = Err(ProxyHeaderError::Checksum);
            assert_eq!(ProxyHeader::parse(&with(checksum ^ 1)), error);
        }
        let short = [&IPV4[..], &tlv(TLV_CRC32C, &[0; 3])].concat();
        let error = Err(ProxyHeaderError::Length);
        assert_eq!(ProxyHeader::parse(&v2(0x21, 0x11, &short)), error);
    }
}
