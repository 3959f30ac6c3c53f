//! A stream through the real binary: the same events, ours at boundaries, ends that tell the truth.

use crate::support::{Answer, End, Origin, Proxy};
use std::time::{SystemTime, UNIX_EPOCH};

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

/// An origin whose answer to everything is a stream.
fn streaming(answer: impl Fn(&mut Answer) + Send + Sync + 'static) -> Origin {
    Origin::start(move |_, to| {
        to.stream();
        answer(to);
    })
}

const POST: &str =
    "POST / HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\nContent-Length: 0\r\n\r\n";

#[test]
fn event_reaches_the_client_as_it_was_sent() {
    let origin = streaming(|to| {
        to.chunk("id: 1\ndata: hello\n\n");
        to.wait_for_close();
    });
    let proxy = Proxy::start(origin.addr, &[]);
    let mut client = proxy.get("/");
    assert!(client.head().starts_with("http/1.1 200 ok\n"));
    assert_eq!(client.read_until("\n\n"), "id: 1\ndata: hello\n\n");
    drop(client);
    origin.wait_for_open(0);
}

/// W2 and W3, for each line end and style: cut at every byte, with a heartbeat wherever one fits.
#[test]
fn heartbeats_stand_between_events_at_every_split() {
    for (end, style, beat) in [
        ("\n", "line", ": hb{end}"),
        ("\r\n", "line", ": hb{end}"),
        ("\r", "line", ": hb{end}"),
        ("\r\n", "block", ": hb{end}{end}"),
        ("\n", "event", "event: hb{end}data: {}{end}{end}"),
    ] {
        let events: Vec<String> = (0..4)
            .map(|n| format!("id: {n}{end}event: e{end}data: a{end}data: b{end}{end}"))
            .collect();
        let stream = events.concat();
        let sent = stream.clone();
        let (heard, hears) = std::sync::mpsc::channel::<()>();
        let hears = std::sync::Mutex::new(hears);
        let origin = streaming(move |to| {
            for byte in sent.bytes() {
                to.chunk([byte]);
            }
            // The end comes when the client has heard a heartbeat.
            hears.lock().unwrap().recv().unwrap();
            to.end();
        });
        let flags = ["--heartbeat-interval", "2ms", "--heartbeat-text", "hb"];
        let mut flags = flags.to_vec();
        flags.extend(["--heartbeat-style", style, "--heartbeat-event", "hb"]);
        let proxy = Proxy::start(origin.addr, &flags);
        let mut client = proxy.get("/");
        client.head();
        // Ahead of the first line nothing tells the stream's line end yet.
        let early = beat.replace("{end}", "\n");
        let beat = beat.replace("{end}", end);
        let mut seen = client.read_until(events.last().unwrap());
        while let Some(rest) = seen.strip_prefix(&early) {
            seen = rest.to_owned();
        }
        if !seen.ends_with(&beat) {
            seen.push_str(&client.read_until(&beat));
        }
        heard.send(()).unwrap();
        let (rest, how) = client.rest();
        seen.push_str(&text(rest));
        assert_eq!(how, End::Clean);
        assert_eq!(seen.replace(&beat, ""), stream, "{end:?} {style}");
        // Whole events alone lie between two heartbeats.
        for between in seen.split(beat.as_str()) {
            let whole = between.is_empty()
                || between.starts_with("id: ") && between.ends_with(&format!("{end}{end}"));
            assert!(whole, "{between:?} in {seen:?}");
        }
    }
}

