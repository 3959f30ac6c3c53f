//! A request on its way to the upstream.

use bytes::Bytes;
use http::Request;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty};
use sse_guard::BoxError;
use std::mem::MaybeUninit;
use std::ops::{Deref, DerefMut};

/// A request's body on its way to the upstream.
pub(super) type BoxedBody = UnsyncBoxBody<Bytes, BoxError>;

/// A body of no bytes.
pub(super) fn nothing() -> BoxedBody {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// A request in a box, as futures are as large as all that they pass on.
#[derive(Debug)]
pub(super) struct Outgoing(Box<Padded>);

/// Without the padding, requests would share a size class of the allocator with parts of open streams, and a
/// burst of requests would leave holes among those. It is never written.
#[derive(Debug)]
struct Padded {
    request: Request<BoxedBody>,
    _padding: [MaybeUninit<u64>; 20],
}

impl Outgoing {
    pub(super) fn new(request: Request<BoxedBody>) -> Self {
        Self(Box::new(Padded {
            request,
            _padding: [const { MaybeUninit::uninit() }; 20],
        }))
    }

    /// Frees the box, which an `async` block that moves a value out of one keeps to its end.
    pub(super) fn into_inner(self) -> Request<BoxedBody> {
        self.0.request
    }
}

impl Deref for Outgoing {
    type Target = Request<BoxedBody>;

    fn deref(&self) -> &Self::Target {
        &self.0.request
    }
}

impl DerefMut for Outgoing {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0.request
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_has_a_size_class_without_parts_of_streams() {
        assert!((385..=448).contains(&size_of::<Padded>()));
    }
}
