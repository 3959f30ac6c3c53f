//! What requests, responses and tunnels hold of the limits, and give back when it is dropped.

use super::table::{RequestSlot, StreamSlot};
use crate::client_key::ClientKey;
use crate::guard::{Interests, Notice, Policy, PolicyContext, Reaction};
use std::sync::{Arc, Weak};
use tokio::time::Instant;

/// Held while the inner service works.
#[doc(hidden)]
#[derive(Debug)]
pub struct AdmittedRequest {
    pub(super) stream: StreamAdmission,
    pub(super) client: Option<ClientKey>,
    pub(super) request: Option<Arc<RequestSlot>>,
    /// It requests a switch of protocols.
    pub(super) may_tunnel: bool,
}

#[derive(Debug)]
pub(super) enum StreamAdmission {
    /// It requested a stream and has its slot.
    Holds(Option<StreamSlot>),
    /// It may turn out to be one.
    May,
}

/// A request's place among its client's requests in flight, in the extensions of a request that may become
/// a tunnel: one with an `Upgrade` field, or a `CONNECT`.
///
/// It is given back at the end of the response's body. A tunnel, such as a WebSocket, outlives that: a
/// service that opens one keeps its place by [`hold`](Self::hold).
#[derive(Clone, Debug)]
pub struct InFlight(pub(super) Weak<RequestSlot>);

/// Keeps the place of a request until it is dropped.
#[derive(Debug)]
pub struct InFlightGuard(#[expect(dead_code, reason = "dropped")] pub(super) Arc<RequestSlot>);

impl InFlight {
    /// Keeps the place. Nothing if the request is over.
    pub fn hold(&self) -> Option<InFlightGuard> {
        self.0.upgrade().map(InFlightGuard)
    }
}

/// What a response's body holds.
#[doc(hidden)]
#[derive(Debug)]
pub enum Permit {
    /// A stream's slot.
    Stream(Option<StreamSlot>),
    /// The place of a request.
    Request(InFlightGuard),
}

/// It is held, and does nothing.
impl Policy for Permit {
    #[inline]
    fn interests(&self) -> Interests {
        Interests::default()
    }

    fn deadline(&self, _: &PolicyContext<'_>) -> Option<Instant> {
        None
    }

    fn check(&mut self, _: &PolicyContext<'_>) -> Reaction {
        Reaction::Pass
    }

    #[inline]
    fn on(&mut self, _: &PolicyContext<'_>, _: Notice<'_>) -> Reaction {
        Reaction::Pass
    }
}
