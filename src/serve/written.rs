//! The body of a response while hyper writes it.

use super::talk::Desk;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use std::pin::Pin;
use std::task::{Context, Poll};

pin_project! {
    /// Reports when hyper has taken the last of it, or drops it.
    pub(super) struct Written<B> {
        #[pin]
        body: B,
        desk: Desk<B>,
    }

    impl<B> PinnedDrop for Written<B> {
        fn drop(this: Pin<&mut Self>) {
            this.desk.is_written();
        }
    }
}

impl<B> Written<B> {
    pub(super) fn new(body: B, desk: Desk<B>) -> Self {
        Self { body, desk }
    }
}

impl<B: Body<Data = Bytes>> Body for Written<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        self.project().body.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
