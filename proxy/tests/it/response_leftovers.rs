//! Bytes that an upstream sends behind a response are never part of the next one.

use super::http::status;
use crate::support::{Client, Gate, Origin, Proxy, gate, wait_until};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::Sender;

/// Answers the first request of the first connection by `first`, and sends `behind` once the gate
/// opens. Each other request is answered by the number of its connection.
fn poisonous(first: &'static str, behind: &'static str) -> (Origin, Sender<()>, Gate) {
    let (release, released) = gate();
    let (sent, is_sent) = gate();
    let connections = AtomicUsize::new(0);
    let origin = Origin::start(move |received, to| {
        let nth = connections.fetch_add(1, SeqCst);
        if nth == 0 {
            if let Some(length) = received.field("content-length") {
                to.body(length.parse().unwrap());
            }
            to.raw(first.as_bytes());
            released.wait();
            to.raw(behind.as_bytes());
            sent.send(()).unwrap();
        } else {
            to.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nown");
        }
        while to.next_request().is_some() {
            to.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nown");
        }
    });
    (origin, release, is_sent)
}

const POISON: &str = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison";

#[test]
fn bytes_behind_a_response_are_not_the_next_response() {
    const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    const CHUNKED: &str =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
    const STREAM: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
        Transfer-Encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n0\r\n\r\n";
    const LONG_STREAM: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
        Content-Length: 9\r\n\r\ndata: 1\n\n";
    const TIMEOUT: &str =
        "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 6\r\n\r\npoison";
    let get = "GET / HTTP/1.1\r\nHost: x\r\n";
    let post = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody";
    let upgrade = "Connection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    for (request, first) in [
        (format!("{get}\r\n"), OK),
        (format!("{get}\r\n"), CHUNKED),
        (format!("{get}\r\n"), STREAM),
        (format!("{get}\r\n"), LONG_STREAM),
        (post.to_owned(), OK),
        (post.to_owned(), STREAM),
        ("HEAD / HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), OK),
        ("HEAD / HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), CHUNKED),
        (format!("{get}\r\n"), "HTTP/1.1 204 No Content\r\n\r\n"),
        (format!("{get}\r\n"), "HTTP/1.1 204 No Content\r\n\r\nbody"),
        (
            format!("{get}\r\n"),
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 6\r\n\r\n",
        ),
        (
            format!("{get}\r\n"),
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 6\r\n\r\npoison",
        ),
        (
            format!("{get}\r\n"),
            "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        ),
        (format!("{get}{upgrade}"), OK),
        (format!("{get}{upgrade}"), STREAM),
    ] {
        for (at_once, later) in [(POISON, ""), ("", POISON), ("", TIMEOUT), ("\r\n", "")] {
            let whole: &'static str = format!("{first}{at_once}").leak();
            let (origin, release, is_sent) = poisonous(whole, later);
            let proxy = Proxy::start(origin.addr, &[]);
            let mut client = Client::connect(proxy.addr);
            client.send(&request);
            let mut head = client.head();
            if first.starts_with("HTTP/1.1 103") {
                assert_eq!(status(&head), "103");
                head = client.head();
            }
            assert!(status(&head).starts_with(['2', '3']), "{head}");
            if !request.starts_with("HEAD") && head.contains("transfer-encoding") {
                client.rest();
            } else if !request.starts_with("HEAD") && head.contains(" 200 ") {
                client.bytes(2);
            }
            release.send(()).unwrap();
            is_sent.wait();
            // On the same connection of the client's, and on others.
            let mut others: Vec<_> = (0..3).map(|_| Client::connect(proxy.addr)).collect();
            others.insert(0, client);
            for other in &mut others {
                other.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
                let head = other.head();
                assert_eq!(status(&head), "200", "{request}{first}{at_once}{later}");
                assert_eq!(other.bytes(3), b"own", "{request}{first}{at_once}{later}");
            }
        }
    }
}

#[test]
fn response_before_the_upload_ends_leaves_nothing_to_the_next_request() {
    const EARLY: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    for poison in ["", POISON] {
        let first = format!("{EARLY}{poison}");
        let origin = Origin::start(move |received, to| {
            if received.path == "/early" {
                to.raw(first.as_bytes());
                // What is left of the upload must not be taken for a request.
                to.body(8);
            } else {
                to.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nown");
            }
            while to.next_request().is_some() {
                to.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nown");
            }
        });
        let proxy = Proxy::start(origin.addr, &[]);
        let mut client =
            proxy.send_request("POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\nhalf");
        assert_eq!(status(&client.head()), "200");
        assert_eq!(client.bytes(2), b"ok");
        let own = |client: &mut Client| {
            client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
            assert_eq!(status(&client.head()), "200");
            assert_eq!(client.bytes(3), b"own");
        };
        own(&mut Client::connect(proxy.addr));
        client.send("done");
        own(&mut client);
        own(&mut Client::connect(proxy.addr));
    }
}

#[test]
fn late_408_of_an_idle_connection_is_not_the_next_response() {
    let origin = Origin::start(move |_, to| {
        to.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nown");
        if to.next_request().is_some() {
            to.raw(
                b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
            );
        }
    });
    let proxy = Proxy::start(origin.addr, &[]);
    let send_request = |request: &str| {
        let mut client = Client::connect(proxy.addr);
        client.send(request);
        status(&client.head()).to_owned()
    };
    for _ in 0..10 {
        assert_eq!(send_request("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), "200");
        assert_eq!(
            send_request("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"),
            "200"
        );
    }
    // Behind the body of a request it is the client's to send it again.
    let upload = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody";
    wait_until("a 408", || send_request(upload) == "408");
}
