//! Events larger than the aligner holds.

use super::*;

#[tokio::test(start_paused = true)]
async fn large_event_passes_once_it_is_known_to_be_new() {
    let data = "x".repeat(100_000);
    let large = |id: u32| format!("id: {id}\ndata: {data}");
    // After duplicates and after new events, in one chunk with them, and cut.
    for ahead in [numbered(2..=3), numbered(2..=4), numbered(4..=4)] {
        let chunk = format!("{ahead}{}", large(5));
        let upstreams = Upstreams::new([
            sends(1..=3).fail(),
            ScriptedUpstream::new().send(&chunk).send("yz\n\n"),
        ]);
        let text = open(ResumeLayer::new(), &upstreams).await.text().await;
        assert!(text.ends_with(&format!("{}yz\n\n", large(5))));
        assert_eq!(text.matches("id: 3").count(), 1);
    }
    // If no event can be a duplicate, it passes at once.
    let upstreams = Upstreams::new([
        ScriptedUpstream::new().send("data: 1\n\n").fail(),
        ScriptedUpstream::new().send(&large(4)).send("\n\n"),
    ]);
    let client = open(ResumeLayer::new().lossy(true), &upstreams).await;
    assert!(client.text().await.ends_with(&format!("{}\n\n", large(4))));
}

#[tokio::test(start_paused = true)]
async fn large_event_is_classified_by_its_id_at_any_line() {
    let data = "x".repeat(150_000);
    let first = |id: u32| format!("id: {id}\ndata: {data}\n\n");
    let last = |id: u32| format!("event: e\ndata: {data}\nid: {id}\n\n");
    let line_ends = |id: u32| first(id).replace('\n', "\r\n");
    let forms: [&dyn Fn(u32) -> String; 3] = [&first, &last, &line_ends];
    for large in forms {
        for len in [1_000, 16_384, 70_000, 1_000_000] {
            // It is the last delivered one, the one before, new, or several of these.
            for repeated in [3..4, 2..4, 4..4] {
                let sent: String = (1..=3).map(large).collect();
                let goes_on = repeated.chain(4..=5).map(large).collect::<String>();
                let whole = (1..=5).map(large).collect::<String>();
                let upstreams = Upstreams::new([
                    in_pieces(ScriptedUpstream::new(), &sent, len).fail(),
                    in_pieces(ScriptedUpstream::new(), &goes_on, len),
                ]);
                let client = open(ResumeLayer::new(), &upstreams).await;
                let text = events(&client.text().await);
                assert!(text == whole, "{} of {} bytes", text.len(), whole.len());
                assert_eq!(upstreams.ids(), [None, Some("3".to_owned())]);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn upstream_lost_within_a_large_duplicate_is_resumed_again() {
    let data = "x".repeat(150_000);
    for large in [
        |id: u32, data: &str| format!("id: {id}\ndata: {data}\n\n"),
        |id: u32, data: &str| format!("data: {data}\nid: {id}\n\n"),
    ] {
        let half = large(1, &data)[..100_000].to_owned();
        let upstreams = Upstreams::new([
            ScriptedUpstream::new().send(&large(1, &data)).fail(),
            in_pieces(ScriptedUpstream::new(), &half, 10_000).fail(),
            in_pieces(
                ScriptedUpstream::new(),
                &(large(1, &data) + &large(2, &data)),
                10_000,
            ),
        ]);
        let text = open(ResumeLayer::new(), &upstreams).await.text().await;
        assert!(events(&text) == large(1, &data) + &large(2, &data));
    }
}

#[tokio::test(start_paused = true)]
async fn bytes_held_until_the_id_line_count_as_held() {
    let part = format!("data: {}", "x".repeat(700_000));
    let goes_on = in_pieces(ScriptedUpstream::new(), &part, 50_000)
        .wait(10)
        .fail();
    let upstreams = Upstreams::new([sends(1..=1).fail(), goes_on, sends(2..=2)]);
    let client = open(ResumeLayer::new(), &upstreams).await;
    let stream = client.stream();
    let reader = tokio::spawn(async move { client.text().await });
    tokio::time::sleep(Duration::from_secs(5)).await;
    let held = stream.held_bytes();
    assert!((700_000..1_500_000).contains(&held), "{held}");
    // They are dropped with their connection.
    assert!(events(&reader.await.unwrap()) == numbered(1..=2));
    assert!(stream.held_bytes() < 10_000, "{}", stream.held_bytes());
}

#[tokio::test(start_paused = true)]
async fn large_event_without_an_id_in_its_first_mib_fails_the_stream() {
    let upstreams = Upstreams::new([
        sends(1..=1).fail(),
        in_pieces(
            ScriptedUpstream::new(),
            &format!("data: {}", "x".repeat(1_200_000)),
            50_000,
        ),
    ]);
    let (text, end) = open(ResumeLayer::new(), &upstreams).await.read().await;
    assert_eq!(events(&text), numbered(1..=1));
    assert!(end.unwrap_err().to_string().contains("first MiB"));
}

#[tokio::test(start_paused = true)]
async fn large_event_without_an_id_is_not_a_position() {
    // It came in pieces, so a duplicate would not be recognised.
    let large = format!("data: {}\n\n", "x".repeat(150_000));
    let upstreams = Upstreams::new([in_pieces(sends(1..=1), &large, 10_000).fail(), sends(2..=2)]);
    let (text, end) = open(ResumeLayer::new(), &upstreams).await.read().await;
    assert!(text == numbered(1..=1) + &large && end.is_err());
    // The next id is a position again.
    let upstreams = Upstreams::new([
        in_pieces(sends(1..=1), &large, 10_000)
            .send(&numbered(2..=2))
            .fail(),
        sends(3..=3),
    ]);
    let client = open(ResumeLayer::new(), &upstreams).await;
    let text = events(&client.text().await);
    assert!(text == numbered(1..=1) + &large + &numbered(2..=3));
}
