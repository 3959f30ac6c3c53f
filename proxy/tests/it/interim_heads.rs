//! Interim response heads (1xx) between upstream and client.

use super::http::status;
use crate::support::{Client, End, Origin, Proxy, gate};
use std::sync::mpsc::Sender;

/// At each path what hints may come ahead of a response, and the response when the gate opens.
fn hinting() -> (Origin, Sender<()>) {
    let (open, opens) = gate();
    let origin = Origin::start(move |received, to| {
        let mut received = Some(received);
        while let Some(request) = received {
            let path = request.path;
            let link = format!("Link: <{path}.css>; rel=preload\r\n");
            let fields =
                "Connection: x-hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nContent-Length: 9\r\n";
            to.raw(
                format!(
                    "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n{link}{fields}\r\n"
                )
                .as_bytes(),
            );
            opens.wait();
            to.raw(format!("HTTP/1.1 199 Whatever\r\n{link}\r\n").as_bytes());
            match path.as_str() {
                "/events" => {
                    to.raw(
                        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
                          Transfer-Encoding: chunked\r\n\r\n",
                    );
                    to.chunk("data: 1\n\n");
                    to.end();
                }
                _ => {
                    let len = path.len();
                    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {len}\r\n\r\n{path}");
                    to.raw(head.as_bytes());
                }
            }
            received = to.next_request();
        }
    });
    (origin, open)
}

fn hint(status: &str, path: &str) -> String {
    format!("http/1.1 {status}\nlink: <{path}.css>; rel=preload\n")
}

/// The second interim head, and the response behind it.
#[track_caller]
fn assert_hinted_response(client: &mut Client, path: &str) {
    assert_eq!(client.head(), hint("199", path));
    assert_eq!(status(&client.head()), "200");
    match path {
        "/events" => assert_eq!(client.rest(), (b"data: 1\n\n".to_vec(), End::Clean)),
        _ => assert_eq!(client.bytes(path.len()), path.as_bytes()),
    }
}

#[test]
fn early_hints_reach_the_client_ahead_of_the_response() {
    let (origin, open) = hinting();
    // A late one comes when both sides wait without hyper.
    for (path, is_late) in [("/a", false), ("/b", true), ("/events", true)] {
        let proxy = Proxy::start(origin.addr, &["--log-level=trace"]);
        let mut client = proxy.get(path);
        assert_eq!(client.head(), hint("103 early hints", path));
        if is_late {
            proxy.wait_for_log("a request waits for its response");
            proxy.wait_for_log("a request waits for the upstream's response head");
        }
        open.send(()).unwrap();
        assert_hinted_response(&mut client, path);
        // The connection serves on.
        client.send("GET /next HTTP/1.1\r\nHost: x\r\n\r\n");
        assert_eq!(client.head(), hint("103 early hints", "/next"));
        open.send(()).unwrap();
        assert_eq!(client.head(), hint("199", "/next"));
        assert_eq!(status(&client.head()), "200");
        assert_eq!(client.bytes(5), b"/next");
    }
}

#[test]
fn interim_heads_of_pipelined_requests_stay_with_their_responses() {
    let (origin, open) = hinting();
    let proxy = Proxy::start(origin.addr, &[]);
    let paths = ["/a", "/bb", "/events", "/ccc"];
    let requests = paths.map(|path| format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"));
    let mut client = proxy.send_request(&requests.concat());
    for path in paths {
        assert_eq!(client.head(), hint("103 early hints", path));
        open.send(()).unwrap();
        assert_hinted_response(&mut client, path);
    }
}

#[test]
fn http_1_0_client_gets_no_interim_head() {
    let (origin, open) = hinting();
    let proxy = Proxy::start(origin.addr, &[]);
    for path in ["/a", "/events"] {
        open.send(()).unwrap();
        let mut client = proxy.send_request(&format!("GET {path} HTTP/1.0\r\n\r\n"));
        assert_eq!(status(&client.head()), "200");
        let body = client.raw();
        assert!(!body.starts_with(b"HTTP/"), "{body:?}");
    }
}

#[test]
fn upload_gets_one_100_and_the_hints_of_its_upstream() {
    let origin = Origin::start(|_, to| {
        to.raw(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n");
        to.body(2);
        to.raw(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    });
    let proxy = Proxy::start(origin.addr, &[]);
    let mut client = proxy.send_request(
        "POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n",
    );
    let mut interim = [client.head(), client.head()];
    interim.sort();
    assert_eq!(
        interim,
        [
            "http/1.1 100 continue\n",
            "http/1.1 103 early hints\nlink: </a>\n"
        ]
    );
    client.send("ok");
    assert_eq!(status(&client.head()), "200");
}
