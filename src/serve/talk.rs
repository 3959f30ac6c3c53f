//! A connection while hyper drives it: until it ends, waits for a request or a response, or a
//! response turns out to be an event stream.

use super::Settings;
use super::attachment::ClientConnection;
use super::call::{Answered, Call, Outcome};
use super::client::Client;
use super::idle::later;
use super::io::{ClientIo, HyperIo, Stalled};
use super::pump::Pump;
use super::stop::Stop;
use super::written::Written;
use crate::client_key::PeerAddr;
use crate::guard::BoxError;
use crate::lock::lock;
use crate::request_info::RequestInfo;
use crate::serve::RequestBody;
use crate::stream::{EndReason, Stream};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use std::error::Error;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep_until};
use tower_service::Service;

/// A connection that has waited for this long leaves hyper and its buffers. The next request or
/// response sets hyper up again, which costs a busy connection nothing and any other one little.
pub const LINGER: Duration = Duration::from_millis(100);

/// The shortest field there is, with the end of its line.
const MIN_FIELD: usize = b"a:\r\n".len();
/// Fields that a head may have, whatever its size: `http::HeaderMap` takes no more than 24,576, and hyper has
/// a place for each.
const MAX_FIELDS: usize = 16 * 1024;

/// What a connection does next.
pub(super) enum Next<B> {
    /// Nothing: it is over.
    Over,
    /// Waits for a request, whose head may take until then.
    Idle(Instant),
    /// Has hyper read a request, whose head may take until then.
    Talk(Instant),
    /// Waits for the response to a request that has come as a whole.
    Wait(Box<Call<B>>),
    /// Has hyper write a response.
    Answer(Box<Answered<B>>),
    /// Writes an event stream.
    Stream(Pin<Box<Pump<B>>>),
}

/// Where the two sides of hyper's service meet.
pub(super) struct Desk<B>(Arc<Mutex<Note<B>>>);

impl<B> Clone for Desk<B> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

enum Note<B> {
    /// No request is under way, or the driver has its call.
    Nothing,
    /// A request has come.
    Asked(Call<B>),
    /// This is for hyper to write.
    Answered(Answered<B>),
    /// hyper writes a response, of this stream if it is one.
    Writes(Option<Stream>),
}

impl<B> Desk<B> {
    pub(super) fn new(answered: Option<Answered<B>>) -> Self {
        let note = answered.map_or(Note::Nothing, Note::Answered);
        Self(Arc::new(Mutex::new(note)))
    }

    fn note(&self) -> MutexGuard<'_, Note<B>> {
        lock(&self.0)
    }

    fn leave(&self, note: Note<B>) {
        *self.note() = note;
    }

    fn take_call(&self) -> Option<Call<B>> {
        let mut note = self.note();
        match std::mem::replace(&mut *note, Note::Nothing) {
            Note::Asked(call) => Some(call),
            other => {
                *note = other;
                None
            }
        }
    }

    /// The response that is there, as hyper gets it.
    fn take_answer(&self, io: &ClientIo) -> Option<Result<Response<Written<B>>, BoxError>> {
        let mut note = self.note();
        match std::mem::replace(&mut *note, Note::Nothing) {
            Note::Answered(answered) => {
                let response = answered.result.map(|response| {
                    *note = Note::Writes(response.extensions().get().cloned());
                    response.map(|body| Written::new(body, self.clone(), io.clone()))
                });
                Some(response)
            }
            other => {
                *note = other;
                None
            }
        }
    }

    /// hyper is done with the body of its response.
    pub(super) fn is_written(&self) {
        let mut note = self.note();
        if let Note::Writes(_) = *note {
            *note = Note::Nothing;
        }
    }
}

/// The service as hyper calls it. It passes calls on to the driver and fetches their responses: a
/// call has to be able to outlive hyper's connection.
struct Attendant<S, B> {
    service: S,
    connection: ClientConnection,
    io: ClientIo,
    peer: PeerAddr,
    desk: Desk<B>,
}

// Nothing here is ever pinned.
impl<S, B> Unpin for Attendant<S, B> {}

