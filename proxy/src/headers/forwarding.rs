//! The fields that describe the client: `Forwarded` (RFC 7239) and `X-Forwarded-*`.
//!
//! A server reads one of them, and not all read the same one. So both are written from one
//! [`Client`], which is read from the form that the peer is trusted in.

use super::claims::{self, IS_SECURE, SCHEMES};
use crate::request_target::is_authority;
use http::header::HOST;
use http::{HeaderMap, HeaderName, HeaderValue};
use sse_guard::client_key::{ForwardedHeader, ForwardedIp, PeerAddr};
use sse_guard::internal::Node;
use std::fmt::Write as _;
use std::net::IpAddr;

static FORWARDED: HeaderName = HeaderName::from_static("forwarded");
static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
static X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
static X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// Describes the client to the upstream. Fields of the request count if the peer is trusted; where none has the
/// scheme, it is that of the peer's connection.
pub(crate) fn forward(
    headers: &mut HeaderMap,
    peer: PeerAddr,
    is_tls: bool,
    trusted: &ForwardedIp,
) {
    claims::remove_misspelt(headers);
    let client = match (trusted.is_trusted_peer(peer), trusted.believed()) {
        (true, ForwardedHeader::XForwardedFor) => Some(Client::by_x_forwarded(headers, trusted)),
        (true, ForwardedHeader::Forwarded) => Some(Client::by_forwarded(headers, trusted)),
        // Not trusted; or by a header that the library may add, which must not count unread.
        _ => None,
    };
    let peer = peer.ip().map(|ip| ip.to_canonical());
    let own = is_tls.then_some("https");
    match client {
        Some(mut client) => {
            client.proto = client.proto.or(own);
            let port = client.write(headers, peer);
            client.correct_others(headers, peer, port);
        }
        None => {
            claims::remove(headers);
            let client = Client {
                proto: own,
                ..Client::default()
            };
            client.write(headers, peer);
        }
    }
}

/// What a trusted peer reports.
#[derive(Debug, Default)]
struct Client {
    /// Those that the request came through, nearest first; the peer itself is not among them.
    hops: Vec<Hop>,
    /// This many of them were reported by trusted proxies. The last of these is the client.
    known: usize,
    proto: Option<&'static str>,
    host: Option<HeaderValue>,
    port: Option<u16>,
}

#[derive(Debug)]
struct Hop {
    node: Node,
    /// As it stands in `X-Forwarded-For`.
    text: Vec<u8>,
}

impl Client {
    fn by_x_forwarded(headers: &HeaderMap, trusted: &ForwardedIp) -> Self {
        let mut client = Self::default();
        for element in trusted.reported(headers) {
            client.push(element.node, element.text.to_vec(), trusted);
        }
        let reported = |name: &HeaderName| reported(headers, name, client.known);
        let mut schemes = SCHEMES.iter().filter_map(reported).filter_map(protocol);
        let mut secure = IS_SECURE.iter().filter_map(reported).filter_map(secure);
        let own = reported(&X_FORWARDED_PROTO).and_then(protocol);
        let proto = own.or_else(|| schemes.next()).or_else(|| secure.next());
        let host = reported(&X_FORWARDED_HOST).and_then(host);
        let port = reported(&X_FORWARDED_PORT).and_then(port);
        Self {
            proto,
            host,
            port,
            ..client
        }
    }

    fn by_forwarded(headers: &mut HeaderMap, trusted: &ForwardedIp) -> Self {
        let mut client = Self::default();
        for element in trusted.reported(headers) {
            let text = match &element.node {
                Node::Address(address) => address.to_string(),
                Node::Obfuscated(name) => name.clone(),
                Node::Unknown => "unknown".to_owned(),
            };
            if client.push(element.node, text.into_bytes(), trusted) {
                // Of what trusted proxies saw, what came first is nearest to the client.
                let proto = element.proto.as_deref().and_then(protocol);
                client.proto = proto.or(client.proto);
                let host = element.host.as_deref().and_then(host);
                client.host = host.or(client.host);
            }
        }
        // A proxy that writes the one form passes the other on as a stranger sent it.
        let repeated = SCHEMES.iter().chain(&IS_SECURE);
        for name in repeated.chain([&X_FORWARDED_PORT]) {
            headers.remove(name);
        }
        client
    }

