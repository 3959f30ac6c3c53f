//! Client keys, for limits per client.
//!
//! A [`KeyExtractor`] names the client of a request by a [`ClientKey`]. Which one to use depends on
//! what stands before the server:
//!
//! | before the server | extractor |
//! | --- | --- |
//! | nothing: clients connect to it | [`PeerIp`] |
//! | proxies whose addresses are known | [`ForwardedIp`] |
//! | anything, and clients log in | a [`KeyExtractor`] of your own, or a [`KeyFn`] |
//!
//! # Example
//!
//! ```
//! use http::Request;
//! use sse_guard::client_key::{ClientKey, ForwardedIp, KeyExtractor, PeerAddr};
//! use std::net::{IpAddr, SocketAddr};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let by_ip = ForwardedIp::new(["10.0.0.0/8".parse()?]);
//!
//! let request = Request::builder()
//!     // The client made up the first address, our proxy at 10.1.2.3 saw the second.
//!     .header("x-forwarded-for", "127.0.0.1, 203.0.113.7")
//!     .extension(PeerAddr::from("10.1.2.3:49152".parse::<SocketAddr>()?))
//!     .body(())?;
//! let client: IpAddr = "203.0.113.7".parse()?;
//! assert_eq!(by_ip.key(&request), Some(ClientKey::Ip(client)));
//! # Ok(())
//! # }
//! ```
//!
//! # What the peer's address comes from
//!
//! From [`PeerAddr`] in the request's extensions, else, with the feature `axum`, from axum's
//! `ConnectInfo<SocketAddr>`, else from its `MockConnectInfo<SocketAddr>`. A request with none of them
//! has no key; the extractor logs one warning that names the remedy.

mod forwarded;
mod hints;
mod key_fn;
mod peer;

use hints::LoggedHints;
use http::{Extensions, HeaderMap, Method, Request, Uri};
use ipnet::IpNet;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
#[cfg(feature = "axum")]
use std::net::SocketAddr;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

pub use forwarded::ForwardedHeader;
#[doc(hidden)]
pub use forwarded::{Element, Node};
pub use key_fn::KeyFn;
pub use peer::PeerAddr;

/// Maximum number of hops of a forwarded list that are read. Real chains have fewer than ten; a client can send
/// as many as fit into a header.
const MAX_FORWARDED_HOPS: usize = 64;

/// Default number of leading bits of an IPv6 address that identify a client: the smallest network that a provider
/// assigns to a customer.
pub(crate) const IPV6_PREFIX: u8 = 64;

/// Identifies a client.
///
/// Keys of different kinds are never equal: the name `"192.0.2.1"` is not the address 192.0.2.1.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ClientKey {
    /// The address the client connects from.
    Ip(IpAddr),
    /// All clients on a Unix socket that are not named by a trusted proxy: they have no address.
    Unix,
    /// A name of the application's own: an account, a tenant, a device.
    ///
    /// It is printed unchanged in logs, so it should not be a secret.
    Name(Arc<str>),
}

/// Extracts the key of a request's client.
///
/// `None` means that the client of this request cannot be identified; the layer decides how to treat it.
///
/// # Writing one
///
/// Two rules keep a limit a limit:
///
/// - **Do not trust a client's claim of its identity.** With a key that is read unchecked from a header, an
///   attacker is a new client on each connection. Look it up, or verify its signature, first.
/// - **Name the account, not the secret.** Keys are kept in tables and printed in logs.
///
/// It is called once for each request, before the inner service, so it should not block.
///
/// ```
/// use http::Request;
/// use sse_guard::client_key::{ClientKey, ForwardedIp, KeyExtractor};
/// use std::collections::HashMap;
/// use std::sync::Arc;
///
/// /// By account for requests with a known key, by address for all others.
/// #[derive(Clone)]
/// struct ByApiKey {
///     accounts: Arc<HashMap<String, Arc<str>>>,
///     by_ip: ForwardedIp,
/// }
///
/// impl KeyExtractor for ByApiKey {
///     fn key<B>(&self, request: &Request<B>) -> Option<ClientKey> {
///         let account = request
///             .headers()
///             .get("x-api-key")
///             .and_then(|key| self.accounts.get(key.to_str().ok()?));
///         match account {
///             Some(account) => Some(ClientKey::Name(account.clone())),
///             None => self.by_ip.key(request),
///         }
///     }
/// }
/// ```
pub trait KeyExtractor: Clone + Send + Sync + 'static {
    /// The client that sent `request`, or `None` if that cannot be known.
    fn key<B>(&self, request: &Request<B>) -> Option<ClientKey>;
}

