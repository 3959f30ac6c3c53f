//! The wait for a response's head.
//!
//! hyper writes the request and reads the head, and would hold its buffers for as long as the upstream
//! takes. So when that is long, the socket leaves hyper, which has sent all it had, and goes to a new
//! connection of hyper's when something has come.

use super::super::outgoing::{BoxedBody, Outgoing, nothing};
use super::super::progress::Progress;
use super::error::ExchangeError;
use super::gate::Gate;
use super::head_io::HeadIo;
use super::head_scan::Interim;
use super::interim;
use bytes::BytesMut;
use http::{Method, Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::{Builder, Connection, SendRequest};
use sse_guard::internal::{ClientConnection, Upload};
use sse_guard::serve::Io;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

/// The shortest field there is, with the end of its line.
const MIN_FIELD_BYTES: usize = b"a:\r\n".len();
/// Fields that a head may have, whatever its size: `http::HeaderMap` takes no more than 24,576, and hyper has
/// a place for each.
const MAX_HEAD_FIELDS: usize = 16 * 1024;

/// What is set for the heads of requests and responses.
#[derive(Clone, Copy, Debug)]
pub(in crate::upstream) struct HeadOptions {
    /// Maximum bytes of a response's head.
    pub(in crate::upstream) max_bytes: usize,
    /// Names of fields are sent as `Content-Type`, for servers that compare them byte by byte.
    pub(in crate::upstream) title_case: bool,
}

/// What hyper takes of a response's head.
#[derive(Clone, Copy)]
struct HeadLimits {
    options: HeadOptions,
    /// More than 100 fields. hyper allocates a place for each then, and has those of 100 on the stack: few
    /// responses are to cost that.
    takes_many: bool,
}

impl HeadLimits {
    fn client(self) -> Builder {
        let mut builder = Builder::new();
        builder.max_buf_size(self.options.max_bytes);
        builder.title_case_headers(self.options.title_case);
        if self.takes_many {
            builder.max_headers((self.options.max_bytes / MIN_FIELD_BYTES).min(MAX_HEAD_FIELDS));
        }
        builder
    }
}

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
    Long(Io, BytesMut, Interim),
    /// This has come of a head of more fields than hyper was set up for.
    Full(Io, BytesMut, Interim),
}

/// Puts `request` to the upstream at the other end of `socket`.
pub(super) async fn reply(
    socket: Io,
    mut request: Outgoing,
    upload: &Upload,
    progress: &Progress,
    options: HeadOptions,
) -> Result<Box<Reply>, ExchangeError> {
    let method = request.method().clone();
    // Requests of the proxy itself, such as health checks, have none.
    let client: Option<ClientConnection> = request.extensions().get().cloned();
    if let Some(client) = &client {
        interim::forward(&mut request, client);
    }
    let mut limits = HeadLimits {
        options,
        // The connection cannot leave hyper while the upload continues.
        takes_many: !upload.is_over(),
    };
    let io = HeadIo::new(socket, limits.takes_many);
    let mut part = Box::pin(wait(io, request, upload, progress, limits)).await?;
    loop {
        let (socket, ahead, interim) = match part {
            Part::Over(reply) => return Ok(reply),
            Part::Long(socket, ahead, interim) => {
                tracing::trace!("a request waits for the upstream's response head");
                // If it fails, hyper reports it.
                poll_fn(|cx| socket.poll_input(cx)).await;
                (socket, ahead, interim)
            }
            Part::Full(socket, ahead, interim) => {
                limits.takes_many = true;
                (socket, ahead, interim)
            }
        };
        let io = HeadIo::after_request(socket, &ahead, interim, limits.takes_many);
        let request = bodiless(&method, client.as_ref());
        part = Box::pin(wait(io, request, upload, progress, limits)).await?;
    }
}

/// All of a request that hyper's reading of the response depends on.
fn bodiless(method: &Method, client: Option<&ClientConnection>) -> Outgoing {
    let mut request = Request::new(nothing());
    *request.method_mut() = method.clone();
    if let Some(client) = client {
        interim::forward(&mut request, client);
    }
    Outgoing::new(request)
}

async fn wait(
    (io, gate): (HeadIo, Gate),
    request: Outgoing,
    upload: &Upload,
    progress: &Progress,
    limits: HeadLimits,
) -> Result<Part, ExchangeError> {
    let (mut sender, connection) = limits.client().handshake(io).await?;
    let mut driver = Driver {
        connection,
        has_ended: false,
    };
    let response = {
        let mut response = pin!(sender.try_send_request(request.into_inner()));
        poll_fn(|cx| {
            // Its end is reported to the response, too.
            let _ = driver.poll(cx);
            if let Poll::Ready(response) = response.as_mut().poll(cx) {
                return Poll::Ready(Some(response));
            }
            let may_leave = gate.is_full() || progress.is_long() && gate.only_waits();
            match may_leave && upload.is_over() && !gate.is_blocked() {
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
            Some(request) => ExchangeError::Unsent {
                request: Outgoing::new(request),
                cause: error.into_error(),
            },
            None => match error.into_error() {
                // An error of the request's own body is not one of the connection.
                error if !gate.has_read() && !error.is_user() => ExchangeError::Dead(error),
                error => ExchangeError::Http(error),
            },
        }),
        None => {
            let (socket, ahead, interim) = parts_of(driver);
            Ok(match gate.is_full() {
                true => Part::Full(socket, ahead, interim),
                false => Part::Long(socket, ahead, interim),
            })
        }
    }
}

/// The socket, and what was read of it and not used.
pub(super) fn socket_of(driver: Driver) -> (Io, BytesMut) {
    let (socket, ahead, _) = parts_of(driver);
    (socket, ahead)
}

fn parts_of(driver: Driver) -> (Io, BytesMut, Interim) {
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
