//! What the real binary says of streams, and what it never says.

#![allow(
    clippy::unwrap_used,
    reason = "a failed expectation is how a test fails"
)]

mod support;

use serde_json::Value;
use std::net::{SocketAddr, TcpListener};
use support::{Client, Origin, Proxy, wait_until};

/// An address at which nobody listens.
fn nobody() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

/// Two events and a proper end.
fn short() -> Origin {
    Origin::start(|_, to| {
        to.stream();
        to.chunk("data: 1\n\n");
        to.chunk("data: 2\n\n");
        to.end();
    })
}

fn read_all(proxy: &Proxy, request: &str) {
    let mut client = proxy.ask(request);
    client.head();
    client.rest();
}

#[test]
fn a_stream_has_a_line_when_it_opens_and_one_when_it_ends() {
    let proxy = Proxy::start(short().addr, &[]);
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    read_all(
        &proxy,
        &format!(
            "GET /feed?x=1 HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\
             traceparent: 00-{trace}-00f067aa0ba902b7-01\r\n\r\n"
        ),
    );
    let line = |text: &str| -> Value {
        serde_json::from_str(&proxy.wait_for_log(&format!("\"{text}\""))).unwrap()
    };
    let (opened, ended) = (line("stream opened"), line("stream ended"));
    for line in [&opened, &ended] {
        let span = &line["span"];
        assert_eq!(span["client"], "127.0.0.1", "{line}");
        assert_eq!(span["route"], "/", "{line}");
        assert_eq!(span["path"], "/feed", "{line}");
        assert_eq!(span["trace_id"], trace, "{line}");
        assert!(span["id"].is_u64(), "{line}");
    }
    assert_eq!(ended["reason"], "upstream_end");
    assert_eq!((&ended["events"], &ended["bytes"]), (&2.into(), &18.into()));
    assert!(
        ended["age"].is_string() && ended["heartbeats"] == 0,
        "{ended}"
    );
    assert!(
        ended["gap_p99"].is_string() || ended["gap_p99"].is_null(),
        "{ended}"
    );
}

#[test]
fn the_trace_goes_on_to_the_upstream() {
    let origin = short();
    let proxy = Proxy::start(origin.addr, &[]);
    let (parent, state) = (
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "a=1,b=2",
    );
    read_all(
        &proxy,
        &format!(
            "GET / HTTP/1.1\r\nHost: x\r\ntraceparent: {parent}\r\ntracestate: {state}\r\n\r\n"
        ),
    );
    let asked = origin.asked();
    assert_eq!(asked.field("traceparent"), Some(parent));
    assert_eq!(asked.field("tracestate"), Some(state));
}

#[test]
fn a_flood_of_streams_is_none_of_lines() {
    let mut proxy = Proxy::start(short().addr, &["--log-streams", "3/h"]);
    for _ in 0..20 {
        read_all(&proxy, "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    }
    let sums = proxy.stop();
    assert_eq!(sums["opened"], 20);
    let count = |text: &str| {
        proxy
            .log()
            .lines()
            .filter(|line| line.contains(text))
            .count()
    };
    assert_eq!(
        (count("\"stream opened"), count("\"stream ended\"")),
        (3, 3)
    );
}

#[test]
fn a_token_in_a_query_is_said_nowhere() {
    let origin = Origin::start(|asked, to| {
        if asked.path.starts_with("/stream") {
            to.stream();
            to.chunk("data: 1\n\n");
            to.end();
        } else if asked.path.starts_with("/held") {
            to.stream();
            to.chunk("data: 1\n\n");
            to.wait_for_close();
        } else if asked.path.starts_with("/plain") {
            to.raw(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let flags = ["--log-level", "trace", "--admin-listen", "127.0.0.1:0"];
    let mut proxy = Proxy::start(origin.addr, &flags);
    let mut said = Vec::new();
    for path in ["/stream", "/plain", "/broken"] {
        let mut client: Client = proxy.get(&format!("{path}?token=hunter2"));
        said.push(client.head());
    }
    let mut held = proxy.get("/held?token=hunter2");
    held.head();
    held.read_until("data: 1\n\n");
    proxy.wait_for_log("\"status\":502");
    proxy.wait_for_log("\"path\":\"/stream\"");
    let mut ask_admin = |path: &str| {
        let mut client = Client::connect(proxy.admin());
        client.send(&format!(
            "GET {path}?token=hunter2 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        ));
        let answer = String::from_utf8(client.raw()).unwrap();
        said.push(answer.clone());
        answer
    };
    wait_until("the end is told", || {
        ask_admin("/api/ends").contains("reason")
    });
    for path in [
        "/metrics",
        "/readyz",
        "/api/summary",
        "/api/streams",
        "/api/history",
        "/api/config",
        "/api/no",
    ] {
        ask_admin(path);
    }
    proxy.stop();
    let refused = Proxy::start(nobody(), &["--log-level", "trace"]);
    said.push(refused.get("/refused?token=hunter2").head());
    refused.wait_for_log("\"status\":502");
    said.extend([proxy.log(), refused.log()]);
    for text in said {
        assert!(!text.contains("hunter2"), "{text}");
    }
}
