//! The mechanism below all layers: one service, one future, one body.
//!
//! A layer is a [`StreamLayer`]: it admits requests, and opens a [`Policy`] for each stream. A policy has
//! no IO: it gets notices and the time, and returns a reaction. [`Guard`] and [`Guarded`] own bodies,
//! timers and wakers. Several layers may share one guard (a pair of layers is a layer), so that a whole
//! stack costs one aligner and one timer.

mod body;
mod clock;
mod error;
mod events;
mod policy;
mod service;
mod source;
mod stream_layer;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use body::Guarded;
pub(crate) use clock::unread_pause;
pub use error::{BoxError, StreamError};
pub(crate) use policy::{BreakCause, Ending, Interests, Notice, Policy, PolicyContext, Reaction};
pub use service::{Guard, ResponseFuture};
pub(crate) use stream_layer::{NotOpened, ResponseInfo, StreamLayer};