impl<S, B> hyper::service::Service<Request<Incoming>> for Attendant<S, B>
where
    S: Service<Request<RequestBody>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + 'static,
{
    type Response = Response<Written<B>>;
    type Error = BoxError;
    type Future = Reply<B>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let reply = Reply {
            desk: self.desk.clone(),
            io: self.io.clone(),
            is_connect: request.method() == Method::CONNECT,
        };
        self.io.set_awaits_head(false);
        if let Note::Answered(_) = *self.desk.note() {
            // This request only tells hyper how to write the response that is there.
            return reply;
        }
        let (client, request_info) = (Client::of(&request), RequestInfo::of(&request));
        let (mut parts, incoming) = request.into_parts();
        let (body, upload) = RequestBody::new(incoming);
        parts.extensions.insert(self.peer);
        parts.extensions.insert(self.connection.clone());
        #[cfg(feature = "axum")]
        if let Some(address) = self.peer.socket_addr() {
            parts.extensions.insert(axum::extract::ConnectInfo(address));
        }
        let request = Request::from_parts(parts, body);
        let call = Call::new(self.service.clone(), request, request_info, client, upload);
        self.desk.leave(Note::Asked(call));
        reply
    }
}

/// A response that the driver leaves at the desk. It wakes nobody: the driver polls hyper next.
struct Reply<B> {
    desk: Desk<B>,
    io: ClientIo,
    is_connect: bool,
}

// Nothing here is ever pinned.
impl<B> Unpin for Reply<B> {}

impl<B> Future for Reply<B> {
    type Output = Result<Response<Written<B>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(answer) = self.desk.take_answer(&self.io) else {
            return Poll::Pending;
        };
        let is_switch = answer.as_ref().is_ok_and(|response| {
            let status = response.status();
            status == StatusCode::SWITCHING_PROTOCOLS || self.is_connect && status.is_success()
        });
        if self.io.answered(is_switch) {
            cx.waker().wake_by_ref();
        }
        Poll::Ready(answer)
    }
}

/// How far a connection has come, as far as its driver can tell.
enum Phase<B> {
    /// It waits for a request's head, until then.
    Head(Instant),
    /// It waits for a response; the flag says that it has done so for long.
    Call(Call<B>, bool),
    /// hyper writes a response. When it is written, the connection can leave hyper.
    Response { may_leave: bool },
    /// The response is ours to write, as soon as hyper has written what comes before it, such as
    /// 100 Continue.
    Stream(Pin<Box<Pump<B>>>),
}

