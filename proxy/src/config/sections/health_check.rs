//! `[health_check]`: active health checks of an upstream.

use std::time::Duration;

use http::Uri;
use http::uri::PathAndQuery;

use super::super::given::Scope;
use super::super::key::{Key, Table};
use super::super::kind::Shape;
use super::super::mistake::Mistake;

pub(super) const TABLE: Table = Table {
    name: "health_check",
    about: "Active health checks of the upstream.",
    reference: "Active health checks of the upstream.",
    keys: &[
        Key::route("health_check.interval", Shape::Duration)
            .or_off()
            .default("off")
            .formerly("upstream.check")
            .help("Interval of active health checks; off: judge by live traffic only")
            .advice(
                "After the third failed check the upstream counts as unreachable (ready.when), \
                 until a check passes. At most once per second. An upstream.url that several \
                 routes share is checked with the settings of the first of them.",
            ),
        Key::route("health_check.path", Shape::Path)
            .or_off()
            .default("off")
            .formerly("upstream.check_path")
            .help(
                "Path to GET for a health check, which passes with a 2xx or 3xx response; off: \
                 connecting is enough",
            )
            .advice(
                "The path starts at the root of the host, whatever path upstream.url has; the \
                 response must begin within health_check.timeout. Set it for an upstream that may \
                 accept connections without responding. Example: \"/healthz\".",
            ),
        Key::route("health_check.timeout", Shape::Duration)
            .default("5s")
            .help("Time limit for the response head of a health check, once it is connected")
            .advice("Raise it for an upstream whose check queries other servers."),
    ],
};

/// Active health checks of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// Time between two checks; above zero; no checks if `None`.
    pub interval: Option<Duration>,
    /// Path to GET, from the root of the host on; if `None`, to connect is enough.
    pub path: Option<PathAndQuery>,
    /// Time limit for the response head, once it is connected; above zero.
    pub timeout: Duration,
}

impl HealthCheck {
    pub(in super::super) fn read(scope: Scope<'_>) -> Result<Self, Mistake> {
        Ok(Self {
            interval: scope.get("health_check.interval")?,
            path: scope.get("health_check.path")?,
            timeout: scope.get("health_check.timeout")?,
        })
    }
}

/// The health check of a route.
#[derive(Clone, Copy)]
pub(in super::super) struct RouteCheck<'a> {
    pub(in super::super) route: &'a str,
    pub(in super::super) upstream: &'a Uri,
    pub(in super::super) check: &'a HealthCheck,
}

/// Settings that have no effect.
pub(in super::super) fn warnings(routes: &[RouteCheck<'_>]) -> Vec<String> {
    let mut warnings = Vec::new();
    for (index, route) in routes.iter().enumerate() {
        warnings.extend(other_checks(route, &routes[..index], &routes[index + 1..]));
    }
    warnings.extend(path_without_interval(routes));
    warnings
}

/// Later routes to the upstream that this one is the first to check, with other settings.
fn other_checks(
    first: &RouteCheck<'_>,
    earlier: &[RouteCheck<'_>],
    later: &[RouteCheck<'_>],
) -> Option<String> {
    let checks = |other: &&RouteCheck<'_>| {
        other.upstream == first.upstream && other.check.interval.is_some()
    };
    let is_first = checks(&first) && !earlier.iter().any(|other| checks(&other));
    let differs = |other: &&RouteCheck<'_>| other.check != first.check;
    let others = later.iter().filter(checks).filter(differs);
    let others: Vec<_> = others.map(|other| other.route).collect();
    (is_first && !others.is_empty()).then(|| {
        format!(
            "upstream {} is checked with the settings of route {}, which comes first: the \
             different health_check of route {} has no effect",
            first.upstream,
            first.route,
            others.join(", ")
        )
    })
}

/// A path without an interval, unless others are checked by it: one route may well switch that off.
fn path_without_interval(routes: &[RouteCheck<'_>]) -> Option<String> {
    let checked = |path: &Option<PathAndQuery>| {
        let mut checks = routes.iter().map(|route| route.check);
        checks.any(|check| check.interval.is_some() && check.path == *path)
    };
    let mut paths = routes.iter().map(|route| &route.check.path);
    let is_unused = paths.any(|path| path.is_some() && !checked(path));
    is_unused.then(|| {
        "health_check.path has no effect while health_check.interval is off: set the interval"
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use crate::config::source::tests::{from_file, warnings};

    #[test]
    fn health_check_of_an_upstream_is_that_of_the_first_of_its_routes() {
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
    fn health_check_path_may_be_that_of_other_routes() {
        let text = "health_check.interval = '1s'\nhealth_check.path = '/up'\n\
             [[route]]\npath = '/a'\nupstream.url = 'http://other'\nhealth_check.interval = 'off'";
        assert!(warnings(text).is_empty());
    }
}
