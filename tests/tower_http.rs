//! The stack among the layers of tower-http, in each order that docs/layer-order.md describes: an axum app on a real
//! listener, with a live stream, heartbeats and a plain response.

#![cfg(feature = "axum")]
#![allow(
    clippy::unwrap_used,
    reason = "a failed expectation is how a test fails"
)]

#[path = "support/client.rs"]
mod client;

use axum::Router;
use axum::response::sse::{Event, Sse};
use axum::routing::get;
use client::{Client, End};
use futures_util::{StreamExt, stream};
use http::header::HeaderName;
use http::{HeaderValue, Request, StatusCode};
use http_body_util::BodyExt;
use sse_guard::connection_limit::ConnectionLimitLayer;
use sse_guard::early::EarlyLayer;
use sse_guard::heartbeat::HeartbeatLayer;
use sse_guard::unavailable::UnavailableLayer;
use sse_guard::{EndReason, SseGuardLayer, Stream};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;
use tower::{ServiceBuilder, ServiceExt};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::SizeAbove;
use tower_http::cors::CorsLayer;
use tower_http::limit::RequestBodyLimitLayer;
use tower_http::request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer};
use tower_http::sensitive_headers::SetSensitiveHeadersLayer;
use tower_http::set_header::SetResponseHeaderLayer;
use tower_http::timeout::{ResponseBodyTimeoutLayer, TimeoutLayer};
use tower_http::trace::TraceLayer;

/// A stream that sends one event and stays open, one that ends, a slow head, a panic, and a text worth compressing.
fn app() -> Router {
    let one = || stream::iter([Ok::<_, Infallible>(Event::default().data("1"))]);
    Router::new()
        .route(
            "/held",
            get(move || async move { Sse::new(one().chain(stream::pending())) }),
        )
        .route("/short", get(move || async move { Sse::new(one()) }))
        .route("/text", get(|| async { "text ".repeat(1_000) }))
        .route("/never", get(std::future::pending::<()>))
        .route("/panics", get(|| async { panics() }))
}

fn panics() -> &'static str {
    panic!("on purpose")
}

fn guard() -> SseGuardLayer {
    SseGuardLayer::new()
        .limit(ConnectionLimitLayer::new().per_client(1))
        .heartbeat(HeartbeatLayer::new(Duration::from_millis(5)))
}

fn timeout() -> TimeoutLayer {
    TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, Duration::from_millis(200))
}

/// Serves on a thread of its own.
fn serve(app: Router) -> SocketAddr {
    let (bound, addr) = channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            bound.send(listener.local_addr().unwrap()).unwrap();
            let app = app.into_make_service_with_connect_info::<SocketAddr>();
            axum::serve(listener, app).await.unwrap();
        });
    });
    addr.recv().unwrap()
}

/// A request as a browser's `EventSource` on a page of another origin makes it.
fn send_request(addr: SocketAddr, path: &str) -> Client {
    let mut client = Client::connect(addr);
    client.send(&format!(
        "GET {path} HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\nAccept-Encoding: gzip\r\n\
         Origin: http://page.test\r\n\r\n"
    ));
    client
}

/// A live stream has its event and heartbeats; a short one ends properly. Returns the head of the live one.
#[track_caller]
fn streams(addr: SocketAddr) -> String {
    let mut client = send_request(addr, "/short");
    assert!(client.head().starts_with("http/1.1 200 "));
    assert_eq!(client.rest(), (b"data: 1\n\n".to_vec(), End::Clean));
    let mut client = send_request(addr, "/held");
    let head = client.head();
    assert!(head.contains("\nx-accel-buffering: no\n"), "{head}");
    assert!(!head.contains("content-encoding"), "{head}");
    client.read_until("data: 1\n\n");
    client.read_until(": heartbeat\n");
    client.read_until(": heartbeat\n");
    head
}

#[track_caller]
fn status(addr: SocketAddr, path: &str) -> (u16, String) {
    let head = send_request(addr, path).head();
    (head[9..12].parse().unwrap(), head)
}

/// The order of docs/layer-order.md: everything outside of the guard.
fn recommended() -> Router {
    app().layer(
        ServiceBuilder::new()
            .layer(SetSensitiveHeadersLayer::new([http::header::COOKIE]))
            .layer(SetRequestIdLayer::x_request_id(MakeRequestUuid))
            .layer(TraceLayer::new_for_http())
            .layer(PropagateRequestIdLayer::x_request_id())
            // Outside of the layers below: they need a body with `Default`, and this layer's has none.
            .layer(RequestBodyLimitLayer::new(1 << 20))
            .layer(CorsLayer::permissive())
            .layer(CompressionLayer::new())
            .layer(CatchPanicLayer::new())
            .layer(TimeoutLayer::with_status_code(
                StatusCode::REQUEST_TIMEOUT,
                Duration::from_millis(200),
            ))
            .layer(guard()),
    )
}

