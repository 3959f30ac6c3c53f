//! Reconnects to the upstream, until it responds or the attempts are exhausted.

use super::Config;
use super::admission::{Admission, Failure, Key, Turn};
use super::template::Template;
use crate::client_key::IPV6_PREFIX;
use crate::guard::BoxError;
use crate::jitter::{LONGEST, up_to};
use crate::last_event_id::{self, LAST_EVENT_ID};
use crate::lock::lock;
use crate::request_info::{RequestInfo, ResponseKind};
use crate::retry_after::retry_after;
use crate::stream::{Stream, StreamState};
use http::{HeaderValue, Request, Response, StatusCode, response};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tower_service::Service;

/// Tries in vain from which a stream counts as degraded.
const DEGRADED: u32 = 3;
/// An answer that takes longer does not count as concurrent any more: the stream goes on to wait for it, and
/// others have their turn. What bounds those is that a stream has one at a time.
const PATIENCE: Duration = Duration::from_secs(2);

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Puts the request of a stream again.
pub(super) trait Ask<B>: Send + Sync {
    fn ask(&self, last_id: Option<HeaderValue>) -> BoxFuture<Result<Response<B>, BoxError>>;

    fn template(&self) -> &Template;
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
        let id = last_id.as_ref().map_or(&b""[..], |id| id.as_bytes());
        if let Some(uri) = last_event_id::with_id(request.uri(), id) {
            *request.uri_mut() = uri;
        }
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

