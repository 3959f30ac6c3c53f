//! `[upstream]`: the server that requests are forwarded to.

pub(in super::super) mod tls;

use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU32;
use std::path::Path;
use std::time::Duration;

use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, FORWARDED, HOST, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::uri::Scheme;
use http::{HeaderName, HeaderValue, Uri};

use super::super::given::{AllValues, Scope, URL};
use super::super::key::{Key, Table};
use super::super::kind::{GIB, KIB, Shape};
use super::super::listen_address::ListenAddress;
use super::super::mistake::Mistake;
use super::super::unix::unix_socket;
use super::super::value::{Choice, FromValue, Value, choice};
use super::health_check::HealthCheck;
use super::{client, tunnel};
use crate::tls::ClientTls;
use sse_guard::CacheControl;
use sse_guard::unavailable::UnavailableLayer;

const HTTP2: &str = "upstream.http2";

pub(super) const TABLE: Table = Table {
    name: "upstream",
    about: "The server that requests are forwarded to.",
    reference: "The server that requests are forwarded to.",
    keys: &[
        Key::route(URL, Shape::Url)
            .alias("upstream")
            .example("\"http://127.0.0.1:3000\"")
            .help(
                "Server to forward to, such as http://127.0.0.1:3000 or https://api.example, or \
                 unix:/run/app.sock; unix:/run/app.sock:/base for requests below a path",
            )
            .advice("Required, here or in each route."),
        Key::route("upstream.host", Shape::UpstreamHost)
            .default("auto")
            .help(
                "Host field of requests to the upstream; pass: that of the client; upstream: host and \
                 port of upstream.url, or localhost for a Unix socket; auto: upstream for an https:// \
                 URL, else pass; or a host such as app.example",
            )
            .advice(
                "Set it if the upstream serves several sites by name. X-Forwarded-Host and Forwarded \
                 have the client's host in any case. Health checks send the host set here, else that of \
                 upstream.url. The upstream's redirects name the host that it gets, and are not rewritten.",
            ),
        Key::route("upstream.connect_timeout", Shape::Duration)
            .default("5s")
            .help("Time limit for connecting to the upstream, and again for the TLS handshake"),
        Key::route("upstream.idle_timeout", Shape::Duration)
            .default("60s")
            .help(
                "Close an idle upstream connection after this long, or 1s before the timeout of \
                 the upstream's Keep-Alive field",
            )
            .advice("Keep it below the upstream's own timeout where it sends no such field."),
        Key::route("upstream.head_timeout", Shape::Duration)
            .default("2m")
            .help("Time limit for the upstream's response head; allow for models that think")
            .advice("Raise it for models that take longer before their first byte."),
        Key::route("upstream.max_pending", Shape::Count)
            .or_off()
            .default("10000")
            .formerly("upstream.max_waiting")
            .help(
                "Maximum requests that wait for a response head of the upstream; further requests \
                 get a 503",
            )
            .advice("Protects from an upstream that accepts connections and never responds."),
        Key::route("upstream.max_body", Shape::Size(1, 1024 * GIB))
            .or_off()
            .default("off")
            .help("Maximum size of a request's body; a longer one gets a 413")
            .advice("Set it if the upstream itself has no limit."),
        Key::route("upstream.keepalive", Shape::Duration)
            .or_off()
            .default("60s")
            .help(
                "TCP keepalive: probe an upstream that has been idle for this long; \
                 upstream.user_timeout bounds the wait",
            ),
        Key::route("upstream.user_timeout", Shape::Duration)
            .or_off()
            .default("60s")
            .help(
                "Drop an upstream connection that acknowledges nothing for this long \
                 (TCP_USER_TIMEOUT)",
            ),
        Key::route("upstream.max_head", Shape::Size(8 * KIB, GIB))
            .default("408KiB")
            .help(
                "Maximum size of a response's head; a longer one is a 502. The number of its \
                 fields is not limited",
            ),
        Key::route("upstream.title_case_headers", Shape::Bool)
            .default("false")
            .help(
                "Send header names as Content-Type instead of content-type, for old servers that \
                 compare them byte by byte",
            ),
        Key::route("upstream.receive_buffer", Shape::Size(4 * KIB, GIB))
            .or_off()
            .default("off")
            .help(
                "Kernel receive buffer (SO_RCVBUF), which fills when a client does not read; off: \
                 the kernel's choice",
            )
            .advice(
                "28KiB halves the kernel memory of a client that never reads, and costs 10 to 33 % \
                 more CPU at full speed.",
            ),
        Key::route("upstream.proxy_protocol", Shape::Choice(ProxyVersion::WORDS))
            .or_off()
            .default("off")
            .help(
                "Begin connections to the upstream with a header of the PROXY protocol (v1 or v2) \
                 that names the client; connections are then not reused",
            )
            .advice(
                "Only for upstreams that require it: each request opens a connection. Others read \
                 X-Forwarded-For.",
            ),
        Key::route(CLIENT_SUBJECT_HEADER, Shape::Header)
            .or_off()
            .default("off")
            .help(
                "Header in which the upstream gets the subject of the client's certificate; a field of this \
                 name in a request is removed",
            )
            .advice("Requires listener.tls.client_ca. Set it for each route of an upstream that trusts the field."),
        Key::route(HTTP2, Shape::Choice(Http2Mode::WORDS))
            .default("off")
            .help(
                "HTTP/2 to the upstream, with many requests on one connection; on: required, by prior \
                 knowledge over http:// and Unix sockets; auto: over https://, if the upstream selects it \
                 (ALPN), else HTTP/1.1",
            )
            .advice("Set it for thousands of streams of one upstream: they share a few connections."),
        Key::route("upstream.http2_max_streams", Shape::Count)
            .default("1000")
            .help(
                "Maximum streams on one HTTP/2 connection to the upstream, which may itself allow fewer; \
                 further streams open another connection",
            )
            .advice("A connection that dies interrupts all streams that it has."),
        Key::route("upstream.ping", Shape::Duration)
            .or_off()
            .default("30s")
            .help(
                "Send a PING on HTTP/2 connections to the upstream with streams in this interval, and \
                 drop one that does not respond within 20s",
            ),
        Key::route(
            "upstream.cache_control",
            Shape::Choice(CacheControl::WORDS),
        )
        .default("replace")
        .help(
            "Cache-Control of event streams; replace: no-cache, no-transform, unless the upstream \
             sends no-store; keep: that of the upstream if it sends one, with no-transform added",
        )
        .advice(
            "keep also leaves the upstream's X-Accel-Buffering. A cache that stores a stream \
             stores its heartbeats, too.",
        ),
        Key::route(
            "upstream.unavailable",
            Shape::Choice(Unavailable::WORDS),
        )
        .default("retry-later")
        .help(
            "Response to an EventSource in place of a 5xx; retry-later: an empty stream, and the \
             client reconnects; wait: a stream that stays open (requires resume.mode); status: the \
             5xx, and the client gives up",
        )
        .advice(
            "Also applies to the 502, 503 and 504 of sse-guard itself; other requests get the \
             status.",
        ),
    ],
};

