//! `/metrics`: the numbers of all layers and of the process, as Prometheus text.

use super::Shared;
use crate::metrics::BUCKETS;
use crate::proxy::{budget, judge};
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use metrics_process::Collector;

/// Streams live for as long as rotation lets them.
const AGES: [f64; 12] = [
    1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 7200.0, 14400.0, 43200.0, 86400.0,
];

/// Where all metrics of the process go.
pub(in crate::proxy) struct Exporter {
    handle: PrometheusHandle,
    process: Collector,
}

impl Exporter {
    /// From here on metrics are counted; what was before is not.
    pub(in crate::proxy) fn install() -> Result<Self, BuildError> {
        let ages = Matcher::Full("sse_guard_stream_duration_seconds".into());
        let handle = PrometheusBuilder::new()
            .set_buckets(&BUCKETS)?
            .set_buckets_for_metric(ages, &AGES)?
            .install_recorder()?;
        crate::metrics::describe();
        budget::describe();
        judge::describe();
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

    /// Adds up what has been timed, which waits in memory until then.
    pub(super) fn tidy(&self) {
        self.handle.run_upkeep();
    }

    fn render(&self) -> String {
        self.process.collect();
        self.handle.render()
    }
}

pub(super) async fn metrics(State(admin): State<Shared>) -> impl IntoResponse {
    let version = "text/plain; version=0.0.4; charset=utf-8";
    ([(CONTENT_TYPE, version)], admin.exporter.render())
}
