//! Serves clients until a command stops the proxy, and reloads the config meanwhile.

use super::admin::AdminServer;
use super::config;
use super::config_reader::ReadConfig;
use super::control::{Command, ReloadResult, Signals};
use super::fd_limit;
use super::listen::ClientListener;
use super::listeners::Listeners;
use super::logging::Logging;
use super::memory;
use super::notify;
use super::reload::PendingReload;
use super::shutdown::Shutdown;
use super::state::ProxyState;
use super::watch::ConfigWatch;
use futures_util::{Stream, StreamExt};
use sse_guard::internal::Connections;
use sse_guard::serve::Server;
use std::num::NonZeroUsize;
use std::sync::Arc;
use tokio::sync::mpsc;

/// The server of clients, with these limits.
pub(super) fn server(config: &config::Client) -> Server {
    config
        .server()
        .release_memory(memory::collect)
        .has_free_file(fd_limit::has_room)
}

/// What the proxy acts on while it serves.
enum ServerEvent {
    Command(Command),
    /// The config has been read.
    Read(Box<ReadConfig>),
}

/// The proxy while it runs.
pub(super) struct Proxy<S = Signals> {
    pub(super) state: Arc<ProxyState>,
    /// Those of the config.
    pub(super) sockets: Vec<ClientListener>,
    pub(super) threads: NonZeroUsize,
    pub(super) admin: AdminServer,
    pub(super) logging: Logging,
    pub(super) watch: ConfigWatch,
    pub(super) signals: S,
    /// Commands of the operator.
    pub(super) operator: mpsc::Receiver<Command>,
}

impl<S: Stream<Item = Command> + Unpin> Proxy<S> {
    /// Serves until a signal or a command stops it, then drains; see [`Shutdown::run`]. Fails if it cannot
    /// start.
    pub(super) async fn run(mut self) -> std::io::Result<()> {
        let server = server(&self.state.active().config().client).threads(self.threads);
        let mut connections = server.connections(&self.state.carryover.connections)?;
        let sockets = std::mem::take(&mut self.sockets);
        let mut listeners = Listeners::new(sockets, &self.state, &server);
        notify::ready(&listeners.urls());
        let state = self.state.clone();
        let mut reload = PendingReload::new(move || {
            notify::reloading();
            state.read_config()
        });
        loop {
            let every = self.state.active().config().watch;
            let event = tokio::select! {
                () = connections.accept(&listeners) => ServerEvent::Command(Command::Stop),
                Some(command) = self.signals.next() => ServerEvent::Command(command),
                Some(command) = self.operator.recv() => ServerEvent::Command(command),
                () = self.watch.changed(every), if !reload.is_reading() => {
                    ServerEvent::Command(Command::Reload(None))
                }
                read = reload.read() => ServerEvent::Read(Box::new(read)),
            };
            match event {
                ServerEvent::Command(Command::Stop) => break,
                ServerEvent::Command(Command::Reload(requester)) => reload.request(requester),
                ServerEvent::Read(read) => {
                    self.watch.saw(read.seen, read.files);
                    let result = self
                        .reload(read.loaded, &mut listeners, &mut connections)
                        .await;
                    notify::reloaded(&listeners.urls(), result.is_ok());
                    reload.finish(&result);
                }
            }
        }
        // Pending reloads get an error.
        drop(reload);
        drop(self.operator);
        let shutdown = Shutdown::new(self.state, listeners, connections, self.admin);
        shutdown.run(&mut self.signals).await;
        Ok(())
    }

    async fn reload(
        &mut self,
        loaded: Result<config::LoadedConfig, config::ConfigError>,
        listeners: &mut Listeners,
        connections: &mut Connections,
    ) -> ReloadResult {
        let reloaded = match self.state.reload(loaded) {
            Ok(reloaded) => reloaded,
            Err(error) => {
                tracing::error!("reload failed, keeping the current config: {error}");
                return Err(error.to_string());
            }
        };
        let active = self.state.active();
        let config = active.config();
        self.logging.set_level(config.log.level);
        let (steps, opened) = (&reloaded.listeners, reloaded.opened);
        let gone = listeners.replace(steps, opened, &self.state, &server(&config.client));
        if !gone.is_empty() {
            tracing::info!(
                "no longer listening on {}; open streams continue",
                gone.urls()
            );
            // Their connections are complete, and would be reset.
            connections.accept_waiting(&gone).await;
            gone.drain();
            gone.stop();
        }
        if let Some(listener) = reloaded.admin {
            self.admin.listen(listener);
        }
        for warning in &config.warnings {
            tracing::warn!("{warning}");
        }
        let (changed, waiting) = (reloaded.changed, reloaded.waiting);
        if !waiting.is_empty() {
            tracing::warn!(keys = ?waiting, "these keys require a restart");
        }
        tracing::info!(?changed, "config reloaded: new streams use it");
        Ok((changed, waiting))
    }
}

#[cfg(test)]
mod tests;
