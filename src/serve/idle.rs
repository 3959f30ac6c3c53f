//! A connection between two requests, or before the first: it has a socket, a deadline and nothing
//! else.

use super::io::ClientIo;
use super::stop::Stop;
use pin_project_lite::pin_project;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::futures::OwnedNotified;
use tokio::time::{Instant, Sleep, sleep_until};

/// Longer than any process lives.
const FOREVER: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

/// A time so much later, or as late as there is one.
pub(super) fn later(time: Instant, by: Duration) -> Instant {
    time + by.min(FOREVER)
}

pin_project! {
    /// What ends the wait but the client.
    pub(super) struct Idle {
        #[pin]
        timer: Sleep,
        // None if the server stops.
        #[pin]
        stop: Option<OwnedNotified>,
    }
}

impl Idle {
    pub(super) fn new(deadline: Instant, stop: &Stop) -> Self {
        Self {
            timer: sleep_until(deadline),
            stop: stop.wait(),
        }
    }

    pub(super) fn deadline(&self) -> Instant {
        self.timer.deadline()
    }

    /// Until something has come that may be a request. False if nothing will: the client has gone,
    /// the deadline has passed, the server stops, or the connection must not serve
    /// another request.
    pub(super) fn poll_come(
        self: Pin<&mut Self>,
        io: &ClientIo,
        cx: &mut Context<'_>,
    ) -> Poll<bool> {
        if let Poll::Ready(come) = io.poll_come(cx) {
            return Poll::Ready(come);
        }
        if io.poll_closing(cx).is_ready() {
            return Poll::Ready(false);
        }
        let this = self.project();
        let is_over = match this.stop.as_pin_mut() {
            Some(stop) => stop.poll(cx).is_ready() || this.timer.poll(cx).is_ready(),
            None => true,
        };
        match is_over {
            true => Poll::Ready(false),
            false => Poll::Pending,
        }
    }
}