/// The upstream of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// An absolute `http` or `https` URL with a host, and without credentials, query and fragment.
    pub url: Uri,
    /// TLS on connections to it, if the URL is one of `https`.
    pub tls: Option<ClientTls>,
    /// The `Host` of requests to it.
    pub host: UpstreamHost,
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
    /// The version of the PROXY header that connections begin with; none if `None`.
    pub proxy_protocol: Option<ProxyVersion>,
    /// The header with the subject of the client's certificate.
    pub client_subject_header: Option<HeaderName>,
    /// Whether requests are sent by HTTP/2.
    pub http2: Http2Mode,
    /// Maximum streams of an HTTP/2 connection.
    pub http2_max_streams: NonZeroU32,
    /// Interval of PINGs on an HTTP/2 connection with streams; above zero; none if `None`.
    pub ping: Option<Duration>,
    /// Time without a byte after which a tunnel is closed; above zero; never if `None`.
    pub tunnel_idle_timeout: Option<Duration>,
    /// Its active health checks.
    pub health_check: HealthCheck,
}

impl Upstream {
    pub(in super::super) fn read(
        scope: Scope<'_>,
        problems: &mut Vec<Mistake>,
    ) -> Result<Self, Mistake> {
        let url = scope.get(URL)?;
        let http2 = scope.get(HTTP2)?;
        let proxy_protocol: Option<ProxyVersion> = scope.get("upstream.proxy_protocol")?;
        if http2 != Http2Mode::Off && proxy_protocol.is_some() {
            let problem = "cannot be combined with upstream.proxy_protocol, which names one client for each \
                           connection; set one of them to \"off\"";
            let mistake = scope.mistake(HTTP2, problem);
            // Routes that share keys share their mistakes.
            if !problems.contains(&mistake) {
                problems.push(mistake);
            }
        }
        Ok(Self {
            tls: tls::read(scope, &url, problems)?,
            url,
            host: scope.get("upstream.host")?,
            connect_timeout: scope.get("upstream.connect_timeout")?,
            idle_timeout: scope.get("upstream.idle_timeout")?,
            head_timeout: scope.get("upstream.head_timeout")?,
            body_timeout: client::body_timeout(scope)?,
            max_pending: scope.get("upstream.max_pending")?,
            max_body: scope.get("upstream.max_body")?,
            keepalive: scope.get("upstream.keepalive")?,
            user_timeout: scope.get("upstream.user_timeout")?,
            max_head: scope.get("upstream.max_head")?,
            title_case_headers: scope.get("upstream.title_case_headers")?,
            receive_buffer: scope.get("upstream.receive_buffer")?,
            client_subject_header: client_subject_header(scope, problems)?,
            proxy_protocol,
            http2,
            http2_max_streams: scope.get("upstream.http2_max_streams")?,
            ping: scope.get("upstream.ping")?,
            tunnel_idle_timeout: tunnel::idle_timeout(scope)?,
            health_check: HealthCheck::read(scope)?,
        })
    }

