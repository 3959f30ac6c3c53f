//! HTTP/2 towards an upstream, RFC 9113: many requests at a time on one connection.
//!
//! The `h2` crate handles frames, header compression and flow control. An endpoint has a set of [`Connections`]. A
//! request takes a [`Slot`](connection::Slot) of one of them and becomes a stream; its response's body reads from the
//! stream without a task of its own. Each connection has one task, which drives the `h2` crate's side of it, sends PINGs
//! and closes it when it is idle.
//!
//! What one client does must not cost another its stream: the connection's window has room for what all streams may
//! have received and not delivered yet, so that clients that do not read stall only themselves.

mod body;
mod connection;
mod connections;
mod error;
mod exchange;
mod handshake;
mod head;
mod io;
mod replay;
mod send;
mod shared_failure;
mod status;
#[cfg(test)]
mod tests;
mod upload;

pub(crate) use body::Http2Body;
pub(super) use connections::{Acquire, Connections};
pub(super) use error::Http2Error;
pub(super) use handshake::{Handshake, is_selected};
pub(super) use send::{Sending, send};
pub(super) use status::status;

use crate::config::{self, Http2Mode};
use std::time::Duration;

/// The name of HTTP/2 in ALPN.
const H2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

/// What an HTTP/2 connection has from its start to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Http2Options {
    mode: Http2Mode,
    max_streams: u32,
    ping: Option<Duration>,
    /// Bytes of a response's head.
    max_head: usize,
}

impl Http2Options {
    /// None if HTTP/2 is never used. `auto` requires ALPN, and so TLS.
    pub(super) fn of(config: &config::Upstream) -> Option<Self> {
        let is_used = match config.http2 {
            Http2Mode::Off => false,
            Http2Mode::On => true,
            Http2Mode::Auto => config.tls.is_some(),
        };
        is_used.then(|| Self {
            mode: config.http2,
            max_streams: config.http2_max_streams.get(),
            ping: config.ping,
            max_head: config.max_head,
        })
    }

    /// The options of connections for one check.
    pub(super) fn for_checks(self) -> Self {
        Self {
            mode: self.mode,
            max_streams: 1,
            ping: None,
            max_head: status::MAX_HEAD_BYTES,
        }
    }

    pub(super) fn is_required(self) -> bool {
        self.mode == Http2Mode::On
    }

    /// The protocols that ALPN offers.
    pub(super) fn protocols(self) -> Vec<Vec<u8>> {
        let both = [H2, HTTP1];
        let offered = match self.is_required() {
            true => &both[..1],
            false => &both[..],
        };
        offered.iter().map(|name| name.to_vec()).collect()
    }
}
