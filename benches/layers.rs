//! What the layers cost an event: a body of 1,000 events polled to its end.
//!
//! ```text
//! cargo bench --bench layers
//! ```
//!
//! As a sample is 1,000 events, its microseconds are nanoseconds per event. What a layer costs is
//! the difference to `bare`, which hands out the same chunks without one. Opening a stream and
//! dropping its body are not timed.

use bytes::Bytes;
use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use futures_util::FutureExt;
use http::{HeaderValue, Request, Response};
use http_body::{Body, Frame};
use sse_guard::SseGuardLayer;
use sse_guard::client_key::PeerAddr;
use sse_guard::connection_limit::ConnectionLimitLayer;
use sse_guard::heartbeat::HeartbeatLayer;
use sse_guard::idle_timeout::IdleTimeoutLayer;
use sse_guard::metrics::MetricsLayer;
use sse_guard::rotation::RotationLayer;
use std::convert::Infallible;
use std::fmt;
use std::future::{Ready, ready};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tower::layer::util::Identity;
use tower::util::ServiceFn;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};

const EVENTS: usize = 1_000;

fn main() {
    divan::main();
}

/// The events that a stream is made of.
#[derive(Clone, Copy)]
enum Event {
    Token,
    Long,
}

const ALL: [Event; 2] = [Event::Token, Event::Long];

impl Event {
    fn text(self) -> String {
        let token = "id: 12345\ndata: {\"token\":\"hello\"}\n\n";
        match self {
            Self::Token => token.to_owned(),
            Self::Long => token.replace("hello", &"x".repeat(200 - token.len() + "hello".len())),
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.text().len())
    }
}

/// A body of chunks that are there already, cut from one buffer as they are from a socket's.
struct Upstream(std::vec::IntoIter<Bytes>);

impl Upstream {
    /// Chunks of `chunk` bytes behind a first one of `first`.
    fn new(event: Event, first: usize, chunk: usize) -> Self {
        let mut stream = Bytes::from(event.text().repeat(EVENTS));
        let first = stream.split_to(first);
        let first = (!first.is_empty()).then_some(first);
        let more = std::iter::from_fn(|| {
            let chunk = stream.split_to(chunk.min(stream.len()));
            (!chunk.is_empty()).then_some(chunk)
        });
        Self(
            first
                .into_iter()
                .chain(more)
                .collect::<Vec<_>>()
                .into_iter(),
        )
    }
}

impl Body for Upstream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.next().map(|chunk| Ok(Frame::data(chunk))))
    }
}

type Answer = Ready<Result<Response<Upstream>, Infallible>>;

/// Answers with the body of the request, as an event stream.
fn answer(request: Request<Upstream>) -> Answer {
    let mut response = Response::new(request.into_body());
    let event_stream = HeaderValue::from_static("text/event-stream");
    response.headers_mut().insert("content-type", event_stream);
    ready(Ok(response))
}

/// The body as it comes out of `layer`.
fn through<L, B>(layer: &L, upstream: Upstream) -> B
where
    L: Layer<ServiceFn<fn(Request<Upstream>) -> Answer>>,
    L::Service: Service<Request<Upstream>, Response = Response<B>>,
{
    let mut request = Request::new(upstream);
    let accept = HeaderValue::from_static("text/event-stream");
    request.headers_mut().insert("accept", accept);
    let peer = SocketAddr::from(([192, 0, 2, 1], 5000));
    request.extensions_mut().insert(PeerAddr::from(peer));
    let service = layer.layer(service_fn(answer as fn(_) -> _));
    match service.oneshot(request).now_or_never() {
        Some(Ok(response)) if response.status() == 200 => response.into_body(),
        _ => panic!("the answer was ready and fine inside"),
    }
}

