//! `[limit]`.

use super::super::key::{Key, Table};
use super::super::kind::Shape;

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
        Key::route("limit.reject", Shape::Choice(&["status", "retry-later"]))
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
