//! The request's body, as the service sees it.

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

/// The body of a request that [`Server`](super::Server) hands to a service.
#[derive(Debug)]
pub struct RequestBody {
    incoming: Incoming,
    upload: Upload,
}

/// Whether all of a request's body has been taken from the connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct Upload(Arc<AtomicBool>);

impl Upload {
    pub(crate) fn is_over(&self) -> bool {
        self.0.load(Relaxed)
    }
}

impl RequestBody {
    pub(super) fn new(incoming: Incoming) -> (Self, Upload) {
        let upload = Upload::default();
        let body = Self {
            incoming,
            upload: upload.clone(),
        };
        body.note();
        (body, upload)
    }

    /// What tells when it has been taken.
    #[cfg(feature = "proxy")]
    pub(crate) fn upload(&self) -> Upload {
        self.upload.clone()
    }

    fn note(&self) {
        if self.incoming.is_end_stream() {
            self.upload.0.store(true, Relaxed);
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
        let frame = ready!(Pin::new(&mut self.incoming).poll_frame(cx));
        if frame.is_none() {
            self.upload.0.store(true, Relaxed);
        }
        self.note();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
