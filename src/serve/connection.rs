//! A client's connection: a state machine from its start to its end.

use super::client_io::ClientIo;
use super::http1::{NextStep, PendingRequest, ReadyResponse, StreamWriter, drive};
use super::idle::{IdleEnd, IdleWait, deadline_after};
use super::io::Io;
use super::options::ServerOptions;
use super::proxy_protocol::HeaderReader;
use super::registry::ConnectionEntry;
use super::request_body::RequestBody;
use super::stop::StopSignal;
use crate::client_key::PeerAddr;
use crate::guard::BoxError;
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::Instant;
use tower_service::Service;

pin_project! {
    /// Most connections wait most of the time. So this future is not larger than a wait: an async function would hold
    /// its arguments twice, and reserve space for everything that it awaits.
    pub(super) struct Connection<S, B> {
        io: ClientIo,
        peer: PeerAddr,
        service: S,
        options: Arc<ServerOptions>,
        #[pin]
        state: ConnectionState<B>,
        // Dropped last: the server waits for it, and then counts the connections that are left.
        stop: StopSignal,
    }
}

pin_project! {
    #[project = ConnectionStateProj]
    enum ConnectionState<B> {
        Idle {
            #[pin]
            wait: IdleWait,
            first: FirstRequest,
        },
        // On the heap, as few connections have a header.
        ProxyHeader { reader: Pin<Box<HeaderReader>> },
        // By hyper, or by HTTP/2 to the end of the connection. On the heap, so that no other state reserves the space that
        // hyper needs to parse a request.
        Driven { driver: Pin<Box<dyn Future<Output = NextStep<B>> + Send>> },
        AwaitingResponse { request: Box<PendingRequest<B>> },
        Streaming { writer: Pin<Box<StreamWriter<B>>> },
    }
}

/// How long a server that stops waits for the first request of a connection, from its start: its client may have
/// connected just before, and a handshake of TLS takes a while.
const SETTLE_TIME: Duration = Duration::from_secs(2);

/// The first request of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FirstRequest {
    /// No request was received yet, so that the client may begin HTTP/2.
    Awaited,
    /// As well, while the server stops.
    Settling,
    Received,
}

impl<S, B> Connection<S, B> {
    /// Fails if the client has disconnected.
    pub(super) fn new(
        socket: Io,
        entry: ConnectionEntry,
        peer: PeerAddr,
        service: S,
        options: Arc<ServerOptions>,
        stop: StopSignal,
    ) -> io::Result<Self> {
        let deadline = deadline_after(Instant::now(), options.head_timeout);
        let wait = IdleWait::new(deadline, &stop);
        Ok(Self {
            io: options.client_io(socket, entry)?,
            peer,
            service,
            state: match options.proxy_protocol {
                None => ConnectionState::Idle {
                    wait,
                    first: FirstRequest::Awaited,
                },
                Some(_) => ConnectionState::ProxyHeader {
                    reader: Box::pin(HeaderReader::new(wait)),
                },
            },
            options,
            stop,
        })
    }
}

