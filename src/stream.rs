//! The record of one stream, which all layers around it share, and the registry of the live ones.

mod activity;
mod client_reconnects;
mod details;
mod end_reason;
mod event_rate;
mod flags;
mod id;
mod inject_queue;
mod last_id;
mod lifecycle;
mod record;
mod registry;
mod state;
mod upstream_fault;
mod wakers;

pub(crate) use client_reconnects::ClientReconnects;
pub use details::{Details, RequestDetails, RequestHead, ResponseHead, User};
pub use end_reason::EndReason;
pub use id::StreamId;
pub use inject_queue::SendError;
pub(crate) use lifecycle::ends_counter;
pub(crate) use record::{EarlyStream, MAX_ID_BYTES};
pub use record::{Stream, StreamLabels};
pub(crate) use registry::RegisteredStream;
pub use registry::StreamRegistry;
pub use state::StreamState;
pub use upstream_fault::UpstreamFault;
pub(crate) use wakers::WakerSlot;
