//! What the proxy runs by: the typed configuration.
//!
//! Every value in here is valid, alone and together with the others; only [`load`](super::load)
//! makes one.

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use http::uri::PathAndQuery;
use http::{HeaderName, Method, Uri};
use ipnet::IpNet;

use super::super::path::Normalize;
use super::RoutePath;
use crate::family::Family;
use crate::idle_timeout::EventTimeout;

/// The whole configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Where clients connect.
    pub listen: SocketAddr,
    /// When another process may listen there, too.
    pub takeover: Takeover,
    /// Peers whose forwarding headers are trusted; none by default.
    pub trusted_proxies: Vec<IpNet>,
    /// The header in which those peers name the client.
    pub trusted_header: TrustedHeader,
    /// How the paths of requests are taken.
    pub normalize: Normalize,
    /// How many threads serve; one per core if `None`.
    pub threads: Option<NonZeroU32>,
    /// What clients may take and are given.
    pub client: Client,
    /// What the process may take.
    pub budgets: Budgets,
    /// The admin address.
    pub admin: Admin,
    /// How often the config file is looked at; never if `None`.
    pub watch: Option<Duration>,
    /// Which upstreams have to be reachable for the proxy to be ready.
    pub ready_when: ReadyWhen,
    /// How the process stops.
    pub drain: Drain,
    /// How and how much is logged.
    pub log: Log,
    /// The limits whose counts routes share.
    pub limit: Limit,
    /// The routes, first match first; at least one.
    ///
    /// If there is an upstream for the proxy as a whole, the last route takes every path. If there
    /// is none, a request may match no route.
    pub routes: Vec<Route>,
    /// What is allowed but hardly meant, one sentence each.
    pub warnings: Vec<String>,
}

impl Config {
    /// The route of a request for this path, given without its query.
    #[must_use]
    pub fn route_for(&self, path: &str) -> Option<&Route> {
        self.routes.iter().find(|route| route.path.matches(path))
    }

    /// The route with whose settings the upstream at this URL is checked: the first with a health check.
    #[must_use]
    pub fn checked_by(&self, url: &Uri) -> Option<&Route> {
        self.routes.iter().find(|route| {
            let upstream = &route.settings.upstream;
            upstream.url == *url && upstream.health_check.interval.is_some()
        })
    }
}

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

/// Which upstreams have to be reachable for the proxy to be ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadyWhen {
    /// One of them.
    Any,
    /// Each of them.
    All,
    /// Those of these routes, at least one, by their paths.
    Routes(Vec<String>),
}

/// How the process stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    /// How long everything is served while readiness is red; zero for no time.
    pub delay: Duration,
    /// Over how long streams end then; zero ends them at once.
    pub window: Duration,
    /// How long answers in pieces may go on, from the start of the window; not shorter than it.
    pub answers: Duration,
}

/// A header that names the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrustedHeader {
    /// `X-Forwarded-For`.
    XForwardedFor,
    /// `Forwarded`, RFC 7239.
    Forwarded,
}

/// What clients may take and are given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// How long a request's head may take; above zero.
    pub head_timeout: Duration,
    /// How many bytes it may have; 8 KiB or more.
    pub max_head: usize,
    /// How long the output that waits for a client may wait; above zero; forever if `None`.
    pub write_stall: Option<Duration>,
    /// How many bytes may wait in the kernel unsent; the kernel's choice if `None`.
    pub notsent_lowat: Option<u32>,
    /// The kernel's send buffer in bytes; the kernel's choice if `None`.
    pub send_buffer: Option<usize>,
    /// Time without traffic after which TCP keepalive probes the client; above zero; never if `None`.
    pub keepalive: Option<Duration>,
    /// How long a client may acknowledge nothing; above zero; the kernel's choice if `None`.
    pub user_timeout: Option<Duration>,
    /// How many connections one address may have; any number if `None`.
    pub max_connections: Option<NonZeroU32>,
    /// Leading bits of an IPv6 address that identify a client for that; 1 to 128.
    pub ipv6_prefix: u8,
    /// Networks that `max_connections` does not bound.
    pub unbounded: Vec<IpNet>,
}

/// What the process may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budgets {
    /// In bytes; by itself the container's limit.
    pub memory: Budget,
    /// Open ones; by itself the limit of the process.
    pub files: Budget,
}

/// How much may be taken of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Budget {
    /// What the system allows.
    Auto,
    /// So much; above zero.
    Of(u64),
    /// Whatever there is.
    Off,
}

/// The admin address.
#[derive(Clone, PartialEq, Eq)]
pub struct Admin {
    /// Where; nowhere if `None`. Other than loopback there is a token.
    pub listen: Option<SocketAddr>,
    /// What callers have to show; nothing if `None`.
    pub token: Option<String>,
    /// The header that names a stream's user.
    pub user_header: Option<HeaderName>,
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin")
            .field("listen", &self.listen)
            .field("token", &self.token.as_ref().map(|_| "..."))
            .field("user_header", &self.user_header)
            .finish()
    }
}

