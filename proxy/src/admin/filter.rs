//! Filters that select streams.

use ipnet::IpNet;
use sse_guard::Stream;
use sse_guard::client_key::ClientKey;
use sse_guard::internal::Details;
use std::net::IpAddr;

/// What identifies a stream, live or ended.
#[derive(Clone, Copy)]
pub(super) struct StreamIdentity<'a> {
    pub(super) id: u64,
    pub(super) route: Option<&'a str>,
    pub(super) client: Option<&'a ClientKey>,
    pub(super) user: Option<&'a str>,
    pub(super) upstream: Option<&'a str>,
    pub(super) path: Option<&'a str>,
}

impl<'a> From<&'a Stream> for StreamIdentity<'a> {
    fn from(stream: &'a Stream) -> Self {
        Self {
            id: stream.id().as_u64(),
            route: stream.route(),
            client: stream.client(),
            user: stream.user(),
            upstream: stream.upstream(),
            path: stream.details().map(Details::path),
        }
    }
}

/// Whether a field equals its filter, if there is one.
pub(super) fn is(filter: &Option<String>, value: Option<&str>) -> bool {
    filter.as_deref().is_none_or(|filter| value == Some(filter))
}

impl StreamIdentity<'_> {
    /// Whether its client has the filtered name, or is in the filtered network, if there is such a filter.
    pub(super) fn client_is(&self, filter: &Option<String>) -> bool {
        let Some(filter) = filter.as_deref() else {
            return true;
        };
        let Some(client) = self.client else {
            return false;
        };
        match (client, filter.parse::<IpNet>(), filter.parse::<IpAddr>()) {
            (ClientKey::Ip(ip), Ok(network), _) => network.contains(ip),
            (ClientKey::Ip(ip), _, Ok(address)) => *ip == address.to_canonical(),
            _ => client.to_string() == filter,
        }
    }

    /// Whether the search text, if any, equals its id or is part of another of its values; letter case
    /// does not matter.
    pub(super) fn mention(&self, filter: &Option<String>) -> bool {
        let Some(text) = filter.as_deref().map(str::to_lowercase) else {
            return true;
        };
        let texts = [self.route, self.user, self.upstream, self.path];
        let is_in = |part: &str| part.to_lowercase().contains(&text);
        texts.into_iter().flatten().any(is_in)
            || self.id.to_string() == text
            || self.client.is_some_and(|client| is_in(&client.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_is_found_by_its_address_in_any_spelling_and_by_its_network() {
        let is = |client: ClientKey, filter: &str| {
            let identity = StreamIdentity {
                id: 1,
                route: None,
                client: Some(&client),
                user: None,
                upstream: None,
                path: None,
            };
            identity.client_is(&Some(filter.to_owned()))
        };
        let ip = |text: &str| ClientKey::Ip(text.parse().unwrap());
        for (client, filter, found) in [
            ("2001:db8::7", "2001:db8::7", true),
            ("2001:db8::7", "2001:0DB8:0::7", true),
            ("2001:db8::7", "2001:db8::8", false),
            ("2001:db8::7", "2001:db8::/64", true),
            ("2001:db8::7", "2001:db8:0:1::/64", false),
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "::ffff:192.0.2.1", true),
            ("192.0.2.1", "192.0.2.0/24", true),
            ("192.0.2.1", "192.0.2", false),
        ] {
            assert_eq!(is(ip(client), filter), found, "{client} {filter}");
        }
        assert!(is("192.0.2.1".into(), "192.0.2.1"));
        assert!(!is("192.0.2.1".into(), "192.0.2.0/24"));
    }
}
