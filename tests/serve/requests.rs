//! Streams, other responses and uploads on one connection.

use super::*;
use crate::server::start;
use axum::Router;
use axum::extract::ConnectInfo;
use axum::response::sse::{Event, Sse};
use axum::routing::{get, post};
use sse_guard::SseGuardLayer;
use sse_guard::heartbeat::HeartbeatLayer;
use std::net::SocketAddr;
use std::time::Duration;

#[test]
fn response_with_connection_close_is_the_last_of_its_connection() {
    let server = start(Server::new(), service_fn(plain));
    let mut client = Client::connect(server.addr);
    client.send(&request("GET", "/closes", ""));
    client.send(&request("GET", "/short", ""));
    assert_stream(&mut client, "data: 1\n\ndata: 2\n\n", End::Clean);
    assert_eq!(client.raw(), b"");
}

#[test]
fn plain_service_serves_streams_answers_and_uploads_on_one_connection() {
    for server in servers() {
        let server = start(server, service_fn(plain));
        let mut client = Client::connect(server.addr);
        let peer = client.socket.local_addr().unwrap().to_string();
        let upload = "x".repeat(1 << 20);
        for _ in 0..3 {
            client.send(&request("GET", "/short", ""));
            assert_stream(&mut client, "data: 1\n\ndata: 2\n\n", End::Clean);
            client.send(&request(
                "POST",
                "/short",
                "and the service does not read it",
            ));
            assert_stream(&mut client, "data: 1\n\ndata: 2\n\n", End::Clean);
            client.send(&request("GET", "/peer", ""));
            assert_text(&mut client, &peer);
            client.send(&request("POST", "/echo", &upload));
            assert_text(&mut client, &upload);
            client.send(&request("GET", "/known", ""));
            assert_text(&mut client, "data: 1\n\n");
        }
        client.send(&request("GET", "/dies", ""));
        assert_stream(&mut client, "data: 1\n\n", End::Broken);
        let mut client = server.get("/fails");
        assert_eq!(client.raw(), b"");
        assert_text(&mut server.get("/plain"), "plain");
    }
}

#[test]
fn axum_app_serves_streams_answers_and_uploads_on_one_connection() {
    let event = || stream::iter([Ok::<_, Infallible>(Event::default().data("1"))]);
    let app = Router::new()
        .route("/short", get(move || async move { Sse::new(event()) }))
        .route(
            "/held",
            get(move || async move { Sse::new(event().chain(stream::pending())) }),
        )
        .route("/echo", post(|body: Bytes| async { body }))
        .route(
            "/peer",
            get(|ConnectInfo(peer): ConnectInfo<SocketAddr>| async move { peer.to_string() }),
        )
        .layer(SseGuardLayer::new().heartbeat(HeartbeatLayer::new(Duration::from_millis(5))));
    let server = start(Server::new(), app);
    let mut client = Client::connect(server.addr);
    let peer = client.socket.local_addr().unwrap().to_string();
    for _ in 0..3 {
        client.send(&request("GET", "/short", ""));
        assert_stream(&mut client, "data: 1\n\n", End::Clean);
        client.send(&request("GET", "/peer", ""));
        assert_text(&mut client, &peer);
        client.send(&request("POST", "/echo", "hello"));
        assert_text(&mut client, "hello");
    }
    client.send(&request("GET", "/held", ""));
    let head = client.head();
    assert!(head.contains("x-accel-buffering: no\n"), "{head}");
    client.read_until("data: 1\n\n: heartbeat\n");
    client.read_until(": heartbeat\n");
}

#[test]
fn heads_without_an_end_time_out_and_long_ones_get_a_431() {
    let server = Server::new()
        .head_timeout(Duration::from_millis(200))
        .max_head(8 * 1024);
    let server = start(server, service_fn(plain));
    assert_eq!(server.send_request("GET / HTTP/1.1\r\nX-A: ").raw(), b"");
    let long = format!("GET / HTTP/1.1\r\nX-A: {}", "x".repeat(16 * 1024));
    let head = server.send_request(&long).head();
    assert!(head.starts_with("http/1.1 431 "), "{head}");
}

#[test]
fn last_response_of_a_connection_has_connection_close() {
    let server = start(Server::new(), service_fn(plain));
    // The client requests it, or the request is invalid.
    for request in [
        "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        "GET /a#b HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : x\r\n\r\n",
    ] {
        let mut client = server.send_request(request);
        let head = client.head();
        assert!(head.contains("\nconnection: close\n"), "{request}: {head}");
        client.raw();
    }
    // The service reads nothing of the body, and too much of it is missing to skip it.
    for rest in ["Content-Length: 1000000", "Transfer-Encoding: chunked"] {
        let mut client =
            server.send_request(&format!("POST / HTTP/1.1\r\nHost: x\r\n{rest}\r\n\r\n"));
        let head = client.head();
        assert!(head.contains("\nconnection: close\n"), "{rest}: {head}");
        assert_eq!(client.raw(), b"plain");
    }
    let mut client = server.send_request(&request("POST", "/", "a small one"));
    for _ in 0..2 {
        let head = client.head();
        assert!(!head.contains("connection"), "{head}");
        assert_eq!(client.bytes(5), b"plain");
        client.send(&request("POST", "/", "a small one"));
    }
}

#[test]
fn events_before_the_end_reach_a_client_that_reads_late() {
    const COUNT: usize = 8_000;
    for dies in [false, true] {
        let (streams, service) = controlled();
        let server = start(Server::new(), service);
        let mut client = server.get("/");
        let stream = streams.recv_timeout(PATIENCE).unwrap();
        for n in 0..COUNT {
            stream.send(data(numbered(n))).unwrap();
        }
        if dies {
            stream.send(Err("it died".into())).unwrap();
        }
        drop(stream);
        let sent: String = (0..COUNT).map(numbered).collect();
        client.head();
        let (seen, end) = client.rest();
        assert!(
            seen == sent.as_bytes(),
            "{} of {} bytes",
            seen.len(),
            sent.len()
        );
        assert_eq!(end, if dies { End::Broken } else { End::Clean });
    }
}
