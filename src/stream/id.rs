//! Identifies streams.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// Identifies a stream within this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(u64);

impl StreamId {
    /// The next id of this process.
    pub(super) fn next() -> Self {
        Self(NEXT_ID.fetch_add(1, Relaxed))
    }

    /// Converts from the number that [`Display`](fmt::Display) prints.
    pub fn from_u64(id: u64) -> Self {
        Self(id)
    }

    /// Returns the id as a number.
    pub fn as_u64(self) -> u64 {
        self.0
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
