//! Loss and continuation of a stream, and its end.

use super::*;
use metrics_util::debugging::{DebugValue, DebuggingRecorder};

#[tokio::test(start_paused = true)]
async fn broken_stream_continues_after_the_last_complete_event() {
    let upstreams = Upstreams::new([
        sends(1..=3).send("id: 4\ndata: ha").fail(),
        sends(4..=5).fail(),
        sends(6..=6),
    ]);
    let client = open(ResumeLayer::new(), &upstreams).await;
    let stream = client.stream();
    assert_eq!(events(&client.text().await), numbered(1..=6));
    let ids = upstreams.ids();
    assert_eq!(ids, [None, Some("3".into()), Some("5".into())]);
    assert_eq!(stream.end_reason(), Some(EndReason::UpstreamEnd));
    assert_eq!((stream.events(), stream.dropped_bytes()), (6, 14));
}

#[tokio::test(start_paused = true)]
async fn client_gets_heartbeats_during_an_outage() {
    let limited = || {
        ScriptedUpstream::new()
            .status(503)
            .header("retry-after", "60")
    };
    let upstreams = Upstreams::new([sends(1..=1).fail(), limited(), sends(2..=2)]);
    let mut client = open(ResumeLayer::new(), &upstreams).await;
    let stream = client.stream();
    assert_eq!(client.next().await.unwrap().unwrap(), numbered(1..=1));
    assert_eq!(stream.state(), StreamState::Open);
    assert_eq!(client.next().await.unwrap().unwrap(), ": heartbeat\n");
    assert_eq!(stream.state(), StreamState::Resuming);
    let mut text = String::new();
    while !text.ends_with(&numbered(2..=2)) {
        text.push_str(&client.next().await.unwrap().unwrap());
    }
    assert!(text.matches(": heartbeat\n").count() >= 3, "{text}");
    assert_eq!(events(&text), numbered(2..=2));
    assert_eq!(stream.state(), StreamState::Open);
    assert_eq!(client.text().await, "");
    assert_eq!(stream.state(), StreamState::Closed);
}

