//! Distinguishes complete streams from truncated ones.
//!
//! The answer of a model ends with a terminal event, but the clients of such APIs take any proper end of
//! the message for the end of the answer: an upstream, or a proxy in front of it, that ends an answer half-way
//! with a proper end makes it look whole. This layer knows the terminal event of each [`Family`] that has one,
//! and breaks a stream that its upstream ends without it. A stream of such a family that breaks for any
//! reason, an idle timeout or a shutdown outside included, first gets an error event in the family's
//! own shape, so that the official SDKs raise a proper exception.
//!
//! | family | kind of answer, by its first event | terminal event |
//! | --- | --- | --- |
//! | OpenAI | chat completion, text completion | `data: [DONE]` |
//! | OpenAI | run of an assistant | `event: done` |
//! | OpenAI | response | `event: response.completed`, `response.incomplete`, `response.failed` or `response.cancelled` |
//! | Anthropic | message | `event: message_stop` |
//!
//! Where events have no names, the `type` in their data counts. An error is terminal, too: `event: error`,
//! or an `error` member anywhere in a chunk, that of a choice or an extension included. Not every server
//! sends the terminal event. An answer is whole, and may end properly without it, when each of its choices has
//! had a `finish_reason`, its message a `stop_reason`, or its run a state in which it ends.
//!
//! Any other answer of these families may end as it likes; one to a request other than GET in which nothing
//! has come is none. Signs of life (`ping`, `keepalive`) are nothing. Streams of other families pass
//! untouched.
//!
//! The family is that [of the request](Family::of). Where that is [`Raw`](Family::Raw) by default, the first
//! event with data decides.
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
//! let last = body.frame().await.ok_or("no error event")??;
//! assert!(last.data_ref().unwrap().starts_with(b"data: {\"error\":{"));
//! assert!(body.frame().await.ok_or("a proper end")?.is_err());
//! # Ok(())
//! # }
//! ```
//!
//! Streams that end too early are counted in `sse_guard_truncated_total`, by `family`, and end as
//! [`UpstreamError`](EndReason::UpstreamError); their line in the log names
//! [`required`](CompletionLayer::required). A layer of its own belongs outside of those that may
//! break a stream; in [`SseGuardLayer`](crate::SseGuardLayer) it detects each of them.

mod chunk;
mod prescan;

use crate::family::{AnswerFormat, Family};
use crate::guard::{
    BreakCause, Guard, Interests, Notice, Policy, PolicyContext, Reaction, ResponseInfo,
    StreamLayer,
};
use crate::rejection::Rejection;
use crate::request_info::RequestInfo;
use crate::stream::{EndReason, Stream};
use crate::wire::{RawEvent, Scanner};
use bytes::Bytes;
use chunk::{ChunkSummary, Reader};
use http::{Request, StatusCode};
use memchr::memmem;
use prescan::Prescan;
use tokio::time::Instant;
use tower_layer::Layer;

/// Breaks streams that end before they are complete, and sends the reason of a break as an error event.
/// See the [module docs](self).
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
    /// Creates a layer that breaks incomplete streams.
    pub fn new() -> Self {
        Self { required: true }
    }

    /// Sets whether a proper end without the family's final event breaks the stream. `false`: only the
    /// reasons of other breaks are sent, for upstreams that omit the final event.
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

impl StreamLayer for CompletionLayer {
    type Admitted = ();
    type Policy = CompletionPolicy;
    const OBSERVES: bool = true;
    const INJECTS: bool = true;

    fn admit<B>(&self, _: &Request<B>, _: &RequestInfo) -> Result<(), Rejection> {
        Ok(())
    }

    fn open(&self, (): (), head: &ResponseInfo<'_>) -> Result<Option<CompletionPolicy>, Rejection> {
        let expected = match head.request_info.family {
            family if family.is_model_api() => Expected::First {
                may_be_none: head.request_info.is_get(),
            },
            // A POST that accepts both JSON and a stream may be of any family.
            family if family.is_open() && !head.request_info.is_family_fixed => Expected::Sign,
            _ => return Ok(None),
        };
        Ok(head.readable().map(|_| CompletionPolicy {
            required: self.required,
            expected,
            seen: 0,
            finished: 0,
            parts: None,
        }))
    }
}

