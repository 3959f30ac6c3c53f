use super::*;
use crate::SseGuardLayer;
use crate::connection_limit::ConnectionLimitLayer;
use crate::guard::testing::{ScriptedUpstream, get, send_request};
use crate::rotation::RotationLayer;
use crate::stream_requested::StreamRequested;
use http::{Method, Request};

const WINDOW: Duration = Duration::from_secs(10);

fn draining() -> (StreamRegistry, RotationLayer) {
    let registry = StreamRegistry::new();
    registry.drain(WINDOW);
    (registry.clone(), RotationLayer::new().registry(&registry))
}

fn request(method: Method, fields: &[(&str, &str)]) -> Request<()> {
    let request = Request::builder().method(method);
    let request = fields.iter().fold(request, |request, (name, value)| {
        request.header(*name, *value)
    });
    request.body(()).unwrap()
}

fn millis(text: &str) -> u128 {
    let millis = text.trim_end().rsplit("retry: ").next().unwrap();
    millis.parse().unwrap()
}

#[tokio::test(start_paused = true)]
async fn stream_opened_during_a_drain_ends_within_its_window() {
    let (_, layer) = draining();
    let ticking =
        ScriptedUpstream::new().repeat(100, |upstream| upstream.send("data: 1\n\n").wait(1));
    // Its head does not show that it opens a stream.
    let response = send_request(layer, request(Method::GET, &[]), ticking).await;
    let stream = response.stream();
    let _ = response.read().await;
    assert_eq!(stream.end_reason(), Some(EndReason::Drained));
    assert!(stream.age() <= Duration::from_secs(11));
}