#[tokio::test(start_paused = true)]
async fn proper_end_is_resumed_only_with_on_end() {
    let script = || {
        [
            sends(1..=1),
            sends(2..=2),
            ScriptedUpstream::new().status(204),
        ]
    };
    let upstreams = Upstreams::new(script());
    let client = open(ResumeLayer::new(), &upstreams).await;
    assert_eq!(client.text().await, numbered(1..=1));
    let upstreams = Upstreams::new(script());
    let client = open(ResumeLayer::new().on_end(true), &upstreams).await;
    assert_eq!(events(&client.text().await), numbered(1..=2));
    assert_eq!(upstreams.ids().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn refused_stream_ends_with_an_error_event() {
    let upstreams = Upstreams::new([sends(1..=1).fail(), ScriptedUpstream::new().status(403)]);
    let client = open(ResumeLayer::new(), &upstreams).await;
    let stream = client.stream();
    let text = events(&client.text().await);
    let (event, last) = text.split_at(numbered(1..=1).len());
    assert_eq!(event, numbered(1..=1));
    assert!(last.starts_with("event: error\ndata: {"), "{last}");
    assert!(last.contains("403") && last.ends_with("\n\n"), "{last}");
    assert_eq!(stream.end_reason(), Some(EndReason::UpstreamError));
}

#[tokio::test(start_paused = true)]
async fn body_reports_its_end_stream() {
    for (last, is_clean) in [
        (ScriptedUpstream::new(), true),
        (ScriptedUpstream::new().trailers(), true),
        (ScriptedUpstream::new().fail(), false),
    ] {
        let service = ResumeLayer::new().attempts(0).layer(Upstreams::new([last]));
        let mut body = service.oneshot(get()).await.unwrap().into_body();
        assert!(!body.is_end_stream());
        let mut is_ok = true;
        while let Some(frame) = body.frame().await {
            is_ok &= frame.is_ok();
        }
        assert_eq!(is_ok, is_clean);
        assert!(body.is_end_stream());
        assert!(body.frame().await.is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn body_ends_once_with_its_trailers_or_its_error() {
    let guard = SseGuardLayer::new;
    for layer in [
        ResumeLayer::new(),
        ResumeLayer::new().lossy(true).attempts(1),
    ] {
        let upstreams = Upstreams::new([sends(1..=1).fail(), sends(2..=2).trailers()]);
        let client = open(layer.clone(), &upstreams).await;
        let (text, trailers) = client.text_and_trailers().await;
        assert_eq!(events(&text), numbered(1..=2));
        assert_eq!(trailers["x-trailer"], "1");
        let upstreams = Upstreams::new([sends(1..=1).fail()]);
        let service = guard().layer(layer.attempts(1).layer(upstreams.clone()));
        let mut client = TestResponse::new(service.oneshot(get()).await.unwrap());
        assert!(client.next().await.unwrap().is_ok());
        assert!(!client.body().is_end_stream());
        assert!(client.next().await.unwrap().is_err());
        assert!(client.next().await.is_none());
        assert!(client.next().await.is_none());
        assert!(client.body().is_end_stream());
    }
}

#[tokio::test(start_paused = true)]
async fn byte_order_mark_of_a_new_connection_is_dropped() {
    let upstreams = Upstreams::new([
        sends(1..=1).fail(),
        ScriptedUpstream::new().send(&format!("\u{feff}{}", numbered(2..=2))),
    ]);
    let text = open(ResumeLayer::new(), &upstreams).await.text().await;
    assert_eq!(events(&text), numbered(1..=2));
}

#[tokio::test(start_paused = true)]
async fn other_requests_and_responses_pass() {
    let layer = ResumeLayer::new;
    let mut post = get();
    *post.method_mut() = http::Method::POST;
    for (layer, request) in [(layer(), post), (layer().enabled(false), get())] {
        let upstreams = Upstreams::new([sends(1..=1).fail(), sends(2..=2)]);
        let (text, end) = open_with(layer, &upstreams, request).await.read().await;
        assert_eq!((text, end.is_err()), (numbered(1..=1), true));
    }
    let upstreams = Upstreams::new([ScriptedUpstream::new().status(404).send("no").fail()]);
    let client = open(layer(), &upstreams).await;
    assert_eq!(client.status(), 404);
    let (text, end) = client.read().await;
    assert_eq!((text.as_str(), end.is_err()), ("no", true));
}

#[tokio::test(start_paused = true)]
async fn reconnect_request_differs_only_in_its_id() {
    #[derive(Clone, PartialEq, Debug)]
    struct Extension(u32);
    let requests = Arc::new(Mutex::new(Vec::new()));
    let upstream = {
        let requests = requests.clone();
        tower::service_fn(move |request: TestRequest| {
            let (head, _) = request.into_parts();
            let is_first = requests.lock().unwrap().is_empty();
            requests.lock().unwrap().push(head);
            let script = if is_first {
                sends(1..=1).fail()
            } else {
                sends(2..=2)
            };
            std::future::ready(Ok::<_, io::Error>(script.response()))
        })
    };
    let mut request = Request::get("/events?x=1").version(http::Version::HTTP_11);
    for (name, value) in [
        ("accept", "text/event-stream"),
        ("x-a", "1"),
        ("x-a", "2"),
        ("last-event-id", "0"),
    ] {
        request = request.header(name, value);
    }
    let request = request.extension(Extension(7)).body(Empty::new()).unwrap();
    let service = ResumeLayer::new().layer(upstream);
    let body = service.oneshot(request).await.unwrap().into_body();
    body.collect().await.unwrap();
    let mut requests = requests.lock().unwrap();
    let (again, mut first) = (requests.pop().unwrap(), requests.pop().unwrap());
    first.headers.insert(LAST_EVENT_ID, "1".parse().unwrap());
    assert_eq!((&again.method, &again.uri), (&first.method, &first.uri));
    assert_eq!(
        (&again.version, &again.headers),
        (&first.version, &first.headers)
    );
    assert_eq!(again.extensions.get(), Some(&Extension(7)));
}

#[tokio::test(start_paused = true)]
async fn client_that_disconnects_stops_its_reconnects() {
    let upstreams = Upstreams::new([sends(1..=1).fail()]);
    let mut client = open(ResumeLayer::new(), &upstreams).await;
    assert!(client.next().await.unwrap().is_ok());
    assert_eq!(client.next().await.unwrap().unwrap(), ": heartbeat\n");
    drop(client);
    let requests = upstreams.ids().len();
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(upstreams.ids().len(), requests);
}

#[tokio::test(start_paused = true)]
async fn client_that_does_not_read_does_not_block_the_queue() {
    let upstreams = Upstreams::new([
        sends(1..=1).fail(),
        sends(1..=1).fail(),
        sends(2..=2).hang(),
        sends(2..=2),
    ]);
    let queue = Admission::new(Duration::from_secs(60), 1);
    drop(queue.turn().await);
    let layer = ResumeLayer::new().admission(&queue);
    let mut stalled = open(layer.clone(), &upstreams).await;
    assert_eq!(stalled.next().await.unwrap().unwrap(), numbered(1..=1));
    // It loses its upstream, is the first in the queue, and is not polled again.
    assert_eq!(stalled.next().await.unwrap().unwrap(), ": heartbeat\n");
    let client = open(layer, &upstreams).await;
    let read = tokio::time::timeout(Duration::from_secs(200), client.text());
    assert_eq!(events(&read.await.unwrap()), numbered(1..=2));
    assert_eq!(stalled.next().await.unwrap().unwrap(), numbered(2..=2));
}

#[tokio::test(start_paused = true)]
async fn outcomes_of_losses_are_counted() {
    let recorder = DebuggingRecorder::new();
    let local = metrics::set_default_local_recorder(&recorder);
    let resumed = || [sends(1..=3).fail(), sends(2..=4).fail()];
    let refuses = ScriptedUpstream::new().status(404);
    let is_over = ScriptedUpstream::new().status(204);
    for last in [Some(refuses), Some(is_over), None] {
        let upstreams = Upstreams::new(resumed().into_iter().chain(last));
        open(ResumeLayer::new(), &upstreams)
            .await
            .read()
            .await
            .1
            .ok();
    }
    drop(local);
    let mut counts = Vec::new();
    for (key, _, _, value) in recorder.snapshotter().snapshot().into_vec() {
        let label = key
            .key()
            .labels()
            .next()
            .map(|label| label.value().to_owned());
        match (key.key().name(), value) {
            ("sse_guard_resumes_total", DebugValue::Counter(n)) => counts.push((label, n)),
            ("sse_guard_duplicate_events_dropped_total", DebugValue::Counter(n)) => {
                counts.push((None, n));
            }
            ("sse_guard_resume_seconds", DebugValue::Histogram(times)) => {
                assert_eq!(times.len(), 3);
                assert!(times.iter().all(|time| time.0 <= 1.1), "{times:?}");
            }
            _ => {}
        }
    }
    counts.sort();
    let count = |outcome: ResumeOutcome, n| (Some(outcome.as_str().to_owned()), n);
    let expected = [
        (None, 6),
        count(ResumeOutcome::GaveUp, 1),
        count(ResumeOutcome::Over, 1),
        count(ResumeOutcome::Refused, 1),
        count(ResumeOutcome::Resumed, 3),
    ];
    assert_eq!(counts, expected);
}