/// For clients that show the last heartbeat.
#[test]
fn each_heartbeat_has_the_time_at_which_it_is_sent() {
    let seconds = || {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        since.unwrap().as_secs()
    };
    let origin = streaming(|to| {
        to.chunk("data: 1\r\n\r\n");
        to.wait_for_close();
    });
    let flags = [
        "--heartbeat-interval=20ms",
        "--heartbeat-style=event",
        "--heartbeat-event=hb",
        r#"--heartbeat-data={"now":{now},"again":{now}}"#,
    ];
    let proxy = Proxy::start(origin.addr, &flags);
    let mut client = proxy.get("/");
    client.head();
    let started = seconds();
    client.read_until("data: 1\r\n\r\n");
    let mut last = started;
    // Until the second has changed.
    while last == started {
        let event = client.read_until("\r\n\r\n");
        let now: String = event.chars().filter(char::is_ascii_digit).collect();
        let now = now[..now.len() / 2].parse().unwrap();
        assert!((last..=seconds()).contains(&now), "{event}");
        let expected = format!("event: hb\r\ndata: {{\"now\":{now},\"again\":{now}}}\r\n\r\n");
        assert_eq!(event, expected);
        last = now;
    }
}

#[test]
fn heartbeat_before_the_byte_order_mark_replaces_it() {
    let (heard, hears) = std::sync::mpsc::channel::<()>();
    let hears = std::sync::Mutex::new(hears);
    let origin = streaming(move |to| {
        hears.lock().unwrap().recv().unwrap();
        to.chunk("\u{feff}data: 1\n\n");
        to.end();
    });
    let proxy = Proxy::start(
        origin.addr,
        &["--heartbeat-immediate", "--heartbeat-interval", "1h"],
    );
    let mut client = proxy.get("/");
    client.head();
    assert_eq!(client.read_until("\n"), ": heartbeat\n");
    heard.send(()).unwrap();
    assert_eq!(text(client.rest().0), "data: 1\n\n");
}

#[test]
fn large_event_passes_whole_without_heartbeats_inside() {
    let big = format!("data: {}", "x".repeat(1 << 20));
    let sent = big.clone();
    let origin = streaming(move |to| {
        for part in sent.as_bytes().chunks(10_000) {
            to.chunk(part);
        }
        to.chunk("\n\n");
        to.end();
    });
    let proxy = Proxy::start(origin.addr, &["--heartbeat-interval", "1ms"]);
    let mut client = proxy.get("/");
    client.head();
    let (seen, end) = client.rest();
    let seen = text(seen).replace(": heartbeat\n", "");
    assert_eq!(end, End::Clean);
    assert!(seen == format!("{big}\n\n"), "{} bytes", seen.len());
}

#[test]
fn rotation_ends_a_stream_between_events_and_keeps_its_connection() {
    let origin = streaming(|to| {
        to.chunk("data: 1\n\ndata: ha");
        to.wait_for_close();
    });
    let flags = [
        "--rotation-max-age=200ms",
        "--heartbeat-interval=10ms",
        "--limit-per-ip=1",
    ];
    let proxy = Proxy::start(origin.addr, &flags);
    let mut client = proxy.get("/");
    for _ in 0..3 {
        client.head();
        let (seen, end) = client.rest();
        let seen = text(seen).replace(": heartbeat\n", "");
        let retry = seen.strip_prefix("data: 1\n\nretry: ").unwrap();
        assert!(
            retry.strip_suffix('\n').unwrap().parse::<u32>().is_ok(),
            "{seen:?}"
        );
        assert_eq!(end, End::Clean);
        client.send("GET / HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n");
    }
    proxy.wait_for_log("\"reason\":\"rotated\"");
}

#[test]
fn post_response_is_not_rotated() {
    let origin = streaming(|to| {
        to.chunk("data: 1\n\n");
        // Longer than the age, as far as the proxy can tell: it counts in heartbeats.
        to.wait_for_close();
    });
    let flags = ["--rotation-max-age", "5ms", "--heartbeat-interval", "10ms"];
    let proxy = Proxy::start(origin.addr, &flags);
    let mut client = proxy.send_request(POST);
    client.head();
    for _ in 0..10 {
        assert!(!client.read_until(": heartbeat\n").contains("retry"));
    }
}