/// Times bodies polled to their end.
fn polled<L, B>(bencher: Bencher<'_, '_>, layer: L, upstream: impl Fn() -> Upstream)
where
    L: Layer<ServiceFn<fn(Request<Upstream>) -> Answer>> + Sync,
    L::Service: Service<Request<Upstream>, Response = Response<B>>,
    B: Body<Data = Bytes>,
{
    bencher
        .counter(ItemsCount::new(EVENTS))
        .with_inputs(|| Box::pin(through(&layer, upstream())))
        .bench_local_values(|mut body| {
            let mut context = Context::from_waker(Waker::noop());
            while let Poll::Ready(Some(frame)) = body.as_mut().poll_frame(&mut context) {
                black_box(frame.is_ok());
            }
            body
        });
}

fn whole<L, B>(bencher: Bencher<'_, '_>, layer: L, event: Event)
where
    L: Layer<ServiceFn<fn(Request<Upstream>) -> Answer>> + Sync,
    L::Service: Service<Request<Upstream>, Response = Response<B>>,
    B: Body<Data = Bytes>,
{
    let length = event.text().len();
    polled(bencher, layer, || Upstream::new(event, 0, length));
}

/// The deadlines are far away: it is the bytes that are timed.
const FAR: Duration = Duration::from_secs(3600);

#[divan::bench(args = ALL)]
fn bare(bencher: Bencher<'_, '_>, event: Event) {
    whole(bencher, Identity::new(), event);
}

#[divan::bench(args = ALL)]
fn metrics(bencher: Bencher<'_, '_>, event: Event) {
    whole(bencher, MetricsLayer::new(), event);
}

#[divan::bench(args = ALL)]
fn connection_limit(bencher: Bencher<'_, '_>, event: Event) {
    whole(bencher, ConnectionLimitLayer::new().per_client(None), event);
}

#[divan::bench(args = ALL)]
fn rotation(bencher: Bencher<'_, '_>, event: Event) {
    whole(bencher, RotationLayer::new().max_age(FAR, 0.1), event);
}

#[divan::bench(args = ALL)]
fn heartbeat(bencher: Bencher<'_, '_>, event: Event) {
    whole(bencher, HeartbeatLayer::new(FAR), event);
}

#[divan::bench(args = ALL)]
fn idle_timeout(bencher: Bencher<'_, '_>, event: Event) {
    whole(bencher, IdleTimeoutLayer::new().timeout(FAR), event);
}

/// All five on.
fn stack() -> SseGuardLayer {
    SseGuardLayer::new()
        .limit(ConnectionLimitLayer::new().per_client(None))
        .rotation(RotationLayer::new().max_age(FAR, 0.1))
        .heartbeat(HeartbeatLayer::new(FAR))
        .idle_timeout(IdleTimeoutLayer::new().timeout(FAR))
}

#[divan::bench(args = ALL)]
fn all_five(bencher: Bencher<'_, '_>, event: Event) {
    whole(bencher, stack(), event);
}

/// The same five, each with a body of its own around the next one's.
#[divan::bench(args = ALL)]
fn all_five_nested(bencher: Bencher<'_, '_>, event: Event) {
    let layers = ServiceBuilder::new()
        .layer(MetricsLayer::new())
        .layer(ConnectionLimitLayer::new().per_client(None))
        .layer(RotationLayer::new().max_age(FAR, 0.1))
        .layer(HeartbeatLayer::new(FAR))
        .layer(IdleTimeoutLayer::new().timeout(FAR));
    whole(bencher, layers, event);
}

/// Chunks that are cut without regard to events.
mod unaligned {
    use super::*;

    /// The first chunk is shorter than the others, so that none of them ends where an event does.
    const SHIFT: usize = 3;

    #[divan::bench(args = ALL, consts = [7, 1000])]
    fn bare<const CHUNK: usize>(bencher: Bencher<'_, '_>, event: Event) {
        let upstream = || Upstream::new(event, SHIFT, CHUNK);
        polled(bencher, Identity::new(), upstream);
    }

    #[divan::bench(args = ALL, consts = [7, 1000])]
    fn all_five<const CHUNK: usize>(bencher: Bencher<'_, '_>, event: Event) {
        let upstream = || Upstream::new(event, SHIFT, CHUNK);
        polled(bencher, stack(), upstream);
    }
}
