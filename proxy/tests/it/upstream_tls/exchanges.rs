//! Streams, other requests, and the ends of their connections.

use super::*;
use crate::support::{End, Gone, PATIENCE, gate};
use std::net::TcpListener;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread;

#[test]
fn stream_over_tls_has_its_events_and_heartbeats() {
    for version in [&TLS12, &TLS13] {
        let setup = Setup::new();
        let config = server_config(&setup.authority.issue(NAMES), &[version]);
        let (go, gate) = gate();
        let origin = TlsOrigin::start(config, move |request, to| {
            // An `https` upstream gets its own host.
            let host = request.field("host").unwrap();
            assert!(host.starts_with("127.0.0.1:"), "{host}");
            assert_eq!(request.field("x-forwarded-host"), Some("proxy.test"));
            to.stream();
            to.chunk("data: 1\n\n");
            gate.wait();
            if version.version == TLS13.version {
                to.update_keys();
            }
            to.chunk("data: 2\n\n");
            to.chunk("");
        });
        let proxy = setup.proxy(origin.addr, &["--heartbeat-interval", "50ms"]);
        let mut client = proxy.get("/");
        assert!(client.head().starts_with("http/1.1 200 "));
        client.read_until("data: 1\n\n");
        client.read_until(":");
        go.send(()).unwrap();
        client.read_until("data: 2\n\n");
        assert_eq!(client.rest().1, End::Clean);
    }
}

#[test]
fn requests_and_uploads_share_a_tls_connection() {
    let setup = Setup::new();
    let origin = setup.origin(|mut request, to| {
        loop {
            let len = request
                .field("content-length")
                .unwrap_or("0")
                .parse()
                .unwrap();
            let sum: u64 = to.body(len).into_iter().map(u64::from).sum();
            let text = format!("{} {sum}", request.path);
            let len = text.len();
            to.raw(format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {len}\r\n\r\n{text}"
            ));
            match to.next_request() {
                Some(next) => request = next,
                None => return,
            }
        }
    });
    let proxy = setup.proxy(origin.addr, &[]);
    let mut client = Client::connect(proxy.addr);
    let body = "x".repeat(300_000);
    for path in ["/a", "/b", "/c"] {
        let len = body.len();
        client.send(&format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len}\r\n\r\n{body}"
        ));
        assert!(client.head().starts_with("http/1.1 200 "));
        let text = format!("{path} {}", 300_000 * u64::from(b'x'));
        assert_eq!(client.bytes(text.len()), text.as_bytes());
    }
    let handshakes = origin.handshakes();
    assert_eq!(handshakes.len(), 1);
    assert_eq!(handshakes[0].alpn.as_deref(), Some("http/1.1"));
    // An address is no name.
    assert_eq!(handshakes[0].name, None);
}

