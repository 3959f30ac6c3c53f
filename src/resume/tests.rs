mod outage;
mod replacement;

use super::*;
use crate::guard::testing::{Client, Script, Upstream};
use crate::heartbeat::HeartbeatLayer;
use crate::idle_timeout::{IdleAction, IdleTimeoutLayer};
use crate::last_event_id::LAST_EVENT_ID;
use crate::stream::{EndReason, StreamState};
use crate::{SseGuardLayer, StreamError};
use http_body_util::{BodyExt, Empty};
use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use std::collections::VecDeque;
use std::io;
use std::sync::Mutex;
use tower::ServiceExt;

pub(super) type Asks = Request<Empty<Bytes>>;

/// Given how often it was asked before, and with which id.
type Answer = dyn FnMut(usize, Option<&str>) -> Option<Upstream> + Send;

/// Answers each request, or fails.
#[derive(Clone)]
pub(super) struct Upstreams(Arc<Mutex<State>>);

struct State {
    answer: Box<Answer>,
    /// With which ids it was asked, and when.
    asked: Vec<(Option<String>, Instant)>,
}

impl Upstreams {
    /// With the next script, and fails when there are none left.
    fn new(scripts: impl IntoIterator<Item = Upstream>) -> Self {
        let mut scripts: VecDeque<_> = scripts.into_iter().collect();
        Self::answering(move |_, _| scripts.pop_front())
    }

    pub(super) fn by(
        mut answer: impl FnMut(usize, Option<&str>) -> Upstream + Send + 'static,
    ) -> Self {
        Self::answering(move |asked, id| Some(answer(asked, id)))
    }

    fn answering(
        answer: impl FnMut(usize, Option<&str>) -> Option<Upstream> + Send + 'static,
    ) -> Self {
        Self(Arc::new(Mutex::new(State {
            answer: Box::new(answer),
            asked: Vec::new(),
        })))
    }

    fn ids(&self) -> Vec<Option<String>> {
        let state = self.0.lock().unwrap();
        state.asked.iter().map(|(id, _)| id.clone()).collect()
    }

    /// Between each time it was asked and the next.
    fn waits(&self) -> Vec<Duration> {
        let state = self.0.lock().unwrap();
        let pairs = state.asked.windows(2);
        pairs.map(|pair| pair[1].1 - pair[0].1).collect()
    }
}

impl Service<Asks> for Upstreams {
    type Response = Response<Script>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Script>, io::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Asks) -> Self::Future {
        let state = &mut *self.0.lock().unwrap();
        let id = request.headers().get(LAST_EVENT_ID);
        let id = id.map(|id| String::from_utf8(id.as_bytes().to_vec()).unwrap());
        let script = (state.answer)(state.asked.len(), id.as_deref());
        state.asked.push((id, Instant::now()));
        Box::pin(async move {
            match script {
                Some(script) => Ok(script.answer().await),
                None => Err(io::Error::other("away")),
            }
        })
    }
}

pub(super) fn get() -> Asks {
    let request = Request::get("/").header("accept", "text/event-stream");
    request.body(Empty::new()).unwrap()
}

async fn open_with(layer: ResumeLayer, upstreams: &Upstreams, request: Asks) -> Client {
    let guard = SseGuardLayer::new().heartbeat(HeartbeatLayer::new(Duration::from_secs(15)));
    let service = guard.layer(layer.layer(upstreams.clone()));
    Client::new(service.oneshot(request).await.unwrap())
}

async fn open(layer: ResumeLayer, upstreams: &Upstreams) -> Client {
    open_with(layer, upstreams, get()).await
}

/// What a client gets that ignores comments.
fn events(text: &str) -> String {
    let lines = text.split_inclusive('\n');
    lines.filter(|line| !line.starts_with(':')).collect()
}

fn numbered(ids: impl IntoIterator<Item = u32>) -> String {
    let event = |id: u32| format!("id: {id}\ndata: {id}\n\n");
    ids.into_iter().map(event).collect()
}

