//! Detects a client that no longer answers, RFC 9113 section 6.7.

use h2::{Ping, PingPong};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep};

/// Time for the answer to a PING.
const PONG_TIMEOUT: Duration = Duration::from_secs(20);

/// Sends a PING each interval, and expects its answer.
pub(super) struct PingTimer {
    ping_pong: PingPong,
    interval: Duration,
    timer: Pin<Box<Sleep>>,
    awaits_pong: bool,
}

impl PingTimer {
    pub(super) fn new(ping_pong: PingPong, interval: Duration) -> Self {
        Self {
            ping_pong,
            interval,
            timer: Box::pin(sleep(interval)),
            awaits_pong: false,
        }
    }

    /// Ready when a PING was not answered in time.
    pub(super) fn poll_dead(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.awaits_pong && self.ping_pong.poll_pong(cx).is_ready() {
                self.awaits_pong = false;
                self.restart(self.interval);
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if self.awaits_pong {
                return Poll::Ready(());
            }
            // Fails while another PING is on its way, or after the end of the connection.
            self.awaits_pong = self.ping_pong.send_ping(Ping::opaque()).is_ok();
            self.restart(match self.awaits_pong {
                true => PONG_TIMEOUT,
                false => self.interval,
            });
        }
    }

    fn restart(&mut self, after: Duration) {
        self.timer.as_mut().reset(Instant::now() + after);
    }
}
