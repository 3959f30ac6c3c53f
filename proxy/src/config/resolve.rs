//! From layers of values to the typed [`Config`].

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use http::uri::PathAndQuery;
use http::{Method, Uri};
use humantime::format_duration;
use ipnet::IpNet;

use super::super::path::Normalize;
use super::layer::{Given, Layer, RouteLayer};
use super::mistake::{Mistake, Place};
use super::settings::{
    Admin, Budget, Budgets, Client, Config, Drain, Early, Health, HealthCheck, Heartbeat, Idle,
    IdleAction, Level, Limit, Log, LogFormat, LogRequests, Origins, OwnCounts, Rate, ReadyWhen,
    Reject, RequestsFormat, Resume, Rotation, Route, Settings, Style, Takeover, TrustedHeader,
    Unavailable, Upstream,
};
use super::value::Value;
use super::{RoutePath, check, suggest};
use sse_guard::CacheControl;
use sse_guard::family::Family;
use sse_guard::heartbeat::DEFAULT_INTERVAL;
use sse_guard::idle_timeout::EventTimeout;

/// Builds the config, or adds to the mistakes.
///
/// `global` holds a value for each key that has a default; that is what makes it succeed.
pub(super) fn resolve(
    global: &Layer,
    routes: &[RouteLayer],
    mistakes: &mut Vec<Mistake>,
) -> Option<Config> {
    let mut problems = Vec::new();
    let config = build(global, routes, &mut problems);
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

const URL: &str = "upstream.url";

fn build(
    global: &Layer,
    overrides: &[RouteLayer],
    problems: &mut Vec<Mistake>,
) -> Result<Config, Mistake> {
    let proxy = Scope {
        global,
        route: None,
    };
    let listen: SocketAddr = proxy.get(LISTEN)?;
    let mut routes = Vec::new();
    let mut looping: Vec<Place> = Vec::new();
    let mut add = |path: RoutePath, scope: Scope<'_>| {
        let own_counts = own_counts(scope);
        let settings = settings(scope)?;
        if check::loops(listen, &settings.upstream.url) {
            looping.extend(scope.given(URL).map(|given| given.place.clone()));
        }
        routes.push(Route {
            path,
            settings,
            own_counts,
        });
        Ok(())
    };

    for over in overrides {
        let scope = Scope {
            global,
            route: Some(&over.given),
        };
        if scope.given(URL).is_some() {
            add(over.path.clone(), scope)?;
        } else {
            let problem = "missing: set it in this route or at the top level, such as upstream.url \
                           = \"http://127.0.0.1:3000\"";
            problems.push(Mistake::new(over.place.clone(), URL, problem));
        }
    }
    if proxy.given(URL).is_some() {
        add(RoutePath::everything(), proxy)?;
    } else if overrides.is_empty() {
        let problem = "missing; name a server to forward to, such as --upstream-url \
            http://127.0.0.1:3000, or try `sse-guard demo`";
        problems.push(Mistake::new(Place::Config, URL, problem));
    }

    problems.extend(check::shadowed(overrides));

    // Routes that share the global URL share its mistake.
    looping.dedup();
    for place in looping {
        let problem = "is this proxy's own address (listen): each request would loop; name the \
            server behind the proxy";
        problems.push(Mistake::new(place, URL, problem));
    }
    let mut config = Config {
        listen,
        takeover: proxy.get("takeover")?,
        trusted_proxies: proxy.get("trusted_proxies")?,
        trusted_header: proxy.get("trusted_header")?,
        normalize: proxy.get("path.normalize")?,
        threads: match proxy.given("threads") {
            Some(_) => proxy.get("threads")?,
            None => None,
        },
        client: Client {
            head_timeout: proxy.get("client.head_timeout")?,
            max_head: proxy.get("client.max_head")?,
            title_case_headers: proxy.get("client.title_case_headers")?,
            write_stall: proxy.get("client.write_stall")?,
            notsent_lowat: proxy.get("client.notsent_lowat")?,
            send_buffer: proxy.get("client.send_buffer")?,
            keepalive: proxy.get("client.keepalive")?,
            user_timeout: proxy.get("client.user_timeout")?,
            max_connections: match proxy.given(MAX_CONNECTIONS) {
                Some(_) => proxy.get(MAX_CONNECTIONS)?,
                None => max_connections(&routes),
            },
            ipv6_prefix: proxy.get("limit.ipv6_prefix")?,
            unbounded: unbounded(proxy, &routes)?,
        },
        budgets: Budgets {
            memory: budget(proxy, "memory.budget", |size: u64| size)?,
            files: budget(proxy, "files.budget", |count: NonZeroU32| {
                count.get().into()
            })?,
        },
        admin: admin(proxy, listen, problems)?,
        watch: proxy.get("reload.watch")?,
        ready_when: ready_when(proxy, overrides, problems)?,
        drain: drain(proxy)?,
        log: Log {
            format: proxy.get("log.format")?,
            level: proxy.get("log.level")?,
            stream_rate: proxy.get("log.stream_rate")?,
            requests: proxy.get("log.requests")?,
            requests_format: proxy.get("log.requests_format")?,
        },
        limit: limit(proxy)?,
        routes,
        warnings: Vec::new(),
    };
    let catch_all = proxy.given(URL).is_some();
    config.warnings = check::warnings(&config, catch_all);
    config
        .warnings
        .extend(raised_answers(proxy, &config.drain)?);
    Ok(config)
}

