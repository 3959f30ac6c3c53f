//! Any bytes in the forwarded headers: `client_key::ForwardedIp` never panics, believes nobody who is
//! not trusted, lets nothing to the left change what trusted proxies wrote to the right, and reads
//! well-formed headers as a plain reader from the left does.
//!
//! The input is lines. The first: `f` to believe `Forwarded`, anything else for `X-Forwarded-For`; a
//! byte that picks the trusted networks; the peer's address. Each further line is one of the header
//! that is believed, or with `!` before it of the other.

#![no_main]

use http::{HeaderName, HeaderValue, Request};
use ipnet::IpNet;
use libfuzzer_sys::fuzz_target;
use sse_guard::client_key::{
    ClientKey, ForwardedHeader, ForwardedIp, KeyExtractor, PeerAddr, PeerIp,
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// As documented: the 64th entry stands for the rest.
const MAX_HOPS: usize = 64;

const TRUSTED: [&[&str]; 4] = [
    &["10.0.0.0/8", "2001:db8:aaaa::/48", "192.0.2.200/32"],
    &["0.0.0.0/0", "::/0"],
    &["127.0.0.1/32"],
    &[],
];

const NAMES: [HeaderName; 2] = [
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("forwarded"),
];

fuzz_target!(|input: &[u8]| {
    let mut lines = input.split(|&byte| byte == b'\n');
    let first = lines.next().unwrap_or_default();
    let (header, name, other) = match first.first() {
        Some(b'f') => (ForwardedHeader::Forwarded, &NAMES[1], &NAMES[0]),
        _ => (ForwardedHeader::XForwardedFor, &NAMES[0], &NAMES[1]),
    };
    let choice = first.get(1).copied().unwrap_or_default();
    let trusted: Vec<IpNet> = TRUSTED[usize::from(choice) % TRUSTED.len()]
        .iter()
        .map(|network| network.parse().unwrap())
        .collect();
    let peer = first
        .get(2..)
        .and_then(|text| std::str::from_utf8(text).ok()?.trim().parse().ok())
        .unwrap_or(IpAddr::from([10, 0, 0, 1]));

    let (mut believed, mut others) = (Vec::new(), Vec::new());
    for line in lines {
        let (list, line) = match line.strip_prefix(b"!") {
            Some(line) => (&mut others, line),
            None => (&mut believed, line),
        };
        list.extend(HeaderValue::from_bytes(line));
    }
    let request = |believed: &[HeaderValue], others: &[HeaderValue]| {
        let mut request = Request::new(());
        request
            .extensions_mut()
            .insert(PeerAddr::from(SocketAddr::new(peer, 49152)));
        for (name, lines) in [(name, believed), (other, others)] {
            for line in lines {
                request.headers_mut().append(name, line.clone());
            }
        }
        request
    };
    let extractor = ForwardedIp::new(trusted.iter().copied()).header(header);
    let whole = request(&believed, &others);
    let key = ip(&extractor, &whole);

    // Who is not trusted is who it is.
    let canonical = peer.to_canonical();
    assert_eq!(ip(&PeerIp::new(), &whole), canonical);
    assert_eq!(ip(&ForwardedIp::new([]).header(header), &whole), canonical);
    let is_trusted = |ip: IpAddr| trusted.iter().any(|network| network.contains(&ip));
    assert_eq!(extractor.is_trusted(peer), is_trusted(canonical));
    if !is_trusted(canonical) {
        assert_eq!(key, canonical);
        return;
    }
    // The other header tells nothing.
    assert_eq!(ip(&extractor, &request(&believed, &[])), key);

    if let Some(hops) = hops(header, &believed) {
        let mut client = canonical;
        for hop in hops.iter().rev().take(MAX_HOPS) {
            let Some(hop) = *hop else { break };
            client = hop;
            if !is_trusted(hop) {
                break;
            }
        }
        assert_eq!(key, client);
    }

    // All that came is the client's text; a proxy puts the truth behind it.
    let appended = match header {
        ForwardedHeader::Forwarded => r#"host="\",\\";for=203.0.113.7"#,
        _ => "203.0.113.7",
    };
    let expected = IpAddr::from([203, 0, 113, 7]);
    if is_trusted(expected) {
        // It would be passed over.
        return;
    }
    let mut on_its_own_line = believed.clone();
    on_its_own_line.push(HeaderValue::from_static(appended));
    assert_eq!(
        ip(&extractor, &request(&on_its_own_line, &others)),
        expected
    );
    if let Some(last) = believed.pop() {
        let joined = [last.as_bytes(), b", ", appended.as_bytes()].concat();
        believed.push(HeaderValue::from_bytes(&joined).unwrap());
        assert_eq!(ip(&extractor, &request(&believed, &others)), expected);
    }
});

fn ip(extractor: &impl KeyExtractor, request: &Request<()>) -> IpAddr {
    match extractor.key(request) {
        Some(ClientKey::Ip(ip)) => ip,
        other => panic!("a peer is known, yet the key is {other:?}"),
    }
}

/// The hops as a plain reader finds them, from the left; `None` if it can not read all of it.
fn hops(header: ForwardedHeader, lines: &[HeaderValue]) -> Option<Vec<Option<IpAddr>>> {
    let mut hops = Vec::new();
    for line in lines {
        match header {
            ForwardedHeader::Forwarded => Reader(line.as_bytes()).elements(&mut hops)?,
            // Each text is an element, if one that may be no address.
            _ => {
                for element in line.as_bytes().split(|&byte| byte == b',') {
                    let element = element.trim_ascii();
                    if !element.is_empty() {
                        hops.push(address(element));
                    }
                }
            }
        }
    }
    Some(hops)
}

/// Reads by RFC 7239 section 4, with what is taken beyond that: ports and IPv6 addresses without
/// quotes, and white space around semicolons.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn elements(mut self, hops: &mut Vec<Option<IpAddr>>) -> Option<()> {
        loop {
            let (mut nodes, mut is_empty) = (Vec::new(), true);
            loop {
                self.spaces();
                let name = self.run(is_token);
                if !name.is_empty() {
                    is_empty = false;
                    self.expect(b'=')?;
                    let value = self.value()?;
                    if name.eq_ignore_ascii_case(b"for") {
                        nodes.push(value);
                    }
                    self.spaces();
                }
                if self.0.first() != Some(&b';') {
                    break;
                }
                is_empty = false;
                self.expect(b';')?;
            }
            if !is_empty {
                hops.push(match &nodes[..] {
                    [node] => address(node),
                    _ => None,
                });
            }
            if self.0.is_empty() {
                return Some(());
            }
            self.expect(b',')?;
        }
    }

    fn value(&mut self) -> Option<Vec<u8>> {
        if self.0.first() != Some(&b'"') {
            let value = self.run(|byte| is_token(byte) || b":[]".contains(&byte));
            return (!value.is_empty()).then_some(value);
        }
        self.expect(b'"')?;
        let mut value = Vec::new();
        loop {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            match byte {
                b'"' => return Some(value),
                b'\\' => {
                    let (&escaped, rest) = self.0.split_first()?;
                    self.0 = rest;
                    value.push(escaped);
                }
                byte => value.push(byte),
            }
        }
    }

    fn spaces(&mut self) {
        self.run(|byte| byte == b' ' || byte == b'\t');
    }

    fn run(&mut self, belongs: impl Fn(u8) -> bool) -> Vec<u8> {
        let end = self.0.iter().position(|&byte| !belongs(byte));
        let (run, rest) = self.0.split_at(end.unwrap_or(self.0.len()));
        self.0 = rest;
        run.to_vec()
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        self.0 = self.0.strip_prefix(&[byte])?;
        Some(())
    }
}

/// RFC 9110 section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// A node of RFC 7239 section 6: the longest part from the left that is an address, and a port
/// behind it.
fn address(node: &[u8]) -> Option<IpAddr> {
    let node = std::str::from_utf8(node).ok()?;
    if let Ok(bare) = node.parse::<Ipv6Addr>() {
        return Some(IpAddr::V6(bare).to_canonical());
    }
    let (ip, port) = if node.starts_with('[') {
        let end = node.find(']')?;
        let ip: Ipv6Addr = node[1..end].parse().ok()?;
        (IpAddr::V6(ip), &node[end + 1..])
    } else {
        let end = node.find(':').unwrap_or(node.len());
        let ip: Ipv4Addr = node[..end].parse().ok()?;
        (IpAddr::V4(ip), &node[end..])
    };
    let is_port = match port.as_bytes() {
        [] => true,
        [b':', b'_', name @ ..] => {
            let may_stand = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
            !name.is_empty() && name.iter().all(may_stand)
        }
        [b':', digits @ ..] => {
            (1..=5).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit)
        }
        _ => false,
    };
    is_port.then(|| ip.to_canonical())
}
