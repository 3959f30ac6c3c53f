//! The wait for a response's head.
//!
//! hyper writes the request and reads the head, and would hold its buffers for as long as the upstream
//! takes. So when that is long, the socket leaves hyper, which has sent all it had, and goes to a new
//! connection of hyper's when something has come.

use super::head_io::{Gate, HeadIo, Interim};
use super::{BoxedBody, Failed, Progress, nothing};
use crate::serve::Upload;
use bytes::BytesMut;
use http::{Method, Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{Connection, SendRequest, handshake};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use tokio::net::TcpStream;

/// hyper's side of a connection, which must not be polled once it has ended.
pub(super) struct Driver {
    connection: Connection<HeadIo, BoxedBody>,
    has_ended: bool,
}

impl Driver {
    /// Ready when the connection has ended. The response or its body has the reason.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.has_ended {
            return Poll::Ready(());
        }
        if let Err(error) = ready!(Pin::new(&mut self.connection).poll(cx)) {
            tracing::debug!(%error, "an upstream's connection ended");
        }
        self.has_ended = true;
        Poll::Ready(())
    }

    pub(super) fn has_ended(&self) -> bool {
        self.has_ended
    }
}

/// A response's head, and the connection that its body will come on.
pub(super) struct Reply {
    pub(super) response: Response<Incoming>,
    pub(super) sender: SendRequest<BoxedBody>,
    pub(super) driver: Driver,
    pub(super) gate: Gate,
}

/// How a part of the wait ends.
enum Part {
    Over(Box<Reply>),
    /// Nothing of the head has come but this, which is whole lines at most.
    Long(TcpStream, BytesMut, Interim),
}

/// Puts `request` to the upstream at the other end of `socket`.
pub(super) async fn reply(
    socket: TcpStream,
    request: Box<Request<BoxedBody>>,
    upload: &Upload,
    progress: &Progress,
) -> Result<Box<Reply>, Failed> {
    let method = request.method().clone();
    let mut part = Box::pin(ask(HeadIo::new(socket), request, upload, progress)).await?;
    loop {
        let (socket, ahead, interim) = match part {
            Part::Over(reply) => return Ok(reply),
            Part::Long(socket, ahead, interim) => (socket, ahead, interim),
        };
        tracing::trace!("a request waits for the upstream's response head");
        // If it fails, hyper reports it.
        let _ = poll_fn(|cx| socket.poll_read_ready(cx)).await;
        let io = HeadIo::asked_before(socket, &ahead, interim);
        part = Box::pin(ask(io, asked_before(&method), upload, progress)).await?;
    }
}

/// All of a request that hyper's reading of the response depends on.
fn asked_before(method: &Method) -> Box<Request<BoxedBody>> {
    let mut request = Request::new(nothing());
    *request.method_mut() = method.clone();
    Box::new(request)
}

async fn ask(
    (io, gate): (HeadIo, Gate),
    request: Box<Request<BoxedBody>>,
    upload: &Upload,
    progress: &Progress,
) -> Result<Part, Failed> {
    let (mut sender, connection) = handshake(io).await?;
    let mut driver = Driver {
        connection,
        has_ended: false,
    };
    let response = {
        let mut response = pin!(send(&mut sender, request));
        poll_fn(|cx| {
            // Its end is reported to the response, too.
            let _ = driver.poll(cx);
            if let Poll::Ready(response) = response.as_mut().poll(cx) {
                return Poll::Ready(Some(response));
            }
            match progress.is_long() && upload.is_over() && gate.only_waits() {
                true => Poll::Ready(None),
                false => Poll::Pending,
            }
        })
        .await
    };
    match response {
        Some(Ok(response)) => Ok(Part::Over(Box::new(Reply {
            response,
            sender,
            driver,
            gate,
        }))),
        Some(Err(mut error)) => Err(match error.take_message() {
            Some(request) => Failed::Unsent(Box::new(request)),
            None => Failed::Http(error.into_error()),
        }),
        None => {
            let (socket, ahead, interim) = parts_of(driver);
            Ok(Part::Long(socket, ahead, interim))
        }
    }
}

/// Frees the request's box, which an `async` block would keep to its end.
fn send(
    sender: &mut SendRequest<BoxedBody>,
    request: Box<Request<BoxedBody>>,
) -> impl Future<Output = Result<Response<Incoming>, TrySendError<Request<BoxedBody>>>> + use<> {
    sender.try_send_request(*request)
}

/// The socket, and what was read of it and not used.
pub(super) fn socket_of(driver: Driver) -> (TcpStream, BytesMut) {
    let (socket, ahead, _) = parts_of(driver);
    (socket, ahead)
}

fn parts_of(driver: Driver) -> (TcpStream, BytesMut, Interim) {
    let parts = driver.connection.into_parts();
    let (socket, ahead, interim) = parts.io.into_parts();
    // Of what hyper read it left nothing, most likely: it got the head alone.
    if parts.read_buf.is_empty() {
        return (socket, ahead, interim);
    }
    let mut all = BytesMut::from(&parts.read_buf[..]);
    all.extend_from_slice(&ahead);
    (socket, all, interim)
}