#[test]
fn upstream_failure_is_a_broken_transfer_of_whole_events() {
    let origin = streaming(|to| {
        to.chunk("data: 1\n\ndata: ha");
    });
    let proxy = Proxy::start(origin.addr, &[]);
    let mut client = proxy.get("/");
    client.head();
    let (seen, end) = client.rest();
    assert_eq!((text(seen).as_str(), end), ("data: 1\n\n", End::Broken));
    proxy.wait_for_log("\"reason\":\"upstream_error\",\"fault\":\"truncated\"");
}

#[test]
fn log_names_the_failure_of_an_upstream() {
    let bytes: [(&[u8], &str); 3] = [
        (b"5\r\ndata:\r\nx\r\n", "framing"),
        (b"8\r\ndata: 1\n\r\n0\r\nno field\r\n\r\n", "framing"),
        (b"9\r\ndata: 1\n\n\r\n", "truncated"),
    ];
    for (bytes, fault) in bytes {
        let origin = streaming(move |to| {
            to.raw(bytes);
        });
        let proxy = Proxy::start(origin.addr, &[]);
        let mut client = proxy.get("/");
        client.head();
        assert_eq!(client.rest().1, End::Broken);
        let line = proxy.wait_for_log("\"reason\":\"upstream_error\"");
        assert!(line.contains(&format!("\"fault\":\"{fault}\"")), "{line}");
        assert!(line.contains("\"cause\":\"the upstream"), "{line}");
    }
}

#[test]
fn upstream_end_by_close_is_a_clean_end() {
    let origin = Origin::start(|_, to| {
        to.raw(b"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\ndata: 2\n");
    });
    let proxy = Proxy::start(origin.addr, &[]);
    let mut client = proxy.get("/");
    client.head();
    let (seen, end) = client.rest();
    assert_eq!(
        (text(seen).as_str(), end),
        ("data: 1\n\ndata: 2\n", End::Clean)
    );
}

#[test]
fn silent_upstream_is_ended_despite_heartbeats() {
    let flags = ["--idle-timeout", "100ms", "--heartbeat-interval", "10ms"];
    let origin = streaming(|to| {
        to.chunk("data: 1\n\n");
        assert!(to.wait_for_close());
    });
    let proxy = Proxy::start(origin.addr, &flags);
    let mut get = proxy.get("/");
    get.head();
    let (seen, end) = get.rest();
    assert!(text(seen).contains("\nretry: "));
    assert_eq!(end, End::Clean);
    let mut post = proxy.send_request(POST);
    post.head();
    let (seen, end) = post.rest();
    assert!(!text(seen).contains("retry"));
    assert_eq!(end, End::Broken);
    proxy.wait_for_log_lines("\"reason\":\"upstream_idle\"", 2);
    origin.wait_for_open(0);
}

#[test]
fn comments_do_not_reset_the_event_timeout() {
    let origin = streaming(|to| while to.chunk(": busy\n\n") {});
    let flags = [
        "--idle-event-timeout",
        "100ms",
        "--idle-action",
        "error-event",
    ];
    let proxy = Proxy::start(origin.addr, &flags);
    let mut client = proxy.get("/");
    client.head();
    let (seen, end) = client.rest();
    let seen = text(seen);
    let last = seen.rsplit(": busy\n\n").next().unwrap();
    assert!(
        last.starts_with("retry: ") && last.contains("\nevent: error\ndata: {"),
        "{last:?}"
    );
    assert_eq!(end, End::Clean);
}

#[test]
fn client_disconnect_ends_its_upstream_request() {
    let origin = streaming(|to| {
        to.chunk("data: 1\n\n");
        assert!(to.wait_for_close());
    });
    let mut proxy = Proxy::start(origin.addr, &[]);
    let mut client = proxy.get("/");
    client.head();
    client.read_until("data: 1\n\n");
    drop(client);
    origin.wait_for_open(0);
    proxy.wait_for_log("\"reason\":\"client_gone\"");
    let sums = proxy.stop();
    assert_eq!(
        (sums["active"].as_u64(), sums["slots"].as_u64()),
        (Some(0), Some(0))
    );
}

