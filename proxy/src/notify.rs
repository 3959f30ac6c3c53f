//! Notifications to the service manager, by the protocol of systemd's
//! [`sd_notify`](https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html): when the
//! proxy serves, reloads and stops, and watchdog signals. Without `NOTIFY_SOCKET` in the
//! environment nothing is sent.

use super::phase::Phase;
use sd_notify::NotifyState;
use std::convert::Infallible;
use std::time::Duration;
use tokio::time::sleep;

/// Notifies that clients are accepted.
pub(super) fn ready(url: &str) {
    notify_ready(url, "");
}

/// The config is read again. To be followed by [`reloaded`].
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        // Without the time the manager would take the message for none, and kill what it waits for.
        Err(error) => tracing::warn!("cannot notify the service manager of the reload: {error}"),
    }
}

/// Notifies that the reload is done, or has failed.
pub(super) fn reloaded(url: &str, is_new: bool) {
    let note = if is_new {
        ""
    } else {
        "; the last reload failed, see the log"
    };
    notify_ready(url, note);
}

/// Notifies that the process is stopping, and extends the manager's timeout to this time.
pub(super) fn stopping(at_the_latest: Duration) {
    // A second for the last notifications.
    let patience = (at_the_latest + Duration::from_secs(1)).as_micros();
    notify(&[
        NotifyState::Stopping,
        NotifyState::ExtendTimeoutUsec(patience.try_into().unwrap_or(u32::MAX)),
        NotifyState::Status(Phase::Delay.reason()),
    ]);
}

/// Notifies of the phase of the shutdown.
pub(super) fn phase(phase: Phase) {
    notify(&[NotifyState::Status(phase.reason())]);
}

/// Sends watchdog signals at the manager's interval, while it is polled: poll it in the task that
/// the watchdog supervises.
pub(super) async fn signs_of_life() -> Infallible {
    let Some(interval) = sd_notify::watchdog_enabled().filter(|interval| !interval.is_zero())
    else {
        return std::future::pending().await;
    };
    loop {
        notify(&[NotifyState::Watchdog]);
        // Half of it, as the protocol recommends: one sign may be late.
        sleep(interval / 2).await;
    }
}

fn notify_ready(url: &str, note: &str) {
    let status = format!("serving on {}{note}", url.trim_start_matches("http://"));
    notify(&[NotifyState::Ready, NotifyState::Status(&status)]);
}

/// The variants that take the socket's name out of the environment are not for a process with
/// threads; nothing that could inherit it is started.
fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!("cannot notify the service manager: {error}");
    }
}
