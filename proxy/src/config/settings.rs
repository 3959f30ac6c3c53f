//! The typed configuration of the proxy as a whole, from the tables.
//!
//! Every value in here is valid, alone and together with the others; only [`load`](super::load)
//! makes one.

use std::num::NonZeroU32;
use std::time::Duration;

use http::Uri;

use super::super::path::Normalize;
use super::super::tls::ServerTls;
use super::RoutePath;
use super::given::{AllValues, RouteValues, Scope, URL};
use super::listen_address::ListenAddress;
use super::mistake::{Mistake, ValueSource};
use super::sections::{
    Acme, Admin, Budgets, Client, Completion, Drain, Early, Health, Heartbeat, Idle, Limit,
    ListenerConfig, Log, OwnCounts, Resume, Rotation, Takeover, TrustedHeader, Unavailable,
    Upstream, acme, cors, files, health_check, listener, listener::Placed, memory, path, ready,
    reload, top, upstream,
};
use super::unix::TrustedProxies;
use super::value::{Origins, ReadyWhen};
use sse_guard::CacheControl;
use sse_guard::family::Family;

/// The whole configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Addresses for clients; at least one.
    pub listeners: Vec<ListenerConfig>,
    /// The CA of their certificates, if they have some of ACME.
    pub acme: Option<Acme>,
    /// When another process may listen there, too.
    pub takeover: Takeover,
    /// Peers whose forwarding headers are trusted; none by default.
    pub trusted_proxies: TrustedProxies,
    /// The header in which those peers name the client.
    pub trusted_header: TrustedHeader,
    /// How paths are matched and forwarded.
    pub normalize: Normalize,
    /// Worker threads; one per core if `None`.
    pub threads: Option<NonZeroU32>,
    /// Limits and socket options of client connections.
    pub client: Client,
    /// Budgets of the process.
    pub budgets: Budgets,
    /// The admin address.
    pub admin: Admin,
    /// Interval of checks for changes of the config file; never if `None`.
    pub watch: Option<Duration>,
    /// Upstreams that must be reachable for the proxy to be ready.
    pub ready_when: ReadyWhen,
    /// How the process stops.
    pub drain: Drain,
    /// Log format and level.
    pub log: Log,
    /// The limits whose counts routes share.
    pub limit: Limit,
    /// The routes, first match first; at least one.
    ///
    /// With a top-level upstream, the last route matches every path. Without one, a request may
    /// match no route.
    pub routes: Vec<Route>,
    /// Warnings about valid, but probably unintended settings, one sentence each.
    pub warnings: Vec<String>,
}

impl Config {
    /// The route of a request for this path, given without its query.
    #[must_use]
    pub fn route_for(&self, path: &str) -> Option<&Route> {
        self.routes.iter().find(|route| route.path.matches(path))
    }

    /// The route with whose settings the upstream at this URL is checked: the first with a health check.
    #[must_use]
    pub fn checked_by(&self, url: &Uri) -> Option<&Route> {
        self.routes.iter().find(|route| {
            let upstream = &route.settings.upstream;
            upstream.url == *url && upstream.health_check.interval.is_some()
        })
    }
}

/// A route: paths and their settings.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// The paths.
    pub path: RoutePath,
    /// Their settings.
    pub settings: Settings,
    /// Limits that it counts separately from other routes.
    pub own_counts: OwnCounts,
}

/// Settings that a route may override.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Client family; detected per stream if `None`.
    pub family: Option<Family>,
    /// The upstream of a route.
    pub upstream: Upstream,
    /// What becomes of the `Cache-Control` of an event stream.
    pub cache_control: CacheControl,
    /// Response to an `EventSource` while the upstream is unavailable.
    pub unavailable: Unavailable,
    /// Heartbeats.
    pub heartbeat: Heartbeat,
    /// Origins that may read responses sent in place of the upstream's.
    pub cors: Origins,
    /// Early answers.
    pub early: Early,
    /// Timeouts of silent upstreams.
    pub idle: Idle,
    /// Limits on streams and requests.
    pub limit: Limit,
    /// Rotation of old streams.
    pub rotation: Rotation,
    /// Resume after the loss of an upstream; off if `None`.
    pub resume: Option<Resume>,
    /// Completeness of model responses.
    pub completion: Completion,
    /// Thresholds of its health.
    pub health: Health,
}

