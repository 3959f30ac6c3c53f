//! The typed configuration of the proxy.
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
use sse_guard::CacheControl;
use sse_guard::family::Family;
use sse_guard::idle_timeout::EventTimeout;

/// The whole configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Address for clients.
    pub listen: SocketAddr,
    /// When another process may listen there, too.
    pub takeover: Takeover,
    /// Peers whose forwarding headers are trusted; none by default.
    pub trusted_proxies: Vec<IpNet>,
    /// The header in which those peers name the client.
    pub trusted_header: TrustedHeader,
    /// How paths are matched and forwarded.
    pub normalize: Normalize,
    /// Worker threads; one per core if `None`.
    pub threads: Option<NonZeroU32>,
    /// Limits and socket options of client connections.
    pub client: Client,
    /// Budgets of the process.
    pub budgets: Budgets,
    /// The admin address.
    pub admin: Admin,
    /// Interval of checks for changes of the config file; never if `None`.
    pub watch: Option<Duration>,
    /// Upstreams that must be reachable for the proxy to be ready.
    pub ready_when: ReadyWhen,
    /// How the process stops.
    pub drain: Drain,
    /// Log format and level.
    pub log: Log,
    /// The limits whose counts routes share.
    pub limit: Limit,
    /// The routes, first match first; at least one.
    ///
    /// With a top-level upstream, the last route matches every path. Without one, a request may
    /// match no route.
    pub routes: Vec<Route>,
    /// Warnings about valid, but probably unintended settings, one sentence each.
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

/// Upstreams that must be reachable for the proxy to be ready.
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
    /// Time for which everything is served while readiness is red; may be zero.
    pub delay: Duration,
    /// Time over which streams then end; zero ends them at once.
    pub window: Duration,
    /// Time limit for streams that are not rotated, from the start of the window; not shorter than it.
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

/// Limits and socket options of client connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// Time limit for a request's head; above zero.
    pub head_timeout: Duration,
    /// Maximum bytes of a request's head; 8 KiB or more.
    pub max_head: usize,
    /// Whether header names are sent as `Content-Type`.
    pub title_case_headers: bool,
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

/// Budgets of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budgets {
    /// Memory in bytes; default: the container's limit.
    pub memory: Budget,
    /// Open files; default: the limit of the process.
    pub files: Budget,
}

/// A budget of memory or files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Budget {
    /// The limit of the system.
    Auto,
    /// This amount; above zero.
    Of(u64),
    /// No budget.
    Off,
}

/// The admin address.
#[derive(Clone, PartialEq, Eq)]
pub struct Admin {
    /// Its address; no admin address if `None`. Any address other than loopback implies a token.
    pub listen: Option<SocketAddr>,
    /// Bearer token that requests must contain; none if `None`.
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

/// Log format and level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    /// Format of log lines.
    pub format: LogFormat,
    /// Lowest severity that is logged.
    pub level: Level,
    /// Maximum rate of logged streams; all of them if `None`.
    pub stream_rate: Option<Rate>,
    /// Which requests that do not become event streams are logged.
    pub requests: LogRequests,
    /// How those are written.
    pub requests_format: RequestsFormat,
}

/// Which requests that do not become event streams are logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogRequests {
    /// None.
    Off,
    /// Those with status 400 and above, but for those that a limit rejects.
    Errors,
    /// All.
    All,
}

/// How lines of single requests are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestsFormat {
    /// As other lines.
    Log,
    /// The Combined Log Format, on standard output.
    Combined,
}

/// Format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Severity of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Something failed.
    Error,
    /// Something is unusual.
    Warn,
    /// Something happened.
    Info,
    /// Details for operators.
    Debug,
    /// Details for developers.
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

/// A route: paths and their settings.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// The paths.
    pub path: RoutePath,
    /// Their settings.
    pub settings: Settings,
    /// Limits that it counts separately from other routes.
    pub own_counts: OwnCounts,
}

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

/// Settings that a route may override.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Client family; detected per stream if `None`.
    pub family: Option<Family>,
    /// The upstream of a route.
    pub upstream: Upstream,
    /// What becomes of the `Cache-Control` of an event stream.
    pub cache_control: CacheControl,
    /// Response to an `EventSource` while the upstream is unavailable.
    pub unavailable: Unavailable,
    /// Heartbeats.
    pub heartbeat: Heartbeat,
    /// Origins that may read responses sent in place of the upstream's.
    pub cors: Origins,
    /// Early answers.
    pub early: Early,
    /// Timeouts of silent upstreams.
    pub idle: Idle,
    /// Limits on streams and requests.
    pub limit: Limit,
    /// Rotation of old streams.
    pub rotation: Rotation,
    /// Resume after the loss of an upstream; off if `None`.
    pub resume: Option<Resume>,
    /// Whether the family's last event is required.
    pub completion_required: bool,
    /// Thresholds of its health.
    pub health: Health,
}

