//! Delays between attempts, and when a stream gives up.

use super::*;

#[tokio::test(start_paused = true)]
async fn backoff_doubles_up_to_the_maximum_and_resets_after_a_stable_connection() {
    let fails = (0..60).map(|_| sends(1..=1).fail());
    let upstreams = Upstreams::new(fails.chain([
        sends(1..=1).wait(31).fail(),
        sends(1..=1).fail(),
        sends(2..=2),
    ]));
    let layer = ResumeLayer::new().give_up(MAX_DURATION);
    open(layer, &upstreams).await.text().await;
    let waits = upstreams.intervals();
    for (tries, wait) in waits[..60].iter().enumerate() {
        let max = Duration::from_secs(1 << tries.min(5)).min(Duration::from_secs(30));
        assert!(
            *wait <= max + Duration::from_millis(11),
            "{tries}: {wait:?}"
        );
    }
    let long = waits[10..60].iter().filter(|wait| wait.as_secs() >= 10);
    assert!(long.count() > 15);
    assert!(waits[60] <= Duration::from_secs(33), "{:?}", waits[60]);
    assert!(waits[61] <= Duration::from_secs(3), "{:?}", waits[61]);
}

#[tokio::test(start_paused = true)]
async fn retry_and_retry_after_are_minimum_delays() {
    let upstreams = Upstreams::new([
        sends(1..=1).send("retry: 7000\n\n").fail(),
        ScriptedUpstream::new()
            .status(429)
            .header("retry-after", "20"),
        sends(2..=2),
    ]);
    open(ResumeLayer::new(), &upstreams).await.text().await;
    let waits = upstreams.intervals();
    assert!(waits[0] >= Duration::from_secs(7), "{waits:?}");
    assert!(waits[1] >= Duration::from_secs(20), "{waits:?}");
    assert!(waits[1] <= Duration::from_secs(22), "{waits:?}");
}

#[tokio::test(start_paused = true)]
async fn retry_with_other_characters_than_digits_is_ignored() {
    for sent in ["+60000", "", " 60000", "6e4"] {
        let sent = format!("retry: {sent}\n\n");
        let upstreams = Upstreams::new([sends(1..=1).send(&sent).fail(), sends(2..=2)]);
        open(ResumeLayer::new(), &upstreams).await.text().await;
        assert!(
            upstreams.intervals()[0] < Duration::from_secs(2),
            "{sent:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn retry_after_applies_to_one_attempt_and_never_lowers_retry() {
    let throttled = |secs| {
        ScriptedUpstream::new()
            .status(503)
            .header("retry-after", secs)
    };
    let upstreams = Upstreams::new([
        sends(1..=1).send("retry: 5000\n\n").fail(),
        throttled("1"),
        throttled("60"),
        ScriptedUpstream::new().status(502),
        sends(2..=2),
    ]);
    let layer = ResumeLayer::new().backoff(Duration::from_secs(1), Duration::from_secs(1));
    open(layer, &upstreams).await.text().await;
    let waits = upstreams.intervals();
    let least = [5, 5, 60, 5].map(Duration::from_secs);
    for (wait, least) in waits.iter().zip(least) {
        assert!(*wait >= least, "{waits:?}");
        assert!(*wait <= least + Duration::from_millis(1_011), "{waits:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn delay_beyond_the_deadline_gives_up_at_once() {
    let digits = u64::MAX.to_string();
    let retry = format!("retry: {digits}\n\n");
    let too_long = format!("retry: {digits}0\n\n");
    for (sent, response) in [
        (retry.as_str(), ScriptedUpstream::new().status(503)),
        (
            "",
            ScriptedUpstream::new()
                .status(503)
                .header("retry-after", "18446744073709551615"),
        ),
    ] {
        for give_up in [Duration::from_secs(300), Duration::MAX] {
            let upstreams = Upstreams::new([sends(1..=1).send(sent).fail(), response.clone()]);
            let layer = ResumeLayer::new().give_up(give_up);
            let client = open(layer, &upstreams).await;
            let stream = client.stream();
            let (_, end) = client.read().await;
            assert!(end.is_err());
            assert!(stream.age() < Duration::from_secs(2), "{:?}", stream.age());
        }
    }
    let upstreams = Upstreams::new([sends(1..=1).send(&too_long).fail(), sends(2..=2)]);
    let text = open(ResumeLayer::new(), &upstreams).await.text().await;
    assert!(text.ends_with(&numbered(2..=2)));
}

#[tokio::test(start_paused = true)]
async fn flapping_upstream_without_new_events_counts_as_an_outage() {
    let flaps = (0..1_000).map(|_| ScriptedUpstream::new().send(": hello\n").wait(1).fail());
    let upstreams = Upstreams::new([sends(1..=1).fail()].into_iter().chain(flaps));
    let client = open(ResumeLayer::new(), &upstreams).await;
    let stream = client.stream();
    let (text, end) = client.read().await;
    assert_eq!(events(&text), numbered(1..=1));
    assert!(end.is_err());
    let age = stream.age().as_secs();
    assert!((240..=301).contains(&age), "{age}");
    let active = (1..=100).map(|id| sends(id..=id).wait(1).fail());
    let upstreams = Upstreams::new(active.chain([sends(101..=101)]));
    let client = open(ResumeLayer::new(), &upstreams).await;
    assert_eq!(events(&client.text().await), numbered(1..=101));
    // A stable connection resets the time to give up, too.
    let quiet = (0..20).map(|_| ScriptedUpstream::new().wait(31).fail());
    let quiet = [sends(1..=1).fail()].into_iter().chain(quiet);
    let upstreams = Upstreams::new(quiet.chain([sends(2..=2)]));
    let client = open(ResumeLayer::new(), &upstreams).await;
    assert_eq!(events(&client.text().await), numbered(1..=2));
}

#[tokio::test(start_paused = true)]
async fn exhausted_attempts_or_time_fail_with_the_original_error() {
    for layer in [
        ResumeLayer::new().attempts(4),
        ResumeLayer::new().give_up(Duration::from_secs(20)),
    ] {
        let upstreams = Upstreams::new([sends(1..=1).fail()]);
        let client = open(layer.clone(), &upstreams).await;
        let stream = client.stream();
        let (text, end) = client.read().await;
        assert_eq!(events(&text), numbered(1..=1));
        assert!(end.unwrap_err().to_string().contains("died"));
        assert_eq!(stream.end_reason(), Some(EndReason::UpstreamError));
        let requests = upstreams.ids().len();
        assert!(requests >= 3 && (requests == 5 || layer.config.attempts.is_none()));
    }
}

#[tokio::test(start_paused = true)]
async fn stream_is_degraded_after_three_failed_attempts() {
    let upstreams = Upstreams::new([sends(1..=1).fail()]);
    let mut client = open(ResumeLayer::new(), &upstreams).await;
    let stream = client.stream();
    let mut states = Vec::new();
    while upstreams.ids().len() < 6 {
        let _ = tokio::time::timeout(Duration::from_micros(100), client.next()).await;
        states.resize(upstreams.ids().len(), stream.state());
        states.pop();
        states.push(stream.state());
    }
    let (open, resuming) = (StreamState::Open, StreamState::Resuming);
    assert!(states[0] == open || states[0] == resuming);
    assert_eq!(states[1..3], [resuming; 2]);
    assert_eq!(states[3..], [StreamState::Degraded; 3]);
}
