//! The body of a request, as its HTTP version transfers it.

#[cfg(feature = "http2")]
mod http2;

#[cfg(feature = "http2")]
pub(in crate::serve) use http2::Http2Body;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use std::pin::Pin;
use std::task::{Context, Poll};

/// The body of a request ends early, or breaks the rules of its HTTP version.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct RequestBodyError(Cause);

#[derive(Debug, thiserror::Error)]
enum Cause {
    #[error(transparent)]
    Http1(#[from] hyper::Error),
    #[cfg(feature = "http2")]
    #[error(transparent)]
    Http2(#[from] h2::Error),
}

fn with_cause<E>(
    frame: Option<Result<Frame<Bytes>, E>>,
) -> Option<Result<Frame<Bytes>, RequestBodyError>>
where
    Cause: From<E>,
{
    frame.map(|frame| frame.map_err(|error| RequestBodyError(error.into())))
}

/// The body of a request on its way from the client.
#[derive(Debug)]
pub(in crate::serve) enum Incoming {
    Http1(hyper::body::Incoming),
    #[cfg(feature = "http2")]
    Http2(Box<Http2Body>),
}

impl Incoming {
    pub(super) fn is_http1(&self) -> bool {
        matches!(self, Self::Http1(_))
    }
}

impl From<hyper::body::Incoming> for Incoming {
    fn from(body: hyper::body::Incoming) -> Self {
        Self::Http1(body)
    }
}

#[cfg(feature = "http2")]
impl From<Http2Body> for Incoming {
    fn from(body: Http2Body) -> Self {
        Self::Http2(Box::new(body))
    }
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = RequestBodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        match self.get_mut() {
            Self::Http1(body) => Pin::new(body).poll_frame(cx).map(with_cause),
            #[cfg(feature = "http2")]
            Self::Http2(body) => body.poll_frame(cx).map(with_cause),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_end_stream(),
            #[cfg(feature = "http2")]
            Self::Http2(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(body) => body.size_hint(),
            #[cfg(feature = "http2")]
            Self::Http2(body) => body.size_hint(),
        }
    }
}
