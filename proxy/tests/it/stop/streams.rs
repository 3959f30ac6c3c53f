//! Streams and answers during the drain.

use super::*;

/// An origin whose streams are two events, the second when the gate is opened.
fn two_events() -> (Origin, Gate) {
    let gate = Gate::default();
    let wait = gate.clone();
    let origin = Origin::start(move |_, to| {
        to.stream();
        to.chunk("data: 1\n\n");
        wait.wait();
        to.chunk("data: 2\n\n");
        to.end();
    });
    (origin, gate)
}

#[test]
fn sigterm_ends_streams_properly_with_spread_retries() {
    for signal in ["-TERM", "-INT"] {
        let origin = Origin::held();
        let mut proxy = Proxy::start(origin.addr, &["--drain-window", "500ms"]);
        let mut clients: Vec<Client> = (0..20).map(|_| begun(proxy.get("/"))).collect();
        proxy.signal(signal);
        let mut told = BTreeSet::new();
        for client in &mut clients {
            let (last_words, end) = client.rest();
            assert_eq!(end, End::Clean);
            told.insert(retry(&last_words));
        }
        assert!(told.len() > 10, "{told:?}");
        // 2 s by default, half of it either way, behind what is left of the window.
        assert!(
            told.iter().all(|ms| (1_000..=3_750).contains(ms)),
            "{told:?}"
        );
        let last = stopped(&mut proxy);
        for (name, count) in [("active", 0), ("slots", 0), ("cut_off", 0), ("opened", 20)] {
            assert_eq!(last[name], count, "{name}: {last}");
        }
        let ended = proxy.wait_for_log_lines("stream ended", 20);
        assert!(
            ended.iter().all(|line| line.contains("\"drained\"")),
            "{ended:?}"
        );
        origin.wait_for_open(0);
    }
}

#[test]
fn post_response_that_ends_within_the_window_ends_properly() {
    let (origin, gate) = two_events();
    let mut proxy = Proxy::start(origin.addr, &["--drain-window", "30s"]);
    let mut client = begun(post(&proxy));
    terminate(&proxy);
    gate.open();
    assert_eq!(client.rest(), (b"data: 2\n\n".to_vec(), End::Clean));
    assert_eq!(stopped_early(&mut proxy)["cut_off"], 0);
}

#[test]
fn post_response_that_does_not_end_in_time_is_broken_off() {
    let origin = Origin::held();
    let mut proxy = Proxy::start(origin.addr, &["--drain-window", "200ms"]);
    let mut client = begun(post(&proxy));
    terminate(&proxy);
    assert_eq!(client.rest(), (Vec::new(), End::Broken));
    let last = stopped(&mut proxy);
    // By the window's end, not by the end of the process.
    for (name, count) in [("active", 0), ("slots", 0), ("cut_off", 0)] {
        assert_eq!(last[name], count, "{name}: {last}");
    }
    let ended = proxy.wait_for_log("stream ended");
    assert!(ended.contains("\"drained\""), "{ended}");
    origin.wait_for_open(0);
}

#[test]
fn second_signal_breaks_off_all_streams_at_once() {
    let origin = Origin::held();
    let mut proxy = Proxy::start(origin.addr, &["--drain-window", "10h"]);
    let mut clients = [begun(proxy.get("/")), begun(post(&proxy))];
    terminate(&proxy);
    proxy.signal("-TERM");
    for client in &mut clients {
        assert_eq!(client.rest(), (Vec::new(), End::Broken));
    }
    let last = stopped(&mut proxy);
    for (name, count) in [("active", 0), ("slots", 0), ("cut_off", 2)] {
        assert_eq!(last[name], count, "{name}: {last}");
    }
    let ended = proxy.wait_for_log_lines("stream ended", 2);
    assert!(
        ended.iter().all(|line| line.contains("\"shutdown\"")),
        "{ended:?}"
    );
}

#[test]
fn stream_opened_during_the_drain_has_no_connection_close() {
    let gate = Gate::default();
    let wait = gate.clone();
    let (requested, was_requested) = mpsc::channel();
    let origin = Origin::start(move |_, to| {
        requested.send(()).unwrap();
        wait.wait();
        to.stream();
        to.chunk("data: 1\n\n");
        to.wait_for_close();
    });
    let mut proxy = Proxy::start(origin.addr, &["--drain-window", "1s"]);
    let mut clients = [proxy.get("/"), post(&proxy)];
    for _ in &clients {
        was_requested.recv_timeout(PATIENCE).unwrap();
    }
    terminate(&proxy);
    gate.open();
    let ends = clients.each_mut().map(|client| {
        let head = client.head();
        assert!(head.starts_with("http/1.1 200 "), "{head}");
        assert!(!head.contains("connection: close"), "{head}");
        assert_eq!(client.read_until("data: 1\n\n"), "data: 1\n\n");
        client.rest().1
    });
    assert_eq!(ends, [End::Clean, End::Broken]);
    stopped(&mut proxy);
}

#[test]
fn drained_stream_ends_without_a_partial_event() {
    let origin = Origin::start(|_, to| {
        to.stream();
        to.chunk("data: 1\n\ndata: ha");
        to.wait_for_close();
    });
    let mut proxy = Proxy::start(origin.addr, &["--drain-window", "0s"]);
    let mut client = begun(proxy.get("/"));
    terminate(&proxy);
    let (last_words, end) = client.rest();
    retry(&last_words);
    assert_eq!(end, End::Clean);
    stopped(&mut proxy);
}