#[test]
fn download_over_tls_is_whole() {
    let setup = Setup::new();
    let body: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
    let sent = body.clone();
    let origin = setup.origin(move |_, to| {
        let len = sent.len();
        to.raw(format!("HTTP/1.1 200 OK\r\nContent-Length: {len}\r\n\r\n"));
        to.raw(&sent);
    });
    let proxy = setup.proxy(origin.addr, &[]);
    let mut client = proxy.send_request("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    client.head();
    assert!(client.bytes(body.len()) == body);
}

#[test]
fn session_is_resumed_by_the_next_connection() {
    for version in [&TLS12, &TLS13] {
        let setup = Setup::new();
        let config = server_config(&setup.authority.issue(NAMES), &[version]);
        let origin = TlsOrigin::start(config, |_, to| {
            to.raw("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
        });
        let proxy = setup.proxy(origin.addr, &[]);
        for _ in 0..3 {
            assert_ok(&proxy, "/");
        }
        let resumed: Vec<_> = origin.handshakes().iter().map(|it| it.is_resumed).collect();
        assert_eq!(resumed, [false, true, true], "{version:?}");
    }
}

#[test]
fn response_that_ends_with_its_connection_is_whole_only_with_a_close_notify() {
    let setup = Setup::new();
    let origin = setup.origin(|request, to| {
        let kind = match request.path.ends_with("stream") {
            true => "text/event-stream",
            false => "text/plain",
        };
        to.raw(format!(
            "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\n\r\ndata: 1\n\n"
        ));
        if request.path.starts_with("/cut") {
            to.truncate();
        }
    });
    let proxy = setup.proxy(origin.addr, &["--upstream-unavailable=status"]);
    for (path, end) in [
        ("/whole/stream", End::Clean),
        ("/cut/stream", End::Broken),
        ("/whole/plain", End::Clean),
        ("/cut/plain", End::Broken),
    ] {
        let mut client = proxy.get(path);
        assert!(client.head().starts_with("http/1.1 200 "));
        let (body, found) = client.rest();
        assert_eq!(
            (body.as_slice(), found),
            (&b"data: 1\n\n"[..], end),
            "{path}"
        );
    }
    let line = proxy.wait_for_log("\"fault\":\"truncated\"");
    assert!(line.contains("/cut/stream"), "{line}");
}

#[test]
fn message_with_an_end_of_its_own_is_whole_without_a_close_notify() {
    let setup = Setup::new();
    let origin = setup.origin(|request, to| {
        match request.path.as_str() {
            "/stream" => {
                to.stream();
                to.chunk("data: 1\n\n");
                to.chunk("");
            }
            _ => drop(to.raw("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")),
        }
        to.truncate();
    });
    let proxy = setup.proxy(origin.addr, &[]);
    for _ in 0..2 {
        let mut client = proxy.get("/stream");
        client.head();
        assert_eq!(client.rest(), (b"data: 1\n\n".to_vec(), End::Clean));
        assert_ok(&proxy, "/plain");
    }
}

#[test]
fn slow_records_of_one_byte_are_one_stream() {
    let setup = Setup::new();
    let origin = setup.origin(|_, to| {
        for byte in b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: slow\n\n" {
            to.raw([*byte]);
        }
    });
    let proxy = setup.proxy(origin.addr, &[]);
    let mut client = proxy.get("/");
    client.head();
    assert_eq!(client.rest(), (b"data: slow\n\n".to_vec(), End::Clean));
}

#[test]
fn stream_whose_upstream_is_reset_is_broken() {
    let setup = Setup::new();
    let origin = setup.origin(|_, to| {
        to.stream();
        to.chunk("data: 1\n\n");
        to.line();
        to.reset();
    });
    let proxy = setup.proxy(origin.addr, &[]);
    let mut client = proxy.send_request(
        "POST / HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\nContent-Length: 1\r\n\r\n\n",
    );
    client.head();
    assert_eq!(client.rest(), (b"data: 1\n\n".to_vec(), End::Broken));
}

#[test]
fn upstream_stream_over_tls_ends_with_its_client() {
    let setup = Setup::new();
    let (gone, goes) = channel();
    let gone = Mutex::new(gone);
    let origin = setup.origin(move |_, to| {
        to.stream();
        to.chunk("data: 1\n\n");
        to.wait_for_close();
        gone.lock().unwrap().send(()).unwrap();
    });
    let proxy = setup.proxy(origin.addr, &[]);
    let mut client = proxy.get("/");
    client.head();
    client.read_until("data: 1\n\n");
    drop(client);
    goes.recv_timeout(PATIENCE).unwrap();
}

#[test]
fn early_answer_goes_ahead_of_a_slow_upstream_over_tls() {
    let setup = Setup::new();
    let (go, waits) = gate();
    let origin = setup.origin(move |_, to| {
        waits.wait();
        to.stream();
        to.chunk("data: 1\n\n");
        to.chunk("");
    });
    let flags = [
        "--early-enabled",
        "--early-after=30ms",
        "--heartbeat-interval=10ms",
    ];
    let proxy = setup.proxy(origin.addr, &flags);
    let mut client = proxy.get("/");
    assert!(client.head().starts_with("http/1.1 200 "));
    client.read_until(":");
    go.send(()).unwrap();
    client.read_until("data: 1\n\n");
    assert_eq!(client.rest().1, End::Clean);
}

#[test]
fn stream_is_resumed_over_tls() {
    let setup = Setup::new();
    let origin = setup.origin(|request, to| {
        to.stream();
        match request.field("last-event-id") {
            None => {
                to.chunk("id: 1\ndata: 1\n\n");
                to.truncate();
            }
            Some("1") => {
                to.chunk("id: 2\ndata: 2\n\n");
                to.wait_for_close();
            }
            other => panic!("{other:?}"),
        }
    });
    let proxy = setup.proxy(origin.addr, &["--resume-mode=on"]);
    let mut client = proxy.get("/");
    client.head();
    client.read_until("data: 1\n\n");
    client.read_until("data: 2\n\n");
    assert_eq!(origin.handshakes().len(), 2);
}

#[test]
fn request_on_a_connection_that_was_closed_meanwhile_goes_to_a_new_one() {
    let setup = Setup::new();
    let origin = setup.origin(|_, to| {
        to.raw("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        // The request behind it is not read.
    });
    let proxy = setup.proxy(origin.addr, &[]);
    for _ in 0..20 {
        assert_ok(&proxy, "/");
    }
}

#[test]
fn request_on_a_connection_that_closes_behind_its_handshake_fails() {
    let setup = Setup::new();
    let pem = setup.authority.issue(NAMES);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let config = Arc::new(server_config(&pem, ALL_VERSIONS));
    thread::spawn(move || {
        for mut socket in listener.incoming().map_while(Result::ok) {
            let mut tls = rustls::ServerConnection::new(config.clone()).unwrap();
            while tls.is_handshaking() {
                tls.complete_io(&mut socket).unwrap();
            }
        }
    });
    let proxy = setup.proxy(addr, &[]);
    let (body, line) = fault(&proxy);
    assert!(body.contains("no valid response head"), "{line}");
}

#[test]
fn idle_connection_is_closed_with_a_close_notify() {
    let setup = Setup::new();
    let (end, ends) = channel();
    let end = Mutex::new(end);
    let origin = setup.origin(move |_, to| {
        to.raw("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        end.lock().unwrap().send(to.end_of_input()).unwrap();
    });
    let proxy = setup.proxy(origin.addr, &["--upstream-idle-timeout=200ms"]);
    assert_ok(&proxy, "/");
    // rustls reports an end without a close_notify as an error.
    assert_eq!(ends.recv_timeout(PATIENCE).unwrap(), Ok(()));
}

#[test]
fn upgraded_connection_keeps_what_came_with_the_head() {
    let setup = Setup::new();
    let origin = setup.origin(|_, to| {
        to.raw(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\
             first\n",
        );
        loop {
            let line = to.line();
            if line.is_empty() {
                return;
            }
            to.raw(line.to_uppercase());
        }
    });
    let proxy = setup.proxy(origin.addr, &[]);
    let mut client = proxy.send_request(
        "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    );
    assert!(client.head().starts_with("http/1.1 101 "));
    assert_eq!(client.bytes(6), b"first\n");
    let long = "y".repeat(100_000);
    for text in ["second", &long] {
        client.send(&format!("{text}\n"));
        let expected = format!("{}\n", text.to_uppercase());
        assert!(client.bytes(expected.len()) == expected.as_bytes());
    }
    client.close_own_side();
    assert_eq!(client.raw_and_end(), (Vec::new(), Gone::Closed));
}
