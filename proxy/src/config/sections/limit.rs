//! `[limit]`: streams and requests per client and in all.

use std::num::NonZeroU32;
use std::time::Duration;

use ipnet::IpNet;

use super::super::given::{AllValues, Scope};
use super::super::key::{Key, Table};
use super::super::kind::Shape;
use super::super::mistake::Mistake;
use super::super::value::{Choice, Rate, choice, count_or_off};
use crate::client_keys::ClientKeys;
use sse_guard::client_key::ForwardedIp;
use sse_guard::connection_limit::{self, ConnectionLimitLayer, SeparateCounts};

pub(super) const TABLE: Table = Table {
    name: "limit",
    about: "Limits on streams and requests, per client and in all.",
    reference: "Streams and requests per client and in all; see [limits](security.md#limits).",
    keys: &[
        Key::route("limit.per_ip", Shape::Count)
            .or_off()
            .default("100")
            .help(
                "Maximum open streams per client address; all users of an office may share one \
                 address",
            )
            .advice("Lower it for home users, raise it for offices behind one address."),
        Key::route("limit.requests_per_ip", Shape::Count)
            .or_off()
            .example("200")
            .unset(|values, _| unset_requests_per_ip(values))
            .help(
                "Maximum requests in flight per client address that are not streams: waiting for a \
                 response, uploads, downloads, WebSockets; further requests get a 429. CORS \
                 preflights are counted separately, up to the same number; default: twice \
                 limit.per_ip, at least 200",
            )
            .advice("Raise it if many users share an address."),
        Key::route("limit.total", Shape::Count)
            .or_off()
            .default("10000")
            .help("Maximum open streams in all")
            .advice(
                "A stream takes two files: the limit of open files must be above twice this value; \
                 see LimitNOFILE of the systemd unit.",
            ),
        Key::route("limit.max_clients", Shape::Count)
            .default("65536")
            .help(
                "Maximum client addresses that are tracked; requests of further addresses get a \
                 503",
            ),
        Key::route("limit.rate", Shape::Rate)
            .or_off()
            .default("50/s")
            .help("Rate of new streams per client address, on average")
            .advice("Protects from clients that reconnect in a loop."),
        Key::route("limit.burst", Shape::Count)
            .default("100")
            .help("New streams that a client address may open at once, beyond limit.rate")
            .advice(
                "Set it at least to the number of streams that a page with many tabs opens when \
                 the network returns.",
            ),
        Key::proxy(KEY, Shape::Choice(LimitKey::WORDS))
            .default("address")
            .help(
                "What limits per client count by; address; or user: the user that admin.user_header or the \
                 client's certificate names, else the address",
            )
            .advice("Set it to user if many users share an address."),
        Key::proxy("limit.ipv6_prefix", Shape::Prefix)
            .default("64")
            .help("IPv6 addresses with this many leading bits in common count as one client")
            .advice(
                "A household usually has a /64, some have a /56 or a /48; a shorter prefix counts \
                 those as one client.",
            ),
        Key::route("limit.allow", Shape::Networks)
            .default("")
            .help("Networks that are neither limited nor counted, such as your monitoring"),
        Key::route("limit.reject", Shape::Choice(Reject::WORDS))
            .default("status")
            .help(
                "Response over the limit: status (429, 503), or retry-later (an empty stream; \
                 browsers reconnect)",
            )
            .advice(
                "Use retry-later for browsers: an EventSource gives up forever at any status other \
                 than 200.",
            ),
        Key::route("limit.retry_after", Shape::Duration)
            .default("5s")
            .help(
                "Delay that rejected clients, and clients of an unreachable upstream, get as \
                 Retry-After or retry:",
            ),
    ],
};