/// Resume after the loss of an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resume {
    /// Whether streams without event ids are resumed, too.
    pub lossy: bool,
    /// Whether streams that the upstream ends are resumed, too.
    pub on_end: bool,
    /// Maximum delay before the first attempt; above zero.
    pub backoff: Duration,
    /// Maximum delay before any attempt; above zero.
    pub max_backoff: Duration,
    /// Maximum attempts; unlimited if `None`.
    pub attempts: Option<NonZeroU32>,
    /// Time without the upstream after which a stream fails; above zero.
    pub give_up: Duration,
    /// Age at which a connection counts as stable; above zero.
    pub reset_after: Duration,
    /// Number of remembered event ids.
    pub dedup_window: NonZeroU32,
    /// Rate of reconnect attempts; unlimited if `None`.
    pub rate: Option<Rate>,
    /// Maximum concurrent reconnect attempts.
    pub max_concurrent: NonZeroU32,
    /// Age at which its connection is replaced; never if `None`.
    pub max_connection_age: Option<Duration>,
}

/// Health thresholds of a route; `None` switches a threshold off, except for the comparison with
/// the baseline.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Health {
    /// Whether event rate, gaps and first events without a threshold are compared with the previous
    /// 15 minutes.
    pub baseline: bool,
    /// Minimum event rate per stream.
    pub min_event_rate: Option<Rate>,
    /// Maximum time to the first event, 95th percentile; above zero.
    pub max_first_event_p95: Option<Duration>,
    /// Maximum gap between events, 99th percentile; above zero.
    pub max_gap_p99: Option<Duration>,
    /// Share of requests that fail, and of ends that are breaks; 0 to 1.
    pub max_error_rate: Option<f64>,
    /// Share of early ends among those by the upstream, of streams whose clients reconnect; 0 to 1.
    pub early_ends: Option<f64>,
    /// Share of the streams that came back in a minute; 0 to 1.
    pub reconnects: Option<f64>,
}

/// The upstream of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// An absolute `http` URL with a host, and without credentials, query and fragment.
    pub url: Uri,
    /// Time limit for connecting; above zero.
    pub connect_timeout: Duration,
    /// How long a connection to it is kept without a request; above zero.
    pub idle_timeout: Duration,
    /// Time limit for the response head; above zero.
    pub head_timeout: Duration,
    /// Time limit without a byte of a request's body; above zero.
    pub body_timeout: Duration,
    /// Maximum requests that wait for a response head; unlimited if `None`.
    pub max_pending: Option<NonZeroU32>,
    /// Maximum bytes of a request's body; unlimited if `None`.
    pub max_body: Option<u64>,
    /// Time without traffic after which TCP keepalive probes the upstream; above zero; never if `None`.
    pub keepalive: Option<Duration>,
    /// Time without an acknowledgement after which the upstream's connection is dropped; above
    /// zero; the kernel's choice if `None`.
    pub user_timeout: Option<Duration>,
    /// How many bytes the head of a response may have; 8 KiB or more.
    pub max_head: usize,
    /// Whether header names are sent as `Content-Type`.
    pub title_case_headers: bool,
    /// The kernel's receive buffer in bytes; the kernel's choice if `None`.
    pub receive_buffer: Option<usize>,
    /// Time without a byte after which a tunnel is closed; above zero; never if `None`.
    pub tunnel_idle_timeout: Option<Duration>,
    /// Its active health checks.
    pub health_check: HealthCheck,
}

/// Active health checks of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// Time between two checks; above zero; no checks if `None`.
    pub interval: Option<Duration>,
    /// Path to GET, from the root of the host on; if `None`, to connect is enough.
    pub path: Option<PathAndQuery>,
}

/// Response to an `EventSource` while the upstream is unavailable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unavailable {
    /// A stream that waits for the upstream, if it may be resumed; else as `RetryLater`.
    Wait,
    /// An empty event stream with a `retry:` line, after which it reconnects.
    RetryLater,
    /// The status, at which it gives up for good.
    Status,
}

/// Heartbeats.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// Time without output after which a heartbeat is sent; above zero; never if `None`.
    pub interval: Option<Duration>,
    /// The form of the heartbeat.
    pub style: Style,
    /// Whether the first heartbeat is sent at once; depends on the family if `None`.
    pub immediate: Option<bool>,
}

/// The form of a heartbeat; its texts have no line breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Style {
    /// Selected by the family.
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

/// Origins that may read responses sent in place of the upstream's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origins {
    /// Origins that the upstream has allowed.
    Upstream,
    /// Any.
    Any,
    /// These, as browsers write them; at least one.
    List(Vec<String>),
    /// None.
    Off,
}

/// Early answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Early {
    /// Whether early answers are on.
    pub enabled: bool,
    /// Time without a response head after which they begin; above zero.
    pub after: Duration,
}

/// Timeouts of silent upstreams, and how their streams end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idle {
    /// Time limit without a byte; above zero; none if `None`.
    pub timeout: Option<Duration>,
    /// Time limit without an event with data; above zero.
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
    /// Leading bits of an IPv6 address that identify a client; 1 to 128.
    pub ipv6_prefix: u8,
    /// Clients that are exempt from limits per address.
    pub allow: Vec<IpNet>,
    /// The response to a client over the limit.
    pub reject: Reject,
    /// The delay that it gets before it may return; above zero.
    pub retry_after: Duration,
}

/// A count per unit of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// The count.
    pub count: NonZeroU32,
    /// The unit of time: a second, a minute or an hour.
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

/// Rotation of old streams.
#[derive(Clone, Debug, PartialEq)]
pub struct Rotation {
    /// Age at which a stream is ended; above zero; never if `None`.
    pub max_age: Option<Duration>,
    /// Share of `max_age` by which ends are spread; 0 to 1.
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
