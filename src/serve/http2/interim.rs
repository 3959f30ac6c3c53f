//! Interim (1xx) heads of one request.

use crate::lock::lock;
use http::{HeaderMap, Response, StatusCode};
use std::sync::Mutex;
use std::task::{Context, Waker};

/// Further ones are dropped until these are sent, because they are only hints.
const MAX_QUEUED: usize = 8;

/// Queues interim heads for the task that writes the response.
#[derive(Debug, Default)]
pub(in crate::serve) struct InterimHeads(Mutex<Queue>);

#[derive(Debug, Default)]
struct Queue {
    heads: Vec<Response<()>>,
    waker: Option<Waker>,
}

impl InterimHeads {
    pub(in crate::serve) fn push(&self, status: StatusCode, headers: &HeaderMap) {
        let mut queue = lock(&self.0);
        if queue.heads.len() >= MAX_QUEUED {
            tracing::debug!(%status, "an interim head is dropped: too many are queued");
            return;
        }
        let mut head = Response::new(());
        *head.status_mut() = status;
        *head.headers_mut() = headers.clone();
        queue.heads.push(head);
        if let Some(waker) = queue.waker.take() {
            waker.wake();
        }
    }

    /// Takes the queued heads; the next one wakes the task.
    pub(super) fn take(&self, cx: &Context<'_>) -> Vec<Response<()>> {
        let mut queue = lock(&self.0);
        queue.waker = Some(cx.waker().clone());
        std::mem::take(&mut queue.heads)
    }
}
