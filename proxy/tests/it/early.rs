//! Early answers of the real binary: heartbeats while the upstream thinks, and what becomes of its
//! answer, of its failure, and of the request when somebody goes.

use crate::support::{Answer, Client, End, Gate, Origin, Proxy, gate, wait_until};
use serde_json::Value;
use std::net::SocketAddr;

/// An answer is early after some heartbeats' time.
const EARLY: [&str; 4] = [
    "--early-enabled",
    "--heartbeat-style=line",
    "--early-after=30ms",
    "--heartbeat-interval=10ms",
];
const BEAT: &str = ": heartbeat\n";

fn early(origin: &Origin, flags: &[&str]) -> Proxy {
    let flags: Vec<&str> = EARLY.iter().chain(flags).copied().collect();
    Proxy::start(origin.addr, &flags)
}

/// An origin that answers when `gate` lets it, once.
fn slow(gate: Gate, answer: impl Fn(&mut Answer) + Send + Sync + 'static) -> Origin {
    Origin::start(move |_, to| {
        gate.wait();
        answer(to);
    })
}

/// An origin that never answers, and sees to it that it is let go.
fn silent() -> Origin {
    Origin::start(|_, to| assert!(to.wait_for_close()))
}

fn post(fields: &str, body: &str) -> String {
    format!(
        "POST /v1 HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\nContent-Length: {}\r\n\
         {fields}\r\n{body}",
        body.len()
    )
}

const GET: &str = "GET / HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n";

/// A client that has had its early answer, and a heartbeat behind it.
fn waiting(proxy: &Proxy, request: &str) -> Client {
    let mut client = proxy.send_request(request);
    let head = client.head();
    assert!(head.starts_with("http/1.1 200 ok\n"), "{head}");
    assert!(
        head.contains("\ncontent-type: text/event-stream\n"),
        "{head}"
    );
    client.read_until(BEAT);
    client
}

/// What comes but for heartbeats, to the end.
fn rest(client: &mut Client) -> (String, End) {
    let (seen, end) = client.rest();
    (String::from_utf8(seen).unwrap().replace(BEAT, ""), end)
}

/// The data of an error event that is all there is.
fn error(client: &mut Client) -> Value {
    let (seen, end) = rest(client);
    assert_eq!(end, End::Clean, "{seen:?}");
    let data = seen.strip_prefix("event: error\ndata: ").unwrap();
    let data: Value = serde_json::from_str(data.strip_suffix("\n\n").unwrap()).unwrap();
    data["error"].clone()
}

