//! Commands to the running proxy: from signals, the admin API and the watch of the config file.

use futures_util::{Stream, StreamExt};
use std::pin::Pin;
use std::task::{Context, Poll};
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

/// The signals that the proxy handles, as commands.
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
}

impl Stream for Signals {
    type Item = Command;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Command>> {
        let Self {
            terminate,
            interrupt,
            hangup,
        } = &mut *self;
        if terminate.poll_recv(cx).is_ready() || interrupt.poll_recv(cx).is_ready() {
            return Poll::Ready(Some(Command::Stop));
        }
        hangup.poll_recv(cx).map(|_| Some(Command::Reload(None)))
    }
}

/// Completes at the first command to stop; others have no effect.
pub(super) async fn stop_command(commands: &mut (impl Stream<Item = Command> + Unpin)) {
    while let Some(command) = commands.next().await {
        if matches!(command, Command::Stop) {
            return;
        }
    }
    std::future::pending::<()>().await;
}