/// Keys by the address of the peer that connected, whatever the headers claim.
///
/// For servers that clients connect to directly. Behind a proxy all clients would count as one, the proxy:
/// use [`ForwardedIp`] there. If a request has `X-Forwarded-For` or `Forwarded`, a warning suggests it, once per
/// extractor and its clones.
///
/// An IPv4-mapped IPv6 address (RFC 4291 section 2.5.5.2), as a dual-stack socket reports it for an IPv4 client,
/// has the key of the IPv4 address.
#[derive(Clone, Debug, Default)]
pub struct PeerIp {
    hints: Arc<LoggedHints>,
}

/// Keys by the first address, from the right of the forwarded list, that is not a trusted proxy's.
///
/// Each proxy appends the address of the peer that connected to it, so the list reads from the client on
/// the left to the nearest proxy on the right, and everything left of the first entry that a trusted
/// proxy wrote may be forged by the client. Therefore:
///
/// - The headers count only if the peer itself is trusted. Otherwise the key is the peer's address, and a
///   warning shows how to trust the peer if it is a proxy, once per extractor and its clones.
/// - The list is walked from the right, over all lines of the header in their order (RFC 9110
///   section 5.3). Entries of trusted proxies are skipped; the first other one is the client.
/// - An entry that is not an address (`unknown` and `_hidden` of RFC 7239 sections 6.2 and 6.3, an
///   element without `for=`, malformed text) ends the walk. The client is then the proxy that reported
///   it, as entries to the left of it cannot be verified.
/// - If all are trusted, the client is the left-most, one of your own machines.
/// - A peer on a [Unix socket](Self::unix) has no address: without a trusted entry all its clients have one key,
///   [`ClientKey::Unix`].
/// - At most 64 entries are read; the 64th is then the client.
///
/// The text of a client in the header, such as open quotes or a great length, does not change how the entries that
/// trusted proxies appended after it are read.
///
/// # Which header
///
/// Only one is read, `X-Forwarded-For` or that set by [`header`](Self::header). The other is not a
/// fallback either: a proxy that maintains one of the two forwards the other as the client sent it.
///
/// # Trust
///
/// A trusted network should contain only proxies: each machine in it can claim to be any client.
/// Trusted proxies must append to the header or replace it; behind one that forwards it
/// unchanged, the client chooses its key. With `0.0.0.0/0` trusted, the header's first entry,
/// which is the client's own text, is the key.
///
/// IPv4-mapped IPv6 addresses count as IPv4 addresses, in the list as well as on the socket, so
/// specify such trusted networks as IPv4.
#[derive(Clone, Debug)]
pub struct ForwardedIp {
    trusted: Arc<[IpNet]>,
    trusts_unix: bool,
    header: ForwardedHeader,
    hints: Arc<LoggedHints>,
}

/// The head of a request, as a [`KeyFn`] gets it.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct RequestHead<'a> {
    /// The method.
    pub method: &'a Method,
    /// The request target.
    pub uri: &'a Uri,
    /// The header fields.
    pub headers: &'a HeaderMap,
    /// The extensions, from the server and the layers outside.
    pub extensions: &'a Extensions,
}

impl<'a> RequestHead<'a> {
    fn of<B>(request: &'a Request<B>) -> Self {
        Self {
            method: request.method(),
            uri: request.uri(),
            headers: request.headers(),
            extensions: request.extensions(),
        }
    }
}

impl ClientKey {
    /// A hash of the key.
    pub(crate) fn hash_value(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }

    /// The text of a [network](Self::network), with its length if it is IPv6.
    #[doc(hidden)]
    pub fn network_text(&self, ipv6_prefix: u8) -> String {
        match (self, ipv6_prefix) {
            (Self::Ip(IpAddr::V6(_)), bits @ 0..128) => format!("{self}/{bits}"),
            _ => self.to_string(),
        }
    }

    /// The network that counts as the client: an IPv6 address is cut to its first `ipv6_prefix` bits (at most
    /// 128), and an IPv4-mapped one becomes IPv4; IPv4 addresses and names are unchanged.
    ///
    /// An IPv6 host can use all addresses of a /64 (RFC 4291 section 2.5.4, RFC 8981), so
    /// a limit on single addresses would have no effect.
    pub fn network(self, ipv6_prefix: u8) -> Self {
        let Self::Ip(ip) = self else { return self };
        Self::Ip(match ip.to_canonical() {
            IpAddr::V6(ip) => {
                let host_bits = 128_u32.saturating_sub(ipv6_prefix.into());
                // A shift by all 128 bits overflows; its result would be 0.
                let mask = u128::MAX.checked_shl(host_bits).unwrap_or(0);
                Ipv6Addr::from_bits(ip.to_bits() & mask).into()
            }
            v4 => v4,
        })
    }
}

