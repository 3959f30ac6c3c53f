//! Replaced connections: events are neither lost nor repeated, without a pause.

use super::*;
use http_body::{Body, Frame};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use tokio::time::{Sleep, sleep_until};
use tower::service_fn;

const PERIOD: Duration = Duration::from_millis(100);

/// A feed that all connections get: event `n` at `n` periods.
#[derive(Clone, Copy)]
struct Feed {
    start: Instant,
    has_ids: bool,
    replays: bool,
}

/// The body of one connection.
struct Ticks {
    feed: Feed,
    next: u32,
    lag: Duration,
    sleep: Pin<Box<Sleep>>,
}

impl Feed {
    fn connect(self, last_id: Option<u32>, lag: Duration) -> Ticks {
        let passed = self.start.elapsed().div_duration_f64(PERIOD).ceil();
        let next = match last_id {
            Some(id) if self.replays => id + 1,
            _ => passed as u32,
        };
        Ticks {
            feed: self,
            next,
            lag,
            sleep: Box::pin(sleep_until(self.start + PERIOD * next + lag)),
        }
    }

    fn event(self, n: u32) -> String {
        match self.has_ids {
            true => numbered([n]),
            false => format!("data: {n}\n\n"),
        }
    }
}

impl Body for Ticks {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        ready!(self.sleep.as_mut().poll(cx));
        let event = self.feed.event(self.next);
        self.next += 1;
        let at = self.feed.start + PERIOD * self.next + self.lag;
        self.sleep.as_mut().reset(at);
        Poll::Ready(Some(Ok(Frame::data(event.into()))))
    }
}

/// Reads `events` of a feed whose connections are replaced all the time; each opens after `late`, and their events
/// lag alternately. Returns the numbers, the longest pause, and the number of connections.
async fn read(
    feed: Feed,
    late: Duration,
    lags: [Duration; 2],
    events: usize,
) -> (Vec<u32>, Duration, usize) {
    let connections = Arc::new(AtomicUsize::new(0));
    let count = connections.clone();
    let upstream = service_fn(move |request: TestRequest| {
        let id = request.headers().get(LAST_EVENT_ID);
        let id = id.map(|id| id.to_str().unwrap().parse().unwrap());
        let body = feed.connect(id, lags[count.fetch_add(1, SeqCst) % 2]);
        async move {
            tokio::time::sleep(late).await;
            let response = Response::builder().header("content-type", "text/event-stream");
            Ok::<_, io::Error>(response.body(body).unwrap())
        }
    });
    let layer = ResumeLayer::new()
        .lossy(!feed.has_ids)
        .max_age(Duration::from_secs(1), 0.1);
    let service = SseGuardLayer::new()
        .heartbeat(None)
        .layer(layer.layer(upstream));
    let mut client = TestResponse::new(service.oneshot(get()).await.unwrap());
    let (mut numbers, mut last, mut pause) = (Vec::new(), Instant::now(), Duration::ZERO);
    while numbers.len() < events {
        let text = client.next().await.unwrap().unwrap();
        if !numbers.is_empty() {
            pause = pause.max(last.elapsed());
        }
        last = Instant::now();
        let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
        numbers.extend(data.map(|n| n.parse::<u32>().unwrap()));
    }
    (numbers, pause, connections.load(SeqCst))
}

#[tokio::test(start_paused = true)]
async fn replaced_feed_has_neither_pause_gap_nor_duplicate() {
    let millis = Duration::from_millis;
    for (has_ids, replays) in [(true, true), (true, false), (false, false)] {
        for late in [0, 30, 300] {
            for lags in [[0, 0], [0, 40], [40, 0], [90, 10]] {
                let feed = Feed {
                    start: Instant::now(),
                    has_ids,
                    replays,
                };
                let (numbers, pause, connections) =
                    read(feed, millis(late), lags.map(millis), 200).await;
                let whole: Vec<_> = (numbers[0]..).take(numbers.len()).collect();
                let what = format!("{has_ids} {replays} late {late} lags {lags:?}");
                assert_eq!(numbers, whole, "{what}");
                assert!(connections >= 10, "{what}: {connections}");
                // One interval of events, and the difference of the lags.
                assert!(pause <= 2 * PERIOD, "{what}: {pause:?}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn quiet_stream_switches_without_an_event() {
    for layer in [ResumeLayer::new(), ResumeLayer::new().lossy(true)] {
        let upstreams = Upstreams::new([
            sends(1..=1).hang(),
            ScriptedUpstream::new()
                .wait(3)
                .send(": hello\n")
                .wait(27)
                .send(&numbered(2..=2)),
        ]);
        let layer = layer.max_age(Duration::from_secs(60), 0.0);
        let client = open(layer, &upstreams).await;
        let stream = client.stream();
        assert_eq!(events(&client.text().await), numbered(1..=2));
        assert_eq!(stream.age().as_secs(), 90);
        assert_eq!(upstreams.ids().len(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn end_of_the_old_connection_during_replacement_does_not_end_the_stream() {
    for end in [
        |old: ScriptedUpstream| old.fail(),
        |old: ScriptedUpstream| old,
    ] {
        let upstreams = Upstreams::new([
            end(sends(1..=1).wait(61)),
            ScriptedUpstream::new().wait(2).send(&numbered(2..=2)),
        ]);
        let layer = ResumeLayer::new().max_age(Duration::from_secs(60), 0.0);
        let client = open(layer, &upstreams).await;
        assert_eq!(events(&client.text().await), numbered(1..=2));
        assert_eq!(upstreams.ids().len(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn replacement_without_events_is_not_used() {
    let slowly = (2..=40).fold(sends(1..=1), |upstream, id| {
        upstream.wait(1).send(&numbered([id]))
    });
    for new in [
        ScriptedUpstream::new(),
        ScriptedUpstream::new().fail(),
        ScriptedUpstream::new().wait(2).fail(),
        ScriptedUpstream::new().send(": hello\n").wait(1),
        // It lacks the events that the old one delivers.
        ScriptedUpstream::new().hang(),
    ] {
        let upstreams = Upstreams::new([slowly.clone(), new.clone(), new.clone(), new.clone()]);
        let layer = ResumeLayer::new().max_age(Duration::from_secs(10), 0.0);
        let client = open(layer, &upstreams).await;
        let stream = client.stream();
        assert_eq!(events(&client.text().await), numbered(1..=40));
        assert_eq!(stream.end_reason(), Some(EndReason::UpstreamEnd));
        assert!(upstreams.ids().len() >= 3);
    }
}

#[tokio::test(start_paused = true)]
async fn replacement_has_no_backoff() {
    let slow = Duration::from_secs(3_600);
    let upstreams = Upstreams::new([sends(1..=1).hang(), sends(2..=2)]);
    let layer = ResumeLayer::new()
        .backoff(slow, slow)
        .max_age(Duration::from_secs(60), 0.0);
    let client = open(layer, &upstreams).await;
    assert_eq!(events(&client.text().await), numbered(1..=2));
    assert_eq!(upstreams.intervals()[0].as_secs(), 60);
}
