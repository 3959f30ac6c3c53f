//! Outages: probes, waiting streams, and the time until all have resumed.

use super::*;

#[tokio::test(start_paused = true)]
async fn only_failed_connections_make_an_upstream_unreachable() {
    let unreachable = || {
        ScriptedUpstream::new()
            .status(502)
            .extension(reconnect::Unreachable)
    };
    for (fails, ends, is_away) in [
        (
            Some(ScriptedUpstream::new().status(503)),
            ScriptedUpstream::new().status(404),
            false,
        ),
        (
            Some(unreachable()),
            ScriptedUpstream::new().status(404),
            true,
        ),
        (None, sends(2..=2), true),
    ] {
        let queue = Admission::default();
        let upstreams = Upstreams::responding(move |request, _| match request {
            0 => Some(sends(1..=1).fail()),
            1..=5 => fails.clone(),
            _ => Some(ends.clone()),
        });
        let layer = ResumeLayer::new().admission(&queue);
        let client = open(layer, &upstreams).await;
        let client = tokio::spawn(client.read());
        while upstreams.ids().len() < 6 {
            assert!(!queue.is_broken() || upstreams.ids().len() >= 4);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(queue.is_broken(), is_away);
        client.await.unwrap().1.unwrap();
        assert!(!queue.is_broken());
    }
}

/// An upstream that is away until `back` and numbers its events, for any number of streams.
fn away_until(back: Instant, failure: Option<ScriptedUpstream>) -> Upstreams {
    Upstreams::responding(move |_, id| match id {
        None => Some(sends(1..=1).wait(1).fail()),
        Some(_) if Instant::now() < back => failure.clone(),
        Some(_) => Some(sends(2..=2)),
    })
}

#[tokio::test(start_paused = true)]
async fn sole_stream_resumes_within_1s_of_its_upstream_and_thirty_within_2s() {
    for failure in [None, Some(ScriptedUpstream::new().status(503))] {
        for (streams, max) in [(1, 1_000), (30, 2_000)] {
            // For outages of any length.
            for away in [0, 500, 1_234, 5_000, 20_000, 100_000, 290_000] {
                let back = Instant::now() + Duration::from_millis(1_000 + away);
                let upstreams = away_until(back, failure.clone());
                let layer = ResumeLayer::new();
                let clients = (0..streams).map(|_| open(layer.clone(), &upstreams));
                let mut reads = Vec::new();
                for client in clients {
                    reads.push(tokio::spawn(client.await.text()));
                }
                for read in reads {
                    assert_eq!(events(&read.await.unwrap()), numbered(1..=2));
                }
                let took = back.elapsed().as_millis();
                assert!(
                    took <= max,
                    "{took} ms, {streams} streams, away for {away} ms"
                );
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn stream_resumes_within_1s_after_each_outage() {
    let start = Instant::now();
    // Away for 4 of each 10 seconds.
    let is_up = move || start.elapsed().as_millis() % 10_000 >= 4_000;
    let upstreams = Upstreams::responding(move |_, id| {
        let next = id.map_or(1, |id| id.parse::<u32>().unwrap() + 1);
        let left = 10 - start.elapsed().as_secs() % 10;
        // A quiet stream: one event in total.
        let quiet = ScriptedUpstream::new().wait(left).fail();
        match next {
            1 => Some(sends(1..=1).wait(left).fail()),
            _ if !is_up() => None,
            _ if start.elapsed().as_secs() > 100 => Some(sends(2..=2)),
            _ => Some(quiet),
        }
    });
    let client = open(
        ResumeLayer::new()
            .reset_after(MAX_DURATION)
            .give_up(MAX_DURATION),
        &upstreams,
    )
    .await;
    client.text().await;
    let state = upstreams.0.lock().unwrap();
    let resumed = state.requests.iter().map(|(_, at)| *at - start);
    let back: Vec<_> = resumed
        .filter(|at| at.as_millis() % 10_000 >= 4_000)
        .collect();
    assert_eq!(back.len(), 10, "{back:?}");
    for at in back {
        assert!(at.as_millis() % 10_000 <= 5_000, "{at:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn slow_response_blocks_the_queue_for_2s() {
    let queue = Admission::new(Duration::ZERO, 1);
    let layer = ResumeLayer::new().admission(&queue);
    let upstreams = Upstreams::new([sends(1..=1).fail(), sends(2..=2).late(60)]);
    let mut first = open(layer.clone(), &upstreams).await;
    assert_eq!(first.next().await.unwrap().unwrap(), numbered(1..=1));
    let first = tokio::spawn(first.text());
    while upstreams.ids().len() < 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let requests = Instant::now();
    let others = Upstreams::new([sends(1..=1).fail(), sends(2..=2)]);
    let client = open(layer, &others).await;
    assert_eq!(events(&client.text().await), numbered(1..=2));
    let took = requests.elapsed();
    assert!(
        took > Duration::from_secs(1) && took < Duration::from_secs(3),
        "{took:?}"
    );
    assert_eq!(events(&first.await.unwrap()), numbered(2..=2));
}

#[tokio::test(start_paused = true)]
async fn failed_first_request_opens_a_stream_with_wait_for_upstream() {
    let waits = || ResumeLayer::new().wait_for_upstream(true);
    for failure in [
        None,
        Some(ScriptedUpstream::new().status(503)),
        Some(ScriptedUpstream::new().status(500)),
    ] {
        let upstreams = Upstreams::responding(move |request, id| match (request, id) {
            (0..10, _) => failure.clone(),
            (10, _) => Some(sends(8..=8).fail()),
            _ => Some(sends(9..=9)),
        });
        let mut request = get();
        let id = "7".parse().unwrap();
        request.headers_mut().insert(LAST_EVENT_ID, id);
        let client = open_with(waits(), &upstreams, request).await;
        let stream = client.stream();
        assert_eq!(client.status(), 200);
        assert_eq!(client.headers()["content-type"], "text/event-stream");
        assert_eq!(stream.state(), StreamState::Resuming);
        assert_eq!(events(&client.text().await), numbered(8..=9));
        assert_eq!(stream.end_reason(), Some(EndReason::UpstreamEnd));
        let ids = upstreams.ids();
        assert!(ids[..=10].iter().all(|id| id.as_deref() == Some("7")));
        assert_eq!(ids[11].as_deref(), Some("8"));
    }
}

#[tokio::test(start_paused = true)]
async fn stream_opened_without_an_upstream_gets_heartbeats_until_give_up() {
    let layer = ResumeLayer::new().wait_for_upstream(true);
    let upstreams = Upstreams::respond_by(|_, _| ScriptedUpstream::new().status(502));
    let client = open(layer.clone(), &upstreams).await;
    let stream = client.stream();
    let (text, end) = client.read().await;
    assert!(text.matches(": heartbeat\n").count() >= 19, "{text}");
    assert!(end.unwrap_err().to_string().contains("502"));
    assert_eq!(stream.age().as_secs(), 300);
    assert_eq!(stream.end_reason(), Some(EndReason::UpstreamError));
    // Its upstream sends a `Retry-After`.
    let upstreams = Upstreams::new([
        ScriptedUpstream::new()
            .status(503)
            .header("retry-after", "40"),
        ScriptedUpstream::new(),
    ]);
    open(layer.clone(), &upstreams).await.text().await;
    let waited = upstreams.intervals()[0].as_secs();
    assert!((40..=41).contains(&waited), "{waited}");
    // A later response that is not a stream becomes its last event.
    let upstreams = Upstreams::new([
        ScriptedUpstream::new().status(503),
        ScriptedUpstream::new().status(404),
    ]);
    let text = open(layer, &upstreams).await.text().await;
    assert!(
        text.contains("event: error\n") && text.contains("404"),
        "{text}"
    );
}

#[tokio::test(start_paused = true)]
async fn other_requests_and_failures_do_not_wait_for_the_upstream() {
    let layer = || ResumeLayer::new().wait_for_upstream(true);
    let mut page = get();
    page.headers_mut()
        .insert("accept", "text/html".parse().unwrap());
    let mut post = get();
    *post.method_mut() = http::Method::POST;
    for (layer, request, status) in [
        (layer(), page, 503),
        (layer(), post, 503),
        (layer().enabled(false), get(), 503),
        (ResumeLayer::new(), get(), 503),
        (layer(), get(), 404),
        (layer(), get(), 429),
        (layer(), get(), 204),
        (layer(), get(), 501),
    ] {
        let upstreams = Upstreams::respond_by(move |_, _| ScriptedUpstream::new().status(status));
        let client = open_with(layer, &upstreams, request).await;
        assert_eq!(client.status(), status);
        client.read().await.1.unwrap();
        assert_eq!(upstreams.ids().len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn streams_opened_without_an_upstream_share_the_queue() {
    let queue = Admission::new(Duration::from_millis(10), 32);
    let back = Instant::now() + Duration::from_secs(60);
    let upstreams =
        Upstreams::responding(move |_, _| (Instant::now() >= back).then(|| sends(1..=1).hang()));
    let mut clients = Vec::new();
    for _ in 0..100 {
        let layer = ResumeLayer::new().wait_for_upstream(true).admission(&queue);
        let mut client = open(layer, &upstreams).await;
        clients.push(tokio::spawn(async move {
            while client.next().await.unwrap().unwrap() != numbered(1..=1) {}
        }));
    }
    for client in clients {
        client.await.unwrap();
    }
    let took = back.elapsed();
    assert!(took >= Duration::from_millis(990), "{took:?}");
    assert!(took <= Duration::from_secs(2), "{took:?}");
    // One or two per second for all of them.
    let requests = upstreams.ids().len();
    assert!((250..=330).contains(&requests), "{requests}");
}
