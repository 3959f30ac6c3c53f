//! `/api/config`: what holds, and where it was set.

use super::super::config::Entry;
use super::Shared;
use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

fn entry(entry: &Entry) -> Value {
    json!({
        "key": entry.key,
        "value": entry.value.as_deref().unwrap_or("(hidden)"),
        "from": entry.from,
    })
}

pub(super) async fn config(State(admin): State<Shared>) -> Json<Value> {
    let entries = admin.loaded.entries();
    let routes = admin.loaded.route_entries();
    let routes = routes.iter().map(
        |(path, own)| json!({ "path": path, "config": own.iter().map(entry).collect::<Vec<_>>() }),
    );
    Json(json!({
        "config": entries.iter().map(entry).collect::<Vec<_>>(),
        "routes": routes.collect::<Vec<_>>(),
        "warnings": admin.loaded.config.warnings,
    }))
}
