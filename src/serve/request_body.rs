//! The body of a request, as the service reads it.

mod incoming;

#[cfg(feature = "http2")]
pub(super) use incoming::Http2Body;
pub(super) use incoming::Incoming;
pub use incoming::RequestBodyError;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

/// Maximum size of the unread rest of a body after which the connection can serve another request.
const MAX_SKIPPED_BYTES: u64 = 8 * 1024;

/// The request body that [`Server`](super::Server) passes to a service.
pub struct RequestBody {
    /// `None` for an empty body.
    incoming: Option<Incoming>,
    upload: Upload,
    inspect: Option<Inspect>,
    /// Frames that were read ahead and not polled yet.
    #[expect(
        clippy::box_collection,
        reason = "few requests have one, and waiting requests must be small"
    )]
    read_ahead: Option<Box<VecDeque<Frame<Bytes>>>>,
}

/// Called with each piece until it returns true.
type Inspect = Box<dyn FnMut(&[u8]) -> bool + Send + Sync>;

impl fmt::Debug for RequestBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestBody")
            .field("incoming", &self.incoming)
            .finish_non_exhaustive()
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        let Some(incoming) = &self.incoming else {
            return;
        };
        // hyper skips a rest that fits into one read, and nothing of a chunked body.
        let rest = incoming.size_hint().exact();
        if incoming.is_http1()
            && !incoming.is_end_stream()
            && rest.is_none_or(|rest| rest > MAX_SKIPPED_BYTES)
        {
            self.upload.set(Upload::ABANDONED);
        }
    }
}

impl Default for RequestBody {
    /// A body that has ended.
    fn default() -> Self {
        let body = Self {
            incoming: None,
            upload: Upload::default(),
            inspect: None,
            read_ahead: None,
        };
        body.update_upload();
        body
    }
}

/// How much of a request's body the service has read. Only the first final state is recorded.
#[derive(Clone, Debug, Default)]
pub struct Upload(Arc<AtomicU8>);

impl Upload {
    const OVER: u8 = 1;
    const BROKEN: u8 = 2;
    const ABANDONED: u8 = 3;

    /// Returns true if the service has read all of it.
    pub fn is_over(&self) -> bool {
        self.0.load(Relaxed) == Self::OVER
    }

    /// Returns true if the client has aborted it.
    pub fn is_broken(&self) -> bool {
        self.0.load(Relaxed) == Self::BROKEN
    }

    /// Returns true if the service has dropped the body before its end, and the rest is too large for hyper to skip.
    pub(super) fn is_abandoned(&self) -> bool {
        self.0.load(Relaxed) == Self::ABANDONED
    }

    fn set(&self, state: u8) {
        let _ = self.0.compare_exchange(0, state, Relaxed, Relaxed);
    }
}

impl RequestBody {
    pub(super) fn new(incoming: impl Into<Incoming>) -> (Self, Upload) {
        let upload = Upload::default();
        let body = Self {
            incoming: Some(incoming.into()),
            upload: upload.clone(),
            inspect: None,
            read_ahead: None,
        };
        body.update_upload();
        (body, upload)
    }

    /// Returns a handle to the progress of the body.
    #[doc(hidden)]
    pub fn upload(&self) -> Upload {
        self.upload.clone()
    }

    /// Calls `inspect` with each piece that the service reads, until it returns true.
    #[doc(hidden)]
    pub fn inspect(&mut self, inspect: impl FnMut(&[u8]) -> bool + Send + Sync + 'static) {
        self.inspect = Some(Box::new(inspect));
    }

    fn next_read_ahead(&mut self) -> Option<Frame<Bytes>> {
        let frame = self.read_ahead.as_mut()?.pop_front();
        if frame.is_none() {
            self.read_ahead = None;
        }
        frame
    }

    fn inspect_frame(&mut self, frame: &Frame<Bytes>) {
        if let (Some(inspect), Some(data)) = (&mut self.inspect, frame.data_ref())
            && inspect(data)
        {
            self.inspect = None;
        }
    }

    /// Reads ahead until `is_enough` returns true for a piece, and keeps the pieces for the service. Returns false if it
    /// did not return true for any piece, and `None` after `max` bytes or the error of an aborted body.
    #[doc(hidden)]
    pub async fn read_ahead(
        &mut self,
        max: usize,
        mut is_enough: impl FnMut(&[u8]) -> bool,
    ) -> Option<bool> {
        let mut len = 0;
        loop {
            let incoming = self.incoming.as_mut()?;
            let frame = std::future::poll_fn(|cx| Pin::new(&mut *incoming).poll_frame(cx)).await;
            let Some(frame) = frame else {
                self.upload.set(Upload::OVER);
                return Some(false);
            };
            let Ok(frame) = frame else {
                // hyper returns the error again to the next poll.
                self.upload.set(Upload::BROKEN);
                return None;
            };
            self.update_upload();
            let data = frame.data_ref();
            let is_found = data.is_some_and(|data| is_enough(data));
            len += data.map_or(0, Bytes::len);
            self.read_ahead.get_or_insert_default().push_back(frame);
            if is_found {
                return Some(true);
            }
            if len >= max {
                return None;
            }
        }
    }

    fn update_upload(&self) {
        if self.incoming.as_ref().is_none_or(Body::is_end_stream) {
            self.upload.set(Upload::OVER);
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = RequestBodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        if let Some(frame) = self.next_read_ahead() {
            self.inspect_frame(&frame);
            return Poll::Ready(Some(Ok(frame)));
        }
        let Some(incoming) = &mut self.incoming else {
            return Poll::Ready(None);
        };
        let frame = ready!(Pin::new(incoming).poll_frame(cx));
        match &frame {
            None => self.upload.set(Upload::OVER),
            Some(Err(_)) => self.upload.set(Upload::BROKEN),
            Some(Ok(frame)) => {
                self.inspect_frame(frame);
                self.update_upload();
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        let is_polled = self
            .read_ahead
            .as_ref()
            .is_none_or(|frames| frames.is_empty());
        is_polled && self.incoming.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let incoming = self.incoming.as_ref();
        let rest = incoming.map_or(SizeHint::with_exact(0), Body::size_hint);
        let Some(read_ahead) = &self.read_ahead else {
            return rest;
        };
        let data = read_ahead.iter().filter_map(Frame::data_ref);
        let read_ahead_len: u64 = data.map(|data| data.len() as u64).sum();
        let mut hint = SizeHint::new();
        hint.set_lower(read_ahead_len.saturating_add(rest.lower()));
        if let Some(upper) = rest
            .upper()
            .and_then(|upper| upper.checked_add(read_ahead_len))
        {
            hint.set_upper(upper);
        }
        hint
    }
}
