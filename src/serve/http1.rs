//! HTTP/1.1 connections.
//!
//! hyper reads requests and writes responses ([`drive`]) until the connection closes, has waited for some time, or
//! the response is an event stream. Then the connection leaves hyper and its buffers: the [`StreamWriter`] writes
//! streams, and a connection that waits needs neither.

mod driver;
mod encode;
mod error_response;
mod handoff;
mod hyper_io;
mod pending_request;
mod request_options;
mod request_scan;
mod response_body;
mod writer;

pub use driver::HYPER_IDLE_TIMEOUT;
pub(super) use driver::drive;
pub(super) use encode::{FieldCase, interim_head};
pub use error_response::log_invalid_request;
pub(super) use pending_request::{PendingRequest, ReadyResponse};
pub(super) use writer::StreamWriter;

use std::pin::Pin;
use tokio::time::Instant;

/// What a connection does next.
pub(super) enum NextStep<B> {
    Close,
    /// Waits for the first request, whose head is due at the deadline.
    Begin(Instant),
    /// Waits for a request, whose head is due at the deadline.
    Idle(Instant),
    /// hyper reads a request, whose head is due at the deadline.
    ReadRequest(Instant),
    /// The client has begun HTTP/2. Its settings are due at the deadline.
    #[cfg(feature = "http2")]
    Http2(Instant),
    /// Waits for the response to a request that has been received completely.
    AwaitResponse(Box<PendingRequest<B>>),
    /// hyper writes a response.
    WriteResponse(Box<ReadyResponse<B>>),
    /// Writes an event stream.
    WriteStream(Pin<Box<StreamWriter<B>>>),
}
