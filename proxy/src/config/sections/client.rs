//! `[client]`: limits and socket options of client connections.

use std::num::NonZeroU32;
use std::time::Duration;

use ipnet::IpNet;

use super::super::given::{AllValues, Scope};
use super::super::key::{Key, Table};
use super::super::kind::{GIB, KIB, Shape};
use super::super::mistake::Mistake;
use super::super::unix::TrustedProxies;
use super::super::value::count_or_off;
use super::{limit, top};
use sse_guard::serve::Server;

pub(super) const TABLE: Table = Table {
    name: "client",
    about: "Connections of clients.",
    reference: "Connections of clients.",
    keys: &[
        Key::proxy("client.head_timeout", Shape::Duration)
            .default("75s")
            .help(
                "Time limit for a request's head, and for an idle connection; keep it above the \
                 idle timeout of your load balancer",
            )
            .advice(
                "Otherwise the load balancer reuses a connection that sse-guard has just closed, \
                 and responds with a 502.",
            ),
        Key::route("client.body_timeout", Shape::Duration)
            .default("60s")
            .help(
                "Time limit without a byte of a request's body, until the response begins; beyond \
                 it the client gets a 408",
            ),
        Key::proxy("client.max_head", Shape::Size(8 * KIB, GIB))
            .default("64KiB")
            .help("Maximum size of a request's head; a longer one gets a 431")
            .advice("Raise it if clients send large cookies or tokens."),
        Key::proxy("client.title_case_headers", Shape::Bool)
            .default("false")
            .help(
                "Send header names as Content-Type instead of content-type, for old clients that \
                 compare them byte by byte",
            ),
        Key::proxy("client.http2", Shape::Bool)
            .default("false")
            .help("Accept HTTP/2 without TLS, from clients that begin it with prior knowledge (h2c)")
            .advice("A load balancer that connects to its servers by h2c needs it."),
        Key::proxy("client.http2_max_streams", Shape::Count)
            .default("250")
            .help("Maximum requests, and so streams, that a client opens at a time over one HTTP/2 connection"),
        Key::proxy("client.http2_ping", Shape::Duration)
            .or_off()
            .default("60s")
            .help(
                "Send a PING on HTTP/2 connections with streams in this interval, and close one \
                 that does not respond within 20s",
            ),
        Key::proxy("client.write_stall", Shape::Duration)
            .or_off()
            .default("30s")
            .help("Reset a client that does not take waiting output, or 8 KiB of it, in this time")
            .advice(
                "Raise it for clients that sleep between reads; lower it to free memory sooner.",
            ),
        Key::proxy("client.notsent_lowat", Shape::Size(KIB, GIB))
            .or_off()
            .default("16KiB")
            .formerly("client.unsent")
            .help(
                "Maximum unsent bytes in the kernel (TCP_NOTSENT_LOWAT), so that slow clients get \
                 no stale events",
            )
            .advice("Raise it for few streams with much data over connections with high latency."),
        Key::proxy("client.send_buffer", Shape::Size(4 * KIB, GIB))
            .or_off()
            .default("off")
            .help(
                "Kernel send buffer (SO_SNDBUF), including sent bytes that are not acknowledged; \
                 off: the kernel's choice",
            )
            .advice(
                "Set it to bound the kernel's memory per client; it also bounds the throughput of \
                 connections with high latency.",
            ),
        Key::proxy("client.keepalive", Shape::Duration)
            .or_off()
            .default("60s")
            .help(
                "TCP keepalive: probe a client that has been idle for this long; \
                 client.user_timeout bounds the wait",
            ),
        Key::proxy("client.user_timeout", Shape::Duration)
            .or_off()
            .default("60s")
            .help("Drop a client that acknowledges nothing for this long (TCP_USER_TIMEOUT)")
            .advice("Lower it to detect sooner that a phone has lost its network."),
        Key::proxy("client.max_connections", Shape::Count)
            .or_off()
            .example("400")
            .unset(|values, _| unset_max_connections(values))
            .help(
                "Maximum connections per client address, except for trusted_proxies and \
                 limit.allow; default: four times the largest limit.per_ip, at least 32",
            )
            .advice(
                "Beyond it the oldest idle connection of the address is closed for a new one. \
                 \"off\": no limit.",
            ),
    ],
};

