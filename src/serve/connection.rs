//! A client's connection from its start to its end.

use super::call::{Answered, Call};
use super::idle::{Idle, later};
use super::io::ClientIo;
use super::pump::Pump;
use super::registry::ConnectionEntry;
use super::stop::Stop;
use super::talk::{Next, talk};
use super::transport::Io;
use super::{RequestBody, Settings, tune};
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
use tokio::time::Instant;
use tower_service::Service;

pin_project! {
    /// A connection. Most of the time most connections wait, so that it is no larger than a wait: an
    /// async function would hold its arguments twice, and the room of all it ever awaits.
    pub(super) struct Connection<S, B> {
        io: ClientIo,
        peer: PeerAddr,
        service: S,
        settings: Arc<Settings>,
        #[pin]
        state: State<B>,
        // Dropped last: the server waits for it, and counts what is left then.
        stop: Stop,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<B> {
        Idle {
            #[pin]
            idle: Idle,
        },
        // On the heap, so that no other state holds the room of a request's parsing.
        Talks { talk: Pin<Box<dyn Future<Output = Next<B>> + Send>> },
        Waits { call: Box<Call<B>> },
        Streams { pump: Pin<Box<Pump<B>>> },
    }
}

impl<S, B> Connection<S, B> {
    /// Fails if its client has gone by then.
    pub(super) fn new(
        socket: Io,
        entry: ConnectionEntry,
        peer: PeerAddr,
        service: S,
        settings: Arc<Settings>,
        stop: Stop,
    ) -> io::Result<Self> {
        tune(&socket, &settings)?;
        let deadline = later(Instant::now(), settings.head_timeout);
        Ok(Self {
            io: ClientIo::new(socket, settings.stalls(), settings.case(), entry),
            peer,
            service,
            state: State::Idle {
                idle: Idle::new(deadline, &stop),
            },
            settings,
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
        let talks = |deadline: Instant, answered: Option<Box<Answered<B>>>| State::Talks {
            talk: Box::pin(talk(
                this.io.clone(),
                *this.peer,
                this.service.clone(),
                this.settings.clone(),
                this.stop.clone(),
                deadline,
                answered,
            )),
        };
        let head_deadline = || later(Instant::now(), this.settings.head_timeout);
        loop {
            let next = match this.state.as_mut().project() {
                StateProj::Idle { idle } => {
                    let deadline = idle.deadline();
                    match ready!(idle.poll_come(this.io, cx)) {
                        true => Next::Talk(deadline),
                        false => Next::Over,
                    }
                }
                StateProj::Talks { talk } => ready!(talk.as_mut().poll(cx)),
                StateProj::Waits { call } => ready!(call.poll_wait(this.io, cx)),
                StateProj::Streams { pump } => match ready!(pump.as_mut().poll(cx)) {
                    Some(_) => {
                        this.io.entry().idle();
                        Next::Talk(head_deadline())
                    }
                    None => Next::Over,
                },
            };
            let state = match next {
                Next::Over => return Poll::Ready(()),
                Next::Idle(deadline) => {
                    tracing::trace!(peer = %this.peer, "a connection waits for a request");
                    State::Idle {
                        idle: Idle::new(deadline, this.stop),
                    }
                }
                Next::Talk(deadline) => talks(deadline, None),
                Next::Answer(answered) => {
                    this.io.unread(&answered.head_for_hyper());
                    talks(head_deadline(), Some(answered))
                }
                Next::Wait(call) => {
                    tracing::trace!(peer = %this.peer, "a request waits for its response");
                    State::Waits { call }
                }
                Next::Stream(pump) => State::Streams { pump },
            };
            this.state.set(state);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::registry::Registry;
    use super::super::stop::Stopper;
    use super::*;
    use http_body_util::Empty;
    use std::convert::Infallible;
    use std::future::Ready;
    use tokio::net::{TcpListener, TcpStream};

    /// As large as the proxy's.
    #[derive(Clone)]
    struct Nothing(Arc<()>);

    impl Service<Request<RequestBody>> for Nothing {
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

    /// With the task's own record it is to fit into 384 bytes: the next size of a task is 512, and a
    /// silent connection shall cost 1 KiB with its socket's two records.
    #[test]
    fn a_connection_that_waits_is_small() {
        let size = size_of::<Connection<Nothing, Empty<Bytes>>>();
        assert!(size <= 272, "{size} bytes");
    }

    #[tokio::test]
    async fn a_stop_ends_a_connection_that_waits_whenever_it_comes() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        for is_early in [true, false] {
            let (ours, theirs) = tokio::join!(TcpStream::connect(address), listener.accept());
            let (_ours, (theirs, peer)) = (ours.unwrap(), theirs.unwrap());
            let stopper = Stopper::new();
            let stop = stopper.subscribe();
            if is_early {
                stopper.stop();
            }
            let (service, settings) = (Nothing(Arc::default()), Arc::<Settings>::default());
            let registry = Registry::default();
            let entry = registry.admit(peer.ip(), &settings.per_client).unwrap();
            let connection =
                Connection::new(theirs.into(), entry, peer.into(), service, settings, stop)
                    .unwrap();
            let task = tokio::spawn(connection);
            tokio::task::yield_now().await;
            if !is_early {
                stopper.stop();
            }
            task.await.unwrap();
            stopper.closed().await;
        }
    }
}
