//! The endpoints of a config, shared by its routes and kept by reloads.

use super::address::Address;
use super::cluster::Cluster;
use super::connect::SocketOptions;
use super::endpoint::Endpoint;
use super::health::{ActiveCheck, Health, UpstreamState};
use super::member::Member;
use crate::config::{self, Config};
use http::Uri;
use std::sync::Arc;

/// The endpoints of a config. Those that no route of the next config uses end with this, and with the requests and
/// streams that still use them.
#[derive(Debug, Default)]
pub(crate) struct Endpoints {
    endpoints: Vec<Arc<Endpoint>>,
    upstreams: Vec<Upstream>,
}

/// An upstream as the config names it, by its URL, however many routes lead to it.
#[derive(Debug)]
pub(crate) struct Upstream {
    url: Uri,
    health: Health,
    check: Option<ActiveCheck>,
}

impl Upstream {
    pub(crate) fn url(&self) -> &Uri {
        &self.url
    }

    pub(crate) fn state(&self) -> UpstreamState {
        self.health.state(&self.url)
    }
}

impl Endpoints {
    /// The endpoints of a route with these settings, some of which other routes or the `previous` config may use.
    pub(crate) fn cluster(
        &mut self,
        config: &Config,
        upstream: &config::Upstream,
        previous: Option<&Self>,
    ) -> Cluster {
        let endpoint = self.endpoint(upstream, previous);
        // With other settings of TLS it is another one.
        let is_it =
            |known: &Upstream| known.url == upstream.url && known.health.is_same(endpoint.health());
        if !self.upstreams.iter().any(is_it) {
            let checked_by = config.checked_by(&upstream.url);
            self.upstreams.push(Upstream {
                url: upstream.url.clone(),
                health: endpoint.health().clone(),
                check: checked_by.and_then(|route| ActiveCheck::new(&route.settings.upstream)),
            });
        }
        Cluster::only(Member::new(upstream, endpoint))
    }

    fn endpoint(&mut self, config: &config::Upstream, previous: Option<&Self>) -> Arc<Endpoint> {
        let address = Address::of(&config.url, config.tls.as_ref());
        let options = SocketOptions::of(config, &address);
        if let Some(known) = self.find(|known| known.is_for(&address, options)) {
            return known.clone();
        }
        let before = previous.and_then(|before| before.find(|it| it.is_for(&address, options)));
        let endpoint = before.cloned().unwrap_or_else(|| {
            let mut all = [Some(&*self), previous].into_iter().flatten();
            let same = all.find_map(|all| all.find(|known| known.is_checked_as(&address, options)));
            let health = same.map(|known| known.health().clone());
            let health = health.unwrap_or_else(|| Health::new(&address, options));
            Arc::new(Endpoint::new(address, options, health))
        });
        self.endpoints.push(endpoint.clone());
        endpoint
    }

    fn find(&self, is_it: impl Fn(&Endpoint) -> bool) -> Option<&Arc<Endpoint>> {
        self.endpoints.iter().find(|known| is_it(known))
    }

    /// The upstreams by their URLs, in the order of the config.
    pub(crate) fn upstreams(&self) -> impl Iterator<Item = &Upstream> {
        self.upstreams.iter()
    }

    /// Closes connections that serve no request.
    pub(crate) fn close_idle_connections(&self) {
        for endpoint in &self.endpoints {
            endpoint.close_idle_connections();
        }
    }

    /// The reachability of each address.
    fn addresses(&self) -> impl Iterator<Item = &Health> {
        let all = self.upstreams.iter().enumerate();
        all.filter_map(|(index, upstream)| {
            let mut before = self.upstreams[..index].iter();
            let is_first = !before.any(|before| before.health.is_same(&upstream.health));
            is_first.then_some(&upstream.health)
        })
    }

    /// Writes what was left out of the log of each address so far.
    pub(crate) fn summarize_log(&self) {
        self.addresses().for_each(Health::summarize_log);
    }

