//! What an event costs that comes whole: no allocation and no copy, through all layers.

use allocation_counter::measure;
use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderValue, Request, Response};
use http_body::{Body, Frame};
use sse_guard::SseGuardLayer;
use sse_guard::client_key::PeerAddr;
use sse_guard::completion::CompletionLayer;
use sse_guard::connection_limit::ConnectionLimitLayer;
use sse_guard::early::EarlyLayer;
use sse_guard::family::Family;
use sse_guard::heartbeat::HeartbeatLayer;
use sse_guard::idle_timeout::IdleTimeoutLayer;
use sse_guard::metrics::MetricsLayer;
use sse_guard::rotation::RotationLayer;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::runtime::Runtime;
use tower::{ServiceBuilder, ServiceExt, service_fn};

/// What may be set up once, such as the timer, has been by then.
const WARM_UP: usize = 5;
const MEASURED: usize = 1_000;

/// Hands out chunks that were made before; with `pauses` it is pending ahead of each.
struct Upstream {
    chunks: std::vec::IntoIter<Bytes>,
    pauses: bool,
    paused: bool,
}

impl Body for Upstream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.paused = self.pauses && !self.paused;
        if self.paused {
            return Poll::Pending;
        }
        Poll::Ready(self.chunks.next().map(|chunk| Ok(Frame::data(chunk))))
    }
}

/// The chunks as the body of a response that has come through everything we have.
fn through_the_stack(
    chunks: Vec<Bytes>,
    pauses: bool,
    family: Option<Family>,
) -> impl Body<Data = Bytes> {
    let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
    let stack = SseGuardLayer::new()
        .metrics(MetricsLayer::new().route("/feed"))
        .limit(ConnectionLimitLayer::new())
        .rotation(RotationLayer::new().max_age(minutes(60), 0.1))
        // The first one would be one frame more where the upstream pauses.
        .heartbeat(HeartbeatLayer::new(minutes(1)).immediate(false))
        .idle_timeout(
            IdleTimeoutLayer::new()
                .timeout(minutes(10))
                .event_timeout(minutes(20))
                .ignore_events(["ping"]),
        )
        .completion(CompletionLayer::new());
    let upstream = Upstream {
        chunks: chunks.into_iter(),
        pauses,
        paused: false,
    };
    let layers = ServiceBuilder::new()
        .layer(stack)
        .layer(EarlyLayer::default());
    let service = layers.service(service_fn(|request: Request<Upstream>| async {
        let mut response = Response::new(request.into_body());
        let event_stream = HeaderValue::from_static("text/event-stream");
        response.headers_mut().insert("content-type", event_stream);
        Ok::<_, Infallible>(response)
    }));
    let mut request = Request::new(upstream);
    let accept = HeaderValue::from_static("text/event-stream");
    request.headers_mut().insert("accept", accept);
    let peer = SocketAddr::from(([192, 0, 2, 1], 5000));
    request.extensions_mut().insert(PeerAddr::from(peer));
    if let Some(family) = family {
        request.extensions_mut().insert(family);
    }
    match service.oneshot(request).now_or_never() {
        Some(Ok(response)) if response.status() == 200 => response.into_body(),
        _ => panic!("the answer was ready and fine inside"),
    }
}

/// Polls until there is a frame. `None` at the end.
fn next<B: Body<Data = Bytes>>(mut body: Pin<&mut B>) -> Option<Bytes> {
    let mut context = Context::from_waker(Waker::noop());
    loop {
        match body.as_mut().poll_frame(&mut context) {
            Poll::Ready(frame) => return frame?.ok()?.into_data().ok(),
            Poll::Pending => {}
        }
    }
}

/// For the timers alone; nothing runs on it.
fn runtime() -> Runtime {
    match tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => panic!("{error}"),
    }
}

/// Chunks of one event each, all different, with every kind of line in them.
fn events(line_end: &str) -> Vec<Bytes> {
    let event = |n: usize| {
        let lines = match n % 4 {
            0 => vec![format!("data: {{\"token\":\"hello {n}\"}}")],
            1 => vec![format!("id: {n}"), "data: hello".to_owned()],
            2 => vec!["event: ping".to_owned(), "data: {}".to_owned()],
            _ => vec![": comment".to_owned(), format!("data: {}", "x".repeat(n))],
        };
        Bytes::from(lines.join(line_end) + line_end + line_end)
    };
    (0..WARM_UP + MEASURED).map(event).collect()
}

/// How often it allocates to pass all chunks on, and how many left other than as they came.
fn allocations_and_copies(chunks: &[Bytes], pauses: bool, family: Option<Family>) -> (u64, usize) {
    let runtime = runtime();
    let _entered = runtime.enter();
    let mut body = pin!(through_the_stack(chunks.to_vec(), pauses, family));
    let (warm_up, measured) = chunks.split_at(WARM_UP);
    for _ in warm_up {
        assert!(next(body.as_mut()).is_some());
    }
    let mut others = 0;
    let allocated = measure(|| {
        for chunk in measured {
            let same = next(body.as_mut()).is_some_and(|frame| {
                (frame.as_ptr(), frame.len()) == (chunk.as_ptr(), chunk.len())
            });
            others += usize::from(!same);
        }
    });
    (allocated.count_total, others)
}

#[test]
fn whole_events_pass_without_an_allocation_and_without_a_copy() {
    for line_end in ["\n", "\r\n", "\r"] {
        let found = allocations_and_copies(&events(line_end), false, None);
        assert_eq!(found, (0, 0), "{line_end:?}");
    }
}

#[test]
fn whole_events_pass_without_an_allocation_after_a_pause() {
    for line_end in ["\n", "\r\n", "\r"] {
        let found = allocations_and_copies(&events(line_end), true, None);
        assert_eq!(found, (0, 0), "{line_end:?}");
    }
}

#[test]
fn whole_events_pass_without_an_allocation_with_completion() {
    for (family, first) in [
        (Family::OpenAi, "data: {\"choices\":[]}\n\n"),
        (Family::OpenAi, "event: response.created\ndata: {}\n\n"),
        (Family::Anthropic, "event: message_start\ndata: {}\n\n"),
    ] {
        let mut chunks = events("\n");
        chunks[0] = Bytes::from(first);
        let found = allocations_and_copies(&chunks, false, Some(family));
        assert_eq!(found, (0, 0), "{first}");
    }
}

/// The counter counts, so its zeros mean something.
#[test]
fn event_in_two_chunks_is_joined_with_an_allocation() {
    for line_end in ["\n", "\r\n", "\r"] {
        let stream = events(line_end).concat();
        let chunks: Vec<_> = stream.chunks(7).map(Bytes::copy_from_slice).collect();
        let runtime = runtime();
        let _entered = runtime.enter();
        let mut body = pin!(through_the_stack(chunks, false, None));
        for _ in 0..WARM_UP {
            assert!(next(body.as_mut()).is_some());
        }
        let mut joined = 0;
        let allocated = measure(|| {
            for _ in 0..MEASURED {
                joined += usize::from(next(body.as_mut()).is_some());
            }
        });
        assert_eq!(joined, MEASURED);
        assert!(allocated.count_total > 0, "{line_end:?}");
    }
}