/// Limits on streams and requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Maximum open streams per client address; unlimited if `None`.
    pub per_ip: Option<NonZeroU32>,
    /// Maximum requests in flight per client address, except streams; unlimited if `None`.
    pub requests_per_ip: Option<NonZeroU32>,
    /// Maximum open streams in all; unlimited if `None`.
    pub total: Option<NonZeroU32>,
    /// Maximum tracked client addresses.
    pub max_clients: NonZeroU32,
    /// Rate of new streams per client address; unlimited if `None`.
    pub rate: Option<Rate>,
    /// New streams that may exceed `rate` at once.
    pub burst: NonZeroU32,
    /// What identifies a client.
    pub key: LimitKey,
    /// Leading bits of an IPv6 address that identify a client; 1 to 128.
    pub ipv6_prefix: u8,
    /// Clients that are exempt from limits per address.
    pub allow: Vec<IpNet>,
    /// The response to a client over the limit.
    pub reject: Reject,
    /// The delay that it gets before it may return; above zero.
    pub retry_after: Duration,
}

/// What limits per client count by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitKey {
    /// Its address.
    Address,
    /// Its user, else its address.
    User,
}

choice! { LimitKey {
    "address" => Address,
    "user" => User,
} }

/// The response to a client over the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reject {
    /// Status 429 or 503, at which a browser's `EventSource` gives up for good.
    Status,
    /// An empty event stream with a `retry:` line, after which it tries again.
    RetryLater,
}

choice! { Reject {
    "status" => Status,
    "retry-later" => RetryLater,
} }

/// Limits that a route sets itself and counts separately; all others are shared among routes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OwnCounts {
    /// Streams of each client.
    pub per_ip: bool,
    /// Requests of each client.
    pub requests_per_ip: bool,
    /// Streams in all.
    pub total: bool,
    /// How fast each client opens streams.
    pub rate: bool,
}

const KEY: &str = "limit.key";
const PER_IP: &str = "limit.per_ip";
const REQUESTS_PER_IP: &str = "limit.requests_per_ip";

impl Limit {
    pub(in super::super) fn read(scope: Scope<'_>) -> Result<Self, Mistake> {
        Ok(Self {
            per_ip: per_ip(scope)?,
            requests_per_ip: match scope.get_if_set(REQUESTS_PER_IP)? {
                Some(requests) => requests,
                None => default_requests_per_ip(per_ip(scope)?),
            },
            total: scope.get("limit.total")?,
            max_clients: scope.get("limit.max_clients")?,
            rate: scope.get("limit.rate")?,
            burst: scope.get("limit.burst")?,
            key: scope.get(KEY)?,
            ipv6_prefix: ipv6_prefix(scope)?,
            allow: allow(scope)?,
            reject: scope.get("limit.reject")?,
            retry_after: scope.get("limit.retry_after")?,
        })
    }

    /// The layer, which counts by the users or addresses of `clients`.
    pub(crate) fn layer(&self, clients: ForwardedIp) -> ConnectionLimitLayer<ClientKeys> {
        let clients = match self.key {
            LimitKey::Address => ClientKeys::addresses(clients),
            LimitKey::User => ClientKeys::users(clients, &self.allow),
        };
        let layer = ConnectionLimitLayer::with_extractor(clients)
            .per_client(self.per_ip.map(u32::from))
            .requests_per_client(self.requests_per_ip.map(u32::from))
            .total(self.total.map(u32::from))
            .max_clients(usize::try_from(self.max_clients.get()).unwrap_or(usize::MAX))
            .ipv6_prefix(self.ipv6_prefix)
            .allow(self.allow.iter().copied())
            .retry_after(self.retry_after)
            .reject(match self.reject {
                Reject::Status => connection_limit::Reject::Status,
                Reject::RetryLater => connection_limit::Reject::RetryLater,
            });
        match self.rate {
            Some(rate) => layer.rate(rate.count, rate.per, self.burst),
            None => layer,
        }
    }

    /// A key that no request has.
    pub(in super::super) fn unused_key(&self) -> Option<String> {
        (self.key == LimitKey::User).then(|| {
            format!(
                "{KEY} = \"user\" has no effect: set admin.user_header, or listener.tls.client_ca"
            )
        })
    }

