//! An upstream by script and a client that reads it, on paused time.

use super::StreamError;
use crate::stream::Stream;
use bytes::Bytes;
use http::{Extensions, HeaderMap, Method, Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep};
use tower::{Layer, Service, ServiceExt};

#[derive(Clone)]
enum Step {
    Send(Bytes),
    Wait(Duration),
    Trailers,
    Fail,
    Hang,
}

/// The steps of an upstream.
#[derive(Clone)]
pub(crate) struct ScriptedUpstream {
    status: StatusCode,
    content_type: &'static str,
    headers: HeaderMap,
    extensions: Extensions,
    late: Option<Duration>,
    steps: VecDeque<Step>,
}

impl ScriptedUpstream {
    pub(crate) fn new() -> Self {
        Self {
            status: StatusCode::OK,
            content_type: "text/event-stream",
            headers: HeaderMap::new(),
            extensions: Extensions::new(),
            late: None,
            steps: VecDeque::new(),
        }
    }

    fn step(mut self, step: Step) -> Self {
        self.steps.push_back(step);
        self
    }

    pub(crate) fn status(mut self, status: u16) -> Self {
        self.status = status.try_into().unwrap();
        self
    }

    pub(crate) fn content_type(mut self, content_type: &'static str) -> Self {
        self.content_type = content_type;
        self
    }

    pub(crate) fn header(mut self, name: &'static str, value: &'static str) -> Self {
        self.headers.insert(name, value.parse().unwrap());
        self
    }

    pub(crate) fn extension<T: Clone + Send + Sync + 'static>(mut self, value: T) -> Self {
        self.extensions.insert(value);
        self
    }

    /// Delays its head by this many seconds.
    pub(crate) fn late(mut self, secs: u64) -> Self {
        self.late = Some(Duration::from_secs(secs));
        self
    }

    pub(crate) fn send(self, text: &str) -> Self {
        self.send_bytes(text.as_bytes())
    }

    pub(crate) fn send_bytes(self, bytes: &[u8]) -> Self {
        self.step(Step::Send(Bytes::copy_from_slice(bytes)))
    }

    /// Waits this many seconds.
    pub(crate) fn wait(self, secs: u64) -> Self {
        self.step(Step::Wait(Duration::from_secs(secs)))
    }

    pub(crate) fn trailers(self) -> Self {
        self.step(Step::Trailers)
    }

    pub(crate) fn fail(self) -> Self {
        self.step(Step::Fail)
    }

    pub(crate) fn hang(self) -> Self {
        self.step(Step::Hang)
    }

    pub(crate) fn repeat(self, times: usize, steps: impl Fn(Self) -> Self) -> Self {
        (0..times).fold(self, |upstream, _| steps(upstream))
    }

    /// Its response, after the delay of its head.
    pub(crate) async fn answer(self) -> Response<ScriptedBody> {
        if let Some(late) = self.late {
            tokio::time::sleep(late).await;
        }
        self.response()
    }

    pub(crate) fn response(self) -> Response<ScriptedBody> {
        let mut response = Response::new(ScriptedBody {
            steps: self.steps,
            sleep: None,
        });
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        *response.extensions_mut() = self.extensions;
        let content_type = self.content_type.parse().unwrap();
        response.headers_mut().insert("content-type", content_type);
        response
    }
}

pub(crate) struct ScriptedBody {
    steps: VecDeque<Step>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Body for ScriptedBody {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        loop {
            if let Some(sleep) = &mut self.sleep {
                ready!(sleep.as_mut().poll(cx));
                self.sleep = None;
            }
            match self.steps.pop_front() {
                None => return Poll::Ready(None),
                Some(Step::Send(bytes)) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
                Some(Step::Wait(time)) => self.sleep = Some(Box::pin(tokio::time::sleep(time))),
                Some(Step::Trailers) => {
                    let mut trailers = HeaderMap::new();
                    trailers.insert("x-trailer", "1".parse().unwrap());
                    return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                }
                Some(Step::Fail) => return Poll::Ready(Some(Err(std::io::Error::other("died")))),
                Some(Step::Hang) => {
                    self.steps.push_front(Step::Hang);
                    return Poll::Pending;
                }
            }
        }
    }
}

/// The service inside the layer under test.
#[derive(Clone)]
pub(crate) struct ScriptedService(ScriptedUpstream);

