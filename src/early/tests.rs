use super::*;
use crate::guard::StreamError;
use crate::guard::testing::{ScriptedUpstream, TestResponse, get, send_request};
use crate::heartbeat::HeartbeatLayer;
use crate::idle_timeout::IdleTimeoutLayer;
use crate::metrics::MetricsLayer;
use crate::resume::ResumeLayer;
use crate::rotation::RotationLayer;
use crate::stream::EndReason;
use crate::stream::StreamRegistry;
use http::StatusCode;
use http_body_util::{BodyExt, Empty, Full};
use serde_json::Value;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use tower::{ServiceExt, service_fn};
use tower_layer::Stack;

const AFTER: u64 = 10;

fn early() -> EarlyLayer {
    EarlyLayer::new(Duration::from_secs(AFTER))
}

/// It, and a layer outside that keeps the books.
fn kept() -> Stack<EarlyLayer, MetricsLayer> {
    Stack::new(early(), MetricsLayer::new())
}

/// The same with heartbeats.
fn beating() -> Stack<EarlyLayer, HeartbeatLayer> {
    let interval = Duration::from_secs(AFTER);
    Stack::new(early(), HeartbeatLayer::new(interval))
}

fn request() -> Request<()> {
    let request = Request::get("/").header("accept", "text/event-stream");
    request.body(()).unwrap()
}

fn of(family: Family) -> Request<()> {
    let mut request = request();
    request.extensions_mut().insert(family);
    request
}

/// Refuses, too late for a status.
fn refusing(status: u16, content_type: &'static str) -> ScriptedUpstream {
    ScriptedUpstream::new()
        .late(AFTER + 20)
        .status(status)
        .content_type(content_type)
}

/// The message of the error event, the only event of the stream.
async fn error_event(response: TestResponse) -> String {
    let text = response.text().await;
    let data = text.strip_prefix("event: error\ndata: ").unwrap();
    let json: Value = serde_json::from_str(data.strip_suffix("\n\n").unwrap()).unwrap();
    json["error"]["message"].as_str().unwrap().to_owned()
}

#[tokio::test(start_paused = true)]
async fn response_in_time_passes_unchanged() {
    let upstream = |status| {
        ScriptedUpstream::new()
            .late(AFTER - 1)
            .status(status)
            .header("set-cookie", "a=b")
    };
    let refused = get(kept(), upstream(429).content_type("text/plain").send("no")).await;
    assert_eq!(refused.status(), 429);
    assert_eq!(refused.headers()["set-cookie"], "a=b");
    assert!(!refused.headers().contains_key("cache-control"));
    assert_eq!(refused.text().await, "no");

    let streamed = get(kept(), upstream(200).send("data: 1\n\n").trailers()).await;
    assert_eq!(streamed.headers()["set-cookie"], "a=b");
    assert_eq!(streamed.stream().age(), Duration::ZERO);
    assert_eq!(streamed.text_and_trailers().await.0, "data: 1\n\n");
}

#[tokio::test(start_paused = true)]
async fn body_in_time_keeps_its_size_hint() {
    let service = early().layer(service_fn(|_: Request<()>| async {
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from("four"))))
    }));
    let body = service.oneshot(request()).await.unwrap().into_body();
    assert_eq!(body.size_hint().exact(), Some(4));
    assert!(!body.is_end_stream());
}

#[tokio::test(start_paused = true)]
async fn late_stream_continues_an_early_answer() {
    let upstream = ScriptedUpstream::new()
        .late(30)
        .header("set-cookie", "a=b")
        .send("\u{feff}data: 1\n\nda")
        .send("ta: 2\n\n")
        .trailers();
    let start = tokio::time::Instant::now();
    let response = get(beating(), upstream).await;
    assert_eq!(start.elapsed(), Duration::from_secs(AFTER));
    assert_eq!(response.status(), 200);
    for (name, value) in [
        ("content-type", "text/event-stream"),
        ("cache-control", "no-cache, no-transform"),
        ("x-accel-buffering", "no"),
    ] {
        assert_eq!(response.headers()[name], value);
    }
    assert!(!response.headers().contains_key("set-cookie"));
    let stream = response.stream();
    assert_eq!(stream.state(), StreamState::Connecting);
    assert_eq!(stream.age(), Duration::from_secs(AFTER));

    let (text, trailers) = response.text_and_trailers().await;
    let events = text.trim_start_matches(": heartbeat\n");
    assert_eq!(events, "data: 1\n\ndata: 2\n\n");
    assert!(text.matches("heartbeat").count() >= 2, "{text}");
    assert!(trailers.contains_key("x-trailer"));
    assert_eq!(stream.end_reason(), Some(EndReason::UpstreamEnd));
    assert_eq!((stream.events(), stream.bytes()), (2, 21));
}

