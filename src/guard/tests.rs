//! What holds for any layer: who is touched, how bodies end, what is held and let go.

mod tasks;

use super::testing::{ScriptedUpstream, get, send_request};
use crate::heartbeat::HeartbeatLayer;
use crate::stream::EndReason;
use http::{Method, Request, Response};
use http_body::Body as _;
use http_body_util::{BodyExt, Full};
use std::convert::Infallible;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tower::{ServiceExt, service_fn};
use tower_layer::{Layer, Stack};

fn layer() -> HeartbeatLayer {
    HeartbeatLayer::new(Duration::from_secs(10))
}

#[tokio::test(start_paused = true)]
async fn upstream_failure_fails_the_body_and_drops_its_incomplete_event() {
    let upstream = ScriptedUpstream::new().send("data: 1\n\ndata: ha").fail();
    let response = get(layer(), upstream).await;
    let stream = response.stream();
    let (text, end) = response.read().await;
    assert_eq!(text, "data: 1\n\n");
    assert!(end.unwrap_err().to_string().contains("died"));
    assert_eq!(stream.end_reason(), Some(EndReason::UpstreamError));
    assert_eq!(stream.dropped_bytes(), 8);
}

#[tokio::test(start_paused = true)]
async fn body_is_pending_once_before_it_fails() {
    let upstream = ScriptedUpstream::new().send("data: 1\n\n").fail();
    let mut client = get(Stack::new(layer(), layer()), upstream).await;
    let mut cx = Context::from_waker(Waker::noop());
    let mut poll = || pin!(client.frame()).poll(&mut cx);
    assert!(matches!(poll(), Poll::Ready(Some(Ok(_)))));
    assert!(poll().is_pending());
    assert!(matches!(poll(), Poll::Ready(Some(Err(_)))));
    assert!(matches!(poll(), Poll::Ready(None)));
}

#[tokio::test(start_paused = true)]
async fn incomplete_event_at_a_proper_end_passes_unchanged() {
    let upstream = ScriptedUpstream::new().send("data: 1\n\ndata: 2\n");
    let response = get(layer(), upstream).await;
    let stream = response.stream();
    assert_eq!(response.text().await, "data: 1\n\ndata: 2\n");
    assert_eq!(stream.end_reason(), Some(EndReason::UpstreamEnd));
    assert_eq!(stream.events(), 1);
}

#[tokio::test(start_paused = true)]
async fn trailers_follow_the_last_bytes() {
    let mut response = get(layer(), ScriptedUpstream::new().send("data: 1").trailers()).await;
    let data = response.frame().await.unwrap().unwrap();
    assert_eq!(data.into_data().unwrap(), "data: 1");
    let trailers = response.frame().await.unwrap().unwrap();
    assert_eq!(trailers.into_trailers().unwrap()["x-trailer"], "1");
    assert!(response.frame().await.is_none());
    assert!(response.body().is_end_stream());
}

#[tokio::test(start_paused = true)]
async fn dropped_body_is_recorded_as_client_gone() {
    let mut response = get(layer(), ScriptedUpstream::new().send("data: 1\n\n").hang()).await;
    let stream = response.stream();
    response.next().await.unwrap().unwrap();
    drop(response);
    assert_eq!(stream.end_reason(), Some(EndReason::ClientGone));
}

#[tokio::test(start_paused = true)]
async fn event_counts_once_through_nested_layers() {
    let nested = tower_layer::Stack::new(layer(), layer());
    let response = get(
        nested,
        ScriptedUpstream::new()
            .send("data: 1\n\n")
            .send("da")
            .send("ta: 2\n\n"),
    )
    .await;
    let stream = response.stream();
    assert_eq!(response.text().await, "data: 1\n\ndata: 2\n\n");
    assert_eq!((stream.events(), stream.bytes()), (2, 18));
}

#[tokio::test(start_paused = true)]
async fn encoded_streams_head_requests_and_other_statuses_pass_unchanged() {
    let coded = ScriptedUpstream::new()
        .header("content-encoding", "gzip")
        .send("data")
        .wait(60)
        .send(": 1");
    let response = get(layer(), coded).await;
    assert!(!response.headers().contains_key("x-accel-buffering"));
    assert_eq!(response.text().await, "data: 1");

    let head = Request::builder().method(Method::HEAD).body(()).unwrap();
    let response = send_request(layer(), head, ScriptedUpstream::new().send("data").wait(60)).await;
    assert_eq!(response.text().await, "data");
}

#[tokio::test]
async fn head_response_has_the_fields_of_the_get() {
    let request = |method| Request::builder().method(method).body(()).unwrap();
    let upstream = || ScriptedUpstream::new().header("cache-control", "max-age=9");
    let get = send_request(layer(), request(Method::GET), upstream()).await;
    let head = send_request(layer(), request(Method::HEAD), upstream()).await;
    assert_eq!(head.headers(), get.headers());
    assert_eq!(head.headers()["x-accel-buffering"], "no");

    let plain = || upstream().content_type("text/plain");
    let head = send_request(layer(), request(Method::HEAD), plain()).await;
    assert_eq!(head.headers()["cache-control"], "max-age=9");
}

#[tokio::test]
async fn request_for_a_stream_accepts_only_identity_coding() {
    for (name, value, coding) in [
        ("accept", "text/event-stream", "identity"),
        ("user-agent", "AsyncOpenAI/Python 3.54.0", "identity"),
        ("anthropic-version", "2023-06-01", "identity"),
        ("accept", "application/json", "gzip"),
    ] {
        let inner = service_fn(|request: Request<()>| async move {
            let coding = request.headers()["accept-encoding"].as_bytes().to_vec();
            Ok::<_, Infallible>(Response::new(Full::from(coding)))
        });
        let request = Request::post("/").header("accept-encoding", "gzip");
        let request = request.header(name, value).body(()).unwrap();
        let service = crate::SseGuardLayer::new().layer(inner);
        let response = service.oneshot(request).await.unwrap();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, coding, "{name}: {value}");
    }
}
