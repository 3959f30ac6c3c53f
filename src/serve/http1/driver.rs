//! A connection while hyper drives it.

use super::NextStep;
use super::handoff::{Handoff, HandoffService, HandoffState};
use super::hyper_io::HyperIo;
use super::pending_request::{PendingRequest, ReadyResponse, Resolved};
use super::writer::StreamWriter;
use crate::client_key::PeerAddr;
use crate::guard::BoxError;
use crate::serve::attachment::ClientConnection;
use crate::serve::client_io::{ClientIo, WriteStalled};
use crate::serve::idle::deadline_after;
use crate::serve::options::ServerOptions;
use crate::serve::request_body::RequestBody;
use crate::serve::stop::StopSignal;
use crate::stream::EndReason;
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::server::conn::http1;
use std::error::Error;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep_until};
use tower_service::Service;

/// A connection that has waited for this long leaves hyper and its buffers. The next request or response sets up
/// hyper again: a busy connection never waits this long, and for others it costs little.
pub const HYPER_IDLE_TIMEOUT: Duration = Duration::from_millis(100);

/// The shortest field, with the end of its line.
const MIN_FIELD_LEN: usize = b"a:\r\n".len();
/// Maximum number of fields of a head, whatever its size: `http::HeaderMap` takes no more than 24,576, and hyper
/// allocates a slot for each.
const MAX_FIELDS: usize = 16 * 1024;

/// Progress of a connection as its driver sees it.
enum DriverPhase<B> {
    /// Waits for a request's head until the deadline.
    ReadingHead(Instant),
    AwaitingResponse {
        request: PendingRequest<B>,
        /// For longer than [`HYPER_IDLE_TIMEOUT`].
        is_long: bool,
    },
    /// hyper writes a response; afterwards the connection can leave hyper if `may_leave`.
    WritingResponse { may_leave: bool },
    /// The response is an event stream, which begins once hyper has written what precedes it, such as
    /// 100 Continue.
    Flushing(Pin<Box<StreamWriter<B>>>),
}