    /// Adds the next hop from the right. Whether a trusted proxy reported it.
    fn push(&mut self, node: Node, text: Vec<u8>, trusted: &ForwardedIp) -> bool {
        let reporter = self.hops.last().map(|hop| &hop.node);
        let is_by_trusted = match reporter {
            None => true,
            Some(Node::Address(address)) => trusted.is_trusted(*address),
            Some(Node::Obfuscated(_) | Node::Unknown) => false,
        };
        let is_known = self.known == self.hops.len() && is_by_trusted;
        self.known += usize::from(is_known);
        self.hops.push(Hop { node, text });
        is_known
    }

    /// The same address that limits count by.
    fn address(&self, peer: Option<IpAddr>) -> Option<IpAddr> {
        let known = self.hops[..self.known].iter().rev();
        let mut addresses = known.filter_map(|hop| match &hop.node {
            Node::Address(address) => Some(*address),
            Node::Obfuscated(_) | Node::Unknown => None,
        });
        addresses.next().or(peer)
    }

    fn proto(&self) -> &'static str {
        self.proto.unwrap_or("http")
    }

    /// Writes the fields that each request gets. Returns the port that the client has connected to, if it is
    /// known.
    fn write(&self, headers: &mut HeaderMap, peer: Option<IpAddr>) -> Option<u16> {
        let proto = self.proto();
        let host = self.host.as_ref().or(headers.get(HOST)).cloned();
        let host = host.as_ref().and_then(|host| host.to_str().ok());
        let explicit = host.and_then(port_of);
        let port = explicit.or(self.port);

        match self.x_forwarded_for(peer) {
            line if line.is_empty() => drop(headers.remove(&X_FORWARDED_FOR)),
            line => set(headers, &X_FORWARDED_FOR, &line),
        }
        let full_host = match (host, port) {
            (Some(host), Some(port)) if explicit.is_none() && !is_default(proto, port) => {
                Some(format!("{}:{port}", host.trim_end_matches(':')))
            }
            (host, _) => host.map(str::to_owned),
        };
        let forwarded = self.forwarded(peer, proto, full_host.as_deref());
        set(headers, &FORWARDED, forwarded.as_bytes());
        set(headers, &X_FORWARDED_PROTO, proto.as_bytes());
        match host {
            Some(host) => set(headers, &X_FORWARDED_HOST, host.as_bytes()),
            None => drop(headers.remove(&X_FORWARDED_HOST)),
        }
        port
    }

    /// Makes the other fields of the request agree with those that [`write`](Self::write) has written.
    fn correct_others(&self, headers: &mut HeaderMap, peer: Option<IpAddr>, port: Option<u16>) {
        if headers.contains_key(&X_FORWARDED_PORT) {
            match port {
                Some(port) => set(headers, &X_FORWARDED_PORT, port.to_string().as_bytes()),
                None => drop(headers.remove(&X_FORWARDED_PORT)),
            }
        }
        if headers.contains_key(&X_REAL_IP) {
            match self.address(peer) {
                Some(address) => set(headers, &X_REAL_IP, address.to_string().as_bytes()),
                None => drop(headers.remove(&X_REAL_IP)),
            }
        }
        let proto = self.proto();
        let is_secure = match proto {
            "https" | "wss" => "on",
            _ => "off",
        };
        let schemes = SCHEMES.iter().map(|name| (name, proto));
        for (name, value) in schemes.chain(IS_SECURE.iter().map(|name| (name, is_secure))) {
            if headers.contains_key(name) {
                set(headers, name, value.as_bytes());
            }
        }
    }

    /// Without an element for a peer that has no address. A text in its place would end the search of
    /// servers that read the list from the right.
    fn x_forwarded_for(&self, peer: Option<IpAddr>) -> Vec<u8> {
        let hops = self.hops.iter().rev().map(|hop| hop.text.clone());
        let peer = peer.map(|peer| peer.to_string().into_bytes());
        let elements: Vec<_> = hops.chain(peer).collect();
        elements.join(b", ".as_slice())
    }

    /// Host and protocol stand with the client and with the peer, as some servers read the first
    /// element and some the last. Elements beyond the client are unverified.
    fn forwarded(&self, peer: Option<IpAddr>, proto: &str, host: Option<&str>) -> String {
        let peer = match peer {
            Some(peer) => Some(Node::Address(peer)),
            // An element is needed for host and protocol.
            None if self.hops.is_empty() => Some(Node::Unknown),
            None => None,
        };
        let mut line = String::new();
        for (index, hop) in self.hops.iter().enumerate().rev() {
            let is_client = index + 1 == self.known;
            let is_last = index == 0 && peer.is_none();
            element(
                &mut line,
                &hop.node,
                (is_client || is_last).then_some((proto, host)),
            );
            if !is_last {
                line.push_str(", ");
            }
        }
        if let Some(peer) = peer {
            element(&mut line, &peer, Some((proto, host)));
        }
        line
    }
}