impl Settings {
    fn read(scope: Scope<'_>, problems: &mut Vec<Mistake>) -> Result<Self, Mistake> {
        Ok(Self {
            family: top::family(scope)?,
            upstream: Upstream::read(scope, problems)?,
            cache_control: upstream::cache_control(scope)?,
            unavailable: Unavailable::read(scope)?,
            heartbeat: Heartbeat::read(scope)?,
            cors: cors::allowed_origins(scope)?,
            early: Early::read(scope)?,
            idle: Idle::read(scope)?,
            limit: Limit::read(scope)?,
            rotation: Rotation::read(scope)?,
            resume: Resume::read(scope)?,
            completion: Completion::read(scope)?,
            health: Health::read(scope)?,
        })
    }

    fn warnings(&self) -> Vec<String> {
        let early = self.early.warning(self.upstream.head_timeout);
        let mut warnings: Vec<_> = early.into_iter().collect();
        warnings.extend(self.upstream.warning());
        warnings.extend(self.unavailable.warning(self.resume.is_some()));
        warnings.extend(self.heartbeat.warnings(&self.idle, &self.rotation));
        warnings.extend(self.rotation.warning());
        warnings.extend(self.limit.warning());
        warnings
    }
}

/// Reads the config, or adds to the mistakes.
///
/// `values` has one for each key that has a default; that is what makes it succeed.
pub(super) fn read(values: &AllValues, mistakes: &mut Vec<Mistake>) -> Option<Config> {
    let mut problems = Vec::new();
    let config = read_all(values, &mut problems);
    // A URL that was refused is not missing, too.
    let refused = mistakes.iter().any(|mistake| mistake.key == URL);
    problems.retain(|problem| !(refused && problem.key == URL));
    mistakes.append(&mut problems);
    match config {
        Ok(config) => Some(config),
        Err(mistake) => {
            if mistakes.is_empty() {
                mistakes.push(mistake);
            }
            None
        }
    }
}

fn read_all(values: &AllValues, problems: &mut Vec<Mistake>) -> Result<Config, Mistake> {
    let proxy = values.proxy();
    let listeners = listener::listeners(values, problems)?;
    let routes = routes(values, &listeners, problems)?;
    let mut config = Config {
        acme: Acme::read(proxy, &listeners, problems)?,
        takeover: Takeover::read(proxy)?,
        trusted_proxies: top::trusted_proxies(proxy)?,
        trusted_header: TrustedHeader::read(proxy)?,
        normalize: path::normalize(proxy)?,
        threads: top::threads(proxy)?,
        client: Client::read(values)?,
        budgets: Budgets {
            memory: memory::budget(proxy)?,
            files: files::budget(proxy)?,
        },
        admin: Admin::read(proxy, &listeners, problems)?,
        watch: reload::watch(proxy)?,
        ready_when: ready::when(values, problems)?,
        drain: Drain::read(proxy)?,
        log: Log::read(proxy)?,
        limit: Limit::read(proxy)?,
        listeners: listeners.into_iter().map(|it| it.config).collect(),
        routes,
        warnings: Vec::new(),
    };
    let has_catch_all = proxy.given(URL).is_some();
    config.warnings = warnings(&config, has_catch_all);
    config.warnings.extend(config.drain.warning(proxy)?);
    let unused = acme::warning(proxy, config.acme.as_ref())?;
    config.warnings.extend(unused);
    let mut upstreams = config.routes.iter().map(|route| &route.settings.upstream);
    if upstreams.all(|upstream| upstream.tls.is_none()) {
        config.warnings.extend(upstream::tls::unused(values));
        config.warnings.extend(upstream::unused_http2(values));
    }
    Ok(config)
}