impl ScriptedService {
    pub(crate) fn new(upstream: ScriptedUpstream) -> Self {
        Self(upstream)
    }
}

impl Service<Request<()>> for ScriptedService {
    type Response = Response<ScriptedBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<ScriptedBody>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<()>) -> Self::Future {
        let upstream = self.0.clone();
        Box::pin(async move { Ok(upstream.answer().await) })
    }
}

type AnyBody = Pin<Box<dyn Body<Data = Bytes, Error = StreamError> + Send>>;

/// A response under test.
pub(crate) struct TestResponse(Response<AnyBody>);

/// Sends `request` to `upstream` through `layer`.
pub(crate) async fn send_request<L, P>(
    layer: L,
    request: Request<()>,
    upstream: ScriptedUpstream,
) -> TestResponse
where
    L: Layer<ScriptedService>,
    L::Service: Service<Request<()>, Response = Response<P>, Error = Infallible>,
    P: Body<Data = Bytes, Error = StreamError> + Send + 'static,
{
    let response = layer
        .layer(ScriptedService(upstream))
        .oneshot(request)
        .await
        .unwrap();
    TestResponse::new(response)
}

pub(crate) async fn get<L, P>(layer: L, upstream: ScriptedUpstream) -> TestResponse
where
    L: Layer<ScriptedService>,
    L::Service: Service<Request<()>, Response = Response<P>, Error = Infallible>,
    P: Body<Data = Bytes, Error = StreamError> + Send + 'static,
{
    let request = Request::get("/").header("accept", "text/event-stream");
    send_request(layer, request.body(()).unwrap(), upstream).await
}

pub(crate) async fn post<L, P>(layer: L, upstream: ScriptedUpstream) -> TestResponse
where
    L: Layer<ScriptedService>,
    L::Service: Service<Request<()>, Response = Response<P>, Error = Infallible>,
    P: Body<Data = Bytes, Error = StreamError> + Send + 'static,
{
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    send_request(layer, request, upstream).await
}

impl TestResponse {
    pub(crate) fn new<P>(response: Response<P>) -> Self
    where
        P: Body<Data = Bytes, Error = StreamError> + Send + 'static,
    {
        Self(response.map(|body| Box::pin(body) as AnyBody))
    }

    pub(crate) fn status(&self) -> u16 {
        self.0.status().as_u16()
    }

    pub(crate) fn headers(&self) -> &HeaderMap {
        self.0.headers()
    }

    pub(crate) fn body(&self) -> &AnyBody {
        self.0.body()
    }

    pub(crate) fn stream(&self) -> Stream {
        self.0.extensions().get::<Stream>().unwrap().clone()
    }

    pub(crate) async fn frame(&mut self) -> Option<Result<Frame<Bytes>, StreamError>> {
        self.0.body_mut().frame().await
    }

    /// The next data.
    pub(crate) async fn next(&mut self) -> Option<Result<String, StreamError>> {
        let frame = self.frame().await?;
        Some(frame.map(|frame| String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap()))
    }

    /// All data, and its end.
    pub(crate) async fn read(mut self) -> (String, Result<(), StreamError>) {
        let mut text = String::new();
        loop {
            match self.next().await {
                None => return (text, Ok(())),
                Some(Ok(data)) => text.push_str(&data),
                Some(Err(error)) => return (text, Err(error)),
            }
        }
    }

    /// All data of a body that ends properly.
    pub(crate) async fn text(self) -> String {
        let (text, end) = self.read().await;
        end.unwrap();
        text
    }

    /// All data of a body that ends properly with trailers, and those.
    pub(crate) async fn text_and_trailers(self) -> (String, HeaderMap) {
        let whole = self.0.into_body().collect().await.unwrap();
        let trailers = whole.trailers().unwrap().clone();
        (
            String::from_utf8(whole.to_bytes().to_vec()).unwrap(),
            trailers,
        )
    }

    /// Each piece of data and the second it came in.
    pub(crate) async fn timed(mut self) -> Vec<(u64, String)> {
        let (start, mut seen) = (Instant::now(), Vec::new());
        while let Some(data) = self.next().await {
            seen.push((start.elapsed().as_secs(), data.unwrap()));
        }
        seen
    }
}
