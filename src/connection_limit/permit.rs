//! What requests, responses and tunnels hold of the limits, and give back when it is dropped.

use super::table::{Request, Slot};
use crate::client_key::ClientKey;
use crate::guard::{Interests, Notice, Policy, PolicyContext, Reaction};
use std::sync::{Arc, Weak};
use tokio::time::Instant;

/// Held while the inner service works.
#[doc(hidden)]
#[derive(Debug)]
pub struct Ticket {
    pub(super) stream: StreamTicket,
    pub(super) client: Option<ClientKey>,
    pub(super) request: Option<Arc<Request>>,
    /// It requests a switch of protocols.
    pub(super) may_tunnel: bool,
}

#[derive(Debug)]
pub(super) enum StreamTicket {
    /// It requested a stream and has its slot.
    Holds(Option<Slot>),
    /// It may turn out to be one.
    May,
}

/// A request's place among its client's requests in flight, in the extensions of a request that may become
/// a tunnel: one with an `Upgrade` field, or a `CONNECT`.
///
/// It is given back at the end of the response's body. A tunnel, such as a WebSocket, outlives that: a
/// service that opens one keeps its place by [`hold`](Self::hold).
#[derive(Clone, Debug)]
pub struct InFlight(pub(super) Weak<Request>);

/// Keeps the place of a request until it is dropped.
#[derive(Debug)]
pub struct Held(#[expect(dead_code, reason = "dropped")] pub(super) Arc<Request>);

impl InFlight {
    /// Keeps the place. Nothing if the request is over.
    pub fn hold(&self) -> Option<Held> {
        self.0.upgrade().map(Held)
    }
}

/// What a response's body holds.
#[doc(hidden)]
#[derive(Debug)]
pub enum Permit {
    /// A stream's slot.
    Stream(Option<Slot>),
    /// The place of a request.
    Request(Held),
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
