//! The live streams, and the word to end them.

use crate::client_key::ClientKey;
use crate::jitter::{LONGEST, jittered, up_to};
use crate::lock::lock;
use crate::rejection::{RejectReason, Rejection};
use crate::request_info::ComesBack;
use crate::stream::{EndReason, Stream, StreamId};
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// Lists and ends the streams of the layers that share it, one or all over a window.
///
/// A clone is another handle to the same streams.
#[derive(Clone, Default)]
pub struct DrainHandle(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    live: Mutex<Live>,
    empty: Notify,
    /// Set with `Live::drain`; read for each request, without the lock.
    is_draining: AtomicBool,
    begun: Notify,
}

#[derive(Debug, Default)]
struct Live {
    streams: HashMap<StreamId, Entry>,
    drain: Option<Drain>,
}

/// A drain that has begun.
#[derive(Clone, Copy, Debug)]
struct Drain {
    window: Duration,
    window_ends: Instant,
    /// Answers in pieces are broken off then.
    answers_end: Instant,
}

impl Drain {
    /// When a client may come back: behind the end of the window, at which it would find this process
    /// again. Clients come back spread over half a window, as they all wait for the same instant.
    fn retry(&self, retry: Duration) -> Duration {
        let left = self.window_ends.saturating_duration_since(Instant::now());
        left.saturating_add(jittered(retry))
            .saturating_add(up_to(self.window / 2))
    }
}

#[derive(Clone, Debug)]
struct Entry {
    stream: Stream,
    comes_back: ComesBack,
}

impl Shared {
    fn live(&self) -> MutexGuard<'_, Live> {
        lock(&self.live)
    }

    fn drain(&self) -> Option<Drain> {
        self.live().drain
    }
}

impl Entry {
    /// A client that comes back goes at any time within the window, so that not all go at once;
    /// an answer in pieces gets all the time there is.
    fn drain(&self, drain: &Drain) {
        let left = drain.window_ends.saturating_duration_since(Instant::now());
        let at = match self.comes_back.on(&self.stream) {
            true => Instant::now() + up_to(left),
            false => drain.answers_end,
        };
        self.stream.stop_at(at, EndReason::Drained);
    }
}

impl DrainHandle {
    /// Creates a handle without streams. Give it to layers with
    /// [`RotationLayer::drain`](super::RotationLayer::drain).
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends all streams within `window`, at times spread over it. A drain is not taken back.
    ///
    /// Each stream ends at an event boundary, with a `retry:` line that points beyond the end of the
    /// window, where the next process is. Streams that rotation does not concern, as their clients do
    /// not come back, go on to the end of the window and are broken off then; see
    /// [`drain_with`](Self::drain_with) for more time.
    ///
    /// From now on a [`RotationLayer`](super::RotationLayer) admits no request for a new stream: a GET
    /// that accepts an event stream gets an empty one with such a `retry:` line, any other method a 503
    /// with `Retry-After`. The service behind the layer does not get the request. Other requests pass, so
    /// keep the listener open until [`window_over`](Self::window_over). A stream that opens nevertheless,
    /// as its request came before or did not name it, ends within the window, too.
    ///
    /// A stream whose client does not read, or that is inside an event which does not end, cannot
    /// end in time: bound the wait for [`finished`](Self::finished).
    pub fn drain(&self, window: Duration) {
        self.drain_with(window, window);
    }

    /// As [`drain`](Self::drain), but streams whose clients do not come back, such as the answer of a
    /// model to a POST, continue for `answers` before they are broken off. At least for `window`.
    pub fn drain_with(&self, window: Duration, answers: Duration) {
        let (now, window) = (Instant::now(), window.min(LONGEST));
        let drain = Drain {
            window,
            window_ends: now + window,
            answers_end: now + answers.min(LONGEST).max(window),
        };
        let mut live = self.0.live();
        live.drain = Some(drain);
        self.0.is_draining.store(true, Relaxed);
        let entries: Vec<Entry> = live.streams.values().cloned().collect();
        // A stream that is woken may be dropped at once, which takes the lock.
        drop(live);
        self.0.begun.notify_waiters();
        for entry in entries {
            entry.drain(&drain);
        }
    }

    /// Returns true once a drain has begun.
    pub fn is_draining(&self) -> bool {
        self.0.is_draining.load(Relaxed)
    }

    /// Completes when a drain begins.
    pub async fn begun(&self) {
        let begun = self.0.begun.notified();
        if !self.is_draining() {
            begun.await;
        }
    }