/// How and how much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    /// How lines are written.
    pub format: LogFormat,
    /// The least severe level that is written.
    pub level: Level,
    /// How many streams are logged; all of them if `None`.
    pub stream_rate: Option<Rate>,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// How severe a log line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Something failed.
    Error,
    /// Something is odd.
    Warn,
    /// Something happened.
    Info,
    /// Kinds of log output for operators.
    Debug,
    /// Kinds of log output for developers.
    Trace,
}

impl Level {
    /// The level's name in lower case, as log filters take it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// Some paths and what holds for them.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// The paths.
    pub path: RoutePath,
    /// What holds for them.
    pub settings: Settings,
    /// What it counts apart from the other routes.
    pub own_counts: OwnCounts,
}

/// Which limits a route sets, and so counts apart; the others are shared by all routes that do not.
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

/// Everything that a route may have its own way.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// What kind of streams they are; as each of them shows if `None`.
    pub family: Option<Family>,
    /// Where requests go.
    pub upstream: Upstream,
    /// What an `EventSource` gets while the upstream is unavailable.
    pub unavailable: Unavailable,
    /// What keeps quiet streams open.
    pub heartbeat: Heartbeat,
    /// Which origins may read answers given in place of the upstream.
    pub cors: Origins,
    /// When clients are answered ahead of a slow upstream.
    pub early: Early,
    /// When a silent upstream is given up.
    pub idle: Idle,
    /// How many streams there may be.
    pub limit: Limit,
    /// When old streams are ended.
    pub rotation: Rotation,
    /// How streams outlive their upstream; not at all if `None`.
    pub resume: Option<Resume>,
    /// Whether the family's last event is required.
    pub completion_required: bool,
    /// From when on it is not well.
    pub health: Health,
}

/// How streams outlive their upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resume {
    /// Whether also without ids.
    pub lossy: bool,
    /// Whether also when the upstream ends them.
    pub on_end: bool,
    /// The longest wait before the first try; above zero.
    pub backoff: Duration,
    /// The longest wait before any; above zero.
    pub max_backoff: Duration,
    /// Any number if `None`.
    pub attempts: Option<NonZeroU32>,
    /// How long one may be without its upstream; above zero.
    pub give_up: Duration,
    /// How long a connection has to last to count as good; above zero.
    pub reset_after: Duration,
    /// How many ids are remembered.
    pub dedup_window: NonZeroU32,
    /// Rate of reconnect attempts; unlimited if `None`.
    pub rate: Option<Rate>,
    /// Maximum concurrent reconnect attempts.
    pub max_concurrent: NonZeroU32,
    /// At which age its connection is replaced; never if `None`.
    pub max_connection_age: Option<Duration>,
}

/// From when on a route is not well; a bound of `None` is not looked at, but for what is learnt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Health {
    /// Whether the last quarter of an hour is a bound for event rate, gap and first event where
    /// none is set.
    pub baseline: bool,
    /// Events that a stream should get.
    pub min_event_rate: Option<Rate>,
    /// When 95 % of the streams should have had their first event; above zero.
    pub max_first_event_p95: Option<Duration>,
    /// What 99 % of the pauses should not exceed; above zero.
    pub max_gap_p99: Option<Duration>,
    /// Share of requests that fail, and of ends that are breaks; 0 to 1.
    pub max_error_rate: Option<f64>,
    /// Share of early ends among those by the upstream, of streams whose clients reconnect; 0 to 1.
    pub early_ends: Option<f64>,
    /// Share of the streams that came back in a minute; 0 to 1.
    pub reconnects: Option<f64>,
}

/// Where requests go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// An absolute `http` URL with a host, and without credentials, query and fragment.
    pub url: Uri,
    /// How long connecting may take; above zero.
    pub connect_timeout: Duration,
    /// How long the response head may take; above zero.
    pub head_timeout: Duration,
    /// How long the client may send nothing of a request's body; above zero.
    pub body_timeout: Duration,
    /// How many requests may wait for it; any number if `None`.
    pub max_pending: Option<NonZeroU32>,
    /// How many bytes a request's body may have; any number if `None`.
    pub max_body: Option<u64>,
    /// Time without traffic after which TCP keepalive probes the upstream; above zero; never if `None`.
    pub keepalive: Option<Duration>,
    /// How long an upstream may acknowledge nothing; above zero; the kernel's choice if `None`.
    pub user_timeout: Option<Duration>,
    /// The kernel's receive buffer in bytes; the kernel's choice if `None`.
    pub receive_buffer: Option<usize>,
    /// How long nothing may pass through a tunnel to it; above zero; any time if `None`.
    pub tunnel_idle_timeout: Option<Duration>,
    /// How it is checked without a request of a client.
    pub health_check: HealthCheck,
}

