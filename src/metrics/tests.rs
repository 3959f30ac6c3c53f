use super::*;
use crate::client_key::ClientKey;
use crate::connection_limit::ConnectionLimitLayer;
use crate::early::EarlyLayer;
use crate::guard::testing::{ScriptedUpstream, TestResponse, get, post, send_request};
use crate::heartbeat::{HeartbeatLayer, HeartbeatStyle};
use crate::rejection::RejectReason;
use crate::resume::ResumeOutcome;
use crate::stream::EndReason;
use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use std::time::Duration;
use tower_layer::Stack;

#[tokio::test(start_paused = true)]
async fn stream_counts_from_head_to_end() {
    let layer = MetricsLayer::new();
    let upstream = ScriptedUpstream::new()
        .send("data: 1\n\n: c\n\n")
        .wait(1)
        .send("data: 2\n\n");
    let response = get(layer.clone(), upstream).await;
    assert_eq!(layer.snapshot().active, 1);
    let _ = response.read().await;
    let snapshot = layer.snapshot();
    assert_eq!((snapshot.active, snapshot.opened), (0, 1));
    assert_eq!((snapshot.events, snapshot.bytes), (2, 23));
    assert_eq!(snapshot.ended(EndReason::UpstreamEnd), 1);
}

#[tokio::test(start_paused = true)]
async fn heartbeat_events_do_not_count_as_events_in_either_order() {
    let beat = || {
        HeartbeatLayer::new(Duration::from_secs(1)).style(HeartbeatStyle::event(
            &crate::event::Event::new("ping", "{}").unwrap(),
        ))
    };
    async fn check(layer: &MetricsLayer, response: TestResponse) {
        let _ = response.read().await;
        let snapshot = layer.snapshot();
        assert_eq!(
            (snapshot.events, snapshot.bytes, snapshot.heartbeats),
            (1, 9, 3)
        );
    }
    // The first at once, then one each second.
    let upstream = ScriptedUpstream::new().wait(3).send("data: 1\n\n").wait(1);
    let layer = MetricsLayer::new();
    check(
        &layer,
        get(Stack::new(beat(), layer.clone()), upstream.clone()).await,
    )
    .await;
    let layer = MetricsLayer::new();
    check(
        &layer,
        get(Stack::new(layer.clone(), beat()), upstream).await,
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn metrics_alone_leave_head_and_chunks_unchanged() {
    let upstream = ScriptedUpstream::new()
        .header("content-length", "18")
        .send("data: 1\n")
        .wait(1)
        .send("\n");
    let mut response = get(MetricsLayer::new(), upstream).await;
    assert_eq!(response.headers()["content-length"], "18");
    assert!(!response.headers().contains_key("cache-control"));
    assert_eq!(response.next().await.unwrap().unwrap(), "data: 1\n");
}

#[tokio::test(start_paused = true)]
async fn body_of_known_length_ends_as_upstream_end_when_dropped_after_its_last_byte() {
    let layer = MetricsLayer::new();
    let upstream = tower::service_fn(|_: http::Request<()>| async {
        let body = http_body_util::Full::new(bytes::Bytes::from("data: 1\n\n"));
        let mut response = http::Response::new(body);
        let stream = http::HeaderValue::from_static("text/event-stream");
        response.headers_mut().insert("content-type", stream);
        Ok::<_, std::convert::Infallible>(response)
    });
    let service = tower_layer::Layer::layer(&layer, upstream);
    let response = tower::ServiceExt::oneshot(service, http::Request::new(())).await;
    let mut body = Box::pin(response.unwrap().into_body());
    assert!(http_body_util::BodyExt::frame(&mut body).await.is_some());
    drop(body);
    assert_eq!(layer.snapshot().ended(EndReason::UpstreamEnd), 1);
}

#[tokio::test(start_paused = true)]
async fn request_without_a_stream_counts_by_its_outcome() {
    let layer = MetricsLayer::new();
    let limit = ConnectionLimitLayer::new().total(0);
    let stack = Stack::new(limit, layer.clone());
    assert_eq!(get(stack, ScriptedUpstream::new()).await.status(), 503);
    get(
        layer.clone(),
        ScriptedUpstream::new().content_type("text/html"),
    )
    .await;
    post(
        layer.clone(),
        ScriptedUpstream::new().content_type("text/html"),
    )
    .await;
    for status in [404, 499, 500, 502, 599] {
        get(layer.clone(), ScriptedUpstream::new().status(status)).await;
    }
    // The request did not accept a stream.
    post(layer.clone(), ScriptedUpstream::new().status(500)).await;
    let count = |outcome: Outcome| layer.route_metrics.outcomes[outcome as usize].load(Relaxed);
    assert_eq!(Outcome::ALL.map(count), [0, 0, 3, 1, 3, 0]);
    let snapshot = layer.snapshot();
    assert_eq!((snapshot.rejected, snapshot.failed), (1, 3));
}

#[tokio::test(start_paused = true)]
async fn opaque_stream_counts_from_head_to_end_without_events() {
    for (status, coding) in [(200, "gzip"), (206, "none")] {
        let layer = MetricsLayer::new();
        let upstream = ScriptedUpstream::new()
            .status(status)
            .header("content-encoding", coding)
            .send("data: 1\n\n")
            .wait(1)
            .send("da");
        let response = post(layer.clone(), upstream).await;
        let stream = response.stream();
        assert!(stream.is_opaque());
        assert_eq!(layer.snapshot().active, 1);
        assert_eq!(response.text().await, "data: 1\n\nda");
        let snapshot = layer.snapshot();
        assert_eq!((snapshot.active, snapshot.opened), (0, 0));
        assert_eq!((snapshot.events, snapshot.bytes), (0, 11));
        assert_eq!(snapshot.ended(EndReason::UpstreamEnd), 1);
        let outcomes = Outcome::ALL.map(|o| layer.route_metrics.outcomes[o as usize].load(Relaxed));
        assert_eq!(outcomes, [0, 1, 0, 0, 0, 0]);
    }
}

#[tokio::test(start_paused = true)]
async fn stream_of_a_returning_client_is_a_reconnect() {
    let layer = MetricsLayer::new();
    let send_with_id = |id: Option<&str>, upstream| {
        let mut request = http::Request::new(());
        if let Some(id) = id {
            let id = id.parse().unwrap();
            request.headers_mut().insert("last-event-id", id);
        }
        send_request(layer.clone(), request, upstream)
    };
    send_with_id(None, ScriptedUpstream::new()).await;
    send_with_id(Some("7"), ScriptedUpstream::new().content_type("text/html")).await;
    send_with_id(Some("7"), ScriptedUpstream::new().status(503)).await;
    assert_eq!(layer.snapshot().reconnects, 0);
    send_with_id(Some("7"), ScriptedUpstream::new()).await;
    assert_eq!(layer.snapshot().reconnects, 1);
}

#[tokio::test(start_paused = true)]
async fn upstream_ends_record_the_age_of_reconnecting_families() {
    let layer = MetricsLayer::new();
    let ends = || {
        let ends = layer.snapshot().upstream_ends;
        (ends.below(Duration::from_secs(10)), ends.count())
    };
    let idle = || crate::idle_timeout::IdleTimeoutLayer::new().timeout(Duration::from_secs(6));
    let ended = ScriptedUpstream::new().send("data: 1\n\n").wait(6);
    let _ = get(layer.clone(), ended.clone()).await.read().await;
    assert_eq!(ends(), (1, 1));
    let _ = get(layer.clone(), ended.clone().wait(60).fail())
        .await
        .read()
        .await;
    assert_eq!(ends(), (1, 2));
    let silent = Stack::new(idle(), layer.clone());
    let _ = get(silent, ScriptedUpstream::new().hang())
        .await
        .read()
        .await;
    assert_eq!(ends(), (2, 3));

    // A complete answer in pieces.
    let _ = post(layer.clone(), ended.clone()).await.read().await;
    // A client that disconnected.
    drop(get(layer.clone(), ended).await);
    assert_eq!(ends(), (2, 3));
}

#[test]
fn describe_metrics_registers_rare_counters_at_zero() {
    let recorder = DebuggingRecorder::new();
    let seen = recorder.snapshotter();
    ::metrics::with_local_recorder(&recorder, crate::describe_metrics);
    let mut there = Vec::new();
    for (key, _, _, value) in seen.snapshot().into_vec() {
        let is_zero = value == DebugValue::Counter(0) || value == DebugValue::Gauge(0.0.into());
        assert!(is_zero, "{key:?}");
        let label = key.key().labels().next().map(|label| label.value());
        there.push((key.key().name().to_owned(), label.map(str::to_owned)));
    }
    let of = |name: &str, label: Option<&str>| (name.to_owned(), label.map(str::to_owned));
    let mut all = vec![
        of("sse_guard_early_answers_total", None),
        of("sse_guard_duplicate_events_dropped_total", None),
        of("sse_guard_unavailable_total", Some("retry_later")),
        of("sse_guard_unavailable_total", Some("wait")),
        of("sse_guard_upstream_replacements_total", None),
    ];
    let rejections = RejectReason::ALL
        .iter()
        .map(|reason| of("sse_guard_rejections_total", Some(reason.as_str())));
    let resumes = ResumeOutcome::ALL
        .iter()
        .map(|outcome| of("sse_guard_resumes_total", Some(outcome.as_str())));
    let waiting = ["connecting", "resuming", "degraded"]
        .map(|state| of("sse_guard_streams_waiting", Some(state)));
    all.extend(rejections);
    all.extend(resumes.chain(waiting));
    let truncated =
        ["openai", "anthropic"].map(|family| of("sse_guard_truncated_total", Some(family)));
    all.extend(truncated);
    all.extend(
        Unguarded::ALL
            .iter()
            .map(|reason| of("sse_guard_unguarded_total", Some(reason.as_str()))),
    );
    all.sort();
    there.sort();
    assert_eq!(there, all);
}

#[test]
fn facade_gets_the_metrics_of_the_table() {
    let recorder = DebuggingRecorder::new();
    let seen = recorder.snapshotter();
    ::metrics::with_local_recorder(&recorder, || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let beat = HeartbeatLayer::new(Duration::from_secs(1));
            let layer = Stack::new(beat, MetricsLayer::new().route("/r"));
            let upstream = ScriptedUpstream::new()
                .wait(2)
                .send("data: 1\n\n")
                .wait(1)
                .send("data: 2\n\n");
            let request = http::Request::get("/").header("accept", "text/event-stream");
            let request = request.header("last-event-id", "7").body(()).unwrap();
            let _ = send_request(layer, request, upstream).await.read().await;
            let limit = ConnectionLimitLayer::new().total(0);
            get(limit, ScriptedUpstream::new()).await;
            get(
                EarlyLayer::new(Duration::ZERO),
                ScriptedUpstream::new().late(1),
            )
            .await;
        });
    });
    let values: std::collections::BTreeMap<String, DebugValue> = seen
        .snapshot()
        .into_vec()
        .into_iter()
        .filter(|(_, _, _, value)| !matches!(value, DebugValue::Counter(0)))
        .map(|(key, _, _, value)| (key.key().name().to_owned(), value))
        .collect();
    assert_eq!(values["sse_guard_streams_total"], DebugValue::Counter(1));
    assert_eq!(values["sse_guard_reconnects_total"], DebugValue::Counter(1));
    assert_eq!(values["sse_guard_events_total"], DebugValue::Counter(2));
    assert_eq!(values["sse_guard_bytes_total"], DebugValue::Counter(18));
    assert_eq!(values["sse_guard_ends_total"], DebugValue::Counter(1));
    assert_eq!(values["sse_guard_rejections_total"], DebugValue::Counter(1));
    assert_eq!(
        values["sse_guard_early_answers_total"],
        DebugValue::Counter(1)
    );
    assert!(matches!(
        values["sse_guard_heartbeats_total"],
        DebugValue::Counter(1..)
    ));
    assert_eq!(
        values["sse_guard_streams_active"],
        DebugValue::Gauge(0.0.into())
    );
    for (name, secs) in [
        ("sse_guard_stream_duration_seconds", 3.0),
        ("sse_guard_time_to_first_event_seconds", 2.0),
        ("sse_guard_event_gap_seconds", 1.0),
    ] {
        let DebugValue::Histogram(values) = &values[name] else {
            panic!("{name} is no histogram");
        };
        assert!(
            values.len() == 1 && (values[0].0 - secs).abs() < 0.1,
            "{name}: {values:?}"
        );
    }
}

#[tokio::test]
async fn failures_of_one_client_are_distinguished_from_those_of_several() {
    let layer = MetricsLayer::new();
    let failed = async |client: Option<[u8; 4]>| {
        let mut request = http::Request::get("/").header("accept", "text/event-stream");
        if let Some(client) = client {
            request = request.extension(ClientKey::Ip(client.into()));
        }
        let upstream = ScriptedUpstream::new()
            .content_type("text/plain")
            .status(500);
        drop(send_request(layer.clone(), request.body(()).unwrap(), upstream).await);
        layer.snapshot().failed_others
    };
    let (one, other) = (Some([192, 0, 2, 1]), Some([192, 0, 2, 2]));
    for _ in 0..5 {
        assert_eq!(failed(one).await, 1);
    }
    assert_eq!(failed(other).await, 2);
    assert_eq!(failed(one).await, 3);
    // Without an identified client, each counts as another.
    assert_eq!(failed(None).await, 4);
    assert_eq!(failed(None).await, 5);
    assert_eq!(layer.snapshot().failed, 9);
}
