//! One request of a connection, from its call of the service to the end of the response.

use super::interim::InterimHeads;
use super::requests::ConnectionState;
use super::writer::{BodyWriter, StreamConnection};
use crate::connection_auth;
use crate::guard::BoxError;
use crate::request_info::{ResponseKind, has_body};
use bytes::Bytes;
use h2::Reason;
use h2::server::SendResponse;
use http::header::{CONNECTION, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, Method, Response, StatusCode, Version};
use http_body::Body;
use pin_project_lite::pin_project;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
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

pin_project! {
    /// Resolves to the way in which the request ended.
    #[project = ResponseTaskProj]
    pub(super) enum ResponseTask<B> {
        Waiting {
            response: ResponseFuture<B>,
            request: WaitingRequest,
        },
        // Holds nothing of the request.
        Writing {
            #[pin]
            writer: BodyWriter<B>,
        },
    }
}

type ResponseFuture<B> = Pin<Box<dyn Future<Output = Result<Response<B>, BoxError>> + Send>>;

/// A request whose response has not begun.
pub(super) struct WaitingRequest {
    pub(super) respond: SendResponse<Bytes>,
    pub(super) method: Method,
    pub(super) interim: Arc<InterimHeads>,
    pub(super) connection: Arc<ConnectionState>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequestEnd {
    /// The client has reset it before its response began.
    Reset,
    /// Its service has panicked.
    Panic,
    Other,
}

impl<B> ResponseTask<B> {
    pub(super) fn new(response: ResponseFuture<B>, request: WaitingRequest) -> Self {
        Self::Waiting { response, request }
    }
}

impl<B> Future for ResponseTask<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Output = RequestEnd;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<RequestEnd> {
        // The other requests of the connection continue. This one is not polled afterwards.
        let poll = AssertUnwindSafe(|| self.poll_end(cx));
        catch_unwind(poll).unwrap_or(Poll::Ready(RequestEnd::Panic))
    }
}

impl<B> ResponseTask<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    fn poll_end(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<RequestEnd> {
        loop {
            let (response, request) = match self.as_mut().project() {
                ResponseTaskProj::Writing { writer } => {
                    return writer.poll(cx).map(|()| RequestEnd::Other);
                }
                ResponseTaskProj::Waiting { response, request } => (response, request),
            };
            if !request.connection.may_poll() {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if request.respond.poll_reset(cx).is_ready() {
                return Poll::Ready(RequestEnd::Reset);
            }
            let response = response.as_mut().poll(cx);
            request.send_interim(cx);
            let writer = match ready!(response) {
                Ok(response) => request.begin(response),
                Err(error) => {
                    tracing::debug!(error, "a request fails without a response");
                    request.respond.send_reset(Reason::INTERNAL_ERROR);
                    None
                }
            };
            match writer {
                Some(writer) => self.set(Self::Writing { writer }),
                None => return Poll::Ready(RequestEnd::Other),
            }
        }
    }
}

impl WaitingRequest {
    fn send_interim(&mut self, cx: &Context<'_>) {
        for head in self.interim.take(cx) {
            if let Err(error) = self.respond.send_informational(head) {
                tracing::debug!(%error, "cannot send an interim head");
            }
        }
    }

    /// Sends the head. Returns the writer of its body, if there is one.
    fn begin<B>(&mut self, response: Response<B>) -> Option<BodyWriter<B>>
    where
        B: Body<Data = Bytes>,
    {
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
            true => self.connection.options.write_stall,
            false => self.connection.options.response_stall,
        };
        let connection = StreamConnection::new(self.connection.clone(), is_stream);
        Some(BodyWriter::new(body, send, connection, stream, timeout))
    }
}

fn remove_connection_fields(headers: &mut HeaderMap) {
    for name in &CONNECTION_FIELDS {
        headers.remove(name);
    }
}
