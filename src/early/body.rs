//! The body behind an early answer: silence, then the upstream's stream or the news of its failure.

use super::WaitingRequest;
use crate::answer::OwnResponse;
use crate::family::Family;
use crate::guard::{BoxError, StreamError};
use crate::head;
use crate::request_info::ResponseKind;
use crate::stream::{Stream, StreamState};
use bytes::Bytes;
use http::{Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Sleep, sleep};

/// The most bytes of the body of a late refusal that the error event carries.
const MAX_ERROR_BODY: usize = 4 * 1024;
/// The longest wait for them: a client that waits for an error waits for nothing.
const ERROR_BODY_TIMEOUT: Duration = Duration::from_secs(5);

pin_project! {
    /// The body of a response that has passed an [`EarlyLayer`](super::EarlyLayer).
    ///
    /// Behind an early answer it hands out nothing until the upstream has responded, then what the
    /// upstream sends. Any other it hands out as it is: frames, trailers, size hint and end.
    pub struct EarlyBody<F, B> {
        #[pin]
        state: EarlyBodyState<F, B>,
    }
}

pin_project! {
    #[project = EarlyBodyStateProj]
    enum EarlyBodyState<F, B> {
        /// The upstream's, which came in time or was spliced in.
        Inner {
            #[pin]
            body: B,
        },
        Waiting { request: Pin<Box<WaitingRequest<F>>> },
        /// The upstream has responded with something else.
        Refused { refusal: Pin<Box<LateErrorResponse<B>>> },
        /// The end, and what is to be sent about it.
        Last { last: Option<Result<Bytes, StreamError>> },
    }
}

pin_project! {
    /// A late answer that is not an event stream, while its body is read.
    struct LateErrorResponse<B> {
        #[pin]
        body: B,
        #[pin]
        timer: Sleep,
        text: Vec<u8>,
        what: String,
        status: StatusCode,
        client: FailureReport,
    }
}

/// The recipients of a failure.
#[derive(Clone)]
struct FailureReport {
    family: Family,
    stream: Stream,
}

impl<F, B> EarlyBody<F, B> {
    /// Returns the body of the service; `None` while it has not responded, and once it has failed.
    pub fn get_ref(&self) -> Option<&B> {
        match &self.state {
            EarlyBodyState::Inner { body } => Some(body),
            EarlyBodyState::Waiting { .. }
            | EarlyBodyState::Refused { .. }
            | EarlyBodyState::Last { .. } => None,
        }
    }

    /// The body of an answer that came in time.
    pub(super) fn passing(body: B) -> Self {
        Self {
            state: EarlyBodyState::Inner { body },
        }
    }

    /// The body of an early answer.
    pub(super) fn waiting(request: Pin<Box<WaitingRequest<F>>>) -> Self {
        Self {
            state: EarlyBodyState::Waiting { request },
        }
    }
}

/// An empty body, for layers that answer in place of the service.
impl<F, B> Default for EarlyBody<F, B> {
    fn default() -> Self {
        Self {
            state: EarlyBodyState::Last { last: None },
        }
    }
}

impl FailureReport {
    /// By an event if its family has one for it, else by a broken transfer.
    fn failure_state<F, B>(
        &self,
        status: StatusCode,
        message: &str,
        error: StreamError,
    ) -> EarlyBodyState<F, B> {
        // Else the proper end behind the event would be the upstream's.
        self.stream.end_by_fault(error.fault());
        let event = self.family.error_event(status, message);
        EarlyBodyState::Last {
            last: Some(event.ok_or(error)),
        }
    }
}

