//! Idle timeouts: a silent upstream counts as lost.

use super::*;
use crate::idle_timeout::{IdleAction, IdleTimeoutLayer};

#[tokio::test(start_paused = true)]
async fn idle_timeout_of_resume_replaces_the_idle_timeout_layer() {
    let upstreams = Upstreams::new([
        sends(1..=1).wait(25).send(": not dead\n").hang(),
        sends(2..=2).hang(),
    ]);
    let idle = Duration::from_secs(30);
    let layer = ResumeLayer::new().idle_timeout(idle).attempts(2);
    let guard = SseGuardLayer::new().idle_timeout(
        IdleTimeoutLayer::new()
            .timeout(Duration::from_secs(10))
            .action(IdleAction::Abort),
    );
    let service = guard.layer(layer.layer(upstreams.clone()));
    let client = TestResponse::new(service.oneshot(get()).await.unwrap());
    let stream = client.stream();
    let (text, end) = client.read().await;
    assert_eq!(events(&text), numbered(1..=2));
    let idle = StreamError::Ended(EndReason::UpstreamIdle).to_string();
    assert_eq!(end.unwrap_err().to_string(), idle);
    assert_eq!(stream.end_reason(), Some(EndReason::UpstreamIdle));
    let waits = upstreams.intervals();
    assert!(waits[0] >= Duration::from_secs(55), "{waits:?}");
}

#[tokio::test(start_paused = true)]
async fn idle_stream_that_cannot_be_resumed_ends_by_the_idle_action() {
    let gone = IdleAction::ErrorEvent(crate::event::Event::new("gone", "{}").unwrap());
    let half = "data: ".to_owned() + &"x".repeat(100_000);
    for (sent, action, last, is_clean) in [
        ("data: x\n\n", IdleAction::Close, "", true),
        (
            "data: x\n\n",
            gone.clone(),
            "event: gone\ndata: {}\n\n",
            true,
        ),
        ("data: x\n\n", IdleAction::Abort, "", false),
        // The client has an incomplete event, after which no event can be sent.
        (&half, gone, "", false),
    ] {
        let upstreams = Upstreams::new([ScriptedUpstream::new().send(sent).hang()]);
        let idle = IdleTimeoutLayer::new().timeout(Duration::from_secs(30));
        let guard = SseGuardLayer::new().idle_timeout(idle.action(action).retry(None));
        let layer = ResumeLayer::new().idle_timeout(Duration::from_secs(30));
        let service = guard.layer(layer.layer(upstreams));
        let client = TestResponse::new(service.oneshot(get()).await.unwrap());
        let stream = client.stream();
        let (text, end) = client.read().await;
        let text = events(&text);
        assert_eq!((text, end.is_ok()), (format!("{sent}{last}"), is_clean));
        assert_eq!(stream.end_reason(), Some(EndReason::UpstreamIdle));
    }
}

#[tokio::test(start_paused = true)]
async fn ignored_events_do_not_reset_the_event_timeout() {
    let pings = ScriptedUpstream::new().repeat(10, |upstream| {
        upstream.wait(4).send("event: ping\ndata: {}\n\n")
    });
    let upstreams = Upstreams::new([pings.hang(), sends(1..=1)]);
    let layer = ResumeLayer::new()
        .lossy(true)
        .event_timeout(Duration::from_secs(10))
        .ignore_events(["ping"]);
    let text = open(layer, &upstreams).await.text().await;
    assert_eq!(text.matches("ping").count(), 2);
    assert!(text.ends_with(&numbered(1..=1)));
}

#[tokio::test(start_paused = true)]
async fn idle_time_excludes_pauses_of_the_client() {
    let max = Duration::from_secs(120);
    for layer in [
        ResumeLayer::new().idle_timeout(max),
        ResumeLayer::new().event_timeout(max),
    ] {
        let upstreams = Upstreams::new([sends(1..=1).wait(100).send(&numbered(2..=2))]);
        let mut client = open(layer, &upstreams).await;
        assert!(client.next().await.unwrap().is_ok());
        tokio::time::advance(Duration::from_secs(3_600)).await;
        assert_eq!(events(&client.text().await), numbered(2..=2));
        assert_eq!(upstreams.ids().len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn silent_upstream_is_lost_after_a_pause_of_the_client() {
    let max = Duration::from_secs(120);
    for layer in [
        ResumeLayer::new().idle_timeout(max),
        ResumeLayer::new().event_timeout(max),
    ] {
        let upstreams = Upstreams::new([sends(1..=1).hang(), sends(2..=2)]);
        let mut client = open(layer, &upstreams).await;
        assert!(client.next().await.unwrap().is_ok());
        tokio::time::advance(Duration::from_secs(3_600)).await;
        assert_eq!(events(&client.text().await), numbered(2..=2));
        let waited = upstreams.intervals()[0].as_secs();
        assert!((3_720..=3_721).contains(&waited), "{waited}");
    }
}

#[tokio::test(start_paused = true)]
async fn events_with_data_reset_both_idle_timeouts() {
    let active =
        ScriptedUpstream::new().repeat(10, |upstream| upstream.wait(4).send(&numbered(1..=1)));
    for layer in [
        ResumeLayer::new().idle_timeout(Duration::from_secs(10)),
        ResumeLayer::new().event_timeout(Duration::from_secs(10)),
    ] {
        let upstreams = Upstreams::new([active.clone()]);
        open(layer, &upstreams).await.text().await;
        assert_eq!(upstreams.ids().len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn idle_timeouts_end_at_the_earlier_one() {
    let secs = Duration::from_secs;
    for (idle, eventless, least) in [(20, 60, 30), (60, 20, 20), (40, 60, 50)] {
        let upstreams = Upstreams::new([sends(1..=1).wait(10).send(": c\n").hang(), sends(2..=2)]);
        let layer = ResumeLayer::new()
            .idle_timeout(secs(idle))
            .event_timeout(secs(eventless));
        open(layer, &upstreams).await.text().await;
        let waited = upstreams.intervals()[0];
        let least = secs(least);
        assert!(waited >= least && waited <= least + secs(2), "{waited:?}");
    }
}
