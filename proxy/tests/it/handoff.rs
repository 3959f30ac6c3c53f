//! What a client sees whose connection is taken from hyper for a stream, and goes back to it.

use crate::support::{Answer, Client, End, Gone, Origin, Proxy, ReceivedRequest, gate};
use std::fmt::Write;

const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n";

/// The three ways of an upstream to end a stream properly, and an answer that is none; each says
/// which request it is for.
fn answer(received: &ReceivedRequest, to: &mut Answer) {
    let event = format!("data: {}\n\n", received.path);
    let len = event.len();
    let kind = received
        .path
        .trim_matches(|c: char| c == '/' || c.is_ascii_digit());
    let response = match kind {
        "chunked" => {
            format!("{HEAD}Transfer-Encoding: chunked\r\n\r\n{len:x}\r\n{event}\r\n0\r\n\r\n")
        }
        "length" => format!("{HEAD}Content-Length: {len}\r\n\r\n{event}"),
        "close" => format!("{HEAD}\r\n{event}"),
        _ => format!(
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{}",
            received.path.len(),
            received.path
        ),
    };
    to.raw(response.as_bytes());
}

fn request(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")
}

/// Reads the answer to `path` as [`answer`] gives it.
#[track_caller]
fn assert_answer(client: &mut Client, path: &str) {
    let head = client.head();
    assert!(head.starts_with("http/1.1 200 ok\n"), "{path}: {head}");
    if path.starts_with("/plain") {
        assert_eq!(client.bytes(path.len()), path.as_bytes());
    } else {
        let event = format!("data: {path}\n\n").into_bytes();
        assert_eq!(client.rest(), (event, End::Clean), "{path}");
    }
}

#[test]
fn connection_close_gets_a_complete_response_and_ends_both_connections() {
    let origin = Origin::start(|received, to| answer(&received, to));
    let proxy = Proxy::start(origin.addr, &[]);
    for option in ["close", "X-Other, Close"] {
        let before = origin.served();
        let mut client = proxy.send_request(&format!(
            "GET /chunked HTTP/1.1\r\nHost: x\r\nConnection: {option}\r\n\r\n{}",
            request("/plain")
        ));
        let head = client.head();
        assert!(!head.contains("connection:"), "{head}");
        assert_eq!(client.rest(), (b"data: /chunked\n\n".to_vec(), End::Clean));
        assert_eq!(client.raw_and_end(), (Vec::new(), Gone::Closed));
        assert_eq!(origin.served(), before + 1);
    }
}

#[test]
fn streams_and_other_responses_alternate_on_one_connection() {
    let origin = Origin::start(|received, to| answer(&received, to));
    let mut proxy = Proxy::start(origin.addr, &[]);
    let mut client = Client::connect(proxy.addr);
    let paths = [
        "/chunked", "/plain", "/length", "/close", "/chunked", "/plain",
    ];
    for path in paths {
        client.send(&request(path));
        assert_answer(&mut client, path);
        // The response to HEAD has no body, also in place of a stream.
        client.send(&request(path).replace("GET", "HEAD"));
        let head = client.head();
        assert!(head.starts_with("http/1.1 200 ok\n"), "{path}: {head}");
    }
    assert_eq!(proxy.stop()["opened"], 4);
}

#[test]
fn upstream_connection_serves_the_next_request_after_a_stream() {
    const OK: &[u8] = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok";
    let chunked = "Transfer-Encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n0\r\n\r\n";
    for (rest, events) in [
        (chunked, "data: 1\n\n"),
        ("Content-Length: 9\r\n\r\ndata: 1\n\n", "data: 1\n\n"),
        ("Content-Length: 0\r\n\r\n", ""),
    ] {
        let origin = Origin::start(move |_, to| {
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n";
            to.raw(format!("{head}{rest}").as_bytes());
            let next = to.next_request().unwrap();
            assert_eq!(next.path, "/next");
            to.raw(OK);
        });
        let proxy = Proxy::start(origin.addr, &["--heartbeat-interval=off"]);
        let mut client = proxy.get("/");
        client.head();
        assert_eq!(client.rest(), (events.into(), End::Clean), "{rest:?}");
        client.send(&request("/next"));
        client.head();
        assert_eq!(client.bytes(2), b"ok");
        assert_eq!(origin.served(), 1, "connections");
    }
}

