use super::*;
use crate::client_key::PeerAddr;
use crate::connection_limit::DEFAULT_PER_CLIENT;
use crate::guard::StreamError;
use crate::guard::testing::{ScriptedBody, ScriptedUpstream, TestResponse, get, send_request};
use crate::stream::EndReason;
use bytes::Bytes;
use http::{Method, Response};
use http_body::Body;
use http_body_util::Empty;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;
use tower::util::BoxCloneService;
use tower::{Service, ServiceExt, service_fn};

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

#[tokio::test]
async fn cache_control_is_replaced_or_kept() {
    let (keep, replace) = (CacheControl::Keep, CacheControl::Replace);
    let stack = SseGuardLayer::new;
    let beats = HeartbeatLayer::default;
    let cached = || ScriptedUpstream::new().header("cache-control", "max-age=9");
    let (kept, replaced) = ("max-age=9, no-transform", "no-cache, no-transform");
    for method in [Method::GET, Method::POST, Method::HEAD] {
        let request = || Request::builder().method(&method).body(()).unwrap();
        let request_with = |cache_control: CacheControl| {
            let mut request = request();
            request.extensions_mut().insert(cache_control);
            request
        };
        let kept_by = stack().cache_control(keep);
        for (response, expected) in [
            (send_request(stack(), request(), cached()).await, replaced),
            (
                send_request(kept_by.clone(), request(), cached()).await,
                kept,
            ),
            (
                send_request(kept_by.clone(), request(), ScriptedUpstream::new()).await,
                replaced,
            ),
            // What is nearer to the service counts.
            (
                send_request(kept_by.clone(), request_with(replace), cached()).await,
                kept,
            ),
            (
                send_request(stack(), request_with(keep), cached()).await,
                kept,
            ),
            (
                send_request(stack(), request(), cached().extension(keep)).await,
                kept,
            ),
            (
                send_request(kept_by.clone(), request(), cached().extension(replace)).await,
                replaced,
            ),
            // Other layers of the crate.
            (
                send_request(beats(), request_with(keep), cached()).await,
                kept,
            ),
            (
                send_request((kept_by.clone(), beats()), request(), cached()).await,
                kept,
            ),
            (
                send_request((beats(), kept_by.clone()), request(), cached()).await,
                kept,
            ),
        ] {
            assert_eq!(response.headers()["cache-control"], expected, "{method}");
            assert_eq!(response.headers()["x-accel-buffering"], "no");
        }
        let plain = cached().content_type("text/plain");
        let response = send_request(kept_by, request(), plain).await;
        assert_eq!(response.headers()["cache-control"], "max-age=9");
    }
}

#[tokio::test(start_paused = true)]
async fn five_layers_share_one_body() {
    let (metrics, limit) = (MetricsLayer::new(), ConnectionLimitLayer::new().total(1));
    let stack = SseGuardLayer::new()
        .metrics(metrics.clone())
        .limit(limit.clone())
        .rotation(RotationLayer::new().max_age(secs(100), 0.0).retry(None))
        .heartbeat(HeartbeatLayer::new(secs(10)))
        .idle_timeout(IdleTimeoutLayer::new().timeout(secs(35)).retry(None));

    let upstream = ScriptedUpstream::new().send("data: 1\n\n").hang();
    let response = get(stack.clone(), upstream).await;
    let stream = response.stream();
    assert_eq!(
        get(stack.clone(), ScriptedUpstream::new()).await.status(),
        503
    );
    let beats = ": heartbeat\n".repeat(3);
    assert_eq!(response.text().await, format!("data: 1\n\n{beats}"));
    assert_eq!(stream.end_reason(), Some(EndReason::UpstreamIdle));
    assert_eq!((limit.active(), metrics.snapshot().active), (0, 0));

    let upstream =
        ScriptedUpstream::new().repeat(9, |upstream| upstream.wait(30).send("data: 1\n\n"));
    let response = get(stack, upstream).await;
    let stream = response.stream();
    response.read().await.1.unwrap();
    assert_eq!(stream.end_reason(), Some(EndReason::Rotated));
    assert_eq!(metrics.snapshot().ended(EndReason::Rotated), 1);
    assert_eq!(metrics.snapshot().rejected, 1);
}

#[tokio::test]
async fn limits_are_off_until_a_client_key_is_named() {
    let request = || {
        let peer = PeerAddr::from(SocketAddr::from(([192, 0, 2, 1], 5000)));
        let request = Request::get("/").header("accept", "text/event-stream");
        request.extension(peer).body(()).unwrap()
    };
    let off = SseGuardLayer::new();
    let named = off.clone().limit(ConnectionLimitLayer::new());
    for (stack, expected) in [(off, 200), (named, 429)] {
        let mut open = Vec::new();
        for _ in 0..DEFAULT_PER_CLIENT {
            open.push(send_request(stack.clone(), request(), ScriptedUpstream::new().hang()).await);
        }
        assert!(open.iter().all(|response| response.status() == 200));
        let next = send_request(stack, request(), ScriptedUpstream::new().hang()).await;
        assert_eq!(next.status(), expected);
    }
}