    pub(in super::super) fn warning(&self) -> Option<String> {
        tls::warning(self.tls.as_ref())
    }

    /// Whether requests to the upstream would come back to the address for clients.
    ///
    /// Names other than `localhost` are not looked up: what they mean may change at any time.
    pub(in super::super) fn is_reached_at(&self, listen: &ListenAddress) -> bool {
        let listen = match (listen, unix_socket(&self.url)) {
            (ListenAddress::Unix(path), Some(unix)) => return path == Path::new(unix.socket),
            (ListenAddress::Tcp(address), None) => *address,
            _ => return false,
        };
        let (host, port) = host_and_port(&self.url);
        if port != listen.port() {
            return false;
        }
        let host: IpAddr = match host.parse() {
            Ok(address) => address,
            Err(_) if host.eq_ignore_ascii_case("localhost") => IpAddr::V4(Ipv4Addr::LOCALHOST),
            Err(_) => return false,
        };
        let listening = listen.ip();
        let named_localhost = self
            .url
            .host()
            .is_some_and(|host| host.eq_ignore_ascii_case("localhost"));
        // Connecting to the unspecified address reaches this machine's loopback.
        let here = host.is_loopback() || host.is_unspecified();
        listening == host
            || (here && listening.is_unspecified())
            || ((host.is_unspecified() || named_localhost) && listening.is_loopback())
    }
}

/// A version of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyVersion {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

choice! { ProxyVersion {
    "v1" => V1,
    "v2" => V2,
} }

/// Whether requests to an upstream are sent by HTTP/2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Http2Mode {
    /// Never.
    Off,
    /// Always. The upstream must support it.
    On,
    /// Over TLS, if the upstream selects it by ALPN.
    Auto,
}

choice! { Http2Mode {
    "off" => Off,
    "on" => On,
    "auto" => Auto,
} }

/// A warning that `auto` is set where no upstream has TLS.
pub(in super::super) fn unused_http2(values: &AllValues) -> Option<String> {
    let mut given = values.routes().filter_map(|scope| scope.given(HTTP2));
    let is_auto = given.any(|given| matches!(&given.value, Value::Text(word) if word == "auto"));
    is_auto.then(|| {
        "upstream.http2 = \"auto\" has no effect: no upstream.url begins with https://, and HTTP/1.1 is used \
         without TLS; set it to \"on\" for upstreams that support HTTP/2 with prior knowledge"
            .to_owned()
    })
}

