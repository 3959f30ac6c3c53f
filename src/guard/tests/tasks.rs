//! Guards of one stream that are polled by different tasks, and services that panic.

use crate::SseGuardLayer;
use crate::event::Event;
use crate::guard::StreamError;
use crate::guard::testing::{ScriptedService, ScriptedUpstream, TestResponse};
use crate::heartbeat::HeartbeatLayer;
use crate::inject::InjectLayer;
use crate::rotation::RotationLayer;
use crate::stream::EndReason;
use crate::stream::StreamRegistry;
use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use http_body_util::channel::Channel;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tower::{Layer, Service, ServiceExt, service_fn};

/// A body that a task of its own reads, and hands on by a channel.
fn by_a_task<B>(body: B) -> Channel<Bytes, StreamError>
where
    B: Body<Data = Bytes, Error = StreamError> + Send + 'static,
{
    let (mut sender, channel) = Channel::new(1);
    tokio::spawn(async move {
        let mut body = Box::pin(body);
        while let Some(frame) = body.frame().await {
            let sent = match frame {
                Ok(frame) => sender.send(frame).await,
                Err(error) => return sender.abort(error),
            };
            if sent.is_err() {
                return;
            }
        }
    });
    channel
}

/// `outer` around a channel, and that around `inner`, around an upstream that has one event and is silent
/// then; in which order both are polled first depends on how the caller yields.
async fn through<O, I, P, Q>(outer: O, inner: I) -> TestResponse
where
    I: Layer<ScriptedService>,
    I::Service: Service<Request<()>, Response = Response<P>, Error = Infallible> + Send + 'static,
    <I::Service as Service<Request<()>>>::Future: Send,
    P: Body<Data = Bytes, Error = StreamError> + Send + 'static,
    O: Layer<Between>,
    O::Service: Service<Request<()>, Response = Response<Q>, Error = Infallible>,
    Q: Body<Data = Bytes, Error = StreamError> + Send + 'static,
{
    let upstream = ScriptedUpstream::new().send("data: 1\n\n").hang();
    let request = || {
        let request = Request::get("/").header("accept", "text/event-stream");
        request.body(()).unwrap()
    };
    let inner = inner
        .layer(ScriptedService::new(upstream))
        .oneshot(request())
        .await;
    let response = inner.unwrap().map(by_a_task);
    let service = outer.layer(Between(Some(response)));
    TestResponse::new(service.oneshot(request()).await.unwrap())
}

/// Answers once, with what a task reads.
struct Between(Option<Response<Channel<Bytes, StreamError>>>);

impl Service<Request<()>> for Between {
    type Response = Response<Channel<Bytes, StreamError>>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<()>) -> Self::Future {
        std::future::ready(Ok(self.0.take().unwrap()))
    }
}

/// Lets the other tasks run, before or behind the client's poll.
async fn settle(turns: usize) {
    for _ in 0..turns {
        tokio::task::yield_now().await;
    }
}

/// Reads to the silence, and has the inner task polled before or after that.
async fn quiet(client: &mut TestResponse, inner_last: bool) {
    let wait = Duration::from_millis(1);
    assert_eq!(client.next().await.unwrap().unwrap(), "data: 1\n\n");
    if inner_last {
        // The inner one is polled alone, as by its timer or its upstream.
        assert!(tokio::time::timeout(wait, client.next()).await.is_err());
        settle(10).await;
    } else {
        settle(10).await;
        assert!(tokio::time::timeout(wait, client.next()).await.is_err());
    }
}

