//! Progress of a request's upload, and the side that it waits for.

use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use sse_guard::internal::lock;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::Instant;

/// The state of an upload; clones share it.
#[derive(Clone)]
pub(super) struct Progress(Arc<Mutex<UploadState>>);

struct UploadState {
    /// Since when it waits for the current side: when the last part of the body was sent, or the upstream had room
    /// for the next.
    last: Instant,
    /// The upstream would take more, and the client has not sent it.
    waits_for_client: bool,
    /// The exchange takes long enough that it should hold only what it needs.
    is_long: bool,
}

impl Default for Progress {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(UploadState {
            last: Instant::now(),
            waits_for_client: false,
            is_long: false,
        })))
    }
}

impl Progress {
    fn note(&self, waits_for_client: bool) {
        let mut state = lock(&self.0);
        if !(waits_for_client && state.waits_for_client) {
            state.last = Instant::now();
        }
        state.waits_for_client = waits_for_client;
    }

    pub(super) fn set_long(&self) {
        lock(&self.0).is_long = true;
    }

    pub(super) fn is_long(&self) -> bool {
        lock(&self.0).is_long
    }

    /// An error if a timeout has passed, else the time of the next check: when the current timeout would pass, or
    /// the other one at the earliest, should the upload wait for the other side by then.
    pub(super) fn check(&self, head: Duration, body: Duration) -> Result<Instant, Overdue> {
        let now = Instant::now();
        let state = lock(&self.0);
        let (timeout, other, overdue) = match state.waits_for_client {
            true => (body, head, Overdue::Client),
            false => (head, body, Overdue::Upstream),
        };
        let left = timeout.saturating_sub(now.saturating_duration_since(state.last));
        match left.is_zero() {
            true => Err(overdue),
            false => Ok(now + left.min(other)),
        }
    }
}

/// The side that kept an upload or its response waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Overdue {
    /// It did not send the rest of the body.
    Client,
    /// It did not read the body, or did not respond.
    Upstream,
}

pin_project! {
    /// The body of a request, which reports its progress.
    pub(super) struct Uploading<B> {
        #[pin]
        body: B,
        progress: Progress,
    }
}

impl<B> Uploading<B> {
    pub(super) fn new(body: B, progress: &Progress) -> Self {
        let progress = progress.clone();
        Self { body, progress }
    }
}

impl<B: Body> Body for Uploading<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        let frame = this.body.poll_frame(cx);
        // hyper polls for more only when it has room for it.
        this.progress.note(frame.is_pending());
        Poll::Ready(ready!(frame))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: Duration = Duration::from_secs(20);
    const BODY: Duration = Duration::from_secs(60);

    /// The side that is overdue, and after how many seconds.
    async fn overdue(progress: &Progress) -> (Overdue, u64) {
        let start = Instant::now();
        loop {
            match progress.check(HEAD, BODY) {
                Ok(at) => tokio::time::sleep_until(at).await,
                Err(overdue) => return (overdue, start.elapsed().as_secs()),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn timeout_is_that_of_the_side_that_is_waited_for() {
        let progress = Progress::default();
        assert_eq!(overdue(&progress).await, (Overdue::Upstream, 20));
        progress.note(true);
        assert_eq!(overdue(&progress).await, (Overdue::Client, 60));
        progress.note(false);
        assert_eq!(overdue(&progress).await, (Overdue::Upstream, 20));
    }

    #[tokio::test(start_paused = true)]
    async fn timeout_starts_again_when_the_other_side_is_waited_for() {
        let progress = Progress::default();
        let watch = tokio::spawn({
            let progress = progress.clone();
            async move { overdue(&progress).await }
        });
        // The upstream reads again, the client sends nothing, then the last of it.
        for (secs, waits_for_client) in [(19, true), (30, true), (25, false)] {
            tokio::time::sleep(Duration::from_secs(secs)).await;
            progress.note(waits_for_client);
        }
        assert_eq!(watch.await.unwrap(), (Overdue::Upstream, 19 + 30 + 25 + 20));
    }
}
