//! What is no event stream passes the real binary untouched, and its failures are told.

use crate::support::{End, Origin, Proxy, free_address, gate};
use std::io::Write;
use std::net::SocketAddr;

const CLOSE: &str = "Host: x\r\nConnection: close\r\n\r\n";

/// The whole response to a GET, head and body.
fn get(proxy: &Proxy, path: &str) -> (String, Vec<u8>) {
    let mut client = proxy.send_request(&format!("GET {path} HTTP/1.1\r\n{CLOSE}"));
    (client.head(), client.raw())
}

/// The status of a response head.
pub(super) fn status(head: &str) -> &str {
    head.split(' ').nth(1).unwrap()
}

#[test]
fn unrequested_protocol_switch_is_a_502() {
    let origin = Origin::start(|_, to| {
        to.raw(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\nfoo",
        );
        to.wait_for_close();
    });
    let proxy = Proxy::start(origin.addr, &[]);
    let (head, body) = get(&proxy, "/");
    assert_eq!(status(&head), "502");
    assert_eq!(
        body,
        b"sse-guard: the upstream switched protocols without a request for it\n"
    );
}

#[test]
fn too_long_body_is_a_413_with_and_without_content_length() {
    let origin = Origin::start(|received, to| {
        if received.path == "/" {
            to.body(5);
            to.raw(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
        } else {
            to.wait_for_close();
        }
    });
    let proxy = Proxy::start(origin.addr, &["--upstream-max-body", "5B"]);
    for (path, body, code) in [
        ("/", "Content-Length: 5\r\n\r\n12345", "200"),
        ("/long", "Content-Length: 6\r\n\r\n123456", "413"),
        (
            "/long",
            "Transfer-Encoding: chunked\r\n\r\n3\r\n123\r\n3\r\n456\r\n0\r\n\r\n",
            "413",
        ),
    ] {
        let mut client = proxy.send_request(&format!("POST {path} HTTP/1.1\r\nHost: x\r\n{body}"));
        assert_eq!(status(&client.head()), code);
    }
}

#[test]
fn more_requests_than_may_wait_for_the_upstream_get_a_503() {
    let origin = Origin::start(|received, to| {
        if received.path == "/slow" {
            to.wait_for_close();
        } else {
            to.raw(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    let flags = ["--upstream-max-pending", "1", "--limit-retry-after", "7s"];
    let proxy = Proxy::start(origin.addr, &flags);
    let waits = proxy.get("/slow");
    origin.wait_for_open(1);
    let (head, body) = get(&proxy, "/");
    assert_eq!(status(&head), "503");
    assert!(head.contains("retry-after: 7\n"), "{head}");
    assert_eq!(
        body,
        b"sse-guard: too many requests wait for the upstream\n"
    );
    drop(waits);
    origin.wait_for_open(0);
    let mut next = proxy.get("/");
    while status(&next.head()) != "200" {
        next = proxy.get("/");
    }
}

#[test]
fn other_responses_pass_byte_for_byte() {
    let body: Vec<u8> = (0..1 << 20)
        .map(|n: u32| n.to_le_bytes()[n as usize % 3])
        .collect();
    let sent = body.clone();
    let origin = Origin::start(move |received, to| {
        match received.path.as_str() {
        "/204" => drop(to.raw(b"HTTP/1.1 204 No Content\r\nConnection: close\r\nContent-Type: text/event-stream\r\n\r\n")),
        "/304" => drop(to.raw(b"HTTP/1.1 304 Not Modified\r\nConnection: close\r\nContent-Type: text/event-stream\r\n\r\n")),
        "/404" => drop(to.raw(b"HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Type: text/event-stream\r\nContent-Length: 9\r\n\r\ndata: x\n\n")),
        _ => {
            let head = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: \
                image/png\r\nContent-Length: {}\r\n\r\n", sent.len());
            to.raw(head.as_bytes());
            to.raw(&sent);
        }
    }
    });
    let proxy = Proxy::start(origin.addr, &["--heartbeat-interval", "1ms"]);
    for (path, code, expected) in [
        ("/", "200", &body[..]),
        ("/204", "204", b""),
        ("/304", "304", b""),
        ("/404", "404", b"data: x\n\n"),
    ] {
        let (head, seen) = get(&proxy, path);
        assert_eq!(status(&head), code);
        assert!(!head.contains("x-accel-buffering"), "{head}");
        assert!(seen == expected, "{path}: {} bytes", seen.len());
    }
}

#[test]
fn head_request_gets_the_head_alone() {
    let origin = Origin::start(|_, to| {
        to.stream();
        to.wait_for_close();
    });
    let proxy = Proxy::start(origin.addr, &["--heartbeat-interval", "1ms"]);
    let mut client = proxy.send_request(&format!("HEAD / HTTP/1.1\r\n{CLOSE}"));
    let head = client.head();
    assert_eq!(status(&head), "200");
    // As its GET has it.
    assert!(head.contains("x-accel-buffering: no"), "{head}");
    assert_eq!(client.raw(), b"");
}

#[test]
fn compressed_stream_passes_unchanged_with_a_warning() {
    let origin = Origin::start(|_, to| {
        to.raw(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Encoding: \
            gzip\r\nContent-Length: 4\r\n\r\n\x1f\x8b\n\n",
        );
    });
    let proxy = Proxy::start(origin.addr, &["--heartbeat-interval", "1ms"]);
    let mut client = proxy.get("/");
    let head = client.head();
    assert!(
        head.contains("content-length: 4\n") && head.contains("content-encoding: gzip\n"),
        "{head}"
    );
    assert!(!head.contains("x-accel-buffering"), "{head}");
    assert_eq!(client.bytes(4), b"\x1f\x8b\n\n");
    let warning = proxy.wait_for_log("the upstream compresses its event stream");
    assert!(warning.contains("\"WARN\""), "{warning}");
}

#[test]
fn protocol_switch_passes_and_then_bytes_both_ways() {
    let origin = Origin::start(|received, to| {
        assert_eq!(received.field("upgrade"), Some("websocket"));
        assert_eq!(received.field("connection"), Some("upgrade"));
        // Its first bytes come with the head.
        to.raw(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: \
            websocket\r\n\r\nhello",
        );
        let came = to.body(6);
        to.raw(&came);
        to.wait_for_close();
    });
    let proxy = Proxy::start(origin.addr, &[]);
    let mut client = proxy.send_request(
        "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    );
    let head = client.head();
    assert_eq!(status(&head), "101");
    assert!(head.contains("upgrade: websocket\n"), "{head}");
    assert_eq!(client.bytes(5), b"hello");
    // Whatever it looks like.
    client.send("GET /#");
    assert_eq!(client.bytes(6), b"GET /#");
    drop(client);
    origin.wait_for_open(0);
}

#[test]
fn options_asterisk_is_forwarded() {
    let origin = Origin::start(|received, to| {
        assert_eq!(received.head.lines().next(), Some("OPTIONS * HTTP/1.1"));
        to.raw(b"HTTP/1.1 204 No Content\r\n\r\n");
    });
    let url = format!("http://{}/base", origin.addr);
    let proxy = Proxy::with_flags(&["--upstream-url", &url]);
    let mut client = proxy.send_request("OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(status(&client.head()), "204");
}

#[test]
fn request_body_streams() {
    let (came, comes) = std::sync::mpsc::channel::<Vec<u8>>();
    let came = std::sync::Mutex::new(came);
    let origin = Origin::start(move |_, to| {
        came.lock().unwrap().send(to.body(5)).unwrap();
        to.body(5);
        to.stream();
        to.chunk("data: done\n\n");
        to.end();
    });
    let proxy = Proxy::start(origin.addr, &[]);
    let mut client =
        proxy.send_request("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nfirst");
    // The rest is sent when the first part has arrived.
    assert_eq!(
        comes.recv_timeout(crate::support::PATIENCE).unwrap(),
        b"first"
    );
    assert_eq!(origin.last_request().field("content-length"), Some("10"));
    client.send("later");
    client.head();
    assert_eq!(client.rest(), (b"data: done\n\n".to_vec(), End::Clean));
}

#[test]
fn chunked_body_is_forwarded_whatever_the_method() {
    let origin = Origin::start(|received, to| {
        assert_eq!(received.field("transfer-encoding"), Some("chunked"));
        assert_eq!(received.field("content-length"), None);
        assert_eq!(to.body(17), b"7\r\n{\"q\":1}\r\n0\r\n\r\n");
        to.raw(b"HTTP/1.1 204 No Content\r\n\r\n");
    });
    let proxy = Proxy::start(origin.addr, &[]);
    for method in ["GET", "HEAD", "POST", "DELETE", "OPTIONS", "QUERY"] {
        let mut client = proxy.send_request(&format!(
            "{method} /_search HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n\
             7\r\n{{\"q\":1}}\r\n0\r\n\r\n"
        ));
        assert_eq!(status(&client.head()), "204", "{method}");
    }
}

#[test]
fn connection_serves_further_requests_after_a_stream_unless_the_request_closes_it() {
    let (release, released) = gate();
    let origin = Origin::start(move |received, to| {
        if received.field("transfer-encoding").is_some() {
            to.body(13);
        }
        if received.path == "/next" {
            to.raw(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n");
            return;
        }
        if received.path == "/late" {
            released.wait();
        }
        to.stream();
        to.chunk("data: 1\n\n");
        to.end();
    });
    let proxy = Proxy::start(origin.addr, &["--log-level", "trace"]);
    let mut parked = 0;
    let next = "GET /next HTTP/1.1\r\nHost: x\r\n\r\n";
    let chunked = "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    for path in ["/", "/late"] {
        for (version, fields, serves_on) in [
            ("1.1", "\r\n", true),
            ("1.1", chunked, true),
            ("1.1", "Upgrade: h2c\r\n\r\n", true),
            ("1.1", "Connection: TE ,\tClose\r\n\r\n", false),
            (
                "1.1",
                "Connection: close\r\nConnection: keep-alive\r\n\r\n",
                false,
            ),
            ("1.0", "\r\n", false),
            ("1.0", "Connection: keep-alive\r\n\r\n", false),
        ] {
            let mut client = proxy.send_request(&format!(
                "POST {path} HTTP/{version}\r\nHost: x\r\n{fields}{next}"
            ));
            if path == "/late" {
                // Those that may switch protocols stay with hyper.
                parked += usize::from(!fields.starts_with("Upgrade"));
                proxy.wait_for_log_lines("a request waits for its response", parked);
                release.send(()).unwrap();
            }
            assert_eq!(status(&client.head()), "200");
            if serves_on {
                assert_eq!(client.rest().1, End::Clean, "{path} {fields:?}");
                assert_eq!(status(&client.head()), "204", "{path} {fields:?}");
            } else {
                let rest = String::from_utf8(client.raw()).unwrap();
                assert!(!rest.contains("HTTP/1.1"), "{path} {fields:?}: {rest}");
            }
        }
    }
}

#[test]
fn unreachable_upstream_is_a_502_with_advice_in_the_log() {
    let nobody = free_address();
    let proxy = Proxy::start(nobody, &[]);
    let (head, body) = get(&proxy, "/");
    assert_eq!(status(&head), "502");
    assert_eq!(body, b"sse-guard: cannot connect to the upstream\n");
    let line = proxy.wait_for_log("\"status\":502");
    assert!(
        line.contains("upstream.url") && line.contains(&nobody.to_string()),
        "{line}"
    );
}

/// Linux drops what does not fit into a listener's queue, so that to connect takes forever.
#[cfg(target_os = "linux")]
#[test]
fn upstream_connect_timeout_is_a_502() {
    let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    full.bind(&any.into()).unwrap();
    full.listen(0).unwrap();
    let address = full.local_addr().unwrap().as_socket().unwrap();
    let mut queued = Vec::new();
    while let Ok(client) =
        std::net::TcpStream::connect_timeout(&address, std::time::Duration::from_millis(200))
    {
        queued.push(client);
    }
    let flags = [
        "--upstream-connect-timeout=50ms",
        "--upstream-head-timeout=4s",
    ];
    let proxy = Proxy::start(address, &flags);
    let (head, _) = get(&proxy, "/");
    // Later it would be a 504.
    assert_eq!(status(&head), "502");
    let line = proxy.wait_for_log("\"status\":502");
    assert!(line.contains("upstream.connect_timeout"), "{line}");
}

#[test]
fn upstream_head_timeout_is_a_504_and_closes_the_connection() {
    let origin = Origin::start(|_, to| assert!(to.wait_for_close()));
    let proxy = Proxy::start(origin.addr, &["--upstream-head-timeout", "100ms"]);
    let (head, body) = get(&proxy, "/");
    assert_eq!(status(&head), "504");
    assert_eq!(
        body,
        b"sse-guard: the upstream sent no response head in time\n"
    );
    assert!(
        proxy
            .wait_for_log("\"status\":504")
            .contains("upstream.head_timeout")
    );
    origin.wait_for_open(0);
}

#[test]
fn kept_connection_closed_on_reuse_is_not_a_failure() {
    let origin = Origin::start(|_, to| {
        to.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        // Gone with the first byte of the next request.
        let _ = to.socket.peek(&mut [0]);
    });
    let proxy = Proxy::start(origin.addr, &[]);
    for nth in 1..=20 {
        let (head, body) = get(&proxy, "/");
        assert_eq!((status(&head), &body[..]), ("200", &b"ok"[..]));
        assert_eq!(origin.served(), nth);
    }
}

#[test]
fn safe_request_is_sent_again() {
    let origin = Origin::start(|received, to| {
        if received.path != "/first" {
            to.raw(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nagain");
            return;
        }
        to.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        // The connection ends with the next request, or in the middle of its head.
        if let Some(next) = to.next_request()
            && next.path == "/part"
        {
            to.raw(b"HTTP/1.1 200 ");
        }
    });
    let proxy = Proxy::start(origin.addr, &[]);
    for (method, path, expected) in [
        ("GET", "/", "200"),
        ("DELETE", "/", "200"),
        ("PUT", "/", "200"),
        // It may have been processed, and must not be twice.
        ("POST", "/", "502"),
        ("PATCH", "/", "502"),
        // The upstream has answered.
        ("GET", "/part", "502"),
        ("DELETE", "/part", "502"),
    ] {
        assert_eq!(status(&get(&proxy, "/first").0), "200");
        let served = origin.served();
        let mut client = proxy.send_request(&format!(
            "{method} {path} HTTP/1.1\r\nContent-Length: 0\r\n{CLOSE}"
        ));
        assert_eq!(status(&client.head()), expected, "{method} {path}");
        let again = usize::from(expected == "200");
        assert_eq!(origin.served(), served + again, "{method} {path}");
    }
}

#[test]
fn idle_connection_is_closed_ahead_of_the_upstreams_own_timeout() {
    for (keep_alive, flags) in [
        ("Keep-Alive: timeout=1\r\n", &[][..]),
        ("", &["--upstream-idle-timeout", "50ms"][..]),
        (
            "Keep-Alive: timeout=90\r\n",
            &["--upstream-idle-timeout", "50ms"][..],
        ),
    ] {
        let origin = Origin::start(move |_, to| {
            let head = format!("HTTP/1.1 200 OK\r\n{keep_alive}Content-Length: 2\r\n\r\nok");
            to.raw(head.as_bytes());
            to.wait_for_close();
        });
        let proxy = Proxy::start(origin.addr, flags);
        let (head, body) = get(&proxy, "/");
        assert_eq!((status(&head), &body[..]), ("200", &b"ok"[..]));
        // The field concerns the upstream's connection alone.
        assert!(!head.contains("keep-alive"), "{head}");
        origin.wait_for_open(0);
    }
}

#[test]
fn http_1_0_client_gets_a_stream_that_ends_with_its_connection() {
    let origin = Origin::start(|_, to| {
        to.stream();
        to.chunk("data: 1\n\n");
        to.end();
    });
    let proxy = Proxy::start(origin.addr, &[]);
    let mut client = proxy.send_request("GET / HTTP/1.0\r\n\r\n");
    let head = client.head();
    assert!(!head.contains("transfer-encoding"), "{head}");
    assert_eq!(client.raw(), b"data: 1\n\n");
}

#[test]
fn routes_choose_the_upstream_and_the_first_that_matches_counts() {
    let named = |name: &'static str| {
        Origin::start(move |_, to| {
            let head = format!(
                "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{name}",
                name.len()
            );
            to.raw(head.as_bytes());
        })
    };
    let (api, rest) = (named("api"), named("rest"));
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let config = format!(
        "upstream.url = 'http://{}'\n[[route]]\npath = '/api/*/events'\nupstream.url = \
         'http://{}/base/'\n",
        rest.addr, api.addr
    );
    file.write_all(config.as_bytes()).unwrap();
    let proxy = Proxy::with_flags(&["--config", file.path().to_str().unwrap()]);
    assert_eq!(get(&proxy, "/api/1/events?x=1").1, b"api");
    assert_eq!(api.last_request().path, "/base/api/1/events?x=1");
    assert_eq!(get(&proxy, "/api/1/2/events").1, b"rest");
    assert_eq!(get(&proxy, "/").1, b"rest");
}