/// Limits and socket options of client connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// Time limit for a request's head; above zero.
    pub head_timeout: Duration,
    /// Maximum bytes of a request's head; 8 KiB or more.
    pub max_head: usize,
    /// Whether header names are sent as `Content-Type`.
    pub title_case_headers: bool,
    /// Maximum streams of an HTTP/2 connection.
    pub http2_max_streams: NonZeroU32,
    /// Interval of PINGs on an HTTP/2 connection; above zero; none if `None`.
    pub http2_ping: Option<Duration>,
    /// Time after which a client with pending output is reset; above zero; never if `None`.
    pub write_stall: Option<Duration>,
    /// Maximum unsent bytes in the kernel; the kernel's choice if `None`.
    pub notsent_lowat: Option<u32>,
    /// The kernel's send buffer in bytes; the kernel's choice if `None`.
    pub send_buffer: Option<usize>,
    /// Time without traffic after which TCP keepalive probes the client; above zero; never if `None`.
    pub keepalive: Option<Duration>,
    /// Time without an acknowledgement after which a client is dropped; above zero; the kernel's
    /// choice if `None`.
    pub user_timeout: Option<Duration>,
    /// Maximum connections per address; unlimited if `None`.
    pub max_connections: Option<NonZeroU32>,
    /// Leading bits of an IPv6 address that identify a client for that; 1 to 128.
    pub ipv6_prefix: u8,
    /// Networks that `max_connections` does not bound.
    pub unbounded: Vec<IpNet>,
}

impl Client {
    pub(in super::super) fn read(values: &AllValues) -> Result<Self, Mistake> {
        let proxy = values.proxy();
        Ok(Self {
            head_timeout: proxy.get("client.head_timeout")?,
            max_head: proxy.get("client.max_head")?,
            title_case_headers: proxy.get("client.title_case_headers")?,
            http2_max_streams: proxy.get("client.http2_max_streams")?,
            http2_ping: proxy.get("client.http2_ping")?,
            write_stall: proxy.get("client.write_stall")?,
            notsent_lowat: proxy.get("client.notsent_lowat")?,
            send_buffer: proxy.get("client.send_buffer")?,
            keepalive: proxy.get("client.keepalive")?,
            user_timeout: proxy.get("client.user_timeout")?,
            max_connections: match proxy.get_if_set("client.max_connections")? {
                Some(connections) => connections,
                None => default_max_connections(values)?,
            },
            ipv6_prefix: limit::ipv6_prefix(proxy)?,
            unbounded: unbounded(values)?,
        })
    }

    /// A server with these limits and socket options.
    pub(crate) fn server(&self) -> Server {
        Server::new()
            .head_timeout(self.head_timeout)
            .max_head(self.max_head)
            .title_case_headers(self.title_case_headers)
            .http2_max_streams(self.http2_max_streams.get())
            .http2_ping_interval(self.http2_ping)
            .write_stall(self.write_stall)
            .response_stall(self.write_stall)
            .notsent_lowat(self.notsent_lowat)
            .send_buffer(self.send_buffer)
            .keepalive(self.keepalive)
            .user_timeout(self.user_timeout)
            .max_connections_per_client(self.max_connections.map(u32::from))
            .ipv6_prefix(self.ipv6_prefix)
            .unbounded_clients(self.unbounded.iter().copied())
    }

    /// A limit on connections below that on streams: beyond it a client gets no response, not even a 429.
    pub(in super::super) fn warning(
        &self,
        streams_per_ip: impl Iterator<Item = Option<NonZeroU32>>,
    ) -> Option<String> {
        let connections = self.max_connections?;
        let streams = streams_per_ip.flatten().max()?;
        (connections < streams).then(|| {
            format!(
                "client.max_connections {connections} is below limit.per_ip {streams}: the client's \
                 connections are closed before it reaches its limit of streams"
            )
        })
    }
}

/// Whether HTTP/2 is accepted without TLS, where no listener has a setting of its own.
pub(super) fn http2(proxy: Scope<'_>) -> Result<bool, Mistake> {
    proxy.get("client.http2")
}

/// The time limit without a byte of a request's body, which is up to the route.
pub(in super::super) fn body_timeout(scope: Scope<'_>) -> Result<Duration, Mistake> {
    scope.get("client.body_timeout")
}

/// Connections for each stream that a client may have: some wait between two requests.
const CONNECTIONS_PER_STREAM: u32 = 4;
/// A browser alone has six, and a few may share an address.
const MIN_CONNECTIONS: u32 = 32;

/// Any number if a route allows any number of streams.
fn default_max_connections(values: &AllValues) -> Result<Option<NonZeroU32>, Mistake> {
    let mut most = None;
    for route in values.routes() {
        match limit::per_ip(route)? {
            None => return Ok(None),
            streams => most = most.max(streams),
        }
    }
    Ok(most.and_then(|streams| {
        let connections = streams.get().saturating_mul(CONNECTIONS_PER_STREAM);
        NonZeroU32::new(connections.max(MIN_CONNECTIONS))
    }))
}

/// Proxies carry many clients, and what any route's limit allows is not limited here either.
fn unbounded(values: &AllValues) -> Result<Vec<IpNet>, Mistake> {
    let TrustedProxies { mut networks, .. } = top::trusted_proxies(values.proxy())?;
    for route in values.routes() {
        networks.extend(limit::allow(route)?);
    }
    networks.sort_unstable();
    networks.dedup();
    Ok(networks)
}

fn unset_max_connections(values: &AllValues) -> Option<String> {
    let connections = default_max_connections(values).ok()?;
    Some(count_or_off(connections))
}
