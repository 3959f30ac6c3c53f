//! `/api/config` and `/api/reload`: the effective config, its sources, and a reload.

use super::super::config::Entry;
use super::super::control::Command;
use super::SharedAdmin;
use super::error::ApiError;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::{Value, json};
use tokio::sync::oneshot;

fn entry(entry: &Entry) -> Value {
    json!({
        "key": entry.key,
        "value": entry.value.as_deref().unwrap_or("(hidden)"),
        "from": entry.from,
    })
}

pub(super) async fn config(State(admin): State<SharedAdmin>) -> Json<Value> {
    let active = admin.state.active();
    let entries = active.loaded.entries();
    let listeners = active.loaded.listener_entries();
    let listeners = listeners.iter().map(|own| own.iter().map(entry).collect());
    let routes = active.loaded.route_entries();
    let routes = routes.iter().map(
        |(path, own)| json!({ "path": path, "config": own.iter().map(entry).collect::<Vec<_>>() }),
    );
    Json(json!({
        "config": entries.iter().map(entry).collect::<Vec<_>>(),
        "listeners": listeners.collect::<Vec<Vec<Value>>>(),
        "routes": routes.collect::<Vec<_>>(),
        "warnings": active.config().warnings,
    }))
}

pub(super) async fn reload(State(admin): State<SharedAdmin>) -> Result<Json<Value>, ApiError> {
    let stopping = || ApiError::new(StatusCode::CONFLICT, "the proxy is stopping");
    let (sender, result) = oneshot::channel();
    let command = Command::Reload(Some(sender));
    let sent = admin.commands.send(command).await;
    sent.map_err(|_| stopping())?;
    match result.await.map_err(|_| stopping())? {
        Ok((changed, waiting)) => Ok(Json(json!({
            "changed": changed,
            "requires_restart": waiting,
        }))),
        Err(error) => Err(ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, error)),
    }
}