const MAX_CONNECTIONS: &str = "client.max_connections";

/// Connections for each stream that a client may have: some wait between two requests.
const CONNECTIONS_PER_STREAM: u32 = 4;
/// A browser alone has six, and a few may share an address.
const MIN_CONNECTIONS: u32 = 32;

/// Requests for each stream that a client may have, and the least of them.
const REQUESTS_PER_STREAM: u32 = 2;
const MIN_REQUESTS: u32 = 200;

const PER_IP: &str = "limit.per_ip";
const REQUESTS_PER_IP: &str = "limit.requests_per_ip";

/// Keys that only set the response to rejected clients, or exempt clients, leave the counts shared.
fn own_counts(scope: Scope<'_>) -> OwnCounts {
    let sets = |name| scope.route.is_some_and(|route| route.contains_key(name));
    // A bound that follows from the route's own streams is the route's own, too.
    let is_derived = sets(PER_IP) && scope.given(REQUESTS_PER_IP).is_none();
    OwnCounts {
        per_ip: sets(PER_IP),
        requests_per_ip: sets(REQUESTS_PER_IP) || is_derived,
        total: sets("limit.total"),
        rate: sets("limit.rate") || sets("limit.burst"),
    }
}

/// Any number if there may be any number of streams: these begin as requests, perhaps all at once.
fn requests_per_ip(scope: Scope<'_>) -> Result<Option<NonZeroU32>, Mistake> {
    if scope.given(REQUESTS_PER_IP).is_some() {
        return scope.get(REQUESTS_PER_IP);
    }
    let streams: Option<NonZeroU32> = scope.get(PER_IP)?;
    Ok(streams.and_then(|streams| {
        let requests = streams.get().saturating_mul(REQUESTS_PER_STREAM);
        NonZeroU32::new(requests.max(MIN_REQUESTS))
    }))
}

/// Any number if a route allows any number of streams.
fn max_connections(routes: &[Route]) -> Option<NonZeroU32> {
    let limits = routes.iter().map(|route| route.settings.limit.per_ip);
    let streams = limits.collect::<Option<Vec<_>>>()?.into_iter().max()?;
    let connections = streams.get().saturating_mul(CONNECTIONS_PER_STREAM);
    NonZeroU32::new(connections.max(MIN_CONNECTIONS))
}