impl<S, B> Future for Connection<S, B>
where
    S: Service<Request<RequestBody>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError> + Send,
{
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        let http1 = |peer: PeerAddr, deadline: Instant, response: Option<Box<ReadyResponse<B>>>| {
            ConnectionState::Driven {
                driver: Box::pin(drive(
                    this.io.clone(),
                    peer,
                    this.service.clone(),
                    this.options.clone(),
                    this.stop.clone(),
                    deadline,
                    response,
                )),
            }
        };
        let head_deadline = || deadline_after(Instant::now(), this.options.head_timeout);
        loop {
            let next = match this.state.as_mut().project() {
                ConnectionStateProj::Idle { mut wait, first } => {
                    let deadline = wait.deadline();
                    let start = deadline.checked_sub(this.options.head_timeout);
                    let settled = start.unwrap_or(deadline) + SETTLE_TIME;
                    #[cfg(feature = "http2")]
                    let may_be_http2 = || {
                        *first != FirstRequest::Received
                            && (this.options.http2.enabled || this.io.has_negotiated_http2())
                    };
                    #[cfg(feature = "http2")]
                    let has_begun = |input: &[u8]| {
                        !super::http2::is_preface_incomplete(input) || !may_be_http2()
                    };
                    #[cfg(not(feature = "http2"))]
                    let has_begun = |_: &[u8]| true;
                    let end = wait
                        .as_mut()
                        .poll_request_start(this.io, *this.peer, cx, has_begun);
                    match ready!(end) {
                        // RFC 8737 section 3: a CA that verifies a name ends the connection after the handshake.
                        IdleEnd::Request
                            if *first != FirstRequest::Received
                                && this.io.has_negotiated_acme() =>
                        {
                            NextStep::Close
                        }
                        #[cfg(feature = "http2")]
                        IdleEnd::Request
                            if this.io.peek(super::http2::has_preface) && may_be_http2() =>
                        {
                            NextStep::Http2(deadline)
                        }
                        IdleEnd::Request => NextStep::ReadRequest(deadline),
                        IdleEnd::Stop
                            if *first == FirstRequest::Awaited && Instant::now() < settled =>
                        {
                            *first = FirstRequest::Settling;
                            wait.settle(settled);
                            continue;
                        }
                        IdleEnd::Close | IdleEnd::Stop => {
                            // Every message is complete: over TLS, the client gets a `close_notify`.
                            let _ = this.io.shutdown();
                            NextStep::Close
                        }
                    }
                }
                ConnectionStateProj::ProxyHeader { reader } => {
                    let deadline = reader.deadline();
                    let Some(protocol) = &this.options.proxy_protocol else {
                        return Poll::Ready(());
                    };
                    let peer = reader.as_mut().poll_peer(this.io, *this.peer, protocol, cx);
                    match ready!(peer) {
                        Some(peer) if peer == *this.peer => NextStep::Begin(deadline),
                        Some(peer) => {
                            *this.peer = peer;
                            let limit = &this.options.per_client;
                            match this.io.entry().set_peer(peer.ip(), limit) {
                                true => NextStep::Begin(deadline),
                                false => NextStep::Close,
                            }
                        }
                        None => NextStep::Close,
                    }
                }
                ConnectionStateProj::Driven { driver } => ready!(driver.as_mut().poll(cx)),
                ConnectionStateProj::AwaitingResponse { request } => {
                    ready!(request.poll_outside_hyper(this.io, cx))
                }
                ConnectionStateProj::Streaming { writer } => match ready!(writer.as_mut().poll(cx))
                {
                    true => {
                        this.io.entry().set_idle();
                        NextStep::ReadRequest(head_deadline())
                    }
                    false => NextStep::Close,
                },
            };
            let state = match next {
                NextStep::Close => return Poll::Ready(()),
                NextStep::Idle(deadline) => {
                    tracing::trace!(peer = %this.peer, "a connection waits for a request");
                    ConnectionState::Idle {
                        wait: IdleWait::new(deadline, this.stop),
                        first: FirstRequest::Received,
                    }
                }
                NextStep::Begin(deadline) => ConnectionState::Idle {
                    wait: IdleWait::new(deadline, this.stop),
                    first: FirstRequest::Awaited,
                },
                NextStep::ReadRequest(deadline) => http1(*this.peer, deadline, None),
                #[cfg(feature = "http2")]
                NextStep::Http2(deadline) => ConnectionState::Driven {
                    driver: Box::pin(super::http2::drive(
                        this.io.clone(),
                        *this.peer,
                        this.service.clone(),
                        this.options.clone(),
                        this.stop.clone(),
                        deadline,
                    )),
                },
                NextStep::WriteResponse(response) => {
                    this.io.unread(&response.replay_head());
                    http1(*this.peer, head_deadline(), Some(response))
                }
                NextStep::AwaitResponse(request) => {
                    tracing::trace!(peer = %this.peer, "a request waits for its response");
                    ConnectionState::AwaitingResponse { request }
                }
                NextStep::WriteStream(writer) => ConnectionState::Streaming { writer },
            };
            this.state.set(state);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::registry::ConnectionRegistry;
    use super::super::stop::StopSender;
    use super::*;
    use http_body_util::Empty;
    use std::convert::Infallible;
    use std::future::Ready;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    /// Of the size of the proxy's service.
    #[derive(Clone)]
    struct EmptyService(Arc<()>);

    impl Service<Request<RequestBody>> for EmptyService {
        type Response = Response<Empty<Bytes>>;
        type Error = Infallible;
        type Future = Ready<Result<Self::Response, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<RequestBody>) -> Self::Future {
            drop(self.0.clone());
            std::future::ready(Ok(Response::default()))
        }
    }

    /// With the header of its task it must fit into 384 bytes: the next size of an allocation is 512, and a silent
    /// connection must cost at most 1 KiB with the two records of its socket.
    #[test]
    fn connection_future_is_small() {
        let size = size_of::<Connection<EmptyService, Empty<Bytes>>>();
        assert!(size <= 272, "{size} bytes");
    }

    #[tokio::test]
    async fn stop_closes_a_new_connection_unless_a_request_follows_soon() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        for (is_early, has_request) in [(true, false), (false, false), (true, true), (false, true)]
        {
            let (ours, theirs) = tokio::join!(TcpStream::connect(address), listener.accept());
            let (mut ours, (theirs, peer)) = (ours.unwrap(), theirs.unwrap());
            let stopper = StopSender::new();
            let stop = stopper.subscribe();
            if is_early {
                stopper.stop();
            }
            let (service, options) = (
                EmptyService(Arc::default()),
                Arc::<ServerOptions>::default(),
            );
            let registry = ConnectionRegistry::default();
            let entry = registry.admit(peer.ip(), &options.per_client).unwrap();
            let connection =
                Connection::new(theirs.into(), entry, peer.into(), service, options, stop).unwrap();
            let task = tokio::spawn(connection);
            tokio::task::yield_now().await;
            if !is_early {
                stopper.stop();
            }
            if has_request {
                tokio::task::yield_now().await;
                let request = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
                ours.write_all(request.as_bytes()).await.unwrap();
            }
            let mut response = String::new();
            ours.read_to_string(&mut response).await.unwrap();
            assert_eq!(response.starts_with("HTTP/1.1 200 "), has_request);
            task.await.unwrap();
            stopper.closed().await;
        }
    }
}