    pub(in super::super) fn warning(&self) -> Option<String> {
        let (per_ip, total) = (self.per_ip?, self.total?);
        (per_ip > total).then(|| {
            format!(
                "limit.per_ip {per_ip} is above limit.total {total}: one client may take every \
                 stream"
            )
        })
    }
}

impl OwnCounts {
    /// Keys that only set the response to rejected clients, or exempt clients, leave the counts shared.
    pub(in super::super) fn read(scope: Scope<'_>) -> Self {
        let sets = |name| scope.overrides(name);
        // A bound that follows from the route's own streams is the route's own, too.
        let is_derived = sets(PER_IP) && scope.given(REQUESTS_PER_IP).is_none();
        Self {
            per_ip: sets(PER_IP),
            requests_per_ip: sets(REQUESTS_PER_IP) || is_derived,
            total: sets("limit.total"),
            rate: sets("limit.rate") || sets("limit.burst"),
        }
    }

    /// What the layer of the route counts by itself.
    pub(crate) fn separate(self) -> SeparateCounts {
        SeparateCounts {
            per_client: self.per_ip,
            requests: self.requests_per_ip,
            total: self.total,
            rate: self.rate,
        }
    }
}

/// Maximum open streams per client address; unlimited if `None`.
pub(super) fn per_ip(scope: Scope<'_>) -> Result<Option<NonZeroU32>, Mistake> {
    scope.get(PER_IP)
}

/// Leading bits of an IPv6 address that identify a client.
pub(super) fn ipv6_prefix(scope: Scope<'_>) -> Result<u8, Mistake> {
    scope.get("limit.ipv6_prefix")
}

/// Clients that are exempt from limits per address.
pub(super) fn allow(scope: Scope<'_>) -> Result<Vec<IpNet>, Mistake> {
    scope.get("limit.allow")
}

/// Requests for each stream that a client may have, and the least of them.
const REQUESTS_PER_STREAM: u32 = 2;
const MIN_REQUESTS: u32 = 200;

/// Any number if there may be any number of streams: these begin as requests, perhaps all at once.
fn default_requests_per_ip(streams: Option<NonZeroU32>) -> Option<NonZeroU32> {
    let requests = streams?.get().saturating_mul(REQUESTS_PER_STREAM);
    NonZeroU32::new(requests.max(MIN_REQUESTS))
}

fn unset_requests_per_ip(values: &AllValues) -> Option<String> {
    let limit = Limit::read(values.catch_all()?).ok()?;
    Some(count_or_off(limit.requests_per_ip))
}

#[cfg(test)]
mod tests {
    use super::OwnCounts;
    use crate::config::source::tests::config;

    #[test]
    fn own_counts_are_those_of_the_limits_that_a_route_sets() {
        let shared = OwnCounts::default();
        let cases = [
            ("retry_after = '1s'", shared),
            ("reject = 'retry-later'", shared),
            ("allow = ['10.0.0.0/8']", shared),
            ("max_clients = 5", shared),
            (
                "per_ip = 5",
                OwnCounts {
                    per_ip: true,
                    requests_per_ip: true,
                    ..shared
                },
            ),
            (
                "requests_per_ip = 5",
                OwnCounts {
                    requests_per_ip: true,
                    ..shared
                },
            ),
            (
                "total = 5",
                OwnCounts {
                    total: true,
                    ..shared
                },
            ),
            (
                "rate = 'off'",
                OwnCounts {
                    rate: true,
                    ..shared
                },
            ),
            (
                "burst = 7",
                OwnCounts {
                    rate: true,
                    ..shared
                },
            ),
        ];
        for (key, own) in cases {
            let text = format!("upstream.url = 'http://app'\n[[route]]\npath = '/v1'\nlimit.{key}");
            assert_eq!(config(&text).routes[0].own_counts, own, "{key}");
        }
        // A bound that is set for all routes does not follow from the route's streams.
        let text = "upstream.url = 'http://app'\nlimit.requests_per_ip = 9\n\
        [[route]]\npath = '/v1'\nlimit.per_ip = 1";
        assert!(!config(text).routes[0].own_counts.requests_per_ip);
    }
}
