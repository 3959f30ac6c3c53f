//! Early responses, before the service's head.

use super::CorsMemory;
use super::permissions::{Allowed, EntryKeys};
use crate::answer::OwnResponse;
use http::response;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// In the extensions of a request whose origin a response of this crate will allow: the permission that the service
/// must give before its own body may follow such a response.
#[derive(Clone, Debug)]
pub(crate) struct EarlyPermission(Arc<PermissionTerms>);

/// In the extensions of a request whose page cannot read a response of this crate: it must not get one before the
/// service's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NoEarlyResponse;

#[derive(Debug)]
struct PermissionTerms {
    memory: Arc<CorsMemory>,
    keys: EntryKeys,
    /// A copy, as a value of a head would keep the buffer of the whole head.
    origin: Box<[u8]>,
    /// The response allows credentials. The request need not have any: a connection may be logged in, or a
    /// proxy on the path may add the user.
    credentials: bool,
    /// A response was sent before the service's head.
    is_used: AtomicBool,
}

impl EarlyPermission {
    pub(super) fn new(
        memory: &Arc<CorsMemory>,
        keys: EntryKeys,
        origin: &[u8],
        credentials: bool,
    ) -> Self {
        Self(Arc::new(PermissionTerms {
            memory: memory.clone(),
            keys,
            origin: origin.into(),
            credentials,
            is_used: AtomicBool::new(false),
        }))
    }

    /// Records that a response is sent before the service's head.
    pub(crate) fn mark_used(&self) {
        self.0.is_used.store(true, Relaxed);
    }

    /// Whether a response with this head may follow: it must allow at least as much as the early response, by
    /// which the browser lets the origin read all. Without an early response the browser decides by this head.
    pub(crate) fn is_confirmed_by(&self, head: &response::Parts) -> bool {
        let terms = &self.0;
        if !terms.is_used.load(Relaxed) {
            return true;
        }
        let allowed = Allowed::of(&head.headers, &terms.origin);
        // Layers outside do not get this head.
        if head.extensions.get::<OwnResponse>().is_none() {
            terms.memory.record(&terms.keys, allowed, head.status);
        }
        allowed.is_some_and(|allowed| allowed.credentials() || !terms.credentials)
    }
}
