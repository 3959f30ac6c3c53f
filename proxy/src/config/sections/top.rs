//! The keys outside of any table: addresses, trusted proxies, threads and the family.

use std::num::NonZeroU32;

use super::super::given::Scope;
use super::super::key::{Key, Table};
use super::super::kind::Shape;
use super::super::mistake::Mistake;
use super::super::unix::TrustedProxies;
use super::super::value::{Choice, choice};
use sse_guard::family::Family;

pub(super) const TABLE: Table = Table {
    name: "",
    about: "",
    reference: "Addresses, trusted proxies and threads.",
    keys: &[
        Key::proxy(LISTEN, Shape::ListenAll)
            .default("127.0.0.1:8080")
            .help(
                "Address to accept clients on, or a list of several; :8080 for all interfaces, \
                 IPv4 and IPv6; localhost stands for 127.0.0.1; unix:/run/sse-guard.sock for a \
                 Unix socket; fd:NAME for a socket that the service manager passes",
            )
            .advice(
                "Keep loopback, or use a Unix socket, if TLS is terminated on the same machine. For \
                 addresses with settings of their own, use [[listener]] in its place.",
            ),
        Key::proxy("listen_mode", Shape::Mode)
            .default("660")
            .help("Permissions of the socket file, if listen is a Unix socket")
            .advice("With 660 the group of listen_owner can connect; 666 lets every user connect."),
        Key::proxy("listen_owner", Shape::Filled)
            .or_off()
            .default("off")
            .help(
                "Owner of the socket file, if listen is a Unix socket: user:group, user or :group, by \
                 name or number",
            )
            .advice(
                "Such as \":www-data\" for nginx. The process must be root, or a member of the \
                 group.",
            ),
        Key::proxy("takeover", Shape::Choice(Takeover::WORDS))
            .default("drain")
            .help(
                "When another sse-guard of the same user may listen on the same addresses \
                 (SO_REUSEPORT); drain: while this one drains; always; or off",
            )
            .advice(
                "With drain, restart by SIGTERM, then start the next process at once; a second \
                 copy started by mistake fails. With always, which both processes need, the next \
                 one may also start first, but a copy started by mistake shares the port. Linux \
                 only.",
            ),
        Key::proxy("trusted_proxies", Shape::Proxies)
            .default("unix")
            .help(
                "Networks of proxies whose forwarding headers are trusted, such as your load \
                 balancer's; unix for those that connect to a Unix socket",
            )
            .advice(
                "Set it if a load balancer is in front: otherwise all of its clients count as one, \
                 and limit.per_ip rejects them. Example: [\"10.0.0.0/8\"].",
            ),
        Key::proxy("trusted_header", Shape::Choice(TrustedHeader::WORDS))
            .default("x-forwarded-for")
            .help(
                "Header from which the client's address is read behind trusted proxies; host and \
             protocol are read from its family of headers (X-Forwarded-* or Forwarded). The \
             proxies must overwrite it or append to it",
            )
            .advice("See the load balancer's manual for the one that it writes."),
        Key::proxy("threads", Shape::Count)
            .example("2")
            .unset(|_, _| cores())
            .help("Worker threads; default: one per core that this process may use")
            .advice("Set fewer to leave cores to other processes on the machine."),
        Key::route(
            "family",
            Shape::Choice(&["auto", "eventsource", "openai", "anthropic", "mcp", "raw"]),
        )
        .default("auto")
        .help(
            "Client family; selects the heartbeat, retry and error format. auto: detected from the \
             request and the first event",
        )
        .advice(
            "Auto treats a GET for text/event-stream as eventsource, whose clients reconnect, and \
             detects the SDKs of OpenAI, Anthropic and MCP by their headers. Set a family if \
             clients are not detected, if a POST is a feed, if clients read a feed with Accept: \
             */* (curl, requests), or if client headers must not decide. One of auto, eventsource, \
             openai, anthropic, mcp, raw.",
        ),
    ],
};

/// When another process may listen on the addresses of this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takeover {
    /// Once this one stops.
    Drain,
    /// At any time.
    Always,
    /// Never.
    Off,
}

choice! { Takeover {
    "drain" => Drain,
    "always" => Always,
    "off" => Off,
} }

impl Takeover {
    pub(in super::super) fn read(proxy: Scope<'_>) -> Result<Self, Mistake> {
        proxy.get("takeover")
    }
}

/// A header that names the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrustedHeader {
    /// `X-Forwarded-For`.
    XForwardedFor,
    /// `Forwarded`, RFC 7239.
    Forwarded,
}

choice! { TrustedHeader {
    "x-forwarded-for" => XForwardedFor,
    "forwarded" => Forwarded,
} }

impl TrustedHeader {
    pub(in super::super) fn read(proxy: Scope<'_>) -> Result<Self, Mistake> {
        proxy.get("trusted_header")
    }
}

/// The key of the address for clients.
pub(in super::super) const LISTEN: &str = "listen";

/// The peers whose forwarding headers are trusted.
pub(in super::super) fn trusted_proxies(proxy: Scope<'_>) -> Result<TrustedProxies, Mistake> {
    proxy.get("trusted_proxies")
}

/// The number of worker threads; one per core if it is not set.
pub(in super::super) fn threads(proxy: Scope<'_>) -> Result<Option<NonZeroU32>, Mistake> {
    proxy.get_if_set("threads")
}

fn cores() -> Option<String> {
    let cores = std::thread::available_parallelism().ok()?;
    Some(format!("{cores}, one per core"))
}

/// None for `auto`.
pub(in super::super) fn family(scope: Scope<'_>) -> Result<Option<Family>, Mistake> {
    let word: String = scope.get("family")?;
    let mut all = Family::ALL.iter().copied();
    Ok(all.find(|family| family.as_str() == word))
}

/// Trust that lets any client claim any address, or makes all clients on a Unix socket one.
pub(in super::super) fn warnings(
    trusted_proxies: &TrustedProxies,
    is_unix_listened_on: bool,
) -> impl Iterator<Item = String> + use<> {
    let mut networks = trusted_proxies.networks.iter();
    let all = networks.any(|network| network.prefix_len() == 0).then(|| {
        "trusted_proxies trusts every address: any client can then claim any address; list only \
         the networks of your proxies"
            .to_owned()
    });
    let no_unix = (is_unix_listened_on && !trusted_proxies.unix).then(|| {
        "clients on a Unix socket have no address, and limits per client count them as one: add \
         \"unix\" to trusted_proxies if a proxy connects to listen"
            .to_owned()
    });
    all.into_iter().chain(no_unix)
}
