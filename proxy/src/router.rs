//! Routes requests to their layers and upstream.

use super::carryover::{Carryover, Limit};
use super::config::{self, Config, RoutePath, Settings, TrustedHeader};
use super::headers;
use super::request_log::{Followed, Record, RequestLog, RouteMetrics};
use super::request_target::{self, Refused};
use super::state::ProxyState;
use super::stream_flag::{self, StreamFlag};
use super::upstream::{Check, Health, Upstream};
use crate::request_context::{RequestContext, RequestId};
use bytes::Bytes;
use http::header::CONNECTION;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::{Either, Full};
use sse_guard::EventError;
use sse_guard::Stream;
use sse_guard::StreamRegistry;
use sse_guard::client_key::{ForwardedHeader, ForwardedIp, KeyExtractor, PeerAddr};
use sse_guard::completion::CompletionLayer;
use sse_guard::connection_limit::RejectReason;
use sse_guard::connection_limit::Separate;
use sse_guard::cors::{Cors, CorsLayer};
use sse_guard::early::{Early, StreamAsked};
use sse_guard::family::Family;
use sse_guard::internal::LogLimits;
use sse_guard::internal::Rejected;
use sse_guard::internal::is_json;
use sse_guard::internal::{Rejection, User, X_REQUEST_ID};
use sse_guard::metrics::MetricsLayer;
use sse_guard::resume::Resume;
use sse_guard::serve::RequestBody;
use sse_guard::unavailable::{Unavailable, UnavailableLayer};
use sse_guard::{SseGuard, SseGuardLayer};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tower_layer::Layer;
use tower_service::Service;

type Guarded = Cors<Unavailable<SseGuard<Early<Resume<Upstream>>, ForwardedIp>>>;
type GuardedBody = <<Guarded as Service<Request<RequestBody>>>::Response as IntoBody>::Body;

/// Names the body of a response type.
pub(super) trait IntoBody {
    type Body;
}

impl<B> IntoBody for Response<B> {
    type Body = B;
}

/// The body of a response that did not become an event stream: the upstream's, or our own.
type PlainBody = Either<GuardedBody, Full<Bytes>>;

/// What goes to the client. Event streams are not boxed: they are many, and live long.
pub(super) type ResponseBody = Either<GuardedBody, Pin<Box<Followed<PlainBody>>>>;

/// All routes, in the order of the config.
pub(super) struct Router {
    routes: Vec<Route>,
    /// One for each upstream, however many routes lead to it, and how it is checked.
    upstreams: Vec<(Health, Option<Check>)>,
    normalize: config::Normalize,
    user_header: Option<HeaderName>,
    /// Which peers' headers count for it.
    clients: ForwardedIp,
    ipv6_prefix: u8,
    drain: StreamRegistry,
    requests: RequestLog,
    /// Of requests that match no route.
    unrouted: Arc<RouteMetrics>,
    rejections: Arc<LogLimits<RejectReason>>,
}

/// A longer name of a user is none.
const LONGEST_USER: usize = 256;

/// The data of a route for metrics and the admin API.
pub(super) struct View<'a> {
    pub(super) path: &'a str,
    pub(super) upstream: &'a Uri,
    pub(super) metrics: &'a MetricsLayer,
    pub(super) health: &'a config::Health,
    pub(super) rotation: &'a config::Rotation,
    /// Streams that its limit counts, and how many there may be.
    pub(super) fill: Option<(u64, u64)>,
    /// Whether it counts these alone.
    pub(super) own_total: bool,
}

struct Route {
    path: RoutePath,
    /// The path, for each request to share.
    name: Arc<str>,
    requests: Arc<RouteMetrics>,
    metrics: MetricsLayer,
    limit: Limit,
    own_total: bool,
    settings: Settings,
    upstream: Upstream,
    cors: CorsLayer,
    service: Guarded,
}

