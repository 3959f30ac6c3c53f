//! Any bytes as the start of a connection with a PROXY header: the parser does not panic, has one result however the
//! bytes are cut, never requests a byte behind the header, and agrees with another parser, `ppp`.
//!
//! What `ppp` accepts and we do not: datagrams, more than 4 KiB, TLVs that overrun the header, wrong checksums, bytes
//! that are not UTF-8 behind `UNKNOWN`. What we accept and it does not: a family of addresses that does not matter, as
//! of `LOCAL`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ppp::{HeaderResult, PartialResult, v1, v2};
use sse_guard::internal::{ProxyHeader, ProxyHeaderError};
use std::net::SocketAddr;

fuzz_target!(|bytes: &[u8]| {
    let whole = ProxyHeader::parse(bytes);
    is_read_without_overrun(bytes, whole);
    // What follows the header makes no difference.
    if let Ok(ProxyHeader::Complete { len, .. }) = whole {
        assert!(len <= bytes.len() && len <= 4096);
        assert_eq!(ProxyHeader::parse(&bytes[..len]), whole);
        for end in 0..len {
            assert!(matches!(
                ProxyHeader::parse(&bytes[..end]),
                Ok(ProxyHeader::Incomplete(_))
            ));
        }
        is_agreed(&bytes[..len], whole);
    }
});

/// As a connection reads it.
fn is_read_without_overrun(bytes: &[u8], whole: Result<ProxyHeader, ProxyHeaderError>) {
    let mut end = 0;
    loop {
        match ProxyHeader::parse(&bytes[..end]) {
            Ok(ProxyHeader::Incomplete(missing)) => {
                assert!(missing > 0);
                if end + missing > bytes.len() {
                    // More is needed than there is: so it must be with all bytes.
                    assert!(!matches!(whole, Ok(ProxyHeader::Complete { .. })));
                    return;
                }
                end += missing;
            }
            Ok(ProxyHeader::Complete { len, source }) => {
                assert_eq!(len, end, "no byte behind the header is read");
                assert_eq!(whole, Ok(ProxyHeader::Complete { len, source }));
                return;
            }
            Err(error) => {
                assert_eq!(whole, Err(error));
                return;
            }
        }
    }
}

fn is_agreed(header: &[u8], ours: Result<ProxyHeader, ProxyHeaderError>) {
    let Ok(ProxyHeader::Complete { source, .. }) = ours else {
        return;
    };
    let theirs = HeaderResult::parse(header);
    if !theirs.is_complete() {
        assert!(source.is_none(), "{header:?}");
        return;
    }
    let theirs = match theirs {
        HeaderResult::V1(Ok(header)) => match header.addresses {
            v1::Addresses::Tcp4(it) => Some(SocketAddr::from((it.source_address, it.source_port))),
            v1::Addresses::Tcp6(it) => Some(SocketAddr::from((it.source_address, it.source_port))),
            v1::Addresses::Unknown => None,
        },
        HeaderResult::V2(Ok(header)) if header.command == v2::Command::Local => None,
        HeaderResult::V2(Ok(header)) if header.protocol != v2::Protocol::Stream => None,
        HeaderResult::V2(Ok(header)) => match header.addresses {
            v2::Addresses::IPv4(it) => Some(SocketAddr::from((it.source_address, it.source_port))),
            v2::Addresses::IPv6(it) => Some(SocketAddr::from((it.source_address, it.source_port))),
            _ => None,
        },
        _ => {
            assert!(source.is_none(), "{header:?}");
            return;
        }
    };
    assert_eq!(source, theirs);
}