#[tokio::test(start_paused = true)]
async fn stream_is_open_once_the_upstream_has_responded() {
    let upstream = ScriptedUpstream::new().late(30).send("data: 1\n\n").hang();
    let mut response = get(kept(), upstream).await;
    let stream = response.stream();
    assert_eq!(stream.state(), StreamState::Connecting);
    assert_eq!(response.next().await.unwrap().unwrap(), "data: 1\n\n");
    assert_eq!(stream.state(), StreamState::Open);
}

#[tokio::test(start_paused = true)]
async fn early_works_without_other_layers() {
    let upstream = ScriptedUpstream::new().late(30).send("\u{feff}data: 1\n\n");
    let response = get(early(), upstream).await;
    assert_eq!(response.headers()["x-accel-buffering"], "no");
    assert!(!response.body().is_end_stream());
    assert_eq!(response.text().await, "\u{feff}data: 1\n\n");
}

#[tokio::test(start_paused = true)]
async fn late_stream_that_fails_breaks_off() {
    let upstream = ScriptedUpstream::new().late(30).send("data: 1\n\n").fail();
    let response = get(kept(), upstream).await;
    let stream = response.stream();
    let (text, end) = response.read().await;
    assert_eq!(text, "data: 1\n\n");
    assert!(end.unwrap_err().to_string().contains("died"));
    assert_eq!(stream.end_reason(), Some(EndReason::UpstreamError));
}

#[tokio::test(start_paused = true)]
async fn early_answer_requires_a_request_for_a_stream() {
    let plain = Request::get("/").header("accept", "*/*").body(()).unwrap();
    let mut head = request();
    *head.method_mut() = Method::HEAD;
    for (layer, request) in [
        (early(), plain),
        (early(), head),
        (early().enabled(false), request()),
    ] {
        let method = request.method().clone();
        let response = send_request(layer, request, refusing(500, "text/plain").send("no")).await;
        assert_eq!(response.status(), 500, "{method}");
        assert_eq!(response.text().await, "no");
    }
}

#[tokio::test(start_paused = true)]
async fn early_answer_waits_for_the_stream_flag_of_the_body() {
    let requested = StreamRequested::new();
    let mut request = Request::post("/").body(()).unwrap();
    request.extensions_mut().insert(requested.clone());
    let upstream = ScriptedUpstream::new()
        .late(100 * AFTER)
        .send("data: 1\n\n");
    let start = Instant::now();
    let answer = send_request(kept(), request, upstream);
    let known = async {
        tokio::time::sleep(Duration::from_secs(3 * AFTER + 1)).await;
        requested.set();
    };
    let (response, ()) = tokio::join!(answer, known);
    assert_eq!(start.elapsed().as_secs(), 4 * AFTER);
    assert_eq!(response.stream().state(), StreamState::Connecting);
    assert_eq!(response.text().await, "data: 1\n\n");
}