/// Lets hyper serve `io`, whose next head is due at `deadline`, or write `response` to it, until the next step of
/// the connection does not need hyper.
pub(in crate::serve) async fn drive<S, B>(
    io: ClientIo,
    peer: PeerAddr,
    service: S,
    options: Arc<ServerOptions>,
    stop: StopSignal,
    deadline: Instant,
    response: Option<Box<ReadyResponse<B>>>,
) -> NextStep<B>
where
    S: Service<Request<RequestBody>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let mut phase = match &response {
        None => DriverPhase::ReadingHead(deadline),
        Some(response) => DriverPhase::WritingResponse {
            may_leave: response.request_options.may_leave_hyper(),
        },
    };
    io.set_awaits_head(matches!(phase, DriverPhase::ReadingHead(_)));
    let handoff = Handoff::new(response.map(|response| response.with_connection_header(&stop)));
    let service = HandoffService {
        service,
        connection: ClientConnection::of(&io),
        io: io.clone(),
        peer,
        handoff: handoff.clone(),
    };
    let mut builder = http1::Builder::new();
    builder.title_case_headers(options.title_case_headers);
    if io.has_many_fields() {
        // Only for the few requests that need it: hyper allocates these slots for each request, and keeps those
        // of 100 fields on the stack.
        builder.max_headers((options.max_head / MIN_FIELD_LEN).min(MAX_FIELDS));
    }
    let mut connection = builder
        // hyper's timeout does not run between two requests, and costs a timer for each.
        .header_read_timeout(None)
        .max_buf_size(options.max_head)
        .serve_connection(HyperIo::new(io.clone()), service)
        .with_upgrades();
    let mut stopped = pin!(stop.notified());
    let (mut is_stopping, mut shutdown_started, mut is_disconnected) = (false, false, false);
    let mut timer = pin!(sleep_until(deadline));
    let result = poll_fn(|cx| {
        loop {
            if let Poll::Ready(result) = Pin::new(&mut connection).poll(cx) {
                return Poll::Ready(Err(result));
            }
            // The poll that completes a response may read the next request.
            if let Some(request) = handoff.take_request() {
                if !io.entry().begin_request() {
                    // The connection is being closed: its task is aborted before the request is served.
                    return Poll::Pending;
                }
                timer.as_mut().reset(Instant::now() + HYPER_IDLE_TIMEOUT);
                let is_long = false;
                phase = DriverPhase::AwaitingResponse { request, is_long };
            }
            if let DriverPhase::AwaitingResponse { request, .. } = &mut phase {
                let (request_options, may_leave) =
                    (request.request_options, request.upload.is_over());
                match request.poll(&io, cx) {
                    Poll::Pending => {}
                    Poll::Ready(Resolved::Stream(writer)) => {
                        phase = DriverPhase::Flushing(writer);
                    }
                    Poll::Ready(Resolved::Response(response)) => {
                        let may_leave = may_leave && request_options.may_leave_hyper();
                        phase = DriverPhase::WritingResponse { may_leave };
                        let response = response.with_connection_header(&stop);
                        handoff.set(HandoffState::Response(response));
                        continue;
                    }
                }
            }
            // In these phases hyper has no part of a message left to write: what preceded the response is complete.
            if let DriverPhase::AwaitingResponse { .. } | DriverPhase::Flushing(_) = phase
                && let Poll::Ready(Err(error)) = io.poll_interim(cx)
            {
                tracing::debug!(%peer, %error, "cannot write an interim head");
                is_disconnected = true;
                return Poll::Ready(Err(Ok(())));
            }
            if let DriverPhase::WritingResponse { may_leave } = phase
                && let HandoffState::Empty = *handoff.state()
                && !io.is_blocked()
            {
                let now = Instant::now();
                let deadline = deadline_after(now, options.head_timeout);
                io.entry().set_idle();
                io.set_awaits_head(true);
                phase = DriverPhase::ReadingHead(deadline);
                let timeout = match may_leave {
                    true => deadline.min(now + HYPER_IDLE_TIMEOUT),
                    false => deadline,
                };
                timer.as_mut().reset(timeout);
            }
            if let DriverPhase::ReadingHead(_) = phase
                && io.has_many_fields()
            {
                return Poll::Ready(Ok(()));
            }
            let disconnected = match &phase {
                DriverPhase::Flushing(_) if !io.is_blocked() => return Poll::Ready(Ok(())),
                DriverPhase::Flushing(_) => io.poll_disconnect(cx),
                DriverPhase::AwaitingResponse { request, .. } if request.upload.is_over() => {
                    io.poll_disconnect(cx)
                }
                // hyper reads until the end of the input only as long as it gets nothing else.
                DriverPhase::WritingResponse { .. } => io.poll_half_closed(cx),
                // hyper reads no more of an upload than the service takes.
                DriverPhase::AwaitingResponse { .. } => io.poll_fully_closed(cx),
                DriverPhase::ReadingHead(_) => Poll::Pending,
            };
            if disconnected.is_ready() {
                is_disconnected = true;
                return Poll::Ready(Err(Ok(())));
            }
            if is_time_to_leave(&mut phase, timer.as_mut(), &io, cx) {
                return Poll::Ready(Ok(()));
            }
            is_stopping = is_stopping
                || match stopped.as_mut().as_pin_mut() {
                    Some(stopped) => stopped.poll(cx).is_ready(),
                    None => true,
                }
                || io.poll_closing(cx).is_ready();
            let is_response_due = matches!(
                phase,
                DriverPhase::AwaitingResponse { .. } | DriverPhase::Flushing(_)
            );
            // After graceful_shutdown, hyper adds `Connection: close` to each head that it writes. So the response
            // in progress is sent first.
            if !is_stopping || shutdown_started || is_response_due {
                return Poll::Pending;
            }
            shutdown_started = true;
            Pin::new(&mut connection).graceful_shutdown();
        }
    })
    .await;
    match result {
        Ok(()) => {
            let Some(parts) = connection.into_parts() else {
                return NextStep::Close;
            };
            io.unread(&parts.read_buf);
            match phase {
                DriverPhase::Flushing(writer) => NextStep::WriteStream(writer),
                DriverPhase::AwaitingResponse { request, .. } => {
                    NextStep::AwaitResponse(Box::new(request))
                }
                DriverPhase::ReadingHead(deadline) if io.has_many_fields() => {
                    NextStep::ReadRequest(deadline)
                }
                DriverPhase::ReadingHead(deadline) if deadline > Instant::now() => {
                    NextStep::Idle(deadline)
                }
                DriverPhase::ReadingHead(_) | DriverPhase::WritingResponse { .. } => {
                    NextStep::Close
                }
            }
        }
        Err(Ok(())) => {
            // A truncated response must not look complete to a client that can still read.
            if !is_disconnected {
                io.end_on_close();
            }
            NextStep::Close
        }
        Err(Err(error)) => {
            // A client that disconnects is not an error; why a stream ended is in the stream's own log line.
            tracing::debug!(%peer, %error, "connection ended");
            let cause = error.source().and_then(|cause| cause.downcast_ref());
            if let (true, HandoffState::Writing(Some(stream))) = (
                cause.is_some_and(WriteStalled::is_cause_of),
                &*handoff.state(),
            ) {
                // Before hyper drops the body, which would end the stream as `ClientGone`.
                stream.end(EndReason::ClientStalled);
            }
            NextStep::Close
        }
    }
}

/// Returns true if the connection has waited long enough to leave hyper.
fn is_time_to_leave<B>(
    phase: &mut DriverPhase<B>,
    timer: Pin<&mut Sleep>,
    io: &ClientIo,
    cx: &mut Context<'_>,
) -> bool {
    match phase {
        DriverPhase::ReadingHead(_) => timer.poll(cx).is_ready(),
        DriverPhase::AwaitingResponse { request, is_long } => {
            *is_long = *is_long || timer.poll(cx).is_ready();
            let may_leave = request.upload.is_over() && request.request_options.may_leave_hyper();
            *is_long && may_leave && !io.is_blocked()
        }
        DriverPhase::WritingResponse { .. } | DriverPhase::Flushing(_) => false,
    }
}
