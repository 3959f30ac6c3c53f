//! Bodies of requests and responses.

use super::*;
use crate::support::gate;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};

#[test]
fn upload_arrives_whole_and_its_response_too() {
    let origin = Http2Origin::start(|mut exchange: Exchange| async move {
        let length = exchange.head.headers.get("content-length").cloned();
        let body = exchange.read().await;
        let sum: u64 = body.iter().map(|byte| u64::from(*byte)).sum();
        exchange.text(200, &format!("{sum} {length:?}"));
    });
    let proxy = Proxy::start(origin.addr, &[ON]);
    let body = "\u{1}".repeat(900_000);
    let mut client = proxy.send_request(&format!(
        "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 900000\r\n\r\n{body}"
    ));
    assert_eq!(status(&client.head()), "200");
    let seen = String::from_utf8(client.raw()).unwrap();
    assert!(seen.contains("900000 Some(\"900000\")"), "{seen}");
    let mut client = proxy.send_request(
        "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n\
         3\r\n\u{1}\u{1}\u{1}\r\n0\r\n\r\n",
    );
    assert_eq!(status(&client.head()), "200");
    let seen = String::from_utf8(client.raw()).unwrap();
    assert!(seen.contains("3 None"), "{seen}");
}

#[test]
fn early_answer_to_an_upload_is_complete() {
    let origin = Http2Origin::start(|mut exchange: Exchange| async move {
        // RFC 9113 section 8.1: dropped now, it is reset without an error behind the whole response.
        exchange.text(413, "too long");
    });
    let proxy = Proxy::start(origin.addr, &[ON]);
    let mut client = proxy
        .send_request("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\nthe beginning");
    let head = client.head();
    assert_eq!(status(&head), "413");
    assert_eq!(client.bytes(8), b"too long");
}

#[test]
fn upload_continues_while_its_response_streams() {
    let origin = Http2Origin::start(|mut exchange: Exchange| async move {
        let mut stream = exchange.stream();
        while let Some(Ok(data)) = exchange.body.data().await {
            let _ = exchange.body.flow_control().release_capacity(data.len());
            let text = String::from_utf8(data.to_vec()).unwrap();
            send(&mut stream, &format!("data: {text}\n\n")).await;
        }
        let _ = stream.send_data(Bytes::new(), true);
    });
    let proxy = Proxy::start(origin.addr, &[ON, "--completion-required=false"]);
    let mut client = proxy.send_request(
        "POST / HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
    );
    assert_eq!(status(&client.head()), "200");
    for word in ["one", "two"] {
        client.send(&format!("3\r\n{word}\r\n"));
        client.read_until(&format!("data: {word}\n\n"));
    }
    client.send("0\r\n\r\n");
    assert_eq!(client.rest().1, End::Clean);
}

#[test]
fn upload_that_breaks_off_cancels_the_stream() {
    let (done, finished) = gate();
    let origin = Http2Origin::start(move |mut exchange: Exchange| {
        let done = done.clone();
        async move {
            while let Some(data) = exchange.body.data().await {
                if data.is_err() {
                    done.send(()).unwrap();
                }
            }
        }
    });
    let proxy = Proxy::start(origin.addr, &[ON]);
    let client = proxy.send_request("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nfirst");
    wait_until("the request", || origin.requests().len() == 1);
    drop(client);
    finished.wait();
}

#[test]
fn upload_beyond_its_limit_is_a_413() {
    let origin = Http2Origin::start(|mut exchange: Exchange| async move {
        exchange.read().await;
        exchange.text(200, "ok");
    });
    let proxy = Proxy::start(origin.addr, &[ON, "--upstream-max-body=1KiB"]);
    let body = "x".repeat(2000);
    let mut client = proxy.send_request(&format!(
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n7d0\r\n{body}\r\n0\r\n\r\n"
    ));
    assert_eq!(status(&client.head()), "413");
}

#[test]
fn responses_without_a_body_end_with_their_head() {
    let origin = Http2Origin::start(|mut exchange: Exchange| async move {
        let mut head = Response::builder().status(match exchange.path() {
            "/204" => 204,
            "/304" => 304,
            _ => 200,
        });
        if exchange.path() == "/head" {
            head = head.header("content-length", "9");
        }
        exchange
            .respond
            .send_response(head.body(()).unwrap(), true)
            .unwrap();
    });
    let proxy = Proxy::start(origin.addr, &[ON]);
    for (method, path) in [
        ("HEAD", "/head"),
        ("GET", "/204"),
        ("GET", "/304"),
        ("GET", "/empty"),
    ] {
        let mut client = proxy.send_request(&format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        ));
        let head = client.head();
        assert_eq!(
            head.contains("content-length: 9\n"),
            path == "/head",
            "{head}"
        );
        assert!(!head.contains("transfer-encoding"), "{head}");
        assert_eq!(client.raw(), b"", "{path}");
    }
}