fn sends(ids: impl IntoIterator<Item = u32>) -> Upstream {
    Upstream::new().send(&numbered(ids))
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_breaks_off_goes_on_behind_the_last_whole_event() {
    let upstreams = Upstreams::new([
        sends(1..=3).send("id: 4\ndata: ha").fail(),
        sends(4..=5).fail(),
        sends(6..=6),
    ]);
    let client = open(ResumeLayer::new(), &upstreams).await;
    let stream = client.stream();
    assert_eq!(events(&client.text().await), numbered(1..=6));
    let ids = upstreams.ids();
    assert_eq!(ids, [None, Some("3".into()), Some("5".into())]);
    assert_eq!(stream.end_reason(), Some(EndReason::UpstreamEnd));
    assert_eq!((stream.events(), stream.dropped_bytes()), (6, 14));
}

#[tokio::test(start_paused = true)]
async fn its_client_hears_heartbeats_meanwhile() {
    let limited = || Upstream::new().status(503).header("retry-after", "60");
    let upstreams = Upstreams::new([sends(1..=1).fail(), limited(), sends(2..=2)]);
    let mut client = open(ResumeLayer::new(), &upstreams).await;
    let stream = client.stream();
    assert_eq!(client.next().await.unwrap().unwrap(), numbered(1..=1));
    assert_eq!(stream.state(), StreamState::Open);
    assert_eq!(client.next().await.unwrap().unwrap(), ": heartbeat\n");
    assert_eq!(stream.state(), StreamState::Resuming);
    let mut text = String::new();
    while !text.ends_with(&numbered(2..=2)) {
        text.push_str(&client.next().await.unwrap().unwrap());
    }
    assert!(text.matches(": heartbeat\n").count() >= 3, "{text}");
    assert_eq!(events(&text), numbered(2..=2));
    assert_eq!(stream.state(), StreamState::Open);
    assert_eq!(client.text().await, "");
    assert_eq!(stream.state(), StreamState::Closed);
}

#[tokio::test(start_paused = true)]
async fn what_the_upstream_repeats_is_dropped() {
    let upstreams = Upstreams::new([
        sends(1..=5).fail(),
        Upstream::new()
            .send(&format!(": hello\n\n: again\n{}", numbered(1..=2)))
            .send(&format!("{}: back\n", numbered(3..=4)))
            .send(&numbered(5..=7))
            .fail(),
        sends(8..=8),
    ]);
    let client = open(ResumeLayer::new(), &upstreams).await;
    let text = client.text().await;
    // With its comments, but those of what is dropped.
    let comments = text.lines().filter(|line| line.starts_with(": "));
    assert_eq!(comments.collect::<Vec<_>>(), [": hello", ": back"]);
    let text = text.replace(": hello\n\n", "");
    assert_eq!(events(&text), numbered(1..=8));
}

#[tokio::test(start_paused = true)]
async fn numbers_that_start_anew_beyond_the_look_back_end_the_stream() {
    let upstreams = Upstreams::new([sends(1..=9).fail(), sends(1..=2).hang()]);
    let client = open(ResumeLayer::new().dedup_window(4), &upstreams).await;
    let (text, end) = client.read().await;
    assert_eq!(events(&text), numbered(1..=9));
    assert!(end.unwrap_err().to_string().contains("ids restarted"));
    // Nothing that follows is let through, even if it came with it.
    let upstreams = Upstreams::new([
        sends(1..=9).fail(),
        Upstream::new()
            .send("id: 1\nda")
            .send("ta: 1\n\nid: 10\ndata: 10\n\n")
            .hang(),
    ]);
    let client = open(ResumeLayer::new().dedup_window(4), &upstreams).await;
    let (text, end) = client.read().await;
    assert_eq!((events(&text), end.is_err()), (numbered(1..=9), true));
}

#[tokio::test(start_paused = true)]
async fn without_ids_it_fails_as_it_would_have_unless_told_that_nobody_minds() {
    let script = || [Upstream::new().send("data: 1\n\n").fail(), sends(2..=2)];
    let upstreams = Upstreams::new(script());
    let (text, end) = open(ResumeLayer::new(), &upstreams).await.read().await;
    assert_eq!((text.as_str(), end.is_err()), ("data: 1\n\n", true));
    let half = Upstream::new().send("data: 1\n\ndata").fail();
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
async fn one_that_breaks_off_before_its_first_event_is_asked_for_it_again() {
    let upstreams = Upstreams::new([
        Upstream::new().send(": hello\n").fail(),
        Upstream::new().fail(),
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
async fn a_client_that_has_half_of_an_event_gets_no_other_behind_it() {
    let long = format!("id: 2\ndata: {}", "x".repeat(100_000));
    let upstreams = Upstreams::new([sends(1..=1).send(&long).fail(), sends(2..=2)]);
    let (text, end) = open(ResumeLayer::new(), &upstreams).await.read().await;
    assert!(text.len() > 100_000 && end.is_err());
    assert_eq!(upstreams.ids().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_large_event_passes_once_it_is_known_to_be_new() {
    let data = "x".repeat(100_000);
    let large = |id: u32| format!("id: {id}\ndata: {data}");
    // Behind repeats and behind news, in one chunk with them, and cut.
    for ahead in [numbered(2..=3), numbered(2..=4), numbered(4..=4)] {
        let chunk = format!("{ahead}{}", large(5));
        let upstreams = Upstreams::new([
            sends(1..=3).fail(),
            Upstream::new().send(&chunk).send("yz\n\n"),
        ]);
        let text = open(ResumeLayer::new(), &upstreams).await.text().await;
        assert!(text.ends_with(&format!("{}yz\n\n", large(5))));
        assert_eq!(text.matches("id: 3").count(), 1);
    }
    // Where nothing could be a repeat it passes at once.
    let upstreams = Upstreams::new([
        Upstream::new().send("data: 1\n\n").fail(),
        Upstream::new().send(&large(4)).send("\n\n"),
    ]);
    let client = open(ResumeLayer::new().lossy(true), &upstreams).await;
    assert!(client.text().await.ends_with(&format!("{}\n\n", large(4))));
}

/// Sends these bytes in pieces of this length.
fn in_pieces(upstream: Upstream, bytes: &str, len: usize) -> Upstream {
    let pieces = bytes.as_bytes().chunks(len);
    pieces.fold(upstream, |upstream, piece| upstream.send_bytes(piece))
}

#[tokio::test(start_paused = true)]
async fn a_large_event_that_may_be_a_repeat_is_judged_by_its_id_wherever_that_stands() {
    let data = "x".repeat(150_000);
    let first = |id: u32| format!("id: {id}\ndata: {data}\n\n");
    let last = |id: u32| format!("event: e\ndata: {data}\nid: {id}\n\n");
    let line_ends = |id: u32| first(id).replace('\n', "\r\n");
    let forms: [&dyn Fn(u32) -> String; 3] = [&first, &last, &line_ends];
    for large in forms {
        for len in [1_000, 16_384, 70_000, 1_000_000] {
            // It is the last that the client has, one before it, or new, or several of that.
            for repeated in [3..4, 2..4, 4..4] {
                let sent: String = (1..=3).map(large).collect();
                let goes_on = repeated.chain(4..=5).map(large).collect::<String>();
                let whole = (1..=5).map(large).collect::<String>();
                let upstreams = Upstreams::new([
                    in_pieces(Upstream::new(), &sent, len).fail(),
                    in_pieces(Upstream::new(), &goes_on, len),
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
async fn an_upstream_that_is_lost_in_a_large_repeat_can_be_resumed_again() {
    let data = "x".repeat(150_000);
    for large in [
        |id: u32, data: &str| format!("id: {id}\ndata: {data}\n\n"),
        |id: u32, data: &str| format!("data: {data}\nid: {id}\n\n"),
    ] {
        let half = large(1, &data)[..100_000].to_owned();
        let upstreams = Upstreams::new([
            Upstream::new().send(&large(1, &data)).fail(),
            in_pieces(Upstream::new(), &half, 10_000).fail(),
            in_pieces(
                Upstream::new(),
                &(large(1, &data) + &large(2, &data)),
                10_000,
            ),
        ]);
        let text = open(ResumeLayer::new(), &upstreams).await.text().await;
        assert!(events(&text) == large(1, &data) + &large(2, &data));
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_held_of_an_event_until_its_id_comes_counts_as_held() {
    let part = format!("data: {}", "x".repeat(700_000));
    let goes_on = in_pieces(Upstream::new(), &part, 50_000).wait(10).fail();
    let upstreams = Upstreams::new([sends(1..=1).fail(), goes_on, sends(2..=2)]);
    let client = open(ResumeLayer::new(), &upstreams).await;
    let stream = client.stream();
    let reader = tokio::spawn(async move { client.text().await });
    tokio::time::sleep(Duration::from_secs(5)).await;
    let held = stream.held_bytes();
    assert!((700_000..1_500_000).contains(&held), "{held}");
    // It is dropped with its connection.
    assert!(events(&reader.await.unwrap()) == numbered(1..=2));
    assert!(stream.held_bytes() < 10_000, "{}", stream.held_bytes());
}

#[tokio::test(start_paused = true)]
async fn a_large_event_without_an_id_in_its_first_mib_is_not_guessed_about() {
    let upstreams = Upstreams::new([
        sends(1..=1).fail(),
        in_pieces(
            Upstream::new(),
            &format!("data: {}", "x".repeat(1_200_000)),
            50_000,
        ),
    ]);
    let (text, end) = open(ResumeLayer::new(), &upstreams).await.read().await;
    assert_eq!(events(&text), numbered(1..=1));
    assert!(end.unwrap_err().to_string().contains("first MiB"));
}

#[tokio::test(start_paused = true)]
async fn a_large_event_without_an_id_is_not_gone_on_behind() {
    // It came in pieces, so that a repeat could not be told.
    let large = format!("data: {}\n\n", "x".repeat(150_000));
    let upstreams = Upstreams::new([in_pieces(sends(1..=1), &large, 10_000).fail(), sends(2..=2)]);
    let (text, end) = open(ResumeLayer::new(), &upstreams).await.read().await;
    assert!(text == numbered(1..=1) + &large && end.is_err());
    // The next id makes good for it.
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

#[tokio::test(start_paused = true)]
async fn an_id_that_was_cut_is_never_asked_with() {
    for len in [1_020, 1_021, 1_024, 1_025, 1_500, 5_000] {
        for piece in [500, 1_000, 1_026, 70_000] {
            let id = "7".repeat(len);
            // So long that it leaves in pieces.
            let large = format!("id: {id}\ndata: {}\n\n", "x".repeat(80_000));
            let upstreams = Upstreams::new([
                in_pieces(Upstream::new(), &large, piece).fail(),
                sends(8..=8),
            ]);
            let (text, end) = open(ResumeLayer::new(), &upstreams).await.read().await;
            let asked = upstreams.ids();
            match len <= 1_024 {
                true => assert_eq!(asked, [None, Some(id)], "{len} {piece}"),
                false => {
                    assert_eq!(asked, [None], "{len} {piece}");
                    assert!(text == large && end.is_err());
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_without_an_id_is_not_repeated_either() {
    let without = "data: a\n\n: c\n\ndata: b\r\n\r\n";
    let ping = "event: ping\ndata: {}\n\n";
    let upstreams = Upstreams::new([
        sends(1..=1).send(without).send(ping).fail(),
        Upstream::new()
            .send(ping)
            .send(without)
            .send(ping)
            .send(&numbered(2..=2)),
    ]);
    let client = open(ResumeLayer::new().pings(["ping"]), &upstreams).await;
    let text = client.text().await;
    for (once, times) in [("data: a", 1), ("data: b", 1), (ping, 3), ("id: 2", 1)] {
        assert_eq!(text.matches(once).count(), times, "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_id_that_no_header_can_carry_is_not_gone_on_behind() {
    let upstreams = Upstreams::new([
        sends(1..=1).send("id: \u{1}\ndata: x\n\n").fail(),
        sends(1..=1),
    ]);
    let (text, end) = open(ResumeLayer::new(), &upstreams).await.read().await;
    assert!(text.ends_with("data: x\n\n") && end.is_err());
    assert_eq!(upstreams.ids().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_stream_is_one_unless_told_otherwise() {
    let script = || [sends(1..=1), sends(2..=2), Upstream::new().status(204)];
    let upstreams = Upstreams::new(script());
    let client = open(ResumeLayer::new(), &upstreams).await;
    assert_eq!(client.text().await, numbered(1..=1));
    let upstreams = Upstreams::new(script());
    let client = open(ResumeLayer::new().on_end(true), &upstreams).await;
    assert_eq!(events(&client.text().await), numbered(1..=2));
    assert_eq!(upstreams.ids().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_told_in_a_last_event() {
    let upstreams = Upstreams::new([sends(1..=1).fail(), Upstream::new().status(403)]);
    let client = open(ResumeLayer::new(), &upstreams).await;
    let stream = client.stream();
    let text = events(&client.text().await);
    let (event, last) = text.split_at(numbered(1..=1).len());
    assert_eq!(event, numbered(1..=1));
    assert!(last.starts_with("event: error\ndata: {"), "{last}");
    assert!(last.contains("403") && last.ends_with("\n\n"), "{last}");
    assert_eq!(stream.end_reason(), Some(EndReason::UpstreamError));
}

#[tokio::test(start_paused = true)]
async fn waits_double_up_to_the_longest_and_start_anew_when_it_was_stable() {
    let fails = (0..60).map(|_| sends(1..=1).fail());
    let upstreams = Upstreams::new(fails.chain([
        sends(1..=1).wait(31).fail(),
        sends(1..=1).fail(),
        sends(2..=2),
    ]));
    let layer = ResumeLayer::new().give_up(LONGEST);
    open(layer, &upstreams).await.text().await;
    let waits = upstreams.waits();
    for (tries, wait) in waits[..60].iter().enumerate() {
        let most = Duration::from_secs(1 << tries.min(5)).min(Duration::from_secs(30));
        assert!(
            *wait <= most + Duration::from_millis(11),
            "{tries}: {wait:?}"
        );
    }
    let long = waits[10..60].iter().filter(|wait| wait.as_secs() >= 10);
    assert!(long.count() > 15);
    assert!(waits[60] <= Duration::from_secs(33), "{:?}", waits[60]);
    assert!(waits[61] <= Duration::from_secs(3), "{:?}", waits[61]);
}

#[tokio::test(start_paused = true)]
async fn the_upstreams_own_time_is_the_least() {
    let upstreams = Upstreams::new([
        sends(1..=1).send("retry: 7000\n\n").fail(),
        Upstream::new().status(429).header("retry-after", "20"),
        sends(2..=2),
    ]);
    open(ResumeLayer::new(), &upstreams).await.text().await;
    let waits = upstreams.waits();
    assert!(waits[0] >= Duration::from_secs(7), "{waits:?}");
    assert!(waits[1] >= Duration::from_secs(20), "{waits:?}");
    assert!(waits[1] <= Duration::from_secs(22), "{waits:?}");
}

#[tokio::test(start_paused = true)]
async fn what_one_answer_wants_holds_for_the_next_try_alone_and_is_no_less_than_the_streams_own() {
    let says = |secs| Upstream::new().status(503).header("retry-after", secs);
    let upstreams = Upstreams::new([
        sends(1..=1).send("retry: 5000\n\n").fail(),
        says("1"),
        says("60"),
        Upstream::new().status(502),
        sends(2..=2),
    ]);
    let layer = ResumeLayer::new().backoff(Duration::from_secs(1), Duration::from_secs(1));
    open(layer, &upstreams).await.text().await;
    let waits = upstreams.waits();
    let least = [5, 5, 60, 5].map(Duration::from_secs);
    for (wait, least) in waits.iter().zip(least) {
        assert!(*wait >= least, "{waits:?}");
        assert!(*wait <= least + Duration::from_millis(1_011), "{waits:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn times_without_measure_are_waited_for_by_nobody() {
    let digits = u64::MAX.to_string();
    let retry = format!("retry: {digits}\n\n");
    let too_long = format!("retry: {digits}0\n\n");
    for (said, answer) in [
        (retry.as_str(), Upstream::new().status(503)),
        (
            "",
            Upstream::new()
                .status(503)
                .header("retry-after", "18446744073709551615"),
        ),
    ] {
        for give_up in [Duration::from_secs(300), Duration::MAX] {
            let upstreams = Upstreams::new([sends(1..=1).send(said).fail(), answer.clone()]);
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
async fn an_upstream_that_answers_and_breaks_off_is_as_good_as_none_unless_it_says_something() {
    let flaps = (0..1_000).map(|_| Upstream::new().send(": hello\n").wait(1).fail());
    let upstreams = Upstreams::new([sends(1..=1).fail()].into_iter().chain(flaps));
    let client = open(ResumeLayer::new(), &upstreams).await;
    let stream = client.stream();
    let (text, end) = client.read().await;
    assert_eq!(events(&text), numbered(1..=1));
    assert!(end.is_err());
    let age = stream.age().as_secs();
    assert!((240..=301).contains(&age), "{age}");
    let talks = (1..=100).map(|id| sends(id..=id).wait(1).fail());
    let upstreams = Upstreams::new(talks.chain([sends(101..=101)]));
    let client = open(ResumeLayer::new(), &upstreams).await;
    assert_eq!(events(&client.text().await), numbered(1..=101));
    // The time to give up starts anew with a stable connection as well.
    let quiet = (0..20).map(|_| Upstream::new().wait(31).fail());
    let quiet = [sends(1..=1).fail()].into_iter().chain(quiet);
    let upstreams = Upstreams::new(quiet.chain([sends(2..=2)]));
    let client = open(ResumeLayer::new(), &upstreams).await;
    assert_eq!(events(&client.text().await), numbered(1..=2));
}

#[tokio::test(start_paused = true)]
async fn after_all_tries_or_all_the_time_it_fails_as_it_did() {
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
        let asked = upstreams.ids().len();
        assert!(asked >= 3 && (asked == 5 || layer.config.attempts.is_none()));
    }
}

#[tokio::test(start_paused = true)]
async fn it_is_degraded_when_three_tries_were_in_vain() {
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

#[tokio::test(start_paused = true)]
async fn the_request_is_put_as_it_was_but_for_the_id() {
    #[derive(Clone, PartialEq, Debug)]
    struct Extension(u32);
    let asked = Arc::new(Mutex::new(Vec::new()));
    let upstream = {
        let asked = asked.clone();
        tower::service_fn(move |request: Asks| {
            let (head, _) = request.into_parts();
            let is_first = asked.lock().unwrap().is_empty();
            asked.lock().unwrap().push(head);
            let script = if is_first {
                sends(1..=1).fail()
            } else {
                sends(2..=2)
            };
            std::future::ready(Ok::<_, io::Error>(script.response()))
        })
    };
    let mut request = Request::get("/events?x=1").version(http::Version::HTTP_11);
    for (name, value) in [
        ("accept", "text/event-stream"),
        ("x-a", "1"),
        ("x-a", "2"),
        ("last-event-id", "0"),
    ] {
        request = request.header(name, value);
    }
    let request = request.extension(Extension(7)).body(Empty::new()).unwrap();
    let service = ResumeLayer::new().layer(upstream);
    let body = service.oneshot(request).await.unwrap().into_body();
    body.collect().await.unwrap();
    let mut asked = asked.lock().unwrap();
    let (again, mut first) = (asked.pop().unwrap(), asked.pop().unwrap());
    first.headers.insert(LAST_EVENT_ID, "1".parse().unwrap());
    assert_eq!((&again.method, &again.uri), (&first.method, &first.uri));
    assert_eq!(
        (&again.version, &again.headers),
        (&first.version, &first.headers)
    );
    assert_eq!(again.extensions.get(), Some(&Extension(7)));
}

#[tokio::test(start_paused = true)]
async fn silence_is_a_loss_and_nobody_elses_business() {
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
    let client = Client::new(service.oneshot(get()).await.unwrap());
    let stream = client.stream();
    let (text, end) = client.read().await;
    assert_eq!(events(&text), numbered(1..=2));
    let idle = StreamError::Ended(EndReason::UpstreamIdle).to_string();
    assert_eq!(end.unwrap_err().to_string(), idle);
    assert_eq!(stream.end_reason(), Some(EndReason::UpstreamIdle));
    let waits = upstreams.waits();
    assert!(waits[0] >= Duration::from_secs(55), "{waits:?}");
}

#[tokio::test(start_paused = true)]
async fn an_idle_stream_that_can_not_be_resumed_ends_as_idle_streams_do() {
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
        // It has a part of an event, and nothing can be said behind that.
        (&half, gone, "", false),
    ] {
        let upstreams = Upstreams::new([Upstream::new().send(sent).hang()]);
        let idle = IdleTimeoutLayer::new().timeout(Duration::from_secs(30));
        let guard = SseGuardLayer::new().idle_timeout(idle.action(action).retry(None));
        let layer = ResumeLayer::new().idle_timeout(Duration::from_secs(30));
        let service = guard.layer(layer.layer(upstreams));
        let client = Client::new(service.oneshot(get()).await.unwrap());
        let stream = client.stream();
        let (text, end) = client.read().await;
        let text = events(&text);
        assert_eq!((text, end.is_ok()), (format!("{sent}{last}"), is_clean));
        assert_eq!(stream.end_reason(), Some(EndReason::UpstreamIdle));
    }
}

#[tokio::test(start_paused = true)]
async fn pings_are_no_events_to_its_clock() {
    let pings = Upstream::new().repeat(10, |upstream| {
        upstream.wait(4).send("event: ping\ndata: {}\n\n")
    });
    let upstreams = Upstreams::new([pings.hang(), sends(1..=1)]);
    let layer = ResumeLayer::new()
        .lossy(true)
        .event_timeout(Duration::from_secs(10))
        .pings(["ping"]);
    let text = open(layer, &upstreams).await.text().await;
    assert_eq!(text.matches("ping").count(), 2);
    assert!(text.ends_with(&numbered(1..=1)));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_makes_no_idle_upstream() {
    let most = Duration::from_secs(120);
    for layer in [
        ResumeLayer::new().idle_timeout(most),
        ResumeLayer::new().event_timeout(most),
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
async fn a_client_that_has_not_read_yet_makes_a_silent_upstream_no_less_so() {
    let most = Duration::from_secs(120);
    for layer in [
        ResumeLayer::new().idle_timeout(most),
        ResumeLayer::new().event_timeout(most),
    ] {
        let upstreams = Upstreams::new([sends(1..=1).hang(), sends(2..=2)]);
        let mut client = open(layer, &upstreams).await;
        assert!(client.next().await.unwrap().is_ok());
        tokio::time::advance(Duration::from_secs(3_600)).await;
        assert_eq!(events(&client.text().await), numbered(2..=2));
        let waited = upstreams.waits()[0].as_secs();
        assert!((3_720..=3_721).contains(&waited), "{waited}");
    }
}

#[tokio::test(start_paused = true)]
async fn events_with_data_feed_both_clocks() {
    let talks = Upstream::new().repeat(10, |upstream| upstream.wait(4).send(&numbered(1..=1)));
    for layer in [
        ResumeLayer::new().idle_timeout(Duration::from_secs(10)),
        ResumeLayer::new().event_timeout(Duration::from_secs(10)),
    ] {
        let upstreams = Upstreams::new([talks.clone()]);
        open(layer, &upstreams).await.text().await;
        assert_eq!(upstreams.ids().len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn silence_and_age_are_told_apart() {
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
        let waited = upstreams.waits()[0];
        assert!(
            waited >= secs(first) && waited <= secs(first + 1),
            "{waited:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_stream_asks_for_a_successor_at_each_age() {
    let refusals = (0..20).map(|_| Upstream::new().status(403));
    let upstreams = Upstreams::new(
        [sends(1..=1).wait(115).send(": c\n")]
            .into_iter()
            .chain(refusals),
    );
    let layer = ResumeLayer::new().idle_timeout(Duration::from_secs(600));
    let layer = layer.max_age(Duration::from_secs(10), 0.0);
    let guard = SseGuardLayer::new().heartbeat(None);
    let service = guard.layer(layer.layer(upstreams.clone()));
    Client::new(service.oneshot(get()).await.unwrap())
        .text()
        .await;
    assert!(
        (10..=12).contains(&upstreams.ids().len()),
        "{:?}",
        upstreams.waits()
    );
}

#[tokio::test(start_paused = true)]
async fn age_is_that_of_the_connection() {
    let upstreams = Upstreams::new([
        sends(1..=1).wait(8).fail(),
        sends(2..=2).hang(),
        sends(3..=3),
    ]);
    let layer = ResumeLayer::new().max_age(Duration::from_secs(10), 0.0);
    let client = open(layer, &upstreams).await;
    assert_eq!(events(&client.text().await), numbered(1..=3));
    let waited = upstreams.waits()[1];
    assert!(waited >= Duration::from_secs(10), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn what_comes_of_a_loss_is_counted() {
    let recorder = DebuggingRecorder::new();
    let local = metrics::set_default_local_recorder(&recorder);
    let resumed = || [sends(1..=3).fail(), sends(2..=4).fail()];
    let refuses = Upstream::new().status(404);
    let is_over = Upstream::new().status(204);
    for last in [Some(refuses), Some(is_over), None] {
        let upstreams = Upstreams::new(resumed().into_iter().chain(last));
        open(ResumeLayer::new(), &upstreams)
            .await
            .read()
            .await
            .1
            .ok();
    }
    drop(local);
    let mut counts = Vec::new();
    for (key, _, _, value) in recorder.snapshotter().snapshot().into_vec() {
        let label = key
            .key()
            .labels()
            .next()
            .map(|label| label.value().to_owned());
        match (key.key().name(), value) {
            ("sse_guard_resumes_total", DebugValue::Counter(n)) => counts.push((label, n)),
            ("sse_guard_duplicate_events_dropped_total", DebugValue::Counter(n)) => {
                counts.push((None, n));
            }
            ("sse_guard_resume_seconds", DebugValue::Histogram(times)) => {
                assert_eq!(times.len(), 3);
                assert!(times.iter().all(|time| time.0 <= 1.1), "{times:?}");
            }
            _ => {}
        }
    }
    counts.sort();
    let count = |outcome: ResumeOutcome, n| (Some(outcome.as_str().to_owned()), n);
    let expected = [
        (None, 6),
        count(ResumeOutcome::GaveUp, 1),
        count(ResumeOutcome::Over, 1),
        count(ResumeOutcome::Refused, 1),
        count(ResumeOutcome::Resumed, 3),
    ];
    assert_eq!(counts, expected);
}

#[tokio::test(start_paused = true)]
async fn a_retry_is_digits_alone() {
    for said in ["+60000", "", " 60000", "6e4"] {
        let said = format!("retry: {said}\n\n");
        let upstreams = Upstreams::new([sends(1..=1).send(&said).fail(), sends(2..=2)]);
        open(ResumeLayer::new(), &upstreams).await.text().await;
        assert!(upstreams.waits()[0] < Duration::from_secs(2), "{said:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn its_body_knows_its_end_by_itself() {
    for (last, is_clean) in [
        (Upstream::new(), true),
        (Upstream::new().trailers(), true),
        (Upstream::new().fail(), false),
    ] {
        let service = ResumeLayer::new().attempts(0).layer(Upstreams::new([last]));
        let mut body = service.oneshot(get()).await.unwrap().into_body();
        assert!(!body.is_end_stream());
        let mut is_ok = true;
        while let Some(frame) = body.frame().await {
            is_ok &= frame.is_ok();
        }
        assert_eq!(is_ok, is_clean);
        assert!(body.is_end_stream());
        assert!(body.frame().await.is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn of_two_clocks_the_first_counts() {
    let secs = Duration::from_secs;
    for (idle, eventless, least) in [(20, 60, 30), (60, 20, 20), (40, 60, 50)] {
        let upstreams = Upstreams::new([sends(1..=1).wait(10).send(": c\n").hang(), sends(2..=2)]);
        let layer = ResumeLayer::new()
            .idle_timeout(secs(idle))
            .event_timeout(secs(eventless));
        open(layer, &upstreams).await.text().await;
        let waited = upstreams.waits()[0];
        let least = secs(least);
        assert!(waited >= least && waited <= least + secs(2), "{waited:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_old_connection_is_replaced_before_it_goes() {
    let slowly = |ids: std::ops::Range<u32>| {
        let send = |upstream: Upstream, id| upstream.wait(1).send(&numbered([id]));
        ids.fold(Upstream::new(), send)
    };
    let upstreams = Upstreams::new([
        slowly(0..1_000).send("id: 1000\ndata: ha").hang(),
        // It begins where it was asked to, or before; the old one has gone on meanwhile.
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
async fn one_whose_successor_does_not_come_is_as_open_as_it_was() {
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
async fn a_successor_that_might_repeat_too_much_is_not_taken() {
    // Ids without events count: they, too, push others out of what is remembered.
    let with_ids = |upstream: Upstream| {
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
async fn an_age_of_nothing_is_an_age() {
    let slowly = Upstream::new().repeat(3, |upstream| upstream.send("data: x\n\n").wait(1));
    for jitter in [0.0, 1.0] {
        let layer = ResumeLayer::new().max_age(Duration::ZERO, jitter);
        let upstreams = Upstreams::new([slowly.clone()]);
        let text = open(layer, &upstreams).await.text().await;
        assert_eq!((text.matches('x').count(), upstreams.ids().len()), (3, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn it_is_replaced_again_and_again() {
    let upstreams = Upstreams::by(|_, id| {
        let next = id.map_or(0, |id| id.parse::<u32>().unwrap() + 1);
        let send = |upstream: Upstream, id| upstream.wait(1).send(&numbered([id]));
        (next..100).fold(Upstream::new(), send)
    });
    let layer = ResumeLayer::new()
        .dedup_window(4)
        .max_age(Duration::from_secs(10), 0.0);
    let client = open(layer, &upstreams).await;
    let stream = client.stream();
    assert_eq!(events(&client.text().await), numbered(0..100));
    assert!(upstreams.ids().len() >= 8);
    // By then the one before has gone: all events came in the time of one connection, and its pauses.
    assert!(
        stream.age() <= Duration::from_secs(120),
        "{:?}",
        stream.age()
    );
}

#[tokio::test(start_paused = true)]
async fn a_successor_on_its_way_is_asked_for_again_when_the_old_one_breaks_off() {
    let upstreams = Upstreams::new([
        sends(1..=1).wait(15).send(&numbered(2..=2)).fail(),
        sends(2..=2).late(3_600),
        sends(3..=3),
    ]);
    // As long as it is on its way nobody else can ask.
    let queue = Admission::new(Duration::ZERO, 1);
    let layer = ResumeLayer::new().admission(&queue);
    let layer = layer.max_age(Duration::from_secs(10), 0.0);
    let client = open(layer, &upstreams).await;
    assert_eq!(events(&client.text().await), numbered(1..=3));
    let ids = upstreams.ids();
    assert_eq!(ids[1..], [Some("1".to_owned()), Some("2".to_owned())]);
    assert!(upstreams.waits()[1] <= Duration::from_secs(7));
}

#[tokio::test(start_paused = true)]
async fn a_successor_that_does_not_answer_is_nobodys_loss() {
    let slowly = |ids: std::ops::Range<u32>| {
        let send = |upstream: Upstream, id| upstream.wait(1).send(&numbered([id]));
        ids.fold(Upstream::new(), send)
    };
    let upstreams = Upstreams::new([
        slowly(0..400),
        sends(0..=0).late(3_600),
        Upstream::new().status(204),
        Upstream::new().status(403),
        Upstream::new().status(403),
    ]);
    let layer = ResumeLayer::new().max_age(Duration::from_secs(10), 0.0);
    let client = open(layer, &upstreams).await;
    let stream = client.stream();
    assert_eq!(events(&client.text().await), numbered(0..400));
    assert_eq!(stream.end_reason(), Some(EndReason::UpstreamEnd));
    let waits = upstreams.waits();
    // After 5 minutes it is given up, and the next is asked for at once; then at the next age.
    assert!((290..=302).contains(&waits[1].as_secs()), "{waits:?}");
    assert!((9..=11).contains(&waits[2].as_secs()), "{waits:?}");
}

#[tokio::test(start_paused = true)]
async fn it_ends_once_with_its_trailers_or_its_failure() {
    let guard = SseGuardLayer::new;
    for layer in [
        ResumeLayer::new(),
        ResumeLayer::new().lossy(true).attempts(1),
    ] {
        let upstreams = Upstreams::new([sends(1..=1).fail(), sends(2..=2).trailers()]);
        let client = open(layer.clone(), &upstreams).await;
        let (text, trailers) = client.text_and_trailers().await;
        assert_eq!(events(&text), numbered(1..=2));
        assert_eq!(trailers["x-trailer"], "1");
        let upstreams = Upstreams::new([sends(1..=1).fail()]);
        let service = guard().layer(layer.attempts(1).layer(upstreams.clone()));
        let mut client = Client::new(service.oneshot(get()).await.unwrap());
        assert!(client.next().await.unwrap().is_ok());
        assert!(!client.body().is_end_stream());
        assert!(client.next().await.unwrap().is_err());
        assert!(client.next().await.is_none());
        assert!(client.next().await.is_none());
        assert!(client.body().is_end_stream());
    }
}

#[tokio::test(start_paused = true)]
async fn connections_that_began_together_do_not_grow_old_together() {
    let layer = ResumeLayer::new().max_age(Duration::from_secs(100), 0.1);
    let now = Instant::now();
    let ages = (0..1_000).map(|_| layer.config.replace_at(now).unwrap() - now);
    let ages: Vec<_> = ages.map(|age| age.as_secs()).collect();
    assert!(ages.iter().all(|age| (90..=110).contains(age)));
    assert!(ages.contains(&91) && ages.contains(&108));
}

#[tokio::test(start_paused = true)]
async fn one_that_can_not_be_replaced_stays() {
    let slowly = Upstream::new().repeat(30, |upstream| upstream.wait(1).send("data: x\n\n"));
    let upstreams = Upstreams::new([slowly]);
    let layer = ResumeLayer::new().max_age(Duration::from_secs(10), 0.0);
    let text = open(layer, &upstreams).await.text().await;
    assert_eq!((text.matches('x').count(), upstreams.ids().len()), (30, 1));
}

#[tokio::test(start_paused = true)]
async fn other_requests_and_other_answers_pass() {
    let layer = ResumeLayer::new;
    let mut post = get();
    *post.method_mut() = http::Method::POST;
    for (layer, request) in [(layer(), post), (layer().enabled(false), get())] {
        let upstreams = Upstreams::new([sends(1..=1).fail(), sends(2..=2)]);
        let (text, end) = open_with(layer, &upstreams, request).await.read().await;
        assert_eq!((text, end.is_err()), (numbered(1..=1), true));
    }
    let upstreams = Upstreams::new([Upstream::new().status(404).send("no").fail()]);
    let client = open(layer(), &upstreams).await;
    assert_eq!(client.status(), 404);
    let (text, end) = client.read().await;
    assert_eq!((text.as_str(), end.is_err()), ("no", true));
}

#[tokio::test(start_paused = true)]
async fn a_mark_at_the_start_of_what_goes_on_is_none() {
    let upstreams = Upstreams::new([
        sends(1..=1).fail(),
        Upstream::new().send(&format!("\u{feff}{}", numbered(2..=2))),
    ]);
    let text = open(ResumeLayer::new(), &upstreams).await.text().await;
    assert_eq!(events(&text), numbered(1..=2));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_leaves_nobody_asking() {
    let upstreams = Upstreams::new([sends(1..=1).fail()]);
    let mut client = open(ResumeLayer::new(), &upstreams).await;
    assert!(client.next().await.unwrap().is_ok());
    assert_eq!(client.next().await.unwrap().unwrap(), ": heartbeat\n");
    drop(client);
    let asked = upstreams.ids().len();
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(upstreams.ids().len(), asked);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_keeps_nobody_from_asking() {
    let upstreams = Upstreams::new([
        sends(1..=1).fail(),
        sends(1..=1).fail(),
        sends(2..=2).hang(),
        sends(2..=2),
    ]);
    let queue = Admission::new(Duration::from_secs(60), 1);
    drop(queue.turn().await);
    let layer = ResumeLayer::new().admission(&queue);
    let mut stalled = open(layer.clone(), &upstreams).await;
    assert_eq!(stalled.next().await.unwrap().unwrap(), numbered(1..=1));
    // It loses its upstream, is the first in the queue, and is not polled again.
    assert_eq!(stalled.next().await.unwrap().unwrap(), ": heartbeat\n");
    let client = open(layer, &upstreams).await;
    let read = tokio::time::timeout(Duration::from_secs(200), client.text());
    assert_eq!(events(&read.await.unwrap()), numbered(1..=2));
    assert_eq!(stalled.next().await.unwrap().unwrap(), numbered(2..=2));
}
