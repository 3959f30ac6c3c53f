//! The body of a request over HTTP/2.

use crate::serve::http2::InterimHeads;
use bytes::Bytes;
use h2::RecvStream;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, StatusCode};
use http_body::{Frame, SizeHint};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

/// The DATA frames of a request, and its trailers. What the service has not polled fills the stream's window, which
/// stops the client.
#[derive(Debug)]
pub(in crate::serve) struct Http2Body {
    stream: RecvStream,
    /// The rest of the announced length. The `h2` crate verifies it.
    rest: Option<u64>,
    has_all_data: bool,
    /// The client sends the body after `100 Continue`.
    awaits_continue: Option<Arc<InterimHeads>>,
}

impl Http2Body {
    /// `awaits_continue`: where to send `100 Continue` when the service polls the body, RFC 9110 section 10.1.1.
    pub(in crate::serve) fn new(
        stream: RecvStream,
        headers: &HeaderMap,
        awaits_continue: Option<Arc<InterimHeads>>,
    ) -> Self {
        let length = headers.get(CONTENT_LENGTH);
        Self {
            stream,
            rest: length
                .and_then(|length| length.to_str().ok())
                .and_then(|length| length.parse().ok()),
            has_all_data: false,
            awaits_continue,
        }
    }

    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if let Some(interim) = self.awaits_continue.take()
            && !self.stream.is_end_stream()
        {
            interim.push(StatusCode::CONTINUE, &HeaderMap::new());
        }
        if !self.has_all_data {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    // Fails only for more than was received.
                    let _ = self.stream.flow_control().release_capacity(data.len());
                    self.rest = self.rest.map(|rest| rest.saturating_sub(data.len() as u64));
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => self.has_all_data = true,
            }
        }
        let trailers = ready!(self.stream.poll_trailers(cx)).transpose();
        Poll::Ready(trailers.map(|trailers| trailers.map(Frame::trailers)))
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        match (self.is_end_stream(), self.rest) {
            (true, _) => SizeHint::with_exact(0),
            (false, Some(rest)) => SizeHint::with_exact(rest),
            (false, None) => SizeHint::new(),
        }
    }
}
