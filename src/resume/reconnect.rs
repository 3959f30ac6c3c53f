//! Reconnects to the upstream, until it responds or the attempts are exhausted.

use super::ResumeConfig;
use super::admission::{Admission, AttemptFailure, LaneKey, Turn};
use super::saved_request::SavedRequest;
use crate::client_key::IPV6_PREFIX;
use crate::guard::BoxError;
use crate::jitter::{MAX_DURATION, up_to};
use crate::last_event_id::{self, LAST_EVENT_ID};
use crate::lock::lock;
use crate::request_info::{RequestInfo, ResponseKind};
use crate::retry_after::retry_after;
use crate::stream::{Stream, StreamState};
use http::{HeaderValue, Request, Response, StatusCode, response};
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tower_service::Service;

/// Failed attempts after which a stream counts as degraded.
const DEGRADED_AFTER: u32 = 3;
/// An attempt without a response for this long no longer counts as concurrent, so that an upstream which
/// hangs does not block the queue. Such attempts are bounded by one for each stream.
const SLOW_RESPONSE: Duration = Duration::from_secs(2);

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Sends the request of a stream again, with the id of the last delivered event.
pub(super) trait Reissue<B>: Send + Sync {
    fn reissue(&self, last_id: Option<HeaderValue>) -> BoxFuture<Result<Response<B>, BoxError>>;

    fn saved_request(&self) -> &SavedRequest;
}

/// The inner service, and the request that opened the stream. `ReqB` is the type of the request's body.
pub(super) struct ReissueService<S, ReqB> {
    /// A service need not be `Sync`; the trait object is shared between tasks.
    service: Mutex<S>,
    saved_request: SavedRequest,
    body: PhantomData<fn() -> ReqB>,
}

impl<S, ReqB: Default> ReissueService<S, ReqB> {
    pub(super) fn new(service: S, saved_request: SavedRequest) -> Self {
        Self {
            service: Mutex::new(service),
            saved_request,
            body: PhantomData,
        }
    }