/// How an upstream is checked without a request of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// Time between two checks; above zero; no checks if `None`.
    pub interval: Option<Duration>,
    /// Path to GET, from the root of the host on; if `None`, to connect is enough.
    pub path: Option<PathAndQuery>,
}

/// What an `EventSource` gets while the upstream is unavailable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unavailable {
    /// A stream that waits for the upstream, if it may be resumed; else as `RetryLater`.
    Wait,
    /// An empty event stream with a `retry:` line, after which it reconnects.
    RetryLater,
    /// The status, at which it gives up for good.
    Status,
}

/// What keeps quiet streams open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// Time without output after which a heartbeat is sent; above zero; never if `None`.
    pub interval: Option<Duration>,
    /// The form of the heartbeat.
    pub style: Style,
    /// Whether the first one comes at once; as the family has it if `None`.
    pub immediate: Option<bool>,
}

/// What a heartbeat looks like; no text in it has a line break.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Style {
    /// As fits the family.
    Auto {
        /// Of a comment, where that fits; perhaps empty.
        text: String,
    },
    /// A comment line without a blank line.
    Line {
        /// The comment, perhaps empty.
        text: String,
    },
    /// A comment line and a blank line.
    Block {
        /// The comment, perhaps empty.
        text: String,
    },
    /// An event.
    Event {
        /// Its name, not empty.
        name: String,
        /// Its data, not empty.
        data: String,
    },
}

/// Which origins may read answers given in place of the upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origins {
    /// Those that the upstream was seen to allow.
    Upstream,
    /// Any.
    Any,
    /// These, as browsers write them; at least one.
    List(Vec<String>),
    /// None.
    Off,
}

/// When clients are answered ahead of a slow upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Early {
    /// Whether they are.
    pub enabled: bool,
    /// After how long without a head; above zero.
    pub after: Duration,
}

/// When a silent upstream is given up, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idle {
    /// How long no byte may come; above zero; forever if `None`.
    pub timeout: Option<Duration>,
    /// How long no event with data may come; above zero.
    pub event_timeout: EventTimeout,
    /// How the stream ends.
    pub action: IdleAction,
    /// The name of the last event of [`IdleAction::ErrorEvent`]; one line, not empty.
    pub error_event: String,
    /// The data of that event; one line, not empty.
    pub error_data: String,
    /// Names of events that `event_timeout` does not count.
    pub ignore_events: Vec<String>,
}

/// How a stream with a silent upstream ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdleAction {
    /// `Close` where clients come back, else `Abort`.
    Auto,
    /// As a complete response.
    Close,
    /// With a last event that names the reason, then as a complete response.
    ErrorEvent,
    /// As a broken transfer.
    Abort,
}

/// How many streams there may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// At once per client address; any number if `None`.
    pub per_ip: Option<NonZeroU32>,
    /// Requests in flight per client address, streams excepted; any number if `None`.
    pub requests_per_ip: Option<NonZeroU32>,
    /// At once in all; any number if `None`.
    pub total: Option<NonZeroU32>,
    /// How many client addresses are kept count of.
    pub max_clients: NonZeroU32,
    /// New ones per client address; any number if `None`.
    pub rate: Option<Rate>,
    /// How many new ones may come ahead of `rate`.
    pub burst: NonZeroU32,
    /// Leading bits of an IPv6 address that identify a client; 1 to 128.
    pub ipv6_prefix: u8,
    /// Clients that no limit per address holds for.
    pub allow: Vec<IpNet>,
    /// The response to a client over the limit.
    pub reject: Reject,
    /// The delay that it gets before it may return; above zero.
    pub retry_after: Duration,
}

/// A count per unit of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many.
    pub count: NonZeroU32,
    /// In how long: a second, a minute or an hour.
    pub per: Duration,
}

/// The response to a client over the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reject {
    /// Status 429 or 503, at which a browser's `EventSource` gives up for good.
    Status,
    /// An empty event stream with a `retry:` line, after which it tries again.
    RetryLater,
}

/// When old streams are ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Rotation {
    /// At which age; above zero; never if `None`.
    pub max_age: Option<Duration>,
    /// By which share of `max_age` ends are spread; 0 to 1.
    pub jitter: f64,
    /// The delay before the client reconnects; above zero.
    pub retry: Duration,
    /// The same, sent with the first event; above zero; not sent if `None`.
    pub retry_on_open: Option<Duration>,
    /// Methods whose streams are rotated, at least one; depends on the family if `None`.
    pub methods: Option<Vec<Method>>,
    /// Name and data of a last event, each one line and not empty.
    pub event: Option<(String, String)>,
}