/// Has hyper serve `io`, whose next head may take until `deadline`, or write `answered` to it, until the
/// connection does something that needs no hyper.
pub(super) async fn talk<S, B>(
    io: ClientIo,
    peer: PeerAddr,
    service: S,
    settings: Arc<Settings>,
    stop: Stop,
    deadline: Instant,
    answered: Option<Box<Answered<B>>>,
) -> Next<B>
where
    S: Service<Request<RequestBody>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let mut phase = match &answered {
        None => Phase::Head(deadline),
        Some(answered) => Phase::Response {
            may_leave: answered.client.may_leave(),
        },
    };
    io.set_awaits_head(matches!(phase, Phase::Head(_)));
    let desk = Desk::new(answered.map(|answered| answered.for_server(&stop)));
    let attendant = Attendant {
        service,
        connection: ClientConnection::of(&io),
        io: io.clone(),
        peer,
        desk: desk.clone(),
    };
    let mut builder = http1::Builder::new();
    builder.title_case_headers(settings.title_case_headers);
    if io.has_many_fields() {
        // For few requests alone, as hyper allocates these places for each, and has those of 100 fields on
        // the stack.
        builder.max_headers((settings.max_head / MIN_FIELD).min(MAX_FIELDS));
    }
    let mut connection = builder
        // It would not run between two requests, and cost a timer for each.
        .header_read_timeout(None)
        .max_buf_size(settings.max_head)
        .serve_connection(HyperIo::new(io.clone()), attendant)
        .with_upgrades();
    let mut stopped = pin!(stop.wait());
    let (mut is_stopping, mut was_told, mut is_gone) = (false, false, false);
    let mut timer = pin!(sleep_until(deadline));
    let next = poll_fn(|cx| {
        loop {
            if let Poll::Ready(result) = Pin::new(&mut connection).poll(cx) {
                return Poll::Ready(Err(result));
            }
            // The next request may come in the poll that ends the response before.
            if let Some(call) = desk.take_call() {
                if !io.entry().begin() {
                    // It is being closed: this task is ended with the request unserved.
                    return Poll::Pending;
                }
                timer.as_mut().reset(Instant::now() + LINGER);
                phase = Phase::Call(call, false);
            }
            if let Phase::Call(call, _) = &mut phase {
                let (client, may_leave) = (call.client, call.upload.is_over());
                match call.poll(&io, cx) {
                    Poll::Pending => {}
                    Poll::Ready(Outcome::Stream(pump)) => phase = Phase::Stream(pump),
                    Poll::Ready(Outcome::Other(answered)) => {
                        let may_leave = may_leave && client.may_leave();
                        phase = Phase::Response { may_leave };
                        desk.leave(Note::Answered(answered.for_server(&stop)));
                        continue;
                    }
                }
            }
            // hyper has no part of a message to write then: what comes ahead of the response is over.
            if let Phase::Call(..) | Phase::Stream(_) = phase
                && let Poll::Ready(Err(error)) = io.poll_interim(cx)
            {
                tracing::debug!(%peer, %error, "cannot write an interim head");
                is_gone = true;
                return Poll::Ready(Err(Ok(())));
            }
            if let Phase::Response { may_leave } = phase
                && let Note::Nothing = *desk.note()
                && !io.is_blocked()
            {
                let now = Instant::now();
                let deadline = later(now, settings.head_timeout);
                io.entry().idle();
                io.set_awaits_head(true);
                phase = Phase::Head(deadline);
                let may_stay = if may_leave { now + LINGER } else { deadline };
                timer.as_mut().reset(may_stay.min(deadline));
            }
            if let Phase::Head(_) = phase
                && io.has_many_fields()
            {
                return Poll::Ready(Ok(()));
            }
            let gone = match &phase {
                Phase::Stream(_) if !io.is_blocked() => return Poll::Ready(Ok(())),
                Phase::Stream(_) => io.poll_gone(cx),
                Phase::Call(call, _) if call.upload.is_over() => io.poll_gone(cx),
                // hyper reads on for the end of the input, but only until it has got anything else.
                Phase::Response { .. } => io.poll_hung_up(cx),
                // hyper reads no more of an upload than is taken.
                Phase::Call(..) => io.poll_reset(cx),
                Phase::Head(_) => Poll::Pending,
            };
            if gone.is_ready() {
                is_gone = true;
                return Poll::Ready(Err(Ok(())));
            }
            if is_due(&mut phase, timer.as_mut(), &io, cx) {
                return Poll::Ready(Ok(()));
            }
            is_stopping = is_stopping
                || match stopped.as_mut().as_pin_mut() {
                    Some(stopped) => stopped.poll(cx).is_ready(),
                    None => true,
                }
                || io.poll_closing(cx).is_ready();
            let under_way = matches!(phase, Phase::Call(..) | Phase::Stream(_));
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
    match next {
        Ok(()) => {
            let Some(parts) = connection.into_parts() else {
                return Next::Over;
            };
            io.unread(&parts.read_buf);
            match phase {
                Phase::Stream(pump) => Next::Stream(pump),
                Phase::Call(call, _) => Next::Wait(Box::new(call)),
                Phase::Head(deadline) if io.has_many_fields() => Next::Talk(deadline),
                Phase::Head(deadline) if deadline > Instant::now() => Next::Idle(deadline),
                Phase::Head(_) | Phase::Response { .. } => Next::Over,
            }
        }
        Err(Ok(())) => {
            // A response that was cut off must not seem whole to a client that can still read.
            if !is_gone {
                io.end_on_close();
            }
            Next::Over
        }
        Err(Err(error)) => {
            // Clients that go are no fault; what ended a stream is in the stream's own line.
            tracing::debug!(%peer, %error, "connection ended");
            let cause = error.source().and_then(|cause| cause.downcast_ref());
            if let (true, Note::Writes(Some(stream))) =
                (cause.is_some_and(Stalled::is_why), &*desk.note())
            {
                // Before hyper drops the body, to which the client would be gone.
                stream.end(EndReason::ClientStalled);
            }
            Next::Over
        }
    }
}

/// Whether the connection has waited long enough to leave hyper.
fn is_due<B>(
    phase: &mut Phase<B>,
    timer: Pin<&mut Sleep>,
    io: &ClientIo,
    cx: &mut Context<'_>,
) -> bool {
    match phase {
        Phase::Head(_) => timer.poll(cx).is_ready(),
        Phase::Call(call, is_long) => {
            *is_long = *is_long || timer.poll(cx).is_ready();
            *is_long && call.upload.is_over() && call.client.may_leave() && !io.is_blocked()
        }
        Phase::Response { .. } | Phase::Stream(_) => false,
    }
}