#[tokio::test(start_paused = true)]
async fn draining_event_source_gets_an_empty_stream_with_a_retry_beyond_the_window() {
    let mut retries = std::collections::BTreeSet::new();
    let (_, layer) = draining();
    for second in 0..12 {
        let left = WINDOW
            .saturating_sub(Duration::from_secs(second))
            .as_millis();
        let response = get(layer.clone(), ScriptedUpstream::new().send("data: 1\n\n")).await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let text = response.text().await;
        let retry = millis(&text);
        assert!(text.starts_with("retry: ") && retry > left, "{text}");
        assert!(retry <= left + 3_000 + 5_000, "{text}");
        retries.insert(retry);
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    assert!(retries.len() > 6, "{retries:?}");
}

#[tokio::test(start_paused = true)]
async fn drained_stream_gets_a_retry_beyond_the_window() {
    let registry = StreamRegistry::new();
    let layer = RotationLayer::new().registry(&registry);
    let start = Instant::now();
    let response = get(layer, ScriptedUpstream::new().hang()).await;
    registry.drain(WINDOW);
    let text = response.text().await;
    let back = start.elapsed().as_millis() + millis(&text);
    assert!(back > WINDOW.as_millis(), "{text}");
}

#[tokio::test(start_paused = true)]
async fn draining_response_depends_on_the_request_head() {
    const STREAM: (&str, &str) = ("accept", "text/event-stream");
    const BOTH: (&str, &str) = ("accept", "application/json, text/event-stream");
    const OPENAI: (&str, &str) = ("user-agent", "OpenAI/Python 1.0");
    const ANTHROPIC: (&str, &str) = ("anthropic-version", "2023-06-01");
    const MCP: (&str, &str) = ("mcp-session-id", "1");
    let (served, empty, refused) = (204, 200, 503);
    for (method, fields, expected) in [
        (Method::GET, &[STREAM][..], empty),
        (Method::GET, &[STREAM, MCP], empty),
        (Method::GET, &[STREAM, OPENAI], refused),
        (Method::GET, &[("accept", "*/*")], served),
        (Method::GET, &[OPENAI], served),
        (Method::POST, &[STREAM], refused),
        (Method::POST, &[BOTH], refused),
        (Method::POST, &[OPENAI], refused),
        (Method::POST, &[ANTHROPIC], refused),
        (Method::POST, &[("accept", "application/json")], served),
        (Method::PUT, &[STREAM], refused),
        (Method::HEAD, &[STREAM], served),
        (Method::OPTIONS, &[STREAM], served),
        (Method::DELETE, &[BOTH, MCP], served),
    ] {
        let (_, layer) = draining();
        let request = request(method.clone(), fields);
        let response = send_request(layer, request, ScriptedUpstream::new().status(204)).await;
        assert_eq!(response.status(), expected, "{method} {fields:?}");
        let seconds = response.headers().get("retry-after");
        let seconds = seconds.map(|value| value.to_str().unwrap().parse::<u64>().unwrap());
        assert_eq!(
            seconds.is_some(),
            expected == refused,
            "{method} {fields:?}"
        );
        assert!(seconds.is_none_or(|seconds| seconds > WINDOW.as_secs()));
    }
}

#[tokio::test(start_paused = true)]
async fn draining_response_depends_on_the_stream_flag_of_a_read_body() {
    for (says, expected) in [(true, 503), (false, 204)] {
        for fields in [&[("anthropic-version", "1")][..], &[]] {
            let (_, layer) = draining();
            let mut request = request(Method::POST, fields);
            let flag = StreamRequested::new();
            request.extensions_mut().insert(flag.clone());
            if says {
                flag.set();
            }
            let response = send_request(layer, request, ScriptedUpstream::new().status(204)).await;
            assert_eq!(response.status(), expected, "{fields:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn reconnecting_methods_get_an_empty_stream_while_draining() {
    let (_, layer) = draining();
    let layer = layer.methods([Method::GET, Method::POST]);
    let post = request(Method::POST, &[("accept", "text/event-stream")]);
    let response = send_request(layer, post, ScriptedUpstream::new()).await;
    assert_eq!(response.status(), 200);
    assert!(response.text().await.starts_with("retry: "));
}

#[tokio::test(start_paused = true)]
async fn client_above_its_limit_gets_an_empty_stream_while_draining() {
    let (_, layer) = draining();
    let stack = SseGuardLayer::new()
        .limit(ConnectionLimitLayer::new().total(0))
        .rotation(layer);
    assert_eq!(get(stack, ScriptedUpstream::new()).await.status(), 200);
}

#[tokio::test(start_paused = true)]
async fn drained_answers_may_have_more_time_than_the_window() {
    let registry = StreamRegistry::new();
    let layer = || RotationLayer::new().registry(&registry);
    let long = ScriptedUpstream::new().wait(30).send("data: 1\n\n");
    let long = crate::guard::testing::post(layer(), long).await;
    let endless = crate::guard::testing::post(layer(), ScriptedUpstream::new().hang()).await;
    let feed = get(layer(), ScriptedUpstream::new().hang()).await;
    registry.drain_with(WINDOW, Duration::from_secs(40));
    let start = Instant::now();
    assert!(feed.read().await.1.is_ok());
    assert!(start.elapsed() <= WINDOW);
    let (text, end) = long.read().await;
    assert!(text == "data: 1\n\n" && end.is_ok());
    assert!(endless.read().await.1.is_err());
    assert_eq!(start.elapsed(), Duration::from_secs(40));
}

#[tokio::test(start_paused = true)]
async fn drain_phases_resolve_their_futures() {
    let registry = StreamRegistry::new();
    let hour = Duration::from_secs(3600);
    assert!(
        tokio::time::timeout(hour, registry.drain_started())
            .await
            .is_err()
    );
    let start = Instant::now();
    let over = tokio::spawn({
        let registry = registry.clone();
        async move { registry.window_over().await }
    });
    tokio::task::yield_now().await;
    registry.drain_with(WINDOW, hour);
    registry.drain_started().await;
    assert!(registry.is_draining() && start.elapsed().is_zero());
    over.await.unwrap();
    assert_eq!(start.elapsed(), WINDOW);
}
