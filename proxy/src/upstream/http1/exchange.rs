//! One request on one connection: hyper writes it and reads the response's head; the body is read
//! by hyper or by `StreamBody`.

use super::super::UpstreamBody;
use super::super::binding::{Binding, stays_open};
use super::super::outgoing::{BoxedBody, Outgoing};
use super::super::pins::Lease;
use super::super::pool::PoolReturn;
use super::super::progress::Progress;
use super::body_length::BodyLength;
use super::error::ExchangeError;
use super::gate::Gate;
use super::hyper_body::HyperBody;
use super::reply::{Driver, HeadOptions, Reply, reply, socket_of};
use super::stream_body::{Pace, StreamBody};
use bytes::BytesMut;
use http::{Response, StatusCode, Version};
use http_body::Body;
use http_body_util::Either;
use hyper::client::conn::http1::SendRequest;
use sse_guard::internal::{ClientConnection, ResponseKind, Upload};
use sse_guard::serve::Io;
use std::future::poll_fn;
use std::task::Poll;

/// A connection that has switched protocols.
pub(in crate::upstream) struct Switched {
    pub(in crate::upstream) socket: Io,
    /// What came with the head.
    pub(in crate::upstream) ahead: BytesMut,
    /// Held until the connection has ended.
    pub(in crate::upstream) lease: Option<Lease>,
}

/// A response, and its connection if it has switched from HTTP.
pub(in crate::upstream) type Exchanged = (Response<UpstreamBody>, Option<Switched>);

/// A request on its way.
pub(in crate::upstream) struct Sent<'a> {
    pub(in crate::upstream) request: Outgoing,
    pub(in crate::upstream) upload: &'a Upload,
    pub(in crate::upstream) progress: &'a Progress,
    /// The connection was used before, and the request can be put to another.
    pub(in crate::upstream) is_repeatable: bool,
    pub(in crate::upstream) heads: HeadOptions,
}

/// Sends a request to the upstream at the other end of `socket`. When the response has been read
/// and the connection may serve another request, it goes to `binding`.
pub(in crate::upstream) async fn exchange(
    socket: Io,
    binding: &mut Binding<'_>,
    sent: Sent<'_>,
) -> Result<Exchanged, ExchangeError> {
    let Sent {
        request,
        upload,
        progress,
        is_repeatable,
        heads,
    } = sent;
    let method = request.method().clone();
    let client: Option<&ClientConnection> = request.extensions().get();
    let pace = match client.is_some_and(ClientConnection::is_shared) {
        true => Pace::Steady,
        false => Pace::default(),
    };
    let Reply {
        response,
        sender,
        driver,
        gate,
    } = *reply(socket, request, upload, progress, heads).await?;
    let (mut parts, incoming) = response.into_parts();
    if parts.status == StatusCode::SWITCHING_PROTOCOLS {
        // Behind the head nothing of the request may follow.
        if !upload.is_over() || gate.is_blocked() || gate.has_failed() {
            return Err(ExchangeError::EarlySwitch);
        }
        let (socket, ahead) = socket_of(driver);
        let switched = Switched {
            socket,
            ahead,
            lease: binding.tunnel(),
        };
        let body = HyperBody::new(incoming, upload);
        let body = Either::Right(Either::Right(Either::Left(body)));
        return Ok((Response::from_parts(parts, body), Some(switched)));
    }
    // RFC 9110 section 15.5.9: on a connection that was used before it may be of the wait for a
    // request, sent while this one was on its way.
    let closes = !stays_open(parts.version, &parts.headers);
    if is_repeatable && parts.status == StatusCode::REQUEST_TIMEOUT && closes {
        return Err(ExchangeError::TimedOut);
    }
    let length = BodyLength::of(&mut parts)?;
    let pool_return = binding.pool_return(&parts);
    // What is left of the request is hyper's to send, and an end that came with the head hyper's to
    // see: no event would report it.
    let is_stream = ResponseKind::of(&method, &parts) != ResponseKind::Other;
    let is_empty = matches!(length, BodyLength::Length(0));
    let is_sent = upload.is_over() && !gate.is_blocked() && !gate.has_failed();
    let is_ours = is_stream && !is_empty && is_sent;
    let body = if is_ours {
        let stays = parts.version == Version::HTTP_11 && !closes && !driver.has_ended();
        let (socket, ahead) = socket_of(driver);
        let pool_return = pool_return.filter(|_| stays);
        Either::Left(StreamBody::new(socket, pool_return, ahead, length, pace))
    } else {
        let has_chunks = !incoming.is_end_stream() && matches!(length, BodyLength::Chunked(_));
        gate.open(has_chunks);
        tokio::spawn(rest(sender, driver, gate, pool_return));
        let body = HyperBody::new(incoming, upload);
        Either::Right(Either::Right(Either::Left(body)))
    };
    Ok((Response::from_parts(parts, body), None))
}

/// Lets hyper read the body, and keeps the connection if another request can follow.
async fn rest(
    mut sender: SendRequest<BoxedBody>,
    mut driver: Driver,
    gate: Gate,
    pool_return: Option<PoolReturn>,
) {
    let is_idle = poll_fn(|cx| {
        if driver.poll(cx).is_ready() {
            return Poll::Ready(false);
        }
        sender.poll_ready(cx).map(|ready| ready.is_ok())
    });
    if let (true, false, Some(pool_return)) = (is_idle.await, gate.has_failed(), pool_return) {
        let (socket, ahead) = socket_of(driver);
        if ahead.is_empty() {
            pool_return.put(socket);
        }
    }
}