/// The `Host` of requests to an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpstreamHost {
    /// That of the upstream's URL over TLS, where servers select a site by it; else the client's.
    Auto,
    /// The client's.
    Pass,
    /// Host and port of the upstream's URL.
    Upstream,
    /// This one, a valid host with perhaps a port.
    Name(HeaderValue),
}

impl FromValue for UpstreamHost {
    fn from_value(value: &Value) -> Option<Self> {
        match String::from_value(value)?.as_str() {
            "auto" => Some(Self::Auto),
            "pass" => Some(Self::Pass),
            "upstream" => Some(Self::Upstream),
            name => HeaderValue::from_str(name).ok().map(Self::Name),
        }
    }
}

/// The port of an upstream: of its URL, or of the scheme.
pub(crate) fn port(url: &Uri) -> u16 {
    let of_scheme = match url.scheme() == Some(&Scheme::HTTPS) {
        true => 443,
        false => 80,
    };
    url.port_u16().unwrap_or(of_scheme)
}

/// Host and port of an upstream; an IPv6 address without its brackets.
fn host_and_port(url: &Uri) -> (&str, u16) {
    let host = url.host().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    (host, port(url))
}

const CLIENT_SUBJECT_HEADER: &str = "upstream.client_subject_header";

/// Fields that frame or route a request, or that this proxy writes.
fn has_a_meaning(name: &HeaderName) -> bool {
    let known = [
        CONNECTION,
        CONTENT_LENGTH,
        EXPECT,
        FORWARDED,
        HOST,
        TE,
        TRAILER,
        TRANSFER_ENCODING,
        UPGRADE,
    ];
    known.contains(name) || name.as_str().starts_with("x-forwarded-")
}

fn client_subject_header(
    scope: Scope<'_>,
    problems: &mut Vec<Mistake>,
) -> Result<Option<HeaderName>, Mistake> {
    let name: Option<String> = scope.get(CLIENT_SUBJECT_HEADER)?;
    let name = name.and_then(|name| name.parse().ok());
    if name.as_ref().is_some_and(has_a_meaning) {
        let problem =
            "has a meaning of its own in requests; choose a name such as \"x-client-subject\"";
        let mistake = scope.mistake(CLIENT_SUBJECT_HEADER, problem);
        // Routes that share the key share its mistake.
        if !problems.contains(&mistake) {
            problems.push(mistake);
        }
    }
    Ok(name)
}

/// A header that no upstream gets.
pub(in super::super) fn unused_subject<'a>(
    mut upstreams: impl Iterator<Item = &'a Upstream>,
) -> Option<String> {
    let is_set = upstreams.any(|upstream| upstream.client_subject_header.is_some());
    is_set.then(|| format!("{CLIENT_SUBJECT_HEADER} has no effect: no listener has tls.client_ca"))
}

choice! { CacheControl {
    "replace" => Replace,
    "keep" => Keep,
} }

pub(in super::super) fn cache_control(scope: Scope<'_>) -> Result<CacheControl, Mistake> {
    scope.get("upstream.cache_control")
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

choice! { Unavailable {
    "wait" => Wait,
    "retry-later" => RetryLater,
    "status" => Status,
} }

impl Unavailable {
    pub(in super::super) fn read(scope: Scope<'_>) -> Result<Self, Mistake> {
        scope.get("upstream.unavailable")
    }

    /// The layer that answers an `EventSource` in place of an error, with this delay to reconnect.
    pub(crate) fn layer(self, retry: Duration) -> UnavailableLayer {
        UnavailableLayer::new()
            .enabled(self != Self::Status)
            .retry(retry)
    }

    pub(in super::super) fn warning(self, is_resumed: bool) -> Option<String> {
        (self == Self::Wait && !is_resumed).then(|| {
            "upstream.unavailable = \"wait\" requires resume.mode, which is off: it acts as \
             retry-later; set resume.mode"
                .to_owned()
        })
    }
}
