//! A request that waits for its response.

use super::body::{RequestBody, Upload};
use super::client::Client;
use super::io::ClientIo;
use super::pump::Pump;
use super::stalls::SMALL;
use super::stop::Stop;
use super::talk::Next;
use crate::guard::BoxError;
use crate::request_info::{RequestInfo, ResponseKind};
use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::Body;
use pin_project_lite::pin_project;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tower_service::Service;

/// A request that has no response yet. To drop it is to cancel it.
pub(super) struct Call<B> {
    response: Pin<Box<dyn Future<Output = Result<Response<B>, BoxError>> + Send>>,
    request_info: RequestInfo,
    pub(super) client: Client,
    pub(super) upload: Upload,
}

/// The response to a request, for hyper to write.
pub(super) struct Answered<B> {
    pub(super) result: Result<Response<B>, BoxError>,
    pub(super) client: Client,
    request_info: RequestInfo,
    is_stream: bool,
    /// hyper closes the connection behind it, as it reads nothing of the request's body any more.
    is_last: bool,
}

impl<B> Answered<B> {
    /// Where the connection closes behind this, the head says so: while the server drains or stops, and where
    /// the request's body was not read. Not of a stream: some clients take a broken transfer for its end then.
    /// Its connection stays until it is idle.
    pub(super) fn for_server(mut self, stop: &Stop) -> Self {
        if let Ok(response) = &mut self.result
            && (self.is_last || stop.is_closing())
            && !self.is_stream
            && response.status() != StatusCode::SWITCHING_PROTOCOLS
        {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
        }
        self
    }

    /// The head of a request whose response hyper would write just as it would have written this one.
    pub(super) fn head_for_hyper(&self) -> Vec<u8> {
        self.client.head_for_hyper(&self.request_info.method)
    }
}

/// What came of a call.
pub(super) enum Outcome<B> {
    /// An event stream that is ours to write.
    Stream(Pin<Box<Pump<B>>>),
    Other(Answered<B>),
}

impl<B: Body<Data = Bytes>> Call<B> {
    pub(super) fn new<S>(
        service: S,
        request: Request<RequestBody>,
        request_info: RequestInfo,
        client: Client,
        upload: Upload,
    ) -> Self
    where
        S: Service<Request<RequestBody>, Response = Response<B>> + Send + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send,
    {
        let request = Some(Box::new(request));
        Self {
            response: Box::pin(Oneshot::Starting { service, request }),
            request_info,
            client,
            upload,
        }
    }

    pub(super) fn poll(&mut self, io: &ClientIo, cx: &mut Context<'_>) -> Poll<Outcome<B>> {
        // HTTP/1.0 has no interim heads: RFC 9110 section 15.2. Behind this poll the final head may have begun,
        // such as that of an early answer.
        io.set_takes_interim(self.client.version == Version::HTTP_11);
        let result = self.response.as_mut().poll(cx);
        io.set_takes_interim(false);
        let result = ready!(result);
        let (client, request_info) = (self.client, self.request_info.clone());
        let response = match result {
            Ok(response) => response,
            Err(error) => {
                let result = Err(error);
                return Poll::Ready(Outcome::Other(Answered {
                    result,
                    client,
                    request_info,
                    is_stream: false,
                    is_last: false,
                }));
            }
        };
        let (parts, body) = response.into_parts();
        let is_stream = ResponseKind::of(&request_info, &parts) != ResponseKind::Other
            && !parts.headers.contains_key(CONTENT_LENGTH)
            && body.size_hint().exact().is_none();
        let mut response = Response::from_parts(parts, body);
        if is_stream {
            io.entry().stream();
        }
        let size = response.body().size_hint().exact();
        let is_switch = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        let is_tunnel = is_switch || request_info.method == Method::CONNECT;
        let may_pause = !is_tunnel && size.is_none_or(|size| size > SMALL);
        io.respond(is_stream, may_pause);
        // While the request's body is coming, its connection cannot change hands.
        if is_stream && self.upload.is_over() {
            let pump = Pump::new(io.clone(), response, client);
            return Poll::Ready(Outcome::Stream(Box::pin(pump)));
        }
        if is_switch {
            io.entry().tunnel();
        } else if io.is_closing() {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
        }
        if ends_with_connection(client, &response) {
            // Whoever cuts it, and however: unless hyper has brought it to its end, the end of
            // the connection must not say that this was all.
            io.reset_on_close();
        }
        let result = Ok(response);
        Poll::Ready(Outcome::Other(Answered {
            result,
            client,
            request_info,
            is_stream,
            is_last: self.upload.is_abandoned(),
        }))
    }

    /// The response without hyper, or the client's going.
    pub(super) fn poll_wait(&mut self, io: &ClientIo, cx: &mut Context<'_>) -> Poll<Next<B>> {
        if io.poll_gone(cx).is_ready() {
            return Poll::Ready(Next::Over);
        }
        let outcome = self.poll(io, cx);
        if let Poll::Ready(Err(error)) = io.poll_interim(cx) {
            tracing::debug!(%error, "cannot write an interim head to a client");
            return Poll::Ready(Next::Over);
        }
        outcome.map(|outcome| match outcome {
            Outcome::Stream(pump) => Next::Stream(pump),
            Outcome::Other(answered) => Next::Answer(Box::new(answered)),
        })
    }
}

/// Whether all that tells the client where the response ends is the end of the connection. hyper
/// writes no other response behind such a one.
fn ends_with_connection<B: Body>(client: Client, response: &Response<B>) -> bool {
    let is_old = [client.version, response.version()].contains(&Version::HTTP_10);
    is_old
        && !response.headers().contains_key(CONTENT_LENGTH)
        && response.body().size_hint().exact().is_none()
}

pin_project! {
    /// One call of a service. The request leaves its place before the wait: its head would pin the
    /// buffer that it was read into.
    #[project = OneshotProj]
    enum Oneshot<S, F> {
        Starting {
            service: S,
            request: Option<Box<Request<RequestBody>>>,
        },
        Started {
            #[pin]
            future: F,
        },
    }
}

impl<S> Future for Oneshot<S, S::Future>
where
    S: Service<Request<RequestBody>>,
    S::Error: Into<BoxError>,
{
    type Output = Result<S::Response, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let future = match self.as_mut().project() {
                OneshotProj::Started { future } => {
                    return future.poll(cx).map_err(Into::into);
                }
                OneshotProj::Starting { service, request } => {
                    ready!(service.poll_ready(cx)).map_err(Into::into)?;
                    match request.take() {
                        Some(request) => service.call(*request),
                        None => return Poll::Pending,
                    }
                }
            };
            self.set(Self::Started { future });
        }
    }
}