#[test]
fn new_streams_are_deferred_without_a_request_to_the_upstream() {
    let origin = plain();
    let mut proxy = Proxy::start(origin.addr, &["--drain-window", "1h"]);
    terminate(&proxy);
    for _ in 0..3 {
        let mut client = proxy.get("/feed");
        let head = client.head();
        assert!(
            head.starts_with("http/1.1 200 ") && head.contains("text/event-stream"),
            "{head}"
        );
        assert!(retry(&client.raw()) > 3_590_000);
    }
    let flag = r#"{"messages":[],"stream":true}"#;
    for (fields, body) in [
        ("Accept: text/event-stream\r\n", ""),
        ("Accept: application/json, text/event-stream\r\n", ""),
        (
            "User-Agent: AsyncOpenAI/Python 1.0\r\nContent-Type: application/json\r\n",
            flag,
        ),
        (
            "anthropic-version: 2023-06-01\r\nContent-Type: application/json\r\n",
            flag,
        ),
        ("Content-Type: application/json\r\n", flag),
        ("Upgrade: websocket\r\nConnection: upgrade\r\n", ""),
    ] {
        let method = if fields.contains("Upgrade") {
            "GET"
        } else {
            "POST"
        };
        let length = body.len();
        let mut client = proxy.send_request(&format!(
            "{method} / HTTP/1.1\r\nHost: x\r\n{fields}Content-Length: {length}\r\n\r\n{body}"
        ));
        let head = client.head();
        assert!(head.starts_with("http/1.1 503 "), "{fields}: {head}");
        let after = head.split("retry-after: ").nth(1).unwrap();
        let after: u64 = after.lines().next().unwrap().parse().unwrap();
        // The SDKs of these families ignore longer times.
        let is_capped = fields.contains("OpenAI") || fields.contains("anthropic");
        assert_eq!(
            after,
            if is_capped { 60 } else { after.max(3_591) },
            "{head}"
        );
    }
    assert_eq!(origin.served(), 0);
    stopped_early(&mut proxy);
}

#[test]
fn late_or_missing_stream_flag_is_forwarded_with_the_body() {
    let long = format!(r#"{{"text":"{}","stream":true}}"#, "x".repeat(200_000));
    let (take, length) = (long.clone(), long.len());
    let origin = Origin::start(move |_, to| {
        let is_whole = to.body(length) == take.as_bytes();
        let text = if is_whole { "whole" } else { "other" };
        to.raw(
            format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\n{text}")
                .as_bytes(),
        );
    });
    let mut proxy = Proxy::start(origin.addr, &["--drain-window", "10h"]);
    terminate(&proxy);
    let request = |fields: &str| {
        format!(
            "POST / HTTP/1.1\r\nHost: x\r\n{fields}Content-Type: application/json\r\n\
             Content-Length: {length}\r\n\r\n{long}"
        )
    };
    let mut client = proxy.send_request(&request(""));
    assert!(client.head().starts_with("http/1.1 200 "));
    assert_eq!(client.raw(), b"whole");
    let mut client = proxy.send_request(&request("anthropic-version: 1\r\n"));
    assert!(client.head().starts_with("http/1.1 503 "));
    assert_eq!(origin.served(), 1);
    stopped_early(&mut proxy);
}

#[test]
fn answers_continue_after_the_window_while_the_listener_is_open() {
    let (go, goes) = crate::support::gate();
    let origin = Origin::start(move |received, to| {
        if received.path == "/page" {
            to.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nwhole");
            return;
        }
        to.stream();
        to.chunk("data: 1\n\n");
        goes.wait();
        to.chunk("data: 2\n\n");
        to.end();
    });
    let flags = [
        "--drain-window=200ms",
        "--drain-answers=10h",
        "--admin-listen=127.0.0.1:0",
    ];
    let mut proxy = Proxy::start(origin.addr, &flags);
    let mut client = begun(post(&proxy));
    terminate(&proxy);
    wait_until("the window is over", || {
        readiness(&proxy).1["phase"] == "answers"
    });
    for _ in 0..3 {
        let mut page = proxy.send_request("GET /page HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(page.head().contains("\nconnection: close\n"));
        assert_eq!(page.raw(), b"whole");
        let mut feed = proxy.get("/");
        assert!(feed.head().starts_with("http/1.1 200 "));
        assert!(retry(&feed.raw()) > 0);
    }
    go.send(()).unwrap();
    assert_eq!(client.rest(), (b"data: 2\n\n".to_vec(), End::Clean));
    assert_eq!(stopped(&mut proxy)["cut_off"], 0);
}

#[test]
fn waiting_stream_gets_a_retry_at_the_drain() {
    let origin = Origin::start(|_, to| {
        to.stream();
        to.chunk("id: 1\ndata: 1\n\n");
        to.reset();
    });
    let flags = [
        "--drain-window=1s",
        "--resume-mode=on",
        "--resume-backoff=10m",
        "--resume-max-backoff=10m",
        "--resume-give-up=24h",
    ];
    let mut proxy = Proxy::start(origin.addr, &flags);
    let mut client = proxy.get("/");
    client.head();
    client.read_until("data: 1\n\n");
    terminate(&proxy);
    let (last_words, end) = client.rest();
    assert!(end == End::Clean && retry(&last_words) > 1_000);
    stopped(&mut proxy);
}

#[test]
fn hangup_ends_no_stream() {
    let (origin, gate) = two_events();
    let mut proxy = Proxy::start(origin.addr, &[]);
    let mut before = begun(proxy.get("/"));
    proxy.signal("-HUP");
    let mut after = begun(proxy.get("/"));
    gate.open();
    for client in [&mut before, &mut after] {
        assert_eq!(client.rest(), (b"data: 2\n\n".to_vec(), End::Clean));
    }
    assert_eq!(proxy.stop()["opened"], 2);
}
