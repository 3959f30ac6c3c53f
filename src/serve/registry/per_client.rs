//! The limit of connections per client address.

use crate::client_key::ClientKey;
use ipnet::IpNet;
use std::net::IpAddr;
use std::sync::Arc;

#[derive(Clone, Debug)]
pub(in crate::serve) struct PerClientLimit {
    /// `None` for no limit.
    pub(in crate::serve) max: Option<u32>,
    pub(in crate::serve) ipv6_prefix: u8,
    /// Networks without a limit: proxies that carry many clients.
    pub(in crate::serve) exempt: Arc<[IpNet]>,
}

impl PerClientLimit {
    /// The address under which a peer counts; `None` if it is not limited.
    pub(super) fn address_of(&self, peer: Option<IpAddr>) -> Option<IpAddr> {
        match self.max.and(self.client_of(peer))? {
            ClientKey::Ip(network) => Some(network),
            ClientKey::Unix | ClientKey::Name(_) => None,
        }
    }

    /// The client that a peer is; `None` for a proxy that carries many clients. Peers without an address count as
    /// such: the permissions of a Unix socket control which processes connect.
    pub(super) fn client_of(&self, peer: Option<IpAddr>) -> Option<ClientKey> {
        let peer = peer?.to_canonical();
        let is_exempt = self.exempt.iter().any(|network| network.contains(&peer));
        (!is_exempt).then(|| ClientKey::Ip(peer).network(self.ipv6_prefix))
    }
}
