//! A request, sent again on another connection where that does no harm.

use super::super::UpstreamBody;
use super::super::error::Failure;
use super::super::member::Member;
use super::super::outgoing::Outgoing;
use super::connections::{Acquired, Connections};
use super::error::Http2Error;
use super::exchange::{Failed, SendOptions, exchange};
use http::Response;
use sse_guard::internal::Upload;
use std::pin::Pin;

/// How often a request is sent again.
const MAX_REPEATS: u32 = 2;

/// What becomes of a request.
pub(in crate::upstream) enum Sending {
    Response(Box<Response<UpstreamBody>>),
    /// It is to be sent by HTTP/1.1.
    Http1(Outgoing),
}

/// Sends a request to an endpoint with HTTP/2. A box, as futures are as large as all that they await.
pub(in crate::upstream) fn send<'a>(
    member: &'a Member,
    request: Outgoing,
    upload: &'a Upload,
    max_head: usize,
) -> Pin<Box<dyn Future<Output = Result<Sending, Failure>> + Send + 'a>> {
    let options = SendOptions {
        upload,
        scheme: member.scheme(),
        max_head,
    };
    Box::pin(async move {
        match member.endpoint().http2() {
            Some(connections) => send_on(connections, member, request, options).await,
            None => Ok(Sending::Http1(request)),
        }
    })
}

async fn send_on(
    connections: &Connections,
    member: &Member,
    mut request: Outgoing,
    options: SendOptions<'_>,
) -> Result<Sending, Failure> {
    let mut repeats = 0;
    let mut unsuitable = None;
    loop {
        let acquired = connections
            .acquire(member.acquire(), unsuitable.as_ref())
            .await?;
        let Acquired::Slot(slot) = acquired else {
            return Ok(Sending::Http1(request));
        };
        let connection = slot.connection().clone();
        // As of a connection of HTTP/1.1: RFC 9110 section 9.2.2, and only if it was used before.
        let survives_death = repeats == 0 && request.method().is_idempotent() && !slot.is_first();
        let Failed {
            error,
            request: again,
        } = match exchange(slot, request, options).await {
            Ok(response) => return Ok(Sending::Response(Box::new(response))),
            Err(failed) => failed,
        };
        let Some(again) = again else {
            return Err(error.into());
        };
        let is_safe = match &error {
            Http2Error::Http1Required(_) => {
                tracing::debug!("the upstream requires HTTP/1.1 for a request");
                return Ok(Sending::Http1(again));
            }
            Http2Error::Unsent(_) | Http2Error::Refused(_) => repeats < MAX_REPEATS,
            Http2Error::Dead(_) => survives_death,
            _ => false,
        };
        if !is_safe {
            return Err(error.into());
        }
        tracing::debug!(%error, "a request is sent again on another connection");
        repeats += 1;
        unsuitable = Some(connection);
        request = again;
    }
}