#[test]
fn recommended_order_serves_streams_and_other_responses() {
    let addr = serve(recommended());
    let head = streams(addr);
    assert!(
        head.contains("\naccess-control-allow-origin: *\n"),
        "{head}"
    );
    assert!(head.contains("\nx-request-id: "), "{head}");
    let (code, head) = status(addr, "/text");
    assert!(
        code == 200 && head.contains("\ncontent-encoding: gzip\n"),
        "{head}"
    );
    let (code, head) = status(addr, "/never");
    assert!(
        code == 408 && head.contains("\naccess-control-allow-origin: *\n"),
        "{head}"
    );
    assert_eq!(status(addr, "/panics").0, 500);
    let mut client = Client::connect(addr);
    client.send(
        "OPTIONS /held HTTP/1.1\r\nHost: x\r\nOrigin: http://page.test\r\n\
         Access-Control-Request-Method: POST\r\n\r\n",
    );
    let head = client.head();
    assert!(
        head.contains("\naccess-control-allow-methods: *\n"),
        "{head}"
    );
}

/// Each layer alone, outside and inside of the guard.
macro_rules! around {
    ($($name:ident: $layer:expr),* $(,)?) => {$(
        mod $name {
            use super::*;

            #[test]
            fn outside() {
                streams(serve(app().layer(ServiceBuilder::new().layer($layer).layer(guard()))));
            }

            #[test]
            fn inside() {
                streams(serve(app().layer(ServiceBuilder::new().layer(guard()).layer($layer))));
            }

            #[test]
            fn outside_of_every_layer_of_the_crate() {
                let stack = ServiceBuilder::new()
                    .layer($layer)
                    .layer(sse_guard::cors::CorsLayer::new())
                    .layer(UnavailableLayer::new())
                    .layer(guard())
                    .layer(EarlyLayer::new(Duration::from_secs(5)));
                streams(serve(app().layer(stack)));
                streams(serve(app().layer(ServiceBuilder::new().layer($layer).layer(
                    EarlyLayer::new(Duration::from_secs(5))
                ).layer(guard()))));
            }
        }
    )*};
}

around! {
    cors: CorsLayer::permissive(),
    compression: CompressionLayer::new(),
    timeout_of_heads: timeout(),
    trace: TraceLayer::new_for_http(),
    set_request_id: SetRequestIdLayer::x_request_id(MakeRequestUuid),
    propagate_request_id: PropagateRequestIdLayer::x_request_id(),
    sensitive_headers: SetSensitiveHeadersLayer::new([http::header::COOKIE]),
    catch_panic: CatchPanicLayer::new(),
    set_header: SetResponseHeaderLayer::overriding(
        HeaderName::from_static("x-server"),
        HeaderValue::from_static("a"),
    ),
}

fn over(stack: Router, path: &str) -> (u16, String) {
    status(serve(stack), path)
}

#[test]
fn cors_layer_must_be_outside_for_pages_to_read_a_rejection() {
    for (is_outside, allows) in [(true, true), (false, false)] {
        let cors = CorsLayer::permissive;
        let addr = serve(match is_outside {
            true => app().layer(ServiceBuilder::new().layer(cors()).layer(guard())),
            false => app().layer(ServiceBuilder::new().layer(guard()).layer(cors())),
        });
        let mut first = send_request(addr, "/held");
        first.head();
        let (code, head) = status(addr, "/held");
        assert_eq!(code, 429);
        assert_eq!(
            head.contains("access-control-allow-origin"),
            allows,
            "{head}"
        );
    }
}

#[test]
fn compression_layer_must_be_outside_for_requests_that_accept_a_stream() {
    let layer = CompressionLayer::new;
    let outside = app().layer(ServiceBuilder::new().layer(layer()).layer(guard()));
    let (_, head) = over(outside, "/text");
    assert!(head.contains("content-encoding: gzip"), "{head}");
    let inside = app().layer(ServiceBuilder::new().layer(guard()).layer(layer()));
    let (_, head) = over(inside, "/text");
    assert!(!head.contains("content-encoding"), "{head}");
}

