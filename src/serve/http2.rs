//! HTTP/2 connections, RFC 9113.
//!
//! The `h2` crate handles frames, header compression and flow control. Each request is served by a task of its own
//! ([`ResponseTask`]), which writes the response as the HTTP/1.1 writer does: what is ready together leaves in one
//! DATA frame, a quiet stream holds no buffer, and a client whose window stays closed is detected even while the body
//! is not polled. The connection ([`drive`]) bounds what a client can cause: streams, resets, header lists,
//! windows, and time without a stream or without an acknowledged PING.

mod connection;
mod interim;
mod io;
mod ping;
mod preface;
mod request;
mod requests;
mod resets;
mod response;
mod writer;

pub(super) use connection::drive;
pub(super) use interim::InterimHeads;
pub use ping::PingTimer;
pub(super) use preface::{has_preface, is_preface_incomplete};

use std::time::Duration;

/// See the methods of [`Server`](super::Server).
#[derive(Clone, Copy, Debug)]
pub(super) struct Http2Options {
    pub(super) enabled: bool,
    pub(super) max_streams: u32,
    pub(super) ping_interval: Option<Duration>,
}

impl Default for Http2Options {
    fn default() -> Self {
        Self {
            enabled: false,
            max_streams: 250,
            ping_interval: Some(Duration::from_secs(60)),
        }
    }
}
