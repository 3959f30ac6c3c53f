//! What the real binary says of streams, and what it never says.

use crate::support::{Client, Origin, Proxy, free_address, wait_until};
use serde_json::Value;
use std::net::SocketAddr;

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
    let mut client = proxy.send_request(request);
    client.head();
    client.rest();
}

#[test]
fn stream_is_logged_at_its_start_and_its_end() {
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
        assert!(line["spans"].is_null(), "the span is there once: {line}");
    }
    assert_eq!(ended["reason"], "upstream_end");
    assert_eq!((&ended["events"], &ended["bytes"]), (&2.into(), &18.into()));
    assert!(
        ended["age_seconds"].is_number() && ended["heartbeats"] == 0,
        "{ended}"
    );
    assert!(
        ended["gap_p99_seconds"].is_number() || ended["gap_p99_seconds"].is_null(),
        "{ended}"
    );
}

#[test]
fn traceparent_reaches_the_upstream() {
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
    let received = origin.last_request();
    assert_eq!(received.field("traceparent"), Some(parent));
    assert_eq!(received.field("tracestate"), Some(state));
}

#[test]
fn log_lines_of_many_streams_are_limited() {
    let mut proxy = Proxy::start(short().addr, &["--log-stream-rate", "3/h"]);
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

/// Lines with this message that tell of something, and the number of those that were left out, by
/// the lines that begin with the other message.
fn told(log: &str, of: impl Fn(&Value) -> bool, line: &str, summary: &str) -> (usize, u64) {
    let (mut lines, mut left_out) = (0, 0);
    for entry in log.lines() {
        let entry: Value = serde_json::from_str(entry).unwrap();
        let message = entry["message"].as_str().unwrap_or_default();
        if !of(&entry) {
        } else if message.starts_with(summary) {
            left_out += entry["not_logged"].as_u64().unwrap();
        } else if message.starts_with(line) {
            lines += 1;
        }
    }
    (lines, left_out)
}

/// Waits until all of them are accounted for, of which few have a line of their own.
#[track_caller]
fn all_are_told(proxy: &Proxy, of: impl Fn(&Value) -> bool, line: &str, summary: &str, all: u64) {
    let sum = || told(&proxy.log(), &of, line, summary);
    wait_until(&format!("{all} of {line:?}"), || {
        let (lines, left_out) = sum();
        left_out > 0 && lines as u64 + left_out >= all
    });
    let (lines, left_out) = sum();
    assert_eq!(lines as u64 + left_out, all, "{line}: {}", proxy.log());
    // As many as come at once, and some more where this takes long.
    assert!(lines as u64 <= all / 2, "{lines} of {all} lines: {line}");
}

const MORE_FAILED: &str = "more requests failed than were logged";
const NOT_CONNECTED: &str = "cannot connect to the upstream";
const BROKEN: &str = "the upstream sent no valid response head";

/// Breaks off `/cut`, does not answer `/hang`, and answers all else.
fn faulty() -> Origin {
    Origin::start(|received, to| match received.path.as_str() {
        "/cut" => {}
        "/hang" => {
            to.wait_for_close();
        }
        _ => {
            to.raw(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        }
    })
}

#[test]
fn log_lines_of_many_failures_are_few_per_kind_and_upstream_with_exact_counts() {
    let origin = faulty();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("guard.toml");
    let dead = [free_address(), free_address()];
    let routes = ["/dead", "/other"];
    let routes: String = (routes.iter().zip(dead))
        .map(|(path, address)| {
            format!("[[route]]\npath = '{path}'\nupstream.url = 'http://{address}'\n")
        })
        .collect();
    std::fs::write(&file, routes).unwrap();
    let config = file.to_str().unwrap();
    let mut proxy = Proxy::start(
        origin.addr,
        &[
            "--config",
            config,
            "--upstream-head-timeout=1s",
            "--upstream-max-body=8B",
            "--limit-requests-per-ip=off",
        ],
    );
    let send_request =
        |path: &str| proxy.send_request(&format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"));
    let status = |mut client: Client| client.head()[9..12].to_owned();
    let flood = |count: usize| {
        for _ in 0..count {
            assert_eq!(status(send_request("/dead")), "502");
            assert_eq!(status(send_request("/other")), "502");
            assert_eq!(status(send_request("/cut")), "502");
            let long = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n";
            assert_eq!(status(proxy.send_request(long)), "413");
        }
    };
    let hanging: Vec<_> = (0..30).map(|_| send_request("/hang")).collect();
    flood(40);
    for client in hanging {
        assert_eq!(status(client), "504");
    }
    let of = |address: SocketAddr| {
        let url = format!("http://{address}/");
        move |entry: &Value| entry["upstream"] == url.as_str()
    };
    let of_origin = |status: u16| {
        let of = of(origin.addr);
        move |entry: &Value| of(entry) && entry["status"] == status
    };
    all_are_told(&proxy, of(dead[0]), NOT_CONNECTED, MORE_FAILED, 40);
    all_are_told(&proxy, of(dead[1]), NOT_CONNECTED, MORE_FAILED, 40);
    all_are_told(&proxy, of_origin(502), BROKEN, MORE_FAILED, 40);
    let no_head = "the upstream sent no response head in time";
    all_are_told(&proxy, of_origin(504), no_head, MORE_FAILED, 30);
    let summary = proxy.wait_for_log(MORE_FAILED);
    assert!(summary.contains("\"ERROR\""), "{summary}");
    // A client's own fault is no line.
    assert!(!proxy.log().contains("too long"));

    // What is left out when the proxy stops is told, too.
    flood(40);
    proxy.stop();
    all_are_told(&proxy, of(dead[0]), NOT_CONNECTED, MORE_FAILED, 80);
    all_are_told(&proxy, of_origin(502), BROKEN, MORE_FAILED, 80);
}

#[test]
fn log_lines_caused_by_clients_are_limited() {
    let origin = faulty();
    let proxy = Proxy::start(
        origin.addr,
        &["--admin-listen=127.0.0.1:0", "--limit-rate=off"],
    );
    let any = |_: &Value| true;
    let cut = "GET /cut HTTP/1.1\r\nHost: x\r\n\r\n";
    for _ in 0..15 {
        // Of two clients, the upstream fails often enough to count as unreachable.
        for source in [[127, 0, 0, 1], [127, 0, 0, 1], [127, 0, 0, 2]] {
            let mut client = Client::connect_from(source, proxy.addr);
            client.send(cut);
            assert!(client.head().starts_with("http/1.1 502 "));
        }
        assert!(proxy.get("/").head().starts_with("http/1.1 200 "));
    }
    for _ in 0..20 {
        proxy.get("/cut").retry_later();
    }
    let admin = proxy.admin();
    for _ in 0..25 {
        let body = r#"{"to":{"all":true},"data":"x"}"#;
        let mut client = Client::connect(admin);
        client.send(&format!(
            "POST /api/send HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ));
        assert!(client.head().starts_with("http/1.1 200 "));
    }
    let (instead, more) = (
        "upstream unavailable: event streams",
        "upstream unavailable: more",
    );
    all_are_told(&proxy, any, instead, more, 20);
    let sends = "the admin API sends an event";
    all_are_told(&proxy, any, sends, "more events were sent", 25);

    // 15 times each way; the last failures are those of one client.
    let changes = |entry: &Value| {
        let message = entry["message"].as_str().unwrap_or_default();
        [
            "the upstream has failed",
            "the upstream is back",
            "the upstream became",
        ]
        .iter()
        .any(|start| message.starts_with(start))
    };
    all_are_told(&proxy, changes, "the upstream", "the upstream became", 30);
    let summary: Value =
        serde_json::from_str(&proxy.wait_for_log("the upstream became unreachable or")).unwrap();
    assert_eq!(summary["reachable"], true, "{summary}");
}

#[test]
fn token_in_a_query_is_never_logged() {
    let origin = Origin::start(|received, to| {
        if received.path.starts_with("/stream") {
            to.stream();
            to.chunk("data: 1\n\n");
            to.end();
        } else if received.path.starts_with("/held") {
            to.stream();
            to.chunk("data: 1\n\n");
            to.wait_for_close();
        } else if received.path.starts_with("/plain") {
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
    let refused = Proxy::start(free_address(), &["--log-level", "trace"]);
    said.push(refused.get("/refused?token=hunter2").head());
    refused.wait_for_log("\"status\":502");
    said.extend([proxy.log(), refused.log()]);
    for text in said {
        assert!(!text.contains("hunter2"), "{text}");
    }
}