/// Proxies carry many clients, and what any route's limit allows is not limited here either.
fn unbounded(proxy: Scope<'_>, routes: &[Route]) -> Result<Vec<IpNet>, Mistake> {
    let mut networks: Vec<IpNet> = proxy.get("trusted_proxies")?;
    for route in routes {
        networks.extend(&route.settings.limit.allow);
    }
    networks.sort_unstable();
    networks.dedup();
    Ok(networks)
}

fn drain(proxy: Scope<'_>) -> Result<Drain, Mistake> {
    let window = proxy.get("drain.window")?;
    let answers: Duration = proxy.get("drain.answers")?;
    Ok(Drain {
        delay: proxy.get("drain.delay")?,
        window,
        answers: answers.max(window),
    })
}

/// A default that is raised does not contradict anything.
fn raised_answers(proxy: Scope<'_>, drain: &Drain) -> Result<Option<String>, Mistake> {
    const KEY: &str = "drain.answers";
    let answers: Duration = proxy.get(KEY)?;
    let is_given = |given: &Given| given.place != Place::Default;
    let is_raised = answers < drain.answers && proxy.given(KEY).is_some_and(is_given);
    Ok(is_raised.then(|| {
        format!(
            "drain.answers {} is below drain.window {}, and raised to it: set it to the window or more",
            format_duration(answers),
            format_duration(drain.window)
        )
    }))
}

fn ready_when(
    proxy: Scope<'_>,
    overrides: &[RouteLayer],
    problems: &mut Vec<Mistake>,
) -> Result<ReadyWhen, Mistake> {
    const KEY: &str = "ready.when";
    // Also those without a URL, which is a mistake of its own.
    let mut paths: Vec<&str> = overrides.iter().map(|over| over.path.as_str()).collect();
    let everything = RoutePath::everything();
    if proxy.given(URL).is_some() {
        paths.push(everything.as_str());
    }
    let when = proxy.get(KEY)?;
    if let (ReadyWhen::Routes(named), Some(given)) = (&when, proxy.given(KEY)) {
        for name in named.iter().filter(|name| !paths.contains(&name.as_str())) {
            let hint = match suggest::nearest(name, paths.iter().copied()) {
                Some(path) => format!("; did you mean \"{path}\"?"),
                None => "; name a route as its path is spelled".to_owned(),
            };
            let problem = format!("no route has the path {name:?}{hint}");
            problems.push(Mistake::new(given.place.clone(), KEY, problem));
        }
    }
    Ok(when)
}

fn budget<T: FromValue>(
    proxy: Scope<'_>,
    name: &str,
    number: impl Fn(T) -> u64,
) -> Result<Budget, Mistake> {
    if proxy.given(name).is_none() {
        return Ok(Budget::Auto);
    }
    let given: Option<T> = proxy.get(name)?;
    Ok(given.map_or(Budget::Off, |given| Budget::Of(number(given))))
}

const LISTEN: &str = "listen";
const ADMIN_LISTEN: &str = "admin.listen";
const ADMIN_TOKEN: &str = "admin.token";
/// The keys of [`admin_access`].
pub(super) const ADMIN_ACCESS: [&str; 2] = [ADMIN_LISTEN, ADMIN_TOKEN];

/// The admin address and its token; none where the value is missing.
pub(super) fn admin_access(global: &Layer) -> (Option<SocketAddr>, Option<String>) {
    let proxy = Scope {
        global,
        route: None,
    };
    let listen: Result<Option<_>, _> = proxy.get(ADMIN_LISTEN);
    let token: Result<Option<_>, _> = proxy.get(ADMIN_TOKEN);
    (listen.unwrap_or_default(), token.unwrap_or_default())
}

