//! What a client of HTTP/1.0 sees, to whom the end of the connection is the end of the response.

use crate::support::{Client, Gone, Origin, Proxy, gate};
use std::sync::mpsc::Sender;

/// An origin whose stream is one event; then it waits for a word, and ends as its path says.
fn held(end: &'static str) -> (Sender<()>, Origin) {
    let (go, goes) = gate();
    let origin = Origin::start(move |_, to| {
        to.stream();
        to.chunk("data: 1\n\n");
        goes.wait();
        to.raw(end.as_bytes());
    });
    (go, origin)
}

/// How upstreams end, and what that is to the client.
const ENDS: [(&str, Gone); 3] = [
    ("0\r\n\r\n", Gone::Closed),
    ("", Gone::Reset),
    ("7\r\ndata: h\r\n", Gone::Reset),
];

/// A stream that has begun, and its head.
fn begun(proxy: &Proxy, request: &str) -> (String, Client) {
    let mut client = proxy.send_request(request);
    let head = client.head();
    assert_eq!(client.bytes(9), b"data: 1\n\n");
    (head, client)
}

/// Neither where the client closes its own side nor where a second signal cuts it off.
fn no_cut_of_ours_is_an_end(halves: &str, cut_off: &str) {
    let (_go, origin) = held("");
    let mut proxy = Proxy::start(origin.addr, &["--drain-window=1h"]);
    let (_, mut halves) = begun(&proxy, halves);
    halves.close_own_side();
    assert_eq!(halves.raw_and_end(), (Vec::new(), Gone::Reset));

    let (_, mut cut_off) = begun(&proxy, cut_off);
    proxy.signal("-TERM");
    proxy.wait_for_log("stopping");
    proxy.signal("-TERM");
    assert_eq!(cut_off.raw_and_end(), (Vec::new(), Gone::Reset));
    assert!(proxy.wait().success());
}

#[test]
fn http_1_0_client_sees_a_whole_stream_end_and_a_broken_one_reset() {
    for (end, gone) in ENDS {
        for field in ["", "Connection: keep-alive\r\n"] {
            let (go, origin) = held(end);
            let proxy = Proxy::start(origin.addr, &[]);
            let (head, mut client) = begun(&proxy, &format!("GET / HTTP/1.0\r\n{field}\r\n"));
            for absent in ["transfer-encoding", "content-length", "connection"] {
                assert!(!head.contains(absent), "{head}");
            }
            go.send(()).unwrap();
            assert_eq!(client.raw_and_end(), (Vec::new(), gone), "{end:?}");
        }
    }
}

#[test]
fn http_1_0_client_gets_a_reset_when_the_proxy_cuts_its_stream() {
    no_cut_of_ours_is_an_end(
        "GET / HTTP/1.0\r\n\r\n",
        "POST / HTTP/1.0\r\nContent-Length: 0\r\n\r\n",
    );
}

/// As `held`, for a response that is no stream.
fn held_text(end: &'static str) -> (Sender<()>, Origin) {
    let (go, goes) = gate();
    let origin = Origin::start(move |_, to| {
        let head = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: text/plain\r\n";
        to.raw(format!("{head}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n").as_bytes());
        goes.wait();
        to.raw(end.as_bytes());
    });
    (go, origin)
}

#[test]
fn http_1_0_response_that_breaks_off_is_reset() {
    for (end, gone) in ENDS {
        let (go, origin) = held_text(end);
        let proxy = Proxy::start(origin.addr, &[]);
        let mut client = proxy.send_request("GET / HTTP/1.0\r\n\r\n");
        client.head();
        assert_eq!(client.bytes(5), b"hello");
        go.send(()).unwrap();
        let rest = if end.starts_with('7') { "data: h" } else { "" };
        // What came with the reset may be lost with it.
        let (seen, how) = client.raw_and_end();
        assert!(rest.as_bytes().starts_with(&seen), "{end:?}");
        assert_eq!(how, gone, "{end:?}");
    }
}

#[test]
fn http_1_0_response_of_known_length_ends_with_it() {
    let origin = Origin::start(|_, to| {
        to.raw(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello");
    });
    let proxy = Proxy::start(origin.addr, &[]);
    let mut client = proxy.send_request("GET / HTTP/1.0\r\n\r\n");
    assert!(client.head().contains("content-length: 5\n"));
    assert_eq!(client.raw_and_end(), (b"hello".to_vec(), Gone::Closed));
}

#[test]
fn http_1_0_response_of_many_writes_arrives_whole() {
    const LEN: usize = 4 << 20;
    let origin = Origin::start(|_, to| {
        to.raw(b"HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n");
        to.chunk(vec![b'x'; LEN]);
        to.end();
    });
    let proxy = Proxy::start(origin.addr, &[]);
    let mut client = proxy.send_request("GET / HTTP/1.0\r\n\r\n");
    client.head();
    assert_eq!(client.bytes(5), b"xxxxx");
    let (seen, gone) = client.raw_and_end();
    assert_eq!((seen.len(), gone), (LEN - 5, Gone::Closed));
}

const UPLOAD: &str = "POST / HTTP/1.0\r\nContent-Length: 5\r\n\r\n";

#[test]
fn http_1_0_stream_that_breaks_off_during_the_upload_is_reset() {
    for (end, gone) in ENDS {
        let (go, origin) = held(end);
        let proxy = Proxy::start(origin.addr, &[]);
        let (_, mut client) = begun(&proxy, UPLOAD);
        go.send(()).unwrap();
        assert_eq!(client.raw_and_end(), (Vec::new(), gone), "{end:?}");
    }
}

#[test]
fn http_1_0_stream_that_the_proxy_cuts_during_the_upload_is_reset() {
    no_cut_of_ours_is_an_end(UPLOAD, UPLOAD);
}
