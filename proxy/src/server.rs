//! Serves until stopped, and shuts down gracefully.

use super::admin::Admin;
use super::config;
use super::config_reader::ReadConfig;
use super::control::{Command, ReloadResult, Signals};
use super::fd_limit;
use super::listen::{ClientListener, Handover, Listener};
use super::logging::Logging;
use super::memory;
use super::notify;
use super::phase::Phase;
use super::reload::PendingReload;
use super::route::Handler;
use super::state::ProxyState;
use super::watch::Watch;
use sse_guard::internal::Connections;
use sse_guard::internal::seconds;
use sse_guard::serve::Server;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

/// Behind the drain window and the time for answers: for ends that are still being written and requests
/// other than streams.
const END_GRACE: Duration = Duration::from_secs(5);
/// Before a listener closes: for connections that the kernel is about to complete, and for the first
/// request of those that it has completed.
const LISTENER_SETTLE_TIME: Duration = Duration::from_millis(200);

/// What serves clients, with these limits.
pub(super) fn server(config: &config::Client) -> Server {
    Server::new()
        .release_memory(memory::collect)
        .has_file(fd_limit::has_room)
        .head_timeout(config.head_timeout)
        .max_head(config.max_head)
        .title_case_headers(config.title_case_headers)
        .write_stall(config.write_stall)
        .response_stall(config.write_stall)
        .unsent(config.notsent_lowat)
        .send_buffer(config.send_buffer)
        .keepalive(config.keepalive)
        .user_timeout(config.user_timeout)
        .max_connections_per_client(config.max_connections.map(u32::from))
        .ipv6_prefix(config.ipv6_prefix)
        .unbounded_clients(config.unbounded.iter().copied())
}

/// The admin address, if there is one.
pub(super) struct AdminServer {
    admin: Option<Arc<Admin>>,
    /// Of the listener that there is.
    stop: CancellationToken,
    handover: Handover,
}

impl AdminServer {
    pub(super) fn new(admin: Option<Arc<Admin>>, listener: Option<Listener>) -> Self {
        let mut server = Self {
            admin,
            stop: CancellationToken::new(),
            handover: Handover::default(),
        };
        server.listen(listener);
        server
    }

    /// Replaces the listener. Connections of the old one get a moment to end, because the request
    /// for this came by one of them.
    fn listen(&mut self, listener: Option<Listener>) {
        std::mem::take(&mut self.stop).cancel();
        self.handover = Handover::default();
        let (Some(admin), Some(listener)) = (&self.admin, listener) else {
            return;
        };
        let Listener { socket, handover } = listener;
        if let Ok(address) = socket.local_addr() {
            tracing::info!("metrics, health and stream table on http://{address}");
        }
        self.handover = handover;
        tokio::spawn(admin.clone().serve(socket, self.stop.clone()));
    }
}

/// What the proxy acts on while it serves.
enum Event {
    Command(Command),
    /// The config has been read.
    Read(Box<ReadConfig>),
}

/// Interval of the checks for running answers at shutdown.
const ANSWERS_CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// The proxy while it runs.
pub(super) struct Proxy {
    pub(super) state: Arc<ProxyState>,
    pub(super) listener: ClientListener,
    pub(super) threads: NonZeroUsize,
    pub(super) admin: AdminServer,
    pub(super) logging: Logging,
    pub(super) watch: Watch,
    pub(super) signals: Signals,
    /// Commands of the operator.
    pub(super) operator: mpsc::Receiver<Command>,
}

impl Proxy {
    /// Serves until a signal or a command stops it, then drains; see [`stop`](Self::stop). Fails if it
    /// cannot start.
    pub(super) async fn run(mut self) -> std::io::Result<()> {
        let server = server(&self.state.active().config().client).threads(self.threads);
        let mut connections = server.connections(&self.state.carryover.connections)?;
        let handler = Handler::new(&self.state);
        notify::ready(&self.listener.url());
        let state = self.state.clone();
        let mut reload = PendingReload::new(move || {
            notify::reloading();
            state.read_config()
        });
        loop {
            let every = self.state.active().config().watch;
            let event = tokio::select! {
                () = connections.accept(&self.listener, &handler) => Event::Command(Command::Stop),
                command = self.signals.next() => Event::Command(command),
                Some(command) = self.operator.recv() => Event::Command(command),
                () = self.watch.changed(every), if !reload.is_reading() => {
                    Event::Command(Command::Reload(None))
                }
                read = reload.read() => Event::Read(Box::new(read)),
            };
            match event {
                Event::Command(Command::Stop) => break,
                Event::Command(Command::Reload(requester)) => reload.request(requester),
                Event::Read(read) => {
                    self.watch.saw(read.seen);
                    let result = self.reload(read.loaded, &mut connections);
                    notify::reloaded(&self.listener.url(), result.is_ok());
                    reload.finish(&result);
                }
            }
        }
        drop(reload);
        self.stop(connections, &handler).await;
        Ok(())
    }

