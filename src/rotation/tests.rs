use super::*;
use crate::guard::testing::{ScriptedUpstream, get, post};

fn at_age(secs: u64) -> RotationLayer {
    RotationLayer::new()
        .max_age(Duration::from_secs(secs), 0.0)
        .retry(None)
}

fn ticking() -> ScriptedUpstream {
    ScriptedUpstream::new().repeat(100, |upstream| upstream.send("data: 1\n\n").wait(1))
}

#[tokio::test(start_paused = true)]
async fn old_stream_ends_properly_busy_or_quiet() {
    for upstream in [ticking(), ScriptedUpstream::new().hang()] {
        let response = get(at_age(10), upstream).await;
        let stream = response.stream();
        let (text, end) = response.read().await;
        assert!(end.is_ok());
        assert!(text.is_empty() || text.ends_with("data: 1\n\n"));
        assert_eq!(stream.end_reason(), Some(EndReason::Rotated));
        assert_eq!(stream.age(), Duration::from_secs(10));
    }
}

#[tokio::test(start_paused = true)]
async fn stream_without_pauses_ends_at_its_age() {
    let flood = ScriptedUpstream::new().repeat(10, |upstream| upstream.send("data: 1\n\n"));
    let mut response = get(at_age(10), flood).await;
    assert!(response.next().await.unwrap().is_ok());
    tokio::time::advance(Duration::from_secs(11)).await;
    assert!(response.next().await.unwrap().is_ok());
    assert!(response.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn retry_at_the_end_is_jittered() {
    let mut delays = std::collections::BTreeSet::new();
    for _ in 0..50 {
        let layer = at_age(1).retry(Some(DEFAULT_RETRY));
        let (text, _) = get(layer, ScriptedUpstream::new().hang())
            .await
            .read()
            .await;
        let millis = text
            .strip_prefix("retry: ")
            .unwrap()
            .strip_suffix('\n')
            .unwrap();
        delays.insert(millis.parse::<u64>().unwrap());
    }
    assert!(delays.len() > 10);
    assert!(
        delays.iter().all(|millis| (1_000..=3_000).contains(millis)),
        "{delays:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn retry_on_open_precedes_the_first_event() {
    let layer = || at_age(10).retry_on_open(Some(DEFAULT_RETRY));
    for (upstream, ahead) in [
        (
            ScriptedUpstream::new()
                .send("data: 1\n\n")
                .send("data: 2\n\n"),
            "",
        ),
        (
            ScriptedUpstream::new()
                .send(": a\n\n")
                .send("data: 1\n\n")
                .send("data: 2\n\n"),
            ": a\n\n",
        ),
        (
            ScriptedUpstream::new()
                .send("data: 1\r\n\r\n")
                .send("data: 2\r\n\r\n"),
            "",
        ),
    ] {
        let (text, _) = get(layer(), upstream.clone()).await.read().await;
        let line_end = if text.contains('\r') { "\r\n" } else { "\n" };
        let rest = text.strip_prefix(ahead).unwrap();
        let rest = rest.strip_prefix("retry: ").unwrap();
        let (millis, events) = rest.split_once(line_end).unwrap();
        assert!((1_000..=3_000).contains(&millis.parse::<u64>().unwrap()));
        let expected = ["data: 1", "", "data: 2", "", ""].join(line_end);
        assert_eq!(events, expected);
        let stream = post(layer(), upstream).await;
        assert!(!stream.text().await.contains("retry"));
    }
    // A mark has to stay the first.
    let marked = ScriptedUpstream::new().send("\u{feff}data: 1\n\ndata: 2\n\n");
    let text = get(layer(), marked).await.text().await;
    assert_eq!(text, "\u{feff}data: 1\n\ndata: 2\n\n");
}

#[tokio::test(start_paused = true)]
async fn max_age_is_jittered() {
    let mut ages = std::collections::BTreeSet::new();
    for _ in 0..50 {
        let layer = RotationLayer::new().max_age(Duration::from_secs(100), 0.1);
        let response = get(layer, ScriptedUpstream::new().hang()).await;
        let stream = response.stream();
        let _ = response.read().await;
        ages.insert(stream.age().as_millis());
    }
    assert!(ages.len() > 10);
    assert!(
        ages.iter().all(|age| (90_000..=110_001).contains(age)),
        "{ages:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn rotate_ends_the_oldest_idle_streams_first() {
    let registry = StreamRegistry::new();
    let layer = || RotationLayer::new().retry(None).registry(&registry);
    let second = || tokio::time::advance(Duration::from_secs(1));
    let (idle, all) = (Duration::from_secs(2), usize::MAX);
    let mut held = Vec::new();
    for upstream in [
        ticking(),
        ScriptedUpstream::new().hang(),
        ScriptedUpstream::new().hang(),
    ] {
        held.push(get(layer(), upstream).await);
        second().await;
    }
    let answer = post(layer(), ScriptedUpstream::new().hang()).await;
    second().await;
    assert!(held[0].next().await.unwrap().is_ok());
    let ending = |held: &[crate::guard::testing::TestResponse]| -> Vec<bool> {
        held.iter()
            .map(|client| client.stream().is_ending())
            .collect()
    };
    assert_eq!(registry.rotate(1, idle), 1);
    assert_eq!(ending(&held), [false, true, false]);
    assert_eq!(registry.rotate(1, idle), 1);
    assert_eq!(ending(&held), [false, true, true]);
    assert_eq!(registry.rotate(all, idle), 1);
    assert_eq!(registry.rotate(all, idle), 0);
    assert!(!answer.stream().is_ending());
    let stream = held[1].stream();
    assert!(held.remove(1).read().await.1.is_ok());
    assert_eq!(stream.end_reason(), Some(EndReason::Rotated));
}

#[tokio::test(start_paused = true)]
async fn response_to_a_post_has_no_max_age() {
    let upstream = ScriptedUpstream::new()
        .send("data: 1\n\n")
        .wait(100)
        .send("data: 2\n\n");
    assert_eq!(
        post(at_age(10), upstream).await.text().await,
        "data: 1\n\ndata: 2\n\n"
    );
}

#[tokio::test(start_paused = true)]
async fn rotation_waits_for_the_end_of_an_event_over_the_bound() {
    let big = format!("data: {}", "x".repeat(70_000));
    let upstream = ScriptedUpstream::new()
        .send(&big)
        .wait(60)
        .send("\n\n")
        .hang();
    let layer = at_age(10).event(Event::new("rotated", "{}").unwrap());
    let response = get(layer, upstream).await;
    let stream = response.stream();
    let (text, end) = response.read().await;
    assert!(text.ends_with("x\n\nevent: rotated\ndata: {}\n\n") && end.is_ok());
    assert_eq!(stream.age(), Duration::from_secs(60));
}

#[tokio::test(start_paused = true)]
async fn opaque_stream_breaks_off_at_its_age_if_its_client_reconnects() {
    let layer = || {
        at_age(10)
            .retry(Some(DEFAULT_RETRY))
            .retry_on_open(Some(DEFAULT_RETRY))
    };
    let coded = ScriptedUpstream::new()
        .header("content-encoding", "gzip")
        .send("\x1f")
        .wait(60)
        .send("\x08");
    let response = get(layer(), coded.clone()).await;
    let stream = response.stream();
    let (text, end) = response.read().await;
    assert_eq!((text.as_str(), end.is_err()), ("\x1f", true));
    assert_eq!(stream.end_reason(), Some(EndReason::Rotated));
    assert_eq!(stream.age(), Duration::from_secs(10));
    assert_eq!(post(layer(), coded).await.text().await, "\x1f\x08");
}

#[tokio::test(start_paused = true)]
async fn incomplete_event_is_dropped_at_the_end() {
    let upstream = ScriptedUpstream::new().send("data: 1\n\ndata: ha").hang();
    let response = get(at_age(10), upstream).await;
    let stream = response.stream();
    assert_eq!(response.text().await, "data: 1\n\n");
    assert_eq!(stream.dropped_bytes(), 8);
}

#[tokio::test(start_paused = true)]
async fn drain_spreads_ends_over_its_window() {
    let registry = StreamRegistry::new();
    let mut streams = Vec::new();
    let mut tasks = Vec::new();
    for _ in 0..50 {
        let response = get(RotationLayer::new().registry(&registry), ticking()).await;
        streams.push(response.stream());
        tasks.push(tokio::spawn(response.read()));
    }
    assert_eq!(registry.live(), 50);
    let start = Instant::now();
    registry.drain(Duration::from_secs(20));
    registry.finished().await;
    assert!(
        start.elapsed() <= Duration::from_secs(21),
        "{:?}",
        start.elapsed()
    );
    let mut ends = std::collections::BTreeSet::new();
    for (stream, task) in streams.iter().zip(tasks) {
        let (text, end) = task.await.unwrap();
        assert!(end.is_ok() && text.contains("\nretry: "));
        assert_eq!(stream.end_reason(), Some(EndReason::Drained));
        ends.insert(text.len());
    }
    assert!(ends.len() > 5, "{ends:?}");
}

#[tokio::test(start_paused = true)]
async fn drain_breaks_a_post_at_the_end_of_the_window() {
    let registry = StreamRegistry::new();
    let layer = || RotationLayer::new().registry(&registry);
    let short = ScriptedUpstream::new().wait(9).send("data: 1\n\n");
    let short = tokio::spawn(post(layer(), short).await.read());
    let long = tokio::spawn(post(layer(), ticking()).await.read());
    registry.drain(Duration::from_secs(10));
    let (text, end) = short.await.unwrap();
    assert!(text == "data: 1\n\n" && end.is_ok());
    let (text, end) = long.await.unwrap();
    assert!(!text.contains("retry") && end.is_err());
}

#[tokio::test(start_paused = true)]
async fn registry_ends_one_stream_by_its_id() {
    let registry = StreamRegistry::new();
    let one = get(
        RotationLayer::new().registry(&registry),
        ScriptedUpstream::new().hang(),
    )
    .await;
    let other = get(
        RotationLayer::new().registry(&registry),
        ScriptedUpstream::new().hang(),
    )
    .await;
    let stream = one.stream();
    let reading = tokio::spawn(one.read());
    tokio::task::yield_now().await;
    assert!(registry.end(stream.id()));
    assert!(reading.await.unwrap().1.is_ok());
    assert_eq!(stream.end_reason(), Some(EndReason::Operator));
    assert_eq!(registry.live(), 1);
    assert!(!registry.end(stream.id()));
    drop(other);
    assert_eq!(registry.live(), 0);
}

#[tokio::test(start_paused = true)]
async fn stream_without_its_upstream_is_not_rotated() {
    use crate::stream::StreamState;
    for &waits in StreamState::ALL
        .iter()
        .filter(|state| state.has_lost_upstream())
    {
        let upstream = ScriptedUpstream::new().wait(100).send("data: 1\n\n").hang();
        // Heartbeats continue meanwhile.
        let heartbeat = crate::heartbeat::HeartbeatLayer::new(Duration::from_secs(15));
        let layer = crate::SseGuardLayer::new()
            .rotation(at_age(10))
            .heartbeat(heartbeat);
        let mut client = get(layer, upstream).await;
        let stream = client.stream();
        stream.set_state(waits);
        for _ in 0..6 {
            assert_eq!(client.next().await.unwrap().unwrap(), ": heartbeat\n");
        }
        assert_eq!(stream.end_reason(), None);
        stream.set_state(StreamState::Open);
        let (_, end) = client.read().await;
        assert!(end.is_ok());
        assert_eq!(stream.end_reason(), Some(EndReason::Rotated));
    }
}

#[tokio::test(start_paused = true)]
async fn drain_and_operator_end_a_stream_without_its_upstream() {
    use crate::stream::StreamState;
    for ends in [
        |registry: &StreamRegistry, _| registry.drain(Duration::from_secs(1)),
        |registry: &StreamRegistry, id| assert!(registry.end(id)),
    ] {
        let registry = StreamRegistry::new();
        let client = get(
            at_age(10).registry(&registry),
            ScriptedUpstream::new().hang(),
        )
        .await;
        let stream = client.stream();
        stream.set_state(StreamState::Resuming);
        let read = tokio::spawn(client.read());
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert_eq!(stream.end_reason(), None);
        ends(&registry, stream.id());
        read.await.unwrap().1.unwrap();
        assert_ne!(stream.end_reason(), Some(EndReason::Rotated));
    }
}

#[tokio::test(start_paused = true)]
async fn rotate_ends_streams_without_their_upstream_last() {
    use crate::stream::StreamState;
    let registry = StreamRegistry::new();
    let layer = || RotationLayer::new().registry(&registry);
    let waits = get(layer(), ScriptedUpstream::new().hang()).await;
    waits.stream().set_state(StreamState::Degraded);
    tokio::time::advance(Duration::from_secs(1)).await;
    let mut busy = get(layer(), ticking()).await;
    assert!(busy.next().await.unwrap().is_ok());
    assert_eq!(registry.rotate(1, Duration::from_secs(60)), 1);
    assert!(busy.stream().is_ending() && !waits.stream().is_ending());
    assert_eq!(registry.rotate(1, Duration::from_secs(60)), 1);
    assert!(waits.stream().is_ending());
}
