//! The upstream connection of a request, and what happens to it afterwards.

use super::error::Failure;
use super::member::Member;
use super::pins::{Lease, Pins};
use super::pool::PoolReturn;
use super::proxy_header;
use http::header::CONNECTION;
use http::{HeaderMap, Request, Version, response};
use sse_guard::client_key::{ClientKey, ForwardedIp, KeyExtractor, PeerAddr};
use sse_guard::internal::ClientConnection;
use sse_guard::internal::connection_auth;
use sse_guard::internal::list_has;
use sse_guard::serve::Io;
use sse_guard::serve::RequestBody;
use std::net::SocketAddr;
use std::sync::Arc;

/// What ties a request to its client's connection.
pub(super) struct Binding<'m> {
    /// Where the request goes.
    member: &'m Member,
    /// None for a request that resume sends again: its client's connection carries the stream.
    client: Option<ClientConnection>,
    /// Set if a trusted proxy is the peer, which may send requests of several clients on one connection.
    key: Option<ClientKey>,
    /// The upstream connection may carry a login: only its client may use it.
    is_bound: bool,
    /// The right to return the client's own connection.
    lease: Option<Lease>,
    switches: bool,
    /// The client, if the upstream connection begins with its address. A box, as few do.
    source: Option<Box<SocketAddr>>,
}

impl<'m> Binding<'m> {
    pub(super) fn new(
        request: &Request<RequestBody>,
        trusted: &ForwardedIp,
        member: &'m Member,
        switches: bool,
    ) -> Self {
        let extensions = request.extensions();
        let peer = extensions.get::<PeerAddr>();
        let is_trusted = peer.is_some_and(|peer| trusted.is_trusted_peer(*peer));
        let key = is_trusted.then(|| trusted.key(request));
        let source = match member.names_client() {
            true => proxy_header::source(trusted.key(request).as_ref(), peer),
            false => None,
        };
        Self {
            client: extensions.get().cloned(),
            key: key.flatten(),
            member,
            is_bound: connection_auth::in_request(request.headers()),
            lease: None,
            switches,
            source: source.map(Box::new),
        }
    }

    /// Connects for this request.
    pub(super) async fn connect(&self) -> Result<Io, Failure> {
        self.member.connect(self.source.as_deref().copied()).await
    }

    pub(super) fn member(&self) -> &'m Member {
        self.member
    }

    fn address(&self) -> &'m Arc<str> {
        self.member.endpoint().address().name()
    }

    pub(super) fn is_bound(&self) -> bool {
        self.is_bound
    }

    /// Whether the request offers to switch protocols.
    pub(super) fn switches(&self) -> bool {
        self.switches
    }

    /// The client's own connection, if it has one.
    pub(super) async fn take(&mut self) -> Option<Io> {
        let client = self.client.as_ref()?;
        let pins: Arc<Pins> = client.attached()?;
        let socket = pins.take(self.address(), self.key.as_ref()).await?;
        self.lease = Some(Lease::new(client, self.address()));
        Some(socket)
    }

    /// The client's own connection could not be used.
    pub(super) fn lose(&mut self) {
        self.lease = None;
    }

    /// The right to the connection while it is a tunnel, which ends with its client's.
    pub(super) fn tunnel(&mut self) -> Option<Lease> {
        self.lease.take()
    }

    /// Where the connection goes once this response has been read; nothing if it must close.
    pub(super) fn pool_return(&mut self, head: &response::Parts) -> Option<PoolReturn> {
        self.is_bound |= self.lease.is_some() || connection_auth::in_response(&head.headers);
        if !self.is_bound {
            let may_stay = !self.switches;
            return may_stay
                .then(|| self.member.pool().pool_return(&head.headers))
                .flatten();
        }
        let lease = self.lease.take().or_else(|| self.pin());
        // Otherwise the client's connection closes with it, and the response announces it.
        let stays = stays_open(head.version, &head.headers);
        lease
            .filter(|_| stays)
            .map(|lease| PoolReturn::Client(Box::new(lease)))
    }

    fn pin(&self) -> Option<Lease> {
        let client = self.client.as_ref()?;
        let pins: Arc<Pins> = client.attach()?;
        let has_room = pins.reserve(self.address(), self.key.clone());
        has_room.then(|| Lease::new(client, self.address()))
    }
}

/// RFC 9112 section 9.3.
pub(super) fn stays_open(version: Version, headers: &HeaderMap) -> bool {
    let names = |wanted: &[u8]| list_has(headers, &CONNECTION, wanted);
    !names(b"close") && (version == Version::HTTP_11 || names(b"keep-alive"))
}