type EmptyRequest = Request<Empty<Bytes>>;
type SlowUpstream = BoxCloneService<EmptyRequest, Response<ScriptedBody>, Infallible>;

/// What a client gets whose upstream takes 20 s for each response, breaks off after an event, responds
/// 503 to the first reconnect, and sends the next event to the second.
async fn through_slow_upstream<L, B>(layer: L) -> String
where
    L: Layer<SlowUpstream>,
    L::Service: Service<EmptyRequest, Response = Response<B>, Error = Infallible>,
    B: Body<Data = Bytes, Error = StreamError> + Send + 'static,
{
    let calls = Arc::new(AtomicUsize::new(0));
    let upstream = service_fn(move |_: EmptyRequest| {
        let upstream = ScriptedUpstream::new().late(20);
        let upstream = match calls.fetch_add(1, Relaxed) {
            0 => upstream.send("id: 1\ndata: 1\n\n").fail(),
            1 => upstream.status(503),
            _ => upstream.send("id: 2\ndata: 2\n\n"),
        };
        async { Ok(upstream.answer().await) }
    });
    let request = Request::get("/").header("accept", "text/event-stream");
    let request = request.body(Empty::new()).unwrap();
    let service = layer.layer(BoxCloneService::new(upstream));
    TestResponse::new(service.oneshot(request).await.unwrap())
        .text()
        .await
}

#[tokio::test(start_paused = true)]
async fn early_and_resume_have_fixed_places_in_the_stack() {
    let stack = || SseGuardLayer::new().heartbeat(HeartbeatLayer::new(secs(4)));
    let (early, resume) = (|| EarlyLayer::new(secs(10)), ResumeLayer::new);
    let one = stack().early(early()).resume(resume());
    let other = stack().resume(resume()).early(early());
    for text in [
        through_slow_upstream(one).await,
        through_slow_upstream(other).await,
    ] {
        // Heartbeats are outside of the early response: after 10, 14 and 18 s.
        let (wait, events) = text.split_at(text.find("id: 1").unwrap());
        assert_eq!(wait, ": heartbeat\n".repeat(3));
        // Resume is inside: an early response to the first reconnect would have been a success, and its
        // 503 an error event.
        let lines = events.split_inclusive('\n');
        let events: String = lines.filter(|line| !line.starts_with(':')).collect();
        assert_eq!(events, "id: 1\ndata: 1\n\nid: 2\ndata: 2\n\n");
    }
}

#[tokio::test(start_paused = true)]
async fn early_and_resume_are_off_if_none() {
    let upstream = || ScriptedUpstream::new().late(20).send("data: 1\n\n");
    let stack = SseGuardLayer::new().heartbeat(HeartbeatLayer::new(secs(4)));
    let text = get(stack.clone().early(None), upstream())
        .await
        .text()
        .await;
    assert_eq!(text, "data: 1\n\n");
    let text = get(stack.early(EarlyLayer::new(secs(10))), upstream()).await;
    assert_eq!(
        text.text().await,
        format!("{}data: 1\n\n", ": heartbeat\n".repeat(3))
    );
}

#[tokio::test(start_paused = true)]
async fn registry_lists_and_drains_streams_without_rotation() {
    let registry = StreamRegistry::new();
    let stack = SseGuardLayer::new().registry(&registry);
    let response = get(stack.clone(), ScriptedUpstream::new().hang()).await;
    let stream = response.stream();
    assert_eq!(registry.streams()[0].id(), stream.id());
    registry.drain(secs(10));
    assert!(response.text().await.contains("retry: "));
    assert_eq!(stream.end_reason(), Some(EndReason::Drained));
    assert_eq!(registry.live(), 0);
    let rejected = get(stack, ScriptedUpstream::new().hang()).await;
    assert!(rejected.text().await.starts_with("retry: "));
}

#[tokio::test(start_paused = true)]
async fn stack_with_all_layers_off_passes_events() {
    let stack = SseGuardLayer::new()
        .metrics(None)
        .limit(None::<ConnectionLimitLayer>)
        .rotation(None)
        .heartbeat(None);
    let upstream = ScriptedUpstream::new()
        .send("data: 1\n\n")
        .wait(60)
        .send("data: 2\n\n");
    assert_eq!(
        get(stack, upstream).await.text().await,
        "data: 1\n\ndata: 2\n\n"
    );
}
