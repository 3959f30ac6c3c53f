//! `[client]`.

use super::super::key::{Key, Table};
use super::super::kind::{GIB, KIB, Shape};

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
