//! A response's body that hyper reads.

use crate::headers;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use sse_guard::EndReason;
use sse_guard::internal::Upload;
use sse_guard::{BoxError, StreamError};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

/// The upstream's connection, which this body hangs on, fails with the request's body, too. Then it
/// is not the upstream that broke off.
#[derive(Debug)]
pub(crate) struct HyperBody {
    incoming: Incoming,
    upload: Upload,
}

impl HyperBody {
    pub(super) fn new(incoming: Incoming, upload: &Upload) -> Self {
        Self {
            incoming,
            upload: upload.clone(),
        }
    }
}

impl Body for HyperBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = Pin::new(&mut self.incoming).poll_frame(cx);
        let frame = frame.map_ok(|mut frame| {
            if let Some(trailers) = frame.trailers_mut() {
                headers::remove_no_trailers(trailers);
            }
            frame
        });
        frame.map_err(|error| match self.upload.is_broken() {
            true => StreamError::Ended(EndReason::ClientGone).into(),
            false if error.is_incomplete_message() => {
                io::Error::new(io::ErrorKind::UnexpectedEof, error).into()
            }
            false if error.is_parse() => io::Error::new(io::ErrorKind::InvalidData, error).into(),
            false => error.into(),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
