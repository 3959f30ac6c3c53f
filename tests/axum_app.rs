//! The layers in an axum app, over a real listener.

#![cfg(feature = "axum")]
#![allow(
    clippy::unwrap_used,
    reason = "a failed expectation is how a test fails"
)]

use axum::Router;
use axum::response::sse::{Event, Sse};
use axum::routing::get;
use futures_util::{StreamExt, stream};
use sse_guard::SseGuardLayer;
use sse_guard::connection_limit::ConnectionLimitLayer;
use sse_guard::heartbeat::HeartbeatLayer;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

async fn start() -> SocketAddr {
    let events = || async {
        let one = stream::iter([Ok::<_, Infallible>(Event::default().data("1"))]);
        Sse::new(one.chain(stream::pending()))
    };
    let dies = || async {
        let event = stream::iter([Ok(Event::default().data("1"))]);
        let death = stream::once(async { Err(std::io::Error::other("died")) });
        Sse::new(event.chain(death))
    };
    let guard = SseGuardLayer::new()
        .limit(ConnectionLimitLayer::new().per_client(1))
        .heartbeat(HeartbeatLayer::new(Duration::from_millis(5)));
    let app = Router::new()
        .route("/events", get(events))
        .route("/dies", get(dies))
        .route("/plain", get(|| async { "plain" }))
        .layer(guard)
        .into_make_service_with_connect_info::<SocketAddr>();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    addr
}

async fn send_request(addr: SocketAddr, path: &str) -> BufReader<TcpStream> {
    let mut socket = TcpStream::connect(addr).await.unwrap();
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAccept: text/event-stream\r\n\r\n"
    );
    socket.write_all(request.as_bytes()).await.unwrap();
    BufReader::new(socket)
}

async fn line_with(reader: &mut BufReader<TcpStream>, text: &str) -> String {
    loop {
        let mut line = String::new();
        assert!(
            reader.read_line(&mut line).await.unwrap() > 0,
            "no line with {text:?}"
        );
        if line.contains(text) {
            return line;
        }
    }
}

#[tokio::test]
async fn axum_stream_gets_heartbeats_and_limits() {
    let addr = start().await;
    let mut one = send_request(addr, "/events").await;
    line_with(&mut one, "x-accel-buffering: no").await;
    line_with(&mut one, "data: 1").await;
    line_with(&mut one, ": heartbeat").await;
    let mut two = send_request(addr, "/events").await;
    assert!(line_with(&mut two, "HTTP/1.1").await.contains("429"));
}

#[tokio::test]
async fn last_whole_event_before_a_failure_arrives() {
    let mut response = String::new();
    let mut client = send_request(start().await, "/dies").await;
    client.read_to_string(&mut response).await.unwrap();
    // Without the last chunk: this was no proper end.
    assert!(response.ends_with("\r\n9\r\ndata: 1\n\n\r\n"), "{response}");
}

#[tokio::test]
async fn other_routes_are_unchanged() {
    let addr = start().await;
    let mut response = String::new();
    send_request(addr, "/plain")
        .await
        .read_to_string(&mut response)
        .await
        .unwrap();
    assert!(response.ends_with("\r\n\r\nplain"), "{response}");
    assert!(!response.contains("x-accel-buffering"), "{response}");
}
