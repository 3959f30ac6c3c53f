//! The routes: which one serves a request, and what each keeps from the config before.

use super::prepare::Prepare;
use super::stack::{self, RouteService, SharedParts};
use crate::acme::HttpChallenges;
use crate::carryover::{Carryover, RouteLimit};
use crate::config::{
    self, Config, HttpsRedirect, ListenerConfig, RoutePath, Settings, TrustedHeader,
};
use crate::request_log::{RequestLog, RouteMetrics};
use crate::request_target::{self, TargetError};
use crate::upstream::{Endpoints, Upstream};
use http::{Request, Uri};
use sse_guard::EventError;
use sse_guard::StreamRegistry;
use sse_guard::client_key::{ForwardedHeader, ForwardedIp};
use sse_guard::connection_limit::{RejectReason, SeparateCounts};
use sse_guard::cors::CorsLayer;
use sse_guard::internal::LogLimits;
use sse_guard::metrics::MetricsLayer;
use sse_guard::serve::RequestBody;
use std::sync::Arc;

/// All routes, in the order of the config.
pub(crate) struct Router {
    pub(super) routes: Vec<Route>,
    /// What the routes use of upstreams, and share.
    endpoints: Endpoints,
    listeners: Vec<ListenerConfig>,
    normalize: config::Normalize,
    pub(super) prepare: Prepare,
    pub(super) clients: ForwardedIp,
    pub(super) drain: StreamRegistry,
    http_challenges: Arc<HttpChallenges>,
    pub(super) requests: RequestLog,
    /// Of requests that match no route.
    pub(super) unrouted: Arc<RouteMetrics>,
    pub(super) rejections: Arc<LogLimits<RejectReason>>,
}

/// The data of a route for metrics and the admin API.
pub(crate) struct RouteView<'a> {
    pub(crate) path: &'a str,
    pub(crate) upstream: &'a Uri,
    pub(crate) metrics: &'a MetricsLayer,
    pub(crate) health: &'a config::Health,
    pub(crate) rotation: &'a config::Rotation,
    /// Streams that its limit counts, and how many there may be.
    pub(crate) fill: Option<(u64, u64)>,
    /// Whether it counts these alone.
    pub(crate) own_total: bool,
}

pub(super) struct Route {
    path: RoutePath,
    /// The path, for each request to share.
    pub(super) name: Arc<str>,
    pub(super) requests: Arc<RouteMetrics>,
    metrics: MetricsLayer,
    limit: RouteLimit,
    own_total: bool,
    pub(super) settings: Settings,
    upstream: Upstream,
    pub(super) cors: CorsLayer,
    pub(super) service: RouteService,
}

impl Route {
    /// Whether requests to the upstream are sent as by these settings.
    fn sends_as(&self, settings: &Settings) -> bool {
        let retry_after = |settings: &Settings| settings.limit.retry_after;
        self.settings.upstream == settings.upstream
            && retry_after(&self.settings) == retry_after(settings)
    }
}

