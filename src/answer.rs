//! Answers that a layer of this crate gives itself, without the service inside.

use crate::head::{EVENT_STREAM, X_ACCEL_BUFFERING};
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

/// Marks a response of this crate, in its extensions: the service inside knows nothing of it, so its
/// head has none of the fields that the service would have added.
#[derive(Clone, Copy, Debug)]
pub struct Own;

/// The status in whose place an answer stands, in its extensions: outer layers count that one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InPlaceOf(pub(crate) StatusCode);

/// The status in whose place a stream waits for its upstream, in the extensions of its response.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WaitsInPlaceOf(pub(crate) StatusCode);

/// Fields of an event stream of no event.
pub(crate) fn set_retry_later(headers: &mut HeaderMap) {
    let event_stream = HeaderValue::from_static(EVENT_STREAM);
    headers.insert(CONTENT_TYPE, event_stream);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
}

/// The whole body of such a stream. A `retry:` line without a blank line sets the reconnection time in
/// every client that heeds one, and gives none of them an empty event.
pub(crate) fn retry_line(retry: Duration) -> Bytes {
    format!("retry: {}\n", retry.as_millis()).into()
}

/// An event stream of no event, after which an `EventSource` comes back; any status but 200 would end
/// it for good.
pub(crate) fn retry_later(retry: Duration) -> Response<Bytes> {
    let mut response = Response::new(retry_line(retry));
    set_retry_later(response.headers_mut());
    response.extensions_mut().insert(Own);
    response
}

pin_project! {
    /// The body of the service, or a short one of this crate in its place.
    pub struct AnswerBody<B> {
        #[pin]
        source: Source<B>,
    }
}

pin_project! {
    #[project = SourceProj]
    enum Source<B> {
        Inner { #[pin] body: B },
        Own { bytes: Option<Bytes> },
    }
}

impl<B> AnswerBody<B> {
    /// Returns the body of the service; `None` for one of this crate.
    pub fn get_ref(&self) -> Option<&B> {
        match &self.source {
            Source::Inner { body } => Some(body),
            Source::Own { .. } => None,
        }
    }

    /// Passed as it is.
    pub(crate) fn inner(body: B) -> Self {
        let source = Source::Inner { body };
        Self { source }
    }

    /// Nothing but these bytes.
    pub(crate) fn own(bytes: Bytes) -> Self {
        let bytes = Some(bytes).filter(|bytes| !bytes.is_empty());
        let source = Source::Own { bytes };
        Self { source }
    }
}

/// An empty body, for layers that answer in place of the service.
impl<B> Default for AnswerBody<B> {
    fn default() -> Self {
        Self::own(Bytes::new())
    }
}

impl<B> Body for AnswerBody<B>
where
    B: Body<Data = Bytes>,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.project().source.project() {
            SourceProj::Inner { body } => body.poll_frame(cx),
            SourceProj::Own { bytes } => Poll::Ready(bytes.take().map(Frame::data).map(Ok)),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Inner { body } => body.is_end_stream(),
            Source::Own { bytes } => bytes.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Inner { body } => body.size_hint(),
            Source::Own { bytes } => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
        }
    }
}