impl Router {
    /// Counts on where the `previous` one has counted, and keeps its connections to upstreams that stay
    /// the same.
    ///
    /// # Errors
    ///
    /// If a text of the config cannot stand in an event stream, which its own checks rule out.
    pub(super) fn new(
        config: &Config,
        carryover: &Carryover,
        previous: Option<(&Config, &Self)>,
    ) -> Result<Self, EventError> {
        let clients = ForwardedIp::new(config.trusted_proxies.iter().copied()).header(match config
            .trusted_header
        {
            TrustedHeader::XForwardedFor => ForwardedHeader::XForwardedFor,
            TrustedHeader::Forwarded => ForwardedHeader::Forwarded,
        });
        let is_trust_the_same = previous.is_some_and(|(old, _)| {
            (&old.trusted_proxies, old.trusted_header)
                == (&config.trusted_proxies, config.trusted_header)
        });
        let before = previous.map(|(_, router)| router);
        let limit =
            |config: &config::Limit| config.layer(clients.clone()).gate(&carryover.budgets.gate);
        let shared = carryover.limit(None, limit(&config.limit));
        let log_limit = carryover.log_limit(config.log.stream_rate);
        let mut router = Self {
            routes: Vec::new(),
            upstreams: Vec::new(),
            normalize: config.normalize,
            user_header: config.admin.user_header.clone(),
            clients: clients.clone(),
            ipv6_prefix: config.limit.ipv6_prefix,
            drain: carryover.drain.clone(),
            requests: RequestLog {
                requests: config.log.requests,
                format: config.log.requests_format,
            },
            unrouted: Arc::new(RouteMetrics::new("")),
            rejections: carryover.rejections.clone(),
        };
        for route in &config.routes {
            let settings = &route.settings;
            let before_it = before.and_then(|before| before.route(&route.path));
            let own_counts = route.own_counts.separate();
            let mut in_use = limit(&settings.limit);
            if own_counts != Separate::default() {
                in_use = carryover.limit(Some(route.path.as_str()), in_use);
            }
            let in_use = in_use.sharing(&shared, own_counts);
            let url = &settings.upstream.url;
            let health = router.health(url).cloned().unwrap_or_else(|| {
                let known = before.and_then(|before| before.health(url)).cloned();
                let health = known.unwrap_or_else(|| Health::of(url));
                let checked_by = config.checked_by(url);
                let check = checked_by.and_then(|route| Check::new(&route.settings.upstream));
                router.upstreams.push((health.clone(), check));
                health
            });
            let queue = settings
                .resume
                .as_ref()
                .map(|config| carryover.queue(url, config));
            if let Some(queue) = &queue {
                health.wakes(queue);
            }
            let stays = before_it.filter(|before| {
                let retry_after = |settings: &Settings| settings.limit.retry_after;
                is_trust_the_same
                    && before.settings.upstream == settings.upstream
                    && retry_after(&before.settings) == retry_after(settings)
            });
            let upstream = stays.map_or_else(
                || Upstream::new(settings, clients.clone(), carryover.tunnels.clone(), health),
                |before| before.upstream.clone(),
            );
            let metrics = carryover
                .metrics(route.path.as_str())
                .upstream(&url.to_string())
                .log_limit(log_limit.clone())
                .log_level(tracing::Level::INFO);
            let resume = settings.resume.as_ref().zip(queue.as_ref());
            let resume = resume.map(|(given, queue)| {
                given
                    .layer(&settings.idle)
                    // Each stream would hold it to its end.
                    .strip_extensions(|extensions| _ = extensions.remove::<RequestContext>())
                    .admission(queue)
                    .wait_for_upstream(settings.unavailable == config::Unavailable::Wait)
            });
            let layer = SseGuardLayer::new()
                .metrics(metrics.clone())
                .limit(in_use.clone())
                .rotation(settings.rotation.layer()?.registry(&carryover.drain))
                .inject(settings.rotation.inject_layer())
                .heartbeat(settings.heartbeat.layer()?)
                .idle_timeout(settings.idle.layer(settings.rotation.retry)?)
                .completion(CompletionLayer::new().required(settings.completion_required))
                .early(settings.early.layer())
                .resume(resume)
                .cache_control(settings.cache_control);
            let unavailable = UnavailableLayer::new()
                .enabled(settings.unavailable != config::Unavailable::Status)
                .retry(settings.limit.retry_after);
            let before_it = before_it.filter(|before| before.settings.upstream.url == *url);
            let cors = settings.cors.layer();
            // What it has seen of the same upstream.
            let cors = match before_it {
                Some(before) => cors.remembering_with(&before.cors),
                None => cors,
            };
            let cors = cors.ipv6_prefix(config.limit.ipv6_prefix);
            let guarded = layer.layer(upstream.clone());
            router.routes.push(Route {
                path: route.path.clone(),
                name: route.path.as_str().into(),
                requests: Arc::new(RouteMetrics::new(route.path.as_str())),
                metrics,
                limit: in_use,
                own_total: route.own_counts.total,
                settings: settings.clone(),
                service: cors.layer(unavailable.layer(guarded)),
                cors,
                upstream,
            });
        }
        Ok(router)
    }

    fn route(&self, path: &RoutePath) -> Option<&Route> {
        self.routes.iter().find(|route| route.path == *path)
    }

