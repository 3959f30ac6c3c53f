//! A connection before its first request, or between two requests: it has a socket and a deadline, and no buffers.

use super::client_io::ClientIo;
use super::stop::StopSignal;
use crate::client_key::PeerAddr;
use pin_project_lite::pin_project;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;
use tokio::time::{Instant, Sleep, sleep_until};

/// Longer than the lifetime of any process, and far from the overflow of an [`Instant`].
const MAX_TIMEOUT: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

/// `now + timeout`, without overflow.
pub(super) fn deadline_after(now: Instant, timeout: Duration) -> Instant {
    now + timeout.min(MAX_TIMEOUT)
}

/// How the wait for a request ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IdleEnd {
    /// A request may have begun.
    Request,
    /// The client has disconnected, the deadline has passed, or the attachment forbids another request.
    Close,
    /// The server stops.
    Stop,
}

pin_project! {
    /// What ends the wait besides input of the client.
    pub(super) struct IdleWait {
        #[pin]
        timer: Sleep,
        // None if the server stops.
        #[pin]
        stop: Option<OwnedNotified>,
    }
}

impl IdleWait {
    pub(super) fn new(deadline: Instant, stop: &StopSignal) -> Self {
        Self {
            timer: sleep_until(deadline),
            stop: stop.notified(),
        }
    }

    pub(super) fn deadline(&self) -> Instant {
        self.timer.deadline()
    }

    /// From now on only this deadline counts, although the server stops.
    pub(super) fn settle(self: Pin<&mut Self>, deadline: Instant) {
        let mut this = self.project();
        this.timer.reset(deadline);
        this.stop
            .set(Some(Arc::new(Notify::new()).notified_owned()));
    }

    /// Ready with true at the deadline, with false if the server stops.
    pub(super) fn poll_deadline(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<bool> {
        let this = self.project();
        let is_stopped = this
            .stop
            .as_pin_mut()
            .is_none_or(|stop| stop.poll(cx).is_ready());
        match is_stopped {
            true => Poll::Ready(false),
            false => this.timer.poll(cx).map(|()| true),
        }
    }

    /// Ready when a request may have begun, as `has_begun` determines from the input, or the connection must close.
    pub(super) fn poll_request_start(
        self: Pin<&mut Self>,
        io: &ClientIo,
        peer: PeerAddr,
        cx: &mut Context<'_>,
        has_begun: impl Fn(&[u8]) -> bool,
    ) -> Poll<IdleEnd> {
        if let Poll::Ready(has_begun) = io.poll_request_start(peer, cx, has_begun) {
            return Poll::Ready(match has_begun {
                true => IdleEnd::Request,
                false => IdleEnd::Close,
            });
        }
        if io.poll_closing(cx).is_ready() {
            return Poll::Ready(IdleEnd::Close);
        }
        self.poll_deadline(cx).map(|is_deadline| match is_deadline {
            true => IdleEnd::Close,
            false => IdleEnd::Stop,
        })
    }
}
