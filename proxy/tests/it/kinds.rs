//! What is a stream, and what kind of one: through the real binary, whatever the heads say.

use crate::support::{Client, End, Origin, Proxy, wait_until};

const BEAT: &str = ": heartbeat\n";

/// An origin whose answer has the head that the path names by its number, and a chunked body that is held.
fn says(heads: &'static [&'static str], body: &'static [u8]) -> Origin {
    Origin::start(move |received, to| {
        let nth: usize = received.path[1..].parse().unwrap();
        let head = heads[nth];
        to.raw(
            format!("HTTP/1.1 {head}\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n")
                .as_bytes(),
        );
        to.chunk(body);
        to.wait_for_close();
    })
}

fn send_request(proxy: &Proxy, method: &str, path: &str, fields: &str) -> Client {
    proxy.send_request(&format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n{fields}\r\n"
    ))
}

const ACCEPT: &str = "Accept: text/event-stream\r\n";

/// The whole answer of the operator's address.
fn admin(proxy: &Proxy, target: &str) -> String {
    let mut client = Client::connect(proxy.admin());
    client.send(&format!(
        "GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    ));
    String::from_utf8(client.raw()).unwrap()
}

fn metric(proxy: &Proxy, line: &str) -> u64 {
    let metrics = admin(proxy, "/metrics");
    let value = metrics.lines().find_map(|found| found.strip_prefix(line));
    value.map_or(0, |value| value.trim().parse().unwrap())
}

#[test]
fn content_encoding_without_a_coding_is_ignored() {
    const HEADS: &[&str] = &[
        "200 OK\r\nContent-Type: text/event-stream\r\nContent-Encoding: none",
        "200 OK\r\nContent-Type: text/event-stream\r\nContent-Encoding: utf-8",
        "200 OK\r\nContent-Type: text/event-stream\r\nContent-Encoding: Identity",
        "200 OK\r\nContent-Type: text/event-stream\r\nContent-Encoding: ",
        "200 OK\r\nContent-Type: text/event-stream\r\nContent-Encoding: identity, none",
        "200 OK\r\nContent-Type: text/event-stream\r\nContent-Encoding: identity\r\nContent-Encoding: none",
    ];
    let origin = says(HEADS, b"data: 1\n\n");
    let proxy = Proxy::start(
        origin.addr,
        &["--heartbeat-interval=10ms", "--admin-listen=127.0.0.1:0"],
    );
    for nth in 0..HEADS.len() {
        for method in ["GET", "POST"] {
            let mut client = send_request(&proxy, method, &format!("/{nth}"), ACCEPT);
            let head = client.head();
            assert!(head.contains("x-accel-buffering: no\n"), "{head}");
            // Middleware in front goes by it, too.
            assert!(head.contains("content-encoding:"), "{head}");
            client.read_until(BEAT);
        }
    }
    let unguarded = "sse_guard_unguarded_total{reason=\"encoded\"}";
    assert_eq!(metric(&proxy, unguarded), 0);
}

#[test]
fn compressed_stream_is_in_table_limits_metrics_and_log() {
    const HEADS: &[&str] = &[
        "200 OK\r\nContent-Type: text/event-stream\r\nContent-Encoding: gzip",
        "200 OK\r\nContent-Type: text/event-stream\r\nContent-Encoding: none\r\nContent-Encoding: br",
        "206 Partial\r\nContent-Type: text/event-stream\r\nContent-Range: bytes 5-9/10",
    ];
    let origin = says(HEADS, b"\x1f\x8b\n\n");
    for (nth, method, reason) in [
        ("/0", "GET", "encoded"),
        ("/1", "POST", "encoded"),
        ("/2", "GET", "partial"),
    ] {
        let flags = [
            "--heartbeat-interval=1ms",
            "--limit-per-ip=1",
            "--admin-listen=127.0.0.1:0",
        ];
        let proxy = Proxy::start(origin.addr, &flags);
        let mut client = send_request(&proxy, method, nth, "");
        let head = client.head();
        assert!(!head.contains("x-accel-buffering"), "{head}");
        assert_eq!(client.chunk().unwrap(), b"\x1f\x8b\n\n");
        let rows = admin(&proxy, "/api/streams");
        assert!(rows.contains("\"opaque\":true"), "{rows}");
        assert!(rows.contains("\"bytes\":4"), "{rows}");
        assert_eq!(metric(&proxy, "sse_guard_streams_active{route=\"/\"}"), 1);
        let unguarded = format!("sse_guard_unguarded_total{{reason=\"{reason}\"}}");
        assert_eq!(metric(&proxy, &unguarded), 1);
        // Also a client that does not say what it accepts is counted.
        let head = send_request(&proxy, method, nth, "").head();
        assert!(head.starts_with("http/1.1 429 "), "{head}");
        let opened = proxy.wait_for_log("stream opened");
        assert!(opened.contains("127.0.0.1"), "{opened}");
        drop(client);
        let ended = proxy.wait_for_log("stream ended");
        assert!(ended.contains("\"bytes\":4"), "{ended}");
        assert!(ended.contains("\"heartbeats\":0"), "{ended}");
        wait_until("no stream is active", || {
            metric(&proxy, "sse_guard_streams_active{route=\"/\"}") == 0
        });
    }
}

#[test]
fn compressed_stream_ends_by_breaking_off() {
    const HEADS: &[&str] = &["200 OK\r\nContent-Type: text/event-stream\r\nContent-Encoding: gzip"];
    let origin = says(HEADS, b"\x1f\x8b\n\n");
    for (method, flag, reason) in [
        ("GET", "--idle-timeout=30ms", "upstream_idle"),
        ("POST", "--idle-timeout=30ms", "upstream_idle"),
        ("GET", "--rotation-max-age=30ms", "rotated"),
    ] {
        let flags = [flag, "--idle-action=close", "--heartbeat-interval=1ms"];
        let proxy = Proxy::start(origin.addr, &flags);
        let mut client = send_request(&proxy, method, "/0", ACCEPT);
        client.head();
        assert_eq!(client.rest(), (b"\x1f\x8b\n\n".to_vec(), End::Broken));
        proxy.wait_for_log(&format!("\"reason\":\"{reason}\""));
    }
    for method in ["GET", "POST"] {
        let mut proxy = Proxy::start(origin.addr, &["--drain-window=50ms"]);
        let mut client = send_request(&proxy, method, "/0", ACCEPT);
        client.head();
        client.chunk().unwrap();
        proxy.signal("-TERM");
        assert_eq!(client.rest(), (Vec::new(), End::Broken));
        assert!(proxy.wait().success());
    }
}

#[test]
fn content_type_is_read_as_browsers_read_it() {
    const HEADS: &[&str] = &[
        "200 OK\r\nContent-Type: text/event-stream, charset=UTF-8",
        "200 OK\r\nContent-Type: text/html, text/event-stream",
        "200 OK\r\nContent-Type: text/html\r\nContent-Type: text/event-stream",
        "200 OK\r\nContent-Type: text/event-stream charset=utf-8",
        "200 OK\r\nContent-Type: text/event-stream;charset=\"a,b\"",
        "200 OK\r\nContent-Type: \tTEXT/Event-Stream\t;",
        "200 OK\r\nContent-Type: text/event-stream, */*",
        "201 Created\r\nContent-Type: text/event-stream",
        "202 Accepted\r\nContent-Type: text/event-stream",
        "200 OK\r\nContent-Type: text/event-stream, text/html",
        "200 OK\r\nContent-Type: text/event-stream\r\nContent-Type: text/html",
        "200 OK\r\nContent-Type: \"text/event-stream\"",
        "200 OK\r\nContent-Type: text/html;x=\", text/event-stream\"",
        "200 OK\r\nContent-Type: application/event-stream",
        "200 OK\r\nX-None: 1",
        "500 Oh\r\nContent-Type: text/event-stream",
        "200 OK\r\nContent-Type: text/html",
        "404 No\r\nContent-Type: text/html",
    ];
    const STREAMS: usize = 9;
    let origin = says(HEADS, b"data: 1\n\n");
    let flags = ["--heartbeat-interval=10ms", "--admin-listen=127.0.0.1:0"];
    let proxy = Proxy::start(origin.addr, &flags);
    for _ in 0..2 {
        for (nth, head) in HEADS.iter().enumerate() {
            let mut client = send_request(&proxy, "POST", &format!("/{nth}"), ACCEPT);
            let seen = client.head();
            let is_stream = seen.contains("x-accel-buffering: no\n");
            assert_eq!(is_stream, nth < STREAMS, "{head}");
            match is_stream {
                true => drop(client.read_until(BEAT)),
                false => assert_eq!(client.chunk().unwrap(), b"data: 1\n\n"),
            }
        }
    }
    let count = |reason: &str| {
        let line = format!("sse_guard_unguarded_total{{reason=\"{reason}\"}}");
        metric(&proxy, &line)
    };
    assert_eq!((count("content_type"), count("status")), (12, 2));
    // Once a route.
    for (reason, remedy) in [("content_type", "alone"), ("status", "respond with 200")] {
        let reason = format!("\"reason\":\"{reason}\"");
        let warning = proxy.wait_for_log(&reason);
        assert!(warning.contains("\"WARN\""), "{warning}");
        assert!(warning.contains(remedy), "{warning}");
        assert_eq!(proxy.log().matches(&reason).count(), 1);
    }
}

#[test]
fn response_without_a_body_is_not_a_stream() {
    let origin = Origin::start(|received, to| {
        let status = &received.path[1..];
        to.raw(
            format!(
                "HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Type: text/event-stream\r\n\r\n"
            )
            .as_bytes(),
        );
    });
    let flags = ["--admin-listen=127.0.0.1:0", "--heartbeat-interval=1ms"];
    let proxy = Proxy::start(origin.addr, &flags);
    for (method, status) in [
        ("GET", "204"),
        ("GET", "304"),
        ("HEAD", "200"),
        ("POST", "204"),
    ] {
        let head = send_request(&proxy, method, &format!("/{status}"), ACCEPT).head();
        assert!(head.starts_with(&format!("http/1.1 {status} ")), "{head}");
        // A HEAD has the fields of its GET.
        let is_head = method == "HEAD";
        assert_eq!(head.contains("x-accel-buffering"), is_head, "{head}");
    }
    let metrics = admin(&proxy, "/metrics");
    for line in metrics
        .lines()
        .filter(|line| line.starts_with("sse_guard_unguarded_total{"))
    {
        assert!(line.ends_with(" 0"), "{line}");
    }
}