fn admin(
    proxy: Scope<'_>,
    clients: SocketAddr,
    problems: &mut Vec<Mistake>,
) -> Result<Admin, Mistake> {
    let header: Option<String> = proxy.get("admin.user_header")?;
    let given = proxy.given(ADMIN_LISTEN);
    let admin = Admin {
        listen: proxy.get(ADMIN_LISTEN)?,
        token: proxy.get(ADMIN_TOKEN)?,
        user_header: header.and_then(|name| name.parse().ok()),
    };
    if let Some(address) = admin.listen
        && check::overlap(address, clients)
    {
        problems.extend(overlapping(proxy, address, clients));
    }
    if let Some(address) = admin.listen
        && !address.ip().is_loopback()
        && admin.token.is_none()
    {
        let problem = "is reachable from other machines: set admin.token, by SSE_GUARD_ADMIN_TOKEN or \
                       in the file, or listen on 127.0.0.1";
        let given = given.map(|given| given.place.clone());
        problems.extend(given.map(|place| Mistake::new(place, ADMIN_LISTEN, problem)));
    }
    Ok(admin)
}

/// The mistake of two addresses that no process can listen on at once, at a key that is not a default.
fn overlapping(proxy: Scope<'_>, admin: SocketAddr, clients: SocketAddr) -> Option<Mistake> {
    let given = proxy.given(ADMIN_LISTEN);
    let given = given.filter(|given| !matches!(given.place, Place::Default));
    let (key, given, other) = match given {
        Some(given) => (ADMIN_LISTEN, given, format!("{LISTEN} = \"{clients}\"")),
        None => {
            let other = format!("{ADMIN_LISTEN} = \"{admin}\", the default");
            (LISTEN, proxy.given(LISTEN)?, other)
        }
    };
    let problem = format!(
        "overlaps {other}: clients and operators need different addresses; choose another port, or \
         admin.listen = \"off\""
    );
    Some(Mistake::new(given.place.clone(), key, problem))
}

fn settings(scope: Scope<'_>) -> Result<Settings, Mistake> {
    Ok(Settings {
        family: family(scope)?,
        upstream: Upstream {
            url: scope.get(URL)?,
            connect_timeout: scope.get("upstream.connect_timeout")?,
            idle_timeout: scope.get("upstream.idle_timeout")?,
            head_timeout: scope.get("upstream.head_timeout")?,
            body_timeout: scope.get("client.body_timeout")?,
            max_pending: scope.get("upstream.max_pending")?,
            max_body: scope.get("upstream.max_body")?,
            keepalive: scope.get("upstream.keepalive")?,
            user_timeout: scope.get("upstream.user_timeout")?,
            max_head: scope.get("upstream.max_head")?,
            title_case_headers: scope.get("upstream.title_case_headers")?,
            receive_buffer: scope.get("upstream.receive_buffer")?,
            tunnel_idle_timeout: scope.get("tunnel.idle_timeout")?,
            health_check: HealthCheck {
                interval: scope.get("health_check.interval")?,
                path: scope.get("health_check.path")?,
            },
        },
        cache_control: scope.get("upstream.cache_control")?,
        unavailable: scope.get("upstream.unavailable")?,
        heartbeat: Heartbeat {
            interval: scope.get("heartbeat.interval")?,
            style: style(scope)?,
            immediate: scope.get("heartbeat.immediate")?,
        },
        cors: scope
            .get::<Option<Origins>>("cors.allowed_origins")?
            .unwrap_or(Origins::Off),
        early: early(scope)?,
        idle: Idle {
            timeout: scope.get("idle.timeout")?,
            event_timeout: scope.get("idle.event_timeout")?,
            action: scope.get("idle.action")?,
            error_event: scope.get("idle.error_event")?,
            error_data: scope.get("idle.error_data")?,
            ignore_events: scope.get("idle.ignore_events")?,
        },
        limit: limit(scope)?,
        rotation: Rotation {
            max_age: scope.get("rotation.max_age")?,
            jitter: scope.get("rotation.jitter")?,
            retry: scope.get("rotation.retry")?,
            retry_on_open: scope.get("rotation.retry_on_open")?,
            methods: match scope.given("rotation.methods") {
                Some(_) => Some(scope.get("rotation.methods")?),
                None => None,
            },
            event: match scope.get("rotation.event")? {
                Some(name) => Some((name, scope.get("rotation.data")?)),
                None => None,
            },
        },
        resume: resume(scope)?,
        completion_required: scope.get("completion.required")?,
        health: Health {
            baseline: scope.get("health.baseline")?,
            min_event_rate: scope.get("health.min_event_rate")?,
            max_first_event_p95: scope.get("health.max_first_event_p95")?,
            max_gap_p99: scope.get("health.max_gap_p99")?,
            max_error_rate: scope.get("health.max_error_rate")?,
            early_ends: scope.get("health.early_ends")?,
            reconnects: scope.get("health.reconnects")?,
        },
    })
}