#[tokio::test(start_paused = true)]
async fn late_refusal_becomes_an_error_event_of_the_family() {
    let body = r#"{"error":{"message":"no model"}}"#;
    for (family, status_at, status) in [
        (Family::EventSource, "/error/status", Value::from(500)),
        (Family::OpenAi, "/error/code", Value::from(500)),
        (Family::Anthropic, "/error/type", Value::from("api_error")),
    ] {
        let upstream = refusing(500, "application/json").send(body);
        let response = send_request(kept(), of(family), upstream).await;
        assert_eq!(response.status(), 200);
        let stream = response.stream();
        let text = response.text().await;
        let (_, data) = text.split_once("data: ").unwrap();
        let json: Value = serde_json::from_str(data.strip_suffix("\n\n").unwrap()).unwrap();
        let message = format!("500 Internal Server Error: {body}");
        assert_eq!(json["error"]["message"], message, "{family:?}");
        assert_eq!(json.pointer(status_at), Some(&status), "{family:?}");
        assert_eq!(stream.end_reason(), Some(EndReason::UpstreamError));
        // The event is ours.
        assert_eq!((stream.events(), stream.bytes()), (0, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn late_refusal_fails_the_body_in_families_without_an_error_event() {
    for family in [Family::Mcp, Family::Raw] {
        let upstream = refusing(503, "text/plain").send("busy");
        let response = send_request(kept(), of(family), upstream).await;
        let stream = response.stream();
        let (text, end) = response.read().await;
        assert_eq!(text, "");
        let refused = StatusCode::SERVICE_UNAVAILABLE;
        assert!(matches!(end, Err(StreamError::Refused(status)) if status == refused));
        assert_eq!(stream.end_reason(), Some(EndReason::UpstreamError));
    }
}

#[tokio::test(start_paused = true)]
async fn text_of_a_late_refusal_is_bounded() {
    let part = "\u{e4}x".repeat(100);
    let long = refusing(502, "text/html").repeat(20, |upstream| upstream.send(&part).wait(0));
    let long = error_event(get(kept(), long).await).await;
    let text = long.strip_prefix("502 Bad Gateway: ").unwrap();
    // The bound cuts a character of two bytes.
    assert_eq!(text.len(), 4 * 1024 - 1);
    assert!(text.ends_with("\u{e4}x"));

    let gzip = refusing(500, "application/json").header("content-encoding", "gzip");
    for (upstream, expected) in [
        (refusing(500, "text/plain"), "500 Internal Server Error"),
        (refusing(529, "text/plain").send(" a\n"), "529: a"),
        (
            refusing(500, "image/png").send("x"),
            "500 Internal Server Error",
        ),
        (gzip.send("x"), "500 Internal Server Error"),
        (
            refusing(404, "text/event-stream").send("data: no\n\n"),
            "404 Not Found: data: no",
        ),
        (
            refusing(500, "text/plain").send("cut ").trailers().fail(),
            "500 Internal Server Error: cut",
        ),
        (
            refusing(200, "application/json").send("{}"),
            "200 OK, but no event stream: {}",
        ),
        (
            refusing(200, "text/event-stream").header("content-encoding", "br"),
            "200 OK, but a compressed event stream",
        ),
    ] {
        assert_eq!(error_event(get(kept(), upstream).await).await, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn slow_body_of_a_late_refusal_is_bounded_in_time() {
    let upstream = refusing(500, "text/plain").send("some").hang();
    let response = get(kept(), upstream).await;
    let stream = response.stream();
    let message = error_event(response).await;
    assert_eq!(message, "500 Internal Server Error: some");
    assert_eq!(stream.age(), Duration::from_secs(AFTER + 20 + 5));
}

#[tokio::test(start_paused = true)]
async fn late_204_ends_the_stream_properly() {
    let response = get(kept(), refusing(204, "text/plain")).await;
    let stream = response.stream();
    assert_eq!(response.text().await, "");
    assert_eq!(stream.end_reason(), Some(EndReason::UpstreamEnd));
}

#[tokio::test(start_paused = true)]
async fn late_service_error_is_a_502_without_its_text() {
    let failing = |request: Request<()>| async {
        let service = kept().layer(service_fn(|_: Request<()>| async {
            tokio::time::sleep(Duration::from_secs(30)).await;
            Err::<Response<Full<Bytes>>, _>(std::io::Error::other("secret"))
        }));
        service.oneshot(request).await
    };
    let body = failing(request()).await.unwrap().into_body();
    let text = body.collect().await.unwrap().to_bytes();
    let text = std::str::from_utf8(&text).unwrap();
    assert!(text.contains("502 Bad Gateway"), "{text}");
    assert!(!text.contains("secret"), "{text}");

    let body = failing(of(Family::Raw)).await.unwrap().into_body();
    let error = body.collect().await.unwrap_err();
    assert!(error.to_string().contains("secret"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn service_error_in_time_passes() {
    let service = kept().layer(service_fn(|_: Request<()>| async {
        Err::<Response<Full<Bytes>>, _>(std::io::Error::other("no"))
    }));
    assert!(service.oneshot(request()).await.is_err());
}

/// Never answers, and holds `held` meanwhile.
fn holding(
    held: &Arc<()>,
) -> impl Service<
    Request<()>,
    Response = Response<Full<Bytes>>,
    Error = Infallible,
    Future: Send + 'static,
> + Clone {
    let held = held.clone();
    service_fn(move |_: Request<()>| {
        let held = held.clone();
        async move {
            std::future::pending::<()>().await;
            drop(held);
            unreachable!()
        }
    })
}

#[tokio::test(start_paused = true)]
async fn client_that_disconnects_cancels_the_request() {
    let held = Arc::new(());
    let service = kept().layer(holding(&held));
    let before = Arc::strong_count(&held);
    let waits = tokio::time::timeout(Duration::from_secs(1), service.clone().oneshot(request()));
    assert!(waits.await.is_err());
    assert_eq!(Arc::strong_count(&held), before);

    let response = service.clone().oneshot(request()).await.unwrap();
    let stream = response.extensions().get::<Stream>().unwrap().clone();
    assert!(Arc::strong_count(&held) > before);
    drop(response);
    assert_eq!(Arc::strong_count(&held), before);
    assert_eq!(stream.end_reason(), Some(EndReason::ClientGone));
}

#[tokio::test(start_paused = true)]
async fn waiting_stream_can_be_ended() {
    let registry = StreamRegistry::new();
    let rotation = |max_age| {
        let layer = RotationLayer::new().retry(None).registry(&registry);
        layer.max_age(Duration::from_secs(max_age), 0.0)
    };
    let idle = IdleTimeoutLayer::new().retry(None);
    let idle = idle.timeout(Duration::from_secs(7));

    let held = Arc::new(());
    let service = rotation(40).layer(early().layer(holding(&held)));
    let before = Arc::strong_count(&held);
    let body = service.clone().oneshot(request()).await.unwrap();
    let stream = body.extensions().get::<Stream>().unwrap().clone();
    assert!(
        body.into_body()
            .collect()
            .await
            .unwrap()
            .to_bytes()
            .is_empty()
    );
    assert_eq!(stream.end_reason(), Some(EndReason::Rotated));
    assert_eq!(Arc::strong_count(&held), before);

    let body = service.clone().oneshot(request()).await.unwrap();
    let stream = body.extensions().get::<Stream>().unwrap().clone();
    registry.end(stream.id());
    assert!(
        body.into_body()
            .collect()
            .await
            .unwrap()
            .to_bytes()
            .is_empty()
    );
    assert_eq!(stream.end_reason(), Some(EndReason::Operator));
    assert_eq!(Arc::strong_count(&held), before);

    // Its clock runs from the answer on.
    let response = get(Stack::new(early(), idle), ScriptedUpstream::new().late(60)).await;
    let stream = response.stream();
    assert_eq!(response.text().await, "");
    assert_eq!(stream.end_reason(), Some(EndReason::UpstreamIdle));
    assert_eq!(stream.age(), Duration::from_secs(AFTER + 7));
}

#[tokio::test(start_paused = true)]
async fn layers_inside_get_the_early_record() {
    let seen: Arc<Mutex<Option<EarlyStream>>> = Arc::default();
    let sees = seen.clone();
    let service = kept().layer(service_fn(move |request: Request<()>| {
        *sees.lock().unwrap() = request.extensions().get::<EarlyStream>().cloned();
        std::future::pending::<Result<Response<Full<Bytes>>, Infallible>>()
    }));
    let response = service.oneshot(request()).await.unwrap();
    let EarlyStream(inside) = seen.lock().unwrap().take().unwrap();
    let outside = response.extensions().get::<Stream>().unwrap();
    assert_eq!(outside.id(), inside.id());
}

#[tokio::test(start_paused = true)]
async fn stream_after_an_early_answer_is_resumed() {
    let layers = Stack::new(ResumeLayer::new(), kept());
    let service = layers.layer(service_fn(|request: Request<Empty<Bytes>>| async move {
        let upstream = match request.headers().get("last-event-id") {
            None => ScriptedUpstream::new()
                .send("id: 1\ndata: a\n\nid: 2")
                .fail(),
            Some(_) => ScriptedUpstream::new().send("id: 2\ndata: b\n\n"),
        };
        tokio::time::sleep(Duration::from_secs(30)).await;
        Ok::<_, Infallible>(upstream.response())
    }));
    let response = service.oneshot(request().map(|()| Empty::new())).await;
    let response = TestResponse::new(response.unwrap());
    let stream = response.stream();
    assert_eq!(stream.state(), StreamState::Connecting);
    let text = response.text().await;
    assert_eq!(text, "id: 1\ndata: a\n\nid: 2\ndata: b\n\n");
    assert_eq!(stream.events(), 2);
    assert_eq!(stream.end_reason(), Some(EndReason::UpstreamEnd));
}
