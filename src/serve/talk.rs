//! A connection while hyper drives it: until it ends, or a response turns out to be an event
//! stream.

use super::Settings;
use super::body::{RequestBody, Upload};
use super::client::Client;
use super::io::{ClientIo, Stalled};
use super::pump::Pump;
use crate::asked::{Asked, Kind};
use crate::client_key::PeerAddr;
use crate::guard::BoxError;
use crate::lock::lock;
use crate::stream::{EndReason, Stream};
use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{Request, Response, Version};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::TokioTimer;
use std::error::Error;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Poll;
use tokio::sync::watch;
use tower_service::Service;

/// Whether all that tells the client where the response ends is the end of the connection. hyper
/// writes no other response behind such a one.
fn ends_with_connection<B: Body>(client: Client, response: &Response<B>) -> bool {
    let is_old = [client.version, response.version()].contains(&Version::HTTP_10);
    is_old
        && !response.headers().contains_key(CONTENT_LENGTH)
        && response.body().size_hint().exact().is_none()
}

/// Where the service's side leaves word for the connection's side.
struct Desk<B>(Arc<Mutex<Note<B>>>);

impl<B> Clone for Desk<B> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

enum Note<B> {
    /// No request is under way, or its response is on its way.
    Idle,
    /// A request has been asked, with its body's state.
    Asked(Upload),
    /// Its response is an event stream that hyper writes.
    Written(Stream),
    /// Its response is an event stream, and ours to write.
    Stream(Pin<Box<Pump<B>>>),
}

impl<B> Desk<B> {
    fn note(&self) -> MutexGuard<'_, Note<B>> {
        lock(&self.0)
    }

    fn leave(&self, note: Note<B>) {
        *self.note() = note;
    }

    fn take(&self) -> Option<Pin<Box<Pump<B>>>> {
        match std::mem::replace(&mut *self.note(), Note::Idle) {
            Note::Stream(pump) => Some(pump),
            Note::Idle | Note::Asked(_) | Note::Written(_) => None,
        }
    }
}

/// The service as hyper calls it.
struct Attendant<S, B> {
    service: S,
    io: ClientIo,
    peer: SocketAddr,
    desk: Desk<B>,
}

// Nothing here is ever pinned.
impl<S, B> Unpin for Attendant<S, B> {}

impl<S, B> hyper::service::Service<Request<Incoming>> for Attendant<S, B>
where
    S: Service<Request<RequestBody>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + 'static,
{
    type Response = Response<B>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<B>, S::Error>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let (client, asked) = (Client::of(&request), Asked::of(&request));
        let (mut parts, incoming) = request.into_parts();
        let (body, upload) = RequestBody::new(incoming);
        self.desk.leave(Note::Asked(upload.clone()));
        parts.extensions.insert(PeerAddr(self.peer));
        #[cfg(feature = "axum")]
        parts
            .extensions
            .insert(axum::extract::ConnectInfo(self.peer));
        let mut service = self.service.clone();
        let (desk, io) = (self.desk.clone(), self.io.clone());
        Box::pin(async move {
            poll_fn(|cx| service.poll_ready(cx)).await?;
            let response = service.call(Request::from_parts(parts, body)).await?;
            let (parts, body) = response.into_parts();
            let is_stream = Kind::of(&asked, &parts) != Kind::Other
                && !parts.headers.contains_key(CONTENT_LENGTH)
                && body.size_hint().exact().is_none();
            let response = Response::from_parts(parts, body);
            // While the request's body is coming, its connection can not change hands.
            if is_stream && upload.is_over() {
                desk.leave(Note::Stream(Box::pin(Pump::new(io, response, client))));
                // The connection is taken from hyper meanwhile, and this future dropped.
                return std::future::pending().await;
            }
            if ends_with_connection(client, &response) {
                // Whoever cuts it, and however: unless hyper has brought it to its end, the end of
                // the connection must not say that this was all.
                io.reset_on_close();
            }
            let stream = response.extensions().get().cloned();
            desk.leave(stream.map_or(Note::Idle, Note::Written));
            Ok(response)
        })
    }
}

/// Has hyper serve `io`, until the connection is over or a response is an event stream: then the
/// socket is the pump's.
pub(super) async fn talk<S, B>(
    io: &ClientIo,
    peer: SocketAddr,
    service: S,
    settings: &Settings,
    mut stopping: watch::Receiver<()>,
) -> Option<Pin<Box<Pump<B>>>>
where
    S: Service<Request<RequestBody>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let desk = Desk(Arc::new(Mutex::new(Note::Idle)));
    let attendant = Attendant {
        service,
        io: io.clone(),
        peer,
        desk: desk.clone(),
    };
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(settings.head_timeout)
        .max_buf_size(settings.max_head)
        .serve_connection(io.clone(), attendant)
        .with_upgrades();
    let mut stop = pin!(async {
        // If the sender is gone, so is the server.
        let _ = stopping.changed().await;
    });
    let (mut is_stopping, mut was_told) = (false, false);
    let result = poll_fn(|cx| {
        loop {
            if let Poll::Ready(result) = Pin::new(&mut connection).poll(cx) {
                return Poll::Ready(Some(result));
            }
            let (under_way, expects_nothing) = match &*desk.note() {
                // What hyper has to say before, such as 100 Continue, has to be out.
                Note::Stream(_) if !io.is_blocked() => return Poll::Ready(None),
                Note::Stream(_) => (true, true),
                Note::Asked(upload) => (true, upload.is_over()),
                Note::Idle | Note::Written(_) => (false, false),
            };
            if expects_nothing && io.poll_gone(cx).is_ready() {
                return Poll::Ready(Some(Ok(())));
            }
            is_stopping = is_stopping || stop.as_mut().poll(cx).is_ready();
            // A head that is written from then on says `Connection: close`. So the one under way
            // goes out first.
            if !is_stopping || was_told || under_way {
                return Poll::Pending;
            }
            was_told = true;
            Pin::new(&mut connection).graceful_shutdown();
        }
    })
    .await;
    match result {
        None => {
            let parts = connection.into_parts()?;
            io.unread(&parts.read_buf);
            desk.take()
        }
        Some(Ok(())) => {
            io.end_on_close();
            None
        }
        Some(Err(error)) => {
            // Clients that go are no fault; what ended a stream is in the stream's own line.
            tracing::debug!(%peer, %error, "connection ended");
            let cause = error.source().and_then(|cause| cause.downcast_ref());
            if let (true, Note::Written(stream)) =
                (cause.is_some_and(Stalled::is_why), &*desk.note())
            {
                // Before hyper drops the body, to which the client would be gone.
                stream.end(EndReason::ClientStalled);
            }
            None
        }
    }
}
