//! Asking the upstream again, until it answers or there is no hope.

use super::Config;
use super::admission::{Admission, Turn};
use super::template::Template;
use crate::asked::{Asked, Kind};
use crate::guard::BoxError;
use crate::jitter::up_to;
use crate::lock::lock;
use crate::stream::{Stream, StreamState};
use http::header::RETRY_AFTER;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tower_service::Service;

pub(super) const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Tries in vain from which a stream counts as degraded.
const DEGRADED: u32 = 3;
/// A probe that takes longer does not keep others from trying.
const PATIENCE: Duration = Duration::from_secs(5);

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Puts the request of a stream again.
pub(super) trait Ask<B>: Send + Sync {
    fn ask(&self, last_id: Option<HeaderValue>) -> BoxFuture<Result<Response<B>, BoxError>>;
}

/// A service, and a request without a body to put to it.
pub(super) struct Asker<S> {
    /// Services need not be shared between threads; this is.
    service: Mutex<S>,
    template: Template,
}

impl<S> Asker<S> {
    pub(super) fn new(service: S, template: Template) -> Self {
        let service = Mutex::new(service);
        Self { service, template }
    }

    fn request<ReqB: Default>(&self, last_id: Option<HeaderValue>) -> Request<ReqB> {
        let mut request = self.template.request();
        match last_id {
            Some(id) => request.headers_mut().insert(LAST_EVENT_ID, id),
            None => request.headers_mut().remove(LAST_EVENT_ID),
        };
        request
    }
}

/// Names the type of the request's body.
pub(super) struct Of<S, ReqB>(
    pub(super) Asker<S>,
    pub(super) std::marker::PhantomData<fn() -> ReqB>,
);

impl<S, ReqB, B> Ask<B> for Of<S, ReqB>
where
    S: Service<Request<ReqB>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    ReqB: Default + Send + 'static,
{
    fn ask(&self, last_id: Option<HeaderValue>) -> BoxFuture<Result<Response<B>, BoxError>> {
        let mut service = lock(&self.0.service).clone();
        let request = self.0.request(last_id);
        Box::pin(async move {
            let ready = std::future::poll_fn(|cx| service.poll_ready(cx));
            ready.await.map_err(Into::into)?;
            service.call(request).await.map_err(Into::into)
        })
    }
}

/// What came of asking.
pub(super) enum Answer<B> {
    /// The stream goes on here; so often the upstream was asked.
    Open(B, u32),
    /// The upstream has nothing more to say.
    Over,
    /// The upstream does not want it to go on.
    Refused(StatusCode),
    /// There was no answer in all the tries, or all the time.
    GaveUp,
}

/// One stream's way to ask again.
pub(super) struct Again<B> {
    pub(super) asker: Arc<dyn Ask<B>>,
    pub(super) config: Arc<Config>,
    pub(super) admission: Admission,
    pub(super) stream: Stream,
    pub(super) asked: Asked,
}

impl<B> Clone for Again<B> {
    fn clone(&self) -> Self {
        Self {
            asker: self.asker.clone(),
            config: self.config.clone(),
            admission: self.admission.clone(),
            stream: self.stream.clone(),
            asked: self.asked.clone(),
        }
    }
}

/// An answer to come.
///
/// It is a task of its own: the body of a client that does not read is not polled, and what waits in it
/// would keep its place at the head of the queue, ahead of everybody else.
pub(super) struct Asking<B>(JoinHandle<Answer<B>>);

impl<B> Future for Asking<B> {
    type Output = Answer<B>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answer<B>> {
        match ready!(Pin::new(&mut self.0).poll(cx)) {
            Ok(answer) => Poll::Ready(answer),
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime is going.
                Err(_) => Poll::Ready(Answer::GaveUp),
            },
        }
    }
}

