//! The table of all config keys.
//!
//! Flags, environment variables, the file's spelling, help texts and defaults all derive from
//! [`KEYS`]; a key that is missing here does not exist.

use super::kind::Kind;

/// One key of the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// The name, with the table in front if it is in one: `heartbeat.interval`.
    pub name: &'static str,
    /// The kind of its value.
    pub kind: Kind,
    /// The value of a key that is not set, in the spelling of a flag.
    pub default: Option<&'static str>,
    /// Whether a `[[route]]` may set it for itself.
    pub per_route: bool,
    /// Its help text.
    pub help: &'static str,
}

/// The prefix of all environment variables.
pub(super) const ENV_PREFIX: &str = "SSE_GUARD_";

impl Key {
    /// The flag without its dashes: `heartbeat-interval`.
    #[must_use]
    pub fn flag(&self) -> String {
        flag_name(self.name)
    }

    /// The environment variable: `SSE_GUARD_HEARTBEAT_INTERVAL`.
    #[must_use]
    pub fn env(&self) -> String {
        env_name(self.name)
    }

    /// The table that the key is in, and its name there; no table for the keys at the top.
    #[must_use]
    pub fn table_and_leaf(&self) -> (Option<&'static str>, &'static str) {
        match self.name.split_once('.') {
            Some((table, leaf)) => (Some(table), leaf),
            None => (None, self.name),
        }
    }
}

/// Keys that had another name, and the name that they have now.
pub(super) const RENAMED: &[(&str, &str)] = &[
    ("client.unsent", "client.notsent_lowat"),
    ("upstream.max_waiting", "upstream.max_pending"),
    ("upstream.check", "health_check.interval"),
    ("upstream.check_path", "health_check.path"),
    ("upstream.max_age", "resume.max_connection_age"),
    ("resume.at_once", "resume.max_concurrent"),
    ("resume.stable", "resume.reset_after"),
    ("resume.look_back", "resume.dedup_window"),
    ("idle.pings", "idle.ignore_events"),
    ("health.learn", "health.baseline"),
    ("health.gap", "health.max_gap_p99"),
    ("health.first_event", "health.max_first_event_p95"),
    ("health.events", "health.min_event_rate"),
    ("health.errors", "health.max_error_rate"),
    ("log.streams", "log.stream_rate"),
];

/// The key that had this name, in whatever spelling `spell` gives a name.
pub(super) fn renamed(old: &str, spell: impl Fn(&str) -> String) -> Option<&'static Key> {
    let (_, new) = RENAMED.iter().find(|(name, _)| spell(name) == old)?;
    find(new)
}

/// The flag of a key's name, without its dashes: `heartbeat-interval`.
pub(super) fn flag_name(name: &str) -> String {
    name.replace(['.', '_'], "-")
}

/// The environment variable of a key's name: `SSE_GUARD_HEARTBEAT_INTERVAL`.
pub(super) fn env_name(name: &str) -> String {
    format!("{ENV_PREFIX}{}", name.replace('.', "_").to_uppercase())
}

/// The key of this name.
pub(super) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// The names of all tables, in the order of [`KEYS`].
pub(super) fn tables() -> Vec<&'static str> {
    let mut tables: Vec<_> = KEYS
        .iter()
        .filter_map(|key| key.table_and_leaf().0)
        .collect();
    tables.dedup();
    tables
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

