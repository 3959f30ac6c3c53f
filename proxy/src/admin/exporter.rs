//! `/metrics`: the numbers of all layers and of the process, as Prometheus text.

use super::{Admin, Shared};
use crate::{health, overload, request_log};
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use metrics_process::Collector;
use sse_guard::metrics::BUCKETS;
use std::collections::HashMap;

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
        metrics::describe_gauge!(
            "sse_guard_oldest_stream_age_seconds",
            metrics::Unit::Seconds,
            "Age of the oldest open stream, by route"
        );
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
        export_ages(admin);
        self.handle.render()
    }
}

/// The age of the oldest stream of each route: one that grows without end shows that no rotation ends it.
fn export_ages(admin: &Admin) {
    let mut oldest: HashMap<String, f64> = HashMap::new();
    for view in admin.state.active().router.views() {
        oldest.insert(view.path.to_owned(), 0.0);
    }
    for stream in admin.streams().streams() {
        if let Some(oldest) = stream.route().and_then(|route| oldest.get_mut(route)) {
            *oldest = oldest.max(stream.age().as_secs_f64());
        }
    }
    for (route, age) in oldest {
        metrics::gauge!("sse_guard_oldest_stream_age_seconds", "route" => route).set(age);
    }
}

pub(super) async fn metrics(State(admin): State<Shared>) -> impl IntoResponse {
    let version = "text/plain; version=0.0.4; charset=utf-8";
    ([(CONTENT_TYPE, version)], admin.exporter.render(&admin))
}
