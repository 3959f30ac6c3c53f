//! One request on one stream, to the head of its response.

use super::super::UpstreamBody;
use super::super::http1::{MAX_INTERIM_HEADS, end_to_end, is_forwarded};
use super::super::outgoing::{BoxedBody, Outgoing, nothing};
use super::body::Http2Body;
use super::connection::Slot;
use super::error::Http2Error;
use super::head;
use super::upload::{RunningUpload, UploadEnd, Uploader};
use h2::RecvStream;
use h2::client::ResponseFuture;
use http::uri::Scheme;
use http::{Request, Response, StatusCode, request};
use http_body::Body;
use http_body_util::Either;
use sse_guard::BoxError;
use sse_guard::internal::{ClientConnection, Upload};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Sleep, sleep};

/// How long a request is kept to be sent again. An upstream that refuses it does so at once, when it has come.
const KEPT_FOR: Duration = Duration::from_secs(1);

/// What a request is sent with.
#[derive(Clone, Copy)]
pub(super) struct SendOptions<'a> {
    pub(super) upload: &'a Upload,
    pub(super) scheme: &'a Scheme,
    pub(super) max_head: usize,
}

/// A request without a response.
pub(super) struct Failed {
    pub(super) error: Http2Error,
    /// The request, unless a part of it is lost with its stream.
    pub(super) request: Option<Outgoing>,
}

/// Sends a request on a stream of its own.
pub(super) async fn exchange(
    slot: Slot,
    request: Outgoing,
    options: SendOptions<'_>,
) -> Result<Response<UpstreamBody>, Failed> {
    let (parts, body) = request.into_inner().into_parts();
    let again = |parts, body| Some(Outgoing::new(Request::from_parts(parts, body)));
    let head = match head::request(&parts, options.scheme) {
        Ok(head) => head,
        Err(error) => {
            let error = Http2Error::Request(error);
            return Err(Failed {
                error,
                request: None,
            });
        }
    };
    let is_over = body.is_end_stream();
    let (response, send) = match slot.send(head, is_over) {
        Ok(sent) => sent,
        Err(error) => {
            let (error, request) = (Http2Error::Unsent(error), again(parts, body));
            return Err(Failed { error, request });
        }
    };
    let client: Option<ClientConnection> = parts.extensions.get().cloned();
    let upload = match is_over {
        true => UploadState::None,
        false => UploadState::Running(Box::new(Uploader::new(body, send))),
    };
    let mut waiting = Waiting {
        slot: &slot,
        is_over: false,
        again: Some(Box::new(Again {
            parts,
            timer: Box::pin(sleep(KEPT_FOR)),
        })),
        response,
        upload,
        interim_heads: 0,
        client,
    };
    let result = poll_fn(|cx| waiting.poll(cx)).await;
    let (kept, upload) = waiting.into_parts();
    let (mut response, recv) = match result {
        Ok(response) => response.into_parts(),
        Err(error) => {
            let request = kept.zip(upload.into_body());
            let request = request.and_then(|(kept, body)| again(kept.parts, body));
            return Err(Failed { error, request });
        }
    };
    if let Err(error) = head::check(&mut response.headers, options.max_head) {
        return Err(Failed {
            error,
            request: None,
        });
    }
    let running = match upload {
        UploadState::Running(uploader) => {
            Some(RunningUpload::start(*uploader, &slot, options.upload))
        }
        UploadState::None | UploadState::Over(_) | UploadState::Forgotten => None,
    };
    let body = Http2Body::new(recv, slot, running);
    let body = Either::Right(Either::Left(body));
    Ok(Response::from_parts(response, body))
}

/// A request's body.
enum UploadState {
    /// It has none.
    None,
    Running(Box<Uploader>),
    /// The stream takes no more. What was sent is kept for a while.
    Over(Box<Uploader>),
    Forgotten,
}

impl UploadState {
    /// The whole body once more.
    fn into_body(self) -> Option<BoxedBody> {
        match self {
            Self::None => Some(nothing()),
            Self::Running(uploader) | Self::Over(uploader) => uploader.into_body(),
            Self::Forgotten => None,
        }
    }

    /// Keeps no more than what is left to do.
    fn forget(&mut self) {
        match self {
            Self::None | Self::Forgotten => {}
            Self::Running(uploader) => uploader.sent.forget(),
            Self::Over(_) => *self = Self::Forgotten,
        }
    }

    /// An error is one of the client's.
    fn poll(&mut self, cx: &mut Context<'_>) -> Result<(), BoxError> {
        let Self::Running(uploader) = self else {
            return Ok(());
        };
        match uploader.poll(cx) {
            Poll::Pending => Ok(()),
            Poll::Ready(Err(UploadEnd::Client(error))) => Err(error),
            Poll::Ready(Ok(()) | Err(UploadEnd::Stream)) => {
                if let Self::Running(uploader) = std::mem::replace(self, Self::Forgotten) {
                    *self = Self::Over(uploader);
                }
                Ok(())
            }
        }
    }
}

/// A request that waits for the head of its response.
struct Waiting<'a> {
    slot: &'a Slot,
    /// The stream has ended, or its response has begun.
    is_over: bool,
    again: Option<Box<Again>>,
    response: ResponseFuture,
    upload: UploadState,
    interim_heads: u32,
    client: Option<ClientConnection>,
}

/// The head of a request, to send it again.
struct Again {
    parts: request::Parts,
    timer: Pin<Box<Sleep>>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            self.slot.note_early_reset();
        }
    }
}

impl Waiting<'_> {
    /// What is left when the wait is over.
    fn into_parts(mut self) -> (Option<Box<Again>>, UploadState) {
        let upload = std::mem::replace(&mut self.upload, UploadState::Forgotten);
        (self.again.take(), upload)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<RecvStream>, Http2Error>> {
        if let Some(again) = &mut self.again
            && again.timer.as_mut().poll(cx).is_ready()
        {
            self.again = None;
            self.upload.forget();
        }
        self.upload.poll(cx).map_err(Http2Error::Upload)?;
        let response = match ready!(self.poll_interim(cx)) {
            Ok(()) => ready!(Pin::new(&mut self.response).poll(cx)).map_err(Http2Error::of_stream),
            Err(error) => Err(error),
        };
        // A reset from now on is due to the upstream.
        self.is_over = true;
        Poll::Ready(response)
    }

    /// Ready when the next head is the final one.
    fn poll_interim(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Http2Error>> {
        while let Some(head) = ready!(self.response.poll_informational(cx)) {
            let head = head.map_err(Http2Error::of_stream)?;
            self.interim_heads += 1;
            if self.interim_heads > MAX_INTERIM_HEADS {
                return Poll::Ready(Err(Http2Error::Interim));
            }
            if head.status() == StatusCode::SWITCHING_PROTOCOLS {
                return Poll::Ready(Err(Http2Error::Switch));
            }
            if let Some(client) = self.client.as_ref().filter(|_| is_forwarded(head.status())) {
                client.send_interim(head.status(), &end_to_end(head.headers()));
            }
        }
        Poll::Ready(Ok(()))
    }
}
