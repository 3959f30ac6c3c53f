//! Checks of combinations of values.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use http::Uri;
use humantime::format_duration;

use super::layer::RouteLayer;
use super::mistake::Mistake;
use super::settings::{Config, Settings, Unavailable};

/// Idle timeouts of other products, the shortest first.
const PEERS: &[(&str, u64)] = &[
    ("the Yaffle EventSource polyfill", 45),
    ("Heroku", 55),
    ("nginx", 60),
    ("AWS ALB", 60),
    ("Traefik", 60),
    ("Cloudflare", 100),
    ("Envoy", 300),
];

/// Beyond client.max_connections a client gets no response, not even a 429.
fn few_connections(config: &Config) -> Option<String> {
    let connections = config.client.max_connections?;
    let streams = config.routes.iter();
    let streams = streams
        .filter_map(|route| route.settings.limit.per_ip)
        .max()?;
    (connections < streams).then(|| {
        format!(
            "client.max_connections {connections} is below limit.per_ip {streams}: the client's \
             connections are closed before it reaches its limit of streams"
        )
    })
}

/// Host and port of an upstream; an IPv6 address without its brackets.
pub(crate) fn host_and_port(url: &Uri) -> (&str, u16) {
    let host = url.host().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    (host, url.port_u16().unwrap_or(80))
}

/// Whether requests to the upstream would come back to where we listen.
///
/// Names other than `localhost` are not looked up: what they mean may change at any time.
pub(super) fn loops(listen: SocketAddr, upstream: &Uri) -> bool {
    let (host, port) = host_and_port(upstream);
    if port != listen.port() {
        return false;
    }
    let host: IpAddr = match host.parse() {
        Ok(address) => address,
        Err(_) if host.eq_ignore_ascii_case("localhost") => IpAddr::V4(Ipv4Addr::LOCALHOST),
        Err(_) => return false,
    };
    let listening = listen.ip();
    let named_localhost = upstream
        .host()
        .is_some_and(|host| host.eq_ignore_ascii_case("localhost"));
    // Connecting to the unspecified address reaches this machine's loopback.
    let here = host.is_loopback() || host.is_unspecified();
    listening == host
        || (here && listening.is_unspecified())
        || ((host.is_unspecified() || named_localhost) && listening.is_loopback())
}

/// Whether no two sockets can listen on these addresses.
pub(super) fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    // Port 0 is another one each time.
    if one.port() != other.port() || one.port() == 0 {
        return false;
    }
    let covers = |all: SocketAddr, one: SocketAddr| match all.ip() {
        IpAddr::V4(ip) => ip.is_unspecified() && one.is_ipv4(),
        // A socket for both families.
        IpAddr::V6(ip) => ip.is_unspecified(),
    };
    let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), one.port());
    let (one, other) = (canonical(one), canonical(other));
    one.ip() == other.ip() || covers(one, other) || covers(other, one)
}

/// Settings that are allowed but probably unintended; with `catch_all` the last route is the implicit one.
pub(super) fn warnings(config: &Config, catch_all: bool) -> Vec<String> {
    let mut warnings: Vec<_> = few_connections(config).into_iter().collect();
    if config
        .trusted_proxies
        .iter()
        .any(|net| net.prefix_len() == 0)
    {
        warnings.push(
            "trusted_proxies trusts every address: any client can then claim any address; list \
             only the networks of your proxies"
                .to_owned(),
        );
    }
    if config.admin.user_header.is_some() && config.trusted_proxies.is_empty() {
        warnings.push(
            "admin.user_header is accepted only from trusted_proxies, which is empty: add the \
             gateway that sets the header"
                .to_owned(),
        );
    }
    let (fallback, routes) = match config.routes.split_last() {
        Some((last, routes)) if catch_all => (Some(last), routes),
        _ => (None, config.routes.as_slice()),
    };
    let global = fallback
        .map(|route| of_settings(&route.settings))
        .unwrap_or_default();
    for route in routes {
        let own = of_settings(&route.settings);
        let own = own.into_iter().filter(|warning| !global.contains(warning));
        warnings.extend(own.map(|warning| format!("route {}: {warning}", route.path)));
    }
    warnings.extend(global);
    warnings.extend(other_checks(config));
    warnings.extend(unasked_path(config));
    warnings
}

/// Routes that no request reaches.
pub(super) fn shadowed(routes: &[RouteLayer]) -> Vec<Mistake> {
    let mistakes = routes.iter().enumerate().filter_map(|(index, route)| {
        let mut earlier = routes[..index].iter();
        let first = earlier.find(|first| first.path.shadows(&route.path))?;
        let problem = format!(
            "no request reaches {}: route {} ({}) comes first and matches all its paths; put the \
             narrower route first, or remove one",
            route.path, first.path, first.place
        );
        Some(Mistake::new(route.place.clone(), "route.path", problem))
    });
    mistakes.collect()
}