    fn request(&self, last_id: Option<HeaderValue>) -> Request<ReqB> {
        let mut request = self.saved_request.to_request();
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

impl<S, ReqB, B> Reissue<B> for ReissueService<S, ReqB>
where
    S: Service<Request<ReqB>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    ReqB: Default + Send + 'static,
{
    fn reissue(&self, last_id: Option<HeaderValue>) -> BoxFuture<Result<Response<B>, BoxError>> {
        let mut service = lock(&self.service).clone();
        let request = self.request(last_id);
        Box::pin(async move {
            let ready = std::future::poll_fn(|cx| service.poll_ready(cx));
            ready.await.map_err(Into::into)?;
            service.call(request).await.map_err(Into::into)
        })
    }

    fn saved_request(&self) -> &SavedRequest {
        &self.saved_request
    }
}

/// The result of all attempts.
pub(super) enum ReconnectOutcome<B> {
    /// The stream continues in this body, after this many attempts.
    Connected(B, u32),
    /// The upstream has no more events.
    Over,
    /// The upstream rejected the request.
    Refused(StatusCode),
    /// The attempts, or the time for them, are exhausted.
    GaveUp,
}

/// Reconnects one stream.
pub(super) struct Reconnect<B> {
    pub(super) reissue: Arc<dyn Reissue<B>>,
    pub(super) config: Arc<ResumeConfig>,
    pub(super) admission: Admission,
    pub(super) stream: Stream,
    pub(super) request_info: RequestInfo,
}

impl<B> Clone for Reconnect<B> {
    fn clone(&self) -> Self {
        Self {
            reissue: self.reissue.clone(),
            config: self.config.clone(),
            admission: self.admission.clone(),
            stream: self.stream.clone(),
            request_info: self.request_info.clone(),
        }
    }
}

/// A reconnect in progress.
///
/// It runs in a task of its own: the body of a client that does not read is not polled, and a reconnect
/// inside of it would keep its place at the head of the queue and block all others.
pub(super) struct PendingReconnect<B>(JoinHandle<ReconnectOutcome<B>>);

impl<B> Future for PendingReconnect<B> {
    type Output = ReconnectOutcome<B>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<ReconnectOutcome<B>> {
        match ready!(Pin::new(&mut self.0).poll(cx)) {
            Ok(outcome) => Poll::Ready(outcome),
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime shuts down.
                Err(_) => Poll::Ready(ReconnectOutcome::GaveUp),
            },
        }
    }
}

impl<B> Drop for PendingReconnect<B> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl ResumeConfig {
    /// Exponential backoff with full jitter.
    fn backoff(&self, doublings: u32) -> Duration {
        let doubled = self.initial_backoff.saturating_mul(1 << doublings.min(16));
        up_to(doubled.min(self.max_backoff))
    }
}

/// When to attempt a reconnect, and how often.
#[derive(Clone, Copy)]
pub(super) struct ReconnectSchedule {
    /// Attempts since the stream was last stable.
    pub(super) attempts: u32,
    /// Connections in a row that were lost soon, without a new event.
    pub(super) flaps: u32,
    /// The `retry:` of the stream.
    pub(super) min_delay: Duration,
    pub(super) deadline: Instant,
    /// The upstream is not lost: its connection is to be replaced.
    pub(super) is_replacement: bool,
}

/// The delay before the next attempt.
struct AttemptDelay {
    /// No attempt before this time, by request of the upstream.
    min: Duration,
    /// The stream's own backoff. Its turn may come before that, as a probe.
    backoff: Duration,
}

impl AttemptDelay {
    /// A delay set by the upstream is spread: many streams get it at the same time.
    fn new(min: Duration, backoff: Duration, spread: Duration) -> Self {
        match backoff < min {
            true => Self {
                min: min.saturating_add(up_to(spread)),
                backoff: Duration::ZERO,
            },
            false => Self { min, backoff },
        }
    }
}

/// Why an attempt failed, and what the response requires of the next.
struct FailedAttempt {
    failure: AttemptFailure,
    /// The upstream limits the rate, with or without a `Retry-After`.
    is_throttled: bool,
    retry_after: Option<Duration>,
}

impl<B: Send + 'static> Reconnect<B> {
    /// Attempts to reconnect until there is a final response, or the schedule is exhausted.
    pub(super) fn start(
        self,
        last_id: Option<HeaderValue>,
        schedule: ReconnectSchedule,
    ) -> PendingReconnect<B> {
        PendingReconnect(tokio::spawn(async move {
            let outcome = self.run(last_id, schedule);
            timeout_at(schedule.deadline, outcome)
                .await
                .unwrap_or(ReconnectOutcome::GaveUp)
        }))
    }

    /// The client and target by which the queue distributes turns.
    fn key(&self) -> LaneKey {
        let saved_request = self.reissue.saved_request();
        let (target, user) = (saved_request.target(), self.stream.user());
        // The connection limit knows the client behind a load balancer.
        let of_limit = || Some(self.stream.client()?.clone().network(IPV6_PREFIX));
        match saved_request.client().or_else(of_limit) {
            Some(client) => LaneKey::new((client, user), target),
            None => LaneKey::new((saved_request.peer(), user), target),
        }
    }

