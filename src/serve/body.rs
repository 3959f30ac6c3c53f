//! The request's body, as the service sees it.

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

/// Bytes of a request's body that may be missing when its connection serves a next request.
const SKIPPED: u64 = 8 * 1024;

/// The request body that [`Server`](super::Server) passes to a service.
pub struct RequestBody {
    /// Nothing comes if there is none.
    incoming: Option<Incoming>,
    upload: Upload,
    inspect: Option<Inspect>,
    /// Read ahead, and still to be handed out.
    #[expect(
        clippy::box_collection,
        reason = "few requests have one, and those that wait should be small"
    )]
    held: Option<Box<VecDeque<Frame<Bytes>>>>,
}

/// Is shown what passes, until it has seen enough.
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
        // hyper skips what one read may bring, and nothing of a body in chunks.
        let rest = incoming.size_hint().exact();
        if !incoming.is_end_stream() && rest.is_none_or(|rest| rest > SKIPPED) {
            self.upload.set(Upload::ABANDONED);
        }
    }
}

impl Default for RequestBody {
    /// One that is over.
    fn default() -> Self {
        let body = Self {
            incoming: None,
            upload: Upload::default(),
            inspect: None,
            held: None,
        };
        body.note();
        body
    }
}

/// How far the taking of a request's body from the connection has come.
#[derive(Clone, Debug, Default)]
pub struct Upload(Arc<AtomicU8>);

impl Upload {
    const OVER: u8 = 1;
    const BROKEN: u8 = 2;
    const ABANDONED: u8 = 3;

    /// All of it has been taken.
    pub fn is_over(&self) -> bool {
        self.0.load(Relaxed) == Self::OVER
    }

    /// Its client has broken it off.
    pub fn is_broken(&self) -> bool {
        self.0.load(Relaxed) == Self::BROKEN
    }

    /// The service has dropped the body ahead of its end, and too much is missing for hyper to skip it.
    pub(super) fn is_abandoned(&self) -> bool {
        self.0.load(Relaxed) == Self::ABANDONED
    }

    /// What came first stands.
    fn set(&self, state: u8) {
        let _ = self.0.compare_exchange(0, state, Relaxed, Relaxed);
    }
}

impl RequestBody {
    pub(super) fn new(incoming: Incoming) -> (Self, Upload) {
        let upload = Upload::default();
        let body = Self {
            incoming: Some(incoming),
            upload: upload.clone(),
            inspect: None,
            held: None,
        };
        body.note();
        (body, upload)
    }

    /// How far it has come.
    #[doc(hidden)]
    pub fn upload(&self) -> Upload {
        self.upload.clone()
    }

    /// Calls `inspect` with what passes, until it returns true.
    #[doc(hidden)]
    pub fn inspect(&mut self, inspect: impl FnMut(&[u8]) -> bool + Send + Sync + 'static) {
        self.inspect = Some(Box::new(inspect));
    }

    fn next_held(&mut self) -> Option<Frame<Bytes>> {
        let frame = self.held.as_mut()?.pop_front();
        if frame.is_none() {
            self.held = None;
        }
        frame
    }

    fn show(&mut self, frame: &Frame<Bytes>) {
        if let (Some(inspect), Some(data)) = (&mut self.inspect, frame.data_ref())
            && inspect(data)
        {
            self.inspect = None;
        }
    }

    /// Reads ahead until `is_enough` returns true for a piece, and keeps what it reads for the service.
    /// Returns whether it did; `None` if `most` bytes or the error of a broken body came first.
    #[doc(hidden)]
    pub async fn read_ahead(
        &mut self,
        most: usize,
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
                // hyper gives the error again to the one that reads on.
                self.upload.set(Upload::BROKEN);
                return None;
            };
            self.note();
            let data = frame.data_ref();
            let is_said = data.is_some_and(|data| is_enough(data));
            len += data.map_or(0, Bytes::len);
            self.held.get_or_insert_default().push_back(frame);
            if is_said {
                return Some(true);
            }
            if len >= most {
                return None;
            }
        }
    }

    fn note(&self) {
        if self.incoming.as_ref().is_none_or(Body::is_end_stream) {
            self.upload.set(Upload::OVER);
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if let Some(frame) = self.next_held() {
            self.show(&frame);
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
                self.show(frame);
                self.note();
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        let is_handed_out = self.held.as_ref().is_none_or(|held| held.is_empty());
        is_handed_out && self.incoming.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let incoming = self.incoming.as_ref();
        let rest = incoming.map_or(SizeHint::with_exact(0), Body::size_hint);
        let Some(held) = &self.held else {
            return rest;
        };
        let data = held.iter().filter_map(Frame::data_ref);
        let held: u64 = data.map(|data| data.len() as u64).sum();
        let mut hint = SizeHint::new();
        hint.set_lower(held.saturating_add(rest.lower()));
        if let Some(upper) = rest.upper().and_then(|upper| upper.checked_add(held)) {
            hint.set_upper(upper);
        }
        hint
    }
}