    fn health(&self, url: &Uri) -> Option<&Health> {
        self.upstreams().find(|upstream| upstream.url() == url)
    }

    /// Returns the files of connections that serve no request.
    pub(super) fn close_idle_upstream_connections(&self) {
        for route in &self.routes {
            route.upstream.close_idle_connections();
        }
    }

    pub(super) fn upstreams(&self) -> impl Iterator<Item = &Health> {
        self.upstreams.iter().map(|(upstream, _)| upstream)
    }

    /// Writes what was left out of the log of each upstream so far.
    pub(super) fn summarize_log(&self) {
        self.upstreams().for_each(Health::summarize_log);
    }

    /// Probes those that count as unreachable, and runs the checks that are due. Call it about once
    /// per second.
    pub(super) fn probe_upstreams(&self) {
        for (upstream, check) in &self.upstreams {
            upstream.probe(check.as_ref());
        }
    }

    /// The data of each route.
    pub(super) fn views(&self) -> impl Iterator<Item = View<'_>> {
        self.routes.iter().map(|route| {
            let total = route.settings.limit.total;
            View {
                path: route.path.as_str(),
                upstream: &route.settings.upstream.url,
                metrics: &route.metrics,
                health: &route.settings.health,
                rotation: &route.settings.rotation,
                fill: total.map(|total| (route.limit.active(), total.get().into())),
                own_total: route.own_total,
            }
        })
    }

    /// The user as a trusted proxy names it, once. What others claim does not reach the upstream,
    /// which may believe it.
    fn user(&self, request: &mut Request<RequestBody>) -> Option<Box<str>> {
        let name = self.user_header.as_ref()?;
        let is_trusted = self.is_by_trusted(request);
        headers::remove_field(request.headers_mut(), name, is_trusted);
        let mut users = request.headers().get_all(name).iter();
        let user = users.next()?.to_str().ok()?;
        (users.next().is_none() && user.len() <= LONGEST_USER).then(|| user.into())
    }

    fn route_of(&self, request: &mut Request<RequestBody>) -> Result<Option<&Route>, Refused> {
        let routes = &self.routes;
        let index = request_target::route(
            request,
            self.normalize,
            |path| routes.iter().position(|route| route.path.matches(path)),
            |index| index.is_some_and(|index| routes[index].upstream.has_base_path()),
        )?;
        Ok(index.map(|index| &routes[index]))
    }

    /// Lets a page of another origin see the status if any route would.
    fn without_route(
        &self,
        request: &Request<RequestBody>,
        mut response: Response<Full<Bytes>>,
    ) -> Response<PlainBody> {
        let mut routes = self.routes.iter();
        routes.any(|route| route.cors.complete(request, response.headers_mut()));
        response.map(Either::Right)
    }

    /// It would be cut at the end of the window: its client had better connect to another process.
    fn refuse_tunnel(&self, rotation: &config::Rotation) -> Response<PlainBody> {
        let refusal = Rejection::while_draining(&self.drain, rotation.retry, false);
        match refusal {
            Some(refusal) => refusal
                .response(Family::Raw)
                .map(|text| Either::Right(text.into())),
            None => Response::new(Either::Right(Full::default())),
        }
    }

    /// Whether the peer of a request may name users and requests.
    fn is_by_trusted(&self, request: &Request<RequestBody>) -> bool {
        let peer: Option<&PeerAddr> = request.extensions().get();
        peer.is_some_and(|peer| self.clients.is_trusted_peer(*peer))
    }

    async fn answer(&self, mut request: Box<Request<RequestBody>>) -> Response<ResponseBody> {
        let is_trusted = self.is_by_trusted(&request);
        let id = RequestId::of(request.headers_mut(), is_trusted);
        let client = self.clients.key(&*request);
        let mut context = RequestContext::new(&request, id, client);
        let route = self.route_of(&mut request);
        let metrics = match &route {
            Ok(Some(route)) => {
                context.set_route(route.name.clone());
                &route.requests
            }
            Ok(None) | Err(_) => &self.unrouted,
        };
        let record = Record::new(&request, self.requests, context.clone(), metrics.clone());
        let mut response = match route {
            Ok(Some(route)) => self.answer_on(route, request, &context).await,
            Ok(None) => {
                let text = Full::from("sse-guard: no route for this path\n");
                let mut response = Response::new(text);
                *response.status_mut() = StatusCode::NOT_FOUND;
                self.without_route(&request, response)
            }
            Err(refused) => self.without_route(&request, refused.answer()),
        };
        let id = context.id().header_value();
        response.headers_mut().insert(X_REQUEST_ID, id);
        let is_stream = response.extensions().get::<Stream>().is_some();
        let (head, body) = response.into_parts();
        match body {
            Either::Left(body) if is_stream => {
                record.dismiss_for_stream();
                Response::from_parts(head, Either::Left(body))
            }
            body => {
                let response = record.follow(Response::from_parts(head, body));
                response.map(|body| Either::Right(Box::pin(body)))
            }
        }
    }

    /// Logs a rejection, at a bounded rate for each reason.
    fn log_rejection(&self, reason: RejectReason, context: &RequestContext) {
        let limit = limit_key(reason);
        self.rejections.of(reason).write(
            || {
                tracing::info!(
                    limit,
                    route = context.route(),
                    client = context.client().map(tracing::field::display),
                    path = context.path(),
                    request_id = %context.id(),
                    "request rejected"
                );
            },
            move |not_logged| {
                tracing::info!(
                    limit,
                    not_logged,
                    "more requests were rejected than were logged"
                );
            },
        );
    }

    async fn answer_on(
        &self,
        route: &Route,
        mut request: Box<Request<RequestBody>>,
        context: &RequestContext,
    ) -> Response<PlainBody> {
        request.extensions_mut().insert(context.clone());
        if let Some(family) = route.settings.family {
            request.extensions_mut().insert(family);
        }
        if let Some(user) = self.user(&mut request) {
            request.extensions_mut().insert(User(user));
        }
        if let Some(client) = context.client() {
            // For metrics and health, which detect failures of a single client.
            request
                .extensions_mut()
                .insert(client.clone().network(self.ipv6_prefix));
        }
        let is_watched = route.settings.early.enabled && is_json(request.headers());
        if stream_flag::settle_coding(&mut request, is_watched).await && is_watched {
            watch_for_flag(&mut request);
        }
        if self.drain.is_draining() {
            if headers::upgrade(request.headers()).is_some() {
                return self.refuse_tunnel(&route.settings.rotation);
            }
            stream_flag::read_ahead(&mut request).await;
        }
        // A function of its own: neither the service nor the request's box is needed during the wait.
        let response = call(route.service.clone(), request);
        let Ok(mut response) = response.await;
        if let Some(Rejected(reason)) = response.extensions().get().copied() {
            self.log_rejection(reason, context);
            // The client is to come back later; until then its connection would hold a file.
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
        }
        response.map(Either::Left)
    }
}