#[tokio::test(start_paused = true)]
async fn end_reaches_the_stream_with_any_task_polled_last() {
    for inner_last in [false, true] {
        for ends in [
            |registry: &StreamRegistry, client: &TestResponse| {
                registry.end(client.stream().id());
            },
            |registry: &StreamRegistry, _: &TestResponse| registry.drain(Duration::ZERO),
            |registry: &StreamRegistry, _: &TestResponse| {
                registry.rotate(9, Duration::ZERO);
            },
        ] {
            let registry = StreamRegistry::new();
            let rotation = || RotationLayer::new().retry(None).registry(&registry);
            let heartbeat = HeartbeatLayer::new(Duration::from_secs(3_600));
            let other = StreamRegistry::new();
            let mut clients = vec![
                through(rotation(), heartbeat).await,
                through(rotation(), InjectLayer::new()).await,
                through(InjectLayer::new(), rotation()).await,
                through(
                    rotation(),
                    RotationLayer::new().retry(None).registry(&other),
                )
                .await,
                through(
                    SseGuardLayer::new().rotation(rotation()),
                    InjectLayer::new(),
                )
                .await,
            ];
            for client in &mut clients {
                quiet(client, inner_last).await;
            }
            for mut client in clients {
                ends(&registry, &client);
                let ended = tokio::time::timeout(Duration::from_secs(10), client.next());
                assert!(ended.await.unwrap().is_none());
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn message_reaches_the_stream_with_any_task_polled_last() {
    let rotation = || RotationLayer::new().registry(&StreamRegistry::new());
    for inner_last in [false, true] {
        for mut client in [
            through(rotation(), InjectLayer::new()).await,
            through(InjectLayer::new(), rotation()).await,
            through(InjectLayer::new(), InjectLayer::new()).await,
            through(SseGuardLayer::new(), InjectLayer::new()).await,
        ] {
            quiet(&mut client, inner_last).await;
            let stream = client.stream();
            for n in 2..5 {
                stream
                    .send(&Event::new(None, &n.to_string()).unwrap())
                    .unwrap();
                let sent = tokio::time::timeout(Duration::from_secs(10), client.next());
                assert_eq!(
                    sent.await.unwrap().unwrap().unwrap(),
                    format!("data: {n}\n\n")
                );
                settle(if inner_last { 10 } else { 0 }).await;
            }
        }
    }
}

/// Sends one event, and panics.
struct Panics(bool);

impl Body for Panics {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        assert!(!std::mem::replace(&mut self.0, true), "a handler's bug");
        Poll::Ready(Some(Ok(Frame::data(Bytes::from("data: 1\n\n")))))
    }
}

async fn panicking<L, P>(layer: L) -> TestResponse
where
    L: Layer<tower::util::BoxCloneSyncService<Request<()>, Response<Panics>, Infallible>>,
    L::Service: Service<Request<()>, Response = Response<P>, Error = Infallible>,
    P: Body<Data = Bytes, Error = StreamError> + Send + 'static,
{
    let service = service_fn(|_: Request<()>| async {
        let response = Response::builder().header("content-type", "text/event-stream");
        Ok(response.body(Panics(false)).unwrap())
    });
    let service = layer.layer(tower::util::BoxCloneSyncService::new(service));
    let request = Request::get("/").header("accept", "text/event-stream");
    TestResponse::new(service.oneshot(request.body(()).unwrap()).await.unwrap())
}

#[tokio::test(start_paused = true)]
async fn panic_of_the_service_has_its_own_end_reason() {
    for mut client in [
        panicking(SseGuardLayer::new()).await,
        panicking(HeartbeatLayer::new(Duration::from_secs(15))).await,
    ] {
        let stream = client.stream();
        assert!(client.next().await.unwrap().is_ok());
        let task = tokio::spawn(async move { client.next().await });
        assert!(task.await.unwrap_err().is_panic());
        assert_eq!(stream.end_reason(), Some(EndReason::Panicked));
    }
    // Also where it is caught further outside, and the body lives on.
    let mut client = panicking(SseGuardLayer::new()).await;
    let stream = client.stream();
    assert!(client.next().await.unwrap().is_ok());
    let mut cx = Context::from_waker(std::task::Waker::noop());
    let poll = std::panic::AssertUnwindSafe(|| {
        let mut next = std::pin::pin!(client.next());
        let _ = next.as_mut().poll(&mut cx);
    });
    assert!(std::panic::catch_unwind(poll).is_err());
    assert_eq!(stream.end_reason(), Some(EndReason::Panicked));
    drop(client);
    assert_eq!(stream.end_reason(), Some(EndReason::Panicked));
}

#[tokio::test(start_paused = true)]
async fn body_dropped_by_a_panic_is_not_client_gone() {
    let response = through(SseGuardLayer::new(), InjectLayer::new()).await;
    let stream = response.stream();
    let task = tokio::spawn(async move {
        let _held = response;
        panic!("a bug elsewhere in the task");
    });
    assert!(task.await.unwrap_err().is_panic());
    assert_eq!(stream.end_reason(), Some(EndReason::Panicked));
}
