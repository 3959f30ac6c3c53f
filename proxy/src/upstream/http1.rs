//! HTTP/1 towards an upstream: one request on one connection at a time.
//!
//! hyper writes the request and reads the response's head ([`reply`](reply::reply)); [`exchange`](exchange()) decides which side reads the
//! body. A second protocol stands beside this folder, not in it: what it shares with HTTP/1 is the request
//! ([`Outgoing`](super::outgoing::Outgoing)) and the response that [`exchange`](exchange()) returns.

mod body_length;
pub mod chunked;
mod error;
mod exchange;
mod gate;
mod head_io;
mod head_scan;
mod hyper_body;
mod interim;
mod reply;
mod status;
mod stream_body;

pub(super) use body_length::{BodyLengthError, normalize_length};
pub(super) use error::ExchangeError;
pub(super) use exchange::{Exchanged, Sent, Switched, exchange};
pub(super) use head_scan::{MAX_INTERIM_HEADS, TooManyInterim};
pub(crate) use hyper_body::HyperBody;
pub(super) use interim::{end_to_end, is_forwarded};
pub(super) use reply::HeadOptions;
pub(super) use status::status;
pub(crate) use stream_body::StreamBody;