    fn template(&self) -> &Template {
        &self.0.template
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
    pub(super) request_info: RequestInfo,
}

impl<B> Clone for Again<B> {
    fn clone(&self) -> Self {
        Self {
            asker: self.asker.clone(),
            config: self.config.clone(),
            admission: self.admission.clone(),
            stream: self.stream.clone(),
            request_info: self.request_info.clone(),
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
    /// Full jitter: any time up to what doubles with each connection in a row that came to nothing.
    fn wait(&self, doublings: u32) -> Duration {
        let doubled = self.initial.saturating_mul(1 << doublings.min(16));
        up_to(doubled.min(self.longest))
    }
}

/// When and how often to ask.
#[derive(Clone, Copy)]
pub(super) struct Schedule {
    /// Tries since the stream was last stable.
    pub(super) tries: u32,
    /// Connections in a row that were lost again before they were good for anything.
    pub(super) flaps: u32,
    /// How long the upstream wants to be left alone.
    pub(super) least: Duration,
    pub(super) until: Instant,
    /// The upstream is not lost: its connection is to be replaced.
    pub(super) is_replacement: bool,
}

/// When the next try may be.
struct Pause {
    /// Not before then, as the upstream has said so.
    least: Duration,
    /// When it is the stream's own time. Its turn may come before that to probe.
    own: Duration,
}

impl Pause {
    /// What the upstream wants is spread, so that those it has told together do not come together.
    fn new(least: Duration, own: Duration, spread: Duration) -> Self {
        match own < least {
            true => Self {
                least: least.saturating_add(up_to(spread)),
                own: Duration::ZERO,
            },
            false => Self { least, own },
        }
    }
}

/// Why a try failed, and what the upstream has said of the next.
struct Failed {
    failure: Failure,
    /// It wants to be left alone, whether it has said for how long or not.
    wants_peace: bool,
    retry_after: Option<Duration>,
}

impl<B: Send + 'static> Again<B> {
    /// Asks until there is an answer that settles it, or it is to be given up.
    pub(super) fn ask(self, last_id: Option<HeaderValue>, schedule: Schedule) -> Asking<B> {
        Asking(tokio::spawn(async move {
            let answer = self.ask_on(last_id, schedule);
            timeout_at(schedule.until, answer)
                .await
                .unwrap_or(Answer::GaveUp)
        }))
    }

    /// What its attempts are accounted by.
    fn key(&self) -> Key {
        let (target, user) = (self.asker.template().target(), self.stream.user());
        // The limits know the client behind a load balancer.
        let of_limits = || Some(self.stream.client()?.clone().network(IPV6_PREFIX));
        match self.asker.template().client().or_else(of_limits) {
            Some(client) => Key::new((client, user), target),
            None => Key::new((self.asker.template().peer(), user), target),
        }
    }

    async fn ask_on(&self, last_id: Option<HeaderValue>, schedule: Schedule) -> Answer<B> {
        let lost = (!schedule.is_replacement).then(|| self.stream.upstream());
        let member = self.admission.join(self.key(), lost);
        let config = &self.config;
        let (mut tries, mut failures) = (schedule.tries, 0);
        let own = match schedule.is_replacement {
            true => Duration::ZERO,
            // The queue keeps those apart that were lost together.
            false if schedule.flaps == 0 => config.wait(0) / 2,
            false => config.wait(schedule.flaps),
        };
        let mut pause = Pause::new(schedule.least, own, config.initial);
        while config.attempts.is_none_or(|most| tries < most) {
            if schedule.tries + failures >= DEGRADED && !schedule.is_replacement {
                self.stream.set_state(StreamState::Degraded);
            }
            let now = Instant::now();
            if pause.least >= schedule.until.saturating_duration_since(now) {
                break;
            }
            sleep(pause.least).await;
            let due = now + pause.own.max(pause.least).min(LONGEST);
            // Where tries are counted, each has its time; and to replace what is there is not urgent.
            let may_probe = config.attempts.is_none() && !schedule.is_replacement;
            let turn = member.turn(due, may_probe).await;
            tries += u32::from(turn.was_due());
            let failed = match self.try_once(last_id.clone(), turn).await {
                Ok(Ok(body)) => {
                    member.resumed();
                    return Answer::Open(body, tries);
                }
                Ok(Err(answer)) => return answer,
                Err(failed) => failed,
            };
            failures += 1;
            let own = config.wait(schedule.flaps.saturating_add(failures));
            let least = match failed {
                // It got no request: there is nothing that it could want to be spared.
                Failed {
                    failure: Failure::Unreachable,
                    ..
                } => Duration::ZERO,
                Failed { wants_peace, .. } => {
                    let least = failed.retry_after.unwrap_or_default().max(schedule.least);
                    least.max(if wants_peace { own } else { least })
                }
            };
            pause = Pause::new(least, own, config.initial);
        }
        Answer::GaveUp
    }

    /// An answer that settles it, or how it failed.
    async fn try_once(
        &self,
        last_id: Option<HeaderValue>,
        mut turn: Turn,
    ) -> Result<Result<B, Answer<B>>, Failed> {
        let mut answer = self.asker.ask(last_id);
        let answer = match timeout(PATIENCE, &mut answer).await {
            Ok(answer) => answer,
            Err(_) => {
                turn.hangs();
                answer.await
            }
        };
        let id = self.stream.id();
        let (head, body) = match answer {
            Ok(response) => response.into_parts(),
            Err(error) => {
                turn.failed(Failure::Unreachable);
                tracing::debug!(stream = %id, error, "the upstream does not respond");
                return Err(Failed::unreachable());
            }
        };
        if ResponseKind::of(&self.request_info, &head) == ResponseKind::Stream {
            turn.succeeded();
            let granted = self.asker.template().granted();
            if granted.is_some_and(|granted| !granted.holds(&head)) {
                // A page of another origin, let in before the upstream could tell.
                return Ok(Err(Answer::Refused(StatusCode::FORBIDDEN)));
            }
            return Ok(Ok(body));
        }
        if may_change(head.status) {
            let failed = Failed::answered(&head);
            turn.failed(failed.failure);
            tracing::debug!(stream = %id, status = %head.status, "not now");
            return Err(failed);
        }
        turn.succeeded();
        Ok(Err(match head.status {
            StatusCode::NO_CONTENT => Answer::Over,
            status => Answer::Refused(status),
        }))
    }
}

impl Failed {
    fn unreachable() -> Self {
        Self {
            failure: Failure::Unreachable,
            wants_peace: false,
            retry_after: None,
        }
    }

    fn answered(head: &response::Parts) -> Self {
        if head.extensions.get::<Unreachable>().is_some() {
            return Self::unreachable();
        }
        Self {
            failure: Failure::Answered,
            wants_peace: head.status == StatusCode::TOO_MANY_REQUESTS,
            retry_after: retry_after(&head.headers),
        }
    }
}

/// In the extensions of a response: no request reached the upstream, and the response is a proxy's own.
#[derive(Clone, Copy, Debug)]
pub struct Unreachable;

/// Whether another try may have another answer.
fn may_change(status: StatusCode) -> bool {
    status.is_server_error()
        || matches!(
            status,
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS
        )
}
