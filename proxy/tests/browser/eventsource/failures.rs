//! Responses to an `EventSource` in place of upstream failures.

use super::*;

/// Answers by the path: `/503` with that status, `/mute` not at all, `/broken` with no head.
fn failing() -> Origin {
    Origin::start(|received, to: &mut Answer| match received.path.as_str() {
        "/mute" => {
            to.wait_for_close();
        }
        "/broken" => {
            to.raw(b"SMTP/1.1 220 hello\r\n\r\n");
        }
        "/later" => {
            to.raw(b"HTTP/1.1 503 No\r\nRetry-After: 40\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        }
        status => {
            let status = &status[1..];
            let head = format!(
                "HTTP/1.1 {status} So\r\nConnection: close\r\nETag: \"1\"\r\nSet-Cookie: node=2\r\n"
            );
            to.raw(head.as_bytes());
            match status {
                "204" => to.raw(b"\r\n"),
                _ => to.raw(b"Content-Length: 6\r\n\r\nstatus"),
            };
        }
    })
}

#[test]
fn event_source_gets_a_retry_for_each_kind_of_upstream_failure() {
    let origin = failing();
    let flags = ["--limit-retry-after=4s"];
    let proxy = Proxy::start(origin.addr, &flags);
    let away = Proxy::start(free_address(), &flags);
    // Not for the responses that a slow machine delays.
    let impatient = Proxy::start(origin.addr, &[flags[0], "--upstream-head-timeout=300ms"]);
    for (proxy, path, code) in [
        (&away, "/", 502),
        (&proxy, "/broken", 502),
        (&impatient, "/mute", 504),
        (&proxy, "/500", 500),
        (&proxy, "/502", 502),
        (&proxy, "/503", 503),
        (&proxy, "/504", 504),
        (&proxy, "/529", 529),
    ] {
        let mut client = proxy.get(path);
        let (head, retry) = client.retry_later();
        assert!((2_000..=6_000).contains(&retry), "{path}: {retry}");
        assert!(!head.contains("etag: "), "{head}");
        let is_upstreams = path != "/broken" && path != "/mute" && path != "/";
        assert_eq!(
            head.contains("set-cookie: node=2\n"),
            is_upstreams,
            "{head}"
        );
        // The connection serves the next request.
        client.send("GET /404 HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(client.head().starts_with("http/1.1 "));

        let sse = "Accept: text/event-stream\r\n";
        for (method, fields) in [
            ("GET", ""),
            ("GET", "Accept: */*\r\n"),
            ("GET", "Accept: text/event-stream\r\nOpenAI-Project: x\r\n"),
            ("POST", sse),
            ("HEAD", sse),
        ] {
            assert_eq!(other(proxy, method, path, fields), code, "{method} {path}");
        }
    }
}

#[test]
fn status_that_a_later_request_would_not_change_is_kept() {
    let proxy = Proxy::start(failing().addr, &[]);
    for code in [204, 400, 401, 403, 404, 410, 429, 501, 505, 511] {
        let mut client = proxy.get(&format!("/{code}"));
        assert_eq!(status(&mut client), code);
    }
}

#[test]
fn retry_after_of_the_upstream_is_the_reconnection_time() {
    let proxy = Proxy::start(failing().addr, &[]);
    let (_, retry) = proxy.get("/later").retry_later();
    assert!((40_000..=60_000).contains(&retry), "{retry}");
}

#[test]
fn event_source_reconnects_after_too_many_pending_requests() {
    let origin = failing();
    let flags = ["--upstream-max-pending=1", "--limit-retry-after=4s"];
    let proxy = Proxy::start(origin.addr, &flags);
    let _waits = proxy.get("/mute");
    origin.wait_for_open(1);
    let (head, retry) = proxy.get("/").retry_later();
    assert!((4_000..=6_000).contains(&retry), "{retry}");
    assert!(!head.contains("retry-after"), "{head}");
    assert_eq!(other(&proxy, "GET", "/", ""), 503);
}

#[test]
fn unavailable_status_forwards_the_status() {
    let origin = failing();
    let proxy = Proxy::start(origin.addr, &["--upstream-unavailable=status"]);
    assert_eq!(status(&mut proxy.get("/503")), 503);
    assert_eq!(status(&mut proxy.get("/broken")), 502);
}

#[test]
fn response_in_place_of_a_failure_is_counted_as_a_failure() {
    let flags = ["--admin-listen=127.0.0.1:0", "--limit-rate=off"];
    let proxy = Proxy::start(failing().addr, &flags);
    for _ in 0..30 {
        proxy.get("/503").retry_later();
    }
    let metrics = metrics(&proxy);
    for line in [
        "sse_guard_unavailable_total{answer=\"retry_later\"} 30\n",
        "sse_guard_streams_total{route=\"/\",outcome=\"failed\"} 30\n",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    // A line in ten seconds, however many answers there are.
    proxy.wait_for_log("upstream unavailable");
    let log = proxy.log();
    let lines = log
        .lines()
        .filter(|line| line.contains("upstream unavailable"));
    assert!(lines.count() < 3, "{log}");
}

#[test]
fn event_source_is_served_as_soon_as_its_upstream_is_back() {
    let address = free_address();
    let proxy = Proxy::start(address, &["--limit-retry-after=100ms"]);
    let (_, retry) = proxy.get("/").retry_later();
    assert!((50..=150).contains(&retry), "{retry}");
    let origin = Origin::listening(&address.to_string(), |_, to| {
        to.stream();
        to.chunk("data: back\n\n");
        to.wait_for_close();
    });
    let mut client = proxy.get("/");
    wait_until("the upstream", || origin.served() == 1);
    assert!(client.head().contains("content-type: text/event-stream\n"));
    client.read_until("data: back\n\n");
}

#[test]
fn first_heartbeat_of_a_quiet_stream_comes_at_once() {
    let (go_on, goes_on) = gate();
    let origin = Origin::start(move |_, to| {
        to.stream();
        if goes_on.opens() {
            to.chunk("\u{feff}data: 1\n\n");
            to.end();
        }
    });
    // No flag says so.
    let flags = ["--heartbeat-interval=1h", "--heartbeat-immediate=auto"];
    let proxy = Proxy::start(origin.addr, &flags);
    let both = "Accept: application/json, text/event-stream\r\n";
    for (method, fields, at_once) in [
        ("GET", SSE, true),
        (
            "GET",
            "Accept: text/event-stream\r\nMcp-Session-Id: 1\r\n",
            true,
        ),
        ("POST", both, true),
        ("POST", SSE, false),
        ("POST", "OpenAI-Project: x\r\n", false),
        ("POST", "Anthropic-Version: 2023-06-01\r\n", false),
    ] {
        let mut client = proxy.send_request(&format!(
            "{method} / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n{fields}\r\n"
        ));
        assert!(client.head().starts_with("http/1.1 200 "));
        let mut expected = "\u{feff}data: 1\n\n";
        if at_once {
            assert_eq!(
                client.read_until("\n"),
                ": heartbeat\n",
                "{method} {fields}"
            );
            expected = "data: 1\n\n";
        }
        go_on.send(()).unwrap();
        let (text, _) = client.rest();
        assert_eq!(
            String::from_utf8(text).unwrap(),
            expected,
            "{method} {fields}"
        );
    }
}
