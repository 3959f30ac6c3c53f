//! Connections that reach their maximum age.

use super::*;

#[tokio::test(start_paused = true)]
async fn idle_timeout_resumes_and_max_age_replaces() {
    let secs = Duration::from_secs;
    for (idle, age, first, state) in [
        (20, 60, 20, StreamState::Resuming),
        (60, 20, 20, StreamState::Open),
    ] {
        let upstreams = Upstreams::new([sends(1..=1).hang(), sends(2..=2).late(30)]);
        let layer = ResumeLayer::new()
            .idle_timeout(secs(idle))
            .max_age(secs(age), 0.0);
        let mut client = open(layer, &upstreams).await;
        let stream = client.stream();
        while upstreams.ids().len() < 2 {
            let _ = tokio::time::timeout(Duration::from_millis(100), client.next()).await;
        }
        assert_eq!(stream.state(), state);
        let waited = upstreams.intervals()[0];
        assert!(
            waited >= secs(first) && waited <= secs(first + 1),
            "{waited:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn silent_stream_is_replaced_at_each_age() {
    let refusals = (0..20).map(|_| ScriptedUpstream::new().status(403));
    let upstreams = Upstreams::new(
        [sends(1..=1).wait(115).send(": c\n")]
            .into_iter()
            .chain(refusals),
    );
    let layer = ResumeLayer::new().idle_timeout(Duration::from_secs(600));
    let layer = layer.max_age(Duration::from_secs(10), 0.0);
    let guard = SseGuardLayer::new().heartbeat(None);
    let service = guard.layer(layer.layer(upstreams.clone()));
    TestResponse::new(service.oneshot(get()).await.unwrap())
        .text()
        .await;
    assert!(
        (10..=12).contains(&upstreams.ids().len()),
        "{:?}",
        upstreams.intervals()
    );
}

#[tokio::test(start_paused = true)]
async fn max_age_is_that_of_the_connection() {
    let upstreams = Upstreams::new([
        sends(1..=1).wait(8).fail(),
        sends(2..=2).hang(),
        sends(3..=3),
    ]);
    let layer = ResumeLayer::new().max_age(Duration::from_secs(10), 0.0);
    let client = open(layer, &upstreams).await;
    assert_eq!(events(&client.text().await), numbered(1..=3));
    let waited = upstreams.intervals()[1];
    assert!(waited >= Duration::from_secs(10), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn old_connection_is_replaced_while_it_delivers() {
    let slowly = |ids: std::ops::Range<u32>| {
        let send = |upstream: ScriptedUpstream, id| upstream.wait(1).send(&numbered([id]));
        ids.fold(ScriptedUpstream::new(), send)
    };
    let upstreams = Upstreams::new([
        slowly(0..1_000).send("id: 1000\ndata: ha").hang(),
        // It begins at its `Last-Event-ID`, or before; the old one has continued since.
        sends(5..=20).hang(),
        sends(15..=21),
    ]);
    let layer = ResumeLayer::new().max_age(Duration::from_secs(10), 0.0);
    let client = open(layer, &upstreams).await;
    assert_eq!(events(&client.text().await), numbered(0..=21));
    let ids = upstreams.ids();
    assert_eq!(ids[1], Some("9".into()));
    assert_eq!(ids[2], Some("20".into()));
}

#[tokio::test(start_paused = true)]
async fn stream_stays_open_while_replacements_fail() {
    let upstreams = Upstreams::new([sends(1..=1).wait(3_600).send(&numbered(2..=2))]);
    let layer = ResumeLayer::new().max_age(Duration::from_secs(10), 0.0);
    let mut client = open(layer, &upstreams).await;
    let stream = client.stream();
    assert_eq!(client.next().await.unwrap().unwrap(), numbered(1..=1));
    loop {
        assert_eq!(stream.state(), StreamState::Open);
        if client.next().await.unwrap().unwrap() == numbered(2..=2) {
            break;
        }
    }
    assert!(upstreams.ids().len() > 100);
}

#[tokio::test(start_paused = true)]
async fn replacement_that_may_repeat_more_than_the_window_is_cancelled() {
    // Ids without events count: they, too, displace others from the window.
    let with_ids = |upstream: ScriptedUpstream| {
        let upstream = upstream.wait(20);
        upstream.repeat(5, |upstream| upstream.send("id: 3\n\n"))
    };
    let upstreams = Upstreams::new([
        with_ids(sends(1..=2)).wait(3_000).send(&numbered(4..=5)),
        sends(2..=5).hang(),
        sends(4..=5).hang(),
    ]);
    let layer = ResumeLayer::new()
        .dedup_window(4)
        .max_age(Duration::from_secs(10), 0.0);
    let queue = Admission::new(Duration::from_secs(30), 1);
    drop(queue.turn().await);
    let layer = layer.admission(&queue);
    let mut client = open(layer, &upstreams).await;
    let mut text = String::new();
    while !text.ends_with(&numbered(5..=5)) {
        text.push_str(&client.next().await.unwrap().unwrap());
    }
    let whole = format!(
        "{}{}{}",
        numbered(1..=2),
        "id: 3\n\n".repeat(5),
        numbered(4..=5)
    );
    assert_eq!(events(&text), whole);
    let ids = upstreams.ids();
    assert_eq!(ids[1..3], [Some("2".to_owned()), Some("3".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn max_age_of_zero_does_not_loop() {
    let slowly = ScriptedUpstream::new().repeat(3, |upstream| upstream.send("data: x\n\n").wait(1));
    for jitter in [0.0, 1.0] {
        let layer = ResumeLayer::new().max_age(Duration::ZERO, jitter);
        let upstreams = Upstreams::new([slowly.clone()]);
        let text = open(layer, &upstreams).await.text().await;
        assert_eq!((text.matches('x').count(), upstreams.ids().len()), (3, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn connection_is_replaced_at_each_age() {
    let upstreams = Upstreams::respond_by(|_, id| {
        let next = id.map_or(0, |id| id.parse::<u32>().unwrap() + 1);
        let send = |upstream: ScriptedUpstream, id| upstream.wait(1).send(&numbered([id]));
        (next..100).fold(ScriptedUpstream::new(), send)
    });
    let layer = ResumeLayer::new()
        .dedup_window(4)
        .max_age(Duration::from_secs(10), 0.0);
    let client = open(layer, &upstreams).await;
    let stream = client.stream();
    assert_eq!(events(&client.text().await), numbered(0..100));
    assert!(upstreams.ids().len() >= 8);
    // All events came in the time of one connection and its pauses.
    assert!(
        stream.age() <= Duration::from_secs(120),
        "{:?}",
        stream.age()
    );
}

#[tokio::test(start_paused = true)]
async fn pending_replacement_restarts_when_the_old_connection_breaks_off() {
    let upstreams = Upstreams::new([
        sends(1..=1).wait(15).send(&numbered(2..=2)).fail(),
        sends(2..=2).late(3_600),
        sends(3..=3),
    ]);
    // While it is pending no other request is admitted.
    let queue = Admission::new(Duration::ZERO, 1);
    let layer = ResumeLayer::new().admission(&queue);
    let layer = layer.max_age(Duration::from_secs(10), 0.0);
    let client = open(layer, &upstreams).await;
    assert_eq!(events(&client.text().await), numbered(1..=3));
    let ids = upstreams.ids();
    assert_eq!(ids[1..], [Some("1".to_owned()), Some("2".to_owned())]);
    assert!(upstreams.intervals()[1] <= Duration::from_secs(7));
}

#[tokio::test(start_paused = true)]
async fn replacement_without_a_response_keeps_the_old_connection() {
    let slowly = |ids: std::ops::Range<u32>| {
        let send = |upstream: ScriptedUpstream, id| upstream.wait(1).send(&numbered([id]));
        ids.fold(ScriptedUpstream::new(), send)
    };
    let upstreams = Upstreams::new([
        slowly(0..400),
        sends(0..=0).late(3_600),
        ScriptedUpstream::new().status(204),
        ScriptedUpstream::new().status(403),
        ScriptedUpstream::new().status(403),
    ]);
    let layer = ResumeLayer::new().max_age(Duration::from_secs(10), 0.0);
    let client = open(layer, &upstreams).await;
    let stream = client.stream();
    assert_eq!(events(&client.text().await), numbered(0..400));
    assert_eq!(stream.end_reason(), Some(EndReason::UpstreamEnd));
    let waits = upstreams.intervals();
    // It is given up after 5 minutes, and the next one starts at once; then at the next age.
    assert!((290..=302).contains(&waits[1].as_secs()), "{waits:?}");
    assert!((9..=11).contains(&waits[2].as_secs()), "{waits:?}");
}

#[tokio::test(start_paused = true)]
async fn max_age_is_jittered() {
    let layer = ResumeLayer::new().max_age(Duration::from_secs(100), 0.1);
    let now = Instant::now();
    let ages = (0..1_000).map(|_| layer.config.replace_at(now).unwrap() - now);
    let ages: Vec<_> = ages.map(|age| age.as_secs()).collect();
    assert!(ages.iter().all(|age| (90..=110).contains(age)));
    assert!(ages.contains(&91) && ages.contains(&108));
}

#[tokio::test(start_paused = true)]
async fn connection_without_a_position_is_not_replaced() {
    let slowly =
        ScriptedUpstream::new().repeat(30, |upstream| upstream.wait(1).send("data: x\n\n"));
    let upstreams = Upstreams::new([slowly]);
    let layer = ResumeLayer::new().max_age(Duration::from_secs(10), 0.0);
    let text = open(layer, &upstreams).await.text().await;
    assert_eq!((text.matches('x').count(), upstreams.ids().len()), (30, 1));
}