impl Router {
    /// Continues the counts of the `previous` one, and keeps its endpoints that a route still uses.
    ///
    /// # Errors
    ///
    /// If a text of the config cannot stand in an event stream, which its own checks rule out.
    pub(crate) fn new(
        config: &Config,
        carryover: &Carryover,
        previous: Option<(&Config, &Self)>,
    ) -> Result<Self, EventError> {
        let clients = config.trusted_proxies.clients();
        let clients = clients.header(match config.trusted_header {
            TrustedHeader::XForwardedFor => ForwardedHeader::XForwardedFor,
            TrustedHeader::Forwarded => ForwardedHeader::Forwarded,
        });
        let trusts_as_before = previous.is_some_and(|(old, _)| {
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
            endpoints: Endpoints::default(),
            listeners: config.listeners.clone(),
            normalize: config.normalize,
            prepare: Prepare::new(config, clients.clone()),
            clients: clients.clone(),
            drain: carryover.drain.clone(),
            http_challenges: carryover.http_challenges.clone(),
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
            if own_counts != SeparateCounts::default() {
                in_use = carryover.limit(Some(route.path.as_str()), in_use);
            }
            let in_use = in_use.sharing(&shared, own_counts);
            let url = &settings.upstream.url;
            let endpoints_before = before.map(|before| &before.endpoints);
            let cluster = router
                .endpoints
                .cluster(config, &settings.upstream, endpoints_before);
            let queue = settings
                .resume
                .as_ref()
                .map(|config| carryover.queue(url, config));
            if let Some(queue) = &queue {
                cluster.wakes(queue);
            }
            // It counts the requests that are pending.
            let stays = before_it.filter(|before| trusts_as_before && before.sends_as(settings));
            let upstream = match stays {
                Some(before) => before.upstream.clone(),
                None => {
                    let tunnels = carryover.tunnels.clone();
                    Upstream::new(settings, clients.clone(), tunnels, cluster)
                }
            };
            let metrics = carryover
                .metrics(route.path.as_str())
                .upstream(&url.to_string())
                .log_limit(log_limit.clone())
                .log_level(tracing::Level::INFO);
            let before_it = before_it.filter(|before| before.settings.upstream.url == *url);
            let cors = settings.cors.layer();
            // Keeps what it has learned of its upstream.
            let cors = match before_it {
                Some(before) => cors.remembering_with(&before.cors),
                None => cors,
            };
            let cors = cors.ipv6_prefix(config.limit.ipv6_prefix);
            let parts = SharedParts {
                drain: &carryover.drain,
                metrics: &metrics,
                limit: &in_use,
                cors: &cors,
                queue: queue.as_ref(),
            };
            let service = stack::stack(settings, &parts, upstream.clone())?;
            router.routes.push(Route {
                path: route.path.clone(),
                name: route.path.as_str().into(),
                requests: Arc::new(RouteMetrics::new(route.path.as_str())),
                metrics,
                limit: in_use,
                own_total: route.own_counts.total,
                settings: settings.clone(),
                service,
                cors,
                upstream,
            });
        }
        Ok(router)
    }

    /// The listener of this name in this config; as the connection has it if the config has none of it.
    fn current<'a>(&'a self, listener: &'a ListenerConfig) -> &'a ListenerConfig {
        let mut listeners = self.listeners.iter();
        let current = listeners.find(|current| current.name == listener.name);
        current.unwrap_or(listener)
    }

    /// The answer to a CA that verifies a name by HTTP-01: on each listener without TLS, be it for redirects.
    pub(super) fn challenge_of(
        &self,
        request: &Request<RequestBody>,
        listener: &ListenerConfig,
    ) -> Option<String> {
        match listener.tls {
            None => self.http_challenges.answer(request),
            Some(_) => None,
        }
    }

    /// Where the listener redirects requests to, if it does.
    pub(super) fn redirect_of(&self, listener: &ListenerConfig) -> Option<HttpsRedirect> {
        let redirect = self.current(listener).redirect;
        // A connection over TLS may be of a listener that had the name before.
        redirect.filter(|_| listener.tls.is_none())
    }

    fn route(&self, path: &RoutePath) -> Option<&Route> {
        self.routes.iter().find(|route| route.path == *path)
    }

    /// The upstreams of all routes.
    pub(crate) fn endpoints(&self) -> &Endpoints {
        &self.endpoints
    }

    /// The data of each route.
    pub(crate) fn views(&self) -> impl Iterator<Item = RouteView<'_>> {
        self.routes.iter().map(|route| {
            let total = route.settings.limit.total;
            RouteView {
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

    /// The route of a request, whose target it normalizes; none if its listener does not serve that route.
    pub(super) fn route_of(
        &self,
        request: &mut Request<RequestBody>,
        listener: &ListenerConfig,
    ) -> Result<Option<&Route>, TargetError> {
        let routes = &self.routes;
        let index = request_target::route(
            request,
            self.normalize,
            |path| routes.iter().position(|route| route.path.matches(path)),
            |index| index.is_some_and(|index| routes[index].upstream.has_base_path()),
        )?;
        let route = index.map(|index| &routes[index]);
        Ok(route.filter(|route| self.current(listener).serves(route.path.as_str())))
    }
}