fn limit(scope: Scope<'_>) -> Result<Limit, Mistake> {
    Ok(Limit {
        per_ip: scope.get(PER_IP)?,
        requests_per_ip: requests_per_ip(scope)?,
        total: scope.get("limit.total")?,
        max_clients: scope.get("limit.max_clients")?,
        rate: scope.get("limit.rate")?,
        burst: scope.get("limit.burst")?,
        ipv6_prefix: scope.get("limit.ipv6_prefix")?,
        allow: scope.get("limit.allow")?,
        reject: scope.get("limit.reject")?,
        retry_after: scope.get("limit.retry_after")?,
    })
}

fn resume(scope: Scope<'_>) -> Result<Option<Resume>, Mistake> {
    let mode: String = match scope.given("resume.mode") {
        Some(_) => scope.get("resume.mode")?,
        None if family(scope)? == Some(Family::EventSource) => "on".into(),
        None => "off".into(),
    };
    if mode == "off" {
        return Ok(None);
    }
    Ok(Some(Resume {
        lossy: mode == "lossy",
        on_end: scope.get("resume.on_end")?,
        backoff: scope.get("resume.backoff")?,
        max_backoff: scope.get("resume.max_backoff")?,
        attempts: scope.get("resume.attempts")?,
        give_up: scope.get("resume.give_up")?,
        reset_after: scope.get("resume.reset_after")?,
        dedup_window: scope.get("resume.dedup_window")?,
        rate: scope.get("resume.rate")?,
        max_concurrent: scope.get("resume.max_concurrent")?,
        max_connection_age: scope.get("resume.max_connection_age")?,
    }))
}

fn early(scope: Scope<'_>) -> Result<Early, Mistake> {
    let heartbeat: Option<Duration> = scope.get("heartbeat.interval")?;
    let after = match scope.given("early.after") {
        Some(_) => scope.get("early.after")?,
        None => heartbeat.unwrap_or(DEFAULT_INTERVAL),
    };
    Ok(Early {
        enabled: scope.get("early.enabled")?,
        after,
    })
}

/// None for `auto`.
fn family(scope: Scope<'_>) -> Result<Option<Family>, Mistake> {
    let word: String = scope.get("family")?;
    let mut all = Family::ALL.iter().copied();
    Ok(all.find(|family| family.as_str() == word))
}

fn style(scope: Scope<'_>) -> Result<Style, Mistake> {
    let style: String = scope.get("heartbeat.style")?;
    Ok(match style.as_str() {
        "block" => Style::Block {
            text: scope.get("heartbeat.text")?,
        },
        "event" => Style::Event {
            name: scope.get("heartbeat.event")?,
            data: scope.get("heartbeat.data")?,
        },
        "line" => Style::Line {
            text: scope.get("heartbeat.text")?,
        },
        _ => Style::Auto {
            text: scope.get("heartbeat.text")?,
        },
    })
}

/// The values that hold for a route, or for the proxy as a whole.
#[derive(Clone, Copy)]
struct Scope<'a> {
    global: &'a Layer,
    route: Option<&'a Layer>,
}

