//! `/api/send`: sends an event into selected streams.

use super::error::ApiError;
use super::filter::{StreamIdentity, is};
use super::{LoggedAction, SharedAdmin};
use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use serde::Deserialize;
use serde_json::{Value, json};
use sse_guard::Event;
use sse_guard::Stream;
use sse_guard::inject::SendError;
use std::collections::HashSet;
use std::time::Duration;

/// The upper limit of a `retry:`, because a client keeps it for the rest of its life.
const LONGEST_RETRY_MS: u64 = 24 * 60 * 60 * 1000;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SendRequest {
    to: SendTarget,
    event: Option<String>,
    /// A text, or any other JSON, which is written as such.
    data: Value,
    retry_ms: Option<u64>,
}

/// Streams for which all of this is true.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct SendTarget {
    /// Must be set explicitly to reach all streams.
    all: bool,
    ids: Option<HashSet<u64>>,
    client: Option<String>,
    route: Option<String>,
    user: Option<String>,
}

impl SendTarget {
    fn names_nobody(&self) -> bool {
        let by_name = [&self.client, &self.route, &self.user];
        !self.all && self.ids.is_none() && by_name.into_iter().all(Option::is_none)
    }

    fn takes(&self, stream: &Stream) -> bool {
        let identity = StreamIdentity::from(stream);
        self.ids
            .as_ref()
            .is_none_or(|ids| ids.contains(&identity.id))
            && is(&self.route, identity.route)
            && is(&self.user, identity.user)
            && identity.client_is(&self.client)
    }
}

impl SendRequest {
    fn event(&self) -> Result<Event, ApiError> {
        let json;
        let data = match &self.data {
            Value::String(text) => text,
            other => {
                json = other.to_string();
                &json
            }
        };
        let event = Event::new(self.event.as_deref(), data);
        let event = event.map_err(|error| ApiError::bad(error.to_string()))?;
        Ok(match self.retry_ms {
            Some(retry) => event.with_retry(Duration::from_millis(retry.min(LONGEST_RETRY_MS))),
            None => event,
        })
    }
}

pub(super) async fn send(
    State(admin): State<SharedAdmin>,
    order: Result<Json<SendRequest>, JsonRejection>,
) -> Result<Json<Value>, ApiError> {
    let Json(order) = order.map_err(|error| ApiError::new(error.status(), error.body_text()))?;
    if order.to.names_nobody() {
        return Err(ApiError::bad(
            "`to` selects no streams: set ids, client, route or user, or all = true",
        ));
    }
    let event = order.event()?;
    let streams = admin.streams().streams();
    let (mut sent, mut full, mut deaf) = (0, 0, 0);
    for stream in streams.iter().filter(|stream| order.to.takes(stream)) {
        match stream.send(&event) {
            Ok(()) => sent += 1,
            Err(SendError::Full) => full += 1,
            // Answers of models, whose clients do not expect foreign events.
            Err(SendError::NotInjectable) => deaf += 1,
            // It has ended.
            Err(_) => {}
        }
    }
    admin.log_limits.of(LoggedAction::Send).write(
        || {
            tracing::info!(
                sent,
                full,
                deaf,
                event = order.event,
                "the admin API sends an event"
            );
        },
        |not_logged| tracing::info!(not_logged, "more events were sent than were logged"),
    );
    Ok(Json(
        json!({ "sent": sent, "full": full, "not_injectable": deaf }),
    ))
}