    /// Probes those that count as unreachable, and runs the checks that are due. Call it about once
    /// per second.
    pub(crate) fn probe(&self) {
        for health in self.addresses() {
            let its = self.upstreams.iter();
            let its = its.filter(|upstream| upstream.health.is_same(health));
            health.probe(its.map(|upstream| (&upstream.url, upstream.check.as_ref())));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::from_file;

    /// The endpoints of a config, and the one of each route.
    fn endpoints(text: &str, previous: Option<&Endpoints>) -> (Endpoints, Vec<Arc<Endpoint>>) {
        let config = from_file(text).unwrap().config;
        let mut all = Endpoints::default();
        let mut of_routes = Vec::new();
        for route in &config.routes {
            let upstream = &route.settings.upstream;
            all.cluster(&config, upstream, previous);
            of_routes.push(all.endpoint(upstream, previous));
        }
        (all, of_routes)
    }

    /// Two routes, with these lines for the first.
    fn two(first: &str) -> String {
        format!("upstream.url = 'http://app'\n[[route]]\npath = '/first'\n{first}\n")
    }

    #[test]
    fn endpoint_is_shared_by_routes_with_equal_address_and_socket_options() {
        for first in [
            "",
            "upstream.url = 'http://APP:80/base'",
            "upstream.connect_timeout = '7s'\nupstream.idle_timeout = '7s'",
            "upstream.head_timeout = '7s'\nupstream.max_pending = 7\nupstream.max_head = '9KiB'",
            "health_check.interval = '7s'",
        ] {
            let (all, routes) = endpoints(&two(first), None);
            assert!(Arc::ptr_eq(&routes[0], &routes[1]), "{first}");
            assert_eq!(all.endpoints.len(), 1, "{first}");
        }
    }

    #[test]
    fn endpoint_of_other_socket_options_shares_health_alone() {
        for first in [
            "upstream.keepalive = '7s'",
            "upstream.user_timeout = 'off'",
            "upstream.receive_buffer = '64KiB'",
        ] {
            let (_, routes) = endpoints(&two(first), None);
            assert!(!Arc::ptr_eq(&routes[0], &routes[1]), "{first}");
            assert!(routes[0].health().is_same(routes[1].health()), "{first}");
        }
        let insecure = |first: &str| {
            let first = format!("upstream.url = 'https://app'\n{first}");
            let all = "upstream.tls.insecure_skip_verify = true";
            format!("{all}\n{}", two(&first)).replace("'http://app'", "'https://app'")
        };
        let (_, routes) = endpoints(&insecure("idle.timeout = '7s'"), None);
        assert!(Arc::ptr_eq(&routes[0], &routes[1]));
        let (all, routes) = endpoints(&insecure("upstream.tls.server_name = 'other'"), None);
        assert!(!routes[0].health().is_same(routes[1].health()));
        assert_eq!((all.upstreams.len(), all.addresses().count()), (2, 2));
        let (all, routes) = endpoints(&two("upstream.url = 'http://app:81'"), None);
        assert!(!routes[0].health().is_same(routes[1].health()));
        assert_eq!(all.addresses().count(), 2);
    }

    #[test]
    fn endpoint_of_another_protocol_shares_nothing() {
        for (first, shares_endpoint, shares_health) in [
            ("upstream.http2 = 'off'", true, true),
            ("upstream.http2 = 'on'", false, false),
            // There is no ALPN without TLS.
            ("upstream.http2 = 'auto'", true, true),
            (
                "upstream.http2_max_streams = 7\nupstream.ping = 'off'",
                true,
                true,
            ),
        ] {
            let (_, routes) = endpoints(&two(first), None);
            let same = Arc::ptr_eq(&routes[0], &routes[1]);
            assert_eq!(same, shares_endpoint, "{first}");
            let same = routes[0].health().is_same(routes[1].health());
            assert_eq!(same, shares_health, "{first}");
        }
        let on = |first: &str| format!("upstream.http2 = 'on'\n{}", two(first));
        for first in [
            "upstream.http2_max_streams = 7",
            "upstream.ping = '7s'",
            "upstream.max_head = '9KiB'",
        ] {
            let (_, routes) = endpoints(&on(first), None);
            assert!(!Arc::ptr_eq(&routes[0], &routes[1]), "{first}");
            assert!(routes[0].health().is_same(routes[1].health()), "{first}");
        }
    }

    #[test]
    fn endpoint_of_a_unix_socket_has_no_socket_options() {
        let config = "upstream.url = 'unix:/run/app.sock'\n[[route]]\npath = '/first'\n\
            upstream.url = 'unix:/run/app.sock:/base'\nupstream.keepalive = '7s'";
        let (all, routes) = endpoints(config, None);
        assert!(Arc::ptr_eq(&routes[0], &routes[1]));
        let urls: Vec<_> = all.upstreams().map(|it| it.url().to_string()).collect();
        let expected = [
            "http://unix:/run/app.sock:/base",
            "http://unix:/run/app.sock",
        ];
        assert_eq!(urls, expected);
    }

    #[test]
    fn endpoint_stays_through_reloads_while_a_route_uses_it() {
        let with = two("upstream.url = 'http://other'");
        let (before, routes) = endpoints(&with, None);
        let [other, app] = [&routes[0], &routes[1]].map(Arc::downgrade);
        drop(routes);
        let (after, routes) = endpoints(&two("upstream.keepalive = '7s'"), Some(&before));
        assert!(Arc::ptr_eq(&routes[1], &app.upgrade().unwrap()));
        assert!(routes[0].health().is_same(routes[1].health()));
        drop((before, routes));
        assert!(other.upgrade().is_none() && app.upgrade().is_some());
        let (_again, routes) = endpoints(&with, Some(&after));
        assert!(Arc::ptr_eq(&routes[1], &app.upgrade().unwrap()));
    }
}
