//! One request of a connection, from its call of the service to the end of the response.

use super::interim::InterimHeads;
use super::writer::{BodyWriter, EventStream};
use crate::connection_auth;
use crate::guard::BoxError;
use crate::request_info::{ResponseKind, has_body};
use crate::serve::client_io::ClientIo;
use crate::serve::options::ServerOptions;
use bytes::Bytes;
use h2::Reason;
use h2::server::SendResponse;
use http::header::{CONNECTION, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, Method, Response, StatusCode, Version};
use http_body::Body;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

/// Fields of an HTTP/1.1 connection, which make a message of HTTP/2 malformed: RFC 9113 section 8.2.2.
static CONNECTION_FIELDS: [HeaderName; 5] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Resolves to the way in which the request ended.
pub(super) struct ResponseTask<B> {
    state: ResponseState<B>,
    respond: SendResponse<Bytes>,
    method: Method,
    interim: Arc<InterimHeads>,
    io: ClientIo,
    options: Arc<ServerOptions>,
}

type ResponseFuture<B> = Pin<Box<dyn Future<Output = Result<Response<B>, BoxError>> + Send>>;

enum ResponseState<B> {
    Waiting(ResponseFuture<B>),
    Writing(Pin<Box<BodyWriter<B>>>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequestEnd {
    /// The client has reset it before its response began.
    Reset,
    Other,
}

impl<B> ResponseTask<B> {
    pub(super) fn new(
        response: ResponseFuture<B>,
        respond: SendResponse<Bytes>,
        method: Method,
        interim: Arc<InterimHeads>,
        io: ClientIo,
        options: Arc<ServerOptions>,
    ) -> Self {
        Self {
            state: ResponseState::Waiting(response),
            respond,
            method,
            interim,
            io,
            options,
        }
    }
}

impl<B> Future for ResponseTask<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Output = RequestEnd;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<RequestEnd> {
        let this = self.get_mut();
        loop {
            let response = match &mut this.state {
                ResponseState::Writing(writer) => {
                    return writer.as_mut().poll(cx).map(|()| RequestEnd::Other);
                }
                ResponseState::Waiting(response) => {
                    if this.respond.poll_reset(cx).is_ready() {
                        return Poll::Ready(RequestEnd::Reset);
                    }
                    let response = response.as_mut().poll(cx);
                    for head in this.interim.take(cx) {
                        let head = head.map(|()| ());
                        if let Err(error) = this.respond.send_informational(head) {
                            tracing::debug!(%error, "cannot send an interim head");
                        }
                    }
                    ready!(response)
                }
            };
            let response = match response {
                Ok(response) => response,
                Err(error) => {
                    tracing::debug!(error, "a request fails without a response");
                    this.respond.send_reset(Reason::INTERNAL_ERROR);
                    return Poll::Ready(RequestEnd::Other);
                }
            };
            match this.begin(response) {
                Some(writer) => this.state = ResponseState::Writing(Box::pin(writer)),
                None => return Poll::Ready(RequestEnd::Other),
            }
        }
    }
}

impl<B> ResponseTask<B>
where
    B: Body<Data = Bytes>,
{
    /// Sends the head. Returns the writer of its body, if there is one.
    fn begin(&mut self, response: Response<B>) -> Option<BodyWriter<B>> {
        let (mut parts, body) = response.into_parts();
        if parts.status == StatusCode::SWITCHING_PROTOCOLS
            || connection_auth::in_response(&parts.headers)
        {
            // The client sends the request again over HTTP/1.1, which has what the response needs.
            self.respond.send_reset(Reason::HTTP_1_1_REQUIRED);
            return None;
        }
        remove_connection_fields(&mut parts.headers);
        parts.version = Version::HTTP_2;
        let is_stream = ResponseKind::of(&self.method, &parts) != ResponseKind::Other;
        let stream = parts.extensions.remove();
        parts.extensions.clear();
        let is_over = !has_body(&self.method, parts.status) || body.is_end_stream();
        let head = Response::from_parts(parts, ());
        let send = match self.respond.send_response(head, is_over) {
            Ok(send) => send,
            Err(error) => {
                tracing::debug!(%error, "cannot send the head of a response");
                return None;
            }
        };
        if is_over {
            return None;
        }
        let timeout = match is_stream {
            true => self.options.write_stall,
            false => self.options.response_stall,
        };
        let event_stream = is_stream.then(|| EventStream::new(&self.io));
        Some(BodyWriter::new(body, send, stream, event_stream, timeout))
    }
}

fn remove_connection_fields(headers: &mut HeaderMap) {
    for name in &CONNECTION_FIELDS {
        headers.remove(name);
    }
}
