//! Answers ahead of the service's head.

use super::Memory;
use super::seen::{Allowed, Keys};
use crate::answer::Own;
use http::response;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// In the extensions of a request whose origin an answer of this crate will allow: what the service has
/// to allow for its own body to follow behind such an answer.
#[derive(Clone, Debug)]
pub(crate) struct Granted(Arc<Terms>);

/// In the extensions of a request whose page cannot read an answer of this crate: one ahead of the
/// service's would do harm.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unreadable;

#[derive(Debug)]
struct Terms {
    memory: Arc<Memory>,
    keys: Keys,
    /// A copy: a value of a head would keep the buffer of the whole head.
    origin: Box<[u8]>,
    /// The answer allows credentials. The request need not show any: a connection may be logged in, or a
    /// proxy on the way add the user.
    credentials: bool,
    /// An answer has gone ahead of the service's head.
    is_used: AtomicBool,
}

impl Granted {
    pub(super) fn new(memory: &Arc<Memory>, keys: Keys, origin: &[u8], credentials: bool) -> Self {
        Self(Arc::new(Terms {
            memory: memory.clone(),
            keys,
            origin: origin.into(),
            credentials,
            is_used: AtomicBool::new(false),
        }))
    }

    /// An answer goes ahead of the service's head.
    pub(crate) fn use_it(&self) {
        self.0.is_used.store(true, Relaxed);
    }

    /// Whether a response with this head may follow: it allows no less than the answer ahead of it did, by
    /// which the browser lets the origin read all. Without such an answer the browser decides by this head.
    pub(crate) fn holds(&self, head: &response::Parts) -> bool {
        let terms = &self.0;
        if !terms.is_used.load(Relaxed) {
            return true;
        }
        let allowed = Allowed::of(&head.headers, &terms.origin);
        // No layer outside sees this head.
        if head.extensions.get::<Own>().is_none() {
            terms.memory.learn(&terms.keys, allowed, head.status);
        }
        allowed.is_some_and(|allowed| allowed.credentials() || !terms.credentials)
    }
}
