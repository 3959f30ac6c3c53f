//! The listeners for clients while the proxy runs, and the connections of each.

use super::config::{ListenerConfig, ProxyProtocol, Takeover};
use super::listen::{ClientListener, Step};
use super::route::Handler;
use super::state::ProxyState;
use super::tls::{ManagedKeys, ServerTls};
use sse_guard::internal::{self, Accepted, ConnectionGroup};
use sse_guard::serve::{Io, Server};
use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};

/// The listeners for clients.
pub(super) struct Listeners {
    open: Vec<OpenListener>,
    /// The connections of closed listeners.
    closed: Vec<Arc<ConnectionGroup>>,
    /// The listener to accept from first: none is to starve another.
    next: AtomicUsize,
}

/// A socket, and what its connections share.
struct OpenListener {
    socket: ClientListener,
    handler: Handler,
    group: Arc<ConnectionGroup>,
}

impl OpenListener {
    fn url(&self) -> String {
        self.socket.url(self.handler.listener())
    }

    /// The connection as its requests come: over TLS, if the listener has it. The handshake is a part of the wait for
    /// the first request.
    fn wrap(&self, io: Io) -> io::Result<Io> {
        let Some(tls) = &self.handler.listener().tls else {
            return Ok(io);
        };
        // Of this connection alone, not of the socket.
        let failed = |error| io::Error::new(io::ErrorKind::ConnectionAborted, error);
        io.accept_tls(tls.config().clone()).map_err(failed)
    }
}

/// The server with the options of a listener.
fn server_of(listener: &ListenerConfig, state: &ProxyState, server: &Server) -> Server {
    let trusted = match listener.proxy_protocol {
        ProxyProtocol::Off => None,
        ProxyProtocol::Required => Some(state.active().config().trusted_proxies.clients()),
    };
    // Over TLS it is ALPN that selects HTTP/2.
    let has_prior_knowledge = listener.http2 && listener.tls.is_none();
    server
        .clone()
        .proxy_protocol(trusted)
        .http2(has_prior_knowledge)
}

impl internal::Listeners<Handler> for Listeners {
    async fn accept(&self) -> io::Result<Accepted<'_, Handler>> {
        poll_fn(|cx| self.poll_accept(cx)).await
    }
}

impl Listeners {
    /// Those of the active config, in its order.
    pub(super) fn new(
        sockets: impl IntoIterator<Item = ClientListener>,
        state: &Arc<ProxyState>,
        server: &Server,
    ) -> Self {
        let mut listeners = Self {
            open: Vec::new(),
            closed: Vec::new(),
            next: AtomicUsize::new(0),
        };
        let configs = state.active().config().listeners.clone();
        let sockets = sockets.into_iter().zip(configs);
        listeners
            .open
            .extend(sockets.map(|(socket, config)| OpenListener {
                socket,
                group: Arc::new(server_of(&config, state, server).group()),
                handler: Handler::new(state, config),
            }));
        listeners.publish(state);
        listeners
    }

    /// Their connections are counted for metrics.
    fn publish(&self, state: &ProxyState) {
        let named = self.open.iter().map(|listener| {
            let name = listener.handler.listener().name.clone();
            (name, listener.group.clone())
        });
        state.carryover.set_listeners(named);
    }

