//! The position of the client: where a stream continues, and which events are duplicates.

use super::*;

#[tokio::test(start_paused = true)]
async fn repeated_events_are_dropped_with_their_comments() {
    let upstreams = Upstreams::new([
        sends(1..=5).fail(),
        ScriptedUpstream::new()
            .send(&format!(": hello\n\n: again\n{}", numbered(1..=2)))
            .send(&format!("{}: back\n", numbered(3..=4)))
            .send(&numbered(5..=7))
            .fail(),
        sends(8..=8),
    ]);
    let client = open(ResumeLayer::new(), &upstreams).await;
    let text = client.text().await;
    // Comments of dropped events are dropped, too.
    let comments = text.lines().filter(|line| line.starts_with(": "));
    assert_eq!(comments.collect::<Vec<_>>(), [": hello", ": back"]);
    let text = text.replace(": hello\n\n", "");
    assert_eq!(events(&text), numbered(1..=8));
}

#[tokio::test(start_paused = true)]
async fn repeated_event_without_an_id_is_dropped() {
    let without = "data: a\n\n: c\n\ndata: b\r\n\r\n";
    let ping = "event: ping\ndata: {}\n\n";
    let upstreams = Upstreams::new([
        sends(1..=1).send(without).send(ping).fail(),
        ScriptedUpstream::new()
            .send(ping)
            .send(without)
            .send(ping)
            .send(&numbered(2..=2)),
    ]);
    let client = open(ResumeLayer::new().ignore_events(["ping"]), &upstreams).await;
    let text = client.text().await;
    for (once, times) in [("data: a", 1), ("data: b", 1), (ping, 3), ("id: 2", 1)] {
        assert_eq!(text.matches(once).count(), times, "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn numeric_ids_that_restart_beyond_the_window_end_the_stream() {
    let upstreams = Upstreams::new([sends(1..=9).fail(), sends(1..=2).hang()]);
    let client = open(ResumeLayer::new().dedup_window(4), &upstreams).await;
    let (text, end) = client.read().await;
    assert_eq!(events(&text), numbered(1..=9));
    assert!(end.unwrap_err().to_string().contains("ids restarted"));
    // Nothing after it passes, even in the same chunk.
    let upstreams = Upstreams::new([
        sends(1..=9).fail(),
        ScriptedUpstream::new()
            .send("id: 1\nda")
            .send("ta: 1\n\nid: 10\ndata: 10\n\n")
            .hang(),
    ]);
    let client = open(ResumeLayer::new().dedup_window(4), &upstreams).await;
    let (text, end) = client.read().await;
    assert_eq!((events(&text), end.is_err()), (numbered(1..=9), true));
}

#[tokio::test(start_paused = true)]
async fn stream_without_ids_fails_unless_lossy() {
    let script = || {
        [
            ScriptedUpstream::new().send("data: 1\n\n").fail(),
            sends(2..=2),
        ]
    };
    let upstreams = Upstreams::new(script());
    let (text, end) = open(ResumeLayer::new(), &upstreams).await.read().await;
    assert_eq!((text.as_str(), end.is_err()), ("data: 1\n\n", true));
    let half = ScriptedUpstream::new().send("data: 1\n\ndata").fail();
    let client = open(ResumeLayer::new(), &Upstreams::new([half])).await;
    let stream = client.stream();
    assert_eq!(client.read().await.0, "data: 1\n\n");
    assert_eq!(stream.dropped_bytes(), 4);
    let upstreams = Upstreams::new(script());
    let client = open(ResumeLayer::new().lossy(true), &upstreams).await;
    assert_eq!(
        events(&client.text().await),
        format!("data: 1\n\n{}", numbered(2..=2))
    );
    assert_eq!(upstreams.ids(), [None, None]);
}

#[tokio::test(start_paused = true)]
async fn stream_broken_before_its_first_event_is_requested_again_with_its_id() {
    let upstreams = Upstreams::new([
        ScriptedUpstream::new().send(": hello\n").fail(),
        ScriptedUpstream::new().fail(),
        sends(8..=8),
    ]);
    let mut request = get();
    let id = "7".parse().unwrap();
    request.headers_mut().insert(LAST_EVENT_ID, id);
    let client = open_with(ResumeLayer::new(), &upstreams, request).await;
    assert_eq!(events(&client.text().await), numbered(8..=8));
    let seven = || Some("7".to_owned());
    assert_eq!(upstreams.ids(), [seven(), seven(), seven()]);
}

#[tokio::test(start_paused = true)]
async fn client_with_an_incomplete_event_is_not_resumed() {
    let long = format!("id: 2\ndata: {}", "x".repeat(100_000));
    let upstreams = Upstreams::new([sends(1..=1).send(&long).fail(), sends(2..=2)]);
    let (text, end) = open(ResumeLayer::new(), &upstreams).await.read().await;
    assert!(text.len() > 100_000 && end.is_err());
    assert_eq!(upstreams.ids().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn truncated_id_is_never_sent() {
    for len in [1_020, 1_021, 1_024, 1_025, 1_500, 5_000] {
        for piece in [500, 1_000, 1_026, 70_000] {
            let id = "7".repeat(len);
            // It passes in pieces.
            let large = format!("id: {id}\ndata: {}\n\n", "x".repeat(80_000));
            let upstreams = Upstreams::new([
                in_pieces(ScriptedUpstream::new(), &large, piece).fail(),
                sends(8..=8),
            ]);
            let (text, end) = open(ResumeLayer::new(), &upstreams).await.read().await;
            let requests = upstreams.ids();
            match len <= 1_024 {
                true => assert_eq!(requests, [None, Some(id)], "{len} {piece}"),
                false => {
                    assert_eq!(requests, [None], "{len} {piece}");
                    assert!(text == large && end.is_err());
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn id_that_is_invalid_in_a_header_is_not_a_position() {
    let upstreams = Upstreams::new([
        sends(1..=1).send("id: \u{1}\ndata: x\n\n").fail(),
        sends(1..=1),
    ]);
    let (text, end) = open(ResumeLayer::new(), &upstreams).await.read().await;
    assert!(text.ends_with("data: x\n\n") && end.is_err());
    assert_eq!(upstreams.ids().len(), 1);
}