/// The address or the name, unchanged.
impl fmt::Display for ClientKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => ip.fmt(f),
            Self::Unix => f.write_str(peer::UNIX),
            Self::Name(name) => name.fmt(f),
        }
    }
}

impl From<IpAddr> for ClientKey {
    fn from(ip: IpAddr) -> Self {
        Self::Ip(ip)
    }
}

/// A name, also if it looks like an address.
impl From<&str> for ClientKey {
    fn from(name: &str) -> Self {
        Self::Name(name.into())
    }
}

/// A name, also if it looks like an address.
impl From<String> for ClientKey {
    fn from(name: String) -> Self {
        Self::Name(name.into())
    }
}

impl PeerIp {
    /// Creates the extractor. Its warnings are logged once for it and its clones.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl KeyExtractor for PeerIp {
    fn key<B>(&self, request: &Request<B>) -> Option<ClientKey> {
        let peer = self.hints.peer(request.extensions())?;
        self.hints.note_untrusted(peer, request.headers());
        Some(peer.key())
    }
}

impl ForwardedIp {
    /// Trusts proxies in the networks `trusted`, by their `X-Forwarded-For`.
    ///
    /// Without a network it is a [`PeerIp`].
    #[must_use]
    pub fn new(trusted: impl IntoIterator<Item = IpNet>) -> Self {
        Self {
            trusted: trusted.into_iter().collect(),
            trusts_unix: false,
            header: ForwardedHeader::default(),
            hints: Arc::default(),
        }
    }

    /// Reads only `header` instead.
    #[must_use]
    pub fn header(mut self, header: ForwardedHeader) -> Self {
        self.header = header;
        self
    }

    /// Trusts peers on Unix sockets. Off by default.
    ///
    /// Such a peer has no address, so limits count its clients as one unless it is trusted. The
    /// permissions of the socket's file decide which processes can claim to be any client.
    #[must_use]
    pub fn unix(mut self, trusted: bool) -> Self {
        self.trusts_unix = trusted;
        self
    }

    /// Returns true if the forwarded headers of this peer's requests are trusted: a proxy extends those
    /// headers then, and replaces them otherwise.
    #[must_use]
    pub fn is_trusted_peer(&self, peer: PeerAddr) -> bool {
        match peer.ip() {
            Some(ip) => self.is_trusted(ip),
            None => self.trusts_unix,
        }
    }

    /// Returns true if `addr` is in a trusted network; an IPv4-mapped address counts as IPv4.
    #[must_use]
    pub fn is_trusted(&self, addr: IpAddr) -> bool {
        let addr = addr.to_canonical();
        self.trusted.iter().any(|network| network.contains(&addr))
    }

    /// The header that is trusted.
    #[doc(hidden)]
    pub fn believed(&self) -> ForwardedHeader {
        self.header
    }

    /// The hops that a trusted peer reports, nearest first, up to the maximum that is read.
    #[doc(hidden)]
    pub fn reported<'h>(
        &self,
        headers: &'h HeaderMap,
    ) -> impl Iterator<Item = Element<'h>> + use<'h> {
        self.header.elements(headers).take(MAX_FORWARDED_HOPS)
    }

    /// The client according to a trusted peer.
    fn walk(&self, peer: PeerAddr, headers: &HeaderMap) -> ClientKey {
        // An entry can be trusted only if the hop that wrote it, on its right, is trusted.
        let mut client = None;
        for hop in self.header.hops(headers).take(MAX_FORWARDED_HOPS) {
            let Some(addr) = hop else { break };
            client = Some(addr);
            if !self.is_trusted(addr) {
                break;
            }
        }
        client.map_or_else(|| peer.key(), ClientKey::Ip)
    }
}

impl KeyExtractor for ForwardedIp {
    fn key<B>(&self, request: &Request<B>) -> Option<ClientKey> {
        let peer = self.hints.peer(request.extensions())?;
        if self.is_trusted_peer(peer) {
            return Some(self.walk(peer, request.headers()));
        }
        self.hints.note_untrusted(peer, request.headers());
        Some(peer.key())
    }
}

pub(crate) fn peer_addr(extensions: &Extensions) -> Option<PeerAddr> {
    if let Some(peer) = extensions.get() {
        return Some(*peer);
    }
    #[cfg(feature = "axum")]
    {
        use axum::extract::ConnectInfo;
        use axum::extract::connect_info::MockConnectInfo;
        if let Some(ConnectInfo(addr)) = extensions.get::<ConnectInfo<SocketAddr>>() {
            return Some((*addr).into());
        }
        // As in axum's extractor: a real address takes precedence.
        if let Some(MockConnectInfo(addr)) = extensions.get::<MockConnectInfo<SocketAddr>>() {
            return Some((*addr).into());
        }
    }
    None
}

#[cfg(test)]
mod tests;