    fn reload(
        &mut self,
        loaded: Result<config::Loaded, config::ConfigError>,
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
        connections.retune(&server(&config.client));
        self.logging.set_level(config.log.level);
        if let Some(listener) = reloaded.listener {
            tracing::info!("listening on {}", listener.url());
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
            tracing::warn!(keys = ?waiting, "these keys require a restart");
        }
        tracing::info!(?changed, "config reloaded: new streams use it");
        Ok((changed, waiting))
    }

    /// Drains: during `drain.delay` everything continues except readiness; during `drain.window` streams end
    /// and new ones are deferred, and stay deferred while answers that are not rotated finish. Then the
    /// listener closes, or already at the end of the window if another process has taken over. Returns after
    /// the last connection has ended, at the latest a few seconds after the window and `drain.answers`; at
    /// once on a second signal.
    async fn stop(mut self, mut connections: Connections, handler: &Handler) {
        // A pending reload gets an error.
        drop(self.operator);
        let (active, carryover) = (self.state.active(), &self.state.carryover);
        let config = active.config();
        let config::Drain {
            delay,
            window,
            answers,
        } = config.drain;
        carryover.phases().enter(Phase::Delay);
        if config.takeover == config::Takeover::Drain {
            self.listener.begin_handover();
            self.admin.handover.begin();
        }
        let draining_from = Instant::now() + delay;
        let begin = |connections: &Connections| {
            carryover.phases().enter(Phase::Draining);
            notify::phase(Phase::Draining);
            connections.drain();
            carryover.drain.drain_with(window, answers);
        };
        let streams = carryover.drain.live();
        notify::stopping(delay + answers + END_GRACE);
        if delay.is_zero() {
            begin(&connections);
        }
        tracing::info!(
            streams,
            delay_seconds = seconds(delay),
            window_seconds = seconds(window),
            answers_seconds = seconds(answers),
            "stopping: new streams are deferred, open streams end within drain.window, other \
             requests are served; a second signal ends the process at once"
        );
        let phases = async {
            let listener = &self.listener;
            if !delay.is_zero() {
                serve_until(&mut connections, listener, handler, draining_from).await;
                begin(&connections);
                tracing::info!(streams = carryover.drain.live(), "drain started");
            }
            let closes_at = draining_from + window;
            serve_until(&mut connections, listener, handler, closes_at).await;
            carryover.phases().enter(Phase::Answers);
            notify::phase(Phase::Answers);
            // A refused connection is an error to a client, and the end of an EventSource behind another
            // proxy. So the listener stays open while answers finish, unless the next process serves the
            // address.
            let gone_at = draining_from + answers;
            while carryover.drain.live() > 0
                && Instant::now() < gone_at
                && !listener.is_taken_over(config.takeover)
            {
                let next = Instant::now() + ANSWERS_CHECK_INTERVAL;
                serve_until(&mut connections, listener, handler, next.min(gone_at)).await;
            }
            match listener.is_inherited() {
                // What waits there is for the next process.
                true => sleep(LISTENER_SETTLE_TIME).await,
                false => {
                    listener.refuse_handshakes();
                    let settled = Instant::now() + LISTENER_SETTLE_TIME;
                    serve_until(&mut connections, listener, handler, settled).await;
                }
            }
        };
        let in_order = tokio::select! {
            () = phases => true,
            () = self.signals.stop() => false,
        };
        drop(self.listener);
        if in_order {
            let done = async {
                connections.finish().await;
                // A foreign protocol cannot be ended gracefully from outside: tunnels get the
                // window to end by themselves.
                carryover.tunnels.close();
                let _ =
                    tokio::time::timeout_at(draining_from + window, carryover.tunnels.wait()).await;
            };
            tokio::select! {
                () = done => {}
                () = sleep_until(draining_from + answers + END_GRACE) => {}
                () = self.signals.stop() => {}
            }
        }
        let accept_failures = connections.accept_failures();
        let left = carryover.drain.abandon();
        connections.cut_off().await;
        active.router.endpoints().summarize_log();
        let sums = carryover.snapshot();
        tracing::info!(
            cut_off = left,
            accept_failures,
            active = sums.active,
            slots = carryover.slots(),
            opened = sums.opened,
            rejected = sums.rejected,
            events = sums.events,
            heartbeats = sums.heartbeats,
            "stopped"
        );
    }
}

/// Accepts connections until this time.
async fn serve_until(
    connections: &mut Connections,
    listener: &ClientListener,
    handler: &Handler,
    until: Instant,
) {
    tokio::select! {
        () = connections.accept(listener, handler) => {}
        () = sleep_until(until) => {}
    }
}
