//! The request's body, as the service sees it.

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

/// The body of a request that [`Server`](super::Server) hands to a service.
pub struct RequestBody {
    /// Nothing comes if there is none.
    incoming: Option<Incoming>,
    upload: Upload,
    inspect: Option<Inspect>,
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

impl Default for RequestBody {
    /// One that is over.
    fn default() -> Self {
        let body = Self {
            incoming: None,
            upload: Upload::default(),
            inspect: None,
        };
        body.note();
        body
    }
}

/// How far the taking of a request's body from the connection has come.
#[derive(Clone, Debug, Default)]
pub(crate) struct Upload(Arc<AtomicU8>);

impl Upload {
    const OVER: u8 = 1;
    const BROKEN: u8 = 2;

    /// All of it has been taken.
    pub(crate) fn is_over(&self) -> bool {
        self.0.load(Relaxed) == Self::OVER
    }

    /// Its client has broken it off.
    #[cfg(feature = "proxy")]
    pub(crate) fn is_broken(&self) -> bool {
        self.0.load(Relaxed) == Self::BROKEN
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
        };
        body.note();
        (body, upload)
    }

    /// What tells how far it has come.
    #[cfg(feature = "proxy")]
    pub(crate) fn upload(&self) -> Upload {
        self.upload.clone()
    }

    /// Shows `inspect` what passes, until it says that it has seen enough.
    #[cfg(feature = "proxy")]
    pub(crate) fn inspect(&mut self, inspect: impl FnMut(&[u8]) -> bool + Send + Sync + 'static) {
        self.inspect = Some(Box::new(inspect));
    }

    fn show(&mut self, frame: &Frame<Bytes>) {
        if let (Some(inspect), Some(data)) = (&mut self.inspect, frame.data_ref())
            && inspect(data)
        {
            self.inspect = None;
        }
    }

    fn note(&self) {
        if self.is_end_stream() {
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
        self.incoming.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let incoming = self.incoming.as_ref();
        incoming.map_or(SizeHint::with_exact(0), Body::size_hint)
    }
}
