use super::*;
use crate::SseGuardLayer;
use crate::connection_limit::ConnectionLimitLayer;
use crate::guard::StreamError;
use crate::guard::testing::{ScriptedUpstream, TestResponse, get, send_request};
use crate::heartbeat::HeartbeatLayer;
use crate::idle_timeout::IdleTimeoutLayer;
use crate::rotation::RotationLayer;
use crate::stream::StreamRegistry;
use http::Method;
use std::time::Duration;

const CHUNK: &str = "data: {\"object\":\"chat.completion.chunk\",\"choices\":[]}\n\n";
const DONE: &str = "data: [DONE]\n\n";
const CREATED: &str = "event: response.created\ndata: {}\n\n";
const START: &str = "event: message_start\ndata: {}\n\n";
const STOP: &str = "event: message_stop\ndata: {}\n\n";
const FEED: &str = "data: 1\n\n";

/// The answer to a request of this family; with none, its head does not show one.
async fn through(
    layer: SseGuardLayer,
    family: Option<Family>,
    upstream: ScriptedUpstream,
) -> TestResponse {
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    if let Some(family) = family {
        request.extensions_mut().insert(family);
    }
    send_request(layer, request, upstream).await
}

/// Nothing but the layer.
fn stack() -> SseGuardLayer {
    SseGuardLayer::new()
        .metrics(None)
        .limit(None::<ConnectionLimitLayer>)
        .heartbeat(None)
        .completion(CompletionLayer::new())
}

/// What came behind `sent`, of a stream that broke.
async fn broken(response: TestResponse, sent: &str) -> (String, EndReason) {
    let stream = response.stream();
    let (text, end) = response.read().await;
    let appended = text.strip_prefix(sent);
    let appended = appended.unwrap_or_else(|| panic!("{text:?} does not begin with {sent:?}"));
    assert!(end.is_err(), "{text}");
    (appended.to_owned(), stream.end_reason().unwrap())
}

#[tokio::test(start_paused = true)]
async fn complete_answer_passes_unchanged() {
    let failed = "event: response.failed\ndata: {}\n\n";
    for (family, events) in [
        (Family::OpenAi, format!("{CHUNK}{DONE}")),
        (Family::OpenAi, format!("{CHUNK}data: [DONE]\n")),
        (Family::OpenAi, format!("{CHUNK}data: [DONE]")),
        (Family::OpenAi, format!("{CREATED}{failed}")),
        (
            Family::OpenAi,
            format!("{CHUNK}data: {{ \"error\": {{}}}}\n\n"),
        ),
        (
            Family::OpenAi,
            "data: {\"type\":\"speech.audio.done\"}\n\n".to_owned(),
        ),
        (
            Family::Anthropic,
            format!(": x\n\nevent: ping\ndata: {{}}\n\n{START}{STOP}"),
        ),
        (
            Family::Anthropic,
            format!("{START}event: error\ndata: {{}}\n\n"),
        ),
        (
            Family::Anthropic,
            "event: completion\ndata: {}\n\n".to_owned(),
        ),
        (Family::EventSource, FEED.to_owned()),
        (Family::Mcp, String::new()),
        (Family::Raw, CHUNK.to_owned()),
    ] {
        let upstream = ScriptedUpstream::new().send(&events);
        let response = through(stack(), Some(family), upstream).await;
        let stream = response.stream();
        assert_eq!(response.text().await, events, "{family:?}");
        assert_eq!(stream.end_reason(), Some(EndReason::UpstreamEnd));
    }
}