impl<'a> Scope<'a> {
    fn given(self, name: &str) -> Option<&'a Given> {
        self.route
            .and_then(|route| route.get(name))
            .or_else(|| self.global.get(name))
    }

    fn get<T: FromValue>(self, name: &str) -> Result<T, Mistake> {
        let missing = || Mistake::new(Place::Config, name, "missing");
        let given = self.given(name).ok_or_else(missing)?;
        T::from_value(&given.value)
            .ok_or_else(|| Mistake::new(given.place.clone(), name, "is of another kind"))
    }
}

/// What a [`Value`] of the right kind becomes in the typed config.
trait FromValue: Sized {
    fn from_value(value: &Value) -> Option<Self>;
}

impl<T: FromValue> FromValue for Option<T> {
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Off | Value::Auto => Some(None),
            value => T::from_value(value).map(Some),
        }
    }
}

impl FromValue for EventTimeout {
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Auto => Some(Self::Auto),
            value => Option::<Duration>::from_value(value).map(Self::from),
        }
    }
}

/// One impl per type that a variant holds as it is.
macro_rules! from_variant {
    ($($variant:ident => $type:ty,)*) => {
        $(impl FromValue for $type {
            fn from_value(value: &Value) -> Option<Self> {
                match value {
                    Value::$variant(inner) => Some(inner.clone()),
                    _ => None,
                }
            }
        })*
    };
}

from_variant! {
    Duration => Duration,
    Count => NonZeroU32,
    Size => u64,
    Rate => Rate,
    Fraction => f64,
    Bool => bool,
    Text => String,
    Address => SocketAddr,
    Url => Uri,
    Path => PathAndQuery,
    Networks => Vec<IpNet>,
    Words => Vec<String>,
    Methods => Vec<Method>,
    Origins => Origins,
    ReadyWhen => ReadyWhen,
    Prefix => u8,
}

/// One impl per type of a size; the kind guarantees that the value fits.
macro_rules! from_size {
    ($($type:ty,)*) => {
        $(impl FromValue for $type {
            fn from_value(value: &Value) -> Option<Self> {
                u64::from_value(value)?.try_into().ok()
            }
        })*
    };
}

from_size! { u32, usize, }

/// One impl per type of a choice.
macro_rules! from_words {
    ($($type:ident { $($word:literal => $variant:ident,)* })*) => {
        $(impl FromValue for $type {
            fn from_value(value: &Value) -> Option<Self> {
                match value {
                    Value::Text(word) => match word.as_str() {
                        $($word => Some(Self::$variant),)*
                        _ => None,
                    },
                    _ => None,
                }
            }
        })*
    };
}

from_words! {
    Normalize {
        "match" => Match,
        "rewrite" => Rewrite,
        "off" => Off,
    }
    Takeover {
        "drain" => Drain,
        "always" => Always,
        "off" => Off,
    }
    TrustedHeader {
        "x-forwarded-for" => XForwardedFor,
        "forwarded" => Forwarded,
    }
    LogFormat {
        "text" => Text,
        "json" => Json,
    }
    LogRequests {
        "off" => Off,
        "errors" => Errors,
        "all" => All,
    }
    RequestsFormat {
        "log" => Log,
        "combined" => Combined,
    }
    Level {
        "error" => Error,
        "warn" => Warn,
        "info" => Info,
        "debug" => Debug,
        "trace" => Trace,
    }
    IdleAction {
        "auto" => Auto,
        "close" => Close,
        "error-event" => ErrorEvent,
        "abort" => Abort,
    }
    CacheControl {
        "replace" => Replace,
        "keep" => Keep,
    }
    Unavailable {
        "wait" => Wait,
        "retry-later" => RetryLater,
        "status" => Status,
    }
    Reject {
        "status" => Status,
        "retry-later" => RetryLater,
    }
}

#[cfg(test)]
mod tests;
