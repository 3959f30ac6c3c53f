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
pub(crate) use details::listener_name;
pub use details::{Details, ListenerName, RequestDetails, RequestHead, ResponseHead, User};
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

pub(crate) fn describe_metrics() {
    for &state in StreamState::ALL.iter().filter(|state| state.is_waiting()) {
        metrics::gauge!("sse_guard_streams_waiting", "state" => state.as_str()).increment(0.0);
    }
    metrics::describe_gauge!(
        "sse_guard_streams_waiting",
        metrics::Unit::Count,
        "Open streams without an upstream, by state"
    );
    metrics::describe_counter!(
        "sse_guard_ends_total",
        metrics::Unit::Count,
        "Streams that have ended, by route and reason; of upstream_error also by fault"
    );
}