#[test]
fn compression_layer_that_includes_event_streams() {
    let layer = || CompressionLayer::new().compress_when(SizeAbove::new(0));
    // The guard has replaced the Accept-Encoding of a request for a stream.
    streams(serve(
        app().layer(ServiceBuilder::new().layer(guard()).layer(layer())),
    ));
    // Each event and heartbeat leaves the encoder at once.
    let addr = serve(app().layer(ServiceBuilder::new().layer(layer()).layer(guard())));
    let mut client = send_request(addr, "/held");
    let head = client.head();
    assert!(head.contains("content-encoding: gzip"), "{head}");
    for _ in 0..4 {
        // The end of a block that was flushed.
        assert!(client.chunk().unwrap().ends_with(b"\0\0\xff\xff"));
    }
}

#[test]
fn timeout_layer_bounds_the_head_and_never_a_stream() {
    let outside = || app().layer(ServiceBuilder::new().layer(timeout()).layer(guard()));
    let inside = || app().layer(ServiceBuilder::new().layer(guard()).layer(timeout()));
    for stack in [outside(), inside()] {
        let addr = serve(stack);
        let mut client = send_request(addr, "/held");
        assert!(client.head().starts_with("http/1.1 200 "));
        // Heartbeats every 5 ms: the timeout of 200 ms has passed.
        for _ in 0..60 {
            client.read_until(": heartbeat\n");
        }
        drop(client);
        // The place of the request that timed out is free again.
        assert_eq!(status(addr, "/never").0, 408);
        assert_eq!(status(addr, "/never").0, 408);
    }
}

#[test]
fn timeout_layer_and_an_early_answer() {
    let early = || EarlyLayer::new(Duration::from_millis(20));
    // Outside: the early answer is in time, and nothing bounds the wait behind it.
    let stack = ServiceBuilder::new()
        .layer(timeout())
        .layer(guard())
        .layer(early());
    let mut client = send_request(serve(app().layer(stack)), "/never");
    assert!(client.head().starts_with("http/1.1 200 "));
    for _ in 0..60 {
        client.read_until(": heartbeat\n");
    }
    // Inside: the timeout's 408 comes too late for a status and becomes the client family's error event.
    let stack = ServiceBuilder::new()
        .layer(guard())
        .layer(early())
        .layer(timeout());
    let mut client = send_request(serve(app().layer(stack)), "/never");
    assert!(client.head().starts_with("http/1.1 200 "));
    let (body, end) = client.rest();
    let body = String::from_utf8(body).unwrap();
    assert!(body.starts_with(": heartbeat\n"), "{body}");
    assert!(
        body.contains("event: error\ndata: {") && body.contains("408"),
        "{body}"
    );
    assert_eq!(end, End::Clean);
}

/// On the stopped clock: of how long heartbeats take on a busy machine depends what a timeout of frames does.
#[tokio::test(start_paused = true)]
async fn timeout_of_frames() {
    let layer = || ResponseBodyTimeoutLayer::new(Duration::from_millis(200));
    let request = || {
        Request::get("/held")
            .body(axum::body::Body::empty())
            .unwrap()
    };
    // Outside, each heartbeat starts it anew.
    let stack = ServiceBuilder::new().layer(layer()).layer(guard());
    let mut body = app()
        .layer(stack)
        .oneshot(request())
        .await
        .unwrap()
        .into_body();
    for _ in 0..1_000 {
        body.frame().await.unwrap().unwrap();
    }
    // Inside, silence of the service ends the stream as a failure of the upstream.
    let stack = ServiceBuilder::new().layer(guard()).layer(layer());
    let response = app().layer(stack).oneshot(request()).await.unwrap();
    let stream = response.extensions().get::<Stream>().unwrap().clone();
    assert!(response.into_body().collect().await.is_err());
    assert_eq!(stream.end_reason(), Some(EndReason::UpstreamError));
    assert_eq!(stream.events(), 1);
}

#[test]
fn panic_becomes_a_500_on_either_side_and_frees_its_slot() {
    let layer = CatchPanicLayer::new;
    let outside = || app().layer(ServiceBuilder::new().layer(layer()).layer(guard()));
    let inside = || app().layer(ServiceBuilder::new().layer(guard()).layer(layer()));
    for stack in [outside(), inside()] {
        let addr = serve(stack);
        assert_eq!(status(addr, "/panics").0, 500);
        assert_eq!(status(addr, "/panics").0, 500);
    }
}
