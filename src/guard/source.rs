//! What a guarded body reads from.

use super::{BoxError, StreamError};
use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame};
use pin_project_lite::pin_project;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

pin_project! {
    #[project = GuardedSourceProj]
    pub(super) enum GuardedSource<B> {
        Inner { #[pin] body: B },
        /// A response of this crate.
        Fixed { bytes: Option<Bytes> },
        Trailers { trailers: Option<HeaderMap> },
        Done,
    }
}

impl<B> GuardedSource<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    pub(super) fn poll(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        match self.project() {
            GuardedSourceProj::Inner { body } => {
                let frame = ready!(body.poll_frame(cx));
                Poll::Ready(frame.map(|frame| frame.map_err(StreamError::from_inner)))
            }
            GuardedSourceProj::Fixed { bytes } => {
                Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes))))
            }
            GuardedSourceProj::Trailers { trailers } => Poll::Ready(
                trailers
                    .take()
                    .map(|trailers| Ok(Frame::trailers(trailers))),
            ),
            GuardedSourceProj::Done => Poll::Ready(None),
        }
    }

    /// The upstream has announced its end with its last data.
    pub(super) fn is_over(&self) -> bool {
        matches!(self, Self::Inner { body } if body.is_end_stream())
    }
}