#[test]
fn pipelined_requests_behind_a_stream_are_served_in_order() {
    // More than is read ahead of a request's turn.
    const COUNT: usize = 300;
    let (go, goes) = gate();
    let origin = Origin::start(move |received, to| {
        if received.path == "/first" {
            to.stream();
            to.chunk("data: 1\n\n");
            goes.wait();
            to.end();
        } else {
            answer(&received, to);
        }
    });
    let proxy = Proxy::start(origin.addr, &["--limit-rate=off"]);
    let kinds = ["plain", "chunked", "length", "close"];
    let paths: Vec<String> = (0..COUNT)
        .map(|n| format!("/{}/{n}", kinds[n % kinds.len()]))
        .collect();
    let mut requests = String::new();
    for path in &paths {
        requests.push_str(&request(path));
    }
    // How much of them is there before the stream begins, and how much comes while it runs.
    for early in [0, 1, 20, 400, requests.len()] {
        let (early, late) = requests.split_at(early);
        let mut client = proxy.send_request(&(request("/first") + early));
        client.head();
        assert_eq!(client.read_until("\n\n"), "data: 1\n\n");
        assert_eq!(origin.last_request().path, "/first");
        client.send(late);
        go.send(()).unwrap();
        assert_eq!(client.rest(), (Vec::new(), End::Clean));
        for path in &paths {
            assert_answer(&mut client, path);
        }
    }
}

#[test]
fn half_closed_client_counts_as_disconnected() {
    let origin = Origin::start(|received, to| {
        if received.path == "/begun" {
            to.stream();
            to.chunk("data: 1\n\n");
        }
        assert!(to.wait_for_close());
    });
    let mut proxy = Proxy::start(origin.addr, &[]);
    let mut waits = proxy.get("/");
    origin.wait_for_open(1);
    waits.close_own_side();
    assert_eq!(waits.raw(), b"");
    origin.wait_for_open(0);

    let mut reads = proxy.get("/begun");
    reads.head();
    reads.read_until("data: 1\n\n");
    reads.close_own_side();
    assert_eq!(reads.rest(), (Vec::new(), End::Broken));
    origin.wait_for_open(0);
    proxy.wait_for_log("\"reason\":\"client_gone\"");
    let last = proxy.stop();
    assert_eq!((&last["active"], &last["slots"]), (&0.into(), &0.into()));
}

#[test]
fn client_that_disconnects_during_its_upload_counts_as_disconnected() {
    let origin = Origin::start(|_, to| {
        to.body(5);
        to.stream();
        to.chunk("data: 1\n\n");
        assert!(to.wait_for_close());
    });
    let proxy = Proxy::start(origin.addr, &[]);
    let ways: [fn(Client); 3] = [drop, Client::reset, |mut client| {
        client.close_own_side();
        assert_eq!(client.rest(), (Vec::new(), End::Broken));
    }];
    for (index, leave) in ways.into_iter().enumerate() {
        let head = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n";
        let mut client = proxy.send_request(&format!("{head}first"));
        client.head();
        client.read_until("data: 1\n\n");
        leave(client);
        let lines = proxy.wait_for_log_lines("\"stream ended\"", index + 1);
        let last = &lines[index];
        assert!(last.contains("\"reason\":\"client_gone\""), "{last}");
    }
}

#[test]
fn trailers_reach_clients_with_te_trailers_alone() {
    let origin = Origin::start(|received, to| {
        if received.path == "/plain" {
            return answer(&received, to);
        }
        // Two are about the framing, which is between the upstream and us.
        let trailers = "X-Sum: 7\r\nContent-Length: 9\r\nX-Sum: 8\r\nTransfer-Encoding: x\r\n";
        let stream = "Transfer-Encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n0\r\n";
        to.raw(format!("{HEAD}Trailer: X-Sum\r\n{stream}{trailers}\r\n").as_bytes());
    });
    let proxy = Proxy::start(origin.addr, &[]);
    let mut client = Client::connect(proxy.addr);
    for (field, end) in [
        ("TE: trailers\r\n", "0\r\nx-sum: 7\r\nx-sum: 8\r\n\r\n"),
        ("", "0\r\n\r\n"),
        (
            "TE: gzip, Trailers\r\n",
            "0\r\nx-sum: 7\r\nx-sum: 8\r\n\r\n",
        ),
        ("TE: gzip\r\n", "0\r\n\r\n"),
    ] {
        client.send(&format!("GET / HTTP/1.1\r\nHost: x\r\n{field}\r\n"));
        client.head();
        assert_eq!(client.chunk().unwrap(), b"data: 1\n\n");
        let seen = String::from_utf8(client.bytes(end.len())).unwrap();
        assert_eq!(seen, end, "{field:?}");
        client.send(&request("/plain"));
        assert_answer(&mut client, "/plain");
    }
}

