//! What limits per client count by.

use http::Request;
use ipnet::IpNet;
use sse_guard::client_key::{ClientKey, ForwardedIp, KeyExtractor};
use sse_guard::internal::User;
use std::sync::Arc;

/// The keys of clients: their addresses, or by option their users.
#[derive(Clone, Debug)]
pub(crate) struct ClientKeys {
    addresses: ForwardedIp,
    /// Networks whose clients are exempt by their address, if users count.
    exempt: Option<Arc<[IpNet]>>,
}

impl ClientKeys {
    pub(crate) fn addresses(addresses: ForwardedIp) -> Self {
        Self {
            addresses,
            exempt: None,
        }
    }

    /// A request without a user has the key of its address, and so has one from an exempt network: the exemption is
    /// that of the address.
    pub(crate) fn users(addresses: ForwardedIp, exempt: &[IpNet]) -> Self {
        Self {
            addresses,
            exempt: Some(exempt.into()),
        }
    }
}

impl KeyExtractor for ClientKeys {
    fn key<B>(&self, request: &Request<B>) -> Option<ClientKey> {
        let address = self.addresses.key(request);
        let Some(exempt) = &self.exempt else {
            return address;
        };
        if let Some(ClientKey::Ip(ip)) = address
            && exempt.iter().any(|network| network.contains(&ip))
        {
            return address;
        }
        let user = request.extensions().get();
        user.map(|User(user)| ClientKey::Name(user.clone()))
            .or(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sse_guard::client_key::PeerAddr;
    use std::net::{IpAddr, SocketAddr};

    #[test]
    fn key_is_the_user_unless_it_has_none_or_its_address_is_exempt() {
        let addresses = || ForwardedIp::new([]);
        let exempt = ["198.51.100.0/24".parse().unwrap()];
        let by_user = ClientKeys::users(addresses(), &exempt);
        let by_address = ClientKeys::addresses(addresses());
        let ann = || ClientKey::from("CN=ann");
        for (ip, user, expected) in [
            ("192.0.2.1", Some("CN=ann"), Some(ann())),
            ("192.0.2.1", None, None),
            ("198.51.100.1", Some("CN=ann"), None),
        ] {
            let ip: IpAddr = ip.parse().unwrap();
            let mut request = Request::builder()
                .extension(PeerAddr::from(SocketAddr::from((ip, 1))))
                .body(())
                .unwrap();
            if let Some(user) = user {
                request.extensions_mut().insert(User(user.into()));
            }
            let address = Some(ClientKey::Ip(ip));
            assert_eq!(by_user.key(&request), expected.or(address.clone()));
            assert_eq!(by_address.key(&request), address);
        }
    }
}
