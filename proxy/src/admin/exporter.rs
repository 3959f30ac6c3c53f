//! `/metrics`: the numbers of all layers and of the process, as Prometheus text.

use super::{Admin, SharedAdmin};
use crate::{acme, health, overload, request_log};
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use metrics_process::Collector;
use sse_guard::internal::RefusedHeader;
use sse_guard::metrics::BUCKETS;
use std::collections::{HashMap, HashSet};

/// Streams live for as long as rotation lets them.
const AGES: [f64; 12] = [
    1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 7200.0, 14400.0, 43200.0, 86400.0,
];

/// Where all metrics of the process go.
pub(crate) struct Exporter {
    handle: PrometheusHandle,
    process: Collector,
}

impl Exporter {
    /// From here on metrics are counted; what was before is not.
    pub(crate) fn install() -> Result<Self, BuildError> {
        let ages = Matcher::Full("sse_guard_stream_duration_seconds".into());
        let handle = PrometheusBuilder::new()
            .set_buckets(BUCKETS)?
            .set_buckets_for_metric(ages, &AGES)?
            .install_recorder()?;
        sse_guard::describe_metrics();
        overload::describe();
        health::describe();
        request_log::describe();
        acme::describe();
        metrics::describe_gauge!(
            "sse_guard_oldest_stream_age_seconds",
            metrics::Unit::Seconds,
            "Age of the oldest open stream, by route"
        );
        metrics::describe_gauge!(
            "sse_guard_listener_connections",
            metrics::Unit::Count,
            "Open connections of clients, by listener"
        );
        metrics::describe_counter!(
            "sse_guard_proxy_headers_refused_total",
            metrics::Unit::Count,
            "Connections that were closed for lack of a PROXY header that counts, by reason"
        );
        for reason in RefusedHeader::ALL {
            metrics::counter!("sse_guard_proxy_headers_refused_total", "reason" => reason.as_str())
                .increment(0);
        }
        metrics::describe_gauge!(
            "sse_guard_build_info",
            metrics::Unit::Count,
            "Always 1; the version of sse-guard is a label"
        );
        metrics::gauge!("sse_guard_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
        let process = Collector::default();
        process.describe();
        Ok(Self { handle, process })
    }

    /// Of metrics that are not counted: a process has one recorder.
    #[cfg(test)]
    pub(crate) fn detached() -> Self {
        Self {
            handle: PrometheusBuilder::new().build_recorder().handle(),
            process: Collector::default(),
        }
    }

    /// Adds up what has been timed, which waits in memory until then.
    pub(super) fn tidy(&self) {
        self.handle.run_upkeep();
    }

    fn render(&self, admin: &Admin) -> String {
        self.process.collect();
        let current = Current {
            routes: export_ages(admin),
            listeners: export_listeners(admin),
        };
        current.series_of(&self.handle.render())
    }
}

/// The routes and the listeners that there are.
#[derive(Default)]
struct Current {
    routes: HashSet<String>,
    listeners: HashSet<String>,
}

impl Current {
    /// Their series, and those without a route and a listener. The recorder keeps each series to the end of the
    /// process, so that of a route that a reload has removed would stay as it was. Envoy and Traefik remove theirs
    /// then, too.
    fn series_of(&self, text: &str) -> String {
        let mut kept = String::with_capacity(text.len());
        for line in text.split_inclusive('\n') {
            let is_of_route =
                route_of(line).is_none_or(|route| route.is_empty() || self.routes.contains(&route));
            let listener = listener_of(line);
            if is_of_route && listener.is_none_or(|name| self.listeners.contains(&name)) {
                kept.push_str(line);
            }
        }
        kept
    }
}

/// The listener of a sample.
fn listener_of(line: &str) -> Option<String> {
    let labels = line.split_once('{').filter(|_| !line.starts_with('#'))?.1;
    label(labels, "listener")
}

/// The route of a sample; that of the health has it as its name.
fn route_of(line: &str) -> Option<String> {
    let labels = line.split_once('{').filter(|_| !line.starts_with('#'))?.1;
    label(labels, "route").or_else(|| {
        let kind = label(labels, "kind")?;
        (kind == "route").then(|| label(labels, "name")).flatten()
    })
}

/// The value of a label.
fn label(labels: &str, name: &str) -> Option<String> {
    let start = format!("{name}=\"");
    let (at, _) = labels
        .match_indices(&start)
        .find(|(at, _)| *at == 0 || labels[..*at].ends_with(','))?;
    let mut value = String::new();
    let mut chars = labels[at + start.len()..].chars();
    while let Some(char) = chars.next() {
        match char {
            '"' => return Some(value),
            '\\' => match chars.next()? {
                'n' => value.push('\n'),
                escaped => value.push(escaped),
            },
            _ => value.push(char),
        }
    }
    None
}

/// The open connections of each listener. Returns their names.
fn export_listeners(admin: &Admin) -> HashSet<String> {
    let connections = admin.state.carryover.connections_by_listener();
    let names = connections.into_iter().map(|(name, count)| {
        #[expect(clippy::cast_precision_loss, reason = "a number of connections")]
        let count = count as f64;
        metrics::gauge!("sse_guard_listener_connections", "listener" => name.to_string())
            .set(count);
        name.to_string()
    });
    names.collect()
}

/// The age of the oldest stream of each route: one that grows without end shows that no rotation ends it.
/// Returns the routes: those of the config, and those of streams that are still open.
fn export_ages(admin: &Admin) -> HashSet<String> {
    let mut oldest: HashMap<String, f64> = HashMap::new();
    for view in admin.state.active().router.views() {
        oldest.insert(view.path.to_owned(), 0.0);
    }
    for stream in admin.streams().streams() {
        let Some(route) = stream.route() else {
            continue;
        };
        let age = stream.age().as_secs_f64();
        match oldest.get_mut(route) {
            Some(oldest) => *oldest = oldest.max(age),
            // Of a route that a reload has removed.
            None => _ = oldest.insert(route.to_owned(), age),
        }
    }
    for (route, age) in &oldest {
        metrics::gauge!("sse_guard_oldest_stream_age_seconds", "route" => route.clone()).set(*age);
    }
    oldest.into_keys().collect()
}

pub(super) async fn metrics(State(admin): State<SharedAdmin>) -> impl IntoResponse {
    let version = "text/plain; version=0.0.4; charset=utf-8";
    ([(CONTENT_TYPE, version)], admin.exporter.render(&admin))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_of_routes_that_are_gone_are_left_out() {
        let text = "# TYPE streams counter\n\
                    streams{route=\"/v1\",outcome=\"ok\"} 1\n\
                    streams{outcome=\"ok\",route=\"/v2\"} 2\n\
                    streams{route=\"\"} 3\n\
                    age_bucket{route=\"/v1/*\",le=\"1\"} 4\n\
                    age_bucket{route=\"/a\\\"b\",le=\"1\"} 5\n\
                    up{subroute=\"/v3\"} 6\n\
                    health{kind=\"route\",name=\"/v2\"} 8\n\
                    health{kind=\"upstream\",name=\"/v2\"} 9\n\
                    connections{listener=\"b\"} 10\n\
                    process 7\n";
        let rendered = |routes: &[&str]| {
            let routes = routes.iter().map(|route| (*route).to_owned()).collect();
            let current = Current {
                routes,
                listeners: HashSet::from(["a".to_owned()]),
            };
            let text = current.series_of(text);
            let samples = text.lines().filter(|line| !line.starts_with('#'));
            let values = samples.filter_map(|line| line.split(' ').next_back()?.parse().ok());
            values.collect::<Vec<u32>>()
        };
        assert_eq!(
            rendered(&["/v1", "/v2", "/v1/*", "/a\"b"]),
            [1, 2, 3, 4, 5, 6, 8, 9, 7]
        );
        assert_eq!(rendered(&["/v1"]), [1, 3, 6, 9, 7]);
        assert_eq!(rendered(&["/a\"b"]), [3, 5, 6, 9, 7]);
        assert_eq!(rendered(&[]), [3, 6, 9, 7]);
        let text = Current::default().series_of(text);
        assert!(text.starts_with("# TYPE"));
    }
}
