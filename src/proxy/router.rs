//! Which upstream and which layers a request meets.

use super::admin::Journal;
use super::config::{self, Config, RoutePath, Settings, Style, TrustedHeader};
use super::upstream::{Health, Upstream};
use crate::client_key::{ForwardedHeader, ForwardedIp};
use crate::connection_limit::{ConnectionLimitLayer, Reject};
use crate::heartbeat::{HeartbeatLayer, HeartbeatStyle};
use crate::idle_timeout::{IdleAction, IdleTimeoutLayer};
use crate::inject::InjectLayer;
use crate::metrics::{LogLimit, MetricsLayer, Snapshot};
use crate::rotation::{DrainHandle, RotationLayer};
use crate::serve::RequestBody;
use crate::stream::Stream;
use crate::wire::WordsError;
use crate::{SseGuard, SseGuardLayer};
use bytes::Bytes;
use http::{HeaderName, Request, Response, StatusCode};
use http_body_util::{Either, Full};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Instant;
use tokio_util::task::TaskTracker;
use tower_layer::Layer;
use tower_service::Service;

type Limit = ConnectionLimitLayer<ForwardedIp>;
type Guarded = SseGuard<Upstream, ForwardedIp>;
type GuardedBody = <<Guarded as Service<Request<RequestBody>>>::Response as IntoBody>::Body;

/// Names the body of a response type.
pub(super) trait IntoBody {
    type Body;
}

impl<B> IntoBody for Response<B> {
    type Body = B;
}

/// What goes to the client.
pub(super) type ResponseBody = Either<GuardedBody, Full<Bytes>>;

/// All routes, in the order of the config.
pub(super) struct Router {
    routes: Vec<Route>,
    drain: DrainHandle,
    limits: Vec<Limit>,
    tunnels: TaskTracker,
    /// One for each upstream, however many routes lead to it.
    upstreams: Vec<Health>,
    user_header: Option<HeaderName>,
    stopping: OnceLock<Instant>,
}

struct Route {
    path: RoutePath,
    metrics: MetricsLayer,
    service: Guarded,
}

impl Router {
    /// # Errors
    ///
    /// If a text of the config can not stand in an event stream, which its own checks rule out.
    ///
    /// `journal` gets each stream that has ended.
    pub(super) fn new(config: &Config, journal: Option<&Arc<Journal>>) -> Result<Self, WordsError> {
        let drain = DrainHandle::new();
        let header = match config.trusted_header {
            TrustedHeader::XForwardedFor => ForwardedHeader::XForwardedFor,
            TrustedHeader::Forwarded => ForwardedHeader::Forwarded,
        };
        let clients = ForwardedIp::new(config.trusted_proxies.iter().copied()).header(header);
        // One table for all routes but those with limits of their own.
        let mut shared: Option<Limit> = None;
        let mut limits = Vec::new();
        let mut routes = Vec::new();
        let tunnels = TaskTracker::new();
        let mut upstreams: Vec<Health> = Vec::new();
        let log_limit = config.log.streams.map(log_limit);
        for route in &config.routes {
            let settings = &route.settings;
            let limit = match &shared {
                Some(limit) if !route.own_limits => limit.clone(),
                _ => {
                    let limit = limit(&settings.limit, clients.clone());
                    limits.push(limit.clone());
                    if !route.own_limits {
                        shared = Some(limit.clone());
                    }
                    limit
                }
            };
            let url = &settings.upstream.url;
            let mut metrics = MetricsLayer::new()
                .route(route.path.as_str())
                .upstream(&url.to_string())
                .log_limit(log_limit.clone());
            if let Some(journal) = journal.cloned() {
                metrics = metrics.on_end(move |stream| journal.note(stream));
            }
            let known = upstreams.iter().find(|upstream| upstream.url() == url);
            let health = known.cloned().unwrap_or_else(|| {
                upstreams.push(Health::of(url));
                upstreams[upstreams.len() - 1].clone()
            });
            let layer = SseGuardLayer::new()
                .metrics(metrics.clone())
                .limit(limit)
                .rotation(rotation(&settings.rotation)?.drain(&drain))
                .inject(InjectLayer::new().methods(settings.rotation.methods.iter().cloned()))
                .heartbeat(heartbeat(&settings.heartbeat)?)
                .idle_timeout(idle_timeout(settings)?);
            routes.push(Route {
                path: route.path.clone(),
                metrics,
                service: layer.layer(Upstream::new(
                    settings,
                    clients.clone(),
                    tunnels.clone(),
                    health,
                )),
            });
        }
        Ok(Self {
            routes,
            drain,
            limits,
            tunnels,
            upstreams,
            user_header: config.admin.user_header.clone(),
            stopping: OnceLock::new(),
        })
    }

    pub(super) fn drain(&self) -> &DrainHandle {
        &self.drain
    }

    /// Connections that have switched protocols.
    pub(super) fn tunnels(&self) -> &TaskTracker {
        &self.tunnels
    }

    /// From now on new streams are not welcome.
    pub(super) fn stop(&self) {
        self.stopping.get_or_init(Instant::now);
    }

    /// Since when they are not.
    pub(super) fn stopping_since(&self) -> Option<Instant> {
        self.stopping.get().copied()
    }