#[test]
fn client_disconnect_before_the_head_ends_its_upstream_request() {
    let origin = Origin::start(|_, to| assert!(to.wait_for_close()));
    let mut proxy = Proxy::start(origin.addr, &[]);
    let client = proxy.get("/");
    origin.wait_for_open(1);
    drop(client);
    origin.wait_for_open(0);
    assert_eq!(proxy.stop()["slots"].as_u64(), Some(0));
}

#[test]
fn stream_head_prevents_buffering_and_caching_on_the_path() {
    let origin = Origin::start(|received, to| {
        let more = match received.path.as_str() {
            "/no-store" => "Cache-Control: private, no-store\r\n",
            _ => {
                "Cache-Control: max-age=60\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n"
            }
        };
        let head = "HTTP/1.1 200 OK\r\nContent-Type: Text/Event-Stream;charset=utf-8\r\nContent-Length: 9\r\n";
        to.raw(format!("{head}{more}\r\ndata: 1\n\n").as_bytes());
    });
    let proxy = Proxy::start(origin.addr, &[]);
    let head = proxy.get("/").head();
    assert!(
        head.contains("\ncache-control: no-cache, no-transform\n"),
        "{head}"
    );
    assert!(head.contains("\nx-accel-buffering: no\n"), "{head}");
    for absent in [
        "content-length",
        "connection:",
        "x-hop",
        "keep-alive",
        "max-age",
    ] {
        assert!(!head.contains(absent), "{absent} in {head}");
    }
    let head = proxy.get("/no-store").head();
    assert!(
        head.contains("\ncache-control: private, no-store\n"),
        "{head}"
    );
}

#[test]
fn cache_control_of_the_upstream_is_kept_if_the_route_sets_it() {
    let origin = Origin::start(|received, to| {
        let more = match received.path.as_str() {
            "/kept/public" | "/public" => "Cache-Control: public\r\nCache-Control: max-age=60\r\n",
            "/kept/private" => "Cache-Control: private, no-transform\r\nX-Accel-Buffering: yes\r\n",
            _ => "",
        };
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 9\r\n";
        to.raw(format!("{head}{more}\r\n").as_bytes());
        if !received.head.starts_with("HEAD ") {
            to.raw(b"data: 1\n\n");
        }
    });
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("sse-guard.toml");
    let config = "[[route]]\npath = \"/kept\"\nupstream.cache_control = \"keep\"\n";
    std::fs::write(&file, config).unwrap();
    let proxy = Proxy::start(origin.addr, &["--config", file.to_str().unwrap()]);
    for (path, cache_control, buffering) in [
        ("/public", "no-cache, no-transform", "no"),
        ("/kept/public", "public, max-age=60, no-transform", "no"),
        ("/kept/private", "private, no-transform", "yes"),
        ("/kept/none", "no-cache, no-transform", "no"),
    ] {
        for method in ["GET", "HEAD"] {
            let accept = "Host: x\r\nAccept: text/event-stream";
            let head = proxy
                .send_request(&format!("{method} {path} HTTP/1.1\r\n{accept}\r\n\r\n"))
                .head();
            let fields: Vec<_> = head
                .lines()
                .filter(|line| line.starts_with("cache-control:") || line.starts_with("x-accel"))
                .collect();
            assert!(!head.contains("content-length"), "{head}");
            let cache_control = format!("cache-control: {cache_control}");
            let buffering = format!("x-accel-buffering: {buffering}");
            assert_eq!(fields.len(), 2, "{method} {path}: {head}");
            assert!(
                fields.contains(&cache_control.as_str()),
                "{method} {path}: {head}"
            );
            assert!(
                fields.contains(&buffering.as_str()),
                "{method} {path}: {head}"
            );
        }
    }
}