    async fn run(
        &self,
        last_id: Option<HeaderValue>,
        schedule: ReconnectSchedule,
    ) -> ReconnectOutcome<B> {
        let lost = (!schedule.is_replacement).then(|| self.stream.upstream());
        let queued = self.admission.join(self.key(), lost);
        let config = &self.config;
        let (mut attempts, mut failures) = (schedule.attempts, 0);
        let backoff = match schedule.is_replacement {
            true => Duration::ZERO,
            // The queue spreads streams that were lost together.
            false if schedule.flaps == 0 => config.backoff(0) / 2,
            false => config.backoff(schedule.flaps),
        };
        let spread = config.initial_backoff;
        let mut delay = AttemptDelay::new(schedule.min_delay, backoff, spread);
        while config.attempts.is_none_or(|max| attempts < max) {
            if schedule.attempts + failures >= DEGRADED_AFTER && !schedule.is_replacement {
                self.stream.set_state(StreamState::Degraded);
            }
            let now = Instant::now();
            if delay.min >= schedule.deadline.saturating_duration_since(now) {
                break;
            }
            sleep(delay.min).await;
            let due = now + delay.backoff.max(delay.min).min(MAX_DURATION);
            // A probe would use up one of a limited number of attempts, and a replacement is not urgent.
            let may_probe = config.attempts.is_none() && !schedule.is_replacement;
            let turn = queued.turn(due, may_probe).await;
            attempts += u32::from(turn.was_due());
            let failed = match self.attempt(last_id.clone(), turn).await {
                Ok(Ok(body)) => {
                    queued.resumed();
                    return ReconnectOutcome::Connected(body, attempts);
                }
                Ok(Err(outcome)) => return outcome,
                Err(failed) => failed,
            };
            failures += 1;
            let backoff = config.backoff(schedule.flaps.saturating_add(failures));
            let min = match failed {
                // No request reached the upstream: its delays do not apply.
                FailedAttempt {
                    failure: AttemptFailure::Unreachable,
                    ..
                } => Duration::ZERO,
                FailedAttempt { is_throttled, .. } => {
                    let min = failed
                        .retry_after
                        .unwrap_or_default()
                        .max(schedule.min_delay);
                    min.max(if is_throttled { backoff } else { min })
                }
            };
            delay = AttemptDelay::new(min, backoff, spread);
        }
        ReconnectOutcome::GaveUp
    }

    /// One request: a final outcome, or why another attempt may succeed.
    async fn attempt(
        &self,
        last_id: Option<HeaderValue>,
        mut turn: Turn,
    ) -> Result<Result<B, ReconnectOutcome<B>>, FailedAttempt> {
        let mut response = self.reissue.reissue(last_id);
        let response = match timeout(SLOW_RESPONSE, &mut response).await {
            Ok(response) => response,
            Err(_) => {
                turn.release_slow();
                response.await
            }
        };
        let id = self.stream.id();
        let (head, body) = match response {
            Ok(response) => response.into_parts(),
            Err(error) => {
                turn.failed(AttemptFailure::Unreachable);
                tracing::debug!(stream = %id, error, "the upstream does not respond");
                return Err(FailedAttempt::unreachable());
            }
        };
        if ResponseKind::of(&self.request_info.method, &head) == ResponseKind::Stream {
            turn.succeeded();
            let granted = self.reissue.saved_request().granted();
            if granted.is_some_and(|granted| !granted.is_confirmed_by(&head)) {
                // The CORS layer let a page of another origin in, before the upstream's response was there.
                return Ok(Err(ReconnectOutcome::Refused(StatusCode::FORBIDDEN)));
            }
            return Ok(Ok(body));
        }
        if is_temporary(head.status) {
            let failed = FailedAttempt::by_response(&head);
            turn.failed(failed.failure);
            tracing::debug!(stream = %id, status = %head.status, "not now");
            return Err(failed);
        }
        turn.succeeded();
        Ok(Err(match head.status {
            StatusCode::NO_CONTENT => ReconnectOutcome::Over,
            status => ReconnectOutcome::Refused(status),
        }))
    }
}

impl FailedAttempt {
    fn unreachable() -> Self {
        Self {
            failure: AttemptFailure::Unreachable,
            is_throttled: false,
            retry_after: None,
        }
    }

    fn by_response(head: &response::Parts) -> Self {
        if head.extensions.get::<Unreachable>().is_some() {
            return Self::unreachable();
        }
        Self {
            failure: AttemptFailure::Response,
            is_throttled: head.status == StatusCode::TOO_MANY_REQUESTS,
            retry_after: retry_after(&head.headers),
        }
    }
}

/// In the extensions of a response: no request reached the upstream, and the response is the proxy's own.
#[derive(Clone, Copy, Debug)]
pub struct Unreachable;

/// Whether another attempt may get another status.
fn is_temporary(status: StatusCode) -> bool {
    status.is_server_error()
        || matches!(
            status,
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS
        )
}
