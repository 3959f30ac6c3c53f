//! `/api/summary`: the current numbers and states.

use super::SharedAdmin;
use super::heads::Heads;
use super::health::readiness;
use super::history::ends;
use super::time::{millis, since_1970_of};
use crate::overload::{Budgets, Usage};
use crate::route::RouteView;
use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};
use sse_guard::Stream;
use sse_guard::client_key::ClientKey;
use sse_guard::internal::UnguardedResponses;
use sse_guard::metrics::Snapshot;
use std::collections::HashMap;

/// Clients that are named, those with most streams first.
const MAX_TOP_CLIENTS: usize = 10;

fn numbers(snapshot: &Snapshot) -> Value {
    json!({
        "active": snapshot.active,
        "waiting": snapshot.waiting,
        "opened": snapshot.opened,
        "rejected": snapshot.rejected,
        "events": snapshot.events,
        "bytes": snapshot.bytes,
        "ends": ends(|reason| snapshot.ended(reason)),
        "gap_p50_ms": snapshot.gaps.quantile(0.5).map(millis),
        "gap_p99_ms": snapshot.gaps.quantile(0.99).map(millis),
        "first_event_p50_ms": snapshot.first_events.quantile(0.5).map(millis),
        "first_event_p99_ms": snapshot.first_events.quantile(0.99).map(millis),
    })
}

fn budgets(budgets: &Budgets) -> Value {
    let status = budgets.status().map(|(resource, status)| {
        let Usage { used, budget, .. } = status.used;
        let level = status.level.as_str();
        (
            resource.as_str().to_owned(),
            json!({ "used": used, "budget": budget, "level": level }),
        )
    });
    status.collect::<serde_json::Map<_, _>>().into()
}

fn top_clients(streams: &[Stream], ipv6_prefix: u8) -> Vec<Value> {
    let mut counts = HashMap::<_, usize>::new();
    // By what the limits count.
    for client in streams.iter().filter_map(Stream::client) {
        *counts
            .entry(client.clone().network(ipv6_prefix))
            .or_default() += 1;
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    let by_count = |a: &(_, usize), b: &(_, usize)| b.1.cmp(&a.1);
    if counts.len() > MAX_TOP_CLIENTS {
        counts.select_nth_unstable_by(MAX_TOP_CLIENTS - 1, by_count);
        counts.truncate(MAX_TOP_CLIENTS);
    }
    counts.sort_by(by_count);
    let row = |(client, streams)| json!({ "client": ClientKey::network_text(&client, ipv6_prefix), "streams": streams });
    counts.into_iter().map(row).collect()
}

/// Responses that looked like streams and were not guarded, the latest first.
fn unguarded<'a>(views: impl Iterator<Item = RouteView<'a>>) -> Vec<Value> {
    let mut all: Vec<_> = views
        .flat_map(|view| {
            let seen = view.metrics.unguarded();
            seen.into_iter().map(move |seen| (view.path, seen))
        })
        .collect();
    all.sort_by_key(|(_, seen)| std::cmp::Reverse(seen.at));
    let row = |(route, seen): (&str, UnguardedResponses)| {
        let mut row = json!(Heads::of(&seen.details));
        row["route"] = route.into();
        row["reason"] = seen.reason.as_str().into();
        row["remedy"] = seen.reason.remedy().into();
        row["count"] = seen.count.into();
        row["last_ms"] = since_1970_of(seen.at).into();
        row
    };
    all.into_iter().map(row).collect()
}

pub(super) fn of(admin: &super::Admin) -> Value {
    let streams = admin.streams().streams();
    let active = admin.state.active();
    let readiness = readiness(admin);
    let upstreams = active.router.endpoints().upstreams().map(|upstream| {
        let state = upstream.state();
        json!({
            "url": upstream.url().to_string(),
            "reachable": state.is_reachable,
            "since_s": state.since.elapsed().as_secs(),
            "answered": state.answered,
            "failed": state.failed,
            "last_failure": state.last_failure,
        })
    });
    let routes = active.router.views();
    let routes = routes.map(|view| {
        json!({
            "path": view.path,
            "upstream": view.upstream.to_string(),
            "numbers": numbers(&view.metrics.snapshot()),
        })
    });
    let carryover = &admin.state.carryover;
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_s": admin.started.elapsed().as_secs(),
        "ready": readiness.is_ready,
        "ready_when": readiness.when,
        "phase": admin.state.carryover.phases().now().as_str(),
        "parts": readiness.parts,
        "health": admin.state.health.reports(&carryover.budgets),
        "budgets": budgets(&carryover.budgets),
        "streams": numbers(&carryover.snapshot()),
        "second": admin.history.last(),
        "routes": routes.collect::<Vec<_>>(),
        "upstreams": upstreams.collect::<Vec<_>>(),
        "unguarded": unguarded(active.router.views()),
        "top_clients": top_clients(&streams, active.config().limit.ipv6_prefix),
    })
}

pub(super) async fn summary(State(admin): State<SharedAdmin>) -> Json<Value> {
    Json(of(&admin))
}
