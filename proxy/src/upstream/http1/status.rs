//! A request for the status of its response alone.

use super::super::outgoing::{BoxedBody, Outgoing};
use super::super::progress::Progress;
use super::error::ExchangeError;
use super::reply::{HeadOptions, reply};
use http::{Request, StatusCode};
use sse_guard::internal::Upload;
use sse_guard::serve::Io;

/// Bytes of the response's head.
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// Sends `request` for no more than the status of the response, and closes the connection.
pub(in crate::upstream) async fn status(
    socket: Io,
    request: Request<BoxedBody>,
    title_case: bool,
) -> Result<StatusCode, ExchangeError> {
    let heads = HeadOptions {
        max_bytes: MAX_HEAD_BYTES,
        title_case,
    };
    let (upload, progress) = (Upload::default(), Progress::default());
    let reply = reply(socket, Outgoing::new(request), &upload, &progress, heads).await?;
    Ok(reply.response.status())
}