impl<F> WaitingRequest<F> {
    /// What follows from the upstream's answer.
    fn response_state<B, E: Into<BoxError>>(
        &self,
        result: Result<Response<B>, E>,
    ) -> EarlyBodyState<F, B> {
        self.stream.set_state(StreamState::Open);
        let client = FailureReport {
            family: self.family,
            stream: self.stream.clone(),
        };
        let response = match result {
            Ok(response) => response,
            Err(error) => {
                let error = error.into();
                self.log.write(
                    || tracing::warn!(error, "no upstream response followed an early answer"),
                    |not_logged| {
                        tracing::warn!(
                            not_logged,
                            "more early answers had no upstream response than were logged"
                        );
                    },
                );
                let status = StatusCode::BAD_GATEWAY;
                // The text of an error is not written for clients.
                let message = describe(status);
                return client.failure_state(status, &message, StreamError::Upstream(error));
            }
        };
        let (parts, body) = response.into_parts();
        let mut what = describe(parts.status);
        let early_permission = self.early_permission.as_ref();
        let is_denied = early_permission
            .is_some_and(|early_permission| !early_permission.is_confirmed_by(&parts));
        // An answer of this crate has nothing of the service in it.
        let is_own = parts.extensions.get::<OwnResponse>().is_some();
        if is_denied && !is_own && parts.status != StatusCode::NO_CONTENT {
            // The page may not know any of it, and its browser let it read the early head.
            what.push_str(", whose head does not allow this origin to read it");
            return client.failure_state(parts.status, &what, StreamError::Refused(parts.status));
        }
        match ResponseKind::of(&self.request_info.method, &parts) {
            ResponseKind::Stream => return EarlyBodyState::Inner { body },
            ResponseKind::Encoded => what.push_str(", but a compressed event stream"),
            ResponseKind::Partial => what.push_str(", but a part of an event stream"),
            ResponseKind::Other if parts.status == StatusCode::NO_CONTENT => {
                return EarlyBodyState::Last { last: None };
            }
            ResponseKind::Other if parts.status.is_success() => {
                what.push_str(", but no event stream");
            }
            ResponseKind::Other => {}
        }
        if !head::is_text(&parts.headers) {
            return client.failure_state(parts.status, &what, StreamError::Refused(parts.status));
        }
        let refusal = LateErrorResponse {
            body,
            timer: sleep(ERROR_BODY_TIMEOUT),
            text: Vec::new(),
            what,
            status: parts.status,
            client,
        };
        EarlyBodyState::Refused {
            refusal: Box::pin(refusal),
        }
    }
}

/// A status with its name, if it has one.
fn describe(status: StatusCode) -> String {
    match status.canonical_reason() {
        Some(name) => format!("{} {name}", status.as_u16()),
        None => status.as_u16().to_string(),
    }
}

impl<B: Body<Data = Bytes>> LateErrorResponse<B> {
    /// Reads what the error event is to carry. Whatever ends it, what has come by then is sent.
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        while this.text.len() < MAX_ERROR_BODY {
            match this.body.as_mut().poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        let room = MAX_ERROR_BODY - this.text.len();
                        this.text.extend_from_slice(&data[..data.len().min(room)]);
                    }
                }
                Poll::Ready(None | Some(Err(_))) => break,
                Poll::Pending => return this.timer.poll(cx),
            }
        }
        Poll::Ready(())
    }

    fn failure_state<F>(&self) -> EarlyBodyState<F, B> {
        let text = String::from_utf8_lossy(whole_characters(&self.text));
        let message = match text.trim() {
            "" => self.what.clone(),
            text => format!("{}: {text}", self.what),
        };
        let error = StreamError::Refused(self.status);
        self.client.failure_state(self.status, &message, error)
    }
}

/// Without a character that the bound has cut.
fn whole_characters(text: &[u8]) -> &[u8] {
    match std::str::from_utf8(text) {
        Err(error) if error.error_len().is_none() => &text[..error.valid_up_to()],
        _ => text,
    }
}

impl<F, B, E> Body for EarlyBody<F, B>
where
    F: Future<Output = Result<Response<B>, E>>,
    E: Into<BoxError>,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = StreamError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        let mut state = self.project().state;
        loop {
            let next = match state.as_mut().project() {
                EarlyBodyStateProj::Inner { body } => {
                    let frame = ready!(body.poll_frame(cx));
                    return Poll::Ready(frame.map(|frame| frame.map_err(StreamError::from_inner)));
                }
                EarlyBodyStateProj::Waiting { request } => {
                    let result = ready!(request.as_mut().project().future.poll(cx));
                    request.response_state(result)
                }
                EarlyBodyStateProj::Refused { refusal } => {
                    ready!(refusal.as_mut().poll_read(cx));
                    refusal.failure_state()
                }
                EarlyBodyStateProj::Last { last } => {
                    return Poll::Ready(last.take().map(|last| last.map(Frame::data)));
                }
            };
            state.set(next);
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.state {
            EarlyBodyState::Inner { body } => body.is_end_stream(),
            EarlyBodyState::Waiting { .. } | EarlyBodyState::Refused { .. } => false,
            EarlyBodyState::Last { last } => last.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.state {
            EarlyBodyState::Inner { body } => body.size_hint(),
            EarlyBodyState::Waiting { .. } | EarlyBodyState::Refused { .. } => SizeHint::default(),
            EarlyBodyState::Last {
                last: Some(Ok(words)),
            } => SizeHint::with_exact(words.len() as u64),
            EarlyBodyState::Last { .. } => SizeHint::with_exact(0),
        }
    }
}
