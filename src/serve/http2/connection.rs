//! A connection while it serves HTTP/2.

use super::interim::InterimHeads;
use super::io::Http2Io;
use super::ping::PingTimer;
use super::request;
use super::requests::{ConnectionState, Requests};
use super::resets::ResetCount;
use super::response::{RequestEnd, ResponseTask, WaitingRequest};
use crate::client_key::PeerAddr;
use crate::guard::BoxError;
use crate::serve::attachment::ClientConnection;
use crate::serve::client_io::ClientIo;
use crate::serve::http1::NextStep;
use crate::serve::idle::deadline_after;
use crate::serve::oneshot::Oneshot;
use crate::serve::options::ServerOptions;
use crate::serve::request_body::RequestBody;
use crate::serve::stop::StopSignal;
use bytes::Bytes;
use h2::server::{Builder, Connection, SendResponse};
use h2::{Reason, RecvStream};
use http::{Request, Response};
use http_body::Body;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::futures::OwnedNotified;
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};
use tower_service::Service;

/// What a stream may receive before the service has read it, and a connection for all streams.
const STREAM_WINDOW: u32 = 64 * 1024 - 1;
const CONNECTION_WINDOW: u32 = 256 * 1024;
/// What a stream may queue for the socket.
const MAX_SEND_BUFFER: usize = 16 * 1024;
/// How long a client without streams has to close after GOAWAY.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Serves `io`, whose preface is due at `deadline`, until the connection has ended.
pub(in crate::serve) async fn drive<S, B>(
    io: ClientIo,
    peer: PeerAddr,
    service: S,
    options: Arc<ServerOptions>,
    stop: StopSignal,
    deadline: Instant,
) -> NextStep<B>
where
    S: Service<Request<RequestBody>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    io.begin_http2();
    let handshake = builder(&options).handshake(Http2Io(io.clone()));
    let mut connection = match timeout_at(deadline, handshake).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            tracing::debug!(%peer, %error, "an HTTP/2 connection fails at its start");
            return NextStep::Close;
        }
        Err(_) => {
            tracing::debug!(%peer, "a client begins HTTP/2 and sends no settings in time");
            return NextStep::Close;
        }
    };
    let interval = options.http2.ping_interval;
    let ping = interval.and_then(|interval| {
        let ping_pong = connection.ping_pong()?;
        Some(PingTimer::new(ping_pong, interval))
    });
    let mut driver = Driver {
        requests: Requests::new(io, options),
        resets: ResetCount::default(),
        ping,
        is_closing: false,
        peer,
        service,
    };
    let (mut drained, mut stopped) = (pin!(stop.drained()), pin!(stop.notified()));
    let mut idle = pin!(sleep_until(deadline));
    let result = poll_fn(|cx| {
        if !driver.is_closing && (has_come(drained.as_mut(), cx) || has_come(stopped.as_mut(), cx))
        {
            driver.close(&mut connection, idle.as_mut());
        }
        driver.poll(&mut connection, idle.as_mut(), cx)
    })
    .await;
    if let Err(error) = result {
        // A client that disconnects is not an error; why a stream ended is in the stream's own log line.
        tracing::debug!(%peer, error, "connection ended");
    }
    NextStep::Close
}

/// Returns true if the signal was sent, or came before there was something to wait for.
fn has_come(signal: Pin<&mut Option<OwnedNotified>>, cx: &mut Context<'_>) -> bool {
    match signal.as_pin_mut() {
        Some(signal) => signal.poll(cx).is_ready(),
        None => true,
    }
}

fn builder(options: &ServerOptions) -> Builder {
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(options.http2.max_streams)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(u32::try_from(options.max_head).unwrap_or(u32::MAX))
        .max_send_buffer_size(MAX_SEND_BUFFER)
        .reset_stream_duration(Duration::from_secs(1));
    builder
}

struct Driver<S, B> {
    requests: Requests<B>,
    resets: ResetCount,
    ping: Option<PingTimer>,
    /// The client was sent a GOAWAY.
    is_closing: bool,
    peer: PeerAddr,
    service: S,
}

impl<S, B> Driver<S, B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    /// The client opens no more streams, once it has the GOAWAY; those that are open continue.
    fn close(&mut self, connection: &mut Connection<Http2Io, Bytes>, idle: Pin<&mut Sleep>) {
        self.is_closing = true;
        connection.graceful_shutdown();
        if self.requests.is_empty() {
            idle.reset(Instant::now() + CLOSE_TIMEOUT);
        }
    }

    /// Polls the requests, and removes those that have ended.
    fn poll_requests(&mut self, idle: Pin<&mut Sleep>, cx: &mut Context<'_>) {
        let had_requests = !self.requests.is_empty();
        while let Poll::Ready(end) = self.requests.poll_end(cx) {
            match end {
                RequestEnd::Reset => self.resets.add_reset(),
                RequestEnd::Panic => {
                    tracing::error!(peer = %self.peer, "a request's service panicked");
                }
                RequestEnd::Other => {}
            }
        }
        if had_requests && self.requests.is_empty() {
            let ConnectionState { io, options, .. } = &**self.requests.state();
            io.entry().set_idle();
            let now = Instant::now();
            idle.reset(match self.is_closing {
                true => now + CLOSE_TIMEOUT,
                false => deadline_after(now, options.head_timeout),
            });
        }
    }
}

impl<S, B> Driver<S, B>
where
    S: Service<Request<RequestBody>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    fn poll(
        &mut self,
        connection: &mut Connection<Http2Io, Bytes>,
        mut idle: Pin<&mut Sleep>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), BoxError>> {
        loop {
            self.requests.begin_round();
            self.poll_requests(idle.as_mut(), cx);
            if self.resets.is_flood() && !self.is_closing {
                tracing::debug!(peer = %self.peer, "a client resets most of its requests");
                self.is_closing = true;
                connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
            }
            match connection.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    if !self.serve(request, respond) {
                        // The connection is being closed: its task is aborted before the request is served.
                        return Poll::Pending;
                    }
                    continue;
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error.into())),
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Pending => {}
            }
            if self.requests.is_empty() {
                if idle.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                if self.is_closing {
                    return Poll::Ready(Ok(()));
                }
                self.close(connection, idle.as_mut());
                continue;
            }
            return match &mut self.ping {
                Some(ping) => ping
                    .poll_dead(cx)
                    .map(|()| Err("the client has not answered a PING".into())),
                None => Poll::Pending,
            };
        }
    }

    /// Returns false if the connection is being closed.
    fn serve(&mut self, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) -> bool {
        self.resets.add_request();
        let method = request.method().clone();
        let interim = Arc::<InterimHeads>::default();
        let state = self.requests.state();
        let connection = ClientConnection::of(&state.io);
        let request = match request::convert(request, self.peer, connection, &interim) {
            Ok(request) => request,
            Err(reason) => {
                respond.send_reset(reason);
                return true;
            }
        };
        // Not before: without a request the connection stays idle.
        if !state.io.entry().begin_request() {
            return false;
        }
        let response = Box::pin(Oneshot::new(self.service.clone(), request));
        let request = WaitingRequest {
            respond,
            method,
            interim,
            connection: state.clone(),
        };
        self.requests.push(ResponseTask::new(response, request));
        true
    }
}
