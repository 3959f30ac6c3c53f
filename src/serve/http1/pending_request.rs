//! A request whose response is not known yet.

use super::NextStep;
use super::request_options::RequestOptions;
use super::writer::StreamWriter;
use crate::guard::BoxError;
use crate::request_info::ResponseKind;
use crate::serve::client_io::ClientIo;
use crate::serve::oneshot::Oneshot;
use crate::serve::request_body::{RequestBody, Upload};
use crate::serve::stall::MAX_BUFFERED_RESPONSE;
use crate::serve::stop::StopSignal;
use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::Body;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tower_service::Service;

/// Dropping it cancels the request.
pub(in crate::serve) struct PendingRequest<B> {
    response: Pin<Box<dyn Future<Output = Result<Response<B>, BoxError>> + Send>>,
    method: Method,
    pub(super) request_options: RequestOptions,
    pub(super) upload: Upload,
}

/// A response for hyper to write.
pub(in crate::serve) struct ReadyResponse<B> {
    pub(super) result: Result<Response<B>, BoxError>,
    pub(super) request_options: RequestOptions,
    method: Method,
    is_stream: bool,
    /// hyper closes the connection after it, because it does not read the rest of the request's body.
    is_last: bool,
}

impl<B> ReadyResponse<B> {
    /// Adds `Connection: close` if the connection closes after this response: while the server drains or stops, and if
    /// the request's body was not read. Not to a stream, whose connection closes when it is idle: with this header,
    /// some clients take a broken transfer for a complete one.
    pub(super) fn with_connection_header(mut self, stop: &StopSignal) -> Self {
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

    /// Returns a request head for which hyper writes this response in the same way as for the original one.
    pub(in crate::serve) fn replay_head(&self) -> Vec<u8> {
        self.request_options.replay_head(&self.method)
    }
}

/// The result of a pending request.
pub(super) enum Resolved<B> {
    /// An event stream, which is not written by hyper.
    Stream(Pin<Box<StreamWriter<B>>>),
    Response(ReadyResponse<B>),
}

impl<B: Body<Data = Bytes>> PendingRequest<B> {
    pub(super) fn new<S>(
        service: S,
        request: Request<RequestBody>,
        method: Method,
        request_options: RequestOptions,
        upload: Upload,
    ) -> Self
    where
        S: Service<Request<RequestBody>, Response = Response<B>> + Send + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send,
    {
        Self {
            response: Box::pin(Oneshot::new(service, request)),
            method,
            request_options,
            upload,
        }
    }

    pub(super) fn poll(&mut self, io: &ClientIo, cx: &mut Context<'_>) -> Poll<Resolved<B>> {
        // HTTP/1.0 has no interim heads: RFC 9110 section 15.2. After this poll the final head may have begun,
        // such as that of an early response.
        io.set_accepts_interim(self.request_options.version == Version::HTTP_11);
        let result = self.response.as_mut().poll(cx);
        io.set_accepts_interim(false);
        let result = ready!(result);
        let (request_options, method) = (self.request_options, self.method.clone());
        let response = match result {
            Ok(response) => response,
            Err(error) => {
                let result = Err(error);
                return Poll::Ready(Resolved::Response(ReadyResponse {
                    result,
                    request_options,
                    method,
                    is_stream: false,
                    is_last: false,
                }));
            }
        };
        let (parts, body) = response.into_parts();
        let is_stream = ResponseKind::of(&method, &parts) != ResponseKind::Other
            && !parts.headers.contains_key(CONTENT_LENGTH)
            && body.size_hint().exact().is_none();
        let mut response = Response::from_parts(parts, body);
        if is_stream {
            io.entry().set_stream();
        }
        let size = response.body().size_hint().exact();
        let is_switch = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        let is_tunnel = is_switch || method == Method::CONNECT;
        let may_pause = !is_tunnel && size.is_none_or(|size| size > MAX_BUFFERED_RESPONSE);
        io.begin_response(is_stream, may_pause);
        // hyper still reads the rest of the request's body otherwise.
        if is_stream && self.upload.is_over() {
            let writer = StreamWriter::new(io.clone(), response, request_options);
            return Poll::Ready(Resolved::Stream(Box::pin(writer)));
        }
        if is_switch {
            io.entry().set_tunnel();
        } else if io.is_closing() {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
        }
        if ends_with_connection(request_options, &response) {
            // Unless hyper has written the whole response, the end of the connection must not mark its end.
            io.reset_on_close();
        }
        let result = Ok(response);
        Poll::Ready(Resolved::Response(ReadyResponse {
            result,
            request_options,
            method,
            is_stream,
            is_last: self.upload.is_abandoned(),
        }))
    }

    /// Waits for the response without hyper, or for the client to disconnect.
    pub(in crate::serve) fn poll_outside_hyper(
        &mut self,
        io: &ClientIo,
        cx: &mut Context<'_>,
    ) -> Poll<NextStep<B>> {
        if io.poll_disconnect(cx).is_ready() {
            return Poll::Ready(NextStep::Close);
        }
        let resolved = self.poll(io, cx);
        if let Poll::Ready(Err(error)) = io.poll_interim(cx) {
            tracing::debug!(%error, "cannot write an interim head");
            return Poll::Ready(NextStep::Close);
        }
        resolved.map(|resolved| match resolved {
            Resolved::Stream(writer) => NextStep::WriteStream(writer),
            Resolved::Response(response) => NextStep::WriteResponse(Box::new(response)),
        })
    }
}

/// Returns true if only the end of the connection marks the end of the response. hyper writes no other response after
/// it.
fn ends_with_connection<B: Body>(request_options: RequestOptions, response: &Response<B>) -> bool {
    let is_old = [request_options.version, response.version()].contains(&Version::HTTP_10);
    is_old
        && !response.headers().contains_key(CONTENT_LENGTH)
        && response.body().size_hint().exact().is_none()
}
