//! Upstream connections that belong to one client's connection.
//!
//! NTLM and Negotiate authenticate a TCP connection (see
//! [`connection_auth`](sse_guard::connection_auth)). An upstream connection that carried one of them
//! serves the client's connection that the login came on and no other, and both close together, as
//! if the client had connected to the upstream itself.

use sse_guard::client_key::ClientKey;
use sse_guard::internal::lock;
use sse_guard::internal::{Attachment, ClientConnection};
use sse_guard::serve::Io;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use tokio::sync::Notify;

/// Pinned connections per client's connection, one for each upstream. A login to a further upstream
/// closes the client's connection, and its client starts again on a new one.
const MAX_PINS: usize = 8;

/// The upstream connections of one client's connection.
#[derive(Default)]
pub(super) struct Pins {
    state: Mutex<PinState>,
    /// Notified when a connection is returned or lost.
    changed: Notify,
}

#[derive(Default)]
struct PinState {
    pins: Vec<Pin>,
    /// One of them is lost: what the client knows of its login no longer holds.
    closing: bool,
    /// The task of the client's connection.
    waker: Option<Waker>,
}

struct Pin {
    upstream: Arc<str>,
    client: Option<ClientKey>,
    /// Present between two requests.
    socket: Option<Io>,
}

impl Pins {
    fn change<T>(&self, change: impl FnOnce(&mut PinState) -> T) -> T {
        let (result, waker) = {
            let mut state = lock(&self.state);
            (change(&mut state), state.waker.take())
        };
        self.changed.notify_waiters();
        if let Some(waker) = waker {
            waker.wake();
        }
        result
    }

    /// Takes the connection to this upstream, once the request before has left it. Nothing if there
    /// is none, or if it is lost.
    pub(super) async fn take(&self, upstream: &str, client: Option<&ClientKey>) -> Option<Io> {
        loop {
            let changed = self.changed.notified();
            {
                let mut state = lock(&self.state);
                let mut pins = state.pins.iter_mut();
                let pin = pins.find(|pin| &*pin.upstream == upstream)?;
                // A proxy in front may put several clients on one connection.
                let is_its = pin.client.as_ref() == client;
                let socket = pin.socket.take_if(|_| is_its);
                if socket.as_ref().is_some_and(Io::is_quiet) {
                    return socket;
                }
                if socket.is_some() || !is_its {
                    state.lose(upstream);
                    return None;
                }
            }
            changed.await;
        }
    }

    /// Reserves a place for a connection to this upstream, which is in use. Returns whether there was one.
    pub(super) fn reserve(&self, upstream: &Arc<str>, client: Option<ClientKey>) -> bool {
        let mut state = lock(&self.state);
        let known = state.pins.iter().any(|pin| pin.upstream == *upstream);
        if state.closing || known || state.pins.len() == MAX_PINS {
            state.closing = true;
            return false;
        }
        state.pins.push(Pin {
            upstream: upstream.clone(),
            client,
            socket: None,
        });
        true
    }
}

impl PinState {
    fn lose(&mut self, upstream: &str) {
        self.pins.retain(|pin| &*pin.upstream != upstream);
        self.closing = true;
    }
}

impl Attachment for Pins {
    fn poll_closing(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = lock(&self.state);
        let PinState {
            pins,
            closing,
            waker,
        } = &mut *state;
        for socket in pins.iter().filter_map(|pin| pin.socket.as_ref()) {
            // An end, an error, or an answer to no request.
            *closing |= socket.poll_input(cx).is_ready();
        }
        if *closing {
            // Nothing can use them any more.
            pins.retain(|pin| pin.socket.is_none());
            return Poll::Ready(());
        }
        match waker {
            Some(waker) => waker.clone_from(cx.waker()),
            None => *waker = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    fn is_closing(&self) -> bool {
        let mut state = lock(&self.state);
        let mut idle = state.pins.iter().filter_map(|pin| pin.socket.as_ref());
        let lost = !idle.all(Io::is_quiet);
        state.closing |= lost;
        state.closing
    }
}

/// The right to give a connection back to the client's connection that it belongs to. Dropped
/// without that, the connection is lost.
#[derive(Debug)]
pub(super) struct Lease {
    client: Option<ClientConnection>,
    upstream: Arc<str>,
}

impl Lease {
    pub(super) fn new(client: &ClientConnection, upstream: &Arc<str>) -> Self {
        Self {
            client: Some(client.clone()),
            upstream: upstream.clone(),
        }
    }

    pub(super) fn put(mut self, socket: Io) {
        let pins = self.client.take().and_then(|client| client.attached());
        let Some(pins): Option<Arc<Pins>> = pins else {
            // The client is gone, and the connection closes with it.
            return;
        };
        pins.change(|state| {
            let mut pins = state.pins.iter_mut();
            if let Some(pin) = pins.find(|pin| pin.upstream == self.upstream) {
                pin.socket = Some(socket);
            }
        });
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let pins = self.client.take().and_then(|client| client.attached());
        let Some(pins): Option<Arc<Pins>> = pins else {
            return;
        };
        pins.change(|state| state.lose(&self.upstream));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use tokio::net::{TcpListener, TcpStream};

    async fn pair() -> (Io, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap());
        let (ours, theirs) = tokio::join!(ours, listener.accept());
        (ours.unwrap().into(), theirs.unwrap().0)
    }

    fn put(pins: &Pins, socket: Io) {
        pins.change(|state| state.pins[0].socket = Some(socket));
    }

    #[tokio::test]
    async fn pin_is_taken_once_the_request_before_has_left_it() {
        let pins = Pins::default();
        let upstream: Arc<str> = "app:80".into();
        assert!(pins.take(&upstream, None).await.is_none());
        assert!(pins.reserve(&upstream, None));
        let (ours, _theirs) = pair().await;
        let address = ours.socket().local_addr().unwrap();
        let (taken, ()) = tokio::join!(pins.take(&upstream, None), async { put(&pins, ours) });
        assert_eq!(taken.unwrap().socket().local_addr().unwrap(), address);
        assert!(!pins.is_closing());
    }

    #[tokio::test]
    async fn pin_that_ends_while_idle_closes_the_connection_of_its_client() {
        let pins = Pins::default();
        let upstream: Arc<str> = "app:80".into();
        assert!(pins.reserve(&upstream, None));
        let (ours, theirs) = pair().await;
        let closing = poll_fn(|cx| pins.poll_closing(cx));
        // The wait began while the connection was in use.
        tokio::join!(closing, async {
            put(&pins, ours);
            drop(theirs);
        });
        assert!(pins.is_closing());
        pins.change(|state| state.lose(&upstream));
        assert!(pins.take(&upstream, None).await.is_none());
        assert!(!pins.reserve(&upstream, None));
    }

    #[tokio::test]
    async fn pin_is_not_taken_by_another_client_on_the_connection() {
        let pins = Pins::default();
        let upstream: Arc<str> = "app:80".into();
        let client = |last| Some(ClientKey::Ip([192, 0, 2, last].into()));
        assert!(pins.reserve(&upstream, client(1)));
        let (ours, _theirs) = pair().await;
        put(&pins, ours);
        assert!(pins.take(&upstream, client(2).as_ref()).await.is_none());
        assert!(pins.is_closing());
        assert!(pins.take(&upstream, client(1).as_ref()).await.is_none());
    }
}