#[tokio::test(start_paused = true)]
async fn answer_without_its_final_event_gets_an_error_event_and_breaks() {
    for (family, events) in [
        (Family::OpenAi, ""),
        (Family::OpenAi, CHUNK),
        (Family::OpenAi, CREATED),
        (Family::OpenAi, "data: {\"choices\": []}\n\n"),
        (
            Family::OpenAi,
            "data: {\"object\": \"text_completion\"}\n\n",
        ),
        (Family::OpenAi, "event: thread.created\ndata: {}\n\n"),
        (Family::Anthropic, ""),
        (Family::Anthropic, "event: ping\ndata: {}\n\n"),
        (Family::Anthropic, START),
    ] {
        for half in [
            "",
            "data: {\"half",
            "event: message_stop\ndata: {\"half\":1}\n",
            "event: response.completed\ndata: {\"half",
            "data: [DO",
        ] {
            let upstream = ScriptedUpstream::new().send(events).send(half).trailers();
            let response = through(stack(), Some(family), upstream).await;
            let (appended, reason) = broken(response, events).await;
            assert!(appended.ends_with("}\n\n"), "{appended:?}");
            assert!(
                appended.contains("ended before it was complete"),
                "{appended}"
            );
            assert!(half.is_empty() || !appended.contains(half), "{appended}");
            assert_eq!(reason, EndReason::UpstreamError);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn first_event_selects_the_family_if_the_request_does_not() {
    for (first, has_error) in [(CHUNK, true), (START, true), (CREATED, true), (FEED, false)] {
        let response = through(stack(), None, ScriptedUpstream::new().send(first).fail()).await;
        let (appended, _) = broken(response, first).await;
        assert_eq!(!appended.is_empty(), has_error, "{first}: {appended}");
        let upstream = ScriptedUpstream::new().send(first);
        let (_, end) = through(stack(), None, upstream).await.read().await;
        assert_eq!(end.is_err(), has_error, "{first}");
    }
    // What comes behind it does not.
    let text = format!("{FEED}{CHUNK}");
    let response = through(stack(), None, ScriptedUpstream::new().send(&text)).await;
    assert_eq!(response.text().await, text);
}

#[tokio::test(start_paused = true)]
async fn upstream_failure_sends_one_error_event_and_none_after_the_final_event() {
    let reported = "data: {\"error\":{}}\n\n";
    for (events, has_error) in [(CHUNK, true), (reported, false), (DONE, false)] {
        let upstream = ScriptedUpstream::new().send(events).send("data: ha").fail();
        let response = through(stack(), Some(Family::OpenAi), upstream).await;
        let (appended, reason) = broken(response, events).await;
        assert_eq!(
            appended.contains("failed in the middle"),
            has_error,
            "{appended}"
        );
        assert_eq!(reason, EndReason::UpstreamError);
    }
}

#[tokio::test(start_paused = true)]
async fn error_event_precedes_every_break_in_the_line_end_of_the_stream() {
    let registry = StreamRegistry::new();
    let stack = stack()
        .idle_timeout(IdleTimeoutLayer::new().timeout(Duration::from_secs(30)))
        .rotation(RotationLayer::new().registry(&registry));
    let start = START.replace('\n', "\r\n");
    let upstream = ScriptedUpstream::new().send(&start).hang();
    let idle = through(stack.clone(), Some(Family::Anthropic), upstream.clone()).await;
    let (appended, reason) = broken(idle, &start).await;
    assert!(appended.contains("went silent"), "{appended}");
    assert!(appended.starts_with("event: error\r\ndata: {") && appended.ends_with("\r\n\r\n"));
    assert_eq!(reason, EndReason::UpstreamIdle);

    let drained = through(stack, Some(Family::Anthropic), upstream).await;
    registry.drain(Duration::from_secs(1));
    let (appended, reason) = broken(drained, &start).await;
    assert!(appended.contains("was ended before"), "{appended}");
    assert_eq!(reason, EndReason::Drained);
}

#[tokio::test(start_paused = true)]
async fn error_event_is_not_sent_within_an_event_over_the_bound() {
    let big = format!("{CHUNK}data: {}", "x".repeat(70_000));
    for upstream in [
        ScriptedUpstream::new().send(&big),
        ScriptedUpstream::new().send(&big).fail(),
    ] {
        let response = through(stack(), Some(Family::OpenAi), upstream).await;
        assert_eq!(broken(response, &big).await.0, "");
    }
}

#[tokio::test(start_paused = true)]
async fn empty_answer_to_a_get_may_be_complete() {
    let mut request = Request::new(());
    request.extensions_mut().insert(Family::OpenAi);
    let response = send_request(stack(), request, ScriptedUpstream::new()).await;
    assert_eq!(response.text().await, "");
    assert_eq!(
        get(stack(), ScriptedUpstream::new().send(CHUNK))
            .await
            .text()
            .await,
        CHUNK
    );
}

#[tokio::test(start_paused = true)]
async fn final_event_is_optional_if_not_required() {
    let stack = stack().completion(CompletionLayer::new().required(false));
    let upstream = ScriptedUpstream::new().send(CHUNK);
    let response = through(stack.clone(), Some(Family::OpenAi), upstream.clone()).await;
    assert_eq!(response.text().await, CHUNK);
    let response = through(stack, Some(Family::OpenAi), upstream.fail()).await;
    assert!(broken(response, CHUNK).await.0.contains("failed"));
}

#[tokio::test(start_paused = true)]
async fn separate_completion_layer_gets_errors_of_layers_inside() {
    let request = || {
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        request.extensions_mut().insert(Family::OpenAi);
        request
    };
    let inside = tower_layer::Stack::new(
        IdleTimeoutLayer::new().timeout(Duration::from_secs(30)),
        HeartbeatLayer::new(Duration::from_secs(20)),
    );
    let layers = tower_layer::Stack::new(inside, CompletionLayer::new());
    let upstream = ScriptedUpstream::new().send(CHUNK);
    let (text, end) = send_request(layers.clone(), request(), upstream.clone())
        .await
        .read()
        .await;
    assert!(text.contains("before it was complete"), "{text}");
    assert!(matches!(
        end,
        Err(StreamError::Ended(EndReason::UpstreamError))
    ));
    let (text, end) = send_request(layers.clone(), request(), upstream.clone().hang())
        .await
        .read()
        .await;
    assert!(
        text.contains(": heartbeat\n") && text.contains("went silent"),
        "{text}"
    );
    assert!(matches!(
        end,
        Err(StreamError::Ended(EndReason::UpstreamIdle))
    ));
    let twice = tower_layer::Stack::new(layers, CompletionLayer::new());
    let (text, _) = send_request(twice, request(), upstream).await.read().await;
    assert_eq!(text.matches("before it was complete").count(), 1, "{text}");
}

/// A chunk with these choices.
fn chunk(choices: &str) -> String {
    format!("data: {{\"object\":\"chat.completion.chunk\",\"choices\":[{choices}]}}\n\n")
}

const USAGE: &str = "data: {\"choices\":[],\"usage\":{\"total_tokens\":3}}\n\n";
const DELTA: &str = r#"{"index":0,"delta":{"content":"a"},"finish_reason":null}"#;
const STOPPED: &str = r#"{"index":0,"delta":{},"finish_reason":"stop"}"#;

#[tokio::test(start_paused = true)]
async fn answer_with_all_choices_finished_is_complete_without_its_final_event() {
    let second = r#"{"index":1,"delta":{"content":"b"},"finish_reason":null}"#;
    let second_stopped = r#"{"finish_reason" : "length", "index" : 1}"#;
    let delta = chunk(DELTA);
    let both = [delta.clone(), chunk(second)].concat();
    let filtered = "data: {\"choices\":[],\"object\":\"\",\"prompt_filter_results\":[{}]}\n\n";
    let legacy = "data: {\"object\":\"text_completion\",\"choices\":[{\"text\":\"a\",\"index\":0,";
    let stop_reason = "event: message_delta\ndata: {\"delta\":{\"stop_reason\":\"end_turn\"}}\n\n";
    let run = "event: thread.run.created\ndata: {}\n\n";
    let ends = |name: &str| format!("event: {name}\ndata: {{}}\n\n");
    for (events, is_whole) in [
        (format!("{delta}{}", chunk(STOPPED)), true),
        (format!("{delta}{}{USAGE}", chunk(STOPPED)), true),
        (format!("{filtered}{delta}{}", chunk(STOPPED)), true),
        (chunk(STOPPED).replace('\n', "\r\n"), true),
        (
            chunk(STOPPED).replace(",\"choices\":", ",\ndata: \"choices\" :\ndata:"),
            true,
        ),
        (
            format!("{both}{}{}", chunk(STOPPED), chunk(second_stopped)),
            true,
        ),
        (
            format!("{both}{}", chunk(&format!("{STOPPED},{second_stopped}"))),
            true,
        ),
        (format!("{legacy}\"finish_reason\":\"stop\"}}]}}\n\n"), true),
        (format!("{START}{stop_reason}"), true),
        (format!("{run}{}", ends("thread.run.completed")), true),
        (format!("{run}{}", ends("done")), true),
        (format!("{CREATED}{}", ends("response.cancelled")), true),
        (
            "data: {\"type\":\"response.created\"}\n\ndata: {\"type\":\"response.completed\"}\n\n"
                .to_owned(),
            true,
        ),
        (delta.clone(), false),
        (format!("{both}{}", chunk(STOPPED)), false),
        (format!("{}{}", chunk(STOPPED), chunk(second)), false),
        (format!("{delta}{USAGE}"), false),
        (format!("{filtered}{delta}"), false),
        (format!("{legacy}\"finish_reason\":null}}]}}\n\n"), false),
        (
            format!("{START}{}", stop_reason.replace("\"end_turn\"", "null")),
            false,
        ),
        (format!("{run}{}", ends("thread.run.step.completed")), false),
        (
            "data: {\"type\":\"response.created\"}\n\n".to_owned(),
            false,
        ),
    ] {
        for family in [None, Some(())] {
            let family = family.map(|()| match events.contains("message_start") {
                true => Family::Anthropic,
                false => Family::OpenAi,
            });
            let upstream = ScriptedUpstream::new().send(&events);
            let response = through(stack(), family, upstream).await;
            let stream = response.stream();
            let (text, end) = response.read().await;
            assert_eq!(end.is_ok(), is_whole, "{family:?}: {events}{text}");
            assert_eq!(stream.is_incomplete(), !is_whole);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn error_in_a_chunk_is_a_final_event() {
    let in_choice = r#"{"index":0,"error":{"code":502,"message":"x"},"finish_reason":"error"}"#;
    let filter =
        r#"{"index":0,"content_filter_results":{"error":{"code":"content_filter_error"}}}"#;
    for (events, is_last) in [
        (chunk(in_choice), true),
        (
            "data: {\"id\":\"1\",\"choices\":[],\"error\":{\"code\":502}}\n\n".to_owned(),
            true,
        ),
        (
            chunk(DELTA).replace("\"object\"", "\"error\":null,\"object\""),
            false,
        ),
        (chunk(filter), false),
    ] {
        let events = format!("{CHUNK}{events}");
        // Nothing is appended, even if it breaks.
        let upstream = ScriptedUpstream::new().send(&events).fail();
        let response = through(stack(), Some(Family::OpenAi), upstream).await;
        let (appended, _) = broken(response, &events).await;
        assert_eq!(appended.is_empty(), is_last, "{events}{appended}");
    }
}

#[tokio::test(start_paused = true)]
async fn events_over_the_bound_are_read_in_parts() {
    let long = "x".repeat(70_000);
    let text = |finish: &str| {
        chunk(&format!(
            "{{\"index\":0,\"delta\":{{\"content\":\"{long}\"}},\"finish_reason\":{finish}}}"
        ))
    };
    let behind = format!(
        "data: {{\"choices\":[{{\"finish_reason\":\"stop\",\"delta\":{{\"content\":\"{long}\"}}}}]}}\n\n"
    );
    let response = format!("event: response.completed\ndata: {{\"x\":\"{long}\"}}\n\n");
    for (events, is_whole) in [
        (text("\"stop\""), true),
        (text("null"), false),
        (format!("{}{}", text("null"), chunk(STOPPED)), true),
        (format!("{CHUNK}{behind}"), true),
        (behind, true),
        (format!("{CREATED}{response}"), true),
    ] {
        for family in [None, Some(Family::OpenAi)] {
            let bytes = events.as_bytes();
            let pieces = bytes.chunks(9_000);
            let upstream = pieces.fold(ScriptedUpstream::new(), |upstream, piece| {
                upstream.send_bytes(piece)
            });
            let response = through(stack(), family, upstream).await;
            let (text, end) = response.read().await;
            assert_eq!(end.is_ok(), is_whole, "{family:?}: {}", text.len());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn keepalives_do_not_count_as_the_first_event() {
    let alive = "event: ping\ndata: {\"type\": \"ping\"}\n\n\
                 data: {\"type\":\"keepalive\",\"sequence_number\":1}\n\n";
    for (first, family) in [(CHUNK, Family::OpenAi), (START, Family::Anthropic)] {
        let text = format!("{alive}{first}");
        let response = through(stack(), None, ScriptedUpstream::new().wait(5).send(&text)).await;
        let stream = response.stream();
        let (_, end) = response.read().await;
        assert!(end.is_err());
        assert_eq!(stream.family(), family);
    }
    let only = through(
        stack(),
        Some(Family::OpenAi),
        ScriptedUpstream::new().send(alive),
    )
    .await;
    let stream = only.stream();
    assert!(only.read().await.1.is_err());
    assert_eq!((stream.time_to_first_event(), stream.events()), (None, 2));
}

#[test]
fn completion_state_stays_small() {
    assert!(size_of::<CompletionPolicy>() <= 24);
}
