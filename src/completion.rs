//! Tells a stream that is complete from one that was cut off.
//!
//! The answer of a model ends with a word of its own, and the clients of such APIs take any proper
//! end for the whole: an upstream, or a proxy before it, that ends an answer half-way with a proper
//! end of the message makes a half answer look whole. This layer knows the last word of each
//! [`Family`] that has one, and breaks the stream that its upstream ends without. A stream of such a
//! family that breaks for whatever reason, an idle timeout or a shutdown outside included, says why
//! ahead of that, in the family's own shape, so that the official SDKs raise a proper exception.
//!
//! | family | kind of answer, by its first event | last word |
//! | --- | --- | --- |
//! | OpenAI | chat completion, text completion, run of an assistant | `data: [DONE]` |
//! | OpenAI | response | `event: response.completed`, `response.incomplete` or `response.failed` |
//! | Anthropic | message | `event: message_stop` |
//!
//! The family's own error event is a last word, too. Any other answer of these families may end as it
//! likes; one to a request other than GET in which nothing has come is none. Streams of other families
//! pass untouched.
//!
//! The family is that [of the request](Family::of), or where that is [`Raw`](Family::Raw) and nobody
//! has said so, of the first event with data.
//!
//! ```
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::{BodyExt, Full};
//! use sse_guard::completion::CompletionLayer;
//! use std::{convert::Infallible, pin::pin};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let service = ServiceBuilder::new()
//!     .layer(CompletionLayer::new())
//!     .service(service_fn(|_: Request<()>| async {
//!         let half = "data: {\"object\":\"chat.completion.chunk\"}\n\ndata: {\"obj";
//!         Ok::<_, Infallible>(
//!             Response::builder()
//!                 .header("content-type", "text/event-stream")
//!                 .body(Full::new(Bytes::from(half)))
//!                 .unwrap(),
//!         )
//!     }));
//!
//! let request = Request::post("/v1/chat/completions").body(())?;
//! let mut body = pin!(service.oneshot(request).await?.into_body());
//! let first = body.frame().await.ok_or("no event")??;
//! assert_eq!(first.data_ref().unwrap(), "data: {\"object\":\"chat.completion.chunk\"}\n\n");
//! let last = body.frame().await.ok_or("no last word")??;
//! assert!(last.data_ref().unwrap().starts_with(b"data: {\"error\":{"));
//! assert!(body.frame().await.ok_or("a proper end")?.is_err());
//! # Ok(())
//! # }
//! ```
//!
//! Streams that end too early are counted in `sse_guard_truncated_total`, by `family`, and end as
//! [`UpstreamError`](EndReason::UpstreamError). A layer of its own belongs outside of those that may
//! break a stream; in [`SseGuardLayer`](crate::SseGuardLayer) it hears of all of them.

use crate::asked::Asked;
use crate::family::Family;
use crate::guard::{At, Breach, Guard, Head, Policy, Rule};
use crate::rejection::Rejection;
use crate::stream::{EndReason, Stream};
use crate::wire::{RawEvent, Scanner};
use bytes::Bytes;
use http::{Request, StatusCode};
use memchr::memmem;
use tower_layer::Layer;

/// Breaks streams that end before they are complete, and says why a stream breaks. See the
/// [module docs](self).
#[derive(Clone, Debug)]
pub struct CompletionLayer {
    required: bool,
}

impl Default for CompletionLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl CompletionLayer {
    /// One that breaks what is not complete.
    pub fn new() -> Self {
        Self { required: true }
    }

    /// Whether a proper end without the family's last word breaks the stream. Else this layer just
    /// says why a stream breaks: for upstreams that leave the last word out.
    #[must_use]
    pub fn required(mut self, yes: bool) -> Self {
        self.required = yes;
        self
    }
}

/// The service that [`CompletionLayer`] makes.
pub type Completion<S> = Guard<S, CompletionLayer>;

impl<S> Layer<S> for CompletionLayer {
    type Service = Completion<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Guard::new(inner, self.clone())
    }
}

impl Rule for CompletionLayer {
    /// Whether somebody has said what family it is.
    type Ticket = bool;
    type Policy = CompletionPolicy;
    const READS: bool = true;
    const SPEAKS: bool = true;

    fn admit<B>(&self, request: &Request<B>, _: &Asked) -> Result<bool, Rejection> {
        Ok(request.extensions().get::<Family>().is_some())
    }

    fn open(&self, is_said: bool, head: &Head<'_>) -> Result<Option<CompletionPolicy>, Rejection> {
        let family = head.asked.family;
        let awaits = match family {
            Family::OpenAi | Family::Anthropic => Awaits::First {
                may_be_none: head.asked.is_get(),
            },
            // A POST that accepts both JSON and a stream may be anybody's.
            Family::Raw | Family::Mcp if !is_said => Awaits::Sign,
            _ => return Ok(None),
        };
        Ok(head.readable().map(|_| CompletionPolicy {
            required: self.required,
            family,
            awaits,
        }))
    }
}

