//! The body of a response, read from its stream.

use super::connection::Slot;
use super::error;
use super::upload::RunningUpload;
use crate::headers;
use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use http_body::{Body, Frame, SizeHint};
use sse_guard::{BoxError, EndReason, StreamError};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// The body of a response. Dropped before its end, it resets the stream.
///
/// It has no size: the head has the length, which the `h2` crate compares with the data.
#[derive(Debug)]
pub(crate) struct Http2Body {
    /// Until the end.
    stream: Option<OpenStream>,
}

/// Frames that are ready together become one of at most this size, unless the first is larger: what follows has less to do
/// for it, and writes it at once.
const MAX_JOINED: usize = 16 * 1024;

/// The order of its fields is that in which they are dropped: the stream is reset before another takes its place.
#[derive(Debug)]
struct OpenStream {
    recv: RecvStream,
    /// The last poll returned data. Only then is it likely that more than one frame is ready.
    has_returned_data: bool,
    /// A box, as few streams have one.
    upload: Option<Box<RunningUpload>>,
    slot: Slot,
}

impl Http2Body {
    pub(super) fn new(recv: RecvStream, slot: Slot, upload: Option<RunningUpload>) -> Self {
        let stream = OpenStream {
            recv,
            has_returned_data: false,
            upload: upload.map(Box::new),
            slot,
        };
        Self {
            // The upload continues behind a response without a body.
            stream: (!stream.recv.is_end_stream()).then_some(stream),
        }
    }

    fn fail(&mut self, error: h2::Error) -> BoxError {
        let Some(stream) = self.stream.take() else {
            return error.into();
        };
        let upload = stream.upload.as_ref();
        let is_broken = upload.is_some_and(|upload| upload.is_broken());
        if let Some(upload) = upload {
            upload.abort();
        }
        match is_broken {
            // The stream ends with the request's body, too. Then it is not the upstream that broke off.
            true => StreamError::Ended(EndReason::ClientGone).into(),
            false => error::of_body(error, stream.slot.connection().is_ping_timeout()).into(),
        }
    }
}

impl OpenStream {
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, h2::Error>>> {
        let is_joined = std::mem::replace(&mut self.has_returned_data, false);
        let first = loop {
            match ready!(self.recv.poll_data(cx)) {
                Some(Ok(data)) if data.is_empty() => {}
                Some(Ok(data)) => break data,
                end => return Poll::Ready(end),
            }
        };
        let data = match is_joined && first.len() < MAX_JOINED {
            true => self.join(first, cx),
            false => first,
        };
        // The body is polled when its client has room. This fails only for more than was received.
        let _ = self.recv.flow_control().release_capacity(data.len());
        self.has_returned_data = true;
        Poll::Ready(Some(Ok(data)))
    }

    /// The data with what is ready behind it. An end comes again with the next poll.
    fn join(&mut self, first: Bytes, cx: &mut Context<'_>) -> Bytes {
        let Poll::Ready(Some(Ok(second))) = self.recv.poll_data(cx) else {
            return first;
        };
        let mut joined = BytesMut::with_capacity(2 * (first.len() + second.len()));
        joined.extend_from_slice(&first);
        joined.extend_from_slice(&second);
        while joined.len() < MAX_JOINED {
            let Poll::Ready(Some(Ok(next))) = self.recv.poll_data(cx) else {
                break;
            };
            joined.extend_from_slice(&next);
        }
        joined.freeze()
    }
}

impl Body for Http2Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let Some(stream) = &mut this.stream else {
            return Poll::Ready(None);
        };
        match stream.poll_data(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Some(Ok(data))) => return Poll::Ready(Some(Ok(Frame::data(data)))),
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(this.fail(error)))),
            Poll::Ready(None) => {}
        }
        let trailers = ready!(stream.recv.poll_trailers(cx));
        Poll::Ready(match trailers {
            Ok(trailers) => {
                this.stream = None;
                trailers.map(|mut trailers| {
                    headers::remove_no_trailers(&mut trailers);
                    Ok(Frame::trailers(trailers))
                })
            }
            Err(error) => Some(Err(this.fail(error))),
        })
    }

    fn is_end_stream(&self) -> bool {
        let stream = self.stream.as_ref();
        stream.is_none_or(|stream| stream.recv.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        match self.is_end_stream() {
            true => SizeHint::with_exact(0),
            false => SizeHint::default(),
        }
    }
}

impl Drop for Http2Body {
    fn drop(&mut self) {
        let Some(stream) = &self.stream else { return };
        if let Some(upload) = &stream.upload
            && !stream.recv.is_end_stream()
        {
            upload.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn body_is_small() {
        // Thousands of quiet streams have one each.
        assert!(size_of::<Http2Body>() <= 48, "{}", size_of::<Http2Body>());
    }
}
