//! Tower layers that harden Server-Sent Events (SSE) streams.
//!
//! They handle idle timeouts of CDNs and load balancers, silent upstreams, clients that open too many streams,
//! deployments, and streams that are never closed. [`SseGuardLayer`] applies the layers below to any
//! `tower` service whose responses may be event streams; each layer also works alone.
//!
//! | layer | what it does | default in the stack |
//! | --- | --- | --- |
//! | [`MetricsLayer`](metrics::MetricsLayer) | counts and times streams; a span for each | on |
//! | [`InjectLayer`](inject::InjectLayer) | sends the application's own events into live streams | off |
//! | [`RotationLayer`](rotation::RotationLayer) | ends streams at a maximum age, and all streams in a drain | off |
//! | [`ConnectionLimitLayer`](connection_limit::ConnectionLimitLayer) | limits streams per client and in total, and the rate of new ones | off |
//! | [`HeartbeatLayer`](heartbeat::HeartbeatLayer) | sends heartbeats on quiet streams | 15 s |
//! | [`IdleTimeoutLayer`](idle_timeout::IdleTimeoutLayer) | ends streams whose upstream is silent | off |
//! | [`CompletionLayer`](completion::CompletionLayer) | breaks incomplete answers of model APIs, with an error event | off |
//! | [`EarlyLayer`](early::EarlyLayer) | sends a response head when the service is slow, so that heartbeats can begin | off |
//! | [`ResumeLayer`](resume::ResumeLayer) | reconnects a lost upstream behind a live stream | off |
//!
//! The order is that of the table, from the client inward. Any order of the first seven is harmless; the
//! last two belong inside of them, in this order.
//!
//! Two more stand outside of the stack:
//!
//! | layer | what it does |
//! | --- | --- |
//! | [`CorsLayer`](cors::CorsLayer) | adds CORS headers to the responses of these layers |
//! | [`UnavailableLayer`](unavailable::UnavailableLayer) | answers an `EventSource` with `retry:` when the service responds with a 5xx |
//!
//! The set is closed; [`own_layer`] shows how to add a layer of your own around it or inside.
//!
//! # Settings that apply to all of them
//!
//! - **Only event streams are touched**: 2xx responses with a body and media type
//!   `text/event-stream`. All other responses pass byte for byte.
//! - **Same events**: a client that parses by the
//!   [WHATWG algorithm](https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation)
//!   dispatches the same events through a layer as without it, whatever the chunks and the moment.
//! - **Injection at event boundaries only.** Whole events pass at once and without a copy; of an
//!   incomplete event, at most 64 KiB are held back. A larger one passes as it comes, and nothing is
//!   injected until it has ended.
//! - **A stream ends clean**: whole events, then a closing `retry:` line or event if one is configured, then a proper end. A failing
//!   upstream is a failing body, never a proper end.
//! - **The client's family decides** which bytes may be injected: see [`family`].
//! - **Nothing outlives its client**: all state hangs on the body and goes with it.
//!
//! # Features
//!
//! None is on by default. `axum` reads the client's address from axum's `ConnectInfo`; `serve` is
//! a server on which quiet streams cost next to nothing, `http2` adds HTTP/2 to it, and `tls` adds TLS to its listeners.
//! The reverse proxy `sse-guard` is a package of its own, `sse-guard-proxy`.

#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod accessors;
mod answer;
pub mod client_key;
pub mod completion;
#[doc(hidden)]
pub mod connection_auth;
pub mod connection_limit;
pub mod cors;
mod describe;
pub mod early;
mod event;
pub mod family;
mod guard;
mod head;
pub mod heartbeat;
pub mod idle_timeout;
pub mod inject;
mod jitter;
mod last_event_id;
mod lock;
mod log_limit;
pub mod metrics;
pub mod own_layer;
mod rate;
mod rejection;
mod request_info;
pub mod resume;
mod retry_after;
pub mod rotation;
#[cfg(feature = "serve")]
pub mod serve;
pub mod stack;
mod stream;
mod stream_requested;
pub mod unavailable;
pub mod wire;

pub use answer::AnswerBody;
pub use describe::describe_metrics;
pub use event::Event;
pub use guard::{BoxError, Guard, Guarded, ResponseFuture, StreamError};
pub use head::CacheControl;
pub use stack::{SseGuard, SseGuardLayer};
pub use stream::{EndReason, Stream, StreamId, StreamRegistry, StreamState, UpstreamFault};
pub use wire::EventError;

/// What the `sse-guard` proxy needs of these layers beside their public interface. Exempt from semantic
/// versioning: it may change in any release, and the proxy depends on exactly one.
#[doc(hidden)]
pub mod internal {
    pub use crate::answer::OwnResponse;
    pub use crate::client_key::{Element, Node};
    pub use crate::connection_auth;
    pub use crate::head::{accept_identity_only, accepts_event_stream, is_json, list, list_has};
    pub use crate::lock::lock;
    pub use crate::log_limit::{LogLimits, seconds};
    pub use crate::metrics::{MAX_REQUEST_ID, UnguardedResponses, X_REQUEST_ID};
    pub use crate::rejection::{Rejected, Rejection};
    pub use crate::request_info::{RequestInfo, ResponseKind};
    pub use crate::resume::Unreachable;
    pub use crate::retry_after::retry_after_value;
    #[cfg(feature = "serve")]
    pub use crate::serve::internal::*;
    pub use crate::stream::{
        Details, ListenerName, RequestDetails, RequestHead, ResponseHead, StreamLabels, User,
    };
}

/// Keeps the README's example compiling.
#[cfg(all(doctest, feature = "axum", feature = "serve"))]
#[doc = include_str!("../README.md")]
mod readme {}

/// Keeps the examples of `docs/embedding.md` compiling.
#[cfg(all(doctest, feature = "axum", feature = "serve"))]
#[doc = include_str!("../docs/embedding.md")]
mod embedding {}

/// Keeps the example of `docs/layer-order.md` compiling.
#[cfg(all(doctest, feature = "axum"))]
#[doc = include_str!("../docs/layer-order.md")]
mod layer_order {}
