use super::*;
use crate::guard::testing::{ScriptedUpstream, TestResponse, get, post};
use crate::heartbeat::{HeartbeatLayer, HeartbeatStyle};
use tower_layer::Stack;

fn after(secs: u64) -> IdleTimeoutLayer {
    IdleTimeoutLayer::new()
        .timeout(Duration::from_secs(secs))
        .retry(None)
}

fn events_after(secs: u64) -> IdleTimeoutLayer {
    IdleTimeoutLayer::new()
        .event_timeout(Duration::from_secs(secs))
        .retry(None)
}

#[tokio::test(start_paused = true)]
async fn silent_stream_ends_at_the_timeout() {
    let upstream = ScriptedUpstream::new()
        .send("data: 1\n\n")
        .wait(5)
        .send(":\n")
        .hang();
    let response = get(after(10), upstream).await;
    let stream = response.stream();
    let (text, end) = response.read().await;
    assert_eq!((text.as_str(), end.is_ok()), ("data: 1\n\n:\n", true));
    assert_eq!(stream.end_reason(), Some(EndReason::UpstreamIdle));
    assert_eq!(stream.age(), Duration::from_secs(15));
}

#[tokio::test(start_paused = true)]
async fn comments_and_ignored_events_do_not_reset_the_event_timeout() {
    let upstream = ScriptedUpstream::new()
        .send("data: 1\n\n")
        .repeat(100, |upstream| {
            upstream.wait(1).send(": x\nevent: ping\ndata: {}\n\n")
        });
    let response = get(events_after(10).ignore_events(["ping"]), upstream).await;
    let stream = response.stream();
    let _ = response.read().await;
    assert_eq!(stream.end_reason(), Some(EndReason::UpstreamIdle));
    assert_eq!(stream.age(), Duration::from_secs(10));
}

#[tokio::test(start_paused = true)]
async fn comments_can_be_excluded_from_the_byte_timeout() {
    let upstream = ScriptedUpstream::new().repeat(100, |upstream| upstream.wait(1).send(":\n"));
    let response = get(after(10).comments_are_life(false), upstream).await;
    let stream = response.stream();
    let _ = response.read().await;
    assert_eq!(stream.age(), Duration::from_secs(10));
}

#[tokio::test(start_paused = true)]
async fn incomplete_event_resets_only_the_byte_timeout() {
    let upstream = || {
        ScriptedUpstream::new()
            .wait(8)
            .send("data: half")
            .wait(8)
            .send("\n\n")
            .wait(8)
    };
    let (text, _) = get(after(10), upstream()).await.read().await;
    assert_eq!(text, "data: half\n\n");
    let (text, _) = get(events_after(10), upstream()).await.read().await;
    assert_eq!(text, "");
}

#[tokio::test(start_paused = true)]
async fn opaque_stream_breaks_off_after_silence() {
    for action in [
        IdleAction::Auto,
        IdleAction::Close,
        IdleAction::ErrorEvent(Event::new("oops", "{}").unwrap()),
    ] {
        let coded = ScriptedUpstream::new()
            .header("content-encoding", "br")
            .repeat(3, |upstream| upstream.send("\n\n").wait(8))
            .send("\x01")
            .hang();
        let layer = after(10)
            .event_timeout(Duration::from_secs(1))
            .action(action);
        let response = get(layer, coded).await;
        let stream = response.stream();
        let (text, end) = response.read().await;
        assert_eq!((text.as_str(), end.is_err()), ("\n\n\n\n\n\n\x01", true));
        assert_eq!(stream.end_reason(), Some(EndReason::UpstreamIdle));
        assert_eq!(stream.age(), Duration::from_secs(34));
    }
}

#[tokio::test(start_paused = true)]
async fn heartbeats_do_not_reset_the_timeout_in_either_order() {
    let beat = || {
        HeartbeatLayer::new(Duration::from_secs(2))
            .style(HeartbeatStyle::event(&Event::new("alive", "{}").unwrap()))
    };
    let upstream = ScriptedUpstream::new().send("data: 1\n\n").hang();
    for idle in [after(9), events_after(9)] {
        let inside = get(Stack::new(idle.clone(), beat()), upstream.clone()).await;
        ends_after_four_beats(inside).await;
        let outside = get(Stack::new(beat(), idle), upstream.clone()).await;
        ends_after_four_beats(outside).await;
    }
}

async fn ends_after_four_beats(response: TestResponse) {
    let stream = response.stream();
    let (text, _) = response.read().await;
    assert_eq!(text.matches("alive").count(), 4, "{text}");
    assert_eq!(stream.end_reason(), Some(EndReason::UpstreamIdle));
    assert_eq!(stream.age(), Duration::from_secs(9));
}

