//! A request for the status of its response alone.

use super::super::error::Failure;
use super::super::outgoing::{BoxedBody, Outgoing};
use super::connection::SharedConnection;
use super::error::Http2Error;
use super::exchange::{Failed, SendOptions, exchange};
use super::handshake::Handshake;
use http::uri::Scheme;
use http::{Request, StatusCode};
use sse_guard::internal::Upload;
use std::time::Duration;

/// Bytes of the response's head.
pub(super) const MAX_HEAD_BYTES: usize = 64 * 1024;

/// Sends `request` for no more than the status of the response, and closes the connection.
pub(in crate::upstream) async fn status(
    handshake: Handshake,
    request: Request<BoxedBody>,
    scheme: &Scheme,
) -> Result<StatusCode, Failure> {
    let (connection, drive) = SharedConnection::start(handshake, Duration::ZERO);
    let slot = connection
        .slot(Duration::ZERO)
        .ok_or(Http2Error::NoStreams)?;
    tokio::spawn(drive);
    let options = SendOptions {
        upload: &Upload::default(),
        scheme,
        max_head: MAX_HEAD_BYTES,
    };
    match exchange(slot, Outgoing::new(request), options).await {
        Ok(response) => Ok(response.status()),
        Err(Failed { error, .. }) => Err(error.into()),
    }
}
