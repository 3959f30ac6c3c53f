//! The table that owns every key.
//!
//! Flags, environment variables, the file's spelling, help texts and defaults all derive from
//! [`KEYS`]; a key that is not here does not exist anywhere.

use super::kind::Kind;

/// One key of the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// The name, with the table in front if it is in one: `heartbeat.interval`.
    pub name: &'static str,
    /// What its value looks like.
    pub kind: Kind,
    /// The value when nobody sets one, in the spelling of a flag.
    pub default: Option<&'static str>,
    /// Whether a `[[route]]` may set it for itself.
    pub per_route: bool,
    /// One sentence that teaches what it does.
    pub help: &'static str,
}

/// What the name of every environment variable of ours begins with.
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

/// Every key there is; keys of one table stand together, in the order of the help and of `check`.
pub static KEYS: &[Key] = &[
    proxy(
        "listen",
        Kind::Address,
        "127.0.0.1:8080",
        "Address to accept clients on; 0.0.0.0:8080 for all interfaces",
    ),
    proxy(
        "takeover",
        Kind::Choice(&["drain", "always", "off"]),
        "drain",
        "When another sse-guard of the same user may listen on the same addresses (SO_REUSEPORT): once this one stops, always, or never (off)",
    ),
    proxy(
        "trusted_proxies",
        Kind::Networks,
        "",
        "Networks whose word on the client's address is believed, such as your load balancer's",
    ),
    proxy(
        "trusted_header",
        Kind::Choice(&["x-forwarded-for", "forwarded"]),
        "x-forwarded-for",
        "Header in which trusted proxies name the client, and by whose form host and protocol count; they must overwrite or append to it",
    ),
    Key {
        name: "threads",
        kind: Kind::Count,
        default: None,
        per_route: false,
        help: "Threads that serve; when not set, one for each core that this process may use",
    },
    route(
        "family",
        Kind::Choice(&["auto", "eventsource", "openai", "anthropic", "mcp", "raw"]),
        "auto",
        "Whose streams they are, which decides what clients get and are told; auto: by the request and the first event",
    ),
    proxy(
        "client.head_timeout",
        Kind::Duration,
        "75s",
        "How long a client may take for a request's head, and stay without one; above your load balancer's",
    ),
    route(
        "client.body_timeout",
        Kind::Duration,
        "60s",
        "How long a client may send nothing of a request's body, before the response begins; then it gets a 408",
    ),
    proxy(
        "client.max_head",
        Kind::Size(8 * KIB, GIB),
        "64KiB",
        "Bytes that a request's head may have; a longer one gets a 431",
    ),
    proxy(
        "client.write_stall",
        Kind::DurationOrOff,
        "30s",
        "Reset a client that takes nothing for so long while something waits for it",
    ),
    proxy(
        "client.notsent_lowat",
        Kind::SizeOrOff(KIB, GIB),
        "16KiB",
        "Bytes that may wait in the kernel unsent (TCP_NOTSENT_LOWAT), so that slow clients get no stale events",
    ),
    proxy(
        "client.send_buffer",
        Kind::SizeOrOff(4 * KIB, GIB),
        "off",
        "The kernel's send buffer (SO_SNDBUF), with what is sent and not acknowledged; off: the kernel's choice",
    ),
    proxy(
        "client.keepalive",
        Kind::DurationOrOff,
        "60s",
        "Have the kernel ask a client that was silent for so long whether it is there; client.user_timeout ends the wait",
    ),
    proxy(
        "client.user_timeout",
        Kind::DurationOrOff,
        "60s",
        "Give up a client that acknowledges nothing for so long (TCP_USER_TIMEOUT)",
    ),
    Key {
        name: "client.max_connections",
        kind: Kind::CountOrOff,
        default: None,
        per_route: false,
        help: "Connections that one client address may have, trusted_proxies and limit.allow excepted; when not set, four times the largest limit.per_ip, at least 32",
    },
    proxy(
        "path.normalize",
        Kind::Choice(&["match", "rewrite", "off"]),
        "match",
        "How paths are matched with routes and forwarded; match: by the normalized path, forwarded as sent, or refused (400) where servers would read another route; rewrite: normalized; off: as sent",
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
        "How long the upstream may take to accept a connection",
    ),
    route(
        "upstream.head_timeout",
        Kind::Duration,
        "2m",
        "How long the upstream may take to begin its answer; models think",
    ),
    route(
        "upstream.max_pending",
        Kind::CountOrOff,
        "10000",
        "Requests that may wait for the upstream's answer at once; over it, new ones get a 503",
    ),
    route(
        "upstream.max_body",
        Kind::SizeOrOff(1, 1024 * GIB),
        "off",
        "Bytes that a request's body may have; a longer one gets a 413",
    ),
    route(
        "upstream.keepalive",
        Kind::DurationOrOff,
        "60s",
        "Have the kernel ask an upstream that was silent for so long whether it is there; upstream.user_timeout ends the wait",
    ),
    route(
        "upstream.user_timeout",
        Kind::DurationOrOff,
        "60s",
        "Give up an upstream that acknowledges nothing for so long (TCP_USER_TIMEOUT)",
    ),
    route(
        "upstream.receive_buffer",
        Kind::SizeOrOff(4 * KIB, GIB),
        "off",
        "The kernel's receive buffer (SO_RCVBUF), which fills up when a client does not read; off: the kernel's choice",
    ),
    route(
        "upstream.unavailable",
        Kind::Choice(&["wait", "retry-later", "status"]),
        "retry-later",
        "Answer to an EventSource on a 5xx: retry-later (empty stream; it reconnects), wait (open stream, where resume.mode is on), or status (it gives up)",
    ),
    route(
        "health_check.interval",
        Kind::DurationOrOff,
        "off",
        "Ask the upstream so often whether it is there, without a client's request; off: by the requests alone",
    ),
    route(
        "health_check.path",
        Kind::PathOrOff,
        "off",
        "Path to GET for health_check.interval, which a 2xx or 3xx answer passes; off: to connect is enough",
    ),
    route(
        "tunnel.idle_timeout",
        Kind::DurationOrOff,
        "1h",
        "Close a WebSocket or other tunnel on which no byte passes for this long, in either direction",
    ),
    route(
        "heartbeat.interval",
        Kind::DurationOrOff,
        "15s",
        "Speak after so long without a byte to the client; stay below the idle timeout of what is between",
    ),
    route(
        "heartbeat.style",
        Kind::Choice(&["auto", "line", "block", "event"]),
        "auto",
        "auto: a comment line (every client ignores it), or the family's own ping; line, block (comment and blank line), or a named event",
    ),
    route(
        "heartbeat.text",
        Kind::Text,
        "heartbeat",
        "What the comment of the styles line and block says",
    ),
    route(
        "heartbeat.event",
        Kind::Filled,
        "ping",
        "Name of the event of style event",
    ),
    route(
        "heartbeat.data",
        Kind::Filled,
        "{}",
        "Data of the event of style event; clients drop an event without data",
    ),
    route(
        "heartbeat.immediate",
        Kind::BoolOrAuto,
        "auto",
        "Send the first heartbeat at once, so that buffering proxies and HTTP/2 hops release the head; auto: for families eventsource and mcp",
    ),
    route(
        "cors.allowed_origins",
        Kind::Origins,
        "upstream",
        "Origins that may read answers given in place of the upstream: upstream (those that it allows), *, off, or a list",
    ),
    route(
        "early.enabled",
        Kind::Bool,
        "false",
        "Answer requests for event streams with 200 and heartbeats when the upstream takes long; its late status and headers are lost then",
    ),
    Key {
        name: "early.after",
        kind: Kind::Duration,
        default: None,
        per_route: true,
        help: "How long the upstream may take until then, so that quick failures keep their status; when not set, heartbeat.interval, or 15s if that is off",
    },
    route(
        "idle.timeout",
        Kind::DurationOrOff,
        "10m",
        "End a stream whose upstream sent no byte for so long",
    ),
    route(
        "idle.event_timeout",
        Kind::DurationAutoOrOff,
        "auto",
        "End a stream whose upstream sent no event with data for so long, whatever comments and pings it sends; auto: 5m from the first event on where family is openai or anthropic",
    ),
    route(
        "idle.ignore_events",
        Kind::Words,
        "",
        "Names of events that are no life to idle.event_timeout and no first event, as the APIs' own pings and keepalives are not",
    ),
    route(
        "idle.action",
        Kind::Choice(&["auto", "close", "error-event", "abort"]),
        "auto",
        "How an idle stream ends; auto: close for family eventsource, else abort, as clients take close for success",
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
        "Streams that one client address may hold open; offices share one address",
    ),
    Key {
        name: "limit.requests_per_ip",
        kind: Kind::CountOrOff,
        default: None,
        per_route: true,
        help: "Requests that one client address may have in flight, streams excepted: waiting for a response, uploads, downloads, WebSockets; over it, new ones get a 429; CORS preflights count apart, up to the same number; when not set, twice limit.per_ip, at least 200",
    },
    route(
        "limit.total",
        Kind::CountOrOff,
        "10000",
        "Streams that may be open in all",
    ),
    route(
        "limit.max_clients",
        Kind::Count,
        "65536",
        "Client addresses that are kept count of; over it, new ones get a 503",
    ),
    route(
        "limit.rate",
        Kind::RateOrOff,
        "50/s",
        "New streams that one client address may open, in the long run",
    ),
    route(
        "limit.burst",
        Kind::Count,
        "100",
        "New streams that one client address may open at once, ahead of limit.rate",
    ),
    route(
        "limit.ipv6_prefix",
        Kind::Prefix,
        "64",
        "IPv6 addresses that share so many bits count as one client",
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
        "Answer over the limit: status (429, 503), or retry-later (an empty stream; browsers try again)",
    ),
    route(
        "limit.retry_after",
        Kind::Duration,
        "5s",
        "When a client over the limit is told to come back, or one whose upstream is unavailable",
    ),
    route(
        "rotation.max_age",
        Kind::DurationOrOff,
        "1h",
        "End a stream at this age, so that its client comes back on a fresh connection",
    ),
    route(
        "rotation.jitter",
        Kind::Fraction,
        "0.1",
        "Share of rotation.max_age by which ends are spread, so that clients do not come back in a herd",
    ),
    route(
        "rotation.retry",
        Kind::Duration,
        "2s",
        "How long a client waits before it comes back, told to it in a retry: line",
    ),
    route(
        "rotation.retry_on_open",
        Kind::DurationOrOff,
        "off",
        "Tell each client at its first event how long to wait when its stream breaks off; what an end had told it sticks else",
    ),
    Key {
        name: "rotation.methods",
        kind: Kind::Methods,
        default: None,
        per_route: true,
        help: "Methods whose streams are rotated and told to retry, whatever their family and their client's headers; when not set, those of family eventsource",
    },
    route(
        "rotation.event",
        Kind::FilledOrOff,
        "off",
        "Name of a last event, for client code that wants to know of the rotation",
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
        help: "Go on with an EventSource's stream when its upstream is lost; on: where ids tell how; lossy: always; when not set, on where family is set to eventsource",
    },
    route(
        "resume.on_end",
        Kind::Bool,
        "false",
        "Go on also when the upstream ends the stream properly",
    ),
    route(
        "resume.backoff",
        Kind::Duration,
        "1s",
        "Longest wait before a lost stream reconnects by itself; doubles with each connection that fails or brings nothing; cut short when the upstream is back",
    ),
    route(
        "resume.max_backoff",
        Kind::Duration,
        "30s",
        "Longest wait that resume.backoff doubles to",
    ),
    route(
        "resume.attempts",
        Kind::CountOrOff,
        "off",
        "Tries after which a stream fails; off: any number within resume.give_up",
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
        "Time after which a connection counts as good, and the tries start anew",
    ),
    route(
        "resume.dedup_window",
        Kind::Count,
        "256",
        "Ids of events that are remembered for each stream, so that none comes twice when the upstream repeats some",
    ),
    route(
        "resume.rate",
        Kind::RateOrOff,
        "100/s",
        "Streams of all clients that may ask one upstream to go on; the others wait for their turn",
    ),
    route(
        "resume.max_concurrent",
        Kind::Count,
        "32",
        "Streams that may wait at once for one upstream's answer to that",
    ),
    route(
        "resume.max_connection_age",
        Kind::DurationOrOff,
        "off",
        "Replace the upstream's connection of a resumable stream at this age, give or take a tenth; its client notices nothing",
    ),
    route(
        "completion.required",
        Kind::Bool,
        "true",
        "Break a stream that its upstream ends without the last word of its family: half an answer of openai or anthropic",
    ),
    route(
        "health.baseline",
        Kind::Bool,
        "true",
        "Judge event rate, pauses and first events by the quarter of an hour before, where no bound is set",
    ),
    route(
        "health.min_event_rate",
        Kind::RateOrOff,
        "off",
        "Events that a stream should get; with fewer the route is degraded, with a quarter of them failing",
    ),
    route(
        "health.max_first_event_p95",
        Kind::DurationOrOff,
        "off",
        "Time in which 95 % of the streams should have their first event",
    ),
    route(
        "health.max_gap_p99",
        Kind::DurationOrOff,
        "off",
        "Pause between events that 99 % of the pauses should not exceed",
    ),
    route(
        "health.max_error_rate",
        Kind::FractionOrOff,
        "0.05",
        "Share of requests that fail, or of streams that the upstream breaks off, from which a route is degraded",
    ),
    route(
        "health.early_ends",
        Kind::FractionOrOff,
        "0.5",
        "Share of EventSource streams that the upstream ends within 10 s, of all that it ends, from which a route is degraded",
    ),
    route(
        "health.reconnects",
        Kind::FractionOrOff,
        "0.5",
        "Share of the streams whose clients came back in a minute, from which a route is degraded",
    ),
    Key {
        name: "memory.budget",
        kind: Kind::SizeOrOff(8 * MIB, 1024 * GIB),
        default: None,
        per_route: false,
        help: "Resident memory to stay within: near it new streams are turned away, then idle ones end; when not set, the container's limit",
    },
    Key {
        name: "files.budget",
        kind: Kind::CountOrOff,
        default: None,
        per_route: false,
        help: "Open files to stay within, as with memory.budget; when not set, the limit of this process (ulimit -n)",
    },
    proxy(
        "admin.listen",
        Kind::AddressOrOff,
        "127.0.0.1:9090",
        "Address of metrics, health, stream table and dashboard; other than loopback needs admin.token",
    ),
    proxy(
        "admin.token",
        Kind::SecretOrOff,
        "off",
        "Secret that callers of the admin address must show as a bearer token; best set by SSE_GUARD_ADMIN_TOKEN",
    ),
    proxy(
        "admin.user_header",
        Kind::HeaderOrOff,
        "off",
        "Request header in which trusted_proxies name the user: shown with the stream, and to send events by; removed from requests of others",
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
        "Look at the config file so often, and reload when it has changed; SIGHUP reloads at any time",
    ),
    proxy(
        "drain.delay",
        Kind::DurationOrZero,
        "0s",
        "Time between the signal to stop, which turns readiness red, and the drain; everything is served meanwhile",
    ),
    proxy(
        "drain.window",
        Kind::DurationOrZero,
        "10s",
        "Time over which streams end at shutdown; the listener stays open, and new streams are put off until after it",
    ),
    proxy(
        "drain.answers",
        Kind::DurationOrZero,
        "20s",
        "Time that answers which are not rotated, such as those of models, have at shutdown; at least drain.window",
    ),
    proxy(
        "log.format",
        Kind::Choice(&["text", "json"]),
        "text",
        "How log lines are written",
    ),
    proxy(
        "log.level",
        Kind::Choice(&["error", "warn", "info", "debug", "trace"]),
        "info",
        "The least severe line that is logged",
    ),
    proxy(
        "log.stream_rate",
        Kind::RateOrOff,
        "100/s",
        "Streams whose opening and end are logged; of a flood of more the rest is counted, and told of later; off: all",
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