#[tokio::test(start_paused = true)]
async fn answer_that_hangs_ends_despite_heartbeats() {
    let chunk = "data: {\"object\":\"chat.completion.chunk\"}\n\n";
    let start = "event: message_start\ndata: {}\n\n";
    let alive = ": x\n\nevent: ping\ndata: {\"type\":\"ping\"}\n\n\
                 data: {\"type\":\"keepalive\",\"sequence_number\":1}\n\n";
    let stack = || {
        crate::SseGuardLayer::new()
            .limit(None::<crate::connection_limit::ConnectionLimitLayer>)
            .heartbeat(HeartbeatLayer::new(Duration::from_secs(15)))
            .idle_timeout(IdleTimeoutLayer::new().timeout(Duration::from_secs(600)))
            .completion(crate::completion::CompletionLayer::new())
    };
    for (first, error) in [(chunk, "data: {\"error\":{"), (start, "event: error\n")] {
        // It thinks for longer than it may pause later.
        let upstream = ScriptedUpstream::new()
            .repeat(40, |upstream| upstream.send(alive).wait(10))
            .send(first)
            .repeat(40, |upstream| upstream.wait(10).send(alive))
            .hang();
        let response = post(stack(), upstream).await;
        let stream = response.stream();
        let (text, end) = response.read().await;
        assert!(end.is_err() && text.contains(error), "{text}");
        assert!(text.contains("went silent"), "{text}");
        assert_eq!(stream.end_reason(), Some(EndReason::UpstreamIdle));
        assert_eq!(stream.age(), Duration::from_secs(700));
        assert_eq!(stream.time_to_first_event(), Some(Duration::from_secs(400)));
    }
    // Other streams may be as quiet as they like.
    let quiet = || {
        ScriptedUpstream::new()
            .send("data: 1\n\n")
            .wait(500)
            .send("data: 2\n\n")
    };
    assert!(get(stack(), quiet()).await.read().await.1.is_ok());
    assert!(post(stack(), quiet()).await.read().await.1.is_ok());
    let late = ScriptedUpstream::new()
        .send(chunk)
        .wait(500)
        .send("data: [DONE]\n\n");
    let off = stack().idle_timeout(IdleTimeoutLayer::new().event_timeout(None));
    assert!(post(off, late).await.read().await.1.is_ok());
}

#[tokio::test(start_paused = true)]
async fn idle_end_depends_on_the_method() {
    let upstream = ScriptedUpstream::new().send("data: 1\n\n").hang();
    assert!(
        get(after(10), upstream.clone())
            .await
            .read()
            .await
            .1
            .is_ok()
    );
    assert!(post(after(10), upstream).await.read().await.1.is_err());
}

#[tokio::test(start_paused = true)]
async fn idle_actions_end_as_documented() {
    let error = IdleAction::ErrorEvent(Event::new("oops", "{}").unwrap());
    let last = "event: oops\r\ndata: {}\r\n\r\n";
    for (action, expected, clean) in [
        (IdleAction::Close, "", true),
        (error, last, true),
        (IdleAction::Abort, "", false),
    ] {
        let upstream = ScriptedUpstream::new().send("data: 1\r\n\r\n").hang();
        let (text, end) = get(after(10).action(action), upstream).await.read().await;
        assert_eq!(text, format!("data: 1\r\n\r\n{expected}"));
        assert_eq!(end.is_ok(), clean);
    }
}

#[tokio::test(start_paused = true)]
async fn retry_is_sent_only_for_a_get() {
    let layer = after(10)
        .action(IdleAction::Close)
        .retry(Some(Duration::from_secs(2)));
    let (text, _) = get(layer.clone(), ScriptedUpstream::new().hang())
        .await
        .read()
        .await;
    assert!(text.starts_with("retry: "), "{text}");
    let (text, _) = post(layer, ScriptedUpstream::new().hang())
        .await
        .read()
        .await;
    assert_eq!(text, "");
}

#[tokio::test(start_paused = true)]
async fn incomplete_event_over_the_bound_breaks_off() {
    let upstream = ScriptedUpstream::new().send(&"x".repeat(70_000)).hang();
    let (text, end) = get(after(10), upstream).await.read().await;
    assert_eq!(text.len(), 70_000);
    assert!(end.is_err());
}

#[tokio::test(start_paused = true)]
async fn idle_time_excludes_pauses_of_the_client() {
    let upstream = ScriptedUpstream::new()
        .send("data: 1\n\n")
        .wait(1)
        .send("data: 2\n\n");
    let mut response = get(after(10), upstream).await;
    assert_eq!(response.next().await.unwrap().unwrap(), "data: 1\n\n");
    tokio::time::advance(Duration::from_secs(60)).await;
    assert_eq!(response.next().await.unwrap().unwrap(), "data: 2\n\n");
}