/// What is to come before a stream is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    /// Anything that shows the family.
    Sign,
    /// The first event, which shows the kind of answer.
    First { may_be_none: bool },
    /// The terminal event.
    Last,
    /// Nothing is known of its end.
    Any,
    /// It is complete, its client has got an error event, or it is not an answer of a model.
    Nothing,
}

/// Whether an answer that begins with this event has a terminal one.
fn has_terminal_event(family: Family, event: &RawEvent<'_>) -> bool {
    let has_choices = || memmem::find(event.raw, br#""choices""#).is_some();
    Family::of_first_event(event) == Some(family)
        || (family.answer_format() == Some(AnswerFormat::OpenAi) && has_choices())
}

const DONE: &[u8] = b"[DONE]";

/// The states of a response that has ended.
const ENDS: [&[u8]; 5] = [
    b"completed",
    b"incomplete",
    b"failed",
    b"cancelled",
    b"canceled",
];

/// The states of a run of an assistant that has ended. What is left is its terminal event.
const RUN_ENDS: [&[u8]; 6] = [
    b"completed",
    b"incomplete",
    b"failed",
    b"cancelled",
    b"expired",
    b"requires_action",
];

/// Whether nothing comes behind an event of this name, or of this `type` where events have no names.
fn is_last_name(name: &[u8]) -> bool {
    match name.strip_prefix(b"response.") {
        Some(state) => ENDS.contains(&state),
        None => matches!(name, b"error" | b"message_stop" | b"done"),
    }
}

/// What is known of one stream.
#[doc(hidden)]
#[derive(Debug)]
pub struct CompletionPolicy {
    required: bool,
    expected: Expected,
    /// Choices by index, a bit each, and those of them that have a reason to be finished. An answer
    /// without choices is one.
    seen: u32,
    finished: u32,
    /// Of an event that comes in parts.
    parts: Option<Box<Reader>>,
}

impl CompletionPolicy {
    fn after(&mut self, family: Family, event: &RawEvent<'_>) -> Expected {
        let parts = self.parts.take();
        let name = event.name.unwrap_or_default();
        if is_last_name(name) || event.data().starts_with(DONE) {
            return Expected::Nothing;
        }
        if let Some(run) = name.strip_prefix(b"thread.run.") {
            self.note(1, u32::from(RUN_ENDS.contains(&run)));
        }
        match (parts, prescan::at(event, family)) {
            (None, Prescan::Nothing) => {}
            (None, Prescan::FirstChoice) => self.note(1, 0),
            (parts, _) => {
                let mut reader = parts.unwrap_or_default();
                reader.take(event.raw);
                if self.is_ended_by(reader.summary(), name) {
                    return Expected::Nothing;
                }
            }
        }
        match self.expected {
            Expected::Sign | Expected::First { .. } => match has_terminal_event(family, event) {
                true => Expected::Last,
                false => Expected::Any,
            },
            expected => expected,
        }
    }

    /// Whether it was the terminal event.
    fn is_ended_by(&mut self, summary: ChunkSummary, name: &[u8]) -> bool {
        self.note(summary.seen, summary.finished);
        if summary.stopped {
            self.note(1, 1);
        }
        if summary.beyond {
            // Never finished: its terminal event is required.
            self.note(u32::MAX, 0);
        }
        // What a tool of a response has failed at is in the response.
        let is_response = summary.is_response || name.starts_with(b"response.");
        summary.is_last || (summary.error && !is_response)
    }

    fn note(&mut self, seen: u32, finished: u32) {
        self.seen |= seen;
        self.finished |= finished;
    }

    /// Whether all has come but the terminal event, which some servers leave out.
    fn is_whole(&self) -> bool {
        self.finished != 0 && self.seen & !self.finished == 0
    }

    /// Whether what stands behind the last whole event is a terminal event that some servers send without
    /// its blank line. Any other is half an event.
    fn is_done(&self, tail: &[u8]) -> bool {
        let mut found = false;
        Scanner::default().scan(&[tail, b"\n\n"].concat(), |event| {
            found |= event.data().trim_ascii_end() == DONE;
        });
        found
    }
}

impl CompletionPolicy {
    fn on_event(&mut self, stream: &Stream, event: &RawEvent<'_>) {
        if !event.has_data || self.expected == Expected::Nothing {
            self.parts = None;
            return;
        }
        let is_first = matches!(self.expected, Expected::Sign | Expected::First { .. });
        // A server's sign of life, perhaps ahead of everything else.
        if is_first && stream.is_ping(event) {
            return;
        }
        let family = stream.family();
        self.expected = match family.is_model_api() {
            true => self.after(family, event),
            false => Expected::Nothing,
        };
    }

    fn on_event_part(&mut self, stream: &Stream, part: &[u8], is_first: bool) {
        let family = stream.family();
        if self.expected == Expected::Nothing || !family.is_model_api() {
            return;
        }
        if is_first {
            self.parts = None;
            // The end of such a long event does not show its kind.
            if matches!(self.expected, Expected::Sign | Expected::First { .. }) {
                self.expected = match has_terminal_event(family, &RawEvent::begun(part)) {
                    true => Expected::Last,
                    false => Expected::Any,
                };
            }
        }
        self.parts.get_or_insert_default().take(part);
    }

    fn is_truncated(&self, stream: &Stream, tail: &[u8]) -> bool {
        // A layer inside that has ended it has also sent the reason.
        let is_upstreams = matches!(stream.end_reason(), None | Some(EndReason::UpstreamEnd));
        let expects_more = match self.expected {
            Expected::First { may_be_none } => !may_be_none,
            Expected::Last => {
                let format = stream.family().answer_format();
                let is_done = format == Some(AnswerFormat::OpenAi) && self.is_done(tail);
                !self.is_whole() && !is_done
            }
            Expected::Sign | Expected::Any | Expected::Nothing => false,
        };
        self.required && is_upstreams && expects_more
    }

    fn error_event(&mut self, context: &PolicyContext<'_>, cause: BreakCause) -> Option<Bytes> {
        let family = context.stream.family();
        if cause == BreakCause::Truncated {
            let family = family.as_str();
            metrics::counter!("sse_guard_truncated_total", "family" => family).increment(1);
        }
        if !family.is_model_api() || self.expected == Expected::Nothing {
            return None;
        }
        self.expected = Expected::Nothing;
        let (status, message) = explain(cause);
        family.error_in(status, message, context.line_end())
    }
}

impl Policy for CompletionPolicy {
    #[inline]
    fn interests(&self) -> Interests {
        Interests {
            wake: false,
            events: self.expected != Expected::Nothing,
        }
    }

    fn deadline(&self, _: &PolicyContext<'_>) -> Option<Instant> {
        None
    }

    fn check(&mut self, _: &PolicyContext<'_>) -> Reaction {
        Reaction::Pass
    }

    #[inline]
    fn on(&mut self, context: &PolicyContext<'_>, notice: Notice<'_>) -> Reaction {
        match notice {
            Notice::Event(event) => self.on_event(context.stream, event),
            Notice::EventPart { bytes, is_first } => {
                self.on_event_part(context.stream, bytes, is_first);
            }
            Notice::UpstreamEnd { tail } if self.is_truncated(context.stream, tail) => {
                return Reaction::Truncated;
            }
            Notice::BeforeBreak(cause) => {
                let event = self.error_event(context, cause);
                return event.map_or(Reaction::Pass, Reaction::Inject);
            }
            _ => {}
        }
        Reaction::Pass
    }
}

fn explain(cause: BreakCause) -> (StatusCode, &'static str) {
    match cause {
        BreakCause::Truncated => (
            StatusCode::BAD_GATEWAY,
            "the upstream's stream ended before it was complete",
        ),
        BreakCause::Ended(EndReason::UpstreamIdle) => (
            StatusCode::GATEWAY_TIMEOUT,
            "the upstream went silent in the middle of its stream",
        ),
        BreakCause::Ended(EndReason::UpstreamError | EndReason::UpstreamEnd) => (
            StatusCode::BAD_GATEWAY,
            "the upstream failed in the middle of its stream",
        ),
        BreakCause::Ended(_) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "the stream was ended before it was complete",
        ),
    }
}

pub(crate) fn describe_metrics() {
    for family in Family::ALL.iter().filter(|family| family.is_model_api()) {
        metrics::counter!("sse_guard_truncated_total", "family" => family.as_str()).increment(0);
    }
    metrics::describe_counter!(
        "sse_guard_truncated_total",
        metrics::Unit::Count,
        "Streams that their upstream ended before they were complete, by family"
    );
}

#[cfg(test)]
mod tests;
