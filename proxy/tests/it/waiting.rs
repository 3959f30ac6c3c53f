//! Connections that wait for long leave hyper: for a response's head, and for the next request. What
//! comes afterwards is, byte for byte, what would have come at once.

use crate::support::{Answer, Client, End, Gone, Origin, Proxy, gate, wait_until};
use std::sync::mpsc::Sender;

const CLIENT_WAITS: &str = "a request waits for its response";
const UPSTREAM_WAITS: &str = "a request waits for the upstream's response head";
const IDLE: &str = "a connection waits for a request";

/// In whose log the waits are.
fn proxy(origin: &Origin, flags: &[&str]) -> Proxy {
    let all = ["--log-level=trace", "--upstream-unavailable=status"];
    Proxy::start(origin.addr, &[&all[..], flags].concat())
}

/// Waits until both sides of a request are out of hyper.
fn both_wait(proxy: &Proxy) {
    proxy.wait_for_log(CLIENT_WAITS);
    proxy.wait_for_log(UPSTREAM_WAITS);
}

/// Sends at `/late...` what it sends at any other path, but not before the gate opens.
fn origin(answer: impl Fn(&str, &mut Answer) + Send + Sync + 'static) -> (Origin, Sender<()>) {
    let (open, opens) = gate();
    let origin = Origin::start(move |received, to| {
        let mut received = Some(received);
        while let Some(request) = received {
            if let Some(length) = request.field("content-length") {
                to.body(length.parse().unwrap());
            }
            match request.path.strip_prefix("/late") {
                Some(path) => {
                    opens.opens();
                    answer(path, to);
                }
                None => answer(&request.path, to),
            }
            received = to.next_request();
        }
    });
    (origin, open)
}

