//! What the body of a request shows of the response that it requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

/// Notifies an [`EarlyLayer`](crate::early::EarlyLayer) that a request requests an event stream in its body.
///
/// A clone is another handle to one flag. It counts in the extensions of the request.
#[derive(Clone, Debug, Default)]
pub struct StreamRequested(Arc<AtomicU8>);

const REQUESTED: u8 = 1;
const NEVER: u8 = 2;

impl StreamRequested {
    /// Creates a flag for a body that has not been read.
    pub fn new() -> Self {
        Self::default()
    }

    /// Records that the body requests an event stream.
    pub fn set(&self) {
        self.0.store(REQUESTED, Relaxed);
    }

    /// The whole body was read, and requests none: its response may be compressed, also for a client of a
    /// model API.
    pub fn never() -> Self {
        Self(Arc::new(AtomicU8::new(NEVER)))
    }

    pub(crate) fn get(&self) -> bool {
        self.0.load(Relaxed) == REQUESTED
    }

    pub(crate) fn is_never(&self) -> bool {
        self.0.load(Relaxed) == NEVER
    }
}