/// Routes whose health check settings have no effect.
fn other_checks(config: &Config) -> impl Iterator<Item = String> {
    let routes = || config.routes.iter();
    routes().filter_map(move |first| {
        let held = &first.settings.upstream;
        let holder = config.checked_by(&held.url)?;
        let others = routes().filter(|other| {
            let own = &other.settings.upstream;
            let differs = own.health_check != held.health_check;
            own.url == held.url && own.health_check.interval.is_some() && differs
        });
        let others: Vec<_> = others.map(|other| other.path.as_str()).collect();
        (std::ptr::eq(holder, first) && !others.is_empty()).then(|| {
            format!(
                "upstream {} is checked with the settings of route {}, which comes first: the \
                 different health_check of route {} has no effect",
                held.url,
                first.path,
                others.join(", ")
            )
        })
    })
}

/// A path without a time, unless others are checked by it: one route may well switch that off.
fn unasked_path(config: &Config) -> Option<String> {
    let upstreams = || config.routes.iter().map(|route| &route.settings.upstream);
    let asked = |path| {
        upstreams().any(|own| {
            own.health_check.interval.is_some() && own.health_check.path.as_ref() == path
        })
    };
    let is_unasked = upstreams()
        .map(|own| own.health_check.path.as_ref())
        .any(|path| path.is_some() && !asked(path));
    is_unasked.then(|| {
        "health_check.path has no effect while health_check.interval is off: set the interval"
            .to_owned()
    })
}

fn of_settings(settings: &Settings) -> Vec<String> {
    let Settings {
        upstream,
        heartbeat,
        early,
        idle,
        limit,
        rotation,
        ..
    } = settings;
    let mut warnings = Vec::new();
    if early.enabled && early.after >= upstream.head_timeout {
        warnings.push(format!(
            "early.after {} is not below upstream.head_timeout {}: the request fails before the \
             early answer begins",
            format_duration(early.after),
            format_duration(upstream.head_timeout)
        ));
    }
    if settings.unavailable == Unavailable::Wait && settings.resume.is_none() {
        warnings.push(
            "upstream.unavailable = \"wait\" requires resume.mode, which is off: it acts as \
             retry-later; set resume.mode"
                .to_owned(),
        );
    }
    match (heartbeat.interval, idle.timeout) {
        (None, None) => warnings.push(
            "heartbeat.interval and idle.timeout are both off: a stream may stay open forever \
             after its other end is gone"
                .to_owned(),
        ),
        (Some(interval), timeout) => {
            warnings.extend(slow_heartbeat(interval));
            let late = |name: &str, end: Duration| {
                format!(
                    "heartbeat.interval {} is not below {name} {}: quiet streams end before a \
                     heartbeat is due",
                    format_duration(interval),
                    format_duration(end)
                )
            };
            if let Some(timeout) = timeout.filter(|timeout| interval >= *timeout) {
                warnings.push(late("idle.timeout", timeout));
            }
            if let Some(max_age) = rotation.max_age.filter(|max_age| interval >= *max_age) {
                warnings.push(late("rotation.max_age", max_age));
            }
        }
        (None, Some(_)) => {}
    }
    if let Some(max_age) = rotation
        .max_age
        .filter(|max_age| rotation.retry >= *max_age)
    {
        warnings.push(format!(
            "rotation.retry {} is not below rotation.max_age {}: clients wait longer than they \
             are connected",
            format_duration(rotation.retry),
            format_duration(max_age)
        ));
    }
    if let (Some(per_ip), Some(total)) = (limit.per_ip, limit.total)
        && per_ip > total
    {
        warnings.push(format!(
            "limit.per_ip {per_ip} is above limit.total {total}: one client may take every stream"
        ));
    }
    warnings
}