/// The answers of a model's server, and others.
fn answer(path: &str, to: &mut Answer) {
    let head = match path {
        "/length" => "200 OK\r\nContent-Length: 2\r\nX-A: 1\r\nx-a: 2\r\n\r\nok",
        "/chunked" => {
            "200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 7\r\n\r\n"
        }
        "/empty" => "204 No Content\r\n\r\n",
        "/same" => "304 Not Modified\r\nETag: \"1\"\r\nContent-Length: 2\r\n\r\n",
        "/error" => "500 Broken Inside\r\nContent-Length: 4\r\nRetry-After: 1\r\n\r\noops",
        "/close" => "200 OK\r\nConnection: close\r\n\r\nto the end",
        "/hints" => {
            to.raw(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
            "200 OK\r\nContent-Length: 2\r\n\r\nok"
        }
        "/head" => "200 OK\r\nContent-Length: 2\r\n\r\n",
        "/both" => "200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "/bad" => "2x0 OK\r\n\r\n",
        "/long" => {
            to.raw(b"HTTP/1.1 200 OK\r\n");
            let field = format!("X-A: {}\r\n", "x".repeat(1000));
            while to.raw(field.as_bytes()) {}
            return;
        }
        "/events" => {
            "200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n\
             9\r\ndata: 1\n\n\r\n0\r\n\r\n"
        }
        _ => unreachable!("{path}"),
    };
    let date = "Date: Thu, 26 Nov 2026 00:00:00 GMT";
    let (status, rest) = head.split_once("\r\n").unwrap();
    to.raw(format!("HTTP/1.1 {status}\r\n{date}\r\n{rest}").as_bytes());
    if path == "/close" {
        let _ = to.socket.shutdown(std::net::Shutdown::Write);
    }
}

/// All that comes for a request and the one behind it, and the end of the connection. Our own
/// responses have the date of their time, and each request has an id of its own.
fn exchange(client: &mut Client) -> (String, Gone) {
    let (bytes, gone) = client.raw_and_end();
    let text = String::from_utf8(bytes).unwrap();
    let is_fixed = |line: &&str| {
        let is_date_of_ours = line.starts_with("date: ") && !line.ends_with("00:00:00 GMT\r\n");
        !is_date_of_ours && !line.starts_with("x-request-id: ")
    };
    (text.split_inclusive('\n').filter(is_fixed).collect(), gone)
}

#[test]
fn late_response_is_written_like_an_immediate_one() {
    let rest = "Host: x\r\n";
    let heads = [
        ("GET", "1.1", ""),
        ("GET", "1.1", "Connection: close\r\n"),
        ("GET", "1.1", "TE: trailers\r\nConnection: TE\r\n"),
        ("HEAD", "1.1", ""),
        ("GET", "1.0", ""),
        ("GET", "1.0", "Connection: keep-alive\r\n"),
        ("HEAD", "1.0", "Connection: Keep-Alive\r\n"),
        ("POST", "1.1", "Content-Length: 4\r\n"),
        (
            "POST",
            "1.1",
            "Content-Length: 4\r\nConnection: foo, Close\r\n",
        ),
        ("REPORT", "1.1", "Content-Length: 4\r\n"),
    ];
    let paths = [
        "/length", "/chunked", "/empty", "/same", "/error", "/close", "/hints", "/both", "/bad",
        "/long", "/events",
    ];
    std::thread::scope(|scope| {
        for (method, version, fields) in heads {
            scope.spawn(move || {
                for path in paths {
                    let path = if method == "HEAD" { "/head" } else { path };
                    let (origin, open) = origin(answer);
                    let proxy = proxy(&origin, &[]);
                    let request = |path: &str| {
                        let body = if fields.contains("Content-Length") {
                            "body"
                        } else {
                            ""
                        };
                        format!("{method} {path} HTTP/{version}\r\n{rest}{fields}\r\n{body}")
                    };
                    let is_framed = !["/chunked", "/close", "/events"].contains(&path);
                    let fields_say = |option| fields.to_lowercase().contains(option);
                    let stays = match version {
                        "1.0" => fields_say("keep-alive") && is_framed,
                        _ => !fields_say("close"),
                    };
                    // What comes behind the last request can turn the end into a reset.
                    let last = match stays {
                        true => "GET /length HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
                        false => "",
                    };
                    let what = format!("{method} {path} {version} {fields:?}");
                    let mut at_once = proxy.send_request(&format!("{}{last}", request(path)));
                    let expected = exchange(&mut at_once);
                    let mut client = proxy.send_request(&request(&format!("/late{path}")));
                    both_wait(&proxy);
                    client.send(last);
                    // Also for a second try.
                    drop(open);
                    assert_eq!(exchange(&mut client), expected, "{what}");
                }
            });
        }
    });
}

#[test]
fn client_disconnect_while_waiting_cancels_its_request() {
    let (open, opens) = gate();
    let origin = Origin::start(move |_, to| {
        assert!(to.wait_for_close());
        opens.wait();
    });
    let proxy = proxy(&origin, &[]);
    let client = proxy.get("/");
    both_wait(&proxy);
    drop(client);
    // Else it would not be there.
    open.send(()).unwrap();
    origin.wait_for_open(0);
}

#[test]
fn upstream_close_while_waiting_is_a_502() {
    let (open, opens) = gate();
    let origin = Origin::start(move |_, _| opens.wait());
    let proxy = proxy(&origin, &[]);
    let mut client = proxy.send_request("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
    both_wait(&proxy);
    open.send(()).unwrap();
    assert!(client.head().starts_with("http/1.1 502 "));
}

/// One that goes with its second request.
fn goes_with_the_second() -> (Origin, Sender<()>) {
    let (open, opens) = gate();
    let origin = Origin::start(move |received, to| {
        to.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        if received.path == "/first" && to.next_request().is_some() {
            opens.wait();
        }
    });
    (origin, open)
}

#[test]
fn safe_request_on_a_dead_connection_is_sent_on_another() {
    for (request, status) in [
        ("GET /second HTTP/1.1\r\nHost: x\r\nX-A: 1\r\n\r\n", 200),
        (
            "POST /second HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
            502,
        ),
    ] {
        let (origin, open) = goes_with_the_second();
        let proxy = proxy(&origin, &[]);
        let mut client = proxy.get("/first");
        assert!(client.head().starts_with("http/1.1 200 "));
        client.bytes(2);
        // Its connection is in the pool when it has been read to the end.
        wait_until("the pool has it", || {
            let mut client = proxy.send_request(request);
            both_wait(&proxy);
            open.send(()).unwrap();
            client.head().starts_with(&format!("http/1.1 {status} "))
        });
        if status == 200 {
            assert_eq!(origin.served(), 2);
            assert_eq!(origin.last_request().path, "/second");
            assert_eq!(origin.last_request().field("x-a"), Some("1"));
        }
    }
}

#[test]
fn waiting_request_keeps_its_deadline() {
    let (open, opens) = gate();
    let origin = Origin::start(move |_, _| opens.wait());
    let proxy = proxy(&origin, &["--upstream-head-timeout=300ms"]);
    let mut client = proxy.get("/");
    both_wait(&proxy);
    assert!(client.head().starts_with("http/1.1 504 "));
    drop(open);
}

#[test]
fn interim_head_while_waiting_continues_the_wait() {
    let (open, opens) = gate();
    let origin = Origin::start(move |_, to| {
        for _ in 0..3 {
            opens.wait();
            to.raw(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
        }
        opens.wait();
        answer("/length", to);
    });
    let proxy = proxy(&origin, &[]);
    let mut client = proxy.get("/");
    for waits in 1..=4 {
        proxy.wait_for_log_lines(UPSTREAM_WAITS, waits);
        open.send(()).unwrap();
        if waits < 4 {
            assert_eq!(client.head(), "http/1.1 103 early hints\nlink: </a>\n");
        }
    }
    assert!(client.head().starts_with("http/1.1 200 "));
    assert_eq!(client.bytes(2), b"ok");
}

#[test]
fn waiting_request_gets_its_response_during_a_stop() {
    let (origin, open) = origin(answer);
    let mut proxy = proxy(&origin, &[]);
    let mut client = proxy.send_request("GET /late/length HTTP/1.1\r\nHost: x\r\n\r\n");
    both_wait(&proxy);
    proxy.signal("-TERM");
    proxy.wait_for_log("\"stopping");
    open.send(()).unwrap();
    assert!(client.head().starts_with("http/1.1 200 "));
    assert_eq!(client.bytes(2), b"ok");
    assert_eq!(client.raw_and_end(), (Vec::new(), Gone::Closed));
    assert!(proxy.wait().success());
}

#[test]
fn late_stream_is_counted_as_a_stream() {
    let (open, opens) = gate();
    let origin = Origin::start(move |_, to| {
        opens.wait();
        to.stream();
        to.chunk("data: 1\n\n");
        opens.wait();
        to.end();
    });
    let proxy = proxy(&origin, &["--heartbeat-interval=50ms"]);
    let mut client = proxy.get("/");
    both_wait(&proxy);
    open.send(()).unwrap();
    assert!(client.head().contains("content-type: text/event-stream\n"));
    client.read_until("data: 1\n\n");
    client.read_until(": heartbeat\n");
    open.send(()).unwrap();
    assert_eq!(client.rest().1, End::Clean);
}

/// A response of two bytes, less the id of its request.
fn response(client: &mut Client) -> (Vec<String>, Vec<u8>) {
    let head = client.head();
    let lines = head
        .lines()
        .filter(|line| !line.starts_with("x-request-id: "));
    (lines.map(str::to_owned).collect(), client.bytes(2))
}

#[test]
fn idle_connection_serves_its_next_request_at_every_split() {
    let (origin, _open) = origin(answer);
    let proxy = proxy(&origin, &[]);
    let mut client = Client::connect(proxy.addr);
    let request = "GET /length HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut responses = Vec::new();
    for cut in [0, 1, 6, 30, request.len()] {
        let (start, rest) = request.split_at(cut);
        client.send(start);
        if !start.is_empty() && !rest.is_empty() {
            // The start was read: the other responses are newer.
            proxy
                .send_request("GET /length HTTP/1.0\r\nHost: x\r\n\r\n")
                .raw();
        }
        client.send(rest);
        let head = client.head();
        let lines = head
            .lines()
            .filter(|line| !line.starts_with("x-request-id: "));
        let lines: Vec<_> = lines.map(str::to_owned).collect();
        responses.push((lines, client.bytes(2)));
        let idle = proxy.wait_for_log_lines(IDLE, responses.len());
        let port = client.socket.local_addr().unwrap().to_string();
        assert!(idle.iter().all(|line| line.contains(&port)), "{idle:?}");
    }
    assert!(responses.iter().all(|response| *response == responses[0]));
    // Several at once are answered in their order, the last one with the end.
    let close = "GET /error HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    client.send(&[request, request, close].concat());
    for _ in 0..2 {
        assert_eq!(response(&mut client), responses[0]);
    }
    assert!(client.head().starts_with("http/1.1 500 "));
    assert_eq!(client.raw_and_end(), (b"oops".to_vec(), Gone::Closed));
}

#[test]
fn connection_without_a_request_ends_at_its_deadline() {
    let (origin, _open) = origin(answer);
    let proxy = proxy(&origin, &["--client-head-timeout=300ms"]);
    let mut silent = Client::connect(proxy.addr);
    let mut unfinished = proxy.send_request("GET / HTTP/1.1\r\nHo");
    let mut idle = proxy.send_request("GET /length HTTP/1.1\r\nHost: x\r\n\r\n");
    idle.head();
    idle.bytes(2);
    proxy.wait_for_log(IDLE);
    for client in [&mut silent, &mut unfinished, &mut idle] {
        assert_eq!(client.raw(), b"");
    }
}

#[test]
fn requests_queued_behind_a_quiet_response_are_served_in_turn() {
    let (open, opens) = gate();
    let origin = Origin::start(move |received, to| {
        let mut received = Some(received);
        while let Some(request) = received {
            if request.path == "/plain" {
                to.raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n");
                opens.wait();
                to.raw(b"0\r\n\r\n");
            } else if request.path == "/late" {
                opens.wait();
                to.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
            } else {
                to.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
            }
            received = to.next_request();
        }
    });
    let proxy = proxy(&origin, &[]);
    let many: String = (0..100)
        .map(|number| {
            let field = "x".repeat(500);
            format!("\r\nGET /{number} HTTP/1.1\r\nHost: x\r\nX-A: {field}\r\n\r\n")
        })
        .collect();
    let last = "GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    for path in ["/plain", "/late"] {
        let mut client =
            proxy.send_request(&format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n{many}"));
        if path == "/plain" {
            client.head();
            assert_eq!(client.read_until("part"), "part");
        } else {
            both_wait(&proxy);
        }
        // Also what comes once the rest is no longer read.
        client.send(last);
        open.send(()).unwrap();
        let responses = String::from_utf8(client.raw()).unwrap();
        let count = responses.matches("HTTP/1.1 200 OK\r\n").count();
        assert_eq!(count, if path == "/plain" { 101 } else { 102 }, "{path}");
        assert!(responses.ends_with("\r\n\r\nok"), "{path}");
    }
}

#[test]
fn empty_line_behind_a_body_leaves_the_connection_usable() {
    let (origin, _open) = origin(answer);
    let proxy = proxy(&origin, &[]);
    let request = "POST /length HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}\r\n";
    let mut client = proxy.send_request(request);
    for wait in 1..=3 {
        assert!(client.head().starts_with("http/1.1 200 "));
        assert_eq!(client.bytes(2), b"ok");
        proxy.wait_for_log_lines(IDLE, wait);
        client.send(request);
    }
}

#[test]
fn interim_heads_without_end_are_a_502_at_once_or_in_sum() {
    let hint = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
    let (open, opens) = gate();
    let origin = Origin::start(move |received, to| match received.path.as_str() {
        "/flood" => while to.raw(hint.repeat(100).as_bytes()) {},
        "/some" => {
            to.raw(hint.repeat(32).as_bytes());
            to.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
        _ => {
            for _ in 0..2 {
                opens.wait();
                to.raw(hint.repeat(20).as_bytes());
            }
            to.wait_for_close();
        }
    });
    let proxy = proxy(&origin, &[]);
    let says_so = |client: &mut Client| {
        let response = String::from_utf8(client.raw()).unwrap();
        let forwarded = hint.replace("Link", "link");
        let heads = response.matches(&forwarded).count();
        assert!(heads <= 32, "{heads}");
        let response = &response[heads * forwarded.len()..];
        assert!(response.starts_with("HTTP/1.1 502 "), "{response}");
        assert!(
            response.contains("too many interim (1xx) heads"),
            "{response}"
        );
    };
    let get = |path: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        proxy.send_request(&request)
    };
    says_so(&mut get("/flood"));
    assert!(get("/some").raw().ends_with(b"ok"));
    let mut client = get("/slow");
    for wait in 1..=2 {
        proxy.wait_for_log_lines(UPSTREAM_WAITS, wait);
        open.send(()).unwrap();
    }
    says_so(&mut client);
    proxy.wait_for_log("more than 32 interim (1xx) heads");
    origin.wait_for_open(0);
}