/// Frees the request's box, which an `async` block would keep to its end.
fn call(
    mut service: Guarded,
    request: Box<Request<RequestBody>>,
) -> <Guarded as Service<Request<RequestBody>>>::Future {
    service.call(*request)
}

/// Clients of LLM APIs request a stream in the body, and not all of them in the head as well.
fn watch_for_flag(request: &mut Request<RequestBody>) {
    let asked = StreamAsked::new();
    request.extensions_mut().insert(asked.clone());
    let mut flag = StreamFlag::default();
    request.body_mut().inspect(move |bytes| {
        let is_said = flag.take(bytes);
        if is_said {
            asked.set();
        }
        is_said
    });
}

/// The router that holds when a request comes, as a service.
#[derive(Clone)]
pub(super) struct Handler(Arc<ProxyState>);

impl Handler {
    pub(super) fn new(state: &Arc<ProxyState>) -> Self {
        Self(state.clone())
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
        let active = self.0.active();
        // Futures hold the room of all that they pass on: a box takes little.
        let request = Box::new(request);
        Box::pin(async move { Ok(active.router.answer(request).await) })
    }
}

/// The config key of the limit.
fn limit_key(reason: RejectReason) -> &'static str {
    match reason {
        RejectReason::PerClient => "limit.per_ip",
        RejectReason::Total => "limit.total",
        RejectReason::Rate => "limit.rate",
        RejectReason::Clients => "limit.max_clients",
        RejectReason::Memory => "memory.budget",
        RejectReason::Files => "files.budget",
        RejectReason::Requests => "limit.requests_per_ip",
        RejectReason::Draining => "drain.window",
        other => other.as_str(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rejection_names_the_config_key_of_its_limit() {
        for &reason in RejectReason::ALL {
            let key = limit_key(reason);
            assert!(config::KEYS.iter().any(|known| known.name == key), "{key}");
        }
    }

    /// With what the server adds it takes a size class of the allocator of its own: no short-lived box of the
    /// same class leaves holes among those of quiet streams, as a burst of requests would. The clock that tokio
    /// has in tests makes it 24 bytes larger.
    #[test]
    fn the_body_of_a_quiet_stream_stays_small() {
        assert!(size_of::<ResponseBody>() <= 608 + 24);
    }
}
