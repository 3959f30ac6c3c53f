//! The wait for a response's head.
//!
//! hyper writes the request and reads the head, and would hold its buffers for as long as the upstream
//! takes. So when that is long, the socket leaves hyper, which has sent all it had, and goes to a new
//! connection of hyper's when something has come.

use super::head_io::{Gate, HeadIo};
use super::{BoxedBody, Failed, Progress, nothing};
use crate::serve::Upload;
use bytes::BytesMut;
use http::{Method, Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::{Connection, SendRequest, handshake};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;
use tokio::net::TcpStream;

pub(super) type Driver = Connection<HeadIo, BoxedBody>;

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
    Long(TcpStream, BytesMut),
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
        let (socket, ahead) = match part {
            Part::Over(reply) => return Ok(reply),
            Part::Long(socket, ahead) => (socket, ahead),
        };
        tracing::trace!("a request waits for the upstream's response head");
        // Should it fail, hyper will say so.
        let _ = poll_fn(|cx| socket.poll_read_ready(cx)).await;
        let io = HeadIo::asked_before(socket, &ahead);
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
    let (mut sender, mut driver) = handshake(io).await?;
    let response = {
        let mut response = pin!(sender.try_send_request(*request));
        poll_fn(|cx| {
            // Its end is told to the response, too.
            let _ = Pin::new(&mut driver).poll(cx);
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
            let (socket, ahead) = socket_of(driver);
            Ok(Part::Long(socket, ahead))
        }
    }
}

/// The socket, and what was read of it and not used.
pub(super) fn socket_of(driver: Driver) -> (TcpStream, BytesMut) {
    let parts = driver.into_parts();
    let (socket, ahead) = parts.io.into_parts();
    // Of what hyper read it left nothing, most likely: it got the head alone.
    if parts.read_buf.is_empty() {
        return (socket, ahead);
    }
    let mut all = BytesMut::from(&parts.read_buf[..]);
    all.extend_from_slice(&ahead);
    (socket, all)
}
