//! One request on one connection: hyper writes it and reads the response's head, then the body is
//! hyper's or ours.

use super::body::{BadFraming, Framing, StreamBody};
use super::head_io::HeadIo;
use super::pool::Home;
use super::relay::Relay;
use super::{BoxedBody, UpstreamBody};
use crate::asked::{Asked, Kind};
use crate::serve::Upload;
use http::header::CONNECTION;
use http::{HeaderMap, Request, Response, StatusCode, Version};
use http_body_util::Either;
use hyper::body::Incoming;
use hyper::client::conn::http1::{Connection, SendRequest, handshake};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;
use tokio::net::TcpStream;

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failed {
    /// Nothing of the request was sent: it can be put to another connection.
    #[error("the connection was closed")]
    Unsent(Box<Request<BoxedBody>>),
    #[error(transparent)]
    Http(#[from] hyper::Error),
    #[error("the response's head says {0}")]
    Framing(#[from] BadFraming),
}

type Driver = Connection<HeadIo, BoxedBody>;

/// Puts `request` to the upstream at the other end of `socket`, which goes `home` when the response
/// has been read and the connection may serve another.
pub(super) async fn exchange(
    socket: TcpStream,
    home: Home,
    request: Request<BoxedBody>,
    upload: &Upload,
) -> Result<Response<UpstreamBody>, Failed> {
    let asked = Asked::of(&request);
    let (io, gate) = HeadIo::new(socket);
    let (mut sender, mut driver) = handshake(io).await?;
    let response = head(&mut sender, &mut driver, request).await?;
    let (parts, incoming) = response.into_parts();
    let framing = Framing::of(&parts)?;
    // What is left of the request is hyper's to send, and an end that came with the head hyper's to
    // see: nothing would come to tell of it.
    let is_stream = Kind::of(&asked, &parts) != Kind::Other;
    let is_empty = matches!(framing, Framing::Length(0));
    let is_ours = is_stream && !is_empty && upload.is_over() && !gate.is_blocked();
    let body = if is_ours {
        let io = driver.into_parts();
        // Of what hyper read it left nothing: it got the head alone.
        let (socket, mut ahead) = io.io.into_parts();
        if !io.read_buf.is_empty() {
            let mut all = bytes::BytesMut::from(&io.read_buf[..]);
            all.extend_from_slice(&ahead);
            ahead = all;
        }
        let home = stays_open(parts.version, &parts.headers).then_some(home);
        Either::Left(StreamBody::new(socket, home, ahead, framing))
    } else {
        gate.open();
        tokio::spawn(rest(sender, driver, home));
        Either::Right(Either::Left(Relay::new(incoming, upload)))
    };
    Ok(Response::from_parts(parts, body))
}

/// The same for a request to switch protocols: what follows is no HTTP, perhaps.
pub(super) async fn switch(
    socket: TcpStream,
    request: Request<BoxedBody>,
    upload: &Upload,
) -> Result<Response<UpstreamBody>, Failed> {
    let (io, gate) = HeadIo::new(socket);
    let (mut sender, driver) = handshake(io).await?;
    gate.open();
    tokio::spawn(async move {
        if let Err(error) = driver.with_upgrades().await {
            tracing::debug!(%error, "an upstream's connection ended");
        }
    });
    let response = sender.send_request(request).await?;
    Ok(response.map(|incoming| Either::Right(Either::Left(Relay::new(incoming, upload)))))
}

/// Puts `request` to it for no more than the status of the response, and closes the connection.
pub(super) async fn status(
    socket: TcpStream,
    request: Request<BoxedBody>,
) -> Result<StatusCode, Failed> {
    let (io, _) = HeadIo::new(socket);
    let (mut sender, mut driver) = handshake(io).await?;
    Ok(head(&mut sender, &mut driver, request).await?.status())
}

async fn head(
    sender: &mut SendRequest<BoxedBody>,
    driver: &mut Driver,
    request: Request<BoxedBody>,
) -> Result<Response<Incoming>, Failed> {
    let mut response = pin!(sender.try_send_request(request));
    let result = poll_fn(|cx| {
        // Its end is told to the response, too.
        let _ = Pin::new(&mut *driver).poll(cx);
        response.as_mut().poll(cx)
    });
    result
        .await
        .map_err(|mut error| match error.take_message() {
            Some(request) => Failed::Unsent(Box::new(request)),
            None => Failed::Http(error.into_error()),
        })
}

/// Lets hyper read the body, and keeps the connection if another request can follow.
async fn rest(mut sender: SendRequest<BoxedBody>, mut driver: Driver, home: Home) {
    let is_idle = poll_fn(|cx| {
        if let Poll::Ready(result) = Pin::new(&mut driver).poll(cx) {
            if let Err(error) = result {
                tracing::debug!(%error, "an upstream's connection ended");
            }
            return Poll::Ready(false);
        }
        sender.poll_ready(cx).map(|ready| ready.is_ok())
    });
    if is_idle.await {
        let parts = driver.into_parts();
        let (socket, ahead) = parts.io.into_parts();
        if parts.read_buf.is_empty() && ahead.is_empty() {
            home.put(socket);
        }
    }
}

/// RFC 9112 section 9.3.
fn stays_open(version: Version, headers: &HeaderMap) -> bool {
    let mut options = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|&byte| byte == b','));
    version == Version::HTTP_11
        && !options.any(|option| option.trim_ascii().eq_ignore_ascii_case(b"close"))
}
