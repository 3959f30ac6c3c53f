//! Serves clients until a command stops the proxy, and reloads the config meanwhile.

use super::acme::CertificateManager;
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
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

/// The server of clients, with these limits.
pub(super) fn server(config: &config::Client) -> Server {
    config
        .server()
        .release_memory(memory::collect)
        .has_free_file(fd_limit::has_room)
}

/// For this long a change of the files may be incomplete: a certificate and its key are replaced one after the other.
const MAX_INCOMPLETE: Duration = Duration::from_secs(5);

/// What the proxy acts on while it serves.
enum ServerEvent {
    Command(Command),
    /// A watched file has changed.
    Changed,
    /// A change is still one that cannot be used.
    Failed(String),
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
        let certificates = CertificateManager::start(
            self.state.active().config().acme.clone(),
            listeners.managed_keys(),
            self.state.carryover.http_challenges.clone(),
        )
        .await;
        notify::ready(&listeners.urls());
        let state = self.state.clone();
        let mut reload = PendingReload::new(move || {
            notify::reloading();
            state.read_config()
        });
        let (mut held, mut is_by_watch) = (HeldFailure::default(), false);
        loop {
            let every = self.state.active().config().watch;
            let event = tokio::select! {
                () = connections.accept(&listeners) => ServerEvent::Command(Command::Stop),
                Some(command) = self.signals.next() => ServerEvent::Command(command),
                Some(command) = self.operator.recv() => ServerEvent::Command(command),
                () = self.watch.changed(every), if !reload.is_reading() => {
                    ServerEvent::Changed
                }
                error = held.due() => ServerEvent::Failed(error),
                read = reload.read() => ServerEvent::Read(Box::new(read)),
            };
            match event {
                ServerEvent::Command(Command::Stop) => break,
                ServerEvent::Command(Command::Reload(requester)) => {
                    is_by_watch = false;
                    reload.request(requester);
                }
                ServerEvent::Changed => {
                    is_by_watch = true;
                    reload.request(None);
                }
                ServerEvent::Failed(error) => log_failure(&error),
                ServerEvent::Read(read) => {
                    self.watch.saw(read.seen, read.files);
                    let result = self
                        .reload(read.loaded, &mut listeners, &mut connections)
                        .await;
                    match (&result, every.filter(|_| is_by_watch)) {
                        (Ok(_), _) => held.clear(),
                        (Err(error), Some(every)) => {
                            tracing::debug!(
                                "a change of the watched files cannot be used yet: {error}"
                            );
                            // Several checks, so that the rest of the change is seen.
                            held.hold(error, every.saturating_mul(10).min(MAX_INCOMPLETE));
                        }
                        (Err(error), None) => {
                            held.clear();
                            log_failure(error);
                        }
                    }
                    // Before the next connection.
                    let acme = self.state.active().config().acme.clone();
                    certificates.reload(acme, listeners.managed_keys());
                    notify::reloaded(&listeners.urls(), result.is_ok());
                    reload.finish(&result);
                }
            }
        }
        // The next process orders from now on.
        drop(certificates);
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
            Err(error) => return Err(error.to_string()),
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

fn log_failure(error: &str) {
    tracing::error!("reload failed, keeping the current config: {error}");
}

/// The failure of a reload because of a change that may be incomplete, until it is to be logged.
#[derive(Default)]
struct HeldFailure(Option<(String, Instant)>);

impl HeldFailure {
    /// The time runs from the first failure.
    fn hold(&mut self, error: &str, time: Duration) {
        let deadline = match &self.0 {
            Some((_, deadline)) => *deadline,
            None => Instant::now() + time,
        };
        self.0 = Some((error.to_owned(), deadline));
    }

    fn clear(&mut self) {
        self.0 = None;
    }

    /// Waits until a failure is to be logged; forever if there is none.
    async fn due(&mut self) -> String {
        if let Some((_, deadline)) = &self.0 {
            sleep_until(*deadline).await;
        }
        match self.0.take() {
            Some((error, _)) => error,
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests;
