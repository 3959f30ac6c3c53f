use super::*;
use crate::family::Family;
use crate::guard::testing::{ScriptedUpstream, get, send_request};
use http::Version;
use std::time::{SystemTime, UNIX_EPOCH};

fn every(secs: u64) -> HeartbeatLayer {
    HeartbeatLayer::new(Duration::from_secs(secs))
}

#[tokio::test(start_paused = true)]
async fn heartbeat_is_sent_each_interval_of_silence() {
    let upstream = ScriptedUpstream::new()
        .send("data: 1\n\n")
        .wait(35)
        .send("data: 2\n\n");
    let seen = get(every(10), upstream).await.timed().await;
    assert_eq!(
        seen,
        [
            (0, "data: 1\n\n".to_owned()),
            (10, ": heartbeat\n".to_owned()),
            (20, ": heartbeat\n".to_owned()),
            (30, ": heartbeat\n".to_owned()),
            (35, "data: 2\n\n".to_owned()),
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn heartbeats_of_streams_are_sent_at_common_times() {
    let layer = every(128).immediate(false);
    let mut times = Vec::new();
    for pause in [100, 300, 450, 900] {
        tokio::time::sleep(Duration::from_millis(pause)).await;
        let start = Instant::now();
        let mut stream = get(layer.clone(), ScriptedUpstream::new().wait(129)).await;
        stream.next().await.unwrap().unwrap();
        let silence = start.elapsed();
        assert!(silence <= Duration::from_secs(128), "{silence:?}");
        assert!(silence > Duration::from_secs(127), "{silence:?}");
        times.push((start + silence - layer.beat.since).as_millis());
    }
    assert!(times.iter().all(|time| time % 1000 == 0), "{times:?}");
}

#[tokio::test(start_paused = true)]
async fn heartbeat_is_not_sent_while_events_flow() {
    let upstream = ScriptedUpstream::new()
        .send("data: 1\n\n")
        .wait(9)
        .send("data: 2\n\n")
        .wait(9);
    assert_eq!(
        get(every(10), upstream).await.text().await,
        "data: 1\n\ndata: 2\n\n"
    );
}

#[tokio::test(start_paused = true)]
async fn heartbeat_precedes_a_held_incomplete_event() {
    let upstream = ScriptedUpstream::new()
        .send("data: a\n\ndata: b")
        .wait(10)
        .send("\n\n");
    let text = get(every(10).immediate(false), upstream.clone())
        .await
        .text()
        .await;
    assert!(!text.contains("data: b:"), "{text:?}");
    let text = get(every(7), upstream).await.text().await;
    assert_eq!(text, "data: a\n\n: heartbeat\ndata: b\n\n");
}

#[tokio::test(start_paused = true)]
async fn heartbeat_does_not_interrupt_an_event_over_the_bound() {
    let big = format!("data: {}", "x".repeat(70_000));
    let upstream = ScriptedUpstream::new()
        .send(&big)
        .wait(100)
        .send("\n\n")
        .wait(15);
    let text = get(every(10), upstream).await.text().await;
    assert_eq!(text, format!("{big}\n\n: heartbeat\n"));
}

#[tokio::test(start_paused = true)]
async fn heartbeat_has_the_line_end_of_the_stream() {
    for end in ["\n", "\r\n", "\r"] {
        let event = format!("data: 1{end}{end}");
        let upstream = ScriptedUpstream::new().send(&event).wait(15);
        let text = get(every(10), upstream).await.text().await;
        assert_eq!(text, format!("{event}: heartbeat{end}"));
    }
}

#[tokio::test(start_paused = true)]
async fn first_heartbeat_can_be_immediate() {
    let upstream = ScriptedUpstream::new().wait(5).send("data: 1\n\n");
    let seen = get(every(10).immediate(true), upstream).await.timed().await;
    assert_eq!(seen[0], (0, ": heartbeat\n".to_owned()));
    assert_eq!(seen[1], (5, "data: 1\n\n".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn first_heartbeat_is_immediate_by_family() {
    let first = async |layer: HeartbeatLayer, family: Family| {
        let mut request = Request::new(());
        request.extensions_mut().insert(family);
        let upstream = ScriptedUpstream::new().wait(5).send("data: 1\n\n");
        let seen = send_request(layer, request, upstream).await.timed().await;
        seen[0].clone()
    };
    let beat = (0, ": heartbeat\n".to_owned());
    let event = (5, "data: 1\n\n".to_owned());
    for &family in Family::ALL {
        let at_once = matches!(family, Family::EventSource | Family::Mcp);
        let expected = if at_once { &beat } else { &event };
        assert_eq!(first(every(10), family).await, *expected, "{family:?}");
        assert_eq!(first(every(10).immediate(true), family).await.0, 0);
        assert_eq!(first(every(10).immediate(false), family).await, event);
    }
}

#[tokio::test(start_paused = true)]
async fn first_heartbeat_is_immediate_over_http2_for_every_family() {
    for &family in Family::ALL {
        let mut request = Request::new(());
        *request.version_mut() = Version::HTTP_2;
        request.extensions_mut().insert(family);
        let upstream = ScriptedUpstream::new().wait(5).send("data: 1\n\n");
        let response = send_request(every(10), request, upstream).await;
        assert_eq!(response.timed().await[0].0, 0, "{family:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn event_with_the_head_precedes_the_first_heartbeat() {
    let upstream = ScriptedUpstream::new().send("data: 1\n\n").wait(5);
    let text = get(every(10), upstream).await.text().await;
    assert_eq!(text, "data: 1\n\n");
}

#[tokio::test(start_paused = true)]
async fn byte_order_mark_after_the_first_heartbeat_is_removed() {
    for cut in 0..=3 {
        let mark = [0xEF, 0xBB, 0xBF];
        let upstream = ScriptedUpstream::new()
            .send_bytes(&mark[..cut])
            .wait(1)
            .send_bytes(&[&mark[cut..], b"data: 1\r\n\r\n"].concat())
            .wait(12);
        let text = get(every(10), upstream).await.text().await;
        let expected = ": heartbeat\ndata: 1\r\n\r\n: heartbeat\r\n";
        assert_eq!(text, expected, "{cut}");
    }
}

#[tokio::test(start_paused = true)]
async fn heartbeat_styles_have_their_documented_form() {
    for (style, expected) in [
        (HeartbeatStyle::line(""), ":\n"),
        (HeartbeatStyle::block("hi"), ": hi\n\n"),
        (
            Ok(HeartbeatStyle::event(&Event::new("ping", "{}").unwrap())),
            "event: ping\ndata: {}\n\n",
        ),
    ] {
        let upstream = ScriptedUpstream::new().wait(15);
        let layer = every(10).style(style.unwrap()).immediate(false);
        assert_eq!(get(layer, upstream).await.text().await, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn heartbeat_event_has_its_sending_time() {
    let style = HeartbeatStyle::event(&Event::new("ping", r#"{"now":{now}}"#).unwrap());
    let upstream = ScriptedUpstream::new().send("data: 1\r\n\r\n").wait(25);
    let before = SystemTime::now();
    let text = get(every(10).style(style), upstream).await.text().await;
    let after = SystemTime::now();
    let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap().as_secs();
    let mut rest = text.strip_prefix("data: 1\r\n\r\n").unwrap();
    for _ in 0..2 {
        rest = rest.strip_prefix("event: ping\r\ndata: {\"now\":").unwrap();
        let (now, behind) = rest.split_once("}\r\n\r\n").unwrap();
        let now = now.parse::<u64>().unwrap();
        assert!((seconds(before)..=seconds(after)).contains(&now), "{now}");
        rest = behind;
    }
    assert_eq!(rest, "");
}

#[tokio::test(start_paused = true)]
async fn heartbeat_is_the_ping_of_the_family_unless_a_style_is_set() {
    let ping = "event: ping\ndata: {\"type\": \"ping\"}\n\n";
    for (family, layer, expected) in [
        (Family::Anthropic, every(10), ping),
        (Family::OpenAi, every(10), ": heartbeat\n"),
        (
            Family::Anthropic,
            every(10).style(HeartbeatStyle::line("x").unwrap()),
            ": x\n",
        ),
    ] {
        let mut request = Request::new(());
        request.extensions_mut().insert(family);
        let response = send_request(layer, request, ScriptedUpstream::new().wait(15)).await;
        assert_eq!(response.text().await, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn other_responses_pass_untouched() {
    let upstream = ScriptedUpstream::new()
        .content_type("text/plain")
        .send("a")
        .wait(60)
        .send("b");
    let response = get(every(10), upstream).await;
    assert!(!response.headers().contains_key("x-accel-buffering"));
    assert_eq!(response.text().await, "ab");
}