impl<B> Drop for Asking<B> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Config {
    /// Full jitter: any time up to what doubles with each try, but not before the upstream wants it.
    fn wait(&self, tries: u32, least: Duration) -> Duration {
        let doubled = self.initial.saturating_mul(1 << tries.min(16));
        let wait = up_to(doubled.min(self.longest));
        match wait < least {
            true => least.saturating_add(up_to(self.initial)),
            false => wait,
        }
    }
}

impl<B: Send + 'static> Again<B> {
    /// Asks until there is an answer that settles it, or `until`. `tries` were made since the stream
    /// was last stable, `least` is how long the upstream wants to be left alone.
    pub(super) fn ask(
        self,
        last_id: Option<HeaderValue>,
        tries: u32,
        least: Duration,
        until: Instant,
    ) -> Asking<B> {
        Asking(tokio::spawn(async move {
            let asked = self.ask_on(last_id, tries, least, until);
            timeout_at(until, asked).await.unwrap_or(Answer::GaveUp)
        }))
    }

    async fn ask_on(
        &self,
        last_id: Option<HeaderValue>,
        mut tries: u32,
        least: Duration,
        until: Instant,
    ) -> Answer<B> {
        let mut this_time = least;
        while self.config.attempts.is_none_or(|most| tries < most) {
            // One that still has its old upstream is not worse off.
            if tries >= DEGRADED && self.stream.state() == StreamState::Resuming {
                self.stream.set_state(StreamState::Degraded);
            }
            let wait = self.config.wait(tries, this_time);
            if wait >= until.saturating_duration_since(Instant::now()) {
                break;
            }
            sleep(wait).await;
            tries += 1;
            match self.try_once(last_id.clone()).await {
                Ok(Ok(body)) => return Answer::Open(body, tries),
                Ok(Err(answer)) => return answer,
                Err(wait) => this_time = wait.map_or(least, |wait| wait.max(least)),
            }
        }
        Answer::GaveUp
    }

    fn succeeded(&self, turn: Turn<'_>) {
        if turn.succeeded() {
            tracing::info!(
                upstream = self.stream.upstream(),
                "the upstream answers again: streams that wait for it go on one by one"
            );
        }
    }

    fn failed(&self, turn: Turn<'_>) {
        if turn.failed() {
            tracing::warn!(
                upstream = self.stream.upstream(),
                "streams that have lost their upstream ask it in vain: one of them tries each second, \
                 the others wait for it"
            );
        }
    }

    /// An answer that settles it, or when to try again.
    async fn try_once(
        &self,
        last_id: Option<HeaderValue>,
    ) -> Result<Result<B, Answer<B>>, Option<Duration>> {
        let mut turn = self.admission.turn().await;
        let mut answer = self.asker.ask(last_id);
        let answer = match timeout(PATIENCE, &mut answer).await {
            Ok(answer) => answer,
            Err(_) => {
                turn.let_others();
                answer.await
            }
        };
        let (head, body) = match answer {
            Ok(response) => response.into_parts(),
            Err(error) => {
                self.failed(turn);
                tracing::debug!(stream = %self.stream.id(), error, "the upstream does not answer");
                return Err(None);
            }
        };
        if Kind::of(&self.asked, &head) == Kind::Stream {
            self.succeeded(turn);
            return Ok(Ok(body));
        }
        if may_change(head.status) {
            self.failed(turn);
            tracing::debug!(stream = %self.stream.id(), status = %head.status, "not now");
            return Err(retry_after(&head.headers));
        }
        self.succeeded(turn);
        Ok(Err(match head.status {
            StatusCode::NO_CONTENT => Answer::Over,
            status => Answer::Refused(status),
        }))
    }
}

/// Whether another try may have another answer.
fn may_change(status: StatusCode) -> bool {
    status.is_server_error()
        || matches!(
            status,
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS
        )
}

/// In seconds; a date is left to the backoff.
fn retry_after(headers: &http::HeaderMap) -> Option<Duration> {
    let seconds = headers
        .get(RETRY_AFTER)?
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()?;
    Some(Duration::from_secs(seconds))
}
