//! Stops the proxy: `drain.delay`, `drain.window`, `drain.answers`, the close of the listener, and the end of
//! what is left.

use super::admin::AdminServer;
use super::config;
use super::control::{Command, stop_command};
use super::listeners::Listeners;
use super::notify;
use super::phase::Phase;
use super::state::{ActiveConfig, ProxyState};
use futures_util::Stream;
use sse_guard::internal::{Connections, seconds};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until, timeout_at};

/// Behind the drain window and the time for answers: for ends that are still being written and requests
/// other than streams.
const END_GRACE: Duration = Duration::from_secs(5);
/// Before a listener closes: for connections that the kernel is about to complete, and for the first
/// request of those that it has completed.
const LISTENER_SETTLE_TIME: Duration = Duration::from_millis(200);
/// Interval of the checks for running answers.
const ANSWERS_CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// When the phases of a shutdown end, at the latest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Schedule {
    /// Of `drain.delay`.
    delay: Instant,
    /// Of `drain.window`.
    window: Instant,
    /// Of `drain.answers`, which starts with the window.
    answers: Instant,
    /// Of the process.
    end: Instant,
}

impl Schedule {
    fn new(start: Instant, drain: config::Drain) -> Self {
        let delay = start + drain.delay;
        let answers = delay + drain.answers;
        Self {
            delay,
            window: delay + drain.window,
            answers,
            end: answers + END_GRACE,
        }
    }
}

/// A proxy that stops.
pub(super) struct Shutdown {
    state: Arc<ProxyState>,
    active: Arc<ActiveConfig>,
    listeners: Listeners,
    connections: Connections,
    /// Serves until the process ends.
    admin: AdminServer,
}

impl Shutdown {
    pub(super) fn new(
        state: Arc<ProxyState>,
        listeners: Listeners,
        connections: Connections,
        admin: AdminServer,
    ) -> Self {
        Self {
            active: state.active(),
            state,
            listeners,
            connections,
            admin,
        }
    }

    /// Drains: during `drain.delay` everything continues except readiness; during `drain.window` streams end
    /// and new ones are deferred, and stay deferred while answers that are not rotated finish. Then the
    /// listener closes, or already at the end of the window if another process has taken over. Returns after
    /// the last connection has ended, at the latest a few seconds after the window and `drain.answers`; at
    /// once on another command to stop.
    pub(super) async fn run(mut self, commands: &mut (impl Stream<Item = Command> + Unpin)) {
        let schedule = Schedule::new(Instant::now(), self.active.config().drain);
        self.begin();
        let is_interrupted = tokio::select! {
            () = self.drain(schedule) => false,
            () = stop_command(commands) => true,
        };
        let Self {
            state,
            active,
            mut listeners,
            connections,
            admin: _admin,
        } = self;
        listeners.close();
        if !is_interrupted {
            tokio::select! {
                () = finish(&state, &listeners, schedule) => {}
                () = sleep_until(schedule.end) => {}
                () = stop_command(commands) => {}
            }
        }
        cut_off(&state, &active, connections, &listeners).await;
    }

    /// Enters the first phase, and lets the next process listen.
    fn begin(&mut self) {
        let carryover = &self.state.carryover;
        let config = self.active.config();
        let config::Drain {
            delay,
            window,
            answers,
        } = config.drain;
        carryover.phases().enter(Phase::Delay);
        if config.takeover == config::Takeover::Drain {
            self.listeners.begin_handover();
            self.admin.begin_handover();
        }
        let streams = carryover.drain.live();
        notify::stopping(delay + answers + END_GRACE);
        if delay.is_zero() {
            self.defer_streams();
        }
        tracing::info!(
            streams,
            delay_seconds = seconds(delay),
            window_seconds = seconds(window),
            answers_seconds = seconds(answers),
            "stopping: new streams are deferred, open streams end within drain.window, other \
             requests are served; a second signal ends the process at once"
        );
    }

    /// Starts the drain of streams and connections.
    fn defer_streams(&self) {
        let carryover = &self.state.carryover;
        let config::Drain {
            window, answers, ..
        } = self.active.config().drain;
        carryover.phases().enter(Phase::Draining);
        notify::phase(Phase::Draining);
        self.listeners.drain();
        carryover.drain.drain_with(window, answers);
    }

    /// Serves during all phases, until the listener can close.
    async fn drain(&mut self, schedule: Schedule) {
        let config = self.active.config();
        let (takeover, has_delay) = (config.takeover, !config.drain.delay.is_zero());
        if has_delay {
            self.serve_until(schedule.delay).await;
            self.defer_streams();
            tracing::info!(streams = self.live_streams(), "drain started");
        }
        self.serve_until(schedule.window).await;
        self.state.carryover.phases().enter(Phase::Answers);
        notify::phase(Phase::Answers);
        // A refused connection is an error to a client, and the end of an EventSource behind another
        // proxy. So the listener stays open while answers finish, unless the next process serves the
        // address.
        while self.live_streams() > 0
            && Instant::now() < schedule.answers
            && !self.listeners.are_taken_over(takeover)
        {
            let next = Instant::now() + ANSWERS_CHECK_INTERVAL;
            self.serve_until(next.min(schedule.answers)).await;
        }
        self.listeners.refuse_handshakes();
        self.serve_until(Instant::now() + LISTENER_SETTLE_TIME)
            .await;
    }

    fn live_streams(&self) -> usize {
        self.state.carryover.drain.live()
    }

    /// Accepts connections until this time.
    async fn serve_until(&mut self, until: Instant) {
        tokio::select! {
            () = self.connections.accept(&self.listeners) => {}
            () = sleep_until(until) => {}
        }
    }
}

/// Waits for the last response of each connection, and for tunnels.
async fn finish(state: &ProxyState, listeners: &Listeners, schedule: Schedule) {
    listeners.stop();
    listeners.all_closed().await;
    // A foreign protocol cannot be ended gracefully from outside: tunnels get the window to end by
    // themselves.
    let tunnels = &state.carryover.tunnels;
    tunnels.close();
    let _ = timeout_at(schedule.window, tunnels.wait()).await;
}

/// Ends what is left, and logs the totals.
async fn cut_off(
    state: &ProxyState,
    active: &ActiveConfig,
    connections: Connections,
    listeners: &Listeners,
) {
    let carryover = &state.carryover;
    let accept_failures = connections.accept_failures();
    let left = carryover.drain.abandon();
    drop(connections);
    listeners.all_closed().await;
    active.router.endpoints().summarize_log();
    let totals = carryover.snapshot();
    tracing::info!(
        cut_off = left,
        accept_failures,
        active = totals.active,
        slots = carryover.slots(),
        opened = totals.opened,
        rejected = totals.rejected,
        events = totals.events,
        heartbeats = totals.heartbeats,
        "stopped"
    );
}

#[cfg(test)]
mod tests;
