//! Commands to the running proxy: from signals, the admin API and the watch of the config file.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

/// A command to the running proxy.
pub(super) enum Command {
    Stop,
    /// The sender gets the result.
    Reload(Option<oneshot::Sender<ReloadResult>>),
}

/// The keys that have changed and those of them that require a restart, or the error.
pub(super) type ReloadResult = Result<(Vec<&'static str>, Vec<&'static str>), String>;

/// The signals that the proxy handles.
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

    pub(super) async fn next(&mut self) -> Command {
        tokio::select! {
            _ = self.terminate.recv() => Command::Stop,
            _ = self.interrupt.recv() => Command::Stop,
            _ = self.hangup.recv() => Command::Reload(None),
        }
    }

    pub(super) async fn stop(&mut self) {
        while !matches!(self.next().await, Command::Stop) {}
    }
}
