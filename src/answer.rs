//! Responses of the layers of this crate, in place of the service inside.

use crate::head::{EVENT_STREAM, X_ACCEL_BUFFERING};
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

/// In the extensions of a response: it is a response of this crate, without the fields that the service inside
/// adds.
#[derive(Clone, Copy, Debug)]
pub struct OwnResponse;

/// In the extensions of a response: the status that it replaces, which outer layers count.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReplacedStatus(pub(crate) StatusCode);

/// In the extensions of a response: the status that is replaced by a stream which waits for its upstream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReplacedWhileWaiting(pub(crate) StatusCode);

/// Sets the fields of an empty event stream.
pub(crate) fn set_retry_later(headers: &mut HeaderMap) {
    let event_stream = HeaderValue::from_static(EVENT_STREAM);
    headers.insert(CONTENT_TYPE, event_stream);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
}

/// The body of an empty event stream. Without a blank line `retry:` is honoured by all clients that support it, and
/// none dispatches an empty event.
pub(crate) fn retry_line(retry: Duration) -> Bytes {
    format!("retry: {}\n", retry.as_millis()).into()
}

/// An empty event stream, after which an `EventSource` reconnects; after any status but 200 it would not.
pub(crate) fn retry_later(retry: Duration) -> Response<Bytes> {
    let mut response = Response::new(retry_line(retry));
    set_retry_later(response.headers_mut());
    response.extensions_mut().insert(OwnResponse);
    response
}

pin_project! {
    /// The body of the service, or a short one of this crate.
    pub struct AnswerBody<B> {
        #[pin]
        source: AnswerSource<B>,
    }
}

pin_project! {
    #[project = AnswerSourceProj]
    enum AnswerSource<B> {
        Inner { #[pin] body: B },
        Own { bytes: Option<Bytes> },
    }
}

impl<B> AnswerBody<B> {
    /// Returns the body of the service; `None` for one of this crate.
    pub fn get_ref(&self) -> Option<&B> {
        match &self.source {
            AnswerSource::Inner { body } => Some(body),
            AnswerSource::Own { .. } => None,
        }
    }

    /// Passes the body unchanged.
    pub(crate) fn inner(body: B) -> Self {
        let source = AnswerSource::Inner { body };
        Self { source }
    }

    /// A body of these bytes.
    pub(crate) fn own(bytes: Bytes) -> Self {
        let bytes = Some(bytes).filter(|bytes| !bytes.is_empty());
        let source = AnswerSource::Own { bytes };
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
            AnswerSourceProj::Inner { body } => body.poll_frame(cx),
            AnswerSourceProj::Own { bytes } => Poll::Ready(bytes.take().map(Frame::data).map(Ok)),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            AnswerSource::Inner { body } => body.is_end_stream(),
            AnswerSource::Own { bytes } => bytes.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            AnswerSource::Inner { body } => body.size_hint(),
            AnswerSource::Own { bytes } => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
        }
    }
}
