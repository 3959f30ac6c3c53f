//! Serves until told to stop, and stops in good order.

use super::admin::Admin;
use super::config;
use super::files;
use super::logging::Logging;
use super::notify;
use super::router::Handler;
use super::running::Running;
use super::watch::Watch;
use crate::serve::{Connections, Server};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Behind the drain window: for ends on their way out and requests that are no streams.
const GRACE: Duration = Duration::from_secs(5);

/// What the proxy is told while it runs.
pub(super) enum Word {
    Stop,
    /// Whoever wants to know hears what came of it.
    Reload(Option<oneshot::Sender<Told>>),
}

/// What came of a reload: the keys that have changed and those that wait for the next start, or why
/// the old config holds.
pub(super) type Told = Result<(Vec<&'static str>, Vec<&'static str>), String>;

/// The signals that the proxy heeds.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    /// From here on they no longer kill the process.
    pub(super) fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Word {
        tokio::select! {
            _ = self.terminate.recv() => Word::Stop,
            _ = self.interrupt.recv() => Word::Stop,
            _ = self.hangup.recv() => Word::Reload(None),
        }
    }

    async fn stop(&mut self) {
        while !matches!(self.next().await, Word::Stop) {}
    }
}

/// What serves clients, with these limits.
pub(super) fn server(config: &config::Client) -> Server {
    Server::new()
        .has_file(files::has_room)
        .head_timeout(config.head_timeout)
        .max_head(config.max_head)
        .write_stall(config.write_stall)
        .unsent(config.unsent)
        .send_buffer(config.send_buffer)
        .keepalive(config.keepalive)
        .user_timeout(config.user_timeout)
        .max_connections_per_client(config.max_connections.map(u32::from))
        .ipv6_prefix(config.ipv6_prefix)
        .unbounded_clients(config.unbounded.iter().copied())
}

/// The operator's address, if there is one.
pub(super) struct AdminServer {
    admin: Option<Arc<Admin>>,
    /// Of the listener that there is.
    stop: CancellationToken,
}

impl AdminServer {
    pub(super) fn new(admin: Option<Arc<Admin>>, listener: Option<TcpListener>) -> Self {
        let mut server = Self {
            admin,
            stop: CancellationToken::new(),
        };
        server.listen(listener);
        server
    }

    /// In place of the listener that there was, whose connections have a moment to end: who asked
    /// for this is on one of them.
    fn listen(&mut self, listener: Option<TcpListener>) {
        std::mem::take(&mut self.stop).cancel();
        let (Some(admin), Some(listener)) = (&self.admin, listener) else {
            return;
        };
        if let Ok(address) = listener.local_addr() {
            tracing::info!("metrics, health and stream table on http://{address}");
        }
        tokio::spawn(admin.clone().serve(listener, self.stop.clone()));
    }
}

/// The proxy while it runs.
pub(super) struct Proxy {
    pub(super) running: Arc<Running>,
    pub(super) listener: TcpListener,
    pub(super) threads: NonZeroUsize,
    pub(super) admin: AdminServer,
    pub(super) logging: Logging,
    pub(super) watch: Watch,
    pub(super) signals: Signals,
    /// What the operator says.
    pub(super) operator: mpsc::Receiver<Word>,
}

impl Proxy {
    /// Serves until a signal or the operator's word, then drains: no new connections, streams end
    /// spread over the window. Back when all is done, at the latest a few seconds behind the window,
    /// at once on a second signal. Fails if it can not begin.
    pub(super) async fn run(mut self) -> std::io::Result<()> {
        let server = server(&self.running.current().config().client).threads(self.threads);
        let mut connections = server.connections(&self.running.common.connections)?;
        let handler = Handler::new(&self.running);
        notify::ready(&self.listener);
        loop {
            let every = self.running.current().config().watch;
            let word = tokio::select! {
                () = connections.accept(&self.listener, &handler) => Word::Stop,
                word = self.signals.next() => word,
                Some(word) = self.operator.recv() => word,
                () = self.watch.changed(every) => Word::Reload(None),
            };
            match word {
                Word::Stop => break,
                Word::Reload(who) => {
                    self.watch.look(every);
                    notify::reloading();
                    let told = self.reload(&mut connections);
                    notify::reloaded(&self.listener, told.is_ok());
                    if let Some(who) = who {
                        // Who asked may have gone.
                        let _ = who.send(told);
                    }
                }
            }
        }
        self.stop(connections).await;
        Ok(())
    }

    fn reload(&mut self, connections: &mut Connections) -> Told {
        let reloaded = match self.running.reload() {
            Ok(reloaded) => reloaded,
            Err(error) => {
                tracing::error!("the config is not reloaded, the one before holds: {error}");
                return Err(error.to_string());
            }
        };
        let current = self.running.current();
        let config = current.config();
        connections.retune(&server(&config.client));
        self.logging.set_level(config.log.level);
        if let Some(listener) = reloaded.listener {
            if let Ok(address) = listener.local_addr() {
                tracing::info!("listening on http://{address}");
            }
            self.listener = listener;
        }
        if let Some(listener) = reloaded.admin {
            self.admin.listen(listener);
        }
        for warning in &config.warnings {
            tracing::warn!("{warning}");
        }
        let (changed, waiting) = (reloaded.changed, reloaded.waiting);
        if !waiting.is_empty() {
            tracing::warn!(keys = ?waiting, "these hold from the next start on");
        }
        tracing::info!(?changed, "the config is reloaded: new streams use it");
        Ok((changed, waiting))
    }

    async fn stop(mut self, mut connections: Connections) {
        drop(self.listener);
        // A reload is told so.
        drop(self.operator);
        let (current, common) = (self.running.current(), &self.running.common);
        let window = current.config().drain_window;
        common.stop();
        tracing::info!(
            streams = common.drain.live(),
            ?window,
            "stopping: no new connections, streams end over the window; a second signal ends at once"
        );
        notify::stopping(window + GRACE);
        let stopped_at = Instant::now();
        common.drain.drain(window);
        let done = async {
            connections.finish().await;
            // Nobody can end a foreign protocol in good order: tunnels get the window to end by themselves.
            common.tunnels.close();
            let _ = tokio::time::timeout_at(stopped_at + window, common.tunnels.wait()).await;
        };
        tokio::select! {
            () = done => {}
            () = tokio::time::sleep(window + GRACE) => {}
            () = self.signals.stop() => {}
        }
        let accept_failures = connections.accept_failures();
        let left = common.drain.give_up();
        connections.cut_off().await;
        let sums = common.snapshot();
        tracing::info!(
            cut_off = left,
            accept_failures,
            active = sums.active,
            slots = common.slots(),
            opened = sums.opened,
            rejected = sums.rejected,
            events = sums.events,
            heartbeats = sums.heartbeats,
            "stopped"
        );
    }
}