fn admin(addr: SocketAddr, line: &str) -> String {
    let mut client = Client::connect(addr);
    client.send(&format!(
        "{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    ));
    client.head();
    String::from_utf8(client.raw()).unwrap()
}

#[test]
fn hints_behind_an_early_answer_are_dropped() {
    let (open, opens) = gate();
    let origin = slow(opens, |to| {
        to.raw(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
        to.stream();
        to.chunk("data: 1\n\n");
        to.end();
    });
    let proxy = early(&origin, &[]);
    let mut client = waiting(&proxy, GET);
    open.send(()).unwrap();
    // Chunks alone, or this panics.
    assert_eq!(rest(&mut client), ("data: 1\n\n".to_owned(), End::Clean));
}

#[test]
fn quick_failure_keeps_its_status() {
    let origin = Origin::start(|_, to| {
        to.raw(
            b"HTTP/1.1 429 Too Many Requests\r\nConnection: close\r\nRetry-After: 7\r\n\
              Content-Length: 4\r\n\r\nslow",
        );
    });
    let proxy = Proxy::start(origin.addr, &["--early-enabled", "--early-after=1m"]);
    for request in [GET, &post("", "{}")] {
        let mut client = proxy.send_request(request);
        let head = client.head();
        assert!(head.starts_with("http/1.1 429 "), "{head}");
        assert!(head.contains("\nretry-after: 7\n"), "{head}");
        assert_eq!(client.bytes(4), b"slow");
    }
}

#[test]
fn stream_flag_in_the_body_alone_gets_an_early_answer() {
    let request = |fields: &str, body: &str| {
        format!(
            "POST /v1 HTTP/1.1\r\nHost: x\r\nAccept: application/json\r\n\
             Accept-Encoding: gzip\r\nContent-Type: application/json\r\n\
             {fields}Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let (speak, gate) = gate();
    let origin = Origin::start(move |received, to| {
        let quiet = received.field("x-quiet").is_some();
        let coding = if quiet { "gzip" } else { "identity" };
        assert_eq!(received.field("accept-encoding"), Some(coding));
        gate.wait();
        to.stream();
        to.chunk("data: [DONE]\n\n");
        to.end();
    });
    let proxy = early(&origin, &["--admin-listen=127.0.0.1:0"]);
    let mut client = waiting(&proxy, &request("", r#"{"model": "m", "stream": true}"#));
    let mut quiet = proxy.send_request(&request(
        "X-Quiet: 1\r\n",
        r#"{"model": "m", "stream": false}"#,
    ));
    for _ in 0..5 {
        client.read_until(BEAT);
    }
    for _ in 0..2 {
        speak.send(()).unwrap();
    }
    assert_eq!(rest(&mut client), ("data: [DONE]\n\n".into(), End::Clean));
    let head = quiet.head();
    // Its answer is the upstream's own, with all its fields.
    assert!(head.contains("\ntransfer-encoding: chunked\n"), "{head}");
    assert!(quiet.read_until("[DONE]").ends_with("data: [DONE]\n\n"));
    let early = admin(proxy.admin(), "GET /metrics");
    assert!(early.contains("sse_guard_early_answers_total 1"), "{early}");
}

#[test]
fn request_without_stream_flag_keeps_its_codings() {
    let origin = Origin::start(|received, to| {
        let coding = received
            .field("accept-encoding")
            .unwrap_or("none")
            .to_owned();
        let len: usize = received.field("content-length").unwrap().parse().unwrap();
        let body = to.body(len);
        let text = format!("{coding} {} {}", body.len(), body.ends_with(b"}"));
        // A POST on a kept connection that this origin is about to close would be a 502.
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n";
        to.raw(format!("{head}Content-Length: {}\r\n\r\n{text}", text.len()).as_bytes());
    });
    let early = Proxy::start(origin.addr, &["--early-enabled", "--early-after=1m"]);
    let by_default = Proxy::start(origin.addr, &[]);
    let plain = r#"{"input": "text", "stream": false}"#;
    let stream = r#"{"stream": true}"#;
    // Longer than what is read ahead.
    let long = format!(r#"{{"input": "{}"}}"#, "x".repeat(100_000));
    let model = "anthropic-version: 2023-06-01\r\n";
    for (proxy, fields, body, expected) in [
        (&early, "", plain, "gzip"),
        (&early, model, plain, "gzip"),
        (&early, "", stream, "identity"),
        (&early, "", long.as_str(), "identity"),
        (&by_default, "", plain, "gzip"),
        (&by_default, "", stream, "gzip"),
        (&by_default, model, plain, "gzip"),
        (&by_default, model, stream, "identity"),
        (&by_default, model, long.as_str(), "identity"),
    ] {
        let mut client = proxy.send_request(&format!(
            "POST /v1 HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip\r\n\
             Content-Type: application/json\r\n{fields}Content-Length: {}\r\n\r\n{body}",
            body.len()
        ));
        let head = client.head();
        assert!(head.starts_with("http/1.1 200 "), "{head}");
        let expected = format!("{expected} {} true", body.len());
        let start = &body[..body.len().min(40)];
        let answer = String::from_utf8(client.bytes(expected.len())).unwrap();
        assert_eq!(answer, expected, "{fields}{start}");
    }
}

#[test]
fn heartbeats_fill_the_wait_before_the_events() {
    let (speak, gate) = gate();
    let origin = slow(gate, |to| {
        to.raw(
            b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: text/event-stream\r\n\
              Set-Cookie: a=b\r\nTransfer-Encoding: chunked\r\n\r\n",
        );
        for part in ["\u{feff}id: 1\nda", "ta: 1\n\n", "id: 2\ndata: 2\n\n"] {
            to.chunk(part);
        }
        to.end();
    });
    let proxy = early(&origin, &[]);
    let mut client = proxy.send_request(GET);
    // The connection serves another request behind the stream.
    for _ in 0..2 {
        let head = client.head();
        for line in [
            "content-type: text/event-stream",
            "cache-control: no-cache, no-transform",
            "x-accel-buffering: no",
        ] {
            assert_eq!(
                head.lines().filter(|other| *other == line).count(),
                1,
                "{head}"
            );
        }
        assert!(!head.contains("set-cookie"), "{head}");
        for _ in 0..3 {
            client.read_until(BEAT);
        }
        speak.send(()).unwrap();
        let events = "id: 1\ndata: 1\n\nid: 2\ndata: 2\n\n".to_owned();
        assert_eq!(rest(&mut client), (events, End::Clean));
        client.send(GET);
    }
    proxy.wait_for_log_lines("\"reason\":\"upstream_end\"", 2);
}

#[test]
fn stream_after_an_early_answer_is_resumed() {
    let (speak, gate) = gate();
    let origin = Origin::start(move |received, to| {
        let seen = received.field("last-event-id").is_some();
        if !seen {
            gate.wait();
        }
        to.stream();
        if seen {
            to.chunk("id: 2\ndata: 2\n\n");
            to.end();
        } else {
            to.chunk("id: 1\ndata: 1\n\nid: 2\n");
        }
    });
    let proxy = early(&origin, &["--resume-mode=on", "--resume-backoff=10ms"]);
    let mut client = waiting(&proxy, GET);
    speak.send(()).unwrap();
    let events = "id: 1\ndata: 1\n\nid: 2\ndata: 2\n\n".to_owned();
    assert_eq!(rest(&mut client), (events, End::Clean));
    assert_eq!(origin.served(), 2);
}

#[test]
fn late_failure_is_sent_in_the_format_of_the_family() {
    const BODY: &str = r#"{"error":{"message":"no such model"}}"#;
    let (fail, gate) = gate();
    let origin = slow(gate, |to| {
        to.raw(
            format!(
                "HTTP/1.1 500 Internal Server Error\r\nConnection: close\r\n\
                 Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{BODY}",
                BODY.len()
            )
            .as_bytes(),
        );
    });
    let proxy = early(&origin, &[]);
    let message = format!("500 Internal Server Error: {BODY}");
    let anthropic = post("Anthropic-Version: 2023-06-01\r\n", "{}");
    for (request, kind) in [(GET, "upstream_error"), (&anthropic, "api_error")] {
        let mut client = waiting(&proxy, request);
        fail.send(()).unwrap();
        let error = error(&mut client);
        assert_eq!(
            (&error["type"], &error["message"]),
            (&kind.into(), &message.clone().into())
        );
    }
    let mcp = post("MCP-Protocol-Version: 2025-06-18\r\n", "{}");
    for request in [&mcp, &post("", "{}")] {
        let mut client = waiting(&proxy, request);
        fail.send(()).unwrap();
        assert_eq!(rest(&mut client), (String::new(), End::Broken));
    }
    proxy.wait_for_log_lines("\"reason\":\"upstream_error\"", 4);
}

#[test]
fn late_response_other_than_a_stream_is_sent_as_an_error() {
    let (answer, gate) = gate();
    let origin = slow(gate, |to| {
        to.raw(
            b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: application/json\r\n\
              Content-Length: 2\r\n\r\n{}",
        );
    });
    let proxy = early(&origin, &[]);
    let mut client = waiting(&proxy, GET);
    answer.send(()).unwrap();
    let error = error(&mut client);
    assert_eq!(error["status"], 200);
    assert_eq!(error["message"], "200 OK, but no event stream: {}");
}

#[test]
fn upstream_lost_behind_an_early_answer_is_a_502() {
    let (die, gate) = gate();
    let origin = slow(gate, |_| {});
    let proxy = early(&origin, &[]);
    let mut client = waiting(&proxy, GET);
    die.send(()).unwrap();
    let error = error(&mut client);
    assert_eq!(error["status"], 502);
    let message = error["message"].as_str().unwrap();
    assert!(
        message.starts_with("502 Bad Gateway: sse-guard: "),
        "{message}"
    );
}

#[test]
fn early_wait_ends_at_the_head_timeout() {
    let origin = silent();
    let proxy = early(&origin, &["--upstream-head-timeout=2s"]);
    let mut client = waiting(&proxy, GET);
    assert_eq!(error(&mut client)["status"], 504);
    origin.wait_for_open(0);
}

#[test]
fn client_that_disconnects_during_the_wait_cancels_its_upstream_request() {
    let origin = silent();
    let mut proxy = early(&origin, &[]);
    for request in [GET, &post("", "{}")] {
        let client = waiting(&proxy, request);
        origin.wait_for_open(1);
        drop(client);
        origin.wait_for_open(0);
    }
    proxy.wait_for_log_lines("\"reason\":\"client_gone\"", 2);
    let sums = proxy.stop();
    assert_eq!((&sums["active"], &sums["slots"]), (&0.into(), &0.into()));
}

#[test]
fn drain_ends_the_early_wait() {
    let origin = silent();
    let mut proxy = early(&origin, &["--drain-window=0s"]);
    let mut get = waiting(&proxy, GET);
    let mut answer = waiting(&proxy, &post("", "{}"));
    proxy.signal("-TERM");
    let (last_words, end) = rest(&mut get);
    assert!(last_words.starts_with("retry: "), "{last_words:?}");
    assert_eq!(end, End::Clean);
    assert_eq!(rest(&mut answer), (String::new(), End::Broken));
    origin.wait_for_open(0);
    assert!(proxy.wait().success());
}

#[test]
fn early_wait_is_listed_and_ended_by_the_operator() {
    let origin = silent();
    let proxy = early(&origin, &["--admin-listen=127.0.0.1:0"]);
    let mut client = waiting(&proxy, GET);
    let list = |state: &str| -> Value {
        let list = admin(proxy.admin(), &format!("GET /api/streams?state={state}"));
        serde_json::from_str(&list).unwrap()
    };
    for other in ["open", "resuming", "degraded"] {
        assert_eq!(list(other)["matched"], 0, "{other}");
    }
    let row = list("connecting")["streams"][0].clone();
    assert_eq!(
        (&row["state"], &row["events"]),
        (&"connecting".into(), &0.into())
    );
    let metrics = admin(proxy.admin(), "GET /metrics");
    assert!(
        metrics.contains("\nsse_guard_early_answers_total 1\n"),
        "{metrics}"
    );
    admin(proxy.admin(), &format!("DELETE /api/streams/{}", row["id"]));
    let (last_words, end) = rest(&mut client);
    assert!(last_words.starts_with("retry: "), "{last_words:?}");
    assert_eq!(end, End::Clean);
    origin.wait_for_open(0);
    proxy.wait_for_log("\"reason\":\"operator\"");
}

#[test]
fn request_behind_an_early_answer_counts_as_pending() {
    let origin = silent();
    let proxy = early(
        &origin,
        &["--upstream-max-pending=1", "--upstream-unavailable=status"],
    );
    let client = waiting(&proxy, GET);
    let head = proxy.send_request(GET).head();
    assert!(head.starts_with("http/1.1 503 "), "{head}");
    drop(client);
    origin.wait_for_open(0);
    wait_until("its place is free", || {
        proxy.send_request(GET).head().starts_with("http/1.1 200 ")
    });
}

#[test]
fn upload_continues_behind_its_early_answer() {
    const LEN: usize = 1 << 20;
    let (speak, gate) = gate();
    let origin = Origin::start(move |_, to| {
        let body = to.body(LEN);
        let sum: u64 = body.iter().map(|&byte| u64::from(byte)).sum();
        gate.wait();
        to.stream();
        to.chunk(format!("data: {sum}\n\n"));
        to.end();
    });
    let proxy = early(&origin, &[]);
    let half = LEN / 2;
    let (first, second) = ("a".repeat(half), "b".repeat(half));
    let head = format!(
        "POST / HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\nContent-Length: {LEN}\r\n\r\n"
    );
    let sum = half * usize::from(b'a') + half * usize::from(b'b');
    let whole = (format!("data: {sum}\n\n"), End::Clean);

    let mut client = waiting(&proxy, &head);
    client.send(&first);
    client.read_until(BEAT);
    client.send(&second);
    client.read_until(BEAT);
    speak.send(()).unwrap();
    assert_eq!(rest(&mut client), whole);

    // As most clients do: all of it ahead of the answer.
    let mut client = waiting(&proxy, &format!("{head}{first}{second}"));
    speak.send(()).unwrap();
    assert_eq!(rest(&mut client), whole);
}