const fn proxy(name: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Key {
    Key {
        name,
        kind,
        default: Some(default),
        per_route: false,
        help,
    }
}

const fn route(name: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Key {
    Key {
        name,
        kind,
        default: Some(default),
        per_route: true,
        help,
    }
}

/// All keys; grouped by table, in the order of the help and of `check`.
pub static KEYS: &[Key] = &[
    proxy(
        "listen",
        Kind::Address,
        "127.0.0.1:8080",
        "Address to accept clients on; :8080 for all interfaces, IPv4 and IPv6; localhost stands for 127.0.0.1",
    ),
    proxy(
        "takeover",
        Kind::Choice(&["drain", "always", "off"]),
        "drain",
        "When another sse-guard of the same user may listen on the same addresses (SO_REUSEPORT); drain: while this one drains; always; or off",
    ),
    proxy(
        "trusted_proxies",
        Kind::Networks,
        "",
        "Networks of proxies whose forwarding headers are trusted, such as your load balancer's",
    ),
    proxy(
        "trusted_header",
        Kind::Choice(&["x-forwarded-for", "forwarded"]),
        "x-forwarded-for",
        "Header from which the client's address is read behind trusted proxies; host and protocol are read from its family of headers (X-Forwarded-* or Forwarded). The proxies must overwrite it or append to it",
    ),
    Key {
        name: "threads",
        kind: Kind::Count,
        default: None,
        per_route: false,
        help: "Worker threads; default: one per core that this process may use",
    },
    route(
        "family",
        Kind::Choice(&["auto", "eventsource", "openai", "anthropic", "mcp", "raw"]),
        "auto",
        "Client family; selects the heartbeat, retry and error format. auto: detected from the request and the first event",
    ),
    proxy(
        "client.head_timeout",
        Kind::Duration,
        "75s",
        "Time limit for a request's head, and for an idle connection; keep it above the idle timeout of your load balancer",
    ),
    route(
        "client.body_timeout",
        Kind::Duration,
        "60s",
        "Time limit without a byte of a request's body, until the response begins; beyond it the client gets a 408",
    ),
    proxy(
        "client.max_head",
        Kind::Size(8 * KIB, GIB),
        "64KiB",
        "Maximum size of a request's head; a longer one gets a 431",
    ),
    proxy(
        "client.title_case_headers",
        Kind::Bool,
        "false",
        "Send header names as Content-Type instead of content-type, for old clients that compare them byte by byte",
    ),
    proxy(
        "client.write_stall",
        Kind::DurationOrOff,
        "30s",
        "Reset a client that does not take waiting output, or 8 KiB of it, in this time",
    ),
    proxy(
        "client.notsent_lowat",
        Kind::SizeOrOff(KIB, GIB),
        "16KiB",
        "Maximum unsent bytes in the kernel (TCP_NOTSENT_LOWAT), so that slow clients get no stale events",
    ),
    proxy(
        "client.send_buffer",
        Kind::SizeOrOff(4 * KIB, GIB),
        "off",
        "Kernel send buffer (SO_SNDBUF), including sent bytes that are not acknowledged; off: the kernel's choice",
    ),
    proxy(
        "client.keepalive",
        Kind::DurationOrOff,
        "60s",
        "TCP keepalive: probe a client that has been idle for this long; client.user_timeout bounds the wait",
    ),
    proxy(
        "client.user_timeout",
        Kind::DurationOrOff,
        "60s",
        "Drop a client that acknowledges nothing for this long (TCP_USER_TIMEOUT)",
    ),
    Key {
        name: "client.max_connections",
        kind: Kind::CountOrOff,
        default: None,
        per_route: false,
        help: "Maximum connections per client address, except for trusted_proxies and limit.allow; default: four times the largest limit.per_ip, at least 32",
    },
    proxy(
        "path.normalize",
        Kind::Choice(&["match", "rewrite", "off"]),
        "match",
        "How paths are matched with routes and forwarded; match: matched normalized, forwarded as sent, and rejected (400) if some servers would read a path of another route; rewrite: matched and forwarded normalized; off: matched and forwarded as sent",
    ),
    Key {
        name: "upstream.url",
        kind: Kind::Url,
        default: None,
        per_route: true,
        help: "Server to forward to, such as http://127.0.0.1:3000",
    },
    route(
        "upstream.connect_timeout",
        Kind::Duration,
        "5s",
        "Time limit for connecting to the upstream",
    ),
    route(
        "upstream.idle_timeout",
        Kind::Duration,
        "60s",
        "Close an idle upstream connection after this long, or 1s before the timeout of the upstream's Keep-Alive field",
    ),
    route(
        "upstream.head_timeout",
        Kind::Duration,
        "2m",
        "Time limit for the upstream's response head; allow for models that think",
    ),
    route(
        "upstream.max_pending",
        Kind::CountOrOff,
        "10000",
        "Maximum requests that wait for a response head of the upstream; further requests get a 503",
    ),
    route(
        "upstream.max_body",
        Kind::SizeOrOff(1, 1024 * GIB),
        "off",
        "Maximum size of a request's body; a longer one gets a 413",
    ),
    route(
        "upstream.keepalive",
        Kind::DurationOrOff,
        "60s",
        "TCP keepalive: probe an upstream that has been idle for this long; upstream.user_timeout bounds the wait",
    ),
    route(
        "upstream.user_timeout",
        Kind::DurationOrOff,
        "60s",
        "Drop an upstream connection that acknowledges nothing for this long (TCP_USER_TIMEOUT)",
    ),
    route(
        "upstream.max_head",
        Kind::Size(8 * KIB, GIB),
        "408KiB",
        "Maximum size of a response's head; a longer one is a 502. The number of its fields is not limited",
    ),
    route(
        "upstream.title_case_headers",
        Kind::Bool,
        "false",
        "Send header names as Content-Type instead of content-type, for old servers that compare them byte by byte",
    ),
    route(
        "upstream.receive_buffer",
        Kind::SizeOrOff(4 * KIB, GIB),
        "off",
        "Kernel receive buffer (SO_RCVBUF), which fills when a client does not read; off: the kernel's choice",
    ),
    route(
        "upstream.cache_control",
        Kind::Choice(&["replace", "keep"]),
        "replace",
        "Cache-Control of event streams; replace: no-cache, no-transform, unless the upstream sends no-store; keep: that of the upstream if it sends one, with no-transform added",
    ),
    route(
        "upstream.unavailable",
        Kind::Choice(&["wait", "retry-later", "status"]),
        "retry-later",
        "Response to an EventSource in place of a 5xx; retry-later: an empty stream, and the client reconnects; wait: a stream that stays open (requires resume.mode); status: the 5xx, and the client gives up",
    ),
    route(
        "health_check.interval",
        Kind::DurationOrOff,
        "off",
        "Interval of active health checks; off: judge by live traffic only",
    ),
    route(
        "health_check.path",
        Kind::PathOrOff,
        "off",
        "Path to GET for a health check, which passes with a 2xx or 3xx response; off: connecting is enough",
    ),
    route(
        "tunnel.idle_timeout",
        Kind::DurationOrOff,
        "1h",
        "Close a WebSocket or other tunnel after this long without a byte in either direction",
    ),
    route(
        "heartbeat.interval",
        Kind::DurationOrOff,
        "15s",
        "Send a heartbeat after this long without output; keep it below every idle timeout on the path",
    ),
    route(
        "heartbeat.style",
        Kind::Choice(&["auto", "line", "block", "event"]),
        "auto",
        "auto: a comment line (every client ignores it), or the family's own ping; line, block (comment and blank line), or event (a named event)",
    ),
    route(
        "heartbeat.text",
        Kind::Text,
        "heartbeat",
        "Text of the comment of the styles line and block",
    ),
    route(
        "heartbeat.event",
        Kind::Filled,
        "ping",
        "Event name of the style event",
    ),
    route(
        "heartbeat.data",
        Kind::Filled,
        "{}",
        "Data of the style event; {now} in it becomes the Unix time in seconds; clients drop an event without data",
    ),
    route(
        "heartbeat.immediate",
        Kind::BoolOrAuto,
        "auto",
        "Send the first heartbeat right after the response head, because some proxies hold the head back until data follows; auto: for families eventsource and mcp",
    ),
    route(
        "cors.allowed_origins",
        Kind::Origins,
        "upstream",
        "Origins that may read responses sent in place of the upstream's: upstream (those that it allows), *, off, or a list",
    ),
    route(
        "early.enabled",
        Kind::Bool,
        "false",
        "Respond to requests for event streams with 200 and heartbeats when the upstream is slow; the upstream's own status and headers are then lost",
    ),
    Key {
        name: "early.after",
        kind: Kind::Duration,
        default: None,
        per_route: true,
        help: "Time without a response head after which the early answer begins; failures before that keep their status; default: heartbeat.interval, or 15s if that is off",
    },
    route(
        "idle.timeout",
        Kind::DurationOrOff,
        "10m",
        "End a stream after this long without a byte from its upstream",
    ),
    route(
        "idle.event_timeout",
        Kind::DurationAutoOrOff,
        "auto",
        "End a stream after this long without an event with data from its upstream, regardless of comments and pings; auto: 5m from the first event on for families openai and anthropic",
    ),
    route(
        "idle.ignore_events",
        Kind::Words,
        "",
        "Event names that neither reset idle.event_timeout nor count as the first event, in addition to the APIs' own pings and keepalives",
    ),
    route(
        "idle.action",
        Kind::Choice(&["auto", "close", "error-event", "abort"]),
        "auto",
        "How an idle stream ends: close, error-event, or abort; auto: close for family eventsource, else abort, because other clients take a clean end for a complete response",
    ),
    route(
        "idle.error_event",
        Kind::Filled,
        "error",
        "Name of the last event of action error-event",
    ),
    route(
        "idle.error_data",
        Kind::Filled,
        r#"{"type":"error","error":{"type":"upstream_idle","message":"the upstream went silent"}}"#,
        "Data of the last event of action error-event",
    ),
    route(
        "limit.per_ip",
        Kind::CountOrOff,
        "100",
        "Maximum open streams per client address; all users of an office may share one address",
    ),
    Key {
        name: "limit.requests_per_ip",
        kind: Kind::CountOrOff,
        default: None,
        per_route: true,
        help: "Maximum requests in flight per client address that are not streams: waiting for a response, uploads, downloads, WebSockets; further requests get a 429. CORS preflights are counted separately, up to the same number; default: twice limit.per_ip, at least 200",
    },
    route(
        "limit.total",
        Kind::CountOrOff,
        "10000",
        "Maximum open streams in all",
    ),
    route(
        "limit.max_clients",
        Kind::Count,
        "65536",
        "Maximum client addresses that are tracked; requests of further addresses get a 503",
    ),
    route(
        "limit.rate",
        Kind::RateOrOff,
        "50/s",
        "Rate of new streams per client address, on average",
    ),
    route(
        "limit.burst",
        Kind::Count,
        "100",
        "New streams that a client address may open at once, beyond limit.rate",
    ),
    proxy(
        "limit.ipv6_prefix",
        Kind::Prefix,
        "64",
        "IPv6 addresses with this many leading bits in common count as one client",
    ),
    route(
        "limit.allow",
        Kind::Networks,
        "",
        "Networks that are neither limited nor counted, such as your monitoring",
    ),
    route(
        "limit.reject",
        Kind::Choice(&["status", "retry-later"]),
        "status",
        "Response over the limit: status (429, 503), or retry-later (an empty stream; browsers reconnect)",
    ),
    route(
        "limit.retry_after",
        Kind::Duration,
        "5s",
        "Delay that rejected clients, and clients of an unreachable upstream, get as Retry-After or retry:",
    ),
    route(
        "rotation.max_age",
        Kind::DurationOrOff,
        "1h",
        "End a stream at this age, so that its client reconnects on a fresh connection",
    ),
    route(
        "rotation.jitter",
        Kind::Fraction,
        "0.1",
        "Share of rotation.max_age by which ends are spread at random, so that clients do not reconnect all at once",
    ),
    route(
        "rotation.retry",
        Kind::Duration,
        "2s",
        "Delay before a rotated client reconnects, sent as retry:",
    ),
    route(
        "rotation.retry_on_open",
        Kind::DurationOrOff,
        "off",
        "Send retry: with the first event, which resets a delay set by an earlier rotation",
    ),
    Key {
        name: "rotation.methods",
        kind: Kind::Methods,
        default: None,
        per_route: true,
        help: "Rotate streams of requests with these methods, whatever the family and the client's headers are; default: streams of family eventsource",
    },
    route(
        "rotation.event",
        Kind::FilledOrOff,
        "off",
        "Name of a last event, for client code that handles rotation",
    ),
    route(
        "rotation.data",
        Kind::Filled,
        "{}",
        "Data of the last event that rotation.event names",
    ),
    Key {
        name: "resume.mode",
        kind: Kind::Choice(&["off", "on", "lossy"]),
        default: None,
        per_route: true,
        help: "Reconnect a lost upstream behind a live EventSource stream; on: if its events have ids; lossy: always; default: on for routes with family = eventsource, else off",
    },
    route(
        "resume.on_end",
        Kind::Bool,
        "false",
        "Also reconnect when the upstream ends the stream properly",
    ),
    route(
        "resume.backoff",
        Kind::Duration,
        "1s",
        "Maximum delay before the first reconnect attempt; doubles with each attempt that fails or yields no event; ends early once the upstream is back",
    ),
    route(
        "resume.max_backoff",
        Kind::Duration,
        "30s",
        "Upper limit of resume.backoff as it doubles",
    ),
    route(
        "resume.attempts",
        Kind::CountOrOff,
        "off",
        "Reconnect attempts after which a stream fails; off: any number within resume.give_up",
    ),
    route(
        "resume.give_up",
        Kind::Duration,
        "5m",
        "Time without its upstream after which a stream fails",
    ),
    route(
        "resume.reset_after",
        Kind::Duration,
        "30s",
        "Age at which a new upstream connection counts as stable; attempts and backoff then start from zero",
    ),
    route(
        "resume.dedup_window",
        Kind::Count,
        "256",
        "Event ids remembered per stream, to drop events that the upstream repeats",
    ),
    route(
        "resume.rate",
        Kind::RateOrOff,
        "100/s",
        "Rate of reconnect attempts per upstream, over all clients; further streams wait in a queue",
    ),
    route(
        "resume.max_concurrent",
        Kind::Count,
        "32",
        "Maximum concurrent reconnect attempts per upstream",
    ),
    route(
        "resume.max_connection_age",
        Kind::DurationOrOff,
        "off",
        "Replace the upstream connection of a resumable stream at this age, plus or minus 10 %; its client stays connected",
    ),
    route(
        "completion.required",
        Kind::Bool,
        "true",
        "Break off a stream whose upstream ends it without its family's last event: half an answer of openai or anthropic",
    ),
    route(
        "health.baseline",
        Kind::Bool,
        "true",
        "Where no threshold is set, compare event rate, gaps and first events with the previous 15 minutes",
    ),
    route(
        "health.min_event_rate",
        Kind::RateOrOff,
        "off",
        "Minimum events per stream; below it the route is degraded, below a quarter of it failing",
    ),
    route(
        "health.max_first_event_p95",
        Kind::DurationOrOff,
        "off",
        "Maximum time to the first event, 95th percentile",
    ),
    route(
        "health.max_gap_p99",
        Kind::DurationOrOff,
        "off",
        "Maximum gap between two events, 99th percentile",
    ),
    route(
        "health.max_error_rate",
        Kind::FractionOrOff,
        "0.05",
        "Share of failed requests, or of streams that the upstream breaks off; from this value on a route is degraded",
    ),
    route(
        "health.early_ends",
        Kind::FractionOrOff,
        "0.5",
        "Share, among the EventSource streams that the upstream ends, of those that it ends within 10 s; from this value on a route is degraded",
    ),
    route(
        "health.reconnects",
        Kind::FractionOrOff,
        "0.5",
        "Share of streams whose clients reconnect within a minute; from this value on a route is degraded",
    ),
    Key {
        name: "memory.budget",
        kind: Kind::SizeOrOff(8 * MIB, 1024 * GIB),
        default: None,
        per_route: false,
        help: "Maximum resident memory; near it new streams are rejected, then the largest streams are ended; default: the container's limit",
    },
    Key {
        name: "files.budget",
        kind: Kind::CountOrOff,
        default: None,
        per_route: false,
        help: "Maximum open files, handled like memory.budget; default: the limit of this process (ulimit -n)",
    },
    proxy(
        "admin.listen",
        Kind::AddressOrOff,
        "127.0.0.1:9090",
        "Address of metrics, health, stream table and dashboard; any address other than loopback requires admin.token",
    ),
    proxy(
        "admin.token",
        Kind::SecretOrOff,
        "off",
        "Bearer token that the admin address requires; best set by SSE_GUARD_ADMIN_TOKEN",
    ),
    proxy(
        "admin.user_header",
        Kind::HeaderOrOff,
        "off",
        "Header, set by trusted proxies, that identifies the user; shown with the stream and usable as a target of /api/send; removed from requests of other peers",
    ),
    proxy(
        "ready.when",
        Kind::ReadyWhen,
        "any",
        "Upstreams that /readyz requires to be reachable: any (at least one), all, or those of a list of routes",
    ),
    proxy(
        "reload.watch",
        Kind::DurationOrOff,
        "off",
        "Check the config file for changes at this interval, and reload it; SIGHUP reloads at any time",
    ),
    proxy(
        "drain.delay",
        Kind::DurationOrZero,
        "0s",
        "Time between the stop signal, which turns readiness red, and the drain; everything is served meanwhile",
    ),
    proxy(
        "drain.window",
        Kind::DurationOrZero,
        "10s",
        "Time over which streams end at shutdown; the listener stays open, and new streams get a delay (retry: or Retry-After) that ends after the window",
    ),
    proxy(
        "drain.answers",
        Kind::DurationOrZero,
        "20s",
        "Time limit at shutdown for streams that are not rotated, such as those of models; at least drain.window",
    ),
    proxy(
        "log.format",
        Kind::Choice(&["text", "json"]),
        "text",
        "Format of log lines",
    ),
    proxy(
        "log.level",
        Kind::Choice(&["error", "warn", "info", "debug", "trace"]),
        "info",
        "Minimum severity of log lines",
    ),
    proxy(
        "log.stream_rate",
        Kind::RateOrOff,
        "100/s",
        "Log at most this many streams per interval; the excess is only counted. off: log all",
    ),
    proxy(
        "log.requests",
        Kind::Choice(&["off", "errors", "all"]),
        "off",
        "Log requests that do not become event streams: none, those with status 400 and above, or all",
    ),
    proxy(
        "log.requests_format",
        Kind::Choice(&["log", "combined"]),
        "log",
        "Format of the lines of log.requests: as other lines (log.format), or in the Combined Log Format on standard output",
    ),
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::super::value::Value;
    use super::*;

    #[test]
    fn one_name_has_three_spellings() {
        let key = find("limit.per_ip").unwrap();
        assert_eq!(key.flag(), "limit-per-ip");
        assert_eq!(key.env(), "SSE_GUARD_LIMIT_PER_IP");
        assert_eq!(key.table_and_leaf(), (Some("limit"), "per_ip"));
    }

    #[test]
    fn no_two_keys_share_a_spelling() {
        let mut seen = HashSet::new();
        for key in KEYS {
            assert!(seen.insert(key.flag()), "{}", key.name);
            assert!(seen.insert(key.env()), "{}", key.name);
        }
    }

    #[test]
    fn every_default_is_a_value_of_its_kind() {
        for key in KEYS {
            if let Some(text) = key.default {
                assert!(Value::from_text(key.kind, text).is_ok(), "{}", key.name);
            }
        }
    }

    #[test]
    fn keys_of_one_table_stand_together() {
        let tables = tables();
        let distinct: HashSet<_> = tables.iter().collect();
        assert_eq!(distinct.len(), tables.len());
    }
}