    /// Completes when a drain has begun and its window is over: no client is expected after that, and
    /// the listener can close.
    pub async fn window_over(&self) {
        self.begun().await;
        if let Some(drain) = self.0.drain() {
            sleep_until(drain.window_ends).await;
        }
    }

    /// The answer to a request for a new stream, if a drain has begun.
    #[doc(hidden)]
    pub fn refusal(&self, retry: Duration, as_stream: bool) -> Option<Rejection> {
        if !self.is_draining() {
            return None;
        }
        let drain = self.0.drain()?;
        let reason = RejectReason::Draining;
        metrics::counter!("sse_guard_rejections_total", "reason" => reason.as_str()).increment(1);
        Some(Rejection {
            reason,
            retry_after: drain.retry(retry),
            as_stream,
            custom: None,
        })
    }

    /// Ends one stream at its next event boundary. Returns false if it is not live.
    pub fn end(&self, id: StreamId) -> bool {
        let stream = self.stream(id);
        if let Some(stream) = &stream {
            stream.stop_at(Instant::now(), EndReason::Operator);
        }
        stream.is_some()
    }

    /// Ends `most` streams at their next event boundary as if they had grown old: for when room is short.
    /// Those without an event for `idle` go first, the oldest ahead, those that wait for their upstream
    /// last, and only streams that are subject to rotation. Returns how many will end.
    pub fn rotate(&self, most: usize, idle: Duration) -> usize {
        self.rotate_those(most, idle, |entry| entry.comes_back.on(&entry.stream))
    }

    /// The same with the streams of one client alone, a network of that length if it is one of IPv6, also if
    /// it does not come back: those are broken off.
    #[doc(hidden)]
    pub fn rotate_of(
        &self,
        (network, ipv6_prefix): (&ClientKey, u8),
        most: usize,
        idle: Duration,
    ) -> usize {
        self.rotate_those(most, idle, |entry| {
            let of_stream = entry.stream.client().cloned();
            of_stream.is_some_and(|client| client.network(ipv6_prefix) == *network)
        })
    }

    fn rotate_those(&self, most: usize, idle: Duration, of: impl Fn(&Entry) -> bool) -> usize {
        let live = self.0.live();
        let may_go = |entry: &&Entry| of(entry) && !entry.stream.is_ending();
        let mut streams: Vec<Stream> = live
            .streams
            .values()
            .filter(may_go)
            .map(|entry| entry.stream.clone())
            .collect();
        drop(live);
        let now = Instant::now();
        let order = |stream: &Stream| {
            let heard = match stream.is_opaque() {
                true => stream.silent_since(),
                false => stream.last_event().unwrap_or(stream.opened()),
            };
            let is_busy = now.saturating_duration_since(heard) < idle;
            // A client that comes back while the upstream is away finds nothing there.
            (stream.state().has_lost_upstream(), is_busy, stream.opened())
        };
        if most < streams.len() {
            streams.select_nth_unstable_by_key(most, order);
            streams.truncate(most);
        }
        for stream in &streams {
            stream.stop_at(now, EndReason::Rotated);
        }
        streams.len()
    }

    /// Ends at most `most` streams that hold `least` [bytes](Stream::held_bytes) or more, the largest
    /// first: for when memory is short. At their next event boundary if rotation concerns them; at once if
    /// their client does not read, which ends what waits for it. Returns how many.
    pub fn shed(&self, most: usize, least: u64) -> usize {
        let entries: Vec<Entry> = self.0.live().streams.values().cloned().collect();
        let mut streams: Vec<(u64, Stream)> = entries
            .into_iter()
            .filter(|entry| {
                let waits = entry.stream.unsent_bytes() > 0;
                waits || (entry.comes_back.on(&entry.stream) && !entry.stream.is_ending())
            })
            .map(|entry| (entry.stream.held_bytes(), entry.stream))
            .filter(|(held, _)| *held >= least)
            .collect();
        streams.sort_unstable_by_key(|(held, _)| std::cmp::Reverse(*held));
        streams.truncate(most);
        for (_, stream) in &streams {
            stream.shed();
        }
        streams.len()
    }

    /// Returns the number of live streams.
    pub fn live(&self) -> usize {
        self.0.live().streams.len()
    }

    /// Returns the live stream with this id.
    pub fn stream(&self, id: StreamId) -> Option<Stream> {
        let live = self.0.live();
        live.streams.get(&id).map(|entry| entry.stream.clone())
    }

    /// Returns the live streams.
    pub fn streams(&self) -> Vec<Stream> {
        let live = self.0.live();
        live.streams
            .values()
            .map(|entry| entry.stream.clone())
            .collect()
    }

