//! Liveness (`/healthz`) and readiness (`/readyz`).

use super::super::config::ReadyWhen;
use super::super::control::Command;
use super::super::overload::LoadLevel;
use super::SharedAdmin;
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

/// A condition of readiness.
#[derive(Debug, Serialize)]
struct ReadinessCondition {
    ok: bool,
    /// Seconds since its last change.
    since_s: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// It fails, but readiness does not depend on it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    tolerated: bool,
}

impl ReadinessCondition {
    fn new(red_since: Option<Duration>, well_since: Instant, reason: impl Into<String>) -> Self {
        Self {
            ok: red_since.is_none(),
            since_s: red_since.unwrap_or_else(|| well_since.elapsed()).as_secs(),
            reason: red_since.map(|_| reason.into()),
            tolerated: false,
        }
    }
}

/// Readiness, and the conditions that it depends on.
pub(super) struct Readiness {
    pub(super) is_ready: bool,
    pub(super) parts: Map<String, Value>,
    /// The value of `ready.when`.
    pub(super) when: Value,
    /// In the order of the config.
    routes: Vec<Value>,
    upstreams: Vec<Value>,
}

/// Whether readiness does not require the upstream of these routes, which is unreachable, to be
/// reachable.
fn is_tolerated<'a>(
    when: &ReadyWhen,
    is_any_reachable: bool,
    mut routes: impl Iterator<Item = &'a str>,
) -> bool {
    match when {
        ReadyWhen::Any => is_any_reachable,
        ReadyWhen::All => false,
        ReadyWhen::Routes(named) => !routes.any(|path| named.iter().any(|name| name == path)),
    }
}

pub(super) fn readiness(admin: &super::Admin) -> Readiness {
    let phases = admin.state.carryover.phases();
    let stopping = phases.stopping_since();
    let mut parts = vec![(
        "listener".to_owned(),
        ReadinessCondition::new(
            stopping.map(|since| since.elapsed()),
            admin.started,
            phases.now().reason(),
        ),
    )];
    let active = admin.state.active();
    let refusal = admin.state.reload_error();
    parts.push((
        "config".to_owned(),
        ReadinessCondition {
            // The previous config stays in use, so readiness does not change.
            ok: true,
            since_s: active.since.elapsed().as_secs(),
            reason: refusal.map(|why| format!("the last reload failed: {why}")),
            tolerated: false,
        },
    ));
    let router = &active.router;
    let when = &active.config().ready_when;
    let states: Vec<_> = router
        .endpoints()
        .upstreams()
        .map(|upstream| (upstream.url(), upstream.state()))
        .collect();
    let is_any_reachable = states.iter().any(|(_, state)| state.is_reachable);
    let mut upstreams = Vec::new();
    for (url, state) in &states {
        let red = (!state.is_reachable).then(|| state.since.elapsed());
        let reason = state.last_failure.as_deref().unwrap_or_default();
        let mut condition = ReadinessCondition::new(red, state.since, reason);
        let routes = router.views().filter(|view| view.upstream == *url);
        condition.tolerated =
            !condition.ok && is_tolerated(when, is_any_reachable, routes.map(|view| view.path));
        upstreams.push(json!({
            "url": url.to_string(),
            "reachable": condition.ok,
            "since_s": condition.since_s,
            "reason": condition.reason,
        }));
        parts.push((format!("upstream {url}"), condition));
    }
    let routes = router.views().map(|view| {
        let of_it = |(url, _): &&(_, _)| *url == view.upstream;
        let is_reachable = states
            .iter()
            .find(of_it)
            .is_some_and(|(_, state)| state.is_reachable);
        json!({
            "path": view.path,
            "upstream": view.upstream.to_string(),
            "reachable": is_reachable,
        })
    });
    let routes = routes.collect();
    for (resource, status) in admin.state.carryover.budgets.status() {
        let red = (status.level > LoadLevel::Normal).then(|| status.since.elapsed());
        let condition = ReadinessCondition::new(red, status.since.into_std(), status.to_string());
        parts.push((resource.as_str().to_owned(), condition));
    }
    let parts_json = parts
        .iter()
        .map(|(name, condition)| (name.clone(), json!(condition)));
    Readiness {
        is_ready: parts
            .iter()
            .all(|(_, condition)| condition.ok || condition.tolerated),
        parts: parts_json.collect(),
        when: match when {
            ReadyWhen::Any => "any".into(),
            ReadyWhen::All => "all".into(),
            ReadyWhen::Routes(routes) => json!(routes),
        },
        routes,
        upstreams,
    }
}

pub(super) async fn readyz(
    State(admin): State<SharedAdmin>,
    headers: HeaderMap,
) -> impl IntoResponse {
    let readiness = readiness(&admin);
    let status = match readiness.is_ready {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    let mut body = json!({ "ready": readiness.is_ready });
    // Names of upstreams and files are none of a stranger's business.
    if Access::by(&admin.state.active()).is_shown(&headers) {
        let carryover = &admin.state.carryover;
        body["phase"] = carryover.phases().now().as_str().into();
        body["ready_when"] = readiness.when;
        body["parts"] = readiness.parts.into();
        body["routes"] = readiness.routes.into();
        body["upstreams"] = readiness.upstreams.into();
        body["health"] = json!(admin.state.health.reports(&carryover.budgets));
    }
    let body = Json(body);
    (status, [(CACHE_CONTROL, "no-store")], body)
}

pub(super) async fn drain(State(admin): State<SharedAdmin>) -> impl IntoResponse {
    let drain = admin.state.active().config().drain;
    let streams = admin.streams().live();
    tracing::info!(streams, "the admin API stops the proxy");
    // Without a receiver the drain has already ended.
    let _ = admin.commands.send(Command::Stop).await;
    let body = json!({
        "draining": streams,
        "delay_s": drain.delay.as_secs_f64(),
        "window_s": drain.window.as_secs_f64(),
        "answers_s": drain.answers.as_secs_f64(),
    });
    (StatusCode::ACCEPTED, Json(body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_when_tells_which_unreachable_upstreams_are_tolerated() {
        let named = ReadyWhen::Routes(vec!["/a".to_owned(), "/b".to_owned()]);
        for (when, is_any_reachable, routes, expected) in [
            (&ReadyWhen::Any, true, ["/a", "/c"], true),
            (&ReadyWhen::Any, false, ["/a", "/c"], false),
            (&ReadyWhen::All, true, ["/a", "/c"], false),
            (&named, true, ["/a", "/c"], false),
            (&named, true, ["/c", "/b"], false),
            (&named, false, ["/c", "/d"], true),
        ] {
            let found = is_tolerated(when, is_any_reachable, routes.into_iter());
            assert_eq!(found, expected, "{when:?} {is_any_reachable} {routes:?}");
        }
    }
}
