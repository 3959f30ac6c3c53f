//! Passes requests out of hyper's connection and responses back into it.

use super::pending_request::{PendingRequest, ReadyResponse};
use super::request_options::RequestOptions;
use super::response_body::ResponseBody;
use crate::client_key::PeerAddr;
use crate::guard::BoxError;
use crate::lock::lock;
use crate::serve::RequestBody;
use crate::serve::attachment::ClientConnection;
use crate::serve::client_io::ClientIo;
use crate::stream::Stream;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use hyper::body::Incoming;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use tower_service::Service;

/// Shared by hyper's service and the driver of the connection. The driver polls the request, because a request
/// must be able to outlive hyper's connection.
pub(super) struct Handoff<B>(Arc<Mutex<HandoffState<B>>>);

impl<B> Clone for Handoff<B> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

pub(super) enum HandoffState<B> {
    /// No request is in progress, or the driver polls it.
    Empty,
    /// hyper has read a request.
    Request(PendingRequest<B>),
    /// The driver has a response for hyper to write.
    Response(ReadyResponse<B>),
    /// hyper writes a response; with the record of its event stream, if it is one.
    Writing(Option<Stream>),
}

impl<B> Handoff<B> {
    pub(super) fn new(response: Option<ReadyResponse<B>>) -> Self {
        let state = response.map_or(HandoffState::Empty, HandoffState::Response);
        Self(Arc::new(Mutex::new(state)))
    }

    pub(super) fn state(&self) -> MutexGuard<'_, HandoffState<B>> {
        lock(&self.0)
    }

    pub(super) fn set(&self, state: HandoffState<B>) {
        *self.state() = state;
    }

    pub(super) fn take_request(&self) -> Option<PendingRequest<B>> {
        let mut state = self.state();
        match std::mem::replace(&mut *state, HandoffState::Empty) {
            HandoffState::Request(request) => Some(request),
            other => {
                *state = other;
                None
            }
        }
    }

    /// The response for hyper, whose state is `Writing` until its body is dropped.
    fn take_response(&self, io: &ClientIo) -> Option<Result<Response<ResponseBody<B>>, BoxError>> {
        let mut state = self.state();
        match std::mem::replace(&mut *state, HandoffState::Empty) {
            HandoffState::Response(response) => {
                let response = response.result.map(|response| {
                    *state = HandoffState::Writing(response.extensions().get().cloned());
                    response.map(|body| ResponseBody::new(body, self.clone(), io.clone()))
                });
                Some(response)
            }
            other => {
                *state = other;
                None
            }
        }
    }

    /// hyper has dropped the body of its response.
    pub(super) fn body_dropped(&self) {
        let mut state = self.state();
        if let HandoffState::Writing(_) = *state {
            *state = HandoffState::Empty;
        }
    }
}

/// The service that hyper calls: it leaves requests in the [`Handoff`] and waits there for their responses.
pub(super) struct HandoffService<S, B> {
    pub(super) service: S,
    pub(super) connection: ClientConnection,
    pub(super) io: ClientIo,
    pub(super) peer: PeerAddr,
    pub(super) handoff: Handoff<B>,
}

// No field is pinned.
impl<S, B> Unpin for HandoffService<S, B> {}

impl<S, B> hyper::service::Service<Request<Incoming>> for HandoffService<S, B>
where
    S: Service<Request<RequestBody>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + 'static,
{
    type Response = Response<ResponseBody<B>>;
    type Error = BoxError;
    type Future = HandoffResponse<B>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let response = HandoffResponse {
            handoff: self.handoff.clone(),
            io: self.io.clone(),
            is_connect: request.method() == Method::CONNECT,
        };
        self.io.set_awaits_head(false);
        if let HandoffState::Response(_) = *self.handoff.state() {
            // A replayed head, which only shows hyper how to write the response that is ready.
            return response;
        }
        let (options, method) = (RequestOptions::of(&request), request.method().clone());
        let (mut parts, incoming) = request.into_parts();
        let (body, upload) = RequestBody::new(incoming);
        self.connection
            .clone()
            .insert_into(&mut parts.extensions, self.peer);
        let request = Request::from_parts(parts, body);
        let request = PendingRequest::new(self.service.clone(), request, method, options, upload);
        self.handoff.set(HandoffState::Request(request));
        response
    }
}

/// Resolves to the response that the driver leaves in the [`Handoff`]. It registers no waker: the driver polls hyper
/// next.
pub(super) struct HandoffResponse<B> {
    handoff: Handoff<B>,
    io: ClientIo,
    is_connect: bool,
}

// No field is pinned.
impl<B> Unpin for HandoffResponse<B> {}

impl<B> Future for HandoffResponse<B> {
    type Output = Result<Response<ResponseBody<B>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(response) = self.handoff.take_response(&self.io) else {
            return Poll::Pending;
        };
        let is_switch = response.as_ref().is_ok_and(|response| {
            let status = response.status();
            status == StatusCode::SWITCHING_PROTOCOLS || self.is_connect && status.is_success()
        });
        if self.io.response_known(is_switch) {
            cx.waker().wake_by_ref();
        }
        Poll::Ready(response)
    }
}