    /// Those of the active config from now on, by the steps of its reload and the sockets that it has opened.
    /// Returns the ones that are gone, whose queues may hold connections.
    pub(super) fn replace(
        &mut self,
        steps: &[Step],
        opened: Vec<ClientListener>,
        state: &Arc<ProxyState>,
        server: &Server,
    ) -> Self {
        let mut before: Vec<_> = self.open.drain(..).map(Some).collect();
        let mut opened = opened.into_iter();
        let configs = state.active().config().listeners.clone();
        for (step, mut config) in steps.iter().zip(configs) {
            let kept = match step {
                Step::Keep(index) | Step::Hold(index) => before[*index].take(),
                Step::Open => None,
            };
            if let Some(kept) = &kept {
                config.keep_tls_of(kept.handler.listener());
            }
            let server = server_of(&config, state, server);
            let handler = Handler::new(state, config);
            match (kept, step) {
                (Some(kept), _) => {
                    kept.group.set_options(&server);
                    self.open.push(OpenListener { handler, ..kept });
                }
                (None, _) => {
                    self.open.extend(opened.next().map(|socket| {
                        tracing::info!("listening on {}", socket.url(handler.listener()));
                        let group = Arc::new(server.group());
                        OpenListener {
                            socket,
                            handler,
                            group,
                        }
                    }));
                }
            }
        }
        self.publish(state);
        self.closed.retain(|group| group.open() > 0);
        let gone: Vec<_> = before.into_iter().flatten().collect();
        self.closed
            .extend(gone.iter().map(|gone| gone.group.clone()));
        Self {
            open: gone,
            closed: Vec::new(),
            next: AtomicUsize::new(0),
        }
    }

    /// The certificates of ACME, of all listeners.
    pub(super) fn managed_keys(&self) -> Vec<Arc<ManagedKeys>> {
        let tls = self
            .open
            .iter()
            .filter_map(|it| it.handler.listener().tls.as_ref());
        tls.filter_map(ServerTls::managed).cloned().collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// As logs name them.
    pub(super) fn urls(&self) -> String {
        let urls: Vec<_> = self.open.iter().map(OpenListener::url).collect();
        urls.join(", ")
    }

    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<Accepted<'_, Handler>>> {
        let first = self.next.load(Relaxed);
        for offset in 0..self.open.len() {
            let index = (first + offset) % self.open.len();
            let listener = &self.open[index];
            if let Poll::Ready(accepted) = listener.socket.poll_accept(cx) {
                self.next.store(index + 1, Relaxed);
                return Poll::Ready(accepted.and_then(|(io, peer)| {
                    Ok(Accepted {
                        io: listener.wrap(io)?,
                        peer,
                        service: &listener.handler,
                        group: &listener.group,
                    })
                }));
            }
        }
        Poll::Pending
    }

    /// From now on another process may listen there, too.
    pub(super) fn begin_handover(&mut self) {
        for listener in &mut self.open {
            listener.socket.begin_handover();
        }
    }

    /// Whether another process serves all addresses too, as far as it can be detected.
    pub(super) fn are_taken_over(&self, takeover: Takeover) -> bool {
        let mut sockets = self.open.iter().map(|it| &it.socket);
        sockets.all(|socket| socket.is_taken_over(takeover))
    }

    /// Closes the sockets that the service manager keeps: what waits there is for the next process. On the others no
    /// new connection comes; those that wait are still to be accepted.
    pub(super) fn refuse_handshakes(&mut self) {
        let open = std::mem::take(&mut self.open);
        let (inherited, own): (Vec<_>, Vec<_>) =
            open.into_iter().partition(|it| it.socket.is_inherited());
        self.closed.extend(inherited.into_iter().map(|it| it.group));
        for listener in &own {
            listener.socket.refuse_handshakes();
        }
        self.open = own;
    }

    /// Closes the sockets.
    pub(super) fn close(&mut self) {
        self.closed.extend(self.open.drain(..).map(|it| it.group));
    }

    fn groups(&self) -> impl Iterator<Item = &ConnectionGroup> {
        let open = self.open.iter().map(|it| &*it.group);
        open.chain(self.closed.iter().map(|group| &**group))
    }

    /// From now on, responses other than streams have `Connection: close`, and their connections close after them.
    pub(super) fn drain(&self) {
        self.groups().for_each(ConnectionGroup::drain);
    }

    /// Closes each connection after its current response.
    pub(super) fn stop(&self) {
        self.groups().for_each(ConnectionGroup::stop);
    }

    /// Waits until all connections have closed.
    pub(super) async fn all_closed(&self) {
        for group in self.groups() {
            group.closed().await;
        }
    }
}