fn slow_heartbeat(interval: Duration) -> Option<String> {
    let late: Vec<String> = PEERS
        .iter()
        .filter(|(_, cut)| interval >= Duration::from_secs(*cut))
        .map(|(name, cut)| format!("{name} ({})", format_duration(Duration::from_secs(*cut))))
        .collect();
    if late.is_empty() {
        return None;
    }
    Some(format!(
        "heartbeat.interval {} is not below the idle timeout of {}, which cut quiet streams",
        format_duration(interval),
        late.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::super::source::tests::{from_file, problems};

    fn warnings(text: &str) -> Vec<String> {
        let text = format!("upstream.url = 'http://app'\n{text}");
        from_file(&text).unwrap().config.warnings
    }

    #[test]
    fn a_heartbeat_slower_than_a_peer_names_that_peer() {
        assert!(warnings("heartbeat.interval = '44s'").is_empty());
        let nginx = &warnings("heartbeat.interval = '1m'")[0];
        for name in ["Yaffle", "Heroku (55s)", "nginx (1m)", "ALB", "Traefik"] {
            assert!(nginx.contains(name), "{nginx}");
        }
        assert!(!nginx.contains("Cloudflare"), "{nginx}");
        assert!(warnings("heartbeat.interval = '5m'")[0].contains("Envoy (5m)"));
    }

    #[test]
    fn values_that_defeat_each_other_are_warned_of() {
        let cases = [
            (
                "heartbeat.interval = 'off'\nidle.timeout = 'off'",
                "both off",
            ),
            ("idle.timeout = '15s'", "not below idle.timeout 15s"),
            ("rotation.max_age = '10s'", "not below rotation.max_age 10s"),
            ("rotation.retry = '2h'", "clients wait longer"),
            (
                "limit.total = 10",
                "limit.per_ip 100 is above limit.total 10",
            ),
            ("trusted_proxies = ['0.0.0.0/0']", "trusts every address"),
            ("admin.user_header = 'x-user'", "only from trusted_proxies"),
            ("health_check.path = '/up'", "set the interval"),
        ];
        for (text, part) in cases {
            let warnings = warnings(text);
            assert_eq!(warnings.len(), 1, "{warnings:?}");
            assert!(warnings[0].contains(part), "{warnings:?}");
        }
    }

    #[test]
    fn one_of_both_off_is_fine() {
        assert!(warnings("heartbeat.interval = 'off'").is_empty());
        assert!(warnings("idle.timeout = 'off'").is_empty());
    }

    #[test]
    fn a_route_warns_only_of_what_is_its_own() {
        let text =
            "limit.total = 10\n[[route]]\npath = '/a'\n[[route]]\npath = '/b'\nidle.timeout = '1s'";
        let warnings = warnings(text);
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        assert!(warnings[0].starts_with("route /b: heartbeat.interval 15s"));
        assert!(warnings[1].starts_with("limit.per_ip"));
    }

    #[test]
    fn of_routes_that_ask_for_other_checks_of_one_upstream_the_first_wins() {
        let routes = "[[route]]\npath = '/off'\n\
             [[route]]\npath = '/a'\nhealth_check.interval = '1s'\nhealth_check.path = '/up'\n\
             [[route]]\npath = '/b'\nhealth_check.interval = '1s'\nhealth_check.path = '/up'\n\
             [[route]]\npath = '/c'\nhealth_check.interval = '1s'\n\
             [[route]]\npath = '/d'\nhealth_check.interval = '2s'\nupstream.url = 'http://other'\n\
             [[route]]\npath = '/e'\nhealth_check.interval = '2s'\nhealth_check.path = '/up'";
        let warnings = warnings(routes);
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        let start = "upstream http://app/ is checked with the settings of route /a,";
        assert!(warnings[0].starts_with(start), "{warnings:?}");
        assert!(warnings[0].contains("of route /c, /e has"), "{warnings:?}");

        let text = format!("upstream.url = 'http://app'\n{routes}");
        let config = from_file(&text).unwrap().config;
        let route = |url: &str| Some(config.checked_by(&url.parse().unwrap())?.path.as_str());
        assert_eq!(route("http://app"), Some("/a"));
        assert_eq!(route("http://other"), Some("/d"));
        assert_eq!(route("http://third"), None);
    }

    #[test]
    fn a_route_may_switch_the_check_of_all_others_off() {
        let text = "health_check.interval = '1s'\nhealth_check.path = '/up'\n\
             [[route]]\npath = '/a'\nupstream.url = 'http://other'\nhealth_check.interval = 'off'";
        assert!(warnings(text).is_empty());
    }

    #[test]
    fn a_route_that_is_never_reached_is_refused_and_the_one_before_it_named() {
        let text = |first: &str, later: &str| {
            format!(
                "upstream.url = 'http://app'\n[[route]]\npath = '{first}'\n[[route]]\npath = '{later}'"
            )
        };
        let lines = problems(&text("/v1", "/v1/chat"));
        let told = "sse-guard.toml:4: route.path: no request reaches /v1/chat: route /v1 \
                    (sse-guard.toml:2) comes first and matches all its paths; put the narrower \
                    route first, or remove one";
        assert_eq!(lines, [told]);
        assert_eq!(problems(&text("/v1/*", "/v1/*")).len(), 1);
        assert!(from_file(&text("/v1/chat", "/v1")).is_ok());
        // The routes of the file stand before the one that takes all other paths.
        let all = "upstream.url = 'http://app'\n[[route]]\npath = '/'";
        assert!(from_file(all).is_ok());
    }

    #[test]
    fn an_early_answer_that_never_comes_is_warned_of() {
        let late = "early.after = '2m'";
        assert!(warnings(late).is_empty());
        let warnings = |text: &str| warnings(&format!("early.enabled = true\n{text}"));
        assert!(warnings("early.after = '1m'").is_empty());
        let told = "early.after 2m is not below upstream.head_timeout 2m:";
        assert!(warnings(late)[0].starts_with(told));
    }
}