/// What is to come before a stream is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaits {
    /// Anything that tells the family.
    Sign,
    /// The first event, which tells the kind of answer.
    First { may_be_none: bool },
    /// The last word.
    Last,
    /// Nothing is known of its end.
    Any,
    /// It is complete, or its client has been told that it never will be.
    Nothing,
}

/// Whether an answer that begins with this event has a last word.
fn has_last_word(family: Family, event: &RawEvent<'_>) -> bool {
    let name = event.name.unwrap_or_default();
    match family {
        Family::Anthropic => name == b"message_start",
        Family::OpenAi => {
            Family::of_first_event(event) == Some(family)
                || name.starts_with(b"thread.")
                // Azure's first event has choices, and no `object`.
                || memmem::find(event.data(), br#""choices""#).is_some()
        }
        _ => false,
    }
}

/// Whether nothing is to come behind it: a last word, or an error.
fn is_last_word(family: Family, event: &RawEvent<'_>) -> bool {
    let name = event.name.unwrap_or_default();
    match family {
        Family::Anthropic => name == b"message_stop" || name == b"error",
        Family::OpenAi => match name.strip_prefix(b"response.") {
            Some(state) => ENDS.contains(&state),
            None => name == b"error" || is_done_or_error(event.data()),
        },
        _ => false,
    }
}

const DONE: &[u8] = b"[DONE]";

/// The states of a response that has ended.
const ENDS: [&[u8]; 3] = [b"completed", b"incomplete", b"failed"];

/// As OpenAI's clients tell, whatever the event's name.
fn is_done_or_error(data: &[u8]) -> bool {
    let object = data.strip_prefix(b"{").map(<[u8]>::trim_ascii_start);
    data.starts_with(DONE) || object.is_some_and(|object| object.starts_with(br#""error""#))
}

/// What is known of one stream.
#[derive(Debug)]
pub struct CompletionPolicy {
    required: bool,
    family: Family,
    awaits: Awaits,
}

impl CompletionPolicy {
    fn after(&mut self, event: &RawEvent<'_>) -> Awaits {
        if self.awaits == Awaits::Sign {
            let Some(family) = Family::of_first_event(event) else {
                return Awaits::Any;
            };
            self.family = family;
        }
        if is_last_word(self.family, event) {
            return Awaits::Nothing;
        }
        match self.awaits {
            // A server's sign of life, perhaps ahead of everything else.
            Awaits::First { .. } if event.name == Some(b"ping") => self.awaits,
            Awaits::Sign | Awaits::First { .. } => match has_last_word(self.family, event) {
                true => Awaits::Last,
                false => Awaits::Any,
            },
            Awaits::Last | Awaits::Any | Awaits::Nothing => self.awaits,
        }
    }

    /// Whether what stands behind the last whole event is a last word that some servers send without
    /// its blank line. Any other is half an event.
    fn is_done(&self, tail: &[u8]) -> bool {
        let mut found = false;
        Scanner::default().scan(&[tail, b"\n\n"].concat(), |event| {
            found |= event.data().trim_ascii_end() == DONE;
        });
        found && self.family == Family::OpenAi
    }
}

impl Policy for CompletionPolicy {
    fn hears(&self) -> bool {
        self.awaits != Awaits::Nothing
    }

    fn heard(&mut self, event: &RawEvent<'_>) {
        if event.has_data {
            self.awaits = self.after(event);
        }
    }

    fn is_short(&self, stream: &Stream, tail: &[u8]) -> bool {
        // A layer inside that has ended it has also said how.
        let is_upstreams = matches!(stream.end_reason(), None | Some(EndReason::UpstreamEnd));
        let awaits_more = match self.awaits {
            Awaits::First { may_be_none } => !may_be_none,
            Awaits::Last => !self.is_done(tail),
            Awaits::Sign | Awaits::Any | Awaits::Nothing => false,
        };
        self.required && is_upstreams && awaits_more
    }

    fn parting(&mut self, at: &At<'_>, why: Breach) -> Option<Bytes> {
        if why == Breach::Short {
            let family = self.family.as_str();
            metrics::counter!("sse_guard_truncated_total", "family" => family).increment(1);
        }
        if !matches!(self.family, Family::OpenAi | Family::Anthropic)
            || self.awaits == Awaits::Nothing
        {
            return None;
        }
        self.awaits = Awaits::Nothing;
        let (status, message) = words(why);
        self.family.error_in(status, message, at.line_end)
    }
}

fn words(why: Breach) -> (StatusCode, &'static str) {
    match why {
        Breach::Short => (
            StatusCode::BAD_GATEWAY,
            "the upstream's stream ended before it was complete",
        ),
        Breach::Broken(EndReason::UpstreamIdle) => (
            StatusCode::GATEWAY_TIMEOUT,
            "the upstream went silent in the middle of its stream",
        ),
        Breach::Broken(EndReason::UpstreamError | EndReason::UpstreamEnd) => (
            StatusCode::BAD_GATEWAY,
            "the upstream failed in the middle of its stream",
        ),
        Breach::Broken(_) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "the stream was ended before it was complete",
        ),
    }
}

#[cfg(test)]
mod tests;