#[test]
fn response_shorter_or_longer_than_its_length_is_broken_off() {
    let origin = Http2Origin::start(|mut exchange: Exchange| async move {
        let head = Response::builder().header("content-length", "9");
        let sent = exchange
            .respond
            .send_response(head.body(()).unwrap(), false);
        let text = match exchange.path() {
            "/short" => "12345678",
            _ => "1234567890",
        };
        let _ = sent.unwrap().send_data(text.into(), true);
    });
    let proxy = Proxy::start(origin.addr, &[ON]);
    for path in ["/short", "/long"] {
        let mut client = proxy.send_request(&format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"));
        // The head may be on its way by then.
        match client.head_if_any() {
            Some(head) if status(&head) == "200" => assert!(client.raw().len() < 9, "{path}"),
            Some(head) => assert_eq!(status(&head), "502", "{path}"),
            None => {}
        }
    }
}

#[test]
fn data_of_many_small_frames_arrives_whole() {
    let origin = Http2Origin::start(|mut exchange: Exchange| async move {
        let mut stream = exchange.stream();
        for n in 0..5000 {
            send(&mut stream, &format!("data: {n}\n\n")).await;
        }
        let _ = stream.send_data(Bytes::new(), true);
    });
    let proxy = Proxy::start(origin.addr, &[ON]);
    let mut client = proxy.get("/");
    assert_eq!(status(&client.head()), "200");
    let expected: String = (0..5000).map(|n| format!("data: {n}\n\n")).collect();
    assert_eq!(client.rest(), (expected.into_bytes(), End::Clean));
}

#[test]
fn trailers_are_forwarded_without_fields_of_the_head() {
    let origin = Http2Origin::start(|mut exchange: Exchange| async move {
        let mut stream = exchange.stream();
        send(&mut stream, "data: 1\n\n").await;
        let mut trailers = HeaderMap::new();
        for name in ["x-sum", "content-length", "host"] {
            trailers.insert(name, HeaderValue::from_static("7"));
        }
        stream.send_trailers(trailers).unwrap();
    });
    let proxy = Proxy::start(origin.addr, &[ON]);
    let mut client = proxy.send_request(
        "GET / HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\nTE: trailers\r\nConnection: TE, close\r\n\r\n",
    );
    assert_eq!(status(&client.head()), "200");
    let seen = String::from_utf8(client.raw()).unwrap();
    assert!(seen.ends_with("0\r\nx-sum: 7\r\n\r\n"), "{seen:?}");
}

#[test]
fn large_head_is_a_502() {
    let origin = Http2Origin::start(|mut exchange: Exchange| async move {
        let len = match exchange.path() {
            "/fits" => 7_000,
            "/large" => 9_000,
            _ => 60_000,
        };
        let head = Response::builder().header("x-long", "x".repeat(len));
        let _ = exchange.respond.send_response(head.body(()).unwrap(), true);
    });
    let proxy = Proxy::start(origin.addr, &[ON, "--upstream-max-head=8KiB"]);
    assert_eq!(status(&get(&proxy, "/fits").0), "200");
    let (head, body) = get(&proxy, "/large");
    assert_eq!(status(&head), "502");
    assert_eq!(
        body,
        "sse-guard: the head of the upstream's response is too large\n"
    );
    assert!(
        proxy
            .wait_for_log("\"ERROR\"")
            .contains("upstream.max_head")
    );
    assert_eq!(status(&get(&proxy, "/too-large").0), "502");
    assert_eq!(origin.connections(), 1);
}

#[test]
fn interim_heads_are_forwarded() {
    let origin = Http2Origin::start(|mut exchange: Exchange| async move {
        let count = match exchange.path() {
            "/flood" => 40,
            _ => 1,
        };
        for _ in 0..count {
            let hint = Response::builder().status(103).header("link", "</a.css>");
            let _ = exchange.respond.send_informational(hint.body(()).unwrap());
        }
        exchange.text(200, "ok");
    });
    let proxy = Proxy::start(origin.addr, &[ON]);
    let mut client = proxy.send_request("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let hint = client.head();
    assert_eq!(status(&hint), "103");
    assert!(hint.contains("link: </a.css>\n"), "{hint}");
    assert_eq!(status(&client.head()), "200");
    let mut client =
        proxy.send_request("GET /flood HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let mut head = client.head();
    while status(&head) == "103" {
        head = client.head();
    }
    assert_eq!(status(&head), "502");
}