#[test]
fn upstream_request_has_no_accept_encoding_and_names_the_client() {
    let origin = streaming(|to| {
        to.end();
    });
    let proxy = Proxy::start(origin.addr, &[]);
    let send_request = |proxy: &Proxy, accept: &str| {
        let fields = "Accept-Encoding: gzip\r\nConnection: X-Hop\r\nX-Hop: 1\r\nTE: trailers\r\nLast-Event-ID: 7\r\nX-Forwarded-For: 1.2.3.4";
        let mut client = proxy.send_request(&format!(
            "GET /a?b=c HTTP/1.1\r\nHost: proxy.test\r\nAccept: {accept}\r\n{fields}\r\n\r\n"
        ));
        client.head();
        origin.last_request()
    };
    let received = send_request(&proxy, "text/event-stream");
    assert!(
        received.head.starts_with("GET /a?b=c HTTP/1.1\n"),
        "{}",
        received.head
    );
    assert_eq!(received.field("accept-encoding"), Some("identity"));
    assert_eq!(received.field("last-event-id"), Some("7"));
    assert_eq!(received.field("host"), Some("proxy.test"));
    assert_eq!(received.field("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(
        received.field("forwarded"),
        Some("for=127.0.0.1;host=\"proxy.test\";proto=http")
    );
    for absent in ["connection", "x-hop", "te"] {
        assert_eq!(received.field(absent), None, "{}", received.head);
    }
    assert_eq!(
        send_request(&proxy, "text/html").field("accept-encoding"),
        Some("gzip")
    );

    let trusting = Proxy::start(origin.addr, &["--trusted-proxies", "127.0.0.0/8"]);
    let received = send_request(&trusting, "text/event-stream");
    assert_eq!(
        received.field("x-forwarded-for"),
        Some("1.2.3.4, 127.0.0.1")
    );
}

#[test]
fn client_disconnect_behind_a_partial_request_ends_its_upstream_request() {
    let origin = Origin::start(|_, to| assert!(to.wait_for_close()));
    let proxy = Proxy::start(origin.addr, &[]);
    let client = proxy
        .send_request("GET / HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\nGET /next");
    origin.wait_for_open(1);
    drop(client);
    origin.wait_for_open(0);
}

#[test]
fn stalled_client_is_distinguished_from_a_disconnected_one_also_during_its_upload() {
    let origin = Origin::start(|_, to| {
        to.stream();
        let event = format!("data: {}\n\n", "x".repeat(8_000));
        while to.chunk(&event) {}
    });
    let proxy = Proxy::start(origin.addr, &["--client-write-stall=300ms"]);
    for (index, length) in [0, 10].into_iter().enumerate() {
        let _client = proxy.send_request(&format!(
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n"
        ));
        let lines = proxy.wait_for_log_lines("\"stream ended\"", index + 1);
        let last = &lines[index];
        assert!(last.contains("\"reason\":\"client_stalled\""), "{last}");
    }
}

#[test]
fn head_request_of_a_stream_has_the_fields_of_its_get() {
    let origin = Origin::start(|received, to| {
        to.raw(
            b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: text/event-stream\r\n\
              Cache-Control: max-age=60\r\nX-Own: 1\r\n\r\n",
        );
        if !received.head.starts_with("HEAD ") {
            to.raw(b"data: 1\n\n");
        }
    });
    let proxy = Proxy::start(origin.addr, &[]);
    let fields = |method: &str| {
        let request = format!(
            "{method} / HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\nConnection: close\r\n\r\n"
        );
        let head = proxy.send_request(&request).head();
        // These are of the connection and the moment.
        let others = ["transfer-encoding", "connection", "date", "x-request-id"];
        let is_other = |line: &str| others.iter().any(|name| line.starts_with(name));
        let fields = head.lines().filter(|line| !is_other(line));
        let mut fields: Vec<_> = fields.map(str::to_owned).collect();
        fields.sort();
        fields
    };
    let of_get = fields("GET");
    assert!(of_get.iter().any(|line| line == "x-accel-buffering: no"));
    assert_eq!(fields("HEAD"), of_get);
}