    pub(super) fn upstreams(&self) -> &[Health] {
        &self.upstreams
    }

    /// Tries those that are said to be away. To be called each second or so.
    pub(super) fn probe_upstreams(&self) {
        for upstream in &self.upstreams {
            upstream.probe();
        }
    }

    /// The paths of all routes and their numbers.
    pub(super) fn routes(&self) -> impl Iterator<Item = (&str, Snapshot)> {
        let routes = self.routes.iter();
        routes.map(|route| (route.path.as_str(), route.metrics.snapshot()))
    }

    /// The numbers of all routes.
    pub(super) fn snapshot(&self) -> Snapshot {
        let snapshots = self.routes.iter().map(|route| route.metrics.snapshot());
        snapshots.fold(Snapshot::default(), |sum, route| sum + route)
    }

    /// Streams that hold a slot.
    pub(super) fn slots(&self) -> u64 {
        self.limits.iter().map(Limit::active).sum()
    }

    async fn answer(&self, request: Request<RequestBody>) -> Response<ResponseBody> {
        let path = request.uri().path();
        let Some(route) = self.routes.iter().find(|route| route.path.matches(path)) else {
            let text = Full::from("sse-guard: no route for this path\n");
            let mut response = Response::new(Either::Right(text));
            *response.status_mut() = StatusCode::NOT_FOUND;
            return response;
        };
        let user = self.user_header.as_ref();
        let user = user.and_then(|name| request.headers().get(name)).cloned();
        let Ok(response) = route.service.clone().call(request).await;
        let user = user.as_ref().and_then(|user| user.to_str().ok());
        if let (Some(user), Some(stream)) = (user, response.extensions().get::<Stream>()) {
            stream.set_user(user);
        }
        response.map(Either::Left)
    }
}

/// The router as a service.
#[derive(Clone)]
pub(super) struct Handler(Arc<Router>);

impl Handler {
    pub(super) fn new(router: &Arc<Router>) -> Self {
        Self(router.clone())
    }
}

impl Service<Request<RequestBody>> for Handler {
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<RequestBody>) -> Self::Future {
        let router = self.0.clone();
        Box::pin(async move { Ok(router.answer(request).await) })
    }
}

fn limit(config: &config::Limit, clients: ForwardedIp) -> Limit {
    let layer = ConnectionLimitLayer::with_extractor(clients)
        .per_client(config.per_ip.map(u32::from))
        .total(config.total.map(u32::from))
        .max_clients(usize::try_from(config.max_clients.get()).unwrap_or(usize::MAX))
        .ipv6_prefix(config.ipv6_prefix)
        .allow(config.allow.iter().copied())
        .retry_after(config.retry_after)
        .reject(match config.reject {
            config::Reject::Status => Reject::Status,
            config::Reject::RetryLater => Reject::RetryLater,
        });
    match config.rate {
        Some(rate) => layer.rate(rate.count, rate.per, config.burst),
        None => layer,
    }
}

fn log_limit(rate: config::Rate) -> LogLimit {
    match rate.per.as_secs() {
        60 => LogLimit::per_minute(rate.count),
        3600 => LogLimit::per_hour(rate.count),
        _ => LogLimit::per_second(rate.count),
    }
}

fn rotation(config: &config::Rotation) -> Result<RotationLayer, WordsError> {
    let mut layer = RotationLayer::new()
        .retry(Some(config.retry))
        .methods(config.methods.iter().cloned());
    if let Some(age) = config.max_age {
        layer = layer.max_age(age, config.jitter);
    }
    match &config.event {
        Some((name, data)) => layer.event(name, data),
        None => Ok(layer),
    }
}

fn heartbeat(config: &config::Heartbeat) -> Result<Option<HeartbeatLayer>, WordsError> {
    let Some(interval) = config.interval else {
        return Ok(None);
    };
    let style = match &config.style {
        Style::Line { text } => HeartbeatStyle::line(text),
        Style::Block { text } => HeartbeatStyle::block(text),
        Style::Event { name, data } => HeartbeatStyle::event(name, data),
    }?;
    Ok(Some(
        HeartbeatLayer::new(interval)
            .style(style)
            .immediate(config.immediate),
    ))
}

fn idle_timeout(settings: &Settings) -> Result<Option<IdleTimeoutLayer>, WordsError> {
    let config = &settings.idle;
    if config.timeout.is_none() && config.event_timeout.is_none() {
        return Ok(None);
    }
    let mut layer = IdleTimeoutLayer::new()
        .pings(config.pings.iter().cloned())
        .retry(Some(settings.rotation.retry))
        .action(match config.action {
            config::IdleAction::Auto => IdleAction::Auto,
            config::IdleAction::Close => IdleAction::Close,
            config::IdleAction::Abort => IdleAction::Abort,
            config::IdleAction::ErrorEvent => {
                IdleAction::error_event(&config.error_event, &config.error_data)?
            }
        });
    if let Some(timeout) = config.timeout {
        layer = layer.timeout(timeout);
    }
    if let Some(timeout) = config.event_timeout {
        layer = layer.event_timeout(timeout);
    }
    Ok(Some(layer))
}