/// One line, since some servers read only the first.
fn set(headers: &mut HeaderMap, name: &HeaderName, value: &[u8]) {
    match HeaderValue::from_bytes(value) {
        Ok(value) => drop(headers.insert(name, value)),
        // All of it comes from values.
        Err(_) => drop(headers.remove(name)),
    }
}

/// RFC 7239 section 4. Writing to a string does not fail.
fn element(line: &mut String, node: &Node, of: Option<(&str, Option<&str>)>) {
    let _ = match node {
        Node::Address(IpAddr::V4(address)) => write!(line, "for={address}"),
        Node::Address(IpAddr::V6(address)) => write!(line, "for=\"[{address}]\""),
        Node::Obfuscated(name) => write!(line, "for={name}"),
        Node::Unknown => write!(line, "for=unknown"),
    };
    let Some((proto, host)) = of else {
        return;
    };
    if let Some(host) = host {
        let _ = write!(line, ";host=\"{host}\"");
    }
    let _ = write!(line, ";proto={proto}");
}

/// The value of a field for the client, the `known`th from the right. If each proxy has appended to
/// a list, its elements stand for the same hops as those of `X-Forwarded-For`.
fn reported<'h>(headers: &'h HeaderMap, name: &HeaderName, known: usize) -> Option<&'h [u8]> {
    let lines = headers.get_all(name).iter().rev();
    lines
        .flat_map(|line| line.as_bytes().rsplit(|&byte| byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|element| !element.is_empty())
        .take(known.max(1))
        .last()
}

fn protocol(text: &[u8]) -> Option<&'static str> {
    let all = ["http", "https", "ws", "wss"];
    all.into_iter()
        .find(|known| text.eq_ignore_ascii_case(known.as_bytes()))
}

fn secure(text: &[u8]) -> Option<&'static str> {
    match text {
        text if text.eq_ignore_ascii_case(b"on") => Some("https"),
        text if text.eq_ignore_ascii_case(b"off") => Some("http"),
        _ => None,
    }
}

fn host(text: &[u8]) -> Option<HeaderValue> {
    HeaderValue::from_bytes(text)
        .ok()
        .filter(|_| is_authority(text))
}

fn port(text: &[u8]) -> Option<u16> {
    let is_number = text.iter().all(u8::is_ascii_digit);
    let port = str::from_utf8(text).ok().filter(|_| is_number)?.parse();
    port.ok().filter(|port| *port > 0)
}

fn port_of(authority: &str) -> Option<u16> {
    let (host, text) = authority.rsplit_once(':')?;
    let is_behind_host = !host.starts_with('[') || host.ends_with(']');
    port(text.as_bytes()).filter(|_| is_behind_host)
}

fn is_default(proto: &str, port: u16) -> bool {
    let default = match proto {
        "https" | "wss" => 443,
        _ => 80,
    };
    port == default
}

#[cfg(test)]
mod tests;
