//! `/healthz` and `/readyz`: for those who restart us, and for those who send us clients.

use super::super::budget::Level;
use super::super::server::Word;
use super::Shared;
use super::access::Access;
use axum::Json;
use axum::extract::State;
use axum::http::header::CACHE_CONTROL;
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::time::{Duration, Instant};

pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// One thing that has to be well for new streams to be welcome.
#[derive(Debug, Serialize)]
struct Part {
    ok: bool,
    /// For how long it has been so.
    since_s: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl Part {
    fn new(red_since: Option<Duration>, well_since: Instant, reason: impl Into<String>) -> Self {
        Self {
            ok: red_since.is_none(),
            since_s: red_since.unwrap_or_else(|| well_since.elapsed()).as_secs(),
            reason: red_since.map(|_| reason.into()),
        }
    }
}

/// Whether new streams are welcome, and the parts that tell.
pub(super) fn readiness(admin: &super::Admin) -> (bool, Map<String, Value>) {
    let phases = admin.running.common.phases();
    let stopping = phases.stopping_since();
    let mut parts = vec![(
        "listener".to_owned(),
        Part::new(
            stopping.map(|since| since.elapsed()),
            admin.started,
            phases.now().reason(),
        ),
    )];
    let current = admin.running.current();
    let refusal = admin.running.last_refusal();
    parts.push((
        "config".to_owned(),
        Part {
            // The one before holds, so that there is no reason to send clients elsewhere.
            ok: true,
            since_s: current.since.elapsed().as_secs(),
            reason: refusal.map(|why| format!("the last reload was refused: {why}")),
        },
    ));
    for upstream in current.router.upstreams() {
        let state = upstream.state();
        let red = (!state.is_reachable).then(|| state.since.elapsed());
        let reason = state.last_failure.unwrap_or_default();
        parts.push((
            format!("upstream {}", upstream.url()),
            Part::new(red, state.since, reason),
        ));
    }
    for (resource, status) in admin.running.common.budgets.status() {
        let red = (status.level > Level::Room).then(|| status.since.elapsed());
        let part = Part::new(red, status.since.into_std(), status.to_string());
        parts.push((resource.as_str().to_owned(), part));
    }
    let ready = parts.iter().all(|(_, part)| part.ok);
    let parts = parts.into_iter().map(|(name, part)| (name, json!(part)));
    (ready, parts.collect())
}

pub(super) async fn readyz(State(admin): State<Shared>, headers: HeaderMap) -> impl IntoResponse {
    let (ready, parts) = readiness(&admin);
    let status = match ready {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    let mut body = json!({ "ready": ready });
    // Names of upstreams and files are none of a stranger's business.
    if Access::by(&admin.running.current()).is_shown(&headers) {
        let common = &admin.running.common;
        body["phase"] = common.phases().now().as_str().into();
        body["parts"] = parts.into();
        body["health"] = json!(common.judge.verdicts(&common.budgets));
    }
    let body = Json(body);
    (status, [(CACHE_CONTROL, "no-store")], body)
}

pub(super) async fn drain(State(admin): State<Shared>) -> impl IntoResponse {
    let drain = admin.running.current().config().drain;
    let streams = admin.streams().live();
    tracing::info!(streams, "the operator stops the proxy");
    // If nobody hears it any more, it is done already.
    let _ = admin.says.send(Word::Stop).await;
    let body = json!({
        "draining": streams,
        "delay_s": drain.delay.as_secs_f64(),
        "window_s": drain.window.as_secs_f64(),
        "answers_s": drain.answers.as_secs_f64(),
    });
    (StatusCode::ACCEPTED, Json(body))
}