/// The routes of the file, and behind them that of all other paths.
fn routes(
    values: &AllValues,
    listeners: &[Placed],
    problems: &mut Vec<Mistake>,
) -> Result<Vec<Route>, Mistake> {
    let mut routes = Vec::new();
    let mut looping: Vec<(ValueSource, &str)> = Vec::new();
    let mut add = |path: RoutePath, scope: Scope<'_>, problems: &mut Vec<Mistake>| {
        let settings = Settings::read(scope, problems)?;
        let mut configs = listeners.iter().map(|listener| &listener.config);
        let own = configs.find(|listener| settings.upstream.is_reached_at(&listener.address));
        if let (Some(own), Some(given)) = (own, scope.given(URL)) {
            looping.push((given.source.clone(), own.key));
        }
        routes.push(Route {
            path,
            settings,
            own_counts: OwnCounts::read(scope),
        });
        Ok(())
    };
    for route in &values.routes {
        let scope = values.route(route);
        if scope.given(URL).is_some() {
            add(route.path.clone(), scope, problems)?;
        } else {
            problems.push(missing_in_route(route));
        }
    }
    let proxy = values.proxy();
    if proxy.given(URL).is_some() {
        add(RoutePath::everything(), proxy, problems)?;
    } else if values.routes.is_empty() {
        let problem = "missing; name a server to forward to, such as --upstream-url \
            http://127.0.0.1:3000, or try `sse-guard demo`";
        problems.push(Mistake::new(ValueSource::Config, URL, problem));
    }
    problems.extend(values.shadowed_routes());
    // Routes that share the global URL share its mistake.
    looping.dedup();
    for (source, key) in looping {
        let problem = format!(
            "is this proxy's own address ({key}): each request would loop; name the server behind \
             the proxy"
        );
        problems.push(Mistake::new(source, URL, problem));
    }
    Ok(routes)
}

fn missing_in_route(route: &RouteValues) -> Mistake {
    let problem = "missing: set it in this route or at the top level, such as upstream.url = \
                   \"http://127.0.0.1:3000\"";
    Mistake::new(route.source.clone(), URL, problem)
}

/// Settings that are allowed but probably unintended; with a catch-all, that is the last route.
fn warnings(config: &Config, has_catch_all: bool) -> Vec<String> {
    let streams_per_ip = config
        .routes
        .iter()
        .map(|route| route.settings.limit.per_ip);
    let connections = config.client.warning(streams_per_ip);
    let mut warnings: Vec<_> = connections.into_iter().collect();
    let mut addresses = config.listeners.iter().map(|listener| &listener.address);
    let is_unix = addresses.clone().any(|address| address.unix().is_some());
    warnings.extend(top::warnings(&config.trusted_proxies, is_unix));
    let has_proxies = addresses.any(|address| match address {
        ListenAddress::Tcp(_) => !config.trusted_proxies.networks.is_empty(),
        ListenAddress::Unix(_) => config.trusted_proxies.unix,
        // Of either kind.
        ListenAddress::Passed(_) => config.trusted_proxies != TrustedProxies::default(),
    });
    warnings.extend(config.admin.warning(has_proxies));
    let mut tls = config.listeners.iter().filter_map(|it| it.tls.as_ref());
    if !tls.any(ServerTls::requests_certificates) {
        let upstreams = config.routes.iter().map(|route| &route.settings.upstream);
        warnings.extend(upstream::unused_subject(upstreams));
        if config.admin.user_header.is_none() {
            warnings.extend(config.limit.unused_key());
        }
    }
    let routes = config.routes.iter().map(|route| route.path.as_str());
    warnings.extend(listener::warnings(&config.listeners, routes));
    let (fallback, routes) = match config.routes.split_last() {
        Some((last, routes)) if has_catch_all => (Some(last), routes),
        _ => (None, config.routes.as_slice()),
    };
    let global = fallback
        .map(|route| route.settings.warnings())
        .unwrap_or_default();
    for route in routes {
        let own = route.settings.warnings();
        let own = own.into_iter().filter(|warning| !global.contains(warning));
        warnings.extend(own.map(|warning| format!("route {}: {warning}", route.path)));
    }
    warnings.extend(global);
    let checks = config.routes.iter().map(|route| health_check::RouteCheck {
        route: route.path.as_str(),
        upstream: &route.settings.upstream.url,
        check: &route.settings.upstream.health_check,
    });
    let checks: Vec<_> = checks.collect();
    warnings.extend(health_check::warnings(&checks));
    warnings
}

#[cfg(test)]
mod tests;