#[test]
fn stream_begins_and_ends_during_its_upload() {
    let framings = [
        ("Content-Length: 10", "first", "later", "firstlater"),
        (
            "Transfer-Encoding: chunked",
            "5\r\nfirst\r\n",
            "5\r\nlater\r\n0\r\n\r\n",
            "5\r\nfirst\r\n5\r\nlater\r\n0\r\n\r\n",
        ),
    ];
    for (field, first, later, both) in framings {
        let origin = Origin::start(move |received, to| {
            if received.path == "/plain" {
                return answer(&received, to);
            }
            let mut body = to.body(first.len());
            to.stream();
            to.chunk("data: 1\n\n");
            body.extend(to.body(later.len()));
            assert_eq!(String::from_utf8(body).unwrap(), both);
            to.chunk("data: 2\n\n");
            to.end();
        });
        let proxy = Proxy::start(origin.addr, &[]);
        let mut client = proxy.send_request(&format!(
            "POST / HTTP/1.1\r\nHost: x\r\n{field}\r\n\r\n{first}"
        ));
        client.head();
        assert_eq!(client.read_until("\n\n"), "data: 1\n\n");
        client.send(later);
        assert_eq!(client.rest(), (b"data: 2\n\n".to_vec(), End::Clean));
        client.send(&request("/plain"));
        assert_answer(&mut client, "/plain");
        // The same with all of it there at once: such a stream leaves hyper.
        client.send(&format!(
            "POST / HTTP/1.1\r\nHost: x\r\n{field}\r\n\r\n{first}{later}"
        ));
        client.head();
        assert_eq!(
            client.rest(),
            (b"data: 1\n\ndata: 2\n\n".to_vec(), End::Clean)
        );
        client.send(&request("/plain"));
        assert_answer(&mut client, "/plain");
    }
}

#[test]
fn expect_100_continue_gets_it_once_and_then_the_stream() {
    let origin = Origin::start(|received, to| {
        if received.path == "/asks" {
            to.raw(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nX: y\r\n\r\n");
        }
        assert_eq!(to.body(5), b"hello");
        to.stream();
        to.chunk("data: 1\n\n");
        to.end();
    });
    let proxy = Proxy::start(origin.addr, &[]);
    let mut client = Client::connect(proxy.addr);
    for path in ["/asks", "/waits", "/asks"] {
        client.send(&format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
        ));
        assert_eq!(client.head(), "http/1.1 100 continue\n");
        client.send("hello");
        let mut head = client.head();
        if path == "/asks" {
            assert_eq!(head, "http/1.1 103 early hints\nx: y\n");
            head = client.head();
        }
        assert!(head.starts_with("http/1.1 200 ok\n"), "{head}");
        assert_eq!(client.rest(), (b"data: 1\n\n".to_vec(), End::Clean));
    }
}

#[test]
fn chunks_of_all_sizes_in_one_write_arrive_whole() {
    // Events of 9 bytes and more, in chunks whose ends are anywhere.
    let mut stream = String::new();
    for n in 0..2_000 {
        write!(stream, "id: {n}\ndata: {}\n\n", "é".repeat(n % 7)).unwrap();
    }
    for size in [1, 2, 3, 7, 64, 1_000, 9_999] {
        let mut chunks = Vec::new();
        for chunk in stream.as_bytes().chunks(size) {
            chunks.extend(format!("{:x}\r\n", chunk.len()).bytes());
            chunks.extend(chunk);
            chunks.extend(b"\r\n");
        }
        chunks.extend(b"0\r\n\r\n");
        let origin = Origin::start(move |_, to| {
            let mut all = format!("{HEAD}Transfer-Encoding: chunked\r\n\r\n").into_bytes();
            all.extend(&chunks);
            to.raw(&all);
        });
        let proxy = Proxy::start(origin.addr, &[]);
        let mut client = proxy.get("/");
        client.head();
        let (seen, end) = client.rest();
        assert_eq!(end, End::Clean);
        assert!(seen == stream.as_bytes(), "{size}: {} bytes", seen.len());
    }
}

#[test]
fn event_of_a_mebibyte_passes_byte_for_byte_in_each_framing() {
    // No two parts of it are alike, so that none can stand for another.
    let mut event = "data: ".to_owned();
    for n in 0.. {
        if event.len() > 1 << 20 {
            break;
        }
        write!(event, "{n}é ").unwrap();
    }
    event.push_str("\n\ndata: 2\n\n");
    let len = event.len();
    for (head, end) in [
        (
            format!("Transfer-Encoding: chunked\r\n\r\n{len:X};x=\"y\"\r\n"),
            "\r\n0\r\n\r\n",
        ),
        (format!("Content-Length: {len}\r\n\r\n"), ""),
        ("\r\n".to_owned(), ""),
    ] {
        let response = format!("{HEAD}{head}{event}{end}");
        let origin = Origin::start(move |_, to| {
            to.raw(response.as_bytes());
        });
        let proxy = Proxy::start(origin.addr, &[]);
        let mut client = proxy.get("/");
        client.head();
        let (seen, end) = client.rest();
        assert_eq!(end, End::Clean, "{head}");
        assert!(seen == event.as_bytes(), "{head}: {} bytes", seen.len());
        let mut client = proxy.send_request("GET / HTTP/1.0\r\n\r\n");
        client.head();
        let (seen, gone) = client.raw_and_end();
        assert_eq!(gone, Gone::Closed, "{head}");
        assert!(seen == event.as_bytes(), "{head}: {} bytes", seen.len());
    }
}
