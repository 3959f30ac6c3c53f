//! A request's body on its way into its stream.

use super::super::outgoing::BoxedBody;
use super::connection::Slot;
use super::replay::Sent;
use bytes::Bytes;
use h2::{Reason, SendStream};
use http_body::Body;
use sse_guard::BoxError;
use sse_guard::internal::Upload;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::task::AbortHandle;

/// Sends a body as the upstream's windows allow. Dropped before its end, it resets the stream.
pub(super) struct Uploader {
    body: BoxedBody,
    send: SendStream<Bytes>,
    /// What waits for room in the windows.
    unsent: Bytes,
    is_over: bool,
    pub(super) sent: Sent,
}

/// Why no more of a body is sent.
pub(super) enum UploadEnd {
    /// The stream has ended: its response has the reason.
    Stream,
    Client(BoxError),
}

impl Uploader {
    pub(super) fn new(body: BoxedBody, send: SendStream<Bytes>) -> Self {
        Self {
            body,
            send,
            unsent: Bytes::new(),
            is_over: false,
            sent: Sent::default(),
        }
    }

    /// The whole body, if it can be sent again.
    pub(super) fn into_body(self) -> Option<BoxedBody> {
        self.sent.into_body(self.body)
    }

    /// Ready when all is sent.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UploadEnd>> {
        loop {
            ready!(self.poll_unsent(cx))?;
            if self.is_over {
                return Poll::Ready(Ok(()));
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                None => {
                    self.is_over = true;
                    let sent = self.send.send_data(Bytes::new(), true);
                    return Poll::Ready(sent.map_err(|_| UploadEnd::Stream));
                }
                Some(Ok(frame)) => {
                    // Trailers are removed before.
                    if let Ok(data) = frame.into_data() {
                        self.sent.push(&data);
                        self.unsent = data;
                        self.is_over = self.body.is_end_stream() && !self.unsent.is_empty();
                    }
                }
                Some(Err(error)) => {
                    self.send.send_reset(Reason::CANCEL);
                    return Poll::Ready(Err(UploadEnd::Client(error)));
                }
            }
        }
    }

    fn poll_unsent(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UploadEnd>> {
        while !self.unsent.is_empty() {
            let mut capacity = self.send.capacity();
            if capacity == 0 {
                self.send.reserve_capacity(self.unsent.len());
                capacity = self.send.capacity();
            }
            if capacity == 0 {
                match ready!(self.send.poll_capacity(cx)) {
                    Some(Ok(granted)) => capacity = granted,
                    Some(Err(_)) | None => return Poll::Ready(Err(UploadEnd::Stream)),
                }
            }
            let piece = self.unsent.split_to(capacity.min(self.unsent.len()));
            let is_last = self.is_over && self.unsent.is_empty();
            if self.send.send_data(piece, is_last).is_err() {
                return Poll::Ready(Err(UploadEnd::Stream));
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// An upload that continues while its response is read.
#[derive(Debug)]
pub(super) struct RunningUpload {
    task: AbortHandle,
    upload: Upload,
}

impl RunningUpload {
    /// The task has a place of its own on the connection: it may outlive the response.
    pub(super) fn start(mut uploader: Uploader, slot: &Slot, upload: &Upload) -> Self {
        let slot = slot.another();
        let task = tokio::spawn(async move {
            // Before it, as the place is that of the stream.
            let _slot = slot;
            poll_fn(|cx| {
                // An upstream that needs no more of it resets the stream: RFC 9113 section 8.1.
                match uploader.send.poll_reset(cx) {
                    Poll::Ready(_) => Poll::Ready(()),
                    Poll::Pending => uploader.poll(cx).map(drop),
                }
            })
            .await;
            drop(uploader);
        });
        Self {
            task: task.abort_handle(),
            upload: upload.clone(),
        }
    }

    /// Whether the client has aborted it.
    pub(super) fn is_broken(&self) -> bool {
        self.upload.is_broken()
    }

    /// Resets the stream, if all of the body is not sent by then.
    pub(super) fn abort(&self) {
        self.task.abort();
    }
}