    /// Completes when no stream is live.
    pub async fn finished(&self) {
        loop {
            let empty = self.0.empty.notified();
            if self.live() == 0 {
                return;
            }
            empty.await;
        }
    }

    /// The process goes without waiting for the rest: notes that as their reason to end.
    #[doc(hidden)]
    pub fn give_up(&self) -> usize {
        let live = self.0.live();
        for entry in live.streams.values() {
            entry.stream.end(EndReason::Shutdown);
        }
        live.streams.len()
    }

    pub(super) fn register(&self, stream: &Stream, comes_back: ComesBack) -> Registered {
        let entry = Entry {
            stream: stream.clone(),
            comes_back,
        };
        let mut live = self.0.live();
        if let Some(drain) = &live.drain {
            entry.drain(drain);
        }
        live.streams.insert(stream.id(), entry);
        Registered {
            id: stream.id(),
            shared: self.0.clone(),
        }
    }
}

impl fmt::Debug for DrainHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DrainHandle")
            .field("live", &self.live())
            .finish()
    }
}

/// A stream's place among the live ones, given up on drop.
#[derive(Debug)]
pub(super) struct Registered {
    id: StreamId,
    shared: Arc<Shared>,
}

impl Registered {
    /// When the client of a drained stream may come back.
    pub(super) fn retry(&self, retry: Duration) -> Duration {
        let drain = self.shared.drain();
        drain.map_or_else(|| jittered(retry), |drain| drain.retry(retry))
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut live = self.shared.live();
        live.streams.remove(&self.id);
        if live.streams.is_empty() {
            // After a burst, give the room back.
            live.streams.shrink_to(64);
            self.shared.empty.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::RotationLayer;
    use super::*;
    use crate::SseGuardLayer;
    use crate::connection_limit::ConnectionLimitLayer;
    use crate::early::StreamAsked;
    use crate::guard::testing::{Upstream, ask, get};
    use http::{Method, Request};

    const WINDOW: Duration = Duration::from_secs(10);

    fn draining() -> (DrainHandle, RotationLayer) {
        let drain = DrainHandle::new();
        drain.drain(WINDOW);
        (drain.clone(), RotationLayer::new().drain(&drain))
    }

    fn request(method: Method, fields: &[(&str, &str)]) -> Request<()> {
        let request = Request::builder().method(method);
        let request = fields.iter().fold(request, |request, (name, value)| {
            request.header(*name, *value)
        });
        request.body(()).unwrap()
    }

    fn millis(text: &str) -> u128 {
        let millis = text.trim_end().rsplit("retry: ").next().unwrap();
        millis.parse().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_opens_during_a_drain_ends_within_it() {
        let (_, layer) = draining();
        let ticking = Upstream::new().repeat(100, |upstream| upstream.send("data: 1\n\n").wait(1));
        // Its head has not told that it opens a stream.
        let response = ask(layer, request(Method::GET, &[]), ticking).await;
        let stream = response.stream();
        let _ = response.read().await;
        assert_eq!(stream.end_reason(), Some(EndReason::Drained));
        assert!(stream.age() <= Duration::from_secs(11));
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_event_source_gets_an_empty_stream_that_points_beyond_the_window() {
        let mut told = std::collections::BTreeSet::new();
        let (_, layer) = draining();
        for second in 0..12 {
            let left = WINDOW
                .saturating_sub(Duration::from_secs(second))
                .as_millis();
            let response = get(layer.clone(), Upstream::new().send("data: 1\n\n")).await;
            assert_eq!(response.status(), 200);
            assert_eq!(response.headers()["content-type"], "text/event-stream");
            let text = response.text().await;
            let retry = millis(&text);
            assert!(text.starts_with("retry: ") && retry > left, "{text}");
            assert!(retry <= left + 3_000 + 5_000, "{text}");
            told.insert(retry);
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert!(told.len() > 6, "{told:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_drained_stream_points_beyond_the_window_too() {
        let drain = DrainHandle::new();
        let layer = RotationLayer::new().drain(&drain);
        let start = Instant::now();
        let response = get(layer, Upstream::new().hang()).await;
        drain.drain(WINDOW);
        let text = response.text().await;
        let back = start.elapsed().as_millis() + millis(&text);
        assert!(back > WINDOW.as_millis(), "{text}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_request_says_decides_whether_it_gets_a_status_a_stream_or_the_service() {
        const STREAM: (&str, &str) = ("accept", "text/event-stream");
        const BOTH: (&str, &str) = ("accept", "application/json, text/event-stream");
        const OPENAI: (&str, &str) = ("user-agent", "OpenAI/Python 1.0");
        const ANTHROPIC: (&str, &str) = ("anthropic-version", "2023-06-01");
        const MCP: (&str, &str) = ("mcp-session-id", "1");
        let (served, empty, refused) = (204, 200, 503);
        for (method, fields, expected) in [
            (Method::GET, &[STREAM][..], empty),
            (Method::GET, &[STREAM, MCP], empty),
            (Method::GET, &[STREAM, OPENAI], refused),
            (Method::GET, &[("accept", "*/*")], served),
            (Method::GET, &[OPENAI], served),
            (Method::POST, &[STREAM], refused),
            (Method::POST, &[BOTH], refused),
            (Method::POST, &[OPENAI], refused),
            (Method::POST, &[ANTHROPIC], refused),
            (Method::POST, &[("accept", "application/json")], served),
            (Method::PUT, &[STREAM], refused),
            (Method::HEAD, &[STREAM], served),
            (Method::OPTIONS, &[STREAM], served),
            (Method::DELETE, &[BOTH, MCP], served),
        ] {
            let (_, layer) = draining();
            let request = request(method.clone(), fields);
            let response = ask(layer, request, Upstream::new().status(204)).await;
            assert_eq!(response.status(), expected, "{method} {fields:?}");
            let seconds = response.headers().get("retry-after");
            let seconds = seconds.map(|value| value.to_str().unwrap().parse::<u64>().unwrap());
            assert_eq!(
                seconds.is_some(),
                expected == refused,
                "{method} {fields:?}"
            );
            assert!(seconds.is_none_or(|seconds| seconds > WINDOW.as_secs()));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_was_read_decides_where_the_head_cannot() {
        for (says, expected) in [(true, 503), (false, 204)] {
            for fields in [&[("anthropic-version", "1")][..], &[]] {
                let (_, layer) = draining();
                let mut request = request(Method::POST, fields);
                let flag = StreamAsked::new();
                request.extensions_mut().insert(flag.clone());
                if says {
                    flag.set();
                }
                let response = ask(layer, request, Upstream::new().status(204)).await;
                assert_eq!(response.status(), expected, "{fields:?}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn methods_that_come_back_get_an_empty_stream_too() {
        let (_, layer) = draining();
        let layer = layer.methods([Method::GET, Method::POST]);
        let post = request(Method::POST, &[("accept", "text/event-stream")]);
        let response = ask(layer, post, Upstream::new()).await;
        assert_eq!(response.status(), 200);
        assert!(response.text().await.starts_with("retry: "));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_over_its_limit_gets_the_empty_stream_too() {
        let (_, layer) = draining();
        let stack = SseGuardLayer::new()
            .limit(ConnectionLimitLayer::new().total(0))
            .rotation(layer);
        assert_eq!(get(stack, Upstream::new()).await.status(), 200);
    }

    #[tokio::test(start_paused = true)]
    async fn answers_may_have_more_time_than_the_window() {
        let drain = DrainHandle::new();
        let layer = || RotationLayer::new().drain(&drain);
        let long = Upstream::new().wait(30).send("data: 1\n\n");
        let long = crate::guard::testing::post(layer(), long).await;
        let endless = crate::guard::testing::post(layer(), Upstream::new().hang()).await;
        let feed = get(layer(), Upstream::new().hang()).await;
        drain.drain_with(WINDOW, Duration::from_secs(40));
        let start = Instant::now();
        assert!(feed.read().await.1.is_ok());
        assert!(start.elapsed() <= WINDOW);
        let (text, end) = long.read().await;
        assert!(text == "data: 1\n\n" && end.is_ok());
        assert!(endless.read().await.1.is_err());
        assert_eq!(start.elapsed(), Duration::from_secs(40));
    }

    #[tokio::test(start_paused = true)]
    async fn the_phases_can_be_waited_for() {
        let drain = DrainHandle::new();
        let hour = Duration::from_secs(3600);
        assert!(tokio::time::timeout(hour, drain.begun()).await.is_err());
        let start = Instant::now();
        let over = tokio::spawn({
            let drain = drain.clone();
            async move { drain.window_over().await }
        });
        tokio::task::yield_now().await;
        drain.drain_with(WINDOW, hour);
        drain.begun().await;
        assert!(drain.is_draining() && start.elapsed().is_zero());
        over.await.unwrap();
        assert_eq!(start.elapsed(), WINDOW);
    }
}
