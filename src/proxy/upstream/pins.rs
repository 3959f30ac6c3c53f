//! Upstream connections that belong to one client's connection.
//!
//! A login by NTLM or Negotiate is that of a TCP connection (see
//! [`connection_auth`](crate::connection_auth)). So the upstream connection that carried one serves
//! the client's connection that it came on and no other, and both close together: to the client it
//! is as if it had connected to the upstream itself.

use super::pool::is_quiet;
use crate::client_key::ClientKey;
use crate::lock::lock;
use crate::serve::{Attachment, ClientConnection};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use tokio::io::ReadBuf;
use tokio::net::TcpStream;
use tokio::sync::Notify;

/// Upstreams to which one client's connection can have connections of its own. Behind the last of
/// them it closes, and its client begins anew.
const MAX_PINS: usize = 8;

/// The upstream connections of one client's connection.
#[derive(Default)]
pub(super) struct Pins {
    state: Mutex<State>,
    /// A connection came back, or is lost.
    changed: Notify,
}

#[derive(Default)]
struct State {
    pins: Vec<Pin>,
    /// One of them is lost: what the client knows of its login no longer holds.
    closing: bool,
    /// The task of the client's connection.
    waker: Option<Waker>,
}

struct Pin {
    upstream: Arc<str>,
    client: Option<ClientKey>,
    /// Between two requests.
    socket: Option<TcpStream>,
}

impl Pins {
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
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
    pub(super) async fn take(
        &self,
        upstream: &str,
        client: Option<&ClientKey>,
    ) -> Option<TcpStream> {
        loop {
            let changed = self.changed.notified();
            {
                let mut state = lock(&self.state);
                let mut pins = state.pins.iter_mut();
                let pin = pins.find(|pin| &*pin.upstream == upstream)?;
                // A proxy in front may put several clients on one connection.
                let is_its = pin.client.as_ref() == client;
                let socket = pin.socket.take_if(|_| is_its);
                if socket.as_ref().is_some_and(is_quiet) {
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

    /// Makes room for a connection to this upstream, which is in use. Whether there was some.
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

impl State {
    fn lose(&mut self, upstream: &str) {
        self.pins.retain(|pin| &*pin.upstream != upstream);
        self.closing = true;
    }
}

impl Attachment for Pins {
    fn poll_closing(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = lock(&self.state);
        let State {
            pins,
            closing,
            waker,
        } = &mut *state;
        for socket in pins.iter().filter_map(|pin| pin.socket.as_ref()) {
            // An end, an error, or an answer to no request.
            *closing |= socket.poll_peek(cx, &mut ReadBuf::new(&mut [0])).is_ready();
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
        let lost = !idle.all(is_quiet);
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

    pub(super) fn put(mut self, socket: TcpStream) {
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
